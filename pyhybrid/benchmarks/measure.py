"""Runs a benchmark row: each side in a process of its own, answers compared first, then measured in turn.

Place in the data flow: cli.py gives rows, measure gives plain dictionaries for JSON. Separate processes keep
one side's waiting threads, allocator and caches away from the other; they take turns, ours first in even
rounds, so that a change of the machine's speed meets both.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import platform
import re
import statistics
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from pyhybrid.benchmarks.registry import Answer, Goal, Row

__all__ = ["BenchmarkError", "machine", "measure", "relative_difference"]


class BenchmarkError(RuntimeError):
    """A side failed; the message holds its traceback."""


# ---- the machine ----


def _compiler() -> str:
    """The C library's compiler, from the comment that gcc and clang leave in a binary, or "unknown"."""
    from pyhybrid import _native

    path = getattr(_native, "__file__", None)
    if path is None:
        return "unknown"
    with open(path, "rb") as file:
        data = file.read()
    found = re.findall(rb"(GCC: \([^)]*\) [0-9][0-9.]*|[A-Za-z ]*clang version [0-9][0-9.]*)\b", data)
    names = sorted({text.decode("ascii", "replace").replace("GCC: ", "gcc ").strip() for text in found})
    return ", ".join(names) or "unknown"


def machine() -> dict[str, str]:
    """Describes the machine: processor, instruction-set tier in use, compiler; nothing else."""
    from pyhybrid._context import Context, cpu_name

    return {"cpu": cpu_name(), "isa": Context(threads=1).isa, "compiler": _compiler()}


def versions(peers: bool) -> dict[str, str]:
    """Versions of what was measured."""
    import pyhybrid

    found = {"pyhybrid": pyhybrid.__version__, "python": platform.python_version(), "numpy": np.__version__}
    if peers:
        import torch

        found["torch"] = torch.__version__
    return found


# ---- processes ----


def _serve(connection: Connection, factory: str, arguments: Mapping[str, Any]) -> None:
    """A side's process: makes it, then answers requests until the other end closes."""
    try:
        module, name = factory.split(":")
        side = getattr(importlib.import_module(module), name)(**arguments)
        connection.send(("ok", None))
        while True:
            request, *values = connection.recv()
            connection.send(("ok", getattr(side, request)(*values)))
    except EOFError:
        pass
    except BaseException:  # whatever it is, the other process must hear of it
        connection.send(("failed", traceback.format_exc()))


@contextmanager
def _environment(threads: int) -> Iterator[None]:
    """What a new process reads at its start; OpenBLAS, erratic with more, is pinned to one thread."""
    values = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1"}
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class _Worker:
    """A side in its own process."""

    def __init__(self, factory: str, row: Row) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        arguments = {**row.sizes, **row.hidden, "threads": row.threads}
        self.process = context.Process(target=_serve, args=(other, factory, arguments), daemon=True)
        with _environment(row.threads):
            self.process.start()
        other.close()
        self._receive()

    def _receive(self) -> Any:
        try:
            state, value = self.connection.recv()
        except EOFError as error:
            raise BenchmarkError("a benchmark process ended without a word") from error
        if state != "ok":
            raise BenchmarkError(str(value))
        return value

    def answer(self) -> Answer:
        self.connection.send(("answer",))
        return dict(self._receive())

    def run(self, round_number: int) -> float:
        self.connection.send(("run", round_number))
        return float(self._receive())

    def close(self) -> None:
        self.connection.close()
        self.process.join(10)
        if self.process.is_alive():
            self.process.terminate()


# ---- figures ----


def relative_difference(ours: Any, peer: Any) -> float:
    """Euclidean norm of the difference by the norm of the peer's array; infinite for another shape or NaN."""
    a, b = np.asarray(ours, np.float64), np.asarray(peer, np.float64)
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    difference = float(np.linalg.norm(a - b))
    return difference / float(np.linalg.norm(b)) if difference else 0.0


def _compare(row: Row, peer: str, ours: Answer, theirs: Answer) -> dict[str, Any]:
    """The agreement of two answers; sides that disagree are not compared in speed."""
    differences = {name: relative_difference(ours[name], theirs[name]) for name in row.agreement}
    wrong = [name for name, bound in row.agreement.items() if not differences[name] <= bound]
    if wrong:
        text = ", ".join(
            f"{name}: {differences[name]:.2e}, at most {row.agreement[name]:.2e}" for name in wrong
        )
        raise BenchmarkError(f"{row.name}: our answer and that of {peer} differ ({text})")
    return {name: {"difference": differences[name], "bound": bound} for name, bound in row.agreement.items()}


def _summary(samples: Sequence[float]) -> dict[str, Any]:
    return {
        "median": statistics.median(samples),
        "lowest": min(samples),
        "highest": max(samples),
        "samples": list(samples),
    }


def _relation(row: Row, ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Ratio (above 1 where we are better) and difference of paired rounds."""
    pairs = list(zip(ours, theirs, strict=True))
    ratios = [a / b if row.better == "higher" else b / a for a, b in pairs]
    return {
        "ratio": statistics.median(ratios),
        "difference": statistics.fmean(a - b for a, b in pairs),
    }


def _judge(goal: Goal, ours: Mapping[str, Any], peers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The figure that the claim is about, and whether it holds; None if its peer was not run."""
    verdict: dict[str, Any] = {"text": goal.text, "kind": goal.kind, "limit": goal.limit, "peer": goal.peer}
    if goal.kind == "value":
        figure = ours["median"]
        return verdict | {"figure": figure, "holds": figure <= goal.limit}
    if goal.peer is None or goal.peer not in peers:
        return verdict | {"figure": None, "holds": None}
    figure = peers[goal.peer][goal.kind]
    holds = figure >= goal.limit if goal.kind == "ratio" else abs(figure) <= goal.limit
    return verdict | {"figure": figure, "holds": holds}


def measure(
    row: Row, *, peers: bool, rounds: int | None = None, progress: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Measures a row.

    Args:
        row: what to measure.
        peers: run the peers too.
        rounds: measurements a side; None: row.rounds.
        progress: receives lines for people.

    Returns:
        Plain values: name, section, unit, better, sizes, threads, note, ours (median, lowest, highest,
        samples), peers (the same by name, with agreement, ratio and difference), goal (with figure and
        holds).

    Raises:
        BenchmarkError: a side failed, or the answers differ.
    """
    tell = progress or (lambda _: None)
    factories = {"ours": row.ours} | (dict(row.peers) if peers else {})
    workers: dict[str, _Worker] = {}
    samples: dict[str, list[float]] = {name: [] for name in factories}
    try:
        for name, factory in factories.items():
            workers[name] = _Worker(factory, row)
        agreement: dict[str, dict[str, Any]] = {}
        ours = workers["ours"].answer()
        for name in factories:
            if name != "ours":
                agreement[name] = _compare(row, name, ours, workers[name].answer())
        for round_number in range(rounds or row.rounds):
            order = list(factories) if round_number % 2 == 0 else list(factories)[::-1]
            for name in order:
                figure = workers[name].run(round_number)
                samples[name].append(figure)
                tell(f"{row.name}: {name} {figure:.5g} {row.unit}")
    finally:
        for worker in workers.values():
            worker.close()
    found = {
        name: _summary(samples[name])
        | _relation(row, samples["ours"], samples[name])
        | {"agreement": agreement[name]}
        for name in factories
        if name != "ours"
    }
    summary = _summary(samples["ours"])
    return {
        "name": row.name,
        "section": row.section,
        "unit": row.unit,
        "better": row.better,
        "sizes": dict(row.sizes),
        "threads": row.threads,
        "note": row.note,
        "ours": summary,
        "peers": found,
        "goal": _judge(row.goal, summary, found) if row.goal else None,
    }
