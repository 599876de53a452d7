"""Sides of the section optimizer: who trains with which settings, and what is looked at of the run.

AdamW's settings are the best of the rows `optimizer/tuning/adamw`, the hybrid optimiser's everywhere the
defaults of TrainingConfig.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyhybrid.benchmarks.runs import TrainingRun

__all__ = [
    "TUNED_ADAMW",
    "AdamW",
    "AdamWDefaults",
    "AdamWTime",
    "BatchesTime",
    "Hybrid",
    "HybridDefaults",
    "HybridFixed",
    "HybridSuccess",
    "HybridTime",
    "HybridTrace",
    "Muon",
    "Peer",
]

#: The best of the rows optimizer/tuning/adamw, by number of steps and text.
TUNED_ADAMW: dict[str, tuple[str, ...]] = {
    "600/file": ("training.learning_rate=2e-3", "training.weight_decay=0.3"),
    "600/documentation": ("training.learning_rate=4e-3", "training.weight_decay=0.3"),
    "2000/library": ("training.learning_rate=2e-3", "training.weight_decay=0.3"),
}
# Of matrices, at 600 steps: the best of the rows optimizer/tuning/muon.
_TUNED_MUON = 0.04


class Hybrid(TrainingRun):
    """The hybrid optimiser with our own changes."""


class HybridDefaults(TrainingRun):
    """The hybrid optimiser as it is."""

    def overrides(self) -> list[str]:
        return self.changes_of(None)


class HybridFixed(TrainingRun):
    """Our own changes without feedback or ball: the rate stays as it is given."""

    def overrides(self) -> list[str]:
        return [*self.changes_of("ours"), "training.radius_rule=fixed", "training.trust_radius=1000"]


class HybridTime(Hybrid):
    """Processor seconds of a run."""

    def run(self, round_number: int) -> float:
        return _processor_seconds(self.record(round_number))


class BatchesTime(Hybrid):
    """Processor seconds of a run that its clusters and weights of windows take, before the first step."""

    def run(self, round_number: int) -> float:
        return float(self.record(round_number)["batches_cpu_seconds"])


class HybridTrace(Hybrid):
    """Mean over a run of what the optimiser did.

    Args:
        quantity: 'lr_multiplier', 'trust_radius' or 'constraint_active'.
        run: see TrainingRun.
    """

    def __init__(self, *, quantity: str, **run: Any) -> None:
        super().__init__(**run)
        self.quantity = quantity

    def run(self, round_number: int) -> float:
        return float(np.mean(self.record(round_number)["trace"][self.quantity]))


class HybridSuccess(Hybrid):
    """Share of steps behind which the loss of their own batch is lower."""

    side = "pyhybrid, each batch twice"
    watched = ("success",)

    def watch(self, model: Any, tokens: Any, loss: float) -> dict[str, float]:
        again = model.loss_sum(tokens) / (tokens.shape[0] * (tokens.shape[1] - 1))
        return {"success": float(again < loss)}

    def run(self, round_number: int) -> float:
        return float(np.mean(self.record(round_number)["trace"]["success"]))


class Peer(TrainingRun):
    """The row's changes of its peer, and nothing else."""

    def overrides(self) -> list[str]:
        return self.changes_of("peer")


class AdamW(TrainingRun):
    """AdamW, tuned for this text and number of steps where that was done."""

    def overrides(self) -> list[str]:
        changes = self.changes_of("peer")
        own = [c.partition("=")[2] for c in changes if c.startswith("training.steps=")]
        tuned = TUNED_ADAMW.get(f"{[self.steps, *own][-1]}/{self.text}", ())
        return ["training.optimizer=adamw", *tuned, *changes]


class AdamWDefaults(TrainingRun):
    """AdamW with its default rate, which goes with the inverse of the width."""

    def overrides(self) -> list[str]:
        return ["training.optimizer=adamw", *self.changes_of("peer")]


class AdamWTime(AdamW):
    """Processor seconds of a run of tuned AdamW."""

    def run(self, round_number: int) -> float:
        return _processor_seconds(self.record(round_number))


def _processor_seconds(record: dict[str, Any]) -> float:
    return float(
        record.get("cpu_seconds", record["seconds"])
    )  # one thread: the oldest records have only this


class Muon(TrainingRun):
    """Plain Muon for the layers' matrices (momentum 0.95, five steps), AdamW for the rest."""

    side = "Muon + AdamW"

    def overrides(self) -> list[str]:
        # AdamW's two moments a tensor; rate and decay are those of the matrices.
        own = [
            "training.optimizer=adamw",
            f"training.learning_rate={_TUNED_MUON}",
            "training.weight_decay=0.1",
        ]
        return [*own, *self.changes_of("peer")]

    def update(self) -> Any:
        t = self.config.training
        return _MuonUpdate(float(t.learning_rate or 0.0), float(t.weight_decay or 0.0))


class _MuonUpdate:
    """Muon in NumPy on our model's gradients; the rest is updated by Adam. Source: Jordan et al. 2024."""

    kind = "adamw"  # gradients and two moments a tensor

    ratio = 0.4  # Adam's rate by the matrices'

    def __init__(self, rate: float, decay: float) -> None:
        self.rate, self.decay = rate, decay

    def apply(
        self, model: Any, gradients: Any, *, multiplier: float, number: int, cluster: float = 0.5
    ) -> dict[str, float]:
        """One step; the learning rate is that of matrices times the multiplier."""
        del gradients, cluster
        rate = self.rate * multiplier
        for name, p in model.parameters().items():
            if name.startswith("blk.") and p.shape[0] > 1:
                momentum, values = p.first_moment, p.values
                momentum *= 0.95
                momentum += p.gradient
                direction = _orthogonal(0.95 * momentum + p.gradient)
                values *= 1 - rate * self.decay
                values -= rate * max(1.0, p.shape[0] / p.shape[1]) ** 0.5 * direction
            else:
                _adam(p, rate * self.ratio, number)
        model.touch()
        return {"learning_rate": rate}


def _orthogonal(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Five quintic Newton-Schulz steps."""
    tall = x.shape[0] > x.shape[1]
    y: NDArray[np.float32] = np.ascontiguousarray(x.T if tall else x, np.float32)
    y = np.asarray(y / (np.linalg.norm(y) + 1e-20), np.float32)
    a, b, c = (np.float32(value) for value in (3.4445, -4.775, 2.0315))
    for _ in range(5):
        gram = y @ y.T
        y = np.asarray(a * y + (b * gram + c * (gram @ gram)) @ y, np.float32)
    return np.asarray(y.T if tall else y, np.float32)


def _adam(p: Any, rate: float, number: int, betas: tuple[float, float] = (0.9, 0.95)) -> None:
    first, second, values = p.first_moment, p.second_moment, p.values
    first *= betas[0]
    first += (1 - betas[0]) * p.gradient
    second *= betas[1]
    second += (1 - betas[1]) * p.gradient**2
    size = np.sqrt(second / (1 - betas[1] ** number)) + 1e-8
    values -= np.float32(rate / (1 - betas[0] ** number)) * first / size
