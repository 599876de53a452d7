"""The backends that the dispatcher chooses among, each with the same operations.

    numpy   plain NumPy (_reference_vectors.py)
    c       the C core without vector instructions, on one thread
    simd    the C core with every instruction set and thread that this machine has (the documents' C++)
    gpu     the CUDA module (_backend_gpu.py), where it and a device are there

Place in the data flow: below dispatcher.py. `quantize` and `constrain` give the same bits on all of them,
`kmeans` the same labels from given centroids; `matmul` differs by the rounding of its sums.
"""

from __future__ import annotations

import functools
import math
import sys
import warnings
from abc import ABC, abstractmethod
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pyhybrid import _reference_vectors as reference
from pyhybrid import quantization
from pyhybrid._buffers import Array, float_array
from pyhybrid._cluster_calls import assign, matrix, seed_of, whole
from pyhybrid._context import Context, default_context
from pyhybrid._elementwise import Constrained, vector_norm
from pyhybrid._errors import InvalidArgumentError, NotFiniteError, UnsupportedError
from pyhybrid.clustering import KMeans

__all__ = [
    "BACKENDS",
    "LABELS",
    "OPERATIONS",
    "Backend",
    "Clusters",
    "backends",
    "canonical_name",
    "native_backend",
    "number",
]

Operation = Literal["quantize", "constrain", "matmul", "kmeans"]
OPERATIONS: tuple[Operation, ...] = ("quantize", "constrain", "matmul", "kmeans")
#: In the documents' order of preference, with their labels.
LABELS: dict[str, str] = {"gpu": "GPU", "simd": "C++", "c": "C", "numpy": "NumPy"}
BACKENDS: tuple[str, ...] = tuple(LABELS)


class Clusters(NamedTuple):
    """What K-means gives.

    Args:
        labels: int32 [n].
        centroids: [clusters, features].
    """

    labels: Array
    centroids: Array


def number(value: Any, name: str, least: float, most: float) -> None:
    """Refuses what is no number from least to most."""
    if not isinstance(value, (int, float, np.number)) or not least <= value <= most:
        raise InvalidArgumentError(f"{name} is {value!r}; give a number from {least:g} to {most:g}")


def canonical_name(name: str) -> str:
    """Returns a backend's name from any of its spellings: 'simd', 'cpp', 'C++', 'GPU' ...

    Raises:
        InvalidArgumentError: there is none of this name.
    """
    known = (
        {label.lower(): key for key, label in LABELS.items()} | {key: key for key in LABELS} | {"cpp": "simd"}
    )
    found = known.get(name.lower()) if isinstance(name, str) else None
    if found is None:
        raise InvalidArgumentError(f"backend is {name!r}; choose one of {', '.join(map(repr, LABELS))}")
    return found


class Backend(ABC):
    """The operations of one backend; arguments are checked alike on all of them."""

    name: str

    @property
    def reason(self) -> str | None:
        """Why the backend is absent; None if it is there."""
        return None

    @property
    def label(self) -> str:
        """The documents' name."""
        return LABELS[self.name]

    def describe(self) -> dict[str, Any]:
        """Name, label, whether it is available and why not, instruction set, threads."""
        return {
            "name": self.name,
            "label": self.label,
            "available": self.reason is None,
            "reason": self.reason,
        }

    def lacks(self, operation: str, dtype: np.dtype[Any]) -> str | None:  # noqa: ARG002 - for those that do
        """Why the backend cannot do an operation on a dtype; None if it can."""
        return self.reason

    @abstractmethod
    def quantize(self, values: npt.ArrayLike, *, levels: Literal[3, 5] = 5, scale: float = 1.0) -> Array:
        """`pyhybrid.quantize_levels`."""

    @abstractmethod
    def constrain(self, values: npt.ArrayLike, radius: float) -> Constrained:
        """`pyhybrid.constrain_norm`."""

    @abstractmethod
    def norm(self, values: npt.ArrayLike) -> float:
        """Euclidean norm, summed in fp64."""

    @abstractmethod
    def nearest(self, points: Array, centroids: Array) -> Array:
        """Labels int32 [n] of the nearest centroids; checked matrices of one dtype."""

    @abstractmethod
    def _product(self, a: Array, b: Array) -> Array: ...

    @abstractmethod
    def _clusters(
        self, points: Array, n_clusters: int, start: Array | None, fit: dict[str, Any]
    ) -> Clusters: ...

    def matmul(self, a: npt.ArrayLike, b: npt.ArrayLike) -> Array:
        """Returns a b of float matrices [m, k] and [k, n], both of float32 or both of float64.

        Raises:
            InvalidArgumentError: no matrices, or shapes that do not fit.
            UnsupportedError: float64 on a backend that multiplies float32 only.
        """
        left, right = float_array(a, "a", (None, None)), float_array(b, "b", (None, None))
        if left.shape[1] != right.shape[0]:
            raise InvalidArgumentError(
                f"a {list(left.shape)} and b {list(right.shape)} do not fit: columns of a, rows of b"
            )
        kind = np.result_type(left, right)
        missing = self.lacks("matmul", kind)
        if missing:
            raise UnsupportedError(f"backend {self.name!r}: {missing}")
        return self._product(left.astype(kind, copy=False), right.astype(kind, copy=False))

    def kmeans(
        self,
        points: npt.ArrayLike,
        n_clusters: int,
        *,
        init: npt.ArrayLike | None = None,
        max_iter: int = 300,
        tol: float = 1e-4,
        random_state: Any = None,
    ) -> Clusters:
        """Clusters points by Lloyd's iterations.

        Args:
            points: [n, features], finite.
            n_clusters: number of clusters; more than points are reduced to their number, with a warning.
            init: centroids to start from [n_clusters, features]; None: k-means++ from `random_state`, whose
                draws differ between NumPy and the C core.
            max_iter: most iterations.
            tol: as for `pyhybrid.KMeans`.
            random_state: seed.

        Raises:
            InvalidArgumentError: a wrong shape or number.
            NotFiniteError: NaN or infinity.
        """
        data = matrix(points, "points")
        wanted = whole(n_clusters, "n_clusters", 1)
        if wanted > len(data):
            warnings.warn(
                f"n_clusters={wanted} is more than the {len(data)} points: {len(data)} clusters are made",
                stacklevel=2,
            )
            wanted = len(data)
        start = None if init is None else matrix(init, "init", data.dtype)
        if start is not None and start.shape != (wanted, data.shape[1]):
            raise InvalidArgumentError(
                f"init has shape {start.shape}; it must be {(wanted, data.shape[1])}: (n_clusters, features)"
            )
        number(tol, "tol", 0.0, sys.float_info.max)
        fit = {"max_iter": whole(max_iter, "max_iter", 1), "tol": tol, "random_state": random_state}
        return self._clusters(data, wanted, start, fit)


class _Numpy(Backend):
    name = "numpy"

    def quantize(self, values: npt.ArrayLike, *, levels: Literal[3, 5] = 5, scale: float = 1.0) -> Array:
        if isinstance(levels, bool) or levels not in (3, 5):
            raise InvalidArgumentError(f"levels is {levels!r}; give 5 or 3")
        array = float_array(values, "values")
        number(scale, "scale", -float(np.finfo(array.dtype).max), float(np.finfo(array.dtype).max))
        return reference.quantize_levels(array, levels, scale)

    def constrain(self, values: npt.ArrayLike, radius: float) -> Constrained:
        number(radius, "radius", 0.0, math.inf)
        result, _, active = reference.constrain_norm(float_array(values, "values"), radius)
        return Constrained(result, active)

    def norm(self, values: npt.ArrayLike) -> float:
        return reference.constrain_norm(float_array(values, "values"), np.inf)[1]

    def nearest(self, points: Array, centroids: Array) -> Array:
        return reference.nearest(points, centroids)[0]

    def _product(self, a: Array, b: Array) -> Array:
        return np.asarray(a @ b)

    def _clusters(self, points: Array, n_clusters: int, start: Array | None, fit: dict[str, Any]) -> Clusters:
        if not np.isfinite(points).all():
            raise NotFiniteError("points holds a NaN or an infinity")
        seed = seed_of(fit.pop("random_state"))
        begin = reference.kmeans_start(points, n_clusters, seed) if start is None else start
        labels, centroids, _ = reference.kmeans(points, begin, **fit)
        return Clusters(labels, centroids)


class _Native(Backend):
    """The C core.

    Args:
        name: 'c' or 'simd'.
        context: threads and instruction sets.
    """

    def __init__(self, name: str, context: Context) -> None:
        self.name, self.context = name, context

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"isa": self.context.isa, "threads": self.context.threads}

    def lacks(self, operation: str, dtype: np.dtype[Any]) -> str | None:
        if operation == "matmul" and dtype != np.float32:
            return f"{dtype}: the C core multiplies float32 only"
        return None

    def quantize(self, values: npt.ArrayLike, *, levels: Literal[3, 5] = 5, scale: float = 1.0) -> Array:
        return quantization.quantize_levels(values, levels, scale, context=self.context)

    def constrain(self, values: npt.ArrayLike, radius: float) -> Constrained:
        return quantization.constrain_norm(values, radius, context=self.context)

    def norm(self, values: npt.ArrayLike) -> float:
        return vector_norm(values, context=self.context)

    def nearest(self, points: Array, centroids: Array) -> Array:
        return assign(points, centroids, self.context)[0]

    def _product(self, a: Array, b: Array) -> Array:
        return quantization.gemm(a, b, context=self.context)

    def _clusters(self, points: Array, n_clusters: int, start: Array | None, fit: dict[str, Any]) -> Clusters:
        init: Any = "k-means++" if start is None else start
        model = KMeans(n_clusters, init=init, n_init=1, context=self.context, **fit).fit(points)
        return Clusters(model.labels_, model.cluster_centers_)


class _Absent(Backend):
    """A backend that is not there: every operation says why.

    Args:
        name: of the backend.
        reason: why.
    """

    def __init__(self, name: str, reason: str) -> None:
        self.name, self._reason = name, reason

    @property
    def reason(self) -> str | None:
        return self._reason

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise UnsupportedError(f"backend {self.name!r} is absent: {self._reason}")

    quantize = constrain = norm = matmul = kmeans = nearest = _product = _clusters = _refuse


def native_backend(threads: int | None, isa: Literal["scalar"] | None = None) -> Backend:
    """Returns the C core as a backend with threads of its own: `c` where isa is 'scalar', else `simd`."""
    return _Native("c" if isa == "scalar" else "simd", Context(threads=threads, isa=isa))


def _gpu_backend() -> Backend:
    """The CUDA module's backend, or what says why there is none."""
    from pyhybrid import cuda

    reason = cuda.unavailable()
    if reason is not None:
        return _Absent("gpu", reason)
    from pyhybrid._backend_gpu import GpuBackend

    return GpuBackend(cuda.default_device())


@functools.cache
def backends() -> dict[str, Backend]:
    """Returns every backend by name, in the documents' order; those that are absent say why."""
    return {
        "gpu": _gpu_backend(),
        "simd": _Native("simd", default_context()),
        "c": native_backend(1, "scalar"),
        "numpy": _Numpy(),
    }
