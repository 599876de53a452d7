"""Write golden_v1.hyb: a small model file of format version 1, made from the words of include/hybrid/file.h.

When to use it: never, unless golden_v1.hyb got lost. A released format version does not change, so that the
golden file of a version stays as it is; a new format version gets a new recipe and a file beside this one.
The recipe shares no code with the library (packing, checksum): that the C writer gives the same bytes is
a test of both.

    python tests/data/make_golden_v1.py [PATH]
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import NamedTuple

F32, TERNARY, BINARY, INT2, INT4, INT8 = range(6)
PACKING = {F32: 0, TERNARY: 2, BINARY: 3, INT2: 4, INT4: 5, INT8: 6}
METADATA = '{"name": "golden file of format version 1", "größe": "klein"}'.encode()
# kind BYTES, pretokenizer, prefix space, 256 tokens, no merges, no specials, no bytes, zero
TOKENIZER = struct.pack("<8I", 0, 0, 0, 256, 0, 0, 0, 0)


class Tensor(NamedTuple):
    """One tensor of the golden file; its values follow from its index and shape."""

    name: str
    format: int
    per_row: int
    rows: int
    columns: int


TENSORS = (
    Tensor("norm.gain", F32, 0, 1, 7),
    Tensor("matrix.f32", F32, 0, 3, 2),
    Tensor("ternary.tensor", TERNARY, 0, 3, 7),
    Tensor("ternary.row", TERNARY, 1, 4, 13),
    Tensor("binary.tensor", BINARY, 0, 3, 5),
    Tensor("int2.row", INT2, 1, 2, 5),
    Tensor("int4.tensor", INT4, 0, 1, 9),
    Tensor("int8.row", INT8, 1, 3, 11),
)


def crc32c(data: bytes) -> int:
    """Compute CRC-32C bit by bit: Castagnoli's polynomial, reflected, initial and final value all ones."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def code(number_format: int, i: int) -> int:
    """Give code i of every tensor of a format: a pattern that visits all levels."""
    levels = {TERNARY: 3, BINARY: 2, INT2: 4, INT4: 16, INT8: 255}[number_format]
    level = (i * 37 + i // 7) % levels
    if number_format in (TERNARY, INT8):
        return level - levels // 2
    return 2 * level - (levels - 1)


def pack(number_format: int, codes: list[int]) -> bytes:
    """Pack codes as file.h and quantize.h say: ternary in base 3, the others in their own width."""
    if number_format == INT8:
        return struct.pack(f"<{len(codes)}b", *codes)
    if number_format == TERNARY:
        padded = codes + [0] * (-len(codes) % 5)
        groups = [padded[i : i + 5] for i in range(0, len(padded), 5)]
        return bytes(sum((c + 1) * 3**k for k, c in enumerate(group)) for group in groups)
    bits = {BINARY: 1, INT2: 2, INT4: 4}[number_format]
    number = sum((c + (1 << bits) - 1) // 2 << i * bits for i, c in enumerate(codes))
    return number.to_bytes(-(-len(codes) * bits // 8), "little")


def tensor_data(index: int, tensor: Tensor) -> bytes:
    """Give the data of a tensor: fp32 values, or packed codes and binary16 scales behind them."""
    n = tensor.rows * tensor.columns
    if tensor.format == F32:
        return struct.pack(f"<{n}f", *(((i * 5) % 11 - 5) * 0.25 for i in range(n)))
    scales = [(index + row + 1) * 0.125 for row in range(tensor.rows if tensor.per_row else 1)]
    return pack(tensor.format, [code(tensor.format, i) for i in range(n)]) + struct.pack(
        f"<{len(scales)}e", *scales
    )


def align(data: bytes, alignment: int) -> bytes:
    """Append zeros up to the next multiple of an alignment."""
    return data + bytes(-len(data) % alignment)


def golden() -> bytes:
    """Build the whole file."""
    config = struct.pack("<7Iff7B21x", 256, 12, 1, 2, 1, 20, 32, 10000.0, 1e-5, 0, 0, 1, TERNARY, 0, 0, INT8)
    tokenizer_offset = 128 + len(config)
    metadata_offset = tokenizer_offset + len(align(TOKENIZER, 8))
    directory_offset = metadata_offset + len(align(METADATA, 8))
    data_offset = -(-(directory_offset + 64 * len(TENSORS)) // 32) * 32
    directory, data = b"", b""
    for index, tensor in enumerate(TENSORS):
        payload = tensor_data(index, tensor)
        data = align(data, 32)
        kind = (tensor.format, PACKING[tensor.format], tensor.per_row, 0)
        shape = (tensor.rows, tensor.columns, 0)
        place = (data_offset + len(data), len(payload))
        directory += struct.pack("<32s4B3I2Q", tensor.name.encode(), *kind, *shape, *place)
        data += payload
    body = config + align(TOKENIZER, 8) + align(METADATA, 8) + directory
    body += bytes(data_offset - 128 - len(body)) + data
    header = b"\x89HYB\r\n\x1a\n" + struct.pack(
        "<2I10Q24xI",
        *(1, 128, 128 + len(body), 128, len(config), tokenizer_offset, len(TOKENIZER)),
        *(metadata_offset, len(METADATA), directory_offset, len(TENSORS), data_offset, crc32c(body)),
    )
    return header + struct.pack("<I", crc32c(header)) + body


if __name__ == "__main__":
    default = Path(__file__).with_name("golden_v1.hyb")
    (Path(sys.argv[1]) if len(sys.argv) > 1 else default).write_bytes(golden())
