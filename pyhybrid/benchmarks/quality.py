"""Quality: validation loss after the same training, beside PyTorch with the same initial weights and batches.

Text as bytes, the first 90 % to train on and the last 10 % to validate on; preset `small`; AdamW with the
preset's values, 5 % warm-up, then linear to 0. A round is a seed: of the initial weights and of the batches.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyhybrid.benchmarks import mixed_precision
from pyhybrid.benchmarks.adamw import adamw
from pyhybrid.benchmarks.registry import Answer, Goal, Options, Row
from pyhybrid.benchmarks.training import initial_weights
from pyhybrid.config import PRESETS, ModelConfig, TrainingConfig

__all__ = ["Ours", "OursF32Backward", "TorchEager", "TorchQKNorm", "rows"]

# Relative difference of the loss of the very first batch: fp32 rounding, and with quantisation a few
# activations on the other side of a rounding tie.
_FIRST_LOSS_BOUND = {1.58: 1e-3, 32: 1e-5}


class _Run:
    """What both sides share: the data, the batches, the learning rates."""

    def __init__(self, *, preset: str, bits: float, steps: int, data: str | None, threads: int) -> None:
        from pyhybrid.data import load_dataset

        self.config: ModelConfig = replace(PRESETS[preset].model, bits=bits)
        if bits == 32:
            self.config = replace(self.config, embedding_bits=32)
        self.training: TrainingConfig = replace(PRESETS[preset].training, steps=steps)
        self.adamw = adamw(self.training, self.config)
        self.dataset = load_dataset(data)
        self.threads = threads
        self.start(0)

    def start(self, seed: int) -> None:
        """Initial weights and batches of a seed."""
        from pyhybrid.data import Batches

        t = self.training
        self.batches = Batches(self.dataset.train, batch_size=t.batch_size, context=t.context, seed=seed)
        self.create(seed)

    def create(self, seed: int) -> None:
        """Makes the model."""
        raise NotImplementedError

    def step(self, number: int, rate: float) -> float:
        """One update on batch number - 1; the loss before it."""
        raise NotImplementedError

    def loss_sum(self, windows: NDArray[np.uint32]) -> float:
        """Sum of the cross-entropy over windows."""
        raise NotImplementedError

    def answer(self) -> Answer:
        """Loss of the first batch with the initial weights of seed 0, before any update."""
        windows = self.batches.batch(0)
        return {"first_loss": np.array(self.loss_sum(windows) / (windows.shape[0] * (windows.shape[1] - 1)))}

    def run(self, round_number: int) -> float:
        """Trains with the round as the seed; the validation loss in nats per byte."""
        from pyhybrid.data import validation_batches
        from pyhybrid.schedule import LearningRateSchedule

        self.start(round_number)
        t = self.training
        schedule = LearningRateSchedule(t, t.steps)
        for number in range(1, t.steps + 1):
            self.step(number, self.adamw.learning_rate * schedule.multiplier(number))
        total, count = 0.0, 0
        for windows in validation_batches(
            self.dataset.validation, batch_size=t.batch_size, context=t.context
        ):
            total += self.loss_sum(windows)
            count += windows.shape[0] * (windows.shape[1] - 1)
        return total / count


class Ours(_Run):
    """pyhybrid.LanguageModel."""

    backward = "int8"

    def create(self, seed: int) -> None:
        from pyhybrid._context import Context
        from pyhybrid.language_model import LanguageModel

        self.model = LanguageModel(self.config, seed=seed, context=Context(threads=self.threads))
        self.model.prepare(self.training.batch_size, self.training.context, backward=self.backward)

    def step(self, number: int, rate: float) -> float:
        loss = self.model.gradients(self.batches.batch(number - 1)).loss
        self.adamw.apply(self.model, rate, number)
        return loss

    def loss_sum(self, windows: NDArray[np.uint32]) -> float:
        return self.model.loss_sum(windows)


class OursF32Backward(Ours):
    """The same with the gradient products in fp32."""

    backward = "fp32"


class TorchEager(_Run):
    """torch_model.Decoder and torch.optim.AdamW."""

    def create(self, seed: int) -> None:
        import torch

        from pyhybrid.benchmarks.torch_model import Decoder, make_optimizer

        torch.set_num_threads(self.threads)
        self.model = Decoder(self.config)
        self.model.load(initial_weights(self.config, seed))
        self.optimizer = make_optimizer(self.model, self.adamw)

    def step(self, number: int, rate: float) -> float:
        from pyhybrid.benchmarks.torch_model import train_step

        windows = self._windows(self.batches.batch(number - 1))
        return train_step(self.model, self.optimizer, windows, rate, self.training.clip_norm)[0]

    @staticmethod
    def _windows(windows: NDArray[np.uint32]) -> Any:
        import torch

        return torch.from_numpy(windows.astype(np.int64))

    def loss_sum(self, windows: NDArray[np.uint32]) -> float:
        import torch

        with torch.no_grad():
            return float(self.model.loss(self._windows(windows), "sum"))


class TorchQKNorm(TorchEager):
    """With a norm without gains on queries and keys, which the library does not have."""

    def create(self, seed: int) -> None:
        super().create(seed)
        layers: Any = self.model.layers
        for layer in layers:
            layer.qk_norm = True


def rows(options: Options) -> list[Row]:
    """Ternary, and fp32 beside it; then our integer backward pass beside our fp32 one."""
    here = "pyhybrid.benchmarks.quality"
    data = None if options.data is None else str(options.data)
    text = "Our ternary AdamW ends within 0.02 nats of PyTorch's ternary AdamW (mean over the seeds)."
    note = f"text: {options.data.name if options.data else 'the embedded documentation text'}."
    integer = Row(
        name="quality/backward-int8/small",
        section="quality",
        unit="nats/byte",
        better="lower",
        ours=f"{here}:Ours",
        peers={"pyhybrid, fp32 backward": f"{here}:OursF32Backward"},
        sizes={"preset": "small", "bits": 1.58, "steps": options.steps},
        hidden={"data": data},
        threads=max(options.threads),
        rounds=options.seeds,
        agreement={"first_loss": 0.0},
        goal=Goal(
            text="Integer gradient products end within 0.005 nats of fp32 ones (mean over the seeds).",
            kind="difference",
            limit=0.005,
            peer="pyhybrid, fp32 backward",
        ),
        note=f"Validation loss; one round a seed; {note}",
    )
    norms = Row(
        name="quality/qk-norm/small",
        section="quality",
        unit="nats/byte",
        better="lower",
        ours=f"{here}:TorchQKNorm",
        peers={"without": f"{here}:TorchEager"},
        sizes={"preset": "small", "bits": 1.58, "steps": options.steps},
        hidden={"data": data},
        threads=max(options.threads),
        rounds=options.seeds,
        agreement={"first_loss": 0.1},
        note=f"PyTorch on both sides, AdamW: what normalised queries and keys would be worth; {note}",
    )
    return [
        Row(
            name=f"quality/small/{name}",
            section="quality",
            unit="nats/byte",
            better="lower",
            ours=f"{here}:Ours",
            peers={"PyTorch eager": f"{here}:TorchEager"},
            sizes={"preset": "small", "bits": bits, "steps": options.steps},
            hidden={"data": data},
            threads=max(options.threads),
            rounds=options.seeds,
            agreement={"first_loss": _FIRST_LOSS_BOUND[bits]},
            goal=Goal(text=text, kind="difference", limit=0.02, peer="PyTorch eager")
            if bits == 1.58
            else None,
            note=f"Validation loss; one round a seed; {note}",
        )
        for name, bits in (("ternary", 1.58), ("fp32", 32.0))
    ] + [integer, norms, *mixed_precision.rows(options)]
