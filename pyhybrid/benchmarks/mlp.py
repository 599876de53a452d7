"""Perceptrons: accuracy on scikit-learn's digits and the loss of a regression, on held-out rows.

A round is a seed: of the split or the problem, of the initial weights and of the order of rows. Digits: 1437
images to learn from, 360 to test; sizes 64-128-10, 30 epochs. Regression: 64 features, a linear target with
normal weights and noise of variance 1, 3000 rows to learn from, 1000 to test.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyhybrid.benchmarks.registry import Answer, Goal, Options, Row, UnavailableError

__all__ = [
    "BestTernary",
    "Digits",
    "DigitsF32",
    "DigitsSklearn",
    "DigitsTernary",
    "LeastSquares",
    "PredictZero",
    "Regression",
    "RegressionF32",
    "rows",
]

_HERE = "pyhybrid.benchmarks.mlp"


# ---- digits ----


class Digits:
    """TernaryMLP; accuracy in percent.

    Args:
        sizes: of the layers.
        epochs: times that every image is seen.
        optimizer: of `TernaryMLP.fit`.
        first_bits: of the first layer's weights; None: ternary.
        threads: that compute.
    """

    bits = 1.58
    mixes = True  # takes first_bits

    def __init__(
        self, *, sizes: list[int], epochs: int, optimizer: str, first_bits: float | None = None, threads: int
    ) -> None:
        try:
            from sklearn.datasets import load_digits
        except ModuleNotFoundError as error:
            raise UnavailableError("scikit-learn is not installed") from error
        data = load_digits()
        self.x, self.y = (data.data / 16).astype(np.float32), data.target
        self.sizes, self.epochs, self.optimizer, self.threads = sizes, epochs, optimizer, threads
        self.first_bits = first_bits

    def answer(self) -> Answer:
        """The images: every side learns from the same."""
        return {"images": self.x}

    def _predict(self, seed: int, x: NDArray[Any], y: NDArray[Any], test: NDArray[Any]) -> NDArray[Any]:
        from pyhybrid import Context, TernaryMLP

        mlp = TernaryMLP(
            self.sizes,
            loss="cross_entropy",
            bits=self.bits,
            first_bits=self.first_bits if self.mixes else None,
            seed=seed,
            context=Context(threads=self.threads),
        )
        mlp.fit(x, y, epochs=self.epochs, optimizer=self.optimizer, seed=seed)  # type: ignore[arg-type]
        found: NDArray[Any] = mlp.predict(test).argmax(axis=1)
        return found

    def run(self, round_number: int) -> float:
        """Trains with the round as the seed; the held-out accuracy."""
        order = np.random.default_rng(round_number).permutation(len(self.x))
        train, test = order[:1437], order[1437:]
        found = self._predict(round_number, self.x[train], self.y[train], self.x[test])
        return 100 * float((found == self.y[test]).mean())


class DigitsTernary(Digits):
    """The same with every layer ternary."""

    mixes = False


class DigitsF32(DigitsTernary):
    """The fp32 twin."""

    bits = 32


class DigitsSklearn(Digits):
    """scikit-learn's MLPClassifier with the same sizes, epochs and batches, its defaults otherwise."""

    def _predict(self, seed: int, x: NDArray[Any], y: NDArray[Any], test: NDArray[Any]) -> NDArray[Any]:
        import warnings

        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier

        model = MLPClassifier(
            tuple(self.sizes[1:-1]), max_iter=self.epochs, batch_size=64, random_state=seed
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # it is to see as many epochs, no more
            model.fit(x, y)
        found: NDArray[Any] = model.predict(test)
        return found


# ---- regression ----


class Regression:
    """TernaryMLP; mean squared error on held-out rows.

    Args:
        sizes: of the layers.
        epochs: times that every row is seen.
        threads: that compute.
    """

    bits = 1.58

    def __init__(self, *, sizes: list[int], epochs: int, threads: int) -> None:
        self.sizes, self.epochs, self.threads = sizes, epochs, threads

    def answer(self) -> Answer:
        """The first problem's targets: every side learns from the same."""
        return {"targets": self._problem(0)[1]}

    def _problem(self, seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
        generator = np.random.default_rng(seed)
        weights = generator.normal(size=64)
        x = generator.normal(size=(4000, 64))
        return x.astype(np.float32), (x @ weights + generator.normal(size=4000)).astype(np.float32)

    def _predict(self, seed: int, x: NDArray[Any], y: NDArray[Any], test: NDArray[Any]) -> NDArray[Any]:
        from pyhybrid import Context, TernaryMLP

        mlp = TernaryMLP(self.sizes, bits=self.bits, seed=seed, context=Context(threads=self.threads))
        mlp.fit(x, y, epochs=self.epochs, seed=seed)
        return mlp.predict(test)[:, 0]

    def run(self, round_number: int) -> float:
        """Learns with the round as the seed; the mean squared error on 1000 other rows."""
        x, y = self._problem(round_number)
        found = self._predict(round_number, x[:3000], y[:3000], x[3000:])
        return float(((found - y[3000:]) ** 2).mean())


class RegressionF32(Regression):
    """The fp32 twin."""

    bits = 32


class PredictZero(Regression):
    """0 for every row."""

    def _predict(self, seed: int, x: NDArray[Any], y: NDArray[Any], test: NDArray[Any]) -> NDArray[Any]:
        del seed, x, y
        return np.zeros(len(test))


class LeastSquares(Regression):
    """The linear fit in fp64."""

    def _predict(self, seed: int, x: NDArray[Any], y: NDArray[Any], test: NDArray[Any]) -> NDArray[Any]:
        del seed
        solution: NDArray[Any] = np.linalg.lstsq(x.astype(np.float64), y.astype(np.float64))[0]
        found: NDArray[Any] = test @ solution
        return found


class BestTernary(Regression):
    """The best linear fit with codes -1, 0, 1 and one scale that coordinate descent finds, in fp64.

    For given codes c the best scale is (c' b) / (c' A c) with A = X'X and b = X'y, which leaves
    y'y - (c' b)^2 / (c' A c). From the least-squares solution ternarised at every possible threshold, single
    codes are changed while that falls; the best end counts.
    """

    def _predict(self, seed: int, x: NDArray[Any], y: NDArray[Any], test: NDArray[Any]) -> NDArray[Any]:
        del seed
        a = x.astype(np.float64).T @ x
        b = x.astype(np.float64).T @ y
        solution = np.linalg.solve(a, b)
        starts = [np.sign(solution) * (np.abs(solution) >= t) for t in np.abs(solution)]
        codes = max((_descend(a, b, start) for start in starts), key=lambda c: _explained(a, b, c))
        found: NDArray[Any] = test @ codes * (codes @ b / (codes @ a @ codes))
        return found


def _explained(a: NDArray[Any], b: NDArray[Any], codes: NDArray[Any]) -> float:
    """What the codes with their best scale explain of y'y."""
    return float((codes @ b) ** 2 / (codes @ a @ codes))


def _descend(a: NDArray[Any], b: NDArray[Any], codes: NDArray[Any]) -> NDArray[Any]:
    """Changes single codes, the best change of each sweep over all first, until none explains more."""
    while True:
        projected, quadratic, product = a @ codes, codes @ a @ codes, codes @ b
        best, change = _explained(a, b, codes), None
        for value in (-1.0, 0.0, 1.0):
            step = value - codes
            square = quadratic + 2 * step * projected + step**2 * np.diag(a)
            explained = np.where(square > 0, (product + step * b) ** 2 / np.maximum(square, 1e-300), 0.0)
            index = int(explained.argmax())
            if explained[index] > best * (1 + 1e-12):
                best, change = float(explained[index]), (index, value)
        if change is None:
            return codes
        codes = codes.copy()
        codes[change[0]] = change[1]


# ---- rows ----


def _digits(options: Options) -> list[Row]:
    common: dict[str, Any] = {
        "section": "mlp",
        "unit": "% correct",
        "better": "higher",
        "ours": f"{_HERE}:Digits",
        "threads": max(options.threads),
        "rounds": 10,
        "agreement": {"images": 0.0},
        "note": "Held-out accuracy; one round a seed.",
    }
    sizes = {"sizes": [64, 128, 10], "epochs": 30}
    twin, sklearn = "pyhybrid, fp32", "scikit-learn MLPClassifier"
    text = "The ternary perceptron is within 1.5 points of its fp32 twin on digits (mean over the seeds)."
    return [
        Row(
            name="mlp/digits/hybrid",
            peers={twin: f"{_HERE}:DigitsF32", sklearn: f"{_HERE}:DigitsSklearn"},
            sizes=sizes | {"optimizer": "hybrid"},
            goals=(
                Goal(text=text, kind="difference", limit=1.5, peer=twin),
                Goal(
                    text="It is no worse than scikit-learn's MLPClassifier (mean over the seeds).",
                    kind="gain",
                    limit=0.0,
                    peer=sklearn,
                ),
            ),
            **common,
        ),
        Row(
            name="mlp/digits/adamw",
            peers={twin: f"{_HERE}:DigitsF32"},
            sizes=sizes | {"optimizer": "adamw"},
            goals=(Goal(text=text, kind="difference", limit=1.5, peer=twin),),
            **common,
        ),
        Row(
            name="mlp/digits/first-int8",
            peers={"pyhybrid, ternary": f"{_HERE}:DigitsTernary"},
            sizes=sizes | {"optimizer": "hybrid", "first_bits": 8},
            **common,
        ),
    ]


def _regression(options: Options) -> list[Row]:
    zero, least, best, twin = "predict zero", "least squares", "best ternary fit", "pyhybrid, fp32"
    linear = {zero: f"{_HERE}:PredictZero", least: f"{_HERE}:LeastSquares", best: f"{_HERE}:BestTernary"}
    text = "It leaves at most a {} of what predict-zero leaves (median over the seeds)."
    wide = {zero: linear[zero], least: linear[least], twin: f"{_HERE}:RegressionF32"}
    cases: list[tuple[str, list[int], dict[str, str], tuple[Goal, ...]]] = [
        (
            "linear",
            [64, 1],
            linear,
            (Goal(text=text.format("third"), kind="ratio", limit=3.0, peer=zero),),
        ),
        (
            "hidden-64",
            [64, 64, 1],
            wide,
            (Goal(text=text.format("twentieth"), kind="ratio", limit=20.0, peer=zero),),
        ),
    ]
    return [
        Row(
            name=f"mlp/regression/{name}",
            section="mlp",
            unit="mean square",
            better="lower",
            ours=f"{_HERE}:Regression",
            peers=peers,
            sizes={"sizes": sizes, "epochs": 20},
            threads=max(options.threads),
            rounds=10,
            agreement={"targets": 0.0},
            goals=goals,
            note="Mean squared error on held-out rows, of which the noise is 1; one round a seed.",
        )
        for name, sizes, peers, goals in cases
    ]


def rows(options: Options) -> list[Row]:
    """Digits in ternary beside fp32 and scikit-learn; a regression beside linear fits."""
    return _digits(options) + _regression(options)
