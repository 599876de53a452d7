"""Time and memory of a side in a process of its own: `python -m pyhybrid.benchmarks.memory`.

Place in the data flow: compat/benchmarks.py calls `measure_apart`. The child makes the side with its inputs,
notes how much memory it holds, asks Linux to begin its peak anew (/proc/self/clear_refs), calls the side, and
takes the peak less what was held before: the memory of the process, C included, that the calls needed on top
of their inputs. Memory that the process had freed and not given back is used again without showing.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pyhybrid.benchmarks.measure import thread_variables
from pyhybrid.benchmarks.registry import UnavailableError
from pyhybrid.metrics import peak_rss_bytes

__all__ = ["METHOD", "Measured", "measure_apart"]

METHOD = (
    "peak resident memory of the measuring process less what it held with the inputs ready; one process for "
    "each operation and backend"
)


class Measured(NamedTuple):
    """What one case took.

    Args:
        milliseconds: a call, median of the rounds.
        extra_bytes: see the module; None where the system does not tell.
    """

    milliseconds: float
    extra_bytes: int | None


def _resident_bytes() -> int | None:
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS:"))
    except (OSError, StopIteration):
        return None


def _reset_peak() -> bool:
    """Begins the peak anew; False where the system does not allow it."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        return False
    return True


def _measure(factory: str, case: Mapping[str, Any], n_rounds: int) -> Measured:
    module, name = factory.split(":")
    side = getattr(importlib.import_module(module), name)(**case)
    reset, before = _reset_peak(), _resident_bytes()
    samples = sorted(side.run(index) for index in range(n_rounds))
    extra = max(peak_rss_bytes() - before, 0) if reset and before is not None else None
    return Measured(samples[len(samples) // 2], extra)


def measure_apart(
    factory: str, cases: Sequence[Mapping[str, Any]], n_rounds: int, threads: int, timeout: float = 600.0
) -> list[Measured] | str:
    """Measures a side at several sizes, in their order, in one new process.

    Args:
        factory: "module:class" of a registry side.
        cases: keyword arguments of each.
        n_rounds: measurements of each, of which the median counts.
        threads: that the side and the libraries under it may use.
        timeout: seconds.

    Returns:
        One entry a case; or the reason why the side cannot run here.

    Raises:
        RuntimeError: the process failed; the message holds what it said.
    """
    request = json.dumps(
        {"factory": factory, "cases": [{**case, "threads": threads} for case in cases], "rounds": n_rounds}
    )
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pyhybrid.benchmarks.memory"],
        input=request, capture_output=True, text=True, timeout=timeout, check=False,
        env=os.environ | thread_variables(threads),
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"{factory} failed: {done.stderr.strip()}")
    answer = json.loads(done.stdout)
    return answer if isinstance(answer, str) else [Measured(*entry) for entry in answer]


def _main() -> None:
    request = json.load(sys.stdin)
    try:
        answer: Any = [_measure(request["factory"], case, request["rounds"]) for case in request["cases"]]
    except UnavailableError as error:
        answer = str(error)
    print(json.dumps(answer))


if __name__ == "__main__":
    _main()
