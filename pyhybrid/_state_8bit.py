"""An optimiser's moments in 8 bits, as arrays; what the codes mean is in hybrid/optimize.h.

Place in the data flow: _network.py shows a model's codes and scales, _model_types.py decodes them on demand,
config.py and `prepare` choose the bits.
"""

from __future__ import annotations

import numpy as np

from pyhybrid._buffers import Array, input_array, pointer
from pyhybrid._config_tables import STATE_BITS
from pyhybrid._context import default_context
from pyhybrid._errors import InvalidArgumentError
from pyhybrid._native import lib

__all__ = ["BLOCK", "decode_moment", "state_bits"]

#: Values that share a scale, within a row.
BLOCK = 256
_MOMENTS: dict[str, int] = {"first": lib.HYB_MOMENT_FIRST, "second": lib.HYB_MOMENT_SECOND}


def state_bits(value: int) -> int:
    """Returns bits of a moment that C takes.

    Args:
        value: given by the caller.

    Raises:
        InvalidArgumentError: neither 32 nor 8.
    """
    for bits in STATE_BITS:
        if not isinstance(value, (bool, str)) and value == bits:
            return bits
    raise InvalidArgumentError(f"state_bits is {value!r}; give 32 or 8")


def decode_moment(moment: str, codes: Array, scales: Array) -> Array:
    """Returns float32 [rows, columns].

    Args:
        moment: 'first' or 'second'.
        codes: uint8 [rows, columns].
        scales: float32 [rows, blocks].

    Raises:
        InvalidArgumentError: shapes that do not fit each other.
    """
    codes = input_array(codes, np.uint8, "codes", (None, None))
    n_rows, n_cols = codes.shape
    scales = input_array(scales, np.float32, "scales", (n_rows, -(-n_cols // BLOCK)))
    values = np.empty(codes.shape, np.float32)
    context = default_context()
    with context.lock:
        context.check(
            lib.hyb_state_decode(
                context.handle,
                _MOMENTS[moment],
                n_rows,
                n_cols,
                pointer(codes),
                pointer(scales),
                pointer(values, write=True),
            )
        )
    return values
