"""TernaryMLP: it learns digits and a regression, in ternary; losses, files, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyhybrid
from pyhybrid import TernaryMLP

Arrays = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def context() -> pyhybrid.Context:
    """One thread: these networks are small."""
    return pyhybrid.Context(threads=1)


def _rows(n: int = 12, features: int = 7, outputs: int = 3, seed: int = 0) -> Arrays:
    generator = np.random.default_rng(seed)
    return (
        generator.normal(size=(n, features)).astype(np.float32),
        generator.normal(size=(n, outputs)).astype(np.float32),
    )


def _linear_problem(seed: int, n: int = 3000, features: int = 64) -> tuple[Arrays, Arrays]:
    """Training and held-out rows of a linear target with noise of variance 1."""
    generator = np.random.default_rng(seed)
    weights = generator.normal(size=features)
    x = generator.normal(size=(n + 1000, features)).astype(np.float32)
    y = (x @ weights + generator.normal(size=n + 1000)).astype(np.float32)
    return (x[:n], y[:n]), (x[n:], y[n:])


# ---- learning ----


@pytest.mark.parametrize(("optimizer", "least"), [("hybrid", 96.0), ("adamw", 95.0)])
def test_fit_learns_digits_in_ternary(optimizer: Any, least: float, context: pyhybrid.Context) -> None:
    """Held-out accuracy on scikit-learn's digits, mean of three seeds."""
    data = pytest.importorskip("sklearn.datasets").load_digits()
    x, y = (data.data / 16).astype(np.float32), data.target
    scores = []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(x))
        train, test = order[:1437], order[1437:]
        mlp = TernaryMLP([64, 128, 10], loss="cross_entropy", seed=seed, context=context)
        result = mlp.fit(x[train], y[train], epochs=20, optimizer=optimizer, seed=seed)
        assert result.losses[-20:].mean() < 0.1 * result.losses[0]
        assert np.unique(mlp.effective("layer.0.weight")).size == 3
        scores.append(100 * float((mlp.predict(x[test]).argmax(axis=1) == y[test]).mean()))
    assert np.mean(scores) >= least


def test_fit_learns_a_regression_in_ternary(context: pyhybrid.Context) -> None:
    """One ternary layer explains most of a linear target, two explain nearly all but the noise."""
    train, (x, y) = _linear_problem(0)
    zero = float((y**2).mean())
    losses = {}
    for sizes in ([64, 1], [64, 64, 1]):
        mlp = TernaryMLP(sizes, context=context)
        mlp.fit(*train, epochs=12)
        losses[len(sizes)] = mlp.evaluate(x, y)
    assert losses[2] < 0.35 * zero  # the best ternary fit has 0.2 to 0.25
    assert losses[3] < 0.06 * zero  # the noise alone is 0.02


def test_fit_reconstructs_without_targets(context: pyhybrid.Context) -> None:
    """With y None the target is x: an autoencoder through 12 layers learns rows of rank 4."""
    generator = np.random.default_rng(0)
    x = (generator.normal(size=(600, 4)) @ generator.normal(size=(4, 24))).astype(np.float32)
    mlp = TernaryMLP([24] + [24] * 11 + [24], context=context)
    result = mlp.fit(x, epochs=15, validation=(x, None))
    assert result.validation_losses.shape == (15,)
    assert result.validation_losses[-1] < 0.3 * float((x**2).mean())


def test_fit_is_reproducible(context: pyhybrid.Context) -> None:
    """The same seed gives the same bits, another number of threads too; another seed does not."""
    x, y = _rows(200)
    outputs = []
    for seed, threads in ((1, 1), (1, 3), (2, 1)):
        mlp = TernaryMLP([7, 20, 3], seed=4, context=pyhybrid.Context(threads=threads))
        mlp.fit(x, y, steps=30, batch_size=32, seed=seed)
        outputs.append(mlp.predict(x))
    assert np.array_equal(outputs[0], outputs[1])
    assert not np.array_equal(outputs[0], outputs[2])


def test_fit_starts_the_optimiser_anew(context: pyhybrid.Context) -> None:
    """A second fit from the same weights gives what the first one gave."""
    x, y = _rows(64)
    mlp = TernaryMLP([7, 20, 3], context=context)
    start = {name: p.values.copy() for name, p in mlp.parameters().items()}
    found = []
    for _ in range(2):
        for name, parameter in mlp.parameters().items():
            parameter.values[:] = start[name]
        mlp.touch()
        found.append(mlp.fit(x, y, steps=12, batch_size=16).losses)
    assert np.array_equal(*found)


def test_fit_reports_progress(context: pyhybrid.Context) -> None:
    """Progress comes with every update, and steps count instead of epochs."""
    x, y = _rows(10)
    seen: list[tuple[int, int, float]] = []
    mlp = TernaryMLP([7, 3], context=context)
    result = mlp.fit(x, y, steps=5, batch_size=4, progress=lambda *values: seen.append(values))
    assert [s[:2] for s in seen] == [(i, 5) for i in range(1, 6)]
    assert [s[2] for s in seen] == result.losses.tolist()


# ---- losses ----


def test_gradients_with_equals_the_built_in_losses(context: pyhybrid.Context) -> None:
    """A loss function in NumPy gives the loss and the gradients of the same loss in C."""
    x, y = _rows()
    classes = np.arange(12) % 3

    def mse(outputs: np.ndarray) -> tuple[float, np.ndarray]:
        difference = outputs.astype(np.float64) - y
        return float((difference**2).mean()), 2 * difference / difference.size

    def entropy(outputs: np.ndarray) -> tuple[float, np.ndarray]:
        z = outputs.astype(np.float64)
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        one_hot = np.eye(3)[classes]
        return float(-(one_hot * np.log(p)).sum(axis=1).mean()), (p - one_hot) / len(p)

    cases: list[Any] = [("mse", y, mse), ("cross_entropy", classes, entropy)]
    for name, target, function in cases:
        mlp = TernaryMLP([7, 16, 3], loss=name, context=context)
        mlp.prepare(12)
        built_in = mlp.gradients(x, target)
        expected = {k: p.gradient.copy() for k, p in mlp.parameters().items()}
        own = mlp.gradients_with(x, function)
        assert own.loss == pytest.approx(built_in.loss, rel=1e-6)
        assert mlp.evaluate(x, target) == pytest.approx(built_in.loss, rel=1e-6)
        for key, parameter in mlp.parameters().items():
            np.testing.assert_allclose(parameter.gradient, expected[key], rtol=1e-4, atol=1e-6)


def test_soft_targets_of_one_class_are_that_class(context: pyhybrid.Context) -> None:
    """Cross-entropy takes probabilities too."""
    x, _ = _rows()
    classes = np.arange(12) % 3
    mlp = TernaryMLP([7, 3], loss="cross_entropy", context=context)
    mlp.prepare(12)
    soft = mlp.gradients(x, np.eye(3, dtype=np.float32)[classes])
    hard = mlp.gradients(x, classes)
    assert soft.loss == pytest.approx(hard.loss, rel=1e-6)
    assert soft.gradient_norm == pytest.approx(hard.gradient_norm, rel=1e-5)


def test_gradients_with_passes_exceptions_on(context: pyhybrid.Context) -> None:
    """What the loss function raises reaches the caller; a misshapen or NaN gradient is refused."""
    x, _ = _rows()
    mlp = TernaryMLP([7, 3], context=context)
    mlp.prepare(12)

    def raises(_: np.ndarray) -> tuple[float, np.ndarray]:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        mlp.gradients_with(x, raises)
    with pytest.raises(pyhybrid.InvalidArgumentError, match="the loss's gradient"):
        mlp.gradients_with(x, lambda _: (0.0, np.zeros(3)))
    with pytest.raises(pyhybrid.NotFiniteError, match="row 0, column 0 is NaN"):
        mlp.gradients_with(x, lambda z: (0.0, z * np.nan))
    with pytest.raises(pyhybrid.StateError, match="context is in the middle of a call"):
        mlp.gradients_with(x, lambda z: (float(mlp.predict(x).sum()), z))
    with pytest.raises(pyhybrid.StateError, match="gradients"):  # none of these left any
        mlp.apply(learning_rate=0.1, step=1)


# ---- files ----


def test_save_and_load_keep_every_bit(tmp_path: Path, context: pyhybrid.Context) -> None:
    """A loaded network predicts the same bits; ternary matrices take 1.6 bits a weight and little besides."""
    x, y = _rows(200, features=256)
    mlp = TernaryMLP([256, 512, 512, 3], norm="hidden", context=context)
    mlp.fit(x, y, steps=5)
    mlp.save(tmp_path / "net.hyb", {"classes": ["a", "b", "c"]})
    loaded = TernaryMLP.load(tmp_path / "net.hyb", context=context)
    assert np.array_equal(loaded.predict(x), mlp.predict(x))
    assert loaded.metadata == {"classes": ["a", "b", "c"]}
    assert (loaded.sizes, loaded.loss, loaded.bits) == (mlp.sizes, "mse", 1.58)
    assert not loaded.trainable
    weights = 256 * 512 + 512 * 512 + 512 * 3
    assert (tmp_path / "net.hyb").stat().st_size * 8 < 1.6 * weights + 8 * (4 * 2400 + 2000)
    with pytest.raises(pyhybrid.StateError, match="master weights"):
        loaded.fit(x, y, steps=1)
    with pytest.raises(pyhybrid.FileFormatError, match="perceptron"):
        pyhybrid.LanguageModel.load(tmp_path / "net.hyb", context=context)
    data = bytearray((tmp_path / "net.hyb").read_bytes())
    assert np.array_equal(TernaryMLP.load(bytes(data)).predict(x), mlp.predict(x))
    data[300] ^= 1
    with pytest.raises(pyhybrid.ChecksumError):
        TernaryMLP.load(bytes(data))


# ---- what is refused ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sizes": [5]}, "sizes has 1 numbers"),
        ({"sizes": [5] * 34}, "sizes has 34 numbers"),
        ({"sizes": [5, 0, 3]}, r"sizes\[1\] is 0"),
        ({"sizes": [5, 2.5]}, "sizes has dtype float64"),
        ({"sizes": "53"}, "sizes"),
        ({"sizes": [5, 3], "loss": "hinge"}, "loss is 'hinge'"),
        ({"sizes": [5, 3], "activation": "tanh"}, "activation"),
        ({"sizes": [5, 3], "norm": "batch"}, "norm"),
        ({"sizes": [5, 3], "bits": 3}, "bits is 3"),
        ({"sizes": [5, 3], "first_bits": 0}, "bits is 0"),
        ({"sizes": [5, 3], "seed": -1}, "seed is -1"),
    ],
)
def test_bad_shapes_and_options_are_named(arguments: dict[str, Any], message: str) -> None:
    """Each message names the argument and its value."""
    with pytest.raises(pyhybrid.InvalidArgumentError, match=message):
        TernaryMLP(**arguments)


def test_bad_arrays_are_named(context: pyhybrid.Context) -> None:
    """NaN, wrong shapes and dtypes, and empty arrays are refused by name."""
    x, y = _rows()
    mlp = TernaryMLP([7, 3], context=context)
    classifier = TernaryMLP([7, 3], loss="cross_entropy", context=context)
    refused = pyhybrid.InvalidArgumentError
    with pytest.raises(pyhybrid.StateError, match="prepare"):
        mlp.gradients(x, y)
    mlp.prepare(8)
    classifier.prepare(12)
    with pytest.raises(refused, match="12 rows, prepared for 1 to 8"):
        mlp.gradients(x, y)
    with pytest.raises(refused, match=r"x has shape \[12, 6\]"):
        mlp.fit(x[:, :6], y)
    with pytest.raises(refused, match="y has shape"):
        mlp.fit(x, y[:, :2])
    with pytest.raises(refused, match="y has shape"):
        mlp.fit(x, y[:5])
    with pytest.raises(refused, match="x has 1 dimensions"):
        mlp.predict(x[0])
    with pytest.raises(refused, match="dtype complex128"):
        mlp.predict(x.astype(complex))
    with pytest.raises(refused, match="no rows"):
        mlp.fit(x[:0], y[:0])
    with pytest.raises(refused, match="no rows"):
        mlp.evaluate(x[:0], y[:0])
    with pytest.raises(refused, match="reconstruction"):
        mlp.fit(x)
    with pytest.raises(refused, match="row 1 is of class 3"):
        classifier.gradients(x, np.array([0, 3] * 6))
    with pytest.raises(refused, match="y holds -1"):
        classifier.gradients(x, np.array([0, -1] * 6))
    with pytest.raises(refused, match="0 or more"):
        classifier.gradients(x, y)
    with pytest.raises(refused, match=r"training\.learning_rate"):
        mlp.fit(x, y, learning_rate=-1)
    assert mlp.predict(x[:0]).shape == (0, 3)
    x[4, 2] = np.nan
    with pytest.raises(pyhybrid.NotFiniteError, match="row 4, column 2 is NaN"):
        mlp.predict(x)
    with pytest.raises(pyhybrid.NotFiniteError, match=r"step 1: .*NaN"):
        mlp.fit(x, y, batch_size=12)
    with pytest.raises(pyhybrid.NotFiniteError, match="infinite"):
        mlp.predict(np.full((1, 7), 1e300))
