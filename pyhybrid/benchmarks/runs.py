"""Whole training runs as sides of a benchmark: each is done once and kept as JSON.

A run is a function of its configuration, its text and its seed, so a folder of records (`--runs FOLDER`)
is as good as doing it again: a section that was interrupted goes on where it stopped. A record is found by
what it says, not by its name; fields of the configuration that came later have their default in it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sysconfig
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pyhybrid.benchmarks.corpora import CORPORA
from pyhybrid.benchmarks.registry import Answer, Row, UnavailableError
from pyhybrid.config import PRESETS, RunConfig, apply_overrides, from_dict, to_dict

__all__ = ["RunFolder", "TrainingRun", "kept_rows", "text_paths", "validation_loss"]

# Version of what a run computes: a change of the library that changes losses makes the runs kept before void.
_VERSION = 1
# Metrics of an update that a record keeps.
_TRACED = (
    "lr_multiplier",
    "trust_radius",
    "alignment",
    "constraint_active",
    "update_magnitude",
    "gradient_cosine",
    "cluster_cohesion",
)
# Fields that do not change what a run computes.
_WITHOUT_EFFECT = (
    "minutes",
    "threads",
    "evaluation_interval",
    "evaluation_tokens",
    "checkpoint_interval",
    "log_interval",
)
# Fields without a meaning for AdamW.
_HYBRID_ONLY = (
    "trust_norm",
    "trust_radius",
    "radius_rule",
    "radius_form",
    "auxiliary_hidden_size",
    "hypergradient_weight",
    "momentum",
    "row_beta",
    "vector_ratio",
)


def _library_sources() -> list[str]:
    """The standard library's sources: a text that 2,000 steps of 2,048 bytes do not go through twice."""
    folder = sysconfig.get_path("stdlib")
    found = [os.path.join(folder, "*.py")]
    packages = "asyncio concurrent ctypes email http idlelib importlib json lib2to3 logging multiprocessing"
    packages += " pydoc_data tkinter unittest urllib xml"
    folders = [os.path.join(folder, package) for package in packages.split()]
    return found + [os.path.join(path, "**", "*.py") for path in folders if os.path.isdir(path)]


def text_paths(text: str, data: str | None) -> Any:
    """What `load_dataset` takes for the name of a text.

    Args:
        text: 'documentation' (the embedded text), 'library' (the standard library's sources), 'file', or one
            of CORPORA, which is a Dataset already.
        data: path of the text 'file'.

    Raises:
        UnavailableError: the text is 'file' and no path is given.
    """
    if text in CORPORA:
        return CORPORA[text]()
    if text == "file" and data is None:
        raise UnavailableError("needs --data FILE")
    return {"documentation": None, "library": _library_sources(), "file": data}[text]


_records: dict[str, tuple[list[Any], dict[str, Any]]] = {}


def _read(path: Path) -> tuple[list[Any], dict[str, Any]]:
    """A record, behind what it is a record of; nothing finds one of another version."""
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if record["version"] != _VERSION:
            return [], record
        key = [record["side"], record["seed"], record["sha256"]]
        record["config"]["training"].setdefault("sampler", "uniform")  # of before there was a choice
        return [*key, _what(from_dict(record["config"], RunConfig()))], record
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the record of a run ({error}); delete it") from error


class RunFolder:
    """Records of runs that were done.

    Args:
        path: folder, made when the first record is kept; None: nothing is found or kept.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = None if path is None else Path(path)

    def find(self, side: str, seed: int, sha256: str, config: RunConfig) -> dict[str, Any] | None:
        """Returns the record of a run, or None.

        Args:
            side: who trained.
            seed: of weights and batches.
            sha256: of the text.
            config: shape and run.

        Raises:
            ValueError: a file of the folder is not a record.
        """
        path = self._path(side, seed, sha256, config)
        return None if path is None else _records[str(path)][1]

    def _path(self, side: str, seed: int, sha256: str, config: RunConfig) -> Path | None:
        """Where the record of a run is."""
        wanted = [side, seed, sha256, _what(config)]
        for path in [] if self.path is None else sorted(self.path.glob("*.json")):
            if str(path) not in _records:
                _records[str(path)] = _read(path)
            if _records[str(path)][0] == wanted:
                return path
        return None

    def keep(
        self, side: str, seed: int, sha256: str, config: RunConfig, found: dict[str, Any]
    ) -> dict[str, Any]:
        """Writes the record of a run that was done, in place of one that was kept before, and returns it.

        Args:
            side: see `find`.
            seed: see `find`.
            sha256: see `find`.
            config: see `find`.
            found: losses and times, as JSON values.
        """
        key = {"version": _VERSION, "side": side, "seed": seed, "sha256": sha256, "config": _what(config)}
        record = {**key, **found}
        if self.path is not None:
            name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:20]
            self.path.mkdir(parents=True, exist_ok=True)
            path = self._path(side, seed, sha256, config) or self.path / f"{name}.json"
            partial = path.with_suffix(".tmp")
            partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            partial.replace(path)
            _records.pop(str(path), None)
        return record


def _what(config: RunConfig) -> dict[str, Any]:
    """What of a configuration decides over the result, with the defaults of optimiser and width filled in."""
    filled = config.training.for_model(config.model)
    training = to_dict(replace(config.training, seed=0, **filled._asdict()))
    hybrid_only = _HYBRID_ONLY if config.training.optimizer == "adamw" else ()
    for name in ("seed", *_WITHOUT_EFFECT, *hybrid_only):
        del training[name]
    return {"model": to_dict(config.model), "training": training}


_datasets: dict[str, Any] = {}


class TrainingRun:
    """Trains from start to end for each round; the round is the seed.

    Args:
        preset: shape and run to start from.
        steps: of the run.
        text: see `text_paths`.
        changes: overrides of all sides such as 'model.dim=192', separated by blanks; with the prefix 'ours.'
            or 'peer.' of one side only, see `overrides`.
        data: path of the text 'file'.
        runs: folder of the runs that were done; None: none is kept.
        threads: that compute.
    """

    #: Who trains, in a record.
    side = "pyhybrid"

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
        self.source, self.threads = text_paths(text, data), threads
        self.runs = RunFolder(runs)
        base = PRESETS[preset].config
        # Uniform windows, so that what is compared does not depend on the default sampler.
        base = replace(base, training=replace(base.training, steps=steps, sampler="uniform"))
        self.steps, self.text, self.changes = steps, text, changes.split()
        self.config = apply_overrides(base, self.overrides())

    def overrides(self) -> list[str]:
        """What this side changes of the preset: here what all do, and our own."""
        return self.changes_of("ours")

    def changes_of(self, side: str | None) -> list[str]:
        """The changes of all sides, and behind them those of one.

        Args:
            side: 'ours', 'peer', or None for neither.
        """
        shared = [change for change in self.changes if not change.startswith(("ours.", "peer."))]
        own = [change.removeprefix(f"{side}.") for change in self.changes if change.startswith(f"{side}.")]
        return shared + own

    def answer(self) -> Answer:
        """The first batch: the sides differ in all but the text."""
        from pyhybrid.batches import Batches

        t = self.config.training
        batches = Batches(self.dataset.train, batch_size=t.batch_size, context=t.context)
        return {"first_batch": batches.batch(1).astype(np.float64)}

    def run(self, round_number: int) -> float:
        """Validation loss in nats per byte with the round as the seed."""
        return float(self.record(round_number)["validation_loss"])

    def record(self, seed: int) -> dict[str, Any]:
        """Losses and times of the run with a seed, which is done now if it was not before."""
        found = self.kept(seed)
        if found is None:
            key = self.side, seed, self.dataset.sha256, self.config
            found = self.runs.keep(*key, self.train(seed, self.dataset))
        return found

    def kept(self, seed: int) -> dict[str, Any] | None:
        """The record of the run with a seed if it was done before."""
        return self.runs.find(self.side, seed, self.dataset.sha256, self.config)

    @property
    def dataset(self) -> Any:
        """Both splits of the text, loaded once a process."""
        from pyhybrid.data import Dataset, load_dataset

        if isinstance(self.source, Dataset):
            return self.source
        name = repr(self.source)
        if name not in _datasets:
            _datasets[name] = load_dataset(self.source)
        return _datasets[name]

    def train(self, seed: int, dataset: Any) -> dict[str, Any]:
        """Does a run; the loss behind it and what it took."""
        from pyhybrid._context import Context
        from pyhybrid._run_batches import RunBatches
        from pyhybrid._run_update import make_update
        from pyhybrid.language_model import LanguageModel
        from pyhybrid.schedule import LearningRateSchedule
        from pyhybrid.ternary_schedule import TernarySchedule

        t = replace(self.config.training, seed=seed)
        model = LanguageModel(self.config.model, seed=seed, context=Context(threads=self.threads))
        update: Any = self.update() or make_update(t, self.config.model)
        model.prepare(
            t.batch_size,
            t.context,
            backward=t.backward,
            optimizer=update.kind,
            ternary_blend=t.initial_ternary_blend,
            state_bits=t.state_bits,
        )
        schedule, ternary = LearningRateSchedule(t, t.steps), TernarySchedule(t, t.steps)
        ternary.begin(model)
        begun, at_work, busy, losses = time.perf_counter(), time.process_time(), 0.0, []
        batches = RunBatches(dataset.train, t, context=model.context)
        preparing = time.process_time() - at_work
        trace: dict[str, list[float]] = {}
        for number in range(1, t.steps + 1):
            ternary.before_gradients(model, number)
            batch = batches.batch(number)
            gradients = model.gradients(batch.tokens)
            ternary.before_update(model)
            losses.append(gradients.loss)
            at = time.process_time()
            found = update.apply(
                model,
                gradients,
                multiplier=schedule.multiplier(number),
                number=number,
                cluster=batch.cluster_share,
            )
            busy += time.process_time() - at
            ternary.after_update(found)
            found = {**found, **self.watch(model, batch.tokens, gradients.loss)}
            batches.learn(batch, model)
            for name in (*_TRACED, *self.watched):
                if name in found:
                    trace.setdefault(name, []).append(float(found[name]))
        seconds = {"seconds": time.perf_counter() - begun, "cpu_seconds": time.process_time() - at_work}
        return {
            "validation_loss": validation_loss(model, dataset, t.batch_size, t.context),
            "training_loss": float(np.mean(losses[-max(1, t.steps // 20) :])),
            "losses": _thinned(losses),
            "trace": {name: _thinned(values) for name, values in trace.items()},
            **seconds,
            "update_cpu_seconds": busy,
            "batches_cpu_seconds": preparing,
            "clusters": None if batches.clusters is None else batches.clusters.summary(),
            **self.behind(model, dataset),
        }

    def update(self) -> Any:
        """An optimiser of this side's own; None: the configuration's."""
        return None

    def behind(self, model: Any, dataset: Any) -> dict[str, Any]:
        """Looks at the model behind the last update; what it finds is recorded.

        Args:
            model: that was trained.
            dataset: of the run.
        """
        del model, dataset
        return {}

    #: Names of what `watch` finds.
    watched: tuple[str, ...] = ()

    def watch(self, model: Any, tokens: Any, loss: float, /) -> dict[str, float]:
        """Looks at the model behind an update; what it finds is traced.

        Args:
            model: behind the update.
            tokens: batch that the update went by.
            loss: of the batch, before the update.
        """
        del model, tokens, loss
        return {}


def kept_rows(rows: Iterable[Row]) -> list[Row]:
    """Rows with as many seeds as there are runs of all of their sides: nothing is trained.

    Args:
        rows: of whole training runs.

    Returns:
        Those with at least one seed; without all of their seeds they claim nothing, and say how many there
        are.
    """
    found = []
    for row in rows:
        sides = []
        for path in (row.ours, *row.peers.values()):
            module, _, name = path.partition(":")
            side = getattr(importlib.import_module(module), name)(**row.sizes, **row.hidden)
            sides.append(side)
        done = 0
        while done < row.rounds and all(side.kept(done) is not None for side in sides):
            done += 1
        if done == row.rounds:
            found.append(row)
        elif done:
            note = f"{row.note} {row.name}: {done} of {row.rounds} seeds so far."
            found.append(replace(row, rounds=done, goal=None, goals=(), note=note))
    return found


def _thinned(values: Sequence[float], n: int = 20) -> list[float]:
    """Means of n equal parts."""
    return [float(np.mean(part)) for part in np.array_split(np.asarray(values), min(n, len(values)))]


def validation_loss(model: Any, dataset: Any, batch_size: int, context: int) -> float:
    """Returns nats per byte of the whole validation split.

    Args:
        model: a language model.
        dataset: has the split.
        batch_size: windows at a time.
        context: tokens a window.
    """
    from pyhybrid.batches import validation_batches

    total, count = 0.0, 0
    for windows in validation_batches(dataset.validation, batch_size=batch_size, context=context):
        total += model.loss_sum(windows)
        count += windows.shape[0] * (windows.shape[1] - 1)
    return total / count
