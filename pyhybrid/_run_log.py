"""What `pyhybrid train` prints while it goes on, and the summary of the hybrid optimiser at the end.

Place in the data flow: a callback of the trainer; it sees each step's record. The forms are those of the
documents that the package was asked for with; every figure is measured.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyhybrid._run_clusters import WindowClusters

__all__ = ["RunLog"]

_RULE = "=" * 60
# Shares of so many clusters fit into a line.
_SHOWN_CLUSTERS = 16


class RunLog:
    """Prints a line for the first step and for every evaluation; remembers what the summary needs.

    Args:
        total_steps: gives the number of steps planned, once there is a first step.
        clusters: gives the clusters of the text's windows then, or None.
        interval: print every so many steps, too; 0: only the first and those with an evaluation.
    """

    def __init__(
        self,
        total_steps: Callable[[], int | None],
        clusters: Callable[[], WindowClusters | None] = lambda: None,
        interval: int = 0,
    ) -> None:
        self._total_steps, self._clusters, self._interval = total_steps, clusters, interval
        self._steps = 0
        self._previous = math.nan
        self._multipliers = 0.0
        self._active = 0.0
        self._last: Mapping[str, Any] = {}

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Takes a step's record."""
        self._steps += 1
        self._multipliers += float(record.get("lr_multiplier", 1.0))
        self._active += float(record.get("constraint_active", 0.0))
        self._last = record
        clusters = self._clusters() if self._steps == 1 else None
        if clusters is not None:
            _print_line(_cluster_line(clusters))
        due = self._interval and record["step"] % self._interval == 0
        if self._steps == 1 or due or "validation_loss" in record:
            _print_line(self._line(record))
        if "validation_loss" in record:
            _print_line(f"  -> Evaluation loss: {record['validation_loss']:.6f}")
        self._previous = float(record["loss"])

    def _line(self, record: Mapping[str, Any]) -> str:
        change = record["loss"] - self._previous
        parts = [
            f"Step {record['step']}/{self._total_steps()}",
            f"Loss: {record['loss']:.6f}",
            f"dLoss: {0.0 if math.isnan(change) else change:+.6f}",
            f"|grad|: {record['gradient_norm']:.4f}",
        ]
        if "update_magnitude" in record:
            parts.append(f"|Delta|: {record['update_magnitude']:.4f}")
            parts.append(f"Constraint: {int(record['constraint_active'] > 0.5)}")
        if "ternary_blend" in record:
            parts.append(f"Ternary: {100 * record['ternary_blend']:.0f}%")
        if "dead_zone" in record:
            parts.append(f"Zeros: {100 * record['zero_share']:.0f}%")
        return " | ".join(parts)

    def summary(self) -> list[str]:
        """Returns the lines of the hybrid optimiser's summary; none for another optimiser."""
        if not self._steps or "trust_radius" not in self._last:
            return []
        return [
            _RULE,
            "HYBRID OPTIMIZATION SUMMARY",
            _RULE,
            f"Total Steps: {self._last['step']}",
            f"Final Loss: {self._last['loss']:.6f}",
            f"Avg Learning Rate Multiplier: {self._multipliers / self._steps:.2f}x",
            f"Constraint Activation Rate: {100 * self._active / self._steps:.1f}%",
            f"Final Trust Radius: {self._last['trust_radius']:.6f}",
            _RULE,
        ]


def _cluster_line(clusters: WindowClusters) -> str:
    """How many clusters there are, and how large; of many, the largest."""
    sizes = clusters.sizes
    shown = ", ".join(f"{100 * size / sizes.sum():.1f}" for size in sizes[:_SHOWN_CLUSTERS])
    more = ", ..." if len(sizes) > _SHOWN_CLUSTERS else ""
    return (
        f"Data clusters: {len(sizes)} of {sizes.sum():,} windows: {shown}{more} % of them "
        f"({clusters.seconds:.2f} s)"
    )


def _print_line(line: str) -> None:
    """Prints above a progress bar, if there is one."""
    tqdm = sys.modules.get("tqdm")
    if tqdm is not None:
        tqdm.tqdm.write(line)
    else:
        print(line, flush=True)
