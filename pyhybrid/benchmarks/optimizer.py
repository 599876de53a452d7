"""The optimiser: validation losses of whole training runs, beside tuned AdamW and plain Muon + AdamW.

A round is a seed, of the initial weights and of the batches; a run is done once and kept (runs.py). Text as
bytes, the first 90 % to train on, the last 10 % to validate on. AdamW's settings are the best of the rows
`optimizer/tuning/adamw`; the hybrid optimiser's are TrainingConfig's defaults everywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyhybrid.benchmarks.registry import Goal, Options, Row
from pyhybrid.benchmarks.runs import TrainingRun

__all__ = ["AdamW", "Hybrid", "HybridDefaults", "HybridFixed", "Muon", "rows"]

# By number of steps; to be replaced by the best of the tuning rows, which are not measured yet. Of rates
# 1e-3, 2e-3, 4e-3 and 8e-3 this one ended lowest at 600 steps.
_TUNED_ADAMW: dict[int, tuple[str, ...]] = {
    600: ("training.learning_rate=2e-3",),
    2000: ("training.learning_rate=2e-3",),
}
_FACTORS = (0.1, 0.33, 1.0, 3.0, 10.0)
_HERE = "pyhybrid.benchmarks.optimizer"


class Hybrid(TrainingRun):
    """The hybrid optimiser with the row's changes."""


class HybridDefaults(TrainingRun):
    """The hybrid optimiser as it is."""

    def overrides(self) -> list[str]:
        return []


class HybridFixed(TrainingRun):
    """The row's changes without feedback: radius and rate stay as they are given."""

    def overrides(self) -> list[str]:
        return [*self.changes, "training.radius_rule=fixed", "training.trust_radius=1000"]


class AdamW(TrainingRun):
    """Tuned AdamW, at `peer.steps` of the changes where ours takes fewer."""

    def overrides(self) -> list[str]:
        full = [change.partition("=")[2] for change in self.changes if change.startswith("peer.steps=")]
        steps = int(full[0]) if full else self.steps
        return ["training.optimizer=adamw", f"training.steps={steps}", *_TUNED_ADAMW[steps]]


class Muon(TrainingRun):
    """Plain Muon for the layers' matrices (momentum 0.95, five steps, decay 0.1), AdamW for the rest."""

    side = "Muon + AdamW"

    def overrides(self) -> list[str]:
        return ["training.optimizer=adamw"]  # for the two moments a tensor

    def update(self) -> Any:
        return _MuonUpdate()


class _MuonUpdate:
    """Muon in NumPy on our model's gradients; the rest is updated by Adam. Source: Jordan et al. 2024."""

    kind = "adamw"  # gradients and two moments a tensor

    rate, decay, ratio = 0.02, 0.1, 0.4  # of matrices; decay; Adam's rate by theirs

    def apply(self, model: Any, gradients: Any, *, multiplier: float, number: int) -> dict[str, float]:
        """One step; the learning rate is that of matrices times the multiplier."""
        del gradients
        rate = self.rate * multiplier
        for name, p in model.parameters().items():
            if name.startswith("blk.") and p.shape[0] > 1:
                p.first_moment *= 0.95
                p.first_moment += p.gradient
                direction = _orthogonal(0.95 * p.first_moment + p.gradient)
                p.values *= 1 - rate * self.decay
                p.values -= rate * max(1.0, p.shape[0] / p.shape[1]) ** 0.5 * direction
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
    p.first_moment *= betas[0]
    p.first_moment += (1 - betas[0]) * p.gradient
    p.second_moment *= betas[1]
    p.second_moment += (1 - betas[1]) * p.gradient**2
    size = np.sqrt(p.second_moment / (1 - betas[1] ** number)) + 1e-8
    p.values -= np.float32(rate / (1 - betas[0] ** number)) * p.first_moment / size


# ---- rows ----


def _row(name: str, options: Options, *, steps: int, text: str, changes: str = "", **fields: Any) -> Row:
    hidden = {"data": None if options.data is None else str(options.data)}
    hidden["runs"] = None if options.runs is None else str(options.runs)
    return Row(
        name=f"optimizer/{name}",
        section="optimizer",
        unit="nats/byte",
        better="lower",
        ours=f"{_HERE}:{fields.pop('ours', 'Hybrid')}",
        peers={label: f"{_HERE}:{side}" for label, side in fields.pop("peers", {}).items()},
        sizes={"preset": fields.pop("preset", "small"), "steps": steps, "text": text, "changes": changes},
        hidden=hidden,
        threads=max(options.threads),
        agreement={"first_batch": 0.0},
        rounds=fields.pop("seeds", options.seeds),
        note="Validation loss; one round a seed.",
        **fields,
    )


def _gain(text: str, limit: float, peer: str) -> Goal:
    return Goal(text=text, kind="gain", limit=limit, peer=peer)


def _against_adamw(options: Options, text: str) -> list[Row]:
    found = []
    peers = {"AdamW, tuned": "AdamW", "Muon + AdamW": "Muon"}
    for steps, gain, share in ((600, 0.09, 0.65), (2000, 0.03, 0.75)):
        where = f"{steps} steps of 2,048 bytes, {text}"
        found.append(
            _row(
                f"steps-{steps}/{text}",
                options,
                steps=steps,
                text=text,
                peers=peers,
                goal=_gain(f"{where}: at least {gain} nats below tuned AdamW.", gain, "AdamW, tuned"),
            )
        )
        fewer = round(share * steps)
        found.append(
            _row(
                f"fewer-steps-{steps}/{text}",
                options,
                steps=fewer,
                text=text,
                changes=f"peer.steps={steps}",
                peers={"AdamW, tuned": "AdamW"},
                goal=_gain(f"{where}: {fewer} steps suffice for tuned AdamW's loss.", 0.0, "AdamW, tuned"),
            )
        )
    return found


def _base_rates(options: Options, text: str) -> list[Row]:
    found = []
    for factor in _FACTORS:
        limit = 0.04 if factor == 0.1 else 0.02
        goal = Goal(
            text=f"A base rate of {factor:g} times the default ends within {limit} nats of it.",
            kind="difference",
            limit=limit,
            peer="default rate",
        )
        found.append(
            _row(
                f"base-rate/x{factor:g}/{text}",
                options,
                steps=600,
                text=text,
                changes=f"training.learning_rate={0.07 * factor:g}",
                peers={"default rate": "HybridDefaults", "no feedback": "HybridFixed"},
                goal=goal,
            )
        )
    return found


#: What each component is worth: changes that leave it out or replace it.
ABLATION: dict[str, str] = {
    "no-network": "training.radius_rule=fixed",
    "adaptive-radius": "training.radius_rule=adaptive",
    "squared-radius": "training.radius_form=squared training.trust_radius=0.22",
    "norm-rms": "training.trust_norm=rms",
    "norm-l2": "training.trust_norm=l2 training.radius_rule=fixed",
    "row-normalisation": "training.row_beta=0.95",
    "momentum-0.9": "training.momentum=0.9",
    "no-decay": "training.weight_decay=0",
    "parameter-clusters": "training.parameter_clusters=4",
    "parameter-clusters-importance": "training.parameter_clusters=4 training.cluster_rates=importance",
    "gradient-row": "training.gradient_compression=row",
    "gradient-block": "training.gradient_compression=block",
    "gradient-five-level": "training.gradient_compression=five_level",
    "sub-norms": "model.sub_norms=true",
    "squared-relu": "model.activation=squared_relu",
    "sub-norms-squared-relu": "model.sub_norms=true model.activation=squared_relu",
}


def _tuning(options: Options, text: str) -> list[Row]:
    """AdamW one value at a time around the best; the same number of runs for ours."""
    changes = [f"training.learning_rate={rate:g}" for rate in (1e-3, 2e-3, 4e-3, 8e-3)]
    changes += [f"{c} training.beta1=0.9" for c in changes] + [
        f"{c} training.weight_decay=0.1" for c in changes
    ]
    changes += [f"{c} training.beta2=0.95" for c in changes[:4]]
    return [
        _row(
            f"tuning/adamw/{steps}/{text}/{change.replace('training.', '').replace(' ', ',')}",
            options,
            steps=steps,
            text=text,
            changes=f"training.optimizer=adamw {change}",
            peers={"hybrid, defaults": "HybridDefaults"},
            seeds=1,
        )
        for steps in (600, 2000)
        for change in changes
    ]


def rows(options: Options) -> list[Row]:
    """Against AdamW and Muon; base rates; components; AdamW's tuning. --filter chooses."""
    text = "documentation" if options.data is None else "file"
    found = _against_adamw(options, text)
    found += _against_adamw(options, "library")
    found += _base_rates(options, text)
    found += [
        _row(
            f"ablation/{name}/{text}",
            options,
            steps=600,
            text=text,
            changes=changes,
            peers={"default": "HybridDefaults"},
        )
        for name, changes in ABLATION.items()
    ]
    return found + _tuning(options, text)
