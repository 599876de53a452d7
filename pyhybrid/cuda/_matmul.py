"""Products on a device: packed ternary (and other integer) weights by activations, and fp32 matrices.

Place in the data flow: what `pyhybrid.PackedWeights`, `matmul` and `gemm` are for the processor.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pyhybrid._errors import InvalidArgumentError
from pyhybrid._native import ffi, lib
from pyhybrid.cuda._arrays import current_stream, make_like, view
from pyhybrid.cuda._device import Device, device_or_default
from pyhybrid.quantization import TRANSPOSES, Transpose, bits_to_format, choose

__all__ = ["Weights", "gemm", "matmul"]


class Weights:
    """A quantised matrix in a device's memory: 2 bits a ternary weight, 8 bits of the other integer formats.

    Args:
        codes: int8 [rows, columns] on the device.
        scales: float32 [1] or [rows] on the device.
        bits: of a code: 1.58, 1, 2, 4 or 8.
        device: that they are on; None for the first one.

    Raises:
        InvalidArgumentError: a wrong shape, or a code that is not of the format.
        NotFiniteError: a scale.
        OutOfMemoryError: the device has no room.
    """

    def __init__(self, codes: Any, scales: Any, bits: float = 1.58, *, device: Device | None = None) -> None:
        self.device = device_or_default(device)
        stream = current_stream(codes)
        found = view(codes, np.int8, "codes", (None, None), stream=stream)
        factors = view(scales, np.float32, "scales", (None,), stream=stream)
        self.shape: tuple[int, ...] = found.shape
        out = ffi.new("hyb_cuda_weights **")
        given = bits_to_format(bits), found.address, *found.shape, factors.address, factors.size, stream
        self.device.call(lib.hyb_cuda_weights_create_codes, *given, out)
        self._handle: Any = self.device.own(out[0], lib.hyb_cuda_weights_destroy)

    @property
    def handle(self) -> Any:
        """The hyb_cuda_weights."""
        return self._handle

    @property
    def nbytes(self) -> int:
        """Bytes of the device's memory."""
        return int(lib.hyb_cuda_weights_bytes(self._handle))

    def __repr__(self) -> str:
        return f"Weights(shape={self.shape}, {self.nbytes} bytes)"


def matmul(weights: Weights, x: Any) -> Any:
    """Multiplies packed weights [rows, columns] by activations; the bits are the processor's.

    Args:
        weights: on a device.
        x: float32 [tokens, columns], which are quantised to int8 a token: the result is float32 [tokens,
            rows]; or int8 codes: the exact int32 sums.
    """
    if not isinstance(weights, Weights):
        raise InvalidArgumentError(f"weights is a {type(weights).__name__}; give pyhybrid.cuda.Weights")
    stream, rows, columns = current_stream(x), *weights.shape
    is_codes = "int8" in str(getattr(x, "dtype", ""))
    found = view(x, np.int8 if is_codes else np.float32, "x", (None, columns), stream=stream)
    kind = np.int32 if is_codes else np.float32
    y = make_like(x, weights.device, (found.shape[0], rows), kind)
    function = lib.hyb_cuda_matmul_codes if is_codes else lib.hyb_cuda_matmul
    given = weights.handle, found.address, found.shape[0]
    weights.device.call(function, *given, view(y, kind, "y").address, stream)
    return y


def gemm(a: Any, b: Any, transpose: Transpose = "nn", *, device: Device | None = None) -> Any:
    """Returns the product of two float32 matrices on a device, by cuBLAS where it is there.

    Args:
        a: float32 [m, k], or [k, m] with 'tn'.
        b: float32 [k, n], or [n, k] with 'nt'.
        transpose: 'nn', 'nt' or 'tn'.
        device: that they are on; None for the first one.
    """
    gpu, stream = device_or_default(device), current_stream(a)
    kind = choose(TRANSPOSES, transpose, "transpose")
    left = view(a, np.float32, "a", (None, None), stream=stream)
    right = view(b, np.float32, "b", (None, None), stream=stream)
    m, k = left.shape[::-1] if transpose == "tn" else left.shape
    inner, n = right.shape[::-1] if transpose == "nt" else right.shape
    if inner != k:
        raise InvalidArgumentError(
            f"a {list(left.shape)} and b {list(right.shape)} do not fit with transpose {transpose!r}"
        )
    c = make_like(a, gpu, (m, n), np.float32)
    operands = left.address, left.shape[1], right.address, right.shape[1]
    gpu.call(lib.hyb_cuda_gemm, kind, m, n, k, *operands, 0, view(c, np.float32, "c").address, n, stream)
    return c
