"""Calls of the K-means functions of the C core: checked arrays, options, seeds, signals.

Place in the data flow: between clustering.py and _cluster_count.py, and C.
"""

from __future__ import annotations

import operator
import secrets
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pyhybrid._buffers import Array, pointer
from pyhybrid._context import Context
from pyhybrid._errors import CancelledError, InvalidArgumentError, NotFiniteError
from pyhybrid._native import ffi, lib

__all__ = [
    "Fit",
    "NotFinitePointsError",
    "assign",
    "check_status",
    "distances_to",
    "function_of",
    "matrix",
    "run_kmeans",
    "seed_of",
    "weights_of",
    "whole",
]


class NotFinitePointsError(NotFiniteError, ValueError):
    """NaN or infinity among the points: scikit-learn's contract asks for a ValueError."""


# ---- arrays ----


def matrix(values: Any, name: str, dtype: npt.DTypeLike | None = None) -> Array:
    """Returns values as a C-contiguous float32 or float64 matrix with at least one row and column.

    Args:
        values: float32 stays, half precision becomes float32, other numbers float64.
        name: for messages.
        dtype: what it must become; None: see values.

    Raises:
        InvalidArgumentError: not a matrix of numbers.
        TypeError: objects that are no numbers.
    """
    if hasattr(values, "tocsr"):
        raise InvalidArgumentError(
            f"{name} is a sparse matrix; sparse data is not supported: pass {name}.toarray()"
        )
    array = np.asarray(values)
    if array.dtype.kind == "c":
        raise InvalidArgumentError(f"Complex data not supported: {name} has dtype {array.dtype}")
    if array.ndim != 2:
        raise InvalidArgumentError(
            f"Expected 2D array, got {array.ndim}D array instead: {name} has shape {array.shape}. Reshape "
            "your data with .reshape(-1, 1) if it has a single feature, or .reshape(1, -1) for one sample"
        )
    for axis, what in enumerate(("sample", "feature")):
        if array.shape[axis] == 0:
            raise InvalidArgumentError(
                f"{name} has 0 {what}(s) (shape={array.shape}) while a minimum of 1 is required."
            )
    if dtype is None:
        dtype = np.float32 if array.dtype in (np.float32, np.float16) else np.float64
    return np.ascontiguousarray(array, dtype=dtype)


def weights_of(values: Any, n: int, dtype: npt.DTypeLike) -> Array | None:
    """Returns weights of n samples; None for None."""
    if values is None:
        return None
    array = np.asarray(values, dtype=dtype)
    if array.shape != (n,):
        raise InvalidArgumentError(f"sample_weight has shape {array.shape}; it must be ({n},), one a sample")
    return np.ascontiguousarray(array)


def function_of(name: str, dtype: np.dtype[Any]) -> Any:
    """Returns the C function of a name for float32 or float64."""
    return getattr(lib, f"{name}_{'f32' if dtype == np.float32 else 'f64'}")


def or_null(array: Array | None, *, write: bool = False) -> Any:
    """Returns an array's pointer, or NULL."""
    return ffi.NULL if array is None else pointer(array, write=write)


def seed_of(random_state: Any) -> int:
    """Returns a seed of 64 bits from None (the system's entropy), an integer, or a NumPy generator."""
    if random_state is None:
        return secrets.randbits(64)
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(0, 2**63))
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(0, 2**31 - 1))
    return whole(random_state, "random_state", 0, 2**64 - 1)


def whole(value: Any, name: str, least: int, most: int = 2**31 - 1) -> int:
    """Returns a whole number in a range.

    Raises:
        InvalidArgumentError: it is none.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, (bool, np.bool_)) or not least <= number <= most:
        raise InvalidArgumentError(f"{name} is {value!r}; give a whole number from {least} to {most}")
    return number


# ---- the C call ----


class _Watch:
    """What a callback of C, which cannot raise, leaves for the caller."""

    error: BaseException | None = None


def _on_error(_kind: Any, error: BaseException, trace: Any) -> int:
    if trace is not None and "user" in trace.tb_frame.f_locals:
        ffi.from_handle(trace.tb_frame.f_locals["user"]).error = error
    return 1


@ffi.def_extern(error=1, onerror=_on_error)  # type: ignore[untyped-decorator]
def pyhybrid_on_iteration(user: Any, _iteration: int, _shift: float) -> int:
    """Lets Python handle signals between iterations: Ctrl-C ends a fit."""
    return int(ffi.from_handle(user).error is not None)


@dataclass(frozen=True)
class Fit:
    """What hyb_kmeans gives."""

    centroids: Array
    labels: Array
    inertia: float
    n_iterations: int
    converged: bool


def run_kmeans(
    points: Array,
    weights: Array | None,
    n_clusters: int,
    context: Context,
    start: Array | None,
    **fields: Any,
) -> Fit:
    """Runs hyb_kmeans; fields are those of hyb_kmeans_options."""
    watch = _Watch()
    user = ffi.new_handle(watch)
    options = ffi.new("hyb_kmeans_options *")
    options.struct_size = ffi.sizeof("hyb_kmeans_options")
    options.n_clusters = n_clusters
    options.on_iteration, options.user = lib.pyhybrid_on_iteration, user
    for name, value in fields.items():
        setattr(options, name, value)
    n, d = points.shape
    centroids = np.empty((n_clusters, d), points.dtype)
    if start is not None:
        options.init, options.n_init = lib.HYB_KMEANS_GIVEN, 1
        centroids[:] = start
    labels, result = np.empty(n, np.int32), ffi.new("hyb_kmeans_result *")
    try:
        with context.lock:
            context.check(
                function_of("hyb_kmeans", points.dtype)(
                    context.handle,
                    options,
                    pointer(points),
                    n,
                    d,
                    or_null(weights),
                    pointer(centroids, write=True),
                    pointer(labels, write=True),
                    result,
                )
            )
    except CancelledError:
        if watch.error is not None:
            raise watch.error from None
        raise
    except NotFiniteError as error:
        raise NotFinitePointsError(error.message, error.status) from None
    return Fit(centroids, labels, float(result.inertia), int(result.n_iterations), bool(result.converged))


def assign(points: Array, centroids: Array, context: Context) -> tuple[Array, Array]:
    """Returns labels int32 [n], and squared distances float64 [n], of the nearest centroids."""
    labels, squares = np.empty(len(points), np.int32), np.empty(len(points), np.float64)
    with context.lock:
        status = function_of("hyb_kmeans_assign", points.dtype)(
            context.handle,
            pointer(points),
            *points.shape,
            pointer(centroids),
            len(centroids),
            pointer(labels, write=True),
            pointer(squares, write=True),
        )
        check_status(context, status)
    return labels, squares


def distances_to(points: Array, centroids: Array, context: Context) -> Array:
    """Returns Euclidean distances [n, k]."""
    distances = np.empty((len(points), len(centroids)), points.dtype)
    with context.lock:
        status = function_of("hyb_kmeans_distances", points.dtype)(
            context.handle,
            pointer(points),
            *points.shape,
            pointer(centroids),
            len(centroids),
            pointer(distances, write=True),
        )
        check_status(context, status)
    return distances


def check_status(context: Context, status: int) -> None:
    """Raises the exception of a status; NaN and infinity also as a ValueError."""
    try:
        context.check(status)
    except NotFiniteError as error:
        raise NotFinitePointsError(error.message, error.status) from None
