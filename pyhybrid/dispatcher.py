"""Which backend runs an operation, and why.

Place in the data flow: for users who want one call whatever the machine has. Training and inference do not go
through it: their results must not depend on a measurement.

    >>> dispatcher = create_auto_dispatcher()             # doctest: +SKIP
    >>> dispatcher.quantize(weights)                      # doctest: +SKIP
    >>> print(dispatcher.explain("quantize", 10_000_000)) # doctest: +SKIP

A backend is eligible where it is there, preferred, can do the operation on the dtype, and the data reach its
floor. Among those that are, the fastest by the machine's calibration runs; without a calibration the first in
the documents' order: GPU, C++ (here `simd`), C, NumPy.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from pyhybrid._backends import BACKENDS, OPERATIONS, Backend, Clusters, backends, canonical_name
from pyhybrid._buffers import Array, float_array
from pyhybrid._calibration import Calibration, cache_path
from pyhybrid._cluster_calls import matrix, whole
from pyhybrid._elementwise import Constrained
from pyhybrid._errors import InvalidArgumentError, UnsupportedError

__all__ = [
    "AdaptiveDispatcher",
    "BackendConfig",
    "BackendMetrics",
    "Choice",
    "HybridDispatcher",
    "create_auto_dispatcher",
    "describe_backends",
]


Result = TypeVar("Result")

_FLAGS = ("prefer_gpu", "prefer_cpp", "prefer_c")
_FLOORS = ("min_size_for_gpu", "min_size_for_cpp", "min_size_for_c")


@dataclass(slots=True)
class BackendConfig:
    """What the dispatcher may use. Fields are keywords, and may be set afterwards.

    Args:
        prefer_gpu: whether the GPU may be chosen.
        prefer_cpp: whether `simd` may be.
        prefer_c: whether `c` may be.
        min_size_for_gpu: least number of values for the GPU.
        min_size_for_cpp: for `simd`.
        min_size_for_c: for `c`.
        verbose: print every choice and its reason.
        benchmark_mode: run every operation on every backend that can, and count all of them; what is returned
            is the chosen one's.
        calibrate: choose by measured times; False: by the order of preference.
        cache: file of the calibration; None: backends.json in the user's cache folder.
        keep_calibration: read and write that file; False: measure anew in each process.
    """

    prefer_gpu: bool = True
    prefer_cpp: bool = True
    prefer_c: bool = True
    min_size_for_gpu: int = 1_000_000
    min_size_for_cpp: int = 100_000
    min_size_for_c: int = 10_000
    verbose: bool = False
    benchmark_mode: bool = False
    calibrate: bool = True
    cache: Path | None = None
    keep_calibration: bool = True

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Checks every field; the dispatcher does so before each choice, as fields may be set at any time.

        Raises:
            InvalidArgumentError: a value of the wrong type, or below 0.
        """
        for name in _FLOORS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
                raise InvalidArgumentError(f"{name} is {value!r}; give a whole number of at least 0")
        for name in (*_FLAGS, "verbose", "benchmark_mode", "calibrate", "keep_calibration"):
            if not isinstance(getattr(self, name), (bool, np.bool_)):
                raise InvalidArgumentError(f"{name} is {getattr(self, name)!r}; give True or False")

    def allows(self, backend: str, size: int) -> str | None:
        """Why a backend is not eligible for so many values; None if it is."""
        self.check()
        if backend == "numpy":
            return None
        word = "cpp" if backend == "simd" else backend
        if not getattr(self, f"prefer_{word}"):
            return f"prefer_{word} is False"
        floor = getattr(self, f"min_size_for_{word}")
        return f"{size:,} values are below min_size_for_{word}={floor:,}" if size < floor else None


@dataclass
class BackendMetrics:
    """Counts and times of what ran, by backend.

    Args:
        seconds: of each operation, by backend.
        operations: how often each operation ran, by name and backend.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    operations: dict[str, dict[str, int]] = field(default_factory=dict)

    def record_operation(self, operation: str, backend: str, seconds: float) -> None:
        """Counts one operation.

        Args:
            operation: its name.
            backend: that ran it.
            seconds: it took.
        """
        total = self.seconds.setdefault(backend, [0, 0.0, np.inf, 0.0])
        total[0] += 1
        total[1] += seconds
        total[2] = min(total[2], seconds)
        total[3] = max(total[3], seconds)
        counts = self.operations.setdefault(operation, {})
        counts[backend] = counts.get(backend, 0) + 1

    def get_summary(self) -> dict[str, Any]:
        """Returns 'total_operations', 'backend_summary' (count and times in ms by backend), 'operations'."""
        return {
            "total_operations": int(sum(count for count, *_ in self.seconds.values())),
            "backend_summary": {
                name: {
                    "count": int(count),
                    "avg_time_ms": 1e3 * total / count,
                    "min_time_ms": 1e3 * least,
                    "max_time_ms": 1e3 * most,
                    "total_time_ms": 1e3 * total,
                }
                for name, (count, total, least, most) in self.seconds.items()
            },
            "operations": {name: dict(counts) for name, counts in self.operations.items()},
        }


class Choice(NamedTuple):
    """A decision.

    Args:
        backend: the name of the one that runs.
        reason: why, one line.
        rejected: why not, by name, of those that are not eligible.
        seconds: expected time of each that is eligible; empty without calibration.
    """

    backend: str
    reason: str
    rejected: dict[str, str]
    seconds: dict[str, float]

    def __str__(self) -> str:
        return "; ".join(
            [f"{self.backend}: {self.reason}", *(f"not {k}: {v}" for k, v in self.rejected.items())]
        )


class HybridDispatcher:
    """Runs operations on the backend that suits their size.

    Args:
        config: None for the defaults.
    """

    def __init__(self, config: BackendConfig | None = None) -> None:
        if config is not None and not isinstance(config, BackendConfig):
            raise InvalidArgumentError(f"config is {config!r}; give a BackendConfig, or None")
        self.config = config or BackendConfig()
        self.metrics = BackendMetrics()
        self._calibration: Calibration | None = None

    # -- choosing

    @property
    def calibration(self) -> Calibration:
        """The machine's calibration; read when it is first needed."""
        if self._calibration is None:
            path = Path(self.config.cache or cache_path()) if self.config.keep_calibration else None
            self._calibration = Calibration(backends(), path)
        return self._calibration

    def choose(
        self, operation: str, size: int, dtype: npt.DTypeLike = np.float32, work: float | None = None
    ) -> Choice:
        """Decides which backend runs.

        Args:
            operation: 'quantize', 'constrain', 'matmul' or 'kmeans'.
            size: number of values that go in.
            dtype: float32 or float64.
            work: as for the calibration; None: that of a square product, or of 32 features in 8 clusters.
        """
        if operation not in OPERATIONS:
            raise InvalidArgumentError(f"operation is {operation!r}; choose one of {', '.join(OPERATIONS)}")
        kind = np.dtype(dtype)
        if work is None:
            work = {"matmul": (size / 2) ** 1.5, "kmeans": 8.0 * size}.get(operation, float(size))
        rejected = {}
        for name, backend in backends().items():
            reason = backend.lacks(operation, kind) or self.config.allows(name, size)
            if reason:
                rejected[name] = reason
        eligible = [name for name in BACKENDS if name not in rejected]
        if len(eligible) == 1:
            return Choice(eligible[0], "the only one that is eligible", rejected, {})
        if not self.config.calibrate:
            return Choice(eligible[0], "first in the order of preference", rejected, {})
        times = {name: self.calibration.seconds(operation, kind, name, work) for name in eligible}
        best = min(times, key=times.__getitem__)
        listed = ", ".join(f"{name} {1e3 * seconds:.3g} ms" for name, seconds in times.items())
        return Choice(best, f"the fastest by calibration ({listed})", rejected, times)

    def explain(self, operation: str, size: int, dtype: npt.DTypeLike = np.float32) -> str:
        """Returns in one line which backend would run, and why the others would not."""
        return (
            f"{operation} of {size:,} {np.dtype(dtype)} values runs on {self.choose(operation, size, dtype)}"
        )

    def _run(
        self,
        operation: str,
        size: int,
        dtype: np.dtype[Any],
        work: float,
        call: Callable[[Backend], Result],
        backend: str | None,
        benchmark: bool,
    ) -> Result:
        if backend is None:
            choice = self.choose(operation, size, dtype, work)
        else:
            choice = Choice(canonical_name(backend), "asked for", {}, {})
            missing = backends()[choice.backend].lacks(operation, dtype)
            if missing:
                raise UnsupportedError(f"backend {choice.backend!r} cannot run {operation}: {missing}")
        if self.config.verbose:
            print(f"{operation} of {size:,} {dtype} values: {choice}", flush=True)
        result = self._timed(operation, choice.backend, call)
        for name, other in backends().items() if benchmark or self.config.benchmark_mode else ():
            if name != choice.backend and other.lacks(operation, dtype) is None:
                self._timed(operation, name, call)
        return result

    def _timed(self, operation: str, name: str, call: Callable[[Backend], Result]) -> Result:
        start = time.perf_counter()
        result = call(backends()[name])
        self.metrics.record_operation(operation, name, time.perf_counter() - start)
        return result

    # -- operations

    def quantize(
        self,
        values: npt.ArrayLike,
        benchmark: bool = False,
        *,
        levels: Literal[3, 5] = 5,
        scale: float = 1.0,
        backend: str | None = None,
    ) -> Array:
        """Rounds to 5 or 3 levels: `pyhybrid.quantize_levels`. The bits do not depend on the backend.

        Args:
            values: any shape.
            benchmark: also run every other backend, for the metrics.
            levels: 5 or 3.
            scale: of the levels.
            backend: the one to use; None: choose.

        Raises:
            UnsupportedError: the backend that was asked for is absent.
            HybridError: as `quantize_levels`.
        """
        array = float_array(values, "values")
        return self._run(
            "quantize", array.size, array.dtype, float(array.size),
            lambda chosen: chosen.quantize(array, levels=levels, scale=scale), backend, benchmark,
        )  # fmt: skip

    def constrain(
        self, values: npt.ArrayLike, radius: float, benchmark: bool = False, *, backend: str | None = None
    ) -> Constrained:
        """Bounds a Euclidean norm: `pyhybrid.constrain_norm`. The bits do not depend on the backend."""
        array = float_array(values, "values")
        return self._run(
            "constrain", array.size, array.dtype, float(array.size),
            lambda chosen: chosen.constrain(array, radius), backend, benchmark,
        )  # fmt: skip

    def matmul(
        self, a: npt.ArrayLike, b: npt.ArrayLike, benchmark: bool = False, *, backend: str | None = None
    ) -> Array:
        """Multiplies float matrices [m, k] and [k, n]; float64 by NumPy only."""
        left, right = float_array(a, "a", (None, None)), float_array(b, "b", (None, None))
        work = float(left.shape[0]) * left.shape[1] * right.shape[1]
        return self._run(
            "matmul", left.size + right.size, np.result_type(left, right), work,
            lambda chosen: chosen.matmul(left, right), backend, benchmark,
        )  # fmt: skip

    def kmeans(
        self,
        data: npt.ArrayLike,
        n_clusters: int = 8,
        benchmark: bool = False,
        *,
        backend: str | None = None,
        **options: Any,
    ) -> Clusters:
        """Clusters points; (labels, centroids).

        Args:
            data: [n, features], finite.
            n_clusters: more than points are reduced, with a warning.
            benchmark: also run every other backend, for the metrics.
            backend: the one to use; None: choose.
            options: init, max_iter, tol, random_state.

        Raises:
            TypeError: an unknown option.
            HybridError: a wrong shape or number, NaN or infinity, or a backend that is absent.
        """
        points = matrix(data, "data")
        wanted = whole(n_clusters, "n_clusters", 1)
        return self._run(
            "kmeans", points.size, points.dtype, float(points.size) * wanted,
            lambda chosen: chosen.kmeans(points, wanted, **options), backend, benchmark,
        )  # fmt: skip

    # -- what the documents call

    def select_quantizer(self, data_size: int, operation: str = "quantize") -> tuple[Backend, str]:
        """Returns the backend that would run, and the documents' label of it."""
        chosen = backends()[self.choose(operation, data_size).backend]
        return chosen, chosen.label

    def select_kmeans(self, data_size: int, n_features: int) -> tuple[Backend, str]:
        """The same for K-means of data_size points."""
        return self.select_quantizer(data_size * n_features, "kmeans")

    def select_optimizer(self) -> tuple[Backend, str]:
        """The same for the bound of the norm, for vectors that reach every floor."""
        return self.select_quantizer(max(getattr(self.config, name) for name in _FLOORS), "constrain")

    def get_backend_info(self) -> dict[str, Any]:
        """Returns whether each of 'numpy', 'gpu', 'cpp', 'c' is there, 'preferred_order', and 'reasons'."""
        found = {("cpp" if name == "simd" else name): backend for name, backend in backends().items()}
        info: dict[str, Any] = {name: backend.reason is None for name, backend in found.items()}
        info["preferred_order"] = self._get_preference_order()
        info["reasons"] = {name: backend.reason for name, backend in found.items() if backend.reason}
        return info

    def _get_preference_order(self) -> list[str]:
        """Labels of the backends that are there and preferred."""
        order = []
        for name, backend in backends().items():
            word = "cpp" if name == "simd" else name
            if backend.reason is None and (name == "numpy" or getattr(self.config, f"prefer_{word}")):
                order.append(backend.label)
        return order

    def get_metrics(self) -> dict[str, Any]:
        """Returns what ran so far: 'total_operations', 'backend_summary', 'operations'."""
        return self.metrics.get_summary()

    def benchmark_all_backends(self, data_size: int = 100_000) -> dict[str, dict[str, float]]:
        """Measures every operation on float32 data of a size.

        Args:
            data_size: number of values.

        Returns:
            Milliseconds by operation and backend; the backends that are absent are left out.
        """
        rng = np.random.default_rng(0)
        values, side = rng.standard_normal(data_size, np.float32), max(int((data_size / 2) ** 0.5), 1)
        square = values[: side * side].reshape(side, side)
        points = np.resize(values, (max(data_size // 32, 8), 32))
        calls: dict[str, Callable[[Backend], Any]] = {
            "quantize": lambda backend: backend.quantize(values),
            "constrain": lambda backend: backend.constrain(values, 1.0),
            "matmul": lambda backend: backend.matmul(square, square),
            "kmeans": lambda backend: backend.kmeans(points, 8, init=points[:8], max_iter=10),
        }
        times: dict[str, dict[str, float]] = {operation: {} for operation in calls}
        for operation, call in calls.items():
            for name, backend in backends().items():
                if backend.reason is None:
                    self._timed(operation, name, call)  # warm
                    start = time.perf_counter()
                    self._timed(operation, name, call)
                    times[operation][name] = 1e3 * (time.perf_counter() - start)
        return times


class AdaptiveDispatcher(HybridDispatcher):
    """A dispatcher whose floors follow the calibration."""

    def update_thresholds(self, operation: str = "quantize") -> BackendConfig:
        """Sets each floor to the least probed size from which on the backend beats NumPy.

        A backend that never does keeps its floor: it is not chosen while calibration is on.

        Args:
            operation: that is looked at.
        """
        kind = np.dtype(np.float32)
        for name, word in (("simd", "cpp"), ("c", "c")):
            sizes = [10**power for power in range(2, 8)]
            wins = [
                self.calibration.seconds(operation, kind, name, size)
                < self.calibration.seconds(operation, kind, "numpy", size)
                for size in sizes
            ]
            lasting = [size for i, size in enumerate(sizes) if all(wins[i:])]
            if lasting:
                setattr(self.config, f"min_size_for_{word}", lasting[0])
        return self.config

    def recommend_compilation(self) -> list[str]:
        """Returns what would add a backend; empty if all are there. C and C++ come with every build."""
        return [f"{backend.label}: {backend.reason}" for backend in backends().values() if backend.reason]


def create_auto_dispatcher(config: BackendConfig | None = None) -> HybridDispatcher:
    """Returns a dispatcher with the defaults of this machine.

    Args:
        config: None for the defaults.
    """
    return HybridDispatcher(config)


def describe_backends(config: BackendConfig | None = None, *, calibrate: bool = False) -> dict[str, Any]:
    """Describes the backends and what would be chosen: the command `pyhybrid backends`.

    Args:
        config: None for the defaults.
        calibrate: measure anew even what the cache holds.

    Returns:
        Plain values: 'backends' (name, label, available, reason, isa, threads), 'choices' (operation, dtype,
        size, backend, reason, rejected, milliseconds), 'cache' (the file), 'trouble' (what kept it from use,
        or None).
    """
    dispatcher = HybridDispatcher(config)
    choices = []
    for operation in OPERATIONS:
        if calibrate:
            dispatcher.calibration.measure(operation, np.dtype(np.float32))
        for size in (10_000, 100_000, 1_000_000, 10_000_000):
            choice = dispatcher.choose(operation, size)
            milliseconds = {name: 1e3 * seconds for name, seconds in choice.seconds.items()}
            choices.append(
                {"operation": operation, "dtype": "float32", "size": size, "backend": choice.backend}
                | {"reason": choice.reason, "rejected": choice.rejected, "milliseconds": milliseconds}
            )
    calibration = dispatcher.calibration
    return {
        "backends": [backend.describe() for backend in backends().values()],
        "choices": choices,
        "cache": None if calibration.path is None else str(calibration.path),
        "trouble": calibration.trouble,
    }
