"""Cost as work grows: time of a training step in parameters and in context, of a token in parameters.

Place in the data flow: one row a point, run by measure.py as any other; curves.py fits a power law to them.
Models are a ladder of widths with all else fixed, so that parameters grow with the square of the width.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyhybrid.benchmarks.adamw import adamw
from pyhybrid.benchmarks.curves import Curve
from pyhybrid.benchmarks.operations import step_operations
from pyhybrid.benchmarks.registry import Answer, Options, Row
from pyhybrid.config import ModelConfig, TrainingConfig

__all__ = [
    "CURVES",
    "Generate",
    "Step",
    "TorchGenerate",
    "TorchStep",
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


# ---- theory ----


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


#: By the beginning of a row's name.
CURVES: dict[str, Curve] = {
    "scaling/step-by-parameters": Curve(
        operations=operations,
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
    "scaling/step-by-context": Curve(
        operations=operations,
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
    "scaling/token-by-parameters": Curve(
        operations=operations,
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
