"""The documents' operations on vectors of floats: rounding to 3 or 5 levels, and the bound of a norm.

Place in the data flow: beside the matrix quantisers of quantization.py, which give codes and scales. What
comes out takes as much memory as what went in.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pyhybrid._buffers import Array, float_array, output_array, pointer
from pyhybrid._context import Context, default_context
from pyhybrid._errors import InvalidArgumentError, NotFiniteError
from pyhybrid._native import ffi, lib

__all__ = ["Constrained", "constrain_norm", "entropy_scale", "quantize_levels", "vector_norm"]


def _result_array(out: Array | None, values: Array) -> Array:
    """The array that receives a result as large as `values`: `out`, which may be `values`, or a new one.

    Raises:
        InvalidArgumentError: out has another shape or dtype, or overlaps values in part.
    """
    result = output_array(out, values.dtype, values.shape)
    if result.ctypes.data != values.ctypes.data and np.may_share_memory(result, values):
        raise InvalidArgumentError("out overlaps the values in part; give the same array, or another one")
    return result


def quantize_levels(
    values: npt.ArrayLike,
    levels: Literal[3, 5] = 5,
    scale: float = 1.0,
    clip: bool = True,
    out: Array | None = None,
    context: Context | None = None,
) -> Array:
    """Rounds to the levels -1, -0.5, 0, 0.5, 1, or to -1, 0, 1, times a scale; ties go to the even neighbour.

    5 levels: ``scale * (np.rint(2 * np.clip(values, -1, 1)) / 2)``, so that 0.25 gives 0 and 0.75 gives 1;
    3 levels: ``scale * np.rint(np.clip(values, -1, 1))``. The bits are those of these expressions on every
    processor and for any number of threads. Infinities are clipped.

    Args:
        values: any shape; float32 and float64 stay what they are, half precision becomes float32, other real
            numbers float64.
        levels: 5 or 3.
        scale: multiplies the levels; finite. Rounded to the dtype.
        clip: clip before rounding (True), or what was rounded (False): as both ends are levels, the result is
            the same. It is there for the documents' `enable_clipping`.
        out: array of the result's shape and dtype to write to, may be `values`; None for a new one.
        context: None for the default one.

    Returns:
        Levels in the shape of values.

    Raises:
        InvalidArgumentError: a wrong dtype, shape or option.
        NotFiniteError: a NaN; what `out` then holds is not said.
    """
    context = context or default_context()
    if isinstance(levels, bool) or levels not in (3, 5):
        raise InvalidArgumentError(f"levels is {levels!r}; give 5 or 3")
    if not isinstance(clip, (bool, np.bool_)):
        raise InvalidArgumentError(f"clip is {clip!r}; give True or False")
    array = float_array(values, "values")
    try:
        factor = float(scale)
    except (TypeError, ValueError):
        raise InvalidArgumentError(f"scale is {scale!r}; give a finite number") from None
    result = _result_array(out, array)
    single = array.dtype == np.float32
    if single and np.isfinite(factor) and abs(factor) > float(np.finfo(np.float32).max):
        raise InvalidArgumentError(f"scale is {scale!r}; float32 ends at 3.4e38")
    function = lib.hyb_quantize_levels_f32 if single else lib.hyb_quantize_levels_f64
    with context.lock:
        context.check(
            function(context.handle, levels, factor, array.size, pointer(array), pointer(result, write=True))
        )
    return result


def entropy_scale(values: npt.ArrayLike, bits: float = 1.58, levels: Literal[3, 5] = 5) -> float:
    """Returns the scale at which values, rounded to levels, have so many bits of entropy a value.

    ``quantize_levels(values / scale, levels, scale)`` are then the rounded values; an entropy coder needs
    about `bits` for each. At 1.58 bits five levels keep more of Gaussian values than any three do (a cosine
    of 0.917 against 0.900).

    Args:
        values: any shape, at least one that is not 0; finite.
        bits: entropy of a value, above 0. More than there can be gives the scale of the most that there is.
        levels: 5 or 3.

    Raises:
        InvalidArgumentError: a wrong dtype or option, no value, or zeros only.
        NotFiniteError: NaN or infinity.

    Source: Gish & Pierce 1968, "Asymptotically efficient quantizing": uniform steps at a given entropy.
    """
    if isinstance(levels, bool) or levels not in (3, 5):
        raise InvalidArgumentError(f"levels is {levels!r}; give 5 or 3")
    if isinstance(bits, (bool, str)) or not 0 < bits < math.inf:
        raise InvalidArgumentError(f"bits is {bits!r}; give a number above 0")
    array = float_array(values, "values").astype(np.float64).reshape(-1)
    if not np.isfinite(array).all():
        raise NotFiniteError("values holds NaN or infinity", lib.HYB_ERROR_NOT_FINITE)
    positive, negative = np.sort(array[array > 0]), np.sort(-array[array < 0])
    if positive.size + negative.size == 0:
        raise InvalidArgumentError("values has no value but 0: every scale gives the same")
    edges = np.array([0.5] if levels == 3 else [0.25, 0.75])

    def entropy(scale: float) -> float:
        counts = []
        for side in (positive, negative):
            above = side.size - np.searchsorted(side, edges * scale, side="right")
            counts += [above[-1], *(above[:-1] - above[1:])]
        shares = np.array([array.size - sum(counts), *counts]) / array.size
        shares = shares[shares > 0]
        return float(-(shares * np.log2(shares)).sum())

    # From all zeros downwards until there are enough bits; then between the last two.
    largest = max(side[-1] for side in (positive, negative) if side.size)
    scales = largest / edges[0] * 2.0 ** (-np.arange(0, 200) / 8)
    rates = [entropy(scale) for scale in scales]
    first = next((i for i, rate in enumerate(rates) if rate >= bits), None)
    if first is None:
        return float(scales[int(np.argmax(rates))])
    low, high = float(scales[first]), float(scales[max(first - 1, 0)])
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if entropy(middle) > bits else (low, middle)
    return high


class Constrained(NamedTuple):
    """A vector that was held to a ball.

    Args:
        values: shortened, or as they were.
        active: whether they were shortened.
    """

    values: Array
    active: bool


def _constrain(array: Array, radius: float, result: Array, context: Context | None) -> tuple[float, bool]:
    """Runs hyb_constrain_norm: norm before, and whether it was above the radius."""
    context = context or default_context()
    norm, active = ffi.new("double *"), ffi.new("int32_t *")
    single = array.dtype == np.float32
    function = lib.hyb_constrain_norm_f32 if single else lib.hyb_constrain_norm_f64
    source, target = pointer(array), pointer(result, write=radius != math.inf)
    with context.lock:
        context.check(function(context.handle, radius, array.size, source, target, norm, active))
    return float(norm[0]), bool(active[0])


def constrain_norm(
    values: npt.ArrayLike, radius: float, *, out: Array | None = None, context: Context | None = None
) -> Constrained:
    """Shortens a vector to a Euclidean norm of at most `radius`; never longer, whatever rounding does.

    The bits are the same on every processor and for any number of threads.

    Args:
        values: any shape, read as one vector, finite; float32 and float64 stay what they are, half precision
            becomes float32, other real numbers float64.
        radius: 0 or more; with infinity nothing is shortened.
        out: array of the result's shape and dtype to write to, may be `values`; None for a new one.
        context: None for the default one.

    Raises:
        InvalidArgumentError: a wrong dtype, shape or radius.
        NotFiniteError: NaN or infinity; `out` is unchanged.
    """
    array = float_array(values, "values")
    try:
        limit = float(radius)
    except (TypeError, ValueError):
        raise InvalidArgumentError(f"radius is {radius!r}; give a number of at least 0") from None
    result = _result_array(out, array)
    return Constrained(result, _constrain(array, limit, result, context)[1])


def vector_norm(values: npt.ArrayLike, *, context: Context | None = None) -> float:
    """Returns the Euclidean norm, summed in fp64; arguments and errors are those of `constrain_norm`."""
    array = float_array(values, "values")
    return _constrain(array, math.inf, array, context)[0]  # an infinite radius writes nothing
