"""What ternary weights cost and save while a model trains, beside the same model with fp32 weights.

Loss and course of whole runs with the hybrid optimiser (kept as those of the section optimizer are), time of
a step, and the peak memory of a process that trains.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyhybrid.benchmarks import training
from pyhybrid.benchmarks.registry import Answer, Goal, Options, Row, UnavailableError
from pyhybrid.benchmarks.runs import TrainingRun
from pyhybrid.config import PRESETS

__all__ = ["Course", "Full", "Memory", "MemoryFull", "MemoryTorch", "Speed", "SpeedFull", "Ternary", "rows"]

_FULL = ("model.bits=32", "model.embedding_bits=32")
_HERE = "pyhybrid.benchmarks.twin"


class Ternary(TrainingRun):
    """Validation loss of a run."""


class Full(TrainingRun):
    """The same with fp32 weights."""

    def overrides(self) -> list[str]:
        return [*super().overrides(), *_FULL]


class Course(Ternary):
    """1 - Pearson's correlation of both training losses, each the means of twentieths of the run."""

    def __init__(self, **run: Any) -> None:
        super().__init__(**run)
        self.full = Full(**run)

    def run(self, round_number: int) -> float:
        both = [side.record(round_number)["losses"] for side in (self, self.full)]
        return 1.0 - float(np.corrcoef(*both)[0, 1])

    def kept(self, seed: int) -> dict[str, Any] | None:
        """Of both."""
        return None if self.full.kept(seed) is None else super().kept(seed)


class Speed(training.Ours):
    """Tokens a second of whole steps."""

    changes: tuple[str, ...] = ()

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes, changes=self.changes)

    def answer(self) -> Answer:
        """The first batch."""
        return {"tokens": training.batch(self.config, *self.shape, 0).astype(np.int64)}


class SpeedFull(Speed):
    """The same with fp32 weights."""

    changes = _FULL


def _peak_mib() -> float:
    """Peak resident memory of this process in MiB."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s*(\d+)", status.read_text()) if status.exists() else None
    if found is None:
        raise UnavailableError("the peak of a process is read from /proc")
    return int(found[1]) / 1024


class _Peak:
    """Peak of this side's own process over some steps, in MiB; Python and its imports are in it."""

    def run(self, round_number: int) -> float:
        super().run(round_number)  # type: ignore[misc]
        return _peak_mib()


class Memory(_Peak, Speed):
    """Ternary weights."""


class MemoryFull(_Peak, SpeedFull):
    """fp32 weights."""


class MemoryTorch(_Peak, training.TorchEager):
    """PyTorch with fake quantisation."""

    def answer(self) -> Answer:
        """The first batch."""
        tokens: NDArray[Any] = training.batch(self.config, *self.shape, 0)
        return {"tokens": tokens.astype(np.int64)}


def _run_row(figure: str, options: Options) -> Row:
    text = "documentation" if options.data is None else "file"
    course = figure == "course"
    goals = {
        "loss": Goal(
            text="Ternary weights end within 1 % of the loss with fp32 weights.",
            kind="ratio",
            limit=0.99,
            peer="fp32 weights",
        ),
        "course": Goal(
            text="The courses of ternary and fp32 runs correlate with r = 0.998.", kind="value", limit=0.002
        ),
    }
    return Row(
        name=f"twin/{figure}/{text}",
        section="twin",
        unit="1 - r" if course else "nats/byte",
        better="lower",
        ours=f"{_HERE}:{'Course' if course else 'Ternary'}",
        peers={} if course else {"fp32 weights": f"{_HERE}:Full"},
        sizes={"preset": "small", "steps": options.steps, "text": text},
        hidden={
            "data": None if options.data is None else str(options.data),
            "runs": None if options.runs is None else str(options.runs),
        },
        agreement={"first_batch": 0.0},
        rounds=options.seeds,
        goal=goals[figure],
        note="One round a seed.",
    )


def _step_row(preset: str, memory: bool) -> Row:
    batch_size, context = training.BATCH[preset]
    sides = ("Memory", "MemoryFull") if memory else ("Speed", "SpeedFull")
    peers = {"fp32 weights": f"{_HERE}:{sides[1]}"}
    if memory:
        peers["PyTorch eager"] = f"{_HERE}:MemoryTorch"
    return Row(
        name=f"twin/{'memory' if memory else 'speed'}/{preset}",
        section="twin",
        unit="MiB" if memory else "tokens/s",
        better="lower" if memory else "higher",
        ours=f"{_HERE}:{sides[0]}",
        peers=peers,
        sizes={"preset": preset, "batch_size": batch_size, "context": context, "steps": 2},
        rounds=1 if memory else 5,
        agreement={"tokens": 0.0},
        note="Peak of a process that trains, Python and its imports included." if memory else "",
    )


def rows(options: Options) -> list[Row]:
    """Loss, course, speed and memory."""
    presets = [preset for preset in options.presets if preset in PRESETS]
    found = [_run_row(figure, options) for figure in ("loss", "course")]
    return found + [_step_row(preset, memory) for preset in presets for memory in (False, True)]
