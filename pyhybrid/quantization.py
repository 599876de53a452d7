"""Floats to integer codes, codes to bytes, and products with packed weights: the C functions on NumPy arrays.

Place in the data flow: the language model does all this inside C; these functions are for tools, tests and
experiments.
Sources: Ma et al. 2024 (BitNet b1.58, absmean ternary weights, absmax int8 activations); Lloyd 1982
(least-squares ternary scale).
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pyhybrid._buffers import Array, input_array, output_array, pointer
from pyhybrid._context import Context, default_context
from pyhybrid._elementwise import constrain_norm, entropy_scale, quantize_levels
from pyhybrid._errors import InvalidArgumentError
from pyhybrid._native import ffi, lib

__all__ = [
    "FORMAT_BITS",
    "FORMAT_NAMES",
    "PackedWeights",
    "Packing",
    "Quantized",
    "QuantizedActivations",
    "Transpose",
    "bits_to_format",
    "constrain_norm",
    "dequantize",
    "entropy_scale",
    "gemm",
    "matmul",
    "pack",
    "quantize",
    "quantize_activations",
    "quantize_levels",
    "round_to_half",
    "unpack",
]

Packing = Literal["ternary2", "base3", "int1", "int2", "int4", "int8", "ternary3of4"]
Transpose = Literal["nn", "nt", "tn"]

#: hyb_format by bits of a weight, and back; 1.58 stands for log2(3).
_FORMATS: dict[float, int] = {
    32: lib.HYB_FORMAT_F32,
    8: lib.HYB_FORMAT_INT8,
    4: lib.HYB_FORMAT_INT4,
    2: lib.HYB_FORMAT_INT2,
    1.58: lib.HYB_FORMAT_TERNARY,
    1: lib.HYB_FORMAT_BINARY,
}
FORMAT_BITS: dict[int, float] = {code: bits for bits, code in _FORMATS.items()}
FORMAT_NAMES: dict[int, str] = {
    lib.HYB_FORMAT_F32: "f32",
    lib.HYB_FORMAT_TERNARY: "ternary",
    lib.HYB_FORMAT_BINARY: "binary",
    lib.HYB_FORMAT_INT2: "int2",
    lib.HYB_FORMAT_INT4: "int4",
    lib.HYB_FORMAT_INT8: "int8",
}
GRANULARITIES: dict[str, int] = {"tensor": lib.HYB_SCALE_PER_TENSOR, "row": lib.HYB_SCALE_PER_ROW}
THRESHOLDS: dict[str, int] = {
    "absmean": lib.HYB_THRESHOLD_ABSMEAN,
    "lloyd": lib.HYB_THRESHOLD_LLOYD,
    "three_of_four": lib.HYB_THRESHOLD_THREE_OF_FOUR,
}
PACKINGS: dict[str, int] = {
    "ternary2": lib.HYB_PACKING_TERNARY_2BIT,
    "base3": lib.HYB_PACKING_TERNARY_BASE3,
    "int1": lib.HYB_PACKING_INT1,
    "int2": lib.HYB_PACKING_INT2,
    "int4": lib.HYB_PACKING_INT4,
    "int8": lib.HYB_PACKING_INT8,
    "ternary3of4": lib.HYB_PACKING_TERNARY_3OF4,
}
TRANSPOSES: dict[str, int] = {"nn": lib.HYB_GEMM_NN, "nt": lib.HYB_GEMM_NT, "tn": lib.HYB_GEMM_TN}


class Quantized(NamedTuple):
    """A quantised matrix: value[r][c] = scale[r] * code[r][c].

    Args:
        codes: int8 [rows, columns].
        scales: float32 [1] or [rows], each representable in binary16.
    """

    codes: Array
    scales: Array


class QuantizedActivations(NamedTuple):
    """Quantised activations.

    Args:
        codes: int8 [tokens, columns], -127 to 127.
        scales: float32 [tokens].
    """

    codes: Array
    scales: Array


def choose(table: dict[str, int], value: object, name: str) -> int:
    """Looks up a named option.

    Raises:
        InvalidArgumentError: no option has this name.
    """
    if not isinstance(value, str) or value not in table:
        raise InvalidArgumentError(f"{name} is {value!r}; choose one of {', '.join(map(repr, table))}")
    return table[value]


def bits_to_format(bits: float) -> int:
    """Returns the hyb_format of a number of bits.

    Raises:
        InvalidArgumentError: bits is none of 32, 8, 4, 2, 1.58, 1.
    """
    if isinstance(bits, (bool, str)) or bits not in _FORMATS:
        raise InvalidArgumentError(f"bits is {bits!r}; choose one of {', '.join(f'{b:g}' for b in _FORMATS)}")
    return _FORMATS[bits]


def quantizer_of(bits: float, scale: str, threshold: str, dead_zone: float) -> Any:
    """Returns a hyb_quantizer of the named options."""
    quantizer = ffi.new("hyb_quantizer *")
    quantizer.format = bits_to_format(bits)
    quantizer.granularity = choose(GRANULARITIES, scale, "scale")
    quantizer.threshold = choose(THRESHOLDS, threshold, "threshold")
    if isinstance(dead_zone, (bool, str)) or not 0 < dead_zone <= 4:
        raise InvalidArgumentError(f"dead_zone is {dead_zone!r}; give a number above 0, at most 4")
    quantizer.dead_zone = dead_zone
    return quantizer


def quantize(
    weights: npt.ArrayLike,
    *,
    bits: float = 1.58,
    scale: str = "tensor",
    threshold: str = "absmean",
    dead_zone: float = 0.5,
    context: Context | None = None,
) -> Quantized:
    """Quantises a matrix; the result is the same on every processor and for any number of threads.

    Args:
        weights: float32 [rows, columns], finite.
        bits: 8, 4, 2, 1.58 (ternary) or 1.
        scale: one scale a 'tensor' or a 'row'.
        threshold: how the ternary scale is found, 'absmean' or 'lloyd'; or 'three_of_four' (one zero in each
            four neighbours; a multiple of 4 columns).
        dead_zone: a ternary weight is 0 up to this multiple of the scale, above 0, at most 4; 'lloyd' and the
            other formats have 0.5.
        context: None for the default one.

    Returns:
        Codes int8 [rows, columns] and scales float32 [1] or [rows].

    Raises:
        InvalidArgumentError: a wrong shape, dtype or option.
        NotFiniteError: NaN, infinity, or a scale above 65504.

    Source: Ma et al. 2024; Lloyd 1982.
    """
    context = context or default_context()
    array = input_array(weights, np.float32, "weights", (None, None))
    quantizer = quantizer_of(bits, scale, threshold, dead_zone)
    rows, columns = array.shape
    codes = np.empty((rows, columns), np.int8)
    scales = np.empty(rows if scale == "row" else 1, np.float32)
    with context.lock:
        context.check(
            lib.hyb_quantize(
                context.handle,
                quantizer,
                pointer(array),
                rows,
                columns,
                pointer(codes, write=True),
                pointer(scales, write=True),
            )
        )
    return Quantized(codes, scales)


def dequantize(
    codes: npt.ArrayLike, scales: npt.ArrayLike, *, out: Array | None = None, context: Context | None = None
) -> Array:
    """Returns scale * code.

    Args:
        codes: int8 [rows, columns].
        scales: float32 [1] or [rows].
        out: float32 [rows, columns] to write to; None for a new array.
        context: None for the default one.

    Returns:
        float32 [rows, columns].

    Raises:
        InvalidArgumentError: a wrong shape or dtype.
    """
    context = context or default_context()
    code_array = input_array(codes, np.int8, "codes", (None, None))
    scale_array = input_array(scales, np.float32, "scales", (None,))
    rows, columns = code_array.shape
    result = output_array(out, np.float32, (rows, columns))
    with context.lock:
        context.check(
            lib.hyb_dequantize(
                context.handle,
                pointer(code_array),
                pointer(scale_array),
                scale_array.size,
                rows,
                columns,
                pointer(result, write=True),
            )
        )
    return result


def quantize_activations(
    activations: npt.ArrayLike, *, context: Context | None = None
) -> QuantizedActivations:
    """Quantises activations to int8 with one absmax scale a token.

    Args:
        activations: float32 [tokens, columns], finite.
        context: None for the default one.

    Returns:
        Codes int8 [tokens, columns] and scales float32 [tokens].

    Raises:
        InvalidArgumentError: a wrong shape or dtype.
        NotFiniteError: NaN or infinity.

    Source: Ma et al. 2024.
    """
    context = context or default_context()
    array = input_array(activations, np.float32, "activations", (None, None))
    tokens, columns = array.shape
    codes = np.empty((tokens, columns), np.int8)
    scales = np.empty(tokens, np.float32)
    with context.lock:
        context.check(
            lib.hyb_quantize_activations(
                context.handle,
                pointer(array),
                tokens,
                columns,
                pointer(codes, write=True),
                pointer(scales, write=True),
            )
        )
    return QuantizedActivations(codes, scales)


def pack(codes: npt.ArrayLike, packing: Packing = "base3", *, context: Context | None = None) -> Array:
    """Packs codes into bytes, as one run; rows are not padded.

    Args:
        codes: int8, any shape, read in C order.
        packing: 'ternary2' (4 codes a byte), 'base3' (5 ternary codes a byte), 'int1', 'int2', 'int4',
            'int8' or 'ternary3of4' (5 bits for four ternary codes of which exactly one is 0).
        context: None for the default one.

    Returns:
        uint8 [bytes].

    Raises:
        InvalidArgumentError: a code that the packing cannot hold.
    """
    context = context or default_context()
    kind = choose(PACKINGS, packing, "packing")
    array = input_array(codes, np.int8, "codes")
    packed = np.empty(lib.hyb_packed_bytes(kind, array.size), np.uint8)
    with context.lock:
        context.check(
            lib.hyb_pack(
                context.handle, kind, pointer(array.reshape(-1)), array.size, pointer(packed, write=True)
            )
        )
    return packed


def unpack(
    packed: npt.ArrayLike | bytes,
    shape: int | tuple[int, ...],
    packing: Packing = "base3",
    *,
    context: Context | None = None,
) -> Array:
    """Unpacks bytes into codes; safe on bytes from anywhere.

    Args:
        packed: uint8 [bytes], or bytes, as `pack` gives them.
        shape: shape of the codes.
        packing: as given to `pack`.
        context: None for the default one.

    Returns:
        int8 codes of the shape.

    Raises:
        InvalidArgumentError: the number of bytes does not fit the shape.
        FileFormatError: a byte, or the tail, that no codes give.
    """
    context = context or default_context()
    kind = choose(PACKINGS, packing, "packing")
    source: Any = (
        np.frombuffer(packed, np.uint8) if isinstance(packed, (bytes, bytearray, memoryview)) else packed
    )
    array = input_array(source, np.uint8, "packed", (None,))
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    if any(size < 0 for size in sizes):
        raise InvalidArgumentError(f"shape is {shape!r}; sizes must not be negative")
    n_codes = math.prod(sizes)
    needed = lib.hyb_packed_bytes(kind, n_codes) if n_codes < 2**62 else -1
    if array.size != needed:
        raise InvalidArgumentError(
            f"packed has {array.size} bytes; {n_codes} codes take {needed} as {packing!r}"
        )
    codes = np.empty(sizes, np.int8)
    with context.lock:
        context.check(
            lib.hyb_unpack(
                context.handle, kind, pointer(array), n_codes, pointer(codes.reshape(-1), write=True)
            )
        )
    return codes


class PackedWeights:
    """Quantised weights in the processor's layout, ready for products: 2 bits a ternary weight, else 8.

    Args:
        codes: int8 [rows, columns], at most 65,536 columns.
        scales: float32 [1] or [rows].
        bits: 8, 4, 2, 1.58 or 1: which codes are allowed.
        context: None for the default one.

    Raises:
        InvalidArgumentError: a wrong shape, dtype, or a code outside the format.
        NotFiniteError: a scale is NaN or infinite.
    """

    def __init__(
        self,
        codes: npt.ArrayLike,
        scales: npt.ArrayLike,
        *,
        bits: float = 1.58,
        context: Context | None = None,
    ) -> None:
        self.context = context or default_context()
        code_array = input_array(codes, np.int8, "codes", (None, None))
        scale_array = input_array(scales, np.float32, "scales", (None,))
        rows, columns = code_array.shape
        out = ffi.new("hyb_weights **")
        with self.context.lock:
            self.context.check(
                lib.hyb_weights_create(
                    self.context.handle,
                    bits_to_format(bits),
                    rows,
                    columns,
                    pointer(code_array),
                    pointer(scale_array),
                    scale_array.size,
                    out,
                )
            )
        self.handle = self.context.own(out[0], lib.hyb_weights_destroy)
        self.shape = (rows, columns)

    @classmethod
    def from_float(
        cls,
        weights: npt.ArrayLike,
        *,
        bits: float = 1.58,
        scale: str = "tensor",
        threshold: str = "absmean",
        dead_zone: float = 0.5,
        context: Context | None = None,
    ) -> PackedWeights:
        """Quantises and packs a float32 matrix in one sweep; arguments and errors are those of `quantize`."""
        context = context or default_context()
        array = input_array(weights, np.float32, "weights", (None, None))
        packed = cls.__new__(cls)
        packed.context = context
        packed.shape = (array.shape[0], array.shape[1])
        quantizer = quantizer_of(bits, scale, threshold, dead_zone)
        out = ffi.new("hyb_weights **")
        with context.lock:
            status = lib.hyb_weights_create_quantized(
                context.handle, quantizer, *packed.shape, pointer(array), out
            )
            context.check(status)
        packed.handle = context.own(out[0], lib.hyb_weights_destroy)
        return packed

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the packed weights take."""
        return int(lib.hyb_weights_bytes(self.handle))


def matmul(
    weights: PackedWeights,
    x: npt.ArrayLike,
    x_scales: npt.ArrayLike | None = None,
    *,
    out: Array | None = None,
) -> Array:
    """Multiplies packed weights with int8 activations; the sums are exact.

    Args:
        weights: [rows, columns].
        x: int8 [tokens, columns], -127 to 127.
        x_scales: float32 [tokens]; None for the integer sums.
        out: float32 (int32 without scales) [tokens, rows] to write to; None for a new array.

    Returns:
        float32 [tokens, rows]: float32(sum) * (x_scale * row_scale); int32 sums without scales.

    Raises:
        InvalidArgumentError: a wrong shape or dtype, or a code of -128.
    """
    context = weights.context
    rows, columns = weights.shape
    codes = input_array(x, np.int8, "x", (None, columns))
    tokens = codes.shape[0]
    if x_scales is None:
        sums = output_array(out, np.int32, (tokens, rows))
        with context.lock:
            context.check(
                lib.hyb_matmul_i32(
                    context.handle, weights.handle, pointer(codes), tokens, pointer(sums, write=True)
                )
            )
        return sums
    scales = input_array(x_scales, np.float32, "x_scales", (tokens,))
    result = output_array(out, np.float32, (tokens, rows))
    with context.lock:
        context.check(
            lib.hyb_matmul(
                context.handle,
                weights.handle,
                pointer(codes),
                pointer(scales),
                tokens,
                pointer(result, write=True),
            )
        )
    return result


def gemm(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    transpose: Transpose = "nn",
    *,
    accumulate: bool = False,
    out: Array | None = None,
    context: Context | None = None,
) -> Array:
    """Multiplies two float32 matrices; the bits do not depend on the number of threads.

    Args:
        a: float32 [m, k], or [k, m] for 'tn'.
        b: float32 [k, n], or [n, k] for 'nt'.
        transpose: which operand is stored transposed: 'nn', 'nt' (b) or 'tn' (a).
        accumulate: add to what `out` holds.
        out: float32 [m, n] to write to, without overlap with a or b; None for a new array.
        context: None for the default one.

    Returns:
        float32 [m, n].

    Raises:
        InvalidArgumentError: wrong shapes, dtypes or options.
    """
    context = context or default_context()
    kind = choose(TRANSPOSES, transpose, "transpose")
    left = input_array(a, np.float32, "a", (None, None))
    right = input_array(b, np.float32, "b", (None, None))
    k, m = left.shape if transpose == "tn" else left.shape[::-1]
    n, inner = right.shape if transpose == "nt" else right.shape[::-1]
    if inner != k:
        raise InvalidArgumentError(
            f"a {list(left.shape)} and b {list(right.shape)} do not fit for {transpose!r}: "
            f"inner lengths {k} and {inner}"
        )
    if accumulate and out is None:
        raise InvalidArgumentError("accumulate=True adds to out; give out")
    result = output_array(out, np.float32, (m, n))
    if np.shares_memory(result, left) or np.shares_memory(result, right):
        raise InvalidArgumentError("out overlaps a or b; give another array")
    with context.lock:
        context.check(
            lib.hyb_gemm(
                context.handle,
                kind,
                m,
                n,
                k,
                pointer(left),
                left.shape[1],
                pointer(right),
                right.shape[1],
                int(accumulate),
                pointer(result, write=True),
                n,
            )
        )
    return result


def round_to_half(values: npt.ArrayLike) -> Array:
    """Rounds to the nearest IEEE binary16 numbers, ties to even; what is too large becomes infinite.

    Args:
        values: float32, any shape.

    Returns:
        float32 of the same shape.

    Raises:
        InvalidArgumentError: values are not numbers.
    """
    array = input_array(values, np.float32, "values")
    with np.errstate(over="ignore"):
        return array.astype(np.float16).astype(np.float32)
