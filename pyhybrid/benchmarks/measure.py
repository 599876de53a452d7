"""Runs a benchmark row: each side in a process of its own, answers compared first, then measured in turn.

Place in the data flow: cli.py gives rows, measure gives plain dictionaries for JSON. Separate processes keep
one side's waiting threads, allocator and caches away from the other; they take turns, ours first in even
rounds, so that a change of the machine's speed meets both.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import multiprocessing
import os
import platform
import re
import statistics
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from pyhybrid.benchmarks.registry import Answer, Goal, Row, UnavailableError

__all__ = ["BenchmarkError", "machine", "measure", "relative_difference", "thread_variables", "versions"]


class BenchmarkError(RuntimeError):
    """A side failed; the message holds its traceback."""


class _MissingError(Exception):
    """A side cannot run here; the message says why."""


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


def machine(isa: str | None = None) -> dict[str, str]:
    """Describes the machine: processor, instruction-set tier in use, compiler; nothing else.

    Args:
        isa: HYB_ISA of our sides; None: as the environment has it.
    """
    from pyhybrid._context import Context, cpu_name

    with _environment({"HYB_ISA": isa} if isa else {}):
        return {"cpu": cpu_name(), "isa": Context(threads=1).isa, "compiler": _compiler()}


def _blas() -> str | None:
    """Version and core type of the OpenBLAS in NumPy's wheel; None where NumPy has another BLAS."""
    folder = Path(np.__file__).parent.parent / "numpy.libs"
    for path in sorted(folder.glob("*openblas*")):
        library = ctypes.CDLL(str(path))
        words = []
        for name in ("config", "corename"):
            for prefix, suffix in (("scipy_openblas", "64_"), ("openblas", "64_"), ("openblas", "")):
                function = getattr(library, f"{prefix}_get_{name}{suffix}", None)
                if function is not None:
                    function.restype = ctypes.c_char_p
                    words.append(function().decode())
                    break
        if len(words) == 2:
            return f"{' '.join(words[0].split()[:2])}, core {words[1]}"
    return None


def versions(peers: bool) -> dict[str, str]:
    """Versions of what was measured."""
    import pyhybrid

    found = {"pyhybrid": pyhybrid.__version__, "python": platform.python_version(), "numpy": np.__version__}
    if peers:
        blas = _blas()
        found |= {"BLAS of NumPy": blas} if blas else {}
        for package in ("torch", "llama_cpp_python"):
            try:
                found[package.replace("_", "-")] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                found[package.replace("_", "-")] = "not installed"
    return found


# ---- processes ----


def _serve(connection: Connection, factory: str, arguments: Mapping[str, Any]) -> None:
    """A side's process: makes it, then answers requests until the other end closes."""
    try:
        _pin(int(arguments["threads"]))
        module, name = factory.split(":")
        side = getattr(importlib.import_module(module), name)(**arguments)
        connection.send(("ok", None))
        while True:
            request, *values = connection.recv()
            function = _measure_limit if request == "measure_limit" else getattr(side, request)
            connection.send(("ok", function(*values)))
    except EOFError:
        pass
    except UnavailableError as error:
        connection.send(("missing", str(error)))
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("pyhybrid"):  # our own mistake, not a missing peer
            connection.send(("failed", traceback.format_exc()))
            return
        connection.send(("missing", f"not installed: {error.name}"))
    except BaseException:  # whatever it is, the other process must hear of it
        connection.send(("failed", traceback.format_exc()))


def _pin(threads: int) -> None:
    """Keeps this process on as many processors as it has threads: the last ones, since the system's own work
    tends to be on the first. Sides take turns, so that they may share them."""
    if hasattr(os, "sched_setaffinity"):
        processors = sorted(os.sched_getaffinity(0))
        if threads < len(processors):
            os.sched_setaffinity(0, processors[-threads:])


def _measure_limit(kind: str, working_set: int, threads: int) -> tuple[float, str]:
    """A limit of the machine, per second, and the instructions that reached it."""
    from pyhybrid._context import Context
    from pyhybrid.benchmarks.limits import measure_limit

    return measure_limit(kind, working_set, Context(threads=threads))


def thread_variables(threads: int) -> dict[str, str]:
    """What a new process reads at its start; OpenBLAS, erratic with more, is pinned to one thread."""
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1"}


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables while a process starts."""
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
    """A side in its own process; `wait` before its first use."""

    def __init__(self, factory: str, row: Row, environment: Mapping[str, str]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        arguments = {**row.sizes, **row.hidden, "threads": row.threads}
        self.process = context.Process(target=_serve, args=(other, factory, arguments), daemon=True)
        with _environment(thread_variables(row.threads) | dict(environment)):
            self.process.start()
        other.close()

    def wait(self) -> None:
        """Returns when the side is made."""
        self._receive()

    def _receive(self) -> Any:
        try:
            state, value = self.connection.recv()
        except EOFError as error:
            raise BenchmarkError("a benchmark process ended without a word") from error
        if state == "missing":
            raise _MissingError(str(value))
        if state != "ok":
            raise BenchmarkError(str(value))
        return value

    def answer(self) -> Answer:
        self.connection.send(("answer",))
        return dict(self._receive())

    def run(self, round_number: int) -> float:
        self.connection.send(("run", round_number))
        return float(self._receive())

    def amount(self, kind: str) -> float:
        self.connection.send(("amount", kind))
        return float(self._receive())

    def limit(self, kind: str, working_set: int, threads: int) -> tuple[float, str]:
        self.connection.send(("measure_limit", kind, working_set, threads))
        figure, method = self._receive()
        return float(figure), str(method)

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
    chosen = {**row.agreement, **row.peer_agreement.get(peer, {})}
    bounds = {name: bound for name, bound in chosen.items() if bound is not None}
    differences = {name: relative_difference(ours[name], theirs[name]) for name in bounds}
    wrong = [name for name, bound in bounds.items() if not differences[name] <= bound]
    if wrong:
        text = ", ".join(f"{name}: {differences[name]:.2e}, at most {bounds[name]:.2e}" for name in wrong)
        raise BenchmarkError(f"{row.name}: our answer and that of {peer} differ ({text})")
    return {name: {"difference": differences[name], "bound": bound} for name, bound in bounds.items()}


def _summary(samples: Sequence[float]) -> dict[str, Any]:
    return {
        "median": statistics.median(samples),
        "lowest": min(samples),
        "highest": max(samples),
        "samples": list(samples),
    }


def _relation(row: Row, ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float | None]:
    """Ratio (above 1 where we are better) and difference of paired rounds."""
    pairs = list(zip(ours, theirs, strict=True))
    ratios = [a / b if row.better == "higher" else b / a for a, b in pairs]
    return {
        "ratio": statistics.median(ratios),
        "difference": statistics.fmean(a - b for a, b in pairs),
        "gain": statistics.fmean(a - b if row.better == "higher" else b - a for a, b in pairs),
        "worst": 1.0 / min(ratios),
        "half_width": _half_width([a - b for a, b in pairs]),
    }


# Student's t at 97.5 % for 1, 2, ... degrees of freedom; beyond, the normal distribution's.
_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def _half_width(differences: Sequence[float]) -> float | None:
    """Half of the 95 % confidence interval of a mean; None for a single value."""
    n = len(differences)
    if n < 2:
        return None
    quantile = _T_975[n - 2] if n - 2 < len(_T_975) else 1.96
    return float(quantile * statistics.stdev(differences) / n**0.5)


def _judge(
    goal: Goal,
    ours: Mapping[str, Any],
    peers: Mapping[str, Mapping[str, Any]],
    share: float | None = None,
) -> dict[str, Any]:
    """The figure that the claim is about, and whether it holds; None if its peer was not run."""
    verdict: dict[str, Any] = {"text": goal.text, "kind": goal.kind, "limit": goal.limit, "peer": goal.peer}
    if goal.kind == "value":
        figure = ours["median"]
        return verdict | {"figure": figure, "holds": figure <= goal.limit}
    if goal.kind == "share":
        return verdict | {"figure": share, "holds": None if share is None else share >= goal.limit}
    if goal.peer is None or goal.peer not in peers:
        return verdict | {"figure": None, "holds": None}
    figure = peers[goal.peer][goal.kind]
    at_most = goal.kind in ("difference", "worst")
    holds = abs(figure) <= goal.limit if at_most else figure >= goal.limit
    return verdict | {"figure": figure, "holds": holds}


def _shares(
    row: Row, ours: Mapping[str, Any], amounts: Mapping[int, float], found: Mapping[int, Sequence[Any]]
) -> list[dict[str, Any]]:
    """What our median is of each limit; of two measurements of a limit the faster counts."""
    shares = []
    for index, limit in enumerate(row.limits):
        best, method = max(found[index])
        shares.append(
            {
                "kind": limit.kind,
                "working_set": limit.working_set,
                "method": method,
                "per_second": best,
                "per_unit": amounts[index],
                "share": ours["median"] * amounts[index] / best,
            }
        )
    return shares


def _measure_limits(worker: _Worker, row: Row, found: dict[int, list[tuple[float, str]]]) -> None:
    for index, limit in enumerate(row.limits):
        found.setdefault(index, []).append(worker.limit(limit.kind, limit.working_set, row.threads))


def _take_turns(
    row: Row, workers: Mapping[str, _Worker], rounds: int, tell: Callable[[str], None]
) -> dict[str, list[float]]:
    """The figures of every side, by its name; ours first in even rounds."""
    samples: dict[str, list[float]] = {name: [] for name in workers}
    for round_number in range(rounds):
        for name in list(workers) if round_number % 2 == 0 else list(workers)[::-1]:
            figure = workers[name].run(round_number)
            samples[name].append(figure)
            tell(f"{row.name}: {name} {figure:.5g} {row.unit}")
    return samples


# What holds peers to a tier as HYB_ISA holds us: OpenBLAS, MKL, oneDNN and PyTorch's own kernels. ggml, which
# loads the library that suits the processor, has no such variable.
_PEER_TIERS = {
    "avx2": {
        "OPENBLAS_CORETYPE": "HASWELL",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
    }
}


def _start(
    row: Row, peers: bool, isa: str | None, workers: dict[str, _Worker], skipped: dict[str, str]
) -> dict[str, dict[str, Any]]:
    """Makes every side, compares the answers, returns the agreements; what is missing goes to `skipped`."""
    factories = {"ours": row.ours} | (dict(row.peers) if peers else {})
    for name, factory in factories.items():  # all begin at once: their imports take longest
        environment = dict(row.peer_environment.get(name, {}))
        if name == "ours" and isa:
            environment["HYB_ISA"] = isa
        elif isa:
            environment |= _PEER_TIERS.get(isa, {})
        workers[name] = _Worker(factory, row, environment)
    agreement: dict[str, dict[str, Any]] = {}
    answers: dict[str, Answer] = {}
    for name in factories:
        try:
            workers[name].wait()
            answers[name] = workers[name].answer()
        except _MissingError as reason:
            if name == "ours":
                raise BenchmarkError(f"our side cannot run: {reason}") from None
            skipped[name] = str(reason)
            workers.pop(name).close()
            continue
        if name != "ours":
            agreement[name] = _compare(row, name, answers["ours"], answers.pop(name))
    return agreement


def measure(
    row: Row,
    *,
    peers: bool,
    rounds: int | None = None,
    progress: Callable[[str], None] | None = None,
    isa: str | None = None,
) -> dict[str, Any]:
    """Measures a row.

    Args:
        row: what to measure.
        peers: run the peers too.
        rounds: measurements a side; None: row.rounds.
        progress: receives lines for people.
        isa: HYB_ISA of our side's process; None: as the environment has it.

    Returns:
        Plain values: name, section, unit, better, sizes, threads, note, ours (median, lowest, highest,
        samples), peers (the same by name, with agreement, ratio and difference), skipped (reason by peer),
        limits (each with the share that our median is of it), limits_add, share (the largest or the sum,
        or None), goal (with figure and holds), goals (all of them).

    Raises:
        BenchmarkError: a side failed, or the answers differ.
    """
    tell = progress or (lambda _: None)
    workers: dict[str, _Worker] = {}
    skipped: dict[str, str] = {}
    measured: dict[int, list[tuple[float, str]]] = {}
    try:
        agreement = _start(row, peers, isa, workers, skipped)
        ours = workers["ours"]
        amounts = {
            index: ours.amount(limit.kind) if limit.per_unit is None else limit.per_unit
            for index, limit in enumerate(row.limits)
        }
        _measure_limits(ours, row, measured)
        samples = _take_turns(row, workers, rounds or row.rounds, tell)
        _measure_limits(ours, row, measured)
    finally:
        for worker in workers.values():
            worker.close()
    found = {
        name: _summary(samples[name])
        | _relation(row, samples["ours"], samples[name])
        | {"agreement": agreement[name]}
        for name in samples
        if name != "ours"
    }
    summary = _summary(samples["ours"])
    limits = _shares(row, summary, amounts, measured)
    shares = [limit["share"] for limit in limits]
    share = (sum(shares) if row.limits_add else max(shares)) if shares else None
    goals = [
        _judge(goal, summary, found, share) for goal in ((row.goal,) if row.goal else ()) + row.goals
    ]
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
        "skipped": skipped,
        "limits": limits,
        "limits_add": row.limits_add,
        "share": share,
        "goal": goals[0] if row.goal else None,
        "goals": goals,
    }
