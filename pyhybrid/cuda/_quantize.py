"""Quantising, packing and gradient compression on a device: the C functions on its arrays.

Place in the data flow: what pyhybrid.quantization is for the processor, with the same results, bit for bit.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np

from pyhybrid._errors import InvalidArgumentError
from pyhybrid._native import lib
from pyhybrid.cuda._arrays import View, current_stream, make_like, view
from pyhybrid.cuda._device import Device, device_or_default
from pyhybrid.quantization import PACKINGS, Packing, choose, quantizer_of

__all__ = [
    "Activations",
    "Quantized",
    "dequantize",
    "pack",
    "quantize",
    "quantize_activations",
    "quantize_and_pack",
    "quantize_levels",
    "unpack",
]

#: Activations are padded with zeros to so many columns: what products read at once.
_COLUMNS = 64


class Quantized(NamedTuple):
    """A quantised matrix on a device: value[r][c] = scale[r] * code[r][c].

    Args:
        codes: int8 [rows, columns]; or uint8 bytes of a packing.
        scales: float32 [1] or [rows].
    """

    codes: Any
    scales: Any


class Activations(NamedTuple):
    """Quantised tokens on a device.

    Args:
        codes: int8 [tokens, columns rounded up to 64], 0 behind a token's own.
        sums: int32 [tokens]: of a token's codes.
        scales: float32 [tokens].
    """

    codes: Any
    sums: Any
    scales: Any


def _address(value: Any, dtype: Any, name: str) -> int:
    """Address of an array that was made here."""
    return view(value, dtype, name).address


def _matrix(value: Any, dtype: Any, name: str, stream: int) -> View:
    found = view(value, dtype, name, (None, None), stream=stream)
    if 0 in found.shape:
        raise InvalidArgumentError(f"{name} has shape {list(found.shape)}; give at least one value")
    return found


def quantize(
    weights: Any,
    *,
    bits: float = 1.58,
    scale: Literal["tensor", "row"] = "tensor",
    threshold: Literal["absmean", "lloyd", "three_of_four"] = "absmean",
    dead_zone: float = 0.5,
    device: Device | None = None,
) -> Quantized:
    """Quantises a matrix; `pyhybrid.quantize` documents the arguments.

    Args:
        weights: float32 [rows, columns] on the device.
        bits: of a code.
        scale: one for the tensor, or one a row.
        threshold: of ternary codes.
        dead_zone: of ternary codes with the absmean scale.
        device: that the weights are on; None for the first one.

    Returns:
        Codes and scales, queued: `Device.synchronize` reports what is not finite.
    """
    gpu, stream = device_or_default(device), current_stream(weights)
    found = _matrix(weights, np.float32, "weights", stream)
    chosen = quantizer_of(bits, scale, threshold, dead_zone)
    codes = make_like(weights, gpu, found.shape, np.int8)
    scales = make_like(weights, gpu, (found.shape[0] if scale == "row" else 1,), np.float32)
    out = _address(codes, np.int8, "codes"), _address(scales, np.float32, "scales")
    gpu.call(lib.hyb_cuda_quantize, chosen, found.address, *found.shape, *out, stream)
    return Quantized(codes, scales)


def quantize_and_pack(
    weights: Any,
    packing: Packing = "ternary2",
    *,
    bits: float = 1.58,
    scale: Literal["tensor", "row"] = "tensor",
    threshold: Literal["absmean", "lloyd", "three_of_four"] = "absmean",
    dead_zone: float = 0.5,
    device: Device | None = None,
) -> Quantized:
    """`quantize` and `pack` at once, without the codes in memory between; `codes` are the bytes."""
    gpu, stream = device_or_default(device), current_stream(weights)
    found, kind = _matrix(weights, np.float32, "weights", stream), choose(PACKINGS, packing, "packing")
    chosen = quantizer_of(bits, scale, threshold, dead_zone)
    data = make_like(weights, gpu, (lib.hyb_packed_bytes(kind, found.size),), np.uint8)
    scales = make_like(weights, gpu, (found.shape[0] if scale == "row" else 1,), np.float32)
    out = _address(data, np.uint8, "bytes"), _address(scales, np.float32, "scales")
    gpu.call(lib.hyb_cuda_quantize_pack, chosen, found.address, *found.shape, kind, *out, stream)
    return Quantized(data, scales)


def dequantize(codes: Any, scales: Any, *, device: Device | None = None) -> Any:
    """Returns scale * code, float32 [rows, columns], of int8 codes and float32 scales [1] or [rows]."""
    gpu, stream = device_or_default(device), current_stream(codes)
    found = _matrix(codes, np.int8, "codes", stream)
    factors = view(scales, np.float32, "scales", (None,), stream=stream)
    weights = make_like(codes, gpu, found.shape, np.float32)
    given = found.address, factors.address, factors.size, *found.shape
    gpu.call(lib.hyb_cuda_dequantize, *given, _address(weights, np.float32, "weights"), stream)
    return weights


def quantize_activations(activations: Any, *, device: Device | None = None) -> Activations:
    """Quantises tokens float32 [tokens, columns] to int8, one scale a token."""
    gpu, stream = device_or_default(device), current_stream(activations)
    found = _matrix(activations, np.float32, "activations", stream)
    n_tokens, n_cols = found.shape
    ld = -(-n_cols // _COLUMNS) * _COLUMNS
    codes = make_like(activations, gpu, (n_tokens, ld), np.int8)
    sums = make_like(activations, gpu, (n_tokens,), np.int32)
    scales = make_like(activations, gpu, (n_tokens,), np.float32)
    out = (
        _address(codes, np.int8, "codes"),
        _address(sums, np.int32, "sums"),
        _address(scales, np.float32, "scales"),
    )
    gpu.call(lib.hyb_cuda_quantize_activations, found.address, n_tokens, n_cols, ld, *out, stream)
    return Activations(codes, sums, scales)


def quantize_levels(
    values: Any, levels: Literal[3, 5] = 5, scale: float = 1.0, *, device: Device | None = None
) -> Any:
    """Rounds float32 or float64 values to 3 or 5 levels; `pyhybrid.quantize_levels` documents them."""
    gpu, stream = device_or_default(device), current_stream(values)
    single = "float32" in str(values.dtype)
    dtype = np.float32 if single else np.float64
    found = view(values, dtype, "values", stream=stream)
    out = make_like(values, gpu, found.shape, dtype)
    function = lib.hyb_cuda_quantize_levels_f32 if single else lib.hyb_cuda_quantize_levels_f64
    gpu.call(function, levels, scale, found.size, found.address, _address(out, dtype, "out"), stream)
    return out


def pack(codes: Any, packing: Packing = "base3", *, device: Device | None = None) -> Any:
    """Returns int8 codes as bytes, uint8; `Device.synchronize` reports codes that have no place there."""
    gpu, stream, kind = device_or_default(device), current_stream(codes), choose(PACKINGS, packing, "packing")
    found = view(codes, np.int8, "codes", stream=stream)
    data = make_like(codes, gpu, (lib.hyb_packed_bytes(kind, found.size),), np.uint8)
    gpu.call(lib.hyb_cuda_pack, kind, found.address, found.size, _address(data, np.uint8, "bytes"), stream)
    return data


def unpack(
    data: Any, shape: int | tuple[int, ...], packing: Packing = "base3", *, device: Device | None = None
) -> Any:
    """Returns bytes as int8 codes of a shape; `Device.synchronize` reports what `pack` does not write."""
    gpu, stream, kind = device_or_default(device), current_stream(data), choose(PACKINGS, packing, "packing")
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    if any(isinstance(size, bool) or not isinstance(size, int) or size < 0 for size in sizes):
        raise InvalidArgumentError(f"shape is {shape!r}; give whole numbers of at least 0")
    n_codes = math.prod(sizes)
    found = view(data, np.uint8, "data", (lib.hyb_packed_bytes(kind, n_codes),), stream=stream)
    codes = make_like(data, gpu, sizes, np.int8)
    gpu.call(lib.hyb_cuda_unpack, kind, found.address, n_codes, _address(codes, np.int8, "codes"), stream)
    return codes
