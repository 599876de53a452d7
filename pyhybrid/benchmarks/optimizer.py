"""The optimiser: validation losses of whole training runs, beside tuned AdamW and plain Muon + AdamW.

A round is a seed, of the initial weights and of the batches. Each run is a function of its configuration,
so it is kept as JSON (`--runs FOLDER`) and not done twice: a section that was interrupted goes on where it
stopped. Text as bytes, the first 90 % to train on, the last 10 % to validate on. AdamW's settings are the
best of the rows `optimizer/tuning/adamw`; the hybrid optimiser's are TrainingConfig's defaults everywhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import sysconfig
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyhybrid.benchmarks.registry import Answer, Goal, Options, Row, UnavailableError
from pyhybrid.config import PRESETS, apply_overrides, to_dict

__all__ = ["AdamW", "Hybrid", "HybridDefaults", "HybridFixed", "Muon", "rows"]

# Version of what a run computes: a change of the library that changes losses makes the runs kept before void.
_RUNS_VERSION = 1
# By number of steps; to be replaced by the best of the tuning rows, which are not measured yet. Of rates
# 1e-3, 2e-3, 4e-3 and 8e-3 this one ended lowest at 600 steps.
_TUNED_ADAMW: dict[int, tuple[str, ...]] = {
    600: ("training.learning_rate=2e-3",),
    2000: ("training.learning_rate=2e-3",),
}
_FACTORS = (0.1, 0.33, 1.0, 3.0, 10.0)
_HERE = "pyhybrid.benchmarks.optimizer"


def _library_sources() -> list[str]:
    """The standard library's sources: a text that 2,000 steps of 2,048 bytes do not go through twice."""
    folder = sysconfig.get_path("stdlib")
    found = [os.path.join(folder, "*.py")]
    packages = "asyncio concurrent ctypes email http idlelib importlib json lib2to3 logging multiprocessing"
    packages += " pydoc_data tkinter unittest urllib xml"
    folders = [os.path.join(folder, package) for package in packages.split()]
    return found + [os.path.join(path, "**", "*.py") for path in folders if os.path.isdir(path)]


class _Training:
    """Trains from start to end for each round; `changes` are overrides such as 'training.trust_radius=0.1'.

    Args:
        preset: shape and run to start from.
        steps: of the run.
        text: 'documentation', 'library' or 'file'.
        changes: of our side, separated by blanks; sides that compare with something fixed leave them out.
        data: path of the text 'file'.
        runs: folder of the runs that were done; None: none is kept.
        threads: that compute.
    """

    def __init__(
        self,
        *,
        preset: str,
        steps: int,
        text: str,
        changes: str = "",
        data: str | None = None,
        runs: str | None = None,
        threads: int = 1,
    ) -> None:
        if text == "file" and data is None:
            raise UnavailableError("needs --data FILE")
        sources: dict[str, Any] = {"documentation": None, "library": _library_sources(), "file": data}
        self.source, self.runs, self.threads = sources[text], runs, threads
        base = PRESETS[preset].config
        base = replace(base, training=replace(base.training, steps=steps))
        self.steps, self.changes = steps, changes.split()
        self.config = apply_overrides(base, self.overrides())

    def overrides(self) -> list[str]:
        """What this side changes of the preset."""
        return [change for change in self.changes if not change.startswith("peer.")]

    def answer(self) -> Answer:
        """The first batch: the sides differ in all but the text."""
        from pyhybrid.batches import Batches
        from pyhybrid.data import load_dataset

        t = self.config.training
        batches = Batches(load_dataset(self.source).train, batch_size=t.batch_size, context=t.context)
        return {"first_batch": batches.batch(1).astype(np.float64)}

    def run(self, round_number: int) -> float:
        """Validation loss in nats per byte with the round as the seed."""
        from pyhybrid.data import load_dataset

        dataset = load_dataset(self.source)
        key = {
            "version": _RUNS_VERSION,
            "side": type(self).__name__ if type(self).__name__ == "Muon" else "pyhybrid",
            "seed": round_number,
            "sha256": dataset.sha256,
            "config": {"model": to_dict(self.config.model), "training": to_dict(self.config.training)},
        }
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:20] + ".json"
        path = None if self.runs is None else Path(self.runs) / name
        if path is not None and path.is_file():
            return float(json.loads(path.read_text(encoding="utf-8"))["validation_loss"])
        record: dict[str, Any] = {**key, **self.train(round_number, dataset)}
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".tmp").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            path.with_suffix(".tmp").replace(path)
        return float(record["validation_loss"])

    def train(self, seed: int, dataset: Any) -> dict[str, Any]:
        """Does a run; the loss behind it and what it took."""
        from pyhybrid._context import Context
        from pyhybrid._run_update import make_update
        from pyhybrid.batches import Batches
        from pyhybrid.language_model import LanguageModel
        from pyhybrid.schedule import LearningRateSchedule

        t = replace(self.config.training, seed=seed)
        model = LanguageModel(self.config.model, seed=seed, context=Context(threads=self.threads))
        update: Any = self.update() or make_update(t, self.config.model)
        model.prepare(t.batch_size, t.context, backward=t.backward, optimizer=update.kind)
        batches = Batches(dataset.train, batch_size=t.batch_size, context=t.context, seed=seed)
        schedule = LearningRateSchedule(t, t.steps)
        begun, busy, losses = time.perf_counter(), 0.0, []
        trace: dict[str, list[float]] = {}
        for number in range(1, t.steps + 1):
            gradients = model.gradients(batches.batch(number))
            losses.append(gradients.loss)
            at = time.perf_counter()
            found = update.apply(model, gradients, multiplier=schedule.multiplier(number), number=number)
            busy += time.perf_counter() - at
            for name in ("lr_multiplier", "trust_radius", "alignment", "constraint_active"):
                if name in found:
                    trace.setdefault(name, []).append(float(found[name]))
        return {
            "validation_loss": _validation_loss(model, dataset, t.batch_size, t.context),
            "training_loss": float(np.mean(losses[-max(1, t.steps // 20) :])),
            "losses": _thinned(losses),
            "trace": {name: _thinned(values) for name, values in trace.items()},
            "seconds": time.perf_counter() - begun,
            "update_seconds": busy,
        }

    def update(self) -> Any:
        """An optimiser of this side's own; None: the configuration's."""
        return None


def _thinned(values: Sequence[float], n: int = 20) -> list[float]:
    """Means of n equal parts."""
    return [float(np.mean(part)) for part in np.array_split(np.asarray(values), min(n, len(values)))]


def _validation_loss(model: Any, dataset: Any, batch_size: int, context: int) -> float:
    from pyhybrid.batches import validation_batches

    total, count = 0.0, 0
    for windows in validation_batches(dataset.validation, batch_size=batch_size, context=context):
        total += model.loss_sum(windows)
        count += windows.shape[0] * (windows.shape[1] - 1)
    return total / count


class Hybrid(_Training):
    """The hybrid optimiser with the row's changes."""


class HybridDefaults(_Training):
    """The hybrid optimiser as it is."""

    def overrides(self) -> list[str]:
        return []


class HybridFixed(_Training):
    """The row's changes without feedback: radius and rate stay as they are given."""

    def overrides(self) -> list[str]:
        return [*self.changes, "training.radius_rule=fixed", "training.trust_radius=1000"]


class AdamW(_Training):
    """Tuned AdamW, at `peer.steps` of the changes where ours takes fewer."""

    def overrides(self) -> list[str]:
        full = [change.partition("=")[2] for change in self.changes if change.startswith("peer.steps=")]
        steps = int(full[0]) if full else self.steps
        return ["training.optimizer=adamw", f"training.steps={steps}", *_TUNED_ADAMW[steps]]


class Muon(_Training):
    """Plain Muon for the layers' matrices (momentum 0.95, five steps, decay 0.1), AdamW for the rest."""

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
