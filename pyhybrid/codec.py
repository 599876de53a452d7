"""Codes in as few bytes as their frequencies allow: the C entropy coder on NumPy arrays.

Place in the data flow: beside `pack` and `unpack` of quantization.py, for codes that are stored or sent and
not multiplied with. Half of the ternary codes of a trained model are 0: 1.5 bits a code instead of 1.6 then.
A whole model file is coded by `pyhybrid compress` (model_file.py).
Sources: Duda 2013, "Asymmetric numeral systems"; Giesen 2014, "Interleaved entropy coders".
"""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np

from pyhybrid._buffers import Array, input_array, pointer
from pyhybrid._context import Context, default_context
from pyhybrid._errors import FileFormatError, InvalidArgumentError
from pyhybrid._native import ffi, lib

__all__ = ["decode", "encode", "entropy"]

Alphabet = Literal["ternary", "five", "int8"]
ALPHABETS: Final[dict[str, int]] = {
    "ternary": lib.HYB_ALPHABET_TERNARY,
    "five": lib.HYB_ALPHABET_FIVE,
    "int8": lib.HYB_ALPHABET_INT8,
}


def _smallest_alphabet(codes: Array) -> str:
    largest = max(int(codes.max()), -int(codes.min())) if codes.size else 0
    return "ternary" if largest <= 1 else "five" if largest <= 2 else "int8"


def encode(codes: Any, alphabet: Alphabet | None = None, *, context: Context | None = None) -> bytes:
    """Codes an array of small whole numbers.

    Args:
        codes: int8 array of any shape, or what converts to one without loss; the shape is not kept.
        alphabet: 'ternary' (-1, 0, 1), 'five' (-2 ... 2) or 'int8'; None: the first of them that holds all.
        context: None for the default context. The bytes do not depend on it.

    Returns:
        The codes with their number, probabilities and a checksum: for long arrays within 0.1 % of
        `entropy(codes)` bits a code (0.4 % where more than 3 of 4 codes are 0), never more than packed, and
        16 bytes.

    Raises:
        InvalidArgumentError: no such alphabet, or a code outside it.
    """
    array = input_array(codes, np.int8, "codes")
    name = _smallest_alphabet(array) if alphabet is None else alphabet
    if name not in ALPHABETS:
        raise InvalidArgumentError(
            f"alphabet is {alphabet!r}; choose one of {', '.join(map(repr, ALPHABETS))}"
        )
    context = context or default_context()
    out = np.empty(lib.hyb_coded_bound(ALPHABETS[name], array.size), np.uint8)
    n_bytes = ffi.new("size_t *")
    with context.lock:
        context.check(
            lib.hyb_codes_encode(
                context.handle,
                ALPHABETS[name],
                pointer(array.reshape(-1)),
                array.size,
                pointer(out, write=True),
                out.size,
                n_bytes,
            )
        )
    return out[: n_bytes[0]].tobytes()


def decode(data: Any, *, max_codes: int = 2**31, context: Context | None = None) -> Array:
    """Returns the codes in what `encode` made.

    Args:
        data: bytes, or a buffer of them; from anywhere, for all is checked.
        max_codes: a claim of more codes is refused before memory is taken: codes that are all alike take some
            20 bytes, however many they are.
        context: None for the default context.

    Returns:
        int8 array [n_codes].

    Raises:
        FileFormatError: these are no coded bytes, they are damaged, or they claim more than max_codes codes.
        InvalidArgumentError: data is no buffer of bytes.
    """
    try:
        given = np.frombuffer(data, np.uint8)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"data is {type(data).__name__}; give bytes: {error}") from error
    context = context or default_context()
    info = ffi.new("hyb_coded_info *")
    with context.lock:
        context.check(lib.hyb_coded_inspect(context.handle, pointer(given), given.size, info))
        if info.n_codes > max_codes:
            raise FileFormatError(
                f"the data claim {info.n_codes:,} codes; give max_codes if you expect so many",
                lib.HYB_ERROR_FORMAT,
            )
        codes = np.empty(info.n_codes, np.int8)
        context.check(
            lib.hyb_codes_decode(
                context.handle, pointer(given), given.size, pointer(codes, write=True), codes.size
            )
        )
    return codes


def entropy(codes: Any) -> float:
    """Returns the order-0 entropy of codes, in bits a code: what `encode` comes near.

    Args:
        codes: as for `encode`.
    """
    array = input_array(codes, np.int8, "codes")
    return float(lib.hyb_codes_entropy(pointer(array.reshape(-1)), array.size))
