"""NumPy arrays to checked C pointers, and C memory to NumPy views.

Place in the data flow: between the public functions, which take what a user has, and the C calls, which trust
their pointers. Inputs are converted only where no value changes; outputs are never copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pyhybrid._errors import InvalidArgumentError
from pyhybrid._native import ffi

__all__ = ["Array", "Shape", "float_array", "input_array", "output_array", "pointer", "view"]

Array = npt.NDArray[Any]
#: Expected shape: a number fixes a dimension, None leaves it open.
Shape = Sequence[int | None]

_C_TYPES = {
    np.dtype(np.float32): "float",
    np.dtype(np.float64): "double",
    np.dtype(np.int8): "int8_t",
    np.dtype(np.uint8): "uint8_t",
    np.dtype(np.int32): "int32_t",
    np.dtype(np.uint32): "uint32_t",
    np.dtype(np.uint64): "uint64_t",
}


def _describe(shape: Shape) -> str:
    return "[" + ", ".join("any" if size is None else str(size) for size in shape) + "]"


def _check_shape(array: Array, shape: Shape | None, name: str) -> None:
    if shape is None:
        return
    if array.ndim != len(shape):
        raise InvalidArgumentError(
            f"{name} has {array.ndim} dimensions {list(array.shape)}; give shape {_describe(shape)}"
        )
    for given, wanted in zip(array.shape, shape, strict=True):
        if wanted is not None and given != wanted:
            raise InvalidArgumentError(f"{name} has shape {list(array.shape)}; it must be {_describe(shape)}")


def _convert(array: Array, dtype: np.dtype[Any], name: str, exact: bool) -> Array:
    """The array in another dtype if every value survives."""
    if array.size == 0 and array.dtype == np.float64 and not exact:
        return array.astype(dtype)  # an empty list has no type of its own
    if dtype.kind in "iu" and array.dtype.kind == "f":
        raise InvalidArgumentError(f"{name} has dtype {array.dtype}; give {dtype}")
    if np.can_cast(array.dtype, dtype, "safe"):
        return array.astype(dtype)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
        if low < limits.min or high > limits.max:
            worst = low if low < limits.min else high
            raise InvalidArgumentError(
                f"{name} holds {worst}; {dtype} goes from {limits.min} to {limits.max}"
            )
        return array.astype(dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        converted = array.astype(dtype)
        lost = exact and not np.array_equal(
            converted.astype(array.dtype), array, equal_nan=array.dtype.kind == "f"
        )
    if lost:
        raise InvalidArgumentError(
            f"{name} has dtype {array.dtype} and values that {dtype} cannot hold; convert it yourself, "
            f"as in {name}.astype(np.{dtype})"
        )
    return converted


def input_array(values: Any, dtype: npt.DTypeLike, name: str, shape: Shape | None = None) -> Array:
    """Returns values as a C-contiguous array of a dtype.

    An array that fits already is passed on without a copy. Another dtype is converted if no value changes;
    Python numbers, which have no precision to lose, are rounded to the nearest.

    Args:
        values: array, or anything that numpy.asarray takes.
        dtype: what C reads.
        name: the argument's name, for messages.
        shape: expected shape; None for any.

    Returns:
        The array; it must stay referenced while C reads it.

    Raises:
        InvalidArgumentError: a wrong shape or dtype, or values that the dtype cannot hold.
    """
    wanted = np.dtype(dtype)
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidArgumentError(f"{name} is not an array of numbers: {error}") from error
    if array.dtype.kind not in "biuf":
        raise InvalidArgumentError(f"{name} has dtype {array.dtype}; give {wanted}")
    _check_shape(array, shape, name)
    if array.dtype != wanted:
        array = _convert(array, wanted, name, exact=isinstance(values, (np.ndarray, np.generic)))
    return np.ascontiguousarray(array).reshape(array.shape)


def float_array(values: Any, name: str, shape: Shape | None = None) -> Array:
    """Returns values as a C-contiguous array of float32 or float64.

    Args:
        values: float32 stays, half precision becomes float32, other real numbers float64.
        name: the argument's name, for messages.
        shape: expected shape; None for any.

    Raises:
        InvalidArgumentError: no real numbers, or values that float64 cannot hold.
    """
    single = getattr(values, "dtype", None) in (np.dtype(np.float32), np.dtype(np.float16))
    return input_array(values, np.float32 if single else np.float64, name, shape)


def output_array(out: Array | None, dtype: npt.DTypeLike, shape: Sequence[int], name: str = "out") -> Array:
    """Returns the array that C writes: the caller's, checked, or a new one.

    Args:
        out: array to write to, or None.
        dtype: what C writes.
        shape: what C writes.
        name: the argument's name, for messages.

    Raises:
        InvalidArgumentError: out has another dtype or shape, is not C-contiguous, or is read-only.
    """
    if out is None:
        return np.empty(tuple(shape), dtype)
    if not isinstance(out, np.ndarray) or out.dtype != np.dtype(dtype):
        raise InvalidArgumentError(
            f"{name} must be a NumPy array of dtype {np.dtype(dtype)}: it is written in place"
        )
    _check_shape(out, shape, name)
    if not (out.flags.c_contiguous and out.flags.writeable and out.flags.aligned):
        raise InvalidArgumentError(
            f"{name} must be C-contiguous, aligned and writeable: it is written in place"
        )
    return out


def pointer(array: Array, *, write: bool = False) -> Any:
    """Returns a C pointer to an array's memory that keeps the array alive.

    Args:
        array: C-contiguous, of a dtype that C knows.
        write: C will write; the array must be writeable.
    """
    return ffi.from_buffer(f"{_C_TYPES[array.dtype]}[]", array, require_writable=write)


class _Memory:
    """C memory as NumPy sees it; NumPy keeps this object, and this object keeps the owner."""

    def __init__(self, address: int, dtype: np.dtype[Any], shape: tuple[int, ...], owner: object) -> None:
        self.owner = owner
        self.__array_interface__ = {
            "version": 3,
            "typestr": dtype.str,
            "shape": shape,
            "data": (address, False),
        }


def view(memory: Any, dtype: npt.DTypeLike, shape: Sequence[int], owner: object) -> Array | None:
    """Returns C memory as a writeable array without a copy.

    Args:
        memory: C pointer; NULL gives None.
        dtype: of the elements.
        shape: of the array.
        owner: whatever frees the memory when it dies: the array keeps it alive.
    """
    if memory == ffi.NULL:
        return None
    return np.asarray(_Memory(int(ffi.cast("uintptr_t", memory)), np.dtype(dtype), tuple(shape), owner))
