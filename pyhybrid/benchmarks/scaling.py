"""Cost as work grows: time of a training step in parameters and in context, of a token in parameters.

Place in the data flow: one row a point, run by measure.py as any other; `fits` puts the rows of a curve
together and fits a power law, for cli.py (JSON and text), plot.py and report.py. Models are a ladder of
widths with all else fixed, so that parameters grow with the square of the width. Operations are counted at
the same points and fitted in the same way: an exponent below theirs means that larger work runs more
efficiently.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyhybrid.benchmarks.adamw import adamw
from pyhybrid.benchmarks.operations import step_operations
from pyhybrid.benchmarks.registry import Answer, Options, Row
from pyhybrid.config import ModelConfig, TrainingConfig

__all__ = [
    "CURVES",
    "Curve",
    "Generate",
    "PowerLaw",
    "Step",
    "TorchGenerate",
    "TorchStep",
    "describe",
    "fit_line",
    "fit_power_law",
    "fits",
    "operations",
    "rows",
]

# The ladder: width, with heads of 64 and a feed-forward network of three widths. Four layers make the
# narrowest model 0.2 million parameters; as many for all, so that only the width grows.
_LAYERS, _HEAD, _VOCABULARY = 4, 64, 256
_WIDTHS = (64, 128, 192, 320, 512, 768)
_WIDEST = 1408  # generation only: 103 million parameters, more than a processor's caches hold
# A step's tokens are the same at every point; the context of the ladder is that of the preset `small`, and
# the width of the context curve is one where attention has a visible share.
_STEP_TOKENS, _LADDER_CONTEXT = 1024, 128
_CONTEXTS, _CONTEXT_WIDTH = (64, 128, 256, 512, 1024), 256
_NEW_TOKENS = 32
_PROMPT = [84]  # of one token: a token's time holds next to nothing of the prompt
# As in training.py and generation.py: two sides differ by rounding, and by activations beyond a rounding tie.
_LOSS_BOUND, _LOGITS_BOUND = 1e-3, 2e-2


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What is measured against what.

    Args:
        title: of the table and the plot.
        x: name of the size that grows.
        x_label: of the plot's axis.
        what: the figure, in words.
        theory: what growth is expected, and why.
    """

    title: str
    x: str
    x_label: str
    what: str
    theory: str


#: By the middle part of a row's name.
CURVES: dict[str, Curve] = {
    "step-by-parameters": Curve(
        title="Training step by parameters",
        x="parameters",
        x_label="parameters",
        what="time of a step",
        theory=(
            f"Steps of {_STEP_TOKENS:,} tokens at context {_LADDER_CONTEXT}. Products with the weights grow "
            "with the parameters, attention and all that is done once an activation only with their square "
            "root (the width)."
        ),
    ),
    "step-by-context": Curve(
        title="Training step by context",
        x="context",
        x_label="context [tokens]",
        what="time of a step",
        theory=(
            f"Steps of {_STEP_TOKENS:,} tokens of a model of width {_CONTEXT_WIDTH}, in fewer and longer "
            "sequences. Products with the weights stay the same; attention grows with the context, so that "
            "the whole is a constant plus a linear part and not a power law."
        ),
    ),
    "token-by-parameters": Curve(
        title="Generation by parameters",
        x="parameters",
        x_label="parameters",
        what="time of a token",
        theory=(
            f"{_NEW_TOKENS} tokens after a prompt of one, one sequence, greedy. Every token reads every "
            "weight once: time grows with the parameters, with a step where the packed weights (2 bits each) "
            "no longer fit into a cache."
        ),
    ),
}


# ---- sides ----


def _config(dim: int, context: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=_VOCABULARY,
        dim=dim,
        n_layers=_LAYERS,
        n_heads=dim // _HEAD,
        ffn_dim=3 * dim,
        max_context=context,
    )


def _parameters(dim: int) -> int:
    from pyhybrid.language_model import LanguageModel

    return LanguageModel.count_of(_config(dim, _LADDER_CONTEXT)).total


def _batch(batch_size: int, context: int, number: int) -> NDArray[np.uint32]:
    """Random tokens: speed does not depend on them."""
    random = np.random.default_rng((11, number))
    return random.integers(0, _VOCABULARY, (batch_size, context + 1)).astype(np.uint32)


class _Repeated:
    """A side that repeats `_once` until a measurement is full; the first call of all warms up."""

    seconds = 0.0
    warm = False

    def _once(self) -> None:
        raise NotImplementedError

    def _milliseconds(self, per_call: int) -> float:
        """Mean time of one of the `per_call` things that a call does."""
        if not self.warm:
            self._once()
            self.warm = True
        calls, start = 0, time.perf_counter()
        while (seconds := time.perf_counter() - start) < self.seconds or not calls:
            self._once()
            calls += 1
        return 1e3 * seconds / (calls * per_call)


class Step(_Repeated):
    """Whole optimiser steps of pyhybrid.LanguageModel."""

    def __init__(
        self, *, parameters: int, dim: int, context: int, batch_size: int, seconds: float, threads: int
    ) -> None:
        from pyhybrid._context import Context
        from pyhybrid.language_model import LanguageModel

        config = _config(dim, context)
        self.adamw = adamw(TrainingConfig(), config)
        self.model = LanguageModel(config, seed=1, context=Context(threads=threads))
        _check(self.model.count().total, parameters)
        self.model.prepare(batch_size, context)
        self.shape, self.seconds, self.done = (batch_size, context), seconds, 0

    def answer(self) -> Answer:
        """Loss of the first batch."""
        return {"loss": np.array(self.model.gradients(_batch(*self.shape, 0)).loss)}

    def _once(self) -> None:
        self.model.gradients(_batch(*self.shape, self.done))
        self.done += 1
        self.adamw.apply(self.model, self.adamw.learning_rate / 10, self.done)

    def run(self, _: int) -> float:
        """Milliseconds a step."""
        return self._milliseconds(1)


class TorchStep(_Repeated):
    """The same with torch_model.Decoder, from the same weights, in eager mode."""

    def __init__(
        self, *, parameters: int, dim: int, context: int, batch_size: int, seconds: float, threads: int
    ) -> None:
        import torch

        from pyhybrid.benchmarks.torch_model import Decoder, make_optimizer
        from pyhybrid.benchmarks.training import initial_weights

        torch.set_num_threads(threads)
        config = _config(dim, context)
        self.adamw = adamw(TrainingConfig(), config)
        self.model = Decoder(config)
        self.model.load(initial_weights(config, 1))
        _check(sum(parameter.numel() for parameter in self.model.parameters()), parameters)
        self.optimizer = make_optimizer(self.model, self.adamw)
        self.shape, self.seconds, self.done = (batch_size, context), seconds, 0

    def _windows(self) -> Any:
        import torch

        return torch.from_numpy(_batch(*self.shape, self.done).astype(np.int64))

    def answer(self) -> Answer:
        """Loss of the first batch."""
        return {"loss": np.array(float(self.model.loss(self._windows()).detach()))}

    def _once(self) -> None:
        from pyhybrid.benchmarks.torch_model import train_step

        t = self.adamw
        train_step(self.model, self.optimizer, self._windows(), t.learning_rate / 10, t.clip_norm)
        self.done += 1

    def run(self, _: int) -> float:
        """Milliseconds a step."""
        return self._milliseconds(1)


class Generate(_Repeated):
    """New tokens of one sequence by pyhybrid.LanguageModel, loaded from a file."""

    def __init__(self, *, parameters: int, dim: int, tokens: int, seconds: float, threads: int) -> None:
        from pathlib import Path
        from tempfile import TemporaryDirectory

        from pyhybrid._context import Context
        from pyhybrid.language_model import LanguageModel

        config, context = _config(dim, tokens + 1), Context(threads=threads)
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model.hyb"
            LanguageModel(config, seed=1, context=context).save(path)
            self.model = LanguageModel.load(path, context=context)
        _check(self.model.count().total, parameters)
        self.tokens, self.seconds = tokens, seconds

    def answer(self) -> Answer:
        """Logits of the prompt."""
        return {"logits": np.array(self.model.logits(np.array(_PROMPT, np.uint32)))}

    def _once(self) -> None:
        self.model.generate(np.array(_PROMPT, np.uint32), tokens=self.tokens, temperature=0.0)

    def run(self, _: int) -> float:
        """Milliseconds a token, the prompt's time included."""
        return self._milliseconds(self.tokens)


class TorchGenerate(_Repeated):
    """The same with torch_model.Decoder, its weights folded, in eager mode."""

    def __init__(self, *, parameters: int, dim: int, tokens: int, seconds: float, threads: int) -> None:
        import torch

        from pyhybrid.benchmarks.torch_model import Decoder
        from pyhybrid.benchmarks.training import initial_weights

        torch.set_num_threads(threads)
        config = _config(dim, tokens + 1)
        self.model = Decoder(config)
        self.model.load(initial_weights(config, 1))
        _check(sum(parameter.numel() for parameter in self.model.parameters()), parameters)
        self.model.fold()
        self.tokens, self.seconds = tokens, seconds

    def answer(self) -> Answer:
        """Logits of the prompt."""
        import torch

        with torch.no_grad():
            return {"logits": self.model(torch.tensor([_PROMPT]))[0].numpy()}

    def _once(self) -> None:
        from pyhybrid.benchmarks.torch_model import generate

        generate(self.model, _PROMPT, self.tokens)

    def run(self, _: int) -> float:
        """Milliseconds a token, the prompt's time included."""
        return self._milliseconds(self.tokens)


def _check(found: int, said: int) -> None:
    """The number on the axis is that of the model which is measured."""
    if found != said:
        raise ValueError(f"the model has {found} parameters, its row says {said}")


def rows(options: Options) -> list[Row]:
    """The points of the three curves; with `quick` the first three of each, and shorter."""
    last = 3 if options.quick else None
    here = "pyhybrid.benchmarks.scaling"
    points: dict[str, dict[str, int]] = {
        f"step-by-parameters/dim-{dim}": _step_sizes(dim, _LADDER_CONTEXT) for dim in _WIDTHS[:last]
    }
    for context in _CONTEXTS[:last]:
        points[f"step-by-context/context-{context}"] = _step_sizes(_CONTEXT_WIDTH, context)
    for dim in (*_WIDTHS, _WIDEST)[:last]:
        sizes = {"parameters": _parameters(dim), "dim": dim, "tokens": _NEW_TOKENS}
        points[f"token-by-parameters/dim-{dim}"] = sizes
    found = []
    for name, sizes in points.items():
        side = "Step" if name.startswith("step") else "Generate"
        found.append(
            Row(
                name=f"scaling/{name}",
                section="scaling",
                unit="ms",
                better="lower",
                ours=f"{here}:{side}",
                peers={"PyTorch eager": f"{here}:Torch{side}"},
                sizes=sizes,
                hidden={"seconds": 0.05 if options.quick else 0.3},
                rounds=2 if options.quick else 5,
                agreement={"loss": _LOSS_BOUND} if side == "Step" else {"logits": _LOGITS_BOUND},
            )
        )
    return found


def _step_sizes(dim: int, context: int) -> dict[str, int]:
    batch_size = _STEP_TOKENS // context
    return {"parameters": _parameters(dim), "dim": dim, "context": context, "batch_size": batch_size}


# ---- theory and fits ----


def operations(sizes: Mapping[str, Any]) -> float:
    """Counts the products of a point (operations.py); a token's are a third of its share of a step.

    Args:
        sizes: of a row: dim, and context and batch_size of a step or tokens of a generation.

    Returns:
        Operations of a step, or of a token.
    """
    is_step = "context" in sizes
    length = int(sizes["context" if is_step else "tokens"])
    batch_size = int(sizes["batch_size"]) if is_step else 1
    step = sum(step_operations(_config(int(sizes["dim"]), length), batch_size, length))
    return step if is_step else step / 3 / length


class PowerLaw(NamedTuple):
    """y = coefficient * x^exponent.

    Args:
        exponent: slope in logarithms.
        standard_error: of the exponent, from the scatter around the line.
        coefficient: y at x = 1.
    """

    exponent: float
    standard_error: float
    coefficient: float


class Line(NamedTuple):
    """y = constant + slope * x, by least squares."""

    constant: float
    slope: float
    standard_error: float


def fit_line(x: Sequence[float], y: Sequence[float]) -> Line:
    """Fits a straight line by least squares.

    Args:
        x: at least 3 different positions.
        y: as many values.

    Returns:
        The line, and the standard error of its slope: the root of squared residuals / (n - 2) / squares of x
        around their mean.

    Raises:
        ValueError: fewer than 3 points, all at one position, or lengths that differ.
    """
    n = len(x)
    if n < 3 or n != len(y):
        raise ValueError(f"{n} positions and {len(y)} values; give at least 3 points")
    mean_x, mean_y = math.fsum(x) / n, math.fsum(y) / n
    squares = math.fsum((a - mean_x) ** 2 for a in x)
    if not squares > 0:
        raise ValueError("all points are at one position; give at least 2 different ones")
    slope = math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / squares
    constant = mean_y - slope * mean_x
    residuals = math.fsum((b - constant - slope * a) ** 2 for a, b in zip(x, y, strict=True))
    return Line(constant, slope, math.sqrt(residuals / (n - 2) / squares))


def fit_power_law(x: Sequence[float], y: Sequence[float]) -> PowerLaw:
    """Fits a power law: a straight line through the logarithms, each point with the same weight.

    Args:
        x: at least 3 different positions, positive.
        y: as many values, positive.

    Raises:
        ValueError: too few points, or one that is not positive.
    """
    line = fit_line([math.log(a) for a in x], [math.log(b) for b in y])
    return PowerLaw(line.slope, line.standard_error, math.exp(line.constant))


def fits(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Puts the measured points of each curve together and fits them.

    Args:
        results: as measure.measure gives them; rows of other sections are passed over.

    Returns:
        A dictionary for each curve that has at least 3 points: curve, title, what, x, x_label, unit, theory;
        operations (a count for each point) with their exponent; and by side (ours, peers' names) its points
        (x, median, lowest, highest), fit (exponent, standard_error, coefficient) of the medians, fit_lowest
        of the fastest rounds (the two differ where the machine was busy), and on the context curve the part
        of the time that grows with the context at the last point (growing_share, by a straight line;
        operations_growing_share is that of the operations); and the reasons of skipped peers.
    """
    found = []
    for key, curve in CURVES.items():
        members = [row for row in results if row["name"].startswith(f"scaling/{key}/")]
        members.sort(key=lambda row: float(row["sizes"][curve.x]))
        if len(members) < 3:
            continue
        x = [float(row["sizes"][curve.x]) for row in members]
        counts = [operations(row["sizes"]) for row in members]
        fitted: dict[str, Any] = {
            "curve": key,
            "title": curve.title,
            "what": curve.what,
            "x": curve.x,
            "x_label": curve.x_label,
            "unit": members[0]["unit"],
            "theory": curve.theory,
            "operations": counts,
            "operations_exponent": fit_power_law(x, counts).exponent,
            "operations_growing_share": _growing_share(curve, x, counts),
            "sides": {},
            "skipped": {name: reason for row in members for name, reason in row["skipped"].items()},
        }
        for side in dict.fromkeys(["ours", *(name for row in members for name in row["peers"])]):
            figures = [row["ours"] if side == "ours" else row["peers"].get(side) for row in members]
            known = [(a, figure) for a, figure in zip(x, figures, strict=True) if figure is not None]
            if len(known) >= 3:
                fitted["sides"][side] = _side(curve, known)
        found.append(fitted)
    return found


def _side(curve: Curve, known: Sequence[tuple[float, Mapping[str, Any]]]) -> dict[str, Any]:
    x, medians = [a for a, _ in known], [figure["median"] for _, figure in known]
    lowest = [figure["lowest"] for _, figure in known]
    names = ("median", "lowest", "highest")
    return {
        "points": [{"x": a} | {name: figure[name] for name in names} for a, figure in known],
        "fit": fit_power_law(x, medians)._asdict(),
        "fit_lowest": fit_power_law(x, lowest)._asdict(),
        "growing_share": _growing_share(curve, x, medians),
    }


def _growing_share(curve: Curve, x: Sequence[float], y: Sequence[float]) -> float | None:
    """Part of the last value that grows with x, by a straight line; only where one is expected."""
    if curve.x != "context":
        return None
    line = fit_line(x, y)
    return line.slope * x[-1] / (line.constant + line.slope * x[-1])


def describe(fit: Mapping[str, Any]) -> list[str]:
    """Returns sentences about a curve, one a side, and what the operations say.

    Args:
        fit: one of `fits`.
    """
    sentences = []
    for side, found in fit["sides"].items():
        law, least = found["fit"], found["fit_lowest"]
        text = f"{side}: {fit['what']} ~ {fit['x']}^({law['exponent']:.3f} +- {law['standard_error']:.3f})"
        text += f", of the fastest rounds {least['exponent']:.3f} +- {least['standard_error']:.3f}"
        if found["growing_share"] is not None:
            text += f", {found['growing_share']:.0%} of it grows with the {fit['x']} at the last point"
        sentences.append(text)
    text = f"operations: {fit['x']}^{fit['operations_exponent']:.3f}"
    if fit["operations_growing_share"] is not None:
        text += f", {fit['operations_growing_share']:.0%} of them grow"
    return [*sentences, text]
