"""Training speed: tokens a second of whole optimiser steps, beside PyTorch on the same weights and batches.

Each side does what a training loop does: forward, backward, clipping, AdamW, new quantised weights. The peer
is the model of torch_model.py, fp32 with fake quantisation, fused AdamW, the same number of threads: in eager
mode, and as torch.compile makes it; also under bf16 autocast, which rounds more than we do. The share of the
limit is the time that the step's products would take at the processor's peaks by the time that it takes.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyhybrid.benchmarks.adamw import adamw
from pyhybrid.benchmarks.operations import step_operations
from pyhybrid.benchmarks.registry import Answer, Goal, Limit, Options, Row, UnavailableError
from pyhybrid.config import PRESETS, ModelConfig, apply_overrides

__all__ = ["BATCH", "Ours", "TorchBf16", "TorchCompiled", "TorchEager", "batch", "rows"]

# Steps of one measurement by preset: a measurement takes about a second.
_STEPS = {"tiny": 6, "small": 4, "base": 1, "large": 1}
#: Sequences of a batch and their tokens, by preset.
BATCH = {"tiny": (16, 128), "small": (16, 128), "base": (4, 512), "large": (1, 512)}
# Relative differences between our first step and PyTorch's. An fp32 loss is off by about the square root of
# the number of operations that a token passes, times 2^-24; a few activations fall on the other side of a
# rounding tie of their int8 code, which moves the gradient by about 1 / 127 of their share.
_LOSS_BOUND = 1e-3
# The integer backward pass rounds each gradient of an output by up to 1 / 254 of the largest of its row; bf16
# each product by up to 2^-9: the errors are independent, so norms are off by far less than these.
_NORM_BOUND, _BF16_LOSS_BOUND, _BF16_NORM_BOUND = 2e-2, 1e-2, 5e-2


def batch(config: ModelConfig, batch_size: int, context: int, number: int) -> NDArray[np.uint32]:
    """Random tokens: speed does not depend on them."""
    random = np.random.default_rng((7, number))
    return random.integers(0, config.vocab_size, (batch_size, context + 1)).astype(np.uint32)


class Ours:
    """pyhybrid.LanguageModel, with some values of the preset's configuration changed."""

    def __init__(
        self,
        *,
        preset: str,
        batch_size: int,
        context: int,
        steps: int,
        threads: int,
        changes: Sequence[str] = (),
    ) -> None:
        from pyhybrid._context import Context
        from pyhybrid.language_model import LanguageModel

        self.config = apply_overrides(PRESETS[preset].config, changes).model
        self.adamw = adamw(PRESETS[preset].training, self.config)
        self.shape, self.steps, self.done = (batch_size, context), steps, 0
        self.model = LanguageModel(self.config, seed=1, context=Context(threads=threads))
        self.model.prepare(batch_size, context)

    def answer(self) -> Answer:
        """Loss and gradient norm of the first batch."""
        loss, norm = self.model.gradients(batch(self.config, *self.shape, 0))
        return {"loss": np.array(loss), "gradient_norm": np.array(norm)}

    def _step(self) -> None:
        self.model.gradients(batch(self.config, *self.shape, self.done))
        self.done += 1
        self.adamw.apply(self.model, self.adamw.learning_rate / 10, self.done)

    def run(self, round_number: int) -> float:
        """Tokens a second over some steps; one more step warms up before the first."""
        return _tokens_per_second(self, round_number)


class TorchEager:
    """torch_model.Decoder with the same initial weights."""

    compiled = autocast = False

    def __init__(self, *, preset: str, batch_size: int, context: int, steps: int, threads: int) -> None:
        import torch

        from pyhybrid.benchmarks.torch_model import Decoder, make_optimizer

        torch.set_num_threads(threads)
        self.config = PRESETS[preset].model
        self.adamw = adamw(PRESETS[preset].training, self.config)
        self.shape, self.steps, self.done = (batch_size, context), steps, 0
        self.model = Decoder(self.config)
        self.model.load(initial_weights(self.config, 1))
        self.optimizer = make_optimizer(self.model, self.adamw)
        self.loss: Any = self.model.loss
        if self.compiled:
            if shutil.which("c++") is None and shutil.which("g++") is None:
                raise UnavailableError("torch.compile needs a C++ compiler")
            self.loss = torch.compile(self.model.loss)
        if self.autocast:
            self.loss = torch.autocast("cpu", torch.bfloat16)(self.model.loss)

    def _windows(self) -> Any:
        import torch

        return torch.from_numpy(batch(self.config, *self.shape, self.done).astype(np.int64))

    def answer(self) -> Answer:
        """Loss and gradient norm of the first batch."""
        loss = self.loss(self._windows())
        loss.backward()
        norm = np.sqrt(sum(float(np.sum(g * g)) for g in self.model.gradients().values()))
        return {"loss": np.array(float(loss.detach())), "gradient_norm": np.array(norm)}

    def _step(self) -> None:
        from pyhybrid.benchmarks.torch_model import train_step

        t = self.adamw
        train_step(self.model, self.optimizer, self._windows(), t.learning_rate / 10, t.clip_norm, self.loss)
        self.done += 1

    def run(self, round_number: int) -> float:
        """Tokens a second over some steps; one more step warms up before the first."""
        return _tokens_per_second(self, round_number)


class TorchCompiled(TorchEager):
    """The same with torch.compile."""

    compiled = True


class TorchBf16(TorchEager):
    """The same under autocast: matrix products in bf16."""

    autocast = True


def _tokens_per_second(side: Any, round_number: int) -> float:
    if round_number == 0:
        side._step()
    start = time.perf_counter()
    for _ in range(side.steps):
        side._step()
    seconds = time.perf_counter() - start
    return float(side.steps * side.shape[0] * side.shape[1] / seconds)


def initial_weights(config: ModelConfig, seed: int) -> dict[str, NDArray[np.float32]]:
    """The weights that pyhybrid.LanguageModel starts from, by name."""
    from pyhybrid.language_model import LanguageModel

    parameters = LanguageModel(config, seed=seed).parameters()
    return {name: np.array(parameter.values) for name, parameter in parameters.items()}


def _row(preset: str, threads: int) -> Row:
    here = "pyhybrid.benchmarks.training"
    batch_size, context = BATCH[preset]
    text = f"Training of `{preset}` on {threads} thread(s) is at least 3 times as fast as that of"
    peers = {
        "PyTorch eager": f"{here}:TorchEager",
        "PyTorch compiled": f"{here}:TorchCompiled",
        "PyTorch bf16": f"{here}:TorchBf16",
    }
    amounts = step_operations(PRESETS[preset].model, batch_size, context)
    return Row(
        name=f"train/{preset}/{threads}-threads",
        section="train",
        unit="tokens/s",
        better="higher",
        ours=f"{here}:Ours",
        peers=peers,
        sizes={"preset": preset, "batch_size": batch_size, "context": context, "steps": _STEPS[preset]},
        threads=threads,
        rounds=7 if preset in ("tiny", "small") else 5,
        agreement={"loss": _LOSS_BOUND, "gradient_norm": _NORM_BOUND},
        peer_agreement={"PyTorch bf16": {"loss": _BF16_LOSS_BOUND, "gradient_norm": _BF16_NORM_BOUND}},
        limits=(
            Limit(kind="int8", per_unit=amounts.int8 / (batch_size * context)),
            Limit(kind="fma", per_unit=amounts.fp32 / (batch_size * context)),
        ),
        limits_add=True,
        goals=tuple(
            Goal(text=f"{text} {peer}.", kind="ratio", limit=3.0, peer=peer)
            for peer in ("PyTorch eager", "PyTorch compiled")
        ),
    )


def rows(options: Options) -> list[Row]:
    """Every chosen preset at every chosen number of threads."""
    return [_row(preset, threads) for preset in options.presets for threads in options.threads]
