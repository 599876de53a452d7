"""How long each backend takes on this machine, measured once and kept in a file of the user's cache.

Place in the data flow: dispatcher.py asks for a time; what the file lacks is measured (some tenths of a
second an operation) and written back. The file is keyed by the library's version, the processor, the
instruction set, the number of threads and NumPy's version. A file that is damaged or cannot be written costs
another measurement, nothing else.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pyhybrid._backends import Backend
from pyhybrid._buffers import Array
from pyhybrid._context import cpu_name
from pyhybrid._native import ffi, lib

__all__ = ["Calibration", "cache_path"]

_FORMAT = 1
#: Sizes of the probes: values; side of a square product; points of K-means.
_PROBES: dict[str, tuple[int, ...]] = {
    "quantize": (10_000, 100_000, 1_000_000),
    "constrain": (10_000, 100_000, 1_000_000),
    "matmul": (32, 128, 384),
    "kmeans": (500, 5_000),
}
_FEATURES, _CLUSTERS, _ITERATIONS = 32, 8, 4
#: Backends take turns so often, each time for so many seconds and at least one call; the fastest call counts.
_ROUNDS, _SECONDS = 3, 0.005

#: (work, seconds) of the probes of one backend, in ascending order of work.
Times = list[tuple[float, float]]

_logger = logging.getLogger("pyhybrid")


def cache_path() -> Path:
    """Returns the file: in XDG_CACHE_HOME, or in ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(root) if os.path.isabs(root) else Path("~/.cache").expanduser()
    return base / "pyhybrid" / "backends.json"


def _machine_key(backends: Mapping[str, Backend]) -> str:
    about = backends["simd"].describe()
    version = ffi.string(lib.hyb_version_string()).decode()
    gpu = backends["gpu"].describe().get("device", "no GPU")
    processor = f"{cpu_name()} | {about['isa']} | {about['threads']} threads | {gpu}"
    return f"{version} | {processor} | NumPy {np.__version__}"


def _probe(operation: str, size: int, dtype: np.dtype[Any]) -> tuple[float, Callable[[Backend], Any]]:
    """The work of a probe, and how a backend does it."""
    rng = np.random.default_rng(size)

    def draw(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(dtype)

    if operation == "matmul":
        a, b = draw(size, size), draw(size, size)
        return float(size) ** 3, lambda backend: backend.matmul(a, b)
    if operation == "kmeans":
        points = draw(size, _FEATURES)
        start = points[:_CLUSTERS].copy()
        run = {"init": start, "max_iter": _ITERATIONS, "tol": 0.0}
        return float(size * _FEATURES * _CLUSTERS), lambda backend: backend.kmeans(points, _CLUSTERS, **run)
    values = draw(size)
    if operation == "quantize":
        return float(size), lambda backend: backend.quantize(values)
    return float(size), lambda backend: backend.constrain(values, 1.0)


def _fastest(call: Callable[[], Any]) -> float:
    """Seconds of the fastest of several calls."""
    best, start = math.inf, time.perf_counter()
    while best == math.inf or time.perf_counter() - start < _SECONDS:
        begin = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - begin)
    return max(best, 1e-9)


def _valid(times: Any) -> bool:
    """Whether a value of the file is what was written."""
    return (
        isinstance(times, list)
        and len(times) > 0
        and all(
            isinstance(pair, list)
            and len(pair) == 2
            and all(isinstance(x, (int, float)) and math.isfinite(x) and x > 0 for x in pair)
            for pair in times
        )
        and all(a[0] < b[0] for a, b in itertools.pairwise(times))
    )


class Calibration:
    """Times of the backends, from the file or measured.

    Args:
        backends: all of them, by name.
        path: the file; None: nothing is read or kept.
    """

    def __init__(self, backends: Mapping[str, Backend], path: Path | None) -> None:
        self.backends, self.path = backends, path
        self.key = _machine_key(backends)
        #: What kept the file from being read or written; None if nothing did.
        self.trouble: str | None = None
        self._times: dict[tuple[str, str], Times] = {}
        for name, by_backend in self._read().get(self.key, {}).items():
            for backend, times in by_backend.items() if isinstance(by_backend, dict) else ():
                if _valid(times):
                    self._times[name, backend] = [(float(work), float(seconds)) for work, seconds in times]

    def seconds(self, operation: str, dtype: np.dtype[Any], backend: str, work: float) -> float:
        """Returns how long an operation takes: between the probes along a line in logarithms, beyond the last
        in proportion to the work.

        Args:
            operation: its name.
            dtype: float32 or float64.
            backend: one that can do it.
            work: values; m k n of a product; n features clusters of K-means.
        """
        name = f"{operation}/{dtype}"
        if (name, backend) not in self._times:
            self.measure(operation, dtype)
        times = self._times[name, backend]
        if len(times) == 1:
            return times[0][1] * work / times[0][0]
        x, y = np.log([t[0] for t in times]), np.log([t[1] for t in times])
        place = math.log(max(work, 1.0))
        i = int(np.clip(np.searchsorted(x, place), 1, len(x) - 1))
        if place > x[-1]:
            return times[-1][1] * work / times[-1][0]
        slope = float(np.clip((y[i] - y[i - 1]) / (x[i] - x[i - 1]), 0.0, 2.0))
        return math.exp(float(y[i - 1]) + slope * (place - float(x[i - 1])))

    def measure(self, operation: str, dtype: np.dtype[Any]) -> None:
        """Measures an operation on every backend that can do it, and keeps what it found."""
        found: dict[str, Times] = {}
        for size in _PROBES[operation]:
            work, call = _probe(operation, size, dtype)
            able = [b for b in self.backends.values() if b.lacks(operation, dtype) is None]
            best = {backend.name: math.inf for backend in able}
            for _ in range(_ROUNDS):
                for backend in able:
                    best[backend.name] = min(best[backend.name], _fastest(partial(call, backend)))
            for name, seconds in best.items():
                found.setdefault(name, []).append((work, seconds))
        for name, times in found.items():
            self._times[f"{operation}/{dtype}", name] = times
        self._write()

    # -- the file

    def _read(self) -> dict[str, Any]:
        if self.path is None:
            return {}
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            self._note(f"{self.path} cannot be read and is measured anew ({error})")
            return {}
        machines = document.get("machines") if isinstance(document, dict) else None
        if not isinstance(machines, dict) or document.get("format") != _FORMAT:
            self._note(f"{self.path} is not a file of this version and is measured anew")
            return {}
        return {key: value for key, value in machines.items() if isinstance(value, dict)}

    def _write(self) -> None:
        """Replaces the file in one step; other machines' entries stay."""
        if self.path is None:
            return
        machines = self._read()  # another process may have written meanwhile
        own: dict[str, dict[str, Times]] = {}
        for (name, backend), times in self._times.items():
            own.setdefault(name, {})[backend] = times
        machines[self.key] = {**machines.get(self.key, {}), **own}
        temporary = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                "w", dir=self.path.parent, prefix=".backends", delete=False, encoding="utf-8"
            ) as file:
                temporary = file.name
                json.dump({"format": _FORMAT, "machines": machines}, file, indent=1)
            os.replace(temporary, self.path)
        except OSError as error:
            self._note(f"the calibration cannot be kept in {self.path}: {error}")
            if temporary is not None:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)

    def _note(self, text: str) -> None:
        self.trouble = text
        _logger.warning("%s", text)
