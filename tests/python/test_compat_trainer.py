"""The documents' trainer: it learns, quantised; its steps, summaries, log, checkpoints and errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyhybrid
from pyhybrid import HybridLLMTrainer, InvalidArgumentError, NotFiniteError, StateError, TrainingConfig
from pyhybrid._errors import HybridError
from pyhybrid.checkpoint import CheckpointError
from pyhybrid.compat._losses import with_derivative

Array = np.ndarray[Any, Any]


def regression(n: int = 400, features: int = 16, seed: int = 0) -> tuple[Array, Array]:
    """A linear target with noise."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((n, features))
    return x, x @ random.standard_normal(features) + 0.1 * random.standard_normal(n)


def trainer(**fields: Any) -> HybridLLMTrainer:
    return HybridLLMTrainer(TrainingConfig(**{"max_steps": 60, **fields}), verbose=False)


def squared(predictions: Array, targets: Array) -> float:
    return float(np.mean((predictions - targets) ** 2))


def test_it_learns_quantised() -> None:
    """On the problem whose trainer elsewhere never left predict-zero, ternary weights end far below a linear
    ternary fit and below a hundredth of predict-zero."""
    x, y = regression(1000, 64)
    made = trainer(max_steps=600)
    made.train(x, y)
    assert isinstance(made.network, pyhybrid.TernaryMLP)
    assert made.network.bits == 1.58
    error = squared(made.network.predict(x)[:, 0], y)
    assert error < 0.01 * squared(np.zeros_like(y), y)
    codes = np.sign(x.T @ y) * (np.abs(x.T @ y) > 0.5 * np.abs(x.T @ y).mean())
    fit = x @ codes
    linear = squared(fit * (fit @ y) / (fit @ fit), y)
    assert error < 0.5 * linear


def test_documents_forms_of_the_constructor() -> None:
    """The configuration may come first; sizes may be given; two configurations may not."""
    config = TrainingConfig(max_steps=1)
    assert HybridLLMTrainer(config).config is config
    made = HybridLLMTrainer(model_dim=24, num_layers=3, config=config, verbose=False)
    made.train(np.ones((4, 6)))
    assert made.network is not None
    assert made.network.sizes == (6, 24, 24, 6)  # type: ignore[union-attr]
    with pytest.raises(pyhybrid.ConfigError, match="one too"):
        HybridLLMTrainer(config, config=config)
    with pytest.raises(pyhybrid.ConfigError, match="for language models"):
        HybridLLMTrainer(pyhybrid.config.TrainingConfig())  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="num_layers"):
        HybridLLMTrainer(8, 0)


@pytest.mark.parametrize(
    "fields",
    [
        {"use_quantization": False},
        {"quantize_gradients": False},
        {"use_trust_region": False, "learning_rate": 0.01, "max_steps": 300},
        {"use_auxiliary_nn": False},
        {"use_clustering": False},
        {"target_bits": 2},
    ],
)
def test_every_switch_trains_differently(fields: dict[str, Any]) -> None:
    """Each switch has an effect, and the loss falls with it too."""
    x, y = regression()
    ends = []
    for changes in ({}, fields):
        made = trainer(**{"max_steps": 120, "learning_rate": 0.0006, **changes})
        losses = made.train(x, y).metrics_history["loss"]
        assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])
        ends.append(made.parameters)
    assert not np.array_equal(*ends)


def test_reconstruction_classes_and_epochs() -> None:
    """Without targets rows are reconstructed; whole numbers are classes; the shorter of steps and epochs
    ends a run; a second run goes on."""
    x, y = regression(50)
    made = trainer(max_epochs=3, max_steps=None, batch_size=20)
    assert made.train(x).step == 9
    assert made.network.sizes[-1] == 16  # type: ignore[union-attr]
    assert made.train(x).step == 18
    classes = trainer(max_epochs=100, max_steps=7)
    assert classes.train(x, (y > 0).astype(int)).step == 7
    assert classes.network.loss == "cross_entropy"  # type: ignore[union-attr]


def test_tokens_train_a_language_model() -> None:
    """Whole numbers without targets are tokens of a language model that learns to predict them."""
    made = HybridLLMTrainer(32, 1, TrainingConfig(max_steps=30, eval_interval=30), verbose=False)
    made.train(np.tile(np.arange(50, dtype=np.uint8), 40))
    assert isinstance(made.network, pyhybrid.LanguageModel)
    losses = made.metrics.metrics_history["loss"]
    assert len(losses) == 30
    assert losses[-1] < losses[0] - 0.5
    with pytest.raises(StateError, match=r"network\.save"):
        made.save_checkpoint("x")
    with pytest.raises(InvalidArgumentError, match="loss_fn"):
        made.train(np.arange(100), loss_fn=squared)
    with pytest.raises(InvalidArgumentError, match="token -1"):
        trainer().train(np.arange(-1, 100))


def test_gradients_belong_to_the_loss_that_is_passed() -> None:
    """A loss function with a derivative, one without, and the built-in one agree on squared errors, and not
    with another loss."""
    x, y = regression(20)
    made = trainer()
    own, loss = made.compute_batch_gradients(x, y)
    plain, same_loss = made.compute_batch_gradients(x, y, squared)
    both, _ = made.compute_batch_gradients(x, y, lambda p, t: (squared(p, t), 2 * (p - t) / p.size))
    other, _ = made.compute_batch_gradients(x, y, lambda p, t: float(np.abs(p - t).mean()))
    assert loss == pytest.approx(same_loss, rel=1e-5)
    assert np.allclose(own, plain, rtol=2e-2, atol=1e-4 * np.abs(own).max())
    assert np.allclose(own, both, rtol=2e-2, atol=1e-4 * np.abs(own).max())
    assert not np.allclose(own, other, rtol=0.1, atol=0.1 * np.abs(own).max())
    assert own.shape == made.parameters.shape


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda _, __: "x", "return a number"),
        (lambda _, __: (1.0, np.zeros(3)), "derivative of shape"),
        (lambda _, __: float("nan"), "gave nan"),
    ],
)
def test_bad_losses(loss: Any, message: str) -> None:
    """A loss that is none is refused, and nothing is updated."""
    x, y = regression(20)
    made = trainer()
    before = made.compute_batch_gradients(x, y)
    weights = made.parameters
    with pytest.raises(HybridError, match=message):
        made.train_step(x, y, loss)
    assert np.array_equal(weights, made.parameters)
    assert before[0].shape == weights.shape


def test_differences_have_a_limit() -> None:
    """A loss without a derivative over too many predictions says what to return instead."""
    many = np.zeros((100, 50), np.float32)
    with pytest.raises(InvalidArgumentError, match="return \\(loss"):
        with_derivative(squared, many)(many)


def test_steps_states_and_summary() -> None:
    """The steps that `train` is made of, and the documented keys of the summary before and behind them."""
    x, y = regression()
    made = trainer(eval_interval=5)
    assert made.get_training_summary()["optimizer_summary"] == {"steps": 0}
    assert made.get_training_summary()["final_loss"] is None
    with pytest.raises(StateError, match="no network yet"):
        _ = made.parameters
    prepared = made.prepare_training_data(x)
    assert set(prepared) == {"clusters", "cluster_infos", "strategy"}
    assert sum(len(rows) for rows in prepared["clusters"]) == len(x)
    gradients, loss = made.compute_batch_gradients(x[:32], y[:32])
    state = made.create_training_state(loss, gradients, cluster_id=2)
    assert state.gradient_magnitude == pytest.approx(np.linalg.norm(gradients))
    assert (state.step_number, state.loss_trend) == (0, 1.0)
    metrics = made.train_step(x[:32], y[:32], cluster_id=2)
    assert (metrics.step, metrics.loss) == (1, pytest.approx(loss))
    assert metrics.update_magnitude > 0
    seen = []
    made.train(x, y, eval_fn=lambda parameters: float(seen.append(parameters.size) or 1.0))  # type: ignore[func-returns-value]
    assert seen == [made.parameters.size] * 12
    summary = made.get_training_summary()
    assert summary["total_steps"] == 61
    assert summary["total_loss_reduction"] == pytest.approx(summary["initial_loss"] - summary["final_loss"])
    assert set(summary["optimizer_summary"]) == {
        "total_steps",
        "constraints_active",
        "constraint_activation_rate",
        "mean_update_magnitude",
        "std_update_magnitude",
        "mean_quantization_error",
        "total_loss_reduction",
        "loss_trend",
    }
    assert summary["optimizer_summary"]["mean_quantization_error"] > 0


def test_convergence_is_noticed() -> None:
    """A loss that rests has converged; one that falls has not."""
    made = trainer(eval_interval=10)
    made.metrics.metrics_history["loss"] = list(np.linspace(2, 1, 20))
    assert not made.has_converged()
    made.metrics.metrics_history["loss"] = [1.0] * 20
    assert made.has_converged()


def test_log_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """The documented lines, with the run's own figures."""
    x, y = regression()
    made = HybridLLMTrainer(16, 2, TrainingConfig(max_steps=20, log_interval=10, eval_interval=10))
    made.train(x, y, eval_fn=lambda _: 0.25)
    out = capsys.readouterr().out
    for line in (
        "Starting hybrid LLM training with 1.58-bit quantization",
        "  Model: 16D x 2 layers",
        "  Data clusters: 8",
        "  Max steps: 20",
        "  -> Evaluation loss: 0.250000",
        f"Training complete. Final loss: {made.metrics.loss:.6f}",
        "Total time: ",
        "HYBRID OPTIMIZATION SUMMARY",
    ):
        assert line in out
    assert out.count("\nStep ") == 3
    assert "Step 20/20 | Loss: " in out


def test_checkpoint_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """Under the very name that was given; the next step is the one that would have followed."""
    x, y = regression()
    one = trainer()
    one.train(x, y)
    path = one.save_checkpoint(tmp_path / "ck")
    assert path.name == "ck"
    other = trainer()
    other.load_checkpoint(tmp_path / "ck")
    assert other.get_training_summary()["final_loss"] == one.get_training_summary()["final_loss"]
    for made in (one, other):
        for step in range(3):
            made.train_step(x[step : step + 32], y[step : step + 32], cluster_id=1)
    assert np.array_equal(one.parameters, other.parameters)
    assert one.metrics.metrics_history == other.metrics.metrics_history
    folder = trainer(checkpoint_dir=str(tmp_path / "folder"))
    folder.train(x, y)
    assert folder.save_checkpoint().parent == tmp_path / "folder"
    folder.load_checkpoint()


def test_bad_checkpoints(tmp_path: Path) -> None:
    """Nothing to save, missing, damaged, of something else."""
    x, y = regression()
    with pytest.raises(StateError, match="train it first"):
        trainer().save_checkpoint(tmp_path / "a")
    with pytest.raises(FileNotFoundError):
        trainer().load_checkpoint(tmp_path / "missing")
    made = trainer(max_steps=2)
    made.train(x, y)
    data = made.save_checkpoint(tmp_path / "a").read_bytes()
    for damaged in (data[: len(data) // 2], b"", b"x" * 100):
        (tmp_path / "b").write_bytes(damaged)
        with pytest.raises(CheckpointError):
            trainer().load_checkpoint(tmp_path / "b")
    with pytest.raises(InvalidArgumentError, match="another network"):
        trainer(use_trust_region=False).load_checkpoint(tmp_path / "a")


@pytest.mark.parametrize(
    ("data", "targets", "message"),
    [
        (np.zeros((0, 4)), None, "empty"),
        (np.zeros(4), None, "give \\[rows, features\\]"),
        (np.array([[np.nan, 1.0]]), None, "NaN"),
        (np.ones((3, 2)), np.ones(4), "3 rows of training data and 4 targets"),
        (np.ones((3, 2)), np.array([1.0, np.inf, 0.0]), "training_targets holds"),
        (np.array([["a"]]), None, "dtype"),
    ],
)
def test_bad_data(data: Any, targets: Any, message: str) -> None:
    """Each mistake is named."""
    with pytest.raises((InvalidArgumentError, NotFiniteError), match=message):
        trainer().train(data, targets)


def test_data_that_does_not_fit_the_network() -> None:
    """A trainer's network keeps its shape."""
    made = trainer(max_steps=1)
    made.train(*regression(20, 8))
    with pytest.raises(InvalidArgumentError, match="8 features and 1 outputs; this data has 9 and 1"):
        made.train(*regression(20, 9))
