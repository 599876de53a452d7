"""Compressed gradients in fewer bytes: their codes entropy-coded, nothing lost.

About half of the ternary codes are 0, so that a code takes some 1.54 bits instead of 1.6, and one of five
levels 2.1 instead of 2.33; the scales stay as they are. Place in the data flow: between
gradient_compression.py and a connection to another machine.
"""

from __future__ import annotations

import math

import numpy as np

from pyhybrid import codec
from pyhybrid._buffers import Array
from pyhybrid._context import Context
from pyhybrid._errors import FileFormatError
from pyhybrid._native import lib
from pyhybrid.gradient_compression import CompressedGradient, Scheme, message_layout
from pyhybrid.quantization import pack, unpack

__all__ = ["decode_gradient", "encode_gradient"]

_FIELD_BITS = 7  # of three five-level codes
_FIVES = np.array([1, 5, 25])


def _n_codes(shape: tuple[int, ...], rows: int, n_bytes: int, scheme: Scheme) -> int:
    """Codes in the rows of bytes, with those that fill up the last byte or field of each row."""
    return rows * -(-math.prod(shape) // rows // 3) * 3 if scheme == "five" else n_bytes * 5


def _codes(data: Array, rows: int, n_codes: int, scheme: Scheme, context: Context | None) -> Array:
    """The codes in a message's rows of bytes."""
    if scheme != "five":
        return unpack(data, 5 * data.size, "base3", context=context)
    bits = np.unpackbits(data.reshape(rows, -1), axis=1, bitorder="little")
    n_fields = n_codes // rows // 3
    fields = bits[:, : n_fields * _FIELD_BITS].reshape(-1, _FIELD_BITS) @ (1 << np.arange(_FIELD_BITS))
    if fields.max() > 124 or bits[:, n_fields * _FIELD_BITS :].any():
        raise FileFormatError("the codes of a row are none that a gradient has", lib.HYB_ERROR_FORMAT)
    return np.asarray(fields[:, None] // _FIVES % 5 - 2, np.int8).reshape(-1)


def _data(codes: Array, rows: int, scheme: Scheme, context: Context | None) -> Array:
    """The bytes that `_codes` reads."""
    if scheme != "five":
        return pack(codes, "base3", context=context)
    fields = (codes.astype(np.int64).reshape(rows, -1, 3) + 2) @ _FIVES
    bits = (fields[:, :, None] >> np.arange(_FIELD_BITS) & 1).astype(np.uint8).reshape(rows, -1)
    return np.packbits(bits, axis=1, bitorder="little")


def encode_gradient(compressed: CompressedGradient, *, context: Context | None = None) -> bytes:
    """Returns a compressed gradient in fewer bytes.

    Args:
        compressed: what `GradientCompressor.compress` gave.
        context: None for the default one.

    Raises:
        InvalidArgumentError: an unknown scheme or an impossible shape.
        FileFormatError: bytes that no gradient compresses to.
    """
    rows, n_bytes, n_scales = message_layout(compressed.shape, compressed.scheme, compressed.block_size)
    data = np.frombuffer(compressed.data, np.uint8)
    if data.size != n_bytes + n_scales:
        raise FileFormatError(
            f"{data.size} bytes; shape {list(compressed.shape)} takes {n_bytes + n_scales}",
            lib.HYB_ERROR_FORMAT,
        )
    n_codes = _n_codes(compressed.shape, rows, n_bytes, compressed.scheme)
    codes = _codes(data[:n_bytes], rows, n_codes, compressed.scheme, context)
    alphabet: codec.Alphabet = "five" if compressed.scheme == "five" else "ternary"
    return codec.encode(codes, alphabet, context=context) + data[n_bytes:].tobytes()


def decode_gradient(
    message: bytes,
    shape: tuple[int, ...],
    scheme: Scheme,
    block_size: int = 0,
    *,
    context: Context | None = None,
) -> CompressedGradient:
    """Returns the compressed gradient that `encode_gradient` was given; safe on bytes from anywhere.

    Args:
        message: what it returned.
        shape: of the gradient.
        scheme: 'row', 'block' or 'five'.
        block_size: values that share a scale with 'block'; 0 otherwise.
        context: None for the default one.

    Raises:
        InvalidArgumentError: an unknown scheme or an impossible shape.
        FileFormatError: bytes that no gradient of this shape is coded in.
    """
    rows, n_bytes, n_scales = message_layout(shape, scheme, block_size)
    n_codes = _n_codes(shape, rows, n_bytes, scheme)
    largest = 2 if scheme == "five" else 1
    if len(message) < n_scales:
        raise FileFormatError(f"{len(message)} bytes are fewer than the scales take", lib.HYB_ERROR_FORMAT)
    end = len(message) - n_scales
    codes = codec.decode(message[:end], max_codes=max(n_codes, 1), context=context)
    if codes.size != n_codes or np.abs(codes.astype(np.int16)).max(initial=0) > largest:
        raise FileFormatError(
            f"{codes.size} codes; shape {list(shape)} has {n_codes} with {scheme!r}", lib.HYB_ERROR_FORMAT
        )
    data = _data(codes, rows, scheme, context).tobytes() + bytes(message[end:])
    return CompressedGradient(data, tuple(shape), scheme, block_size)
