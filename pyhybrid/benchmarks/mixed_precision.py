"""Mixed precision: loss of a trained model whose matrices have different bits, beside uniform bits.

A model is trained, its layers' master weights are quantised afterwards, and an fp32 model with these weights
is evaluated, so that only the weights' bits differ. The plan and the uniform bits take the same bytes: the
budget is what the uniform format stores. Embedding and head stay as they were trained. A round is a seed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyhybrid.benchmarks.registry import Answer, Goal, Options, Row
from pyhybrid.config import PRESETS
from pyhybrid.precision import STORED_BITS, allocate_precision, quantization_errors
from pyhybrid.quantization import dequantize, quantize

__all__ = ["ByLoss", "BySquaredError", "Uniform", "rows"]

_CHOICES = tuple(STORED_BITS)
#: Windows of the training text that sensitivities are measured on.
_CALIBRATION = 32


class _Trained:
    """A model after training, as an fp32 model whose layers' matrices can be replaced."""

    def __init__(
        self, *, preset: str, trained_bits: float, uniform: float, steps: int, data: str | None, threads: int
    ) -> None:
        from pyhybrid.data import load_dataset

        self.config = replace(PRESETS[preset].model, bits=trained_bits)
        self.training = replace(PRESETS[preset].training, steps=steps, evaluation_interval=0)
        self.uniform = uniform
        self.dataset = load_dataset(data)
        self.threads = threads

    def answer(self) -> Answer:
        """Loss of the first window before training, of seed 0: all sides start alike."""
        from pyhybrid.language_model import LanguageModel

        window = np.asarray(self.dataset.train[None, : self.training.context + 1], np.uint32)
        return {"first_loss": np.array(LanguageModel(self.config, seed=0).loss_sum(window))}

    def bits(self) -> tuple[float, ...]:
        """Bits of each matrix."""
        raise NotImplementedError

    def run(self, round_number: int) -> float:
        """Trains with the round as the seed, quantises; the validation loss in nats per byte."""
        from pyhybrid.data import validation_batches

        self.train(round_number)
        self.set_bits(dict(zip(self.masters, self.bits(), strict=True)))
        t = self.training
        tokens = self.dataset.validation[: t.evaluation_tokens + 1]
        batches = validation_batches(tokens, batch_size=t.batch_size, context=t.context)
        return self.loss(list(batches))

    def train(self, seed: int) -> None:
        """Keeps master weights, mean squared gradients, and an fp32 model with everything else."""
        from pyhybrid._context import Context
        from pyhybrid.data import Batches
        from pyhybrid.language_model import LanguageModel
        from pyhybrid.trainer import Trainer

        t = self.training
        trained = LanguageModel(self.config, seed=seed, context=Context(threads=self.threads))
        Trainer(trained, self.dataset, replace(t, seed=seed), progress=False).train()
        windows = Batches(self.dataset.train, batch_size=_CALIBRATION, context=t.context, seed=seed).batch(0)
        self.calibration = [windows[i : i + t.batch_size] for i in range(0, len(windows), t.batch_size)]
        trained.prepare(t.batch_size, t.context)
        trained.gradients(self.calibration[0])
        self.masters: dict[str, NDArray[Any]] = {}
        self.squares: list[float] = []
        self.model = LanguageModel(replace(self.config, bits=32), seed=seed, context=trained.context)
        self.places: dict[str, NDArray[Any]] = {}
        for name, p in trained.parameters().items():
            place = self.model.parameters()[name].values
            assert place is not None  # these models have master weights
            assert p.values is not None
            assert p.gradient is not None
            self.places[name] = place
            place[...] = p.values
            if p.is_layer_matrix:
                self.masters[name] = p.values.copy()
                self.squares.append(float(np.mean(np.square(p.gradient, dtype=np.float64))))
        self.model.touch()

    def set_bits(self, bits: dict[str, float]) -> None:
        """Gives matrices the values that these numbers of bits hold, scaled as in training."""
        how: dict[str, Any] = {"scale": self.config.scale, "threshold": self.config.threshold}
        for name, number in bits.items():
            self.places[name][...] = dequantize(*quantize(self.masters[name], bits=number, **how))
        self.model.touch()

    def loss(self, batches: list[NDArray[Any]]) -> float:
        """Mean cross-entropy over batches of windows."""
        total = sum(self.model.loss_sum(windows) for windows in batches)
        return float(total / sum(windows.shape[0] * (windows.shape[1] - 1) for windows in batches))

    def plan(self, errors: NDArray[np.float64]) -> tuple[float, ...]:
        """The allocation at the bytes of the uniform format."""
        sizes = [master.size for master in self.masters.values()]
        return allocate_precision(sizes, errors, STORED_BITS[self.uniform]).bits


class Uniform(_Trained):
    """The same bits for every matrix."""

    def bits(self) -> tuple[float, ...]:
        return (self.uniform,) * len(self.masters)


class ByLoss(_Trained):
    """Sensitivity: the loss on training text when one matrix has other bits, and the rest are uniform."""

    def bits(self) -> tuple[float, ...]:
        self.set_bits(dict.fromkeys(self.masters, self.uniform))
        errors = np.zeros((len(self.masters), len(_CHOICES)))
        for row, name in zip(errors, self.masters, strict=True):
            for place, number in enumerate(_CHOICES):
                self.set_bits({name: number})
                row[place] = self.loss(self.calibration)
            self.set_bits({name: self.uniform})
        return self.plan(errors)


class BySquaredError(_Trained):
    """Sensitivity: the squared error of a matrix times its mean squared gradient."""

    def bits(self) -> tuple[float, ...]:
        errors = quantization_errors(
            self.masters.values(),
            importance=self.squares,
            scale=self.config.scale,
            threshold=self.config.threshold,
        )
        return self.plan(errors)


def rows(options: Options) -> list[Row]:
    """A ternary and an fp32 model at the bytes of ternary and of 2-bit weights."""
    here = "pyhybrid.benchmarks.mixed_precision"
    return [
        Row(
            name=f"quality/mixed-precision/{'ternary' if trained == 1.58 else 'fp32'}-at-{uniform:g}",
            section="quality",
            unit="nats/byte",
            better="lower",
            ours=f"{here}:ByLoss",
            peers={"uniform bits": f"{here}:Uniform", "by squared error": f"{here}:BySquaredError"},
            sizes={"preset": "tiny", "trained_bits": trained, "uniform": uniform, "steps": options.steps},
            hidden={"data": None if options.data is None else str(options.data)},
            threads=max(options.threads),
            rounds=options.seeds,
            agreement={"first_loss": 0.0},
            goal=Goal(
                text="Mixed bits, by measured losses, end 0.005 nats below uniform bits of the same bytes "
                f"({'a ternary' if trained == 1.58 else 'an fp32'} model quantised to {uniform:g} bits).",
                kind="gain",
                limit=0.005,
                peer="uniform bits",
            ),
            note="Validation loss after quantising trained master weights; one round a seed. A model trained "
            "ternary is best at its own bits, whatever more others take.",
        )
        for trained in (1.58, 32.0)
        for uniform in (1.58, 2.0)
    ]
