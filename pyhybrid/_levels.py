"""Floats rounded to 3 or 5 evenly spaced levels, as floats: the element-wise quantiser of the documents.

Place in the data flow: beside the matrix quantisers of quantization.py, which give codes and scales. What
comes out takes as much memory as what went in.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from pyhybrid._buffers import Array, float_array, output_array, pointer
from pyhybrid._context import Context, default_context
from pyhybrid._errors import InvalidArgumentError
from pyhybrid._native import lib

__all__ = ["quantize_levels", "result_array"]


def result_array(out: Array | None, values: Array) -> Array:
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
    result = result_array(out, array)
    single = array.dtype == np.float32
    if single and np.isfinite(factor) and abs(factor) > float(np.finfo(np.float32).max):
        raise InvalidArgumentError(f"scale is {scale!r}; float32 ends at 3.4e38")
    function = lib.hyb_quantize_levels_f32 if single else lib.hyb_quantize_levels_f64
    with context.lock:
        context.check(
            function(context.handle, levels, factor, array.size, pointer(array), pointer(result, write=True))
        )
    return result
