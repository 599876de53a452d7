"""What this machine can do at best, measured: reading, copying, fp32 and int8 arithmetic.

Place in the data flow: measure.py asks our side's process for the limits of a row right before and right
after the row's rounds; the figure is then a share of them. The loops are in lib/limits.c.
"""

from __future__ import annotations

from typing import Final

from pyhybrid._context import Context
from pyhybrid._native import ffi, lib

__all__ = ["LIMITS", "measure_limit"]

#: hyb_limit by name.
LIMITS: Final[dict[str, int]] = {
    "read": lib.HYB_LIMIT_READ,
    "copy": lib.HYB_LIMIT_COPY,
    "fma": lib.HYB_LIMIT_FMA_F32,
    "int8": lib.HYB_LIMIT_PRODUCT_I8,
}
# hyb_limits_measure's smallest working set a thread; and what is large enough to be DRAM on any processor.
_SMALLEST, _LARGEST = 4096, 512 << 20


def measure_limit(kind: str, working_set: int, context: Context) -> tuple[float, str]:
    """Measures a limit of this machine with a context's threads and instruction set.

    Args:
        kind: 'read', 'copy', 'fma' or 'int8'.
        working_set: bytes of 'read' and 'copy'; kept between 4 KiB a thread and 512 MiB.
        context: its threads work at once.

    Returns:
        Bytes or operations a second, and the instructions that were used.

    Raises:
        KeyError: no such limit.
        HybridError: memory is out.
    """
    limit = LIMITS[kind]
    figure = ffi.new("double *")
    n_bytes = min(max(working_set, _SMALLEST * context.threads), _LARGEST)
    with context.lock:
        context.check(lib.hyb_limits_measure(context.handle, limit, n_bytes, figure))
        method = ffi.string(lib.hyb_limits_method(context.handle, limit)).decode()
    return float(figure[0]), str(method)
