"""Write golden_v3.hyb: a compressed model file, made from the words of include/hybrid/file.h.

When to use it: never, unless golden_v3.hyb got lost. Checksum and packing are those of make_golden_v1.py, the
coder is written from the header's words. How each tensor is coded is chosen here, not as the library would:
groups of 64 symbols, every number of slots, both kinds of model, codes left packed, floats in half and full.

    python tests/data/make_golden_v3.py [PATH [PATH OF THE ORIGINAL]]
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import NamedTuple

from make_golden_v1 import F32, INT4, INT8, PACKING, TERNARY, align, crc32c, pack

METADATA = b'{"name": "golden file of format version 3"}'
LANES = 4
NONE, HALF, ENTROPY = range(3)


class Tensor(NamedTuple):
    """One tensor: codes by a generator, and how it is coded: rows a group, (slot bits, kind) of each."""

    name: str
    format: int
    per_row: int
    rows: int
    columns: int
    zeros: int  # of 256 ternary codes so many are 0; of F32: 1 if binary16 holds the values
    coding: int
    group_rows: int = 0
    models: tuple[tuple[int, int], ...] = ()


TENSORS = (
    Tensor("embedding.weight", INT8, 1, 16, 24, 0, ENTROPY, 0, ((14, 1),)),
    Tensor("layers.0.norm", F32, 0, 1, 9, 1, HALF),
    Tensor("layers.0.bias", F32, 0, 1, 5, 0, NONE),
    Tensor("layers.0.down", TERNARY, 0, 29, 33, 130, ENTROPY, 0, ((12, 0),)),
    Tensor("layers.0.gate", TERNARY, 1, 30, 41, 230, ENTROPY, 2, ((14, 0), (16, 1))),
    Tensor("layers.0.zero", TERNARY, 0, 7, 10, 256, ENTROPY, 0, ((12, 0),)),
    Tensor("layers.1.down", TERNARY, 0, 3, 7, 85, NONE),
    Tensor("layers.1.gate", INT4, 0, 9, 21, 0, ENTROPY, 1, ((16, 1), (12, 1))),
)


def draws(seed: int, n: int) -> list[int]:
    """Bytes of a linear congruential generator."""
    found = []
    for _ in range(n):
        seed = (seed * 1664525 + 1013904223) % 2**32
        found.append(seed >> 24)
    return found


def payload(index: int, t: Tensor) -> bytes:
    """Packed codes, or floats."""
    n = t.rows * t.columns
    if t.format == F32:
        return struct.pack(f"<{n}f", *((i - 3) * (0.25 if t.zeros else 0.1) for i in range(n)))
    drawn = draws(index, 3 * n)
    if t.format == TERNARY:
        codes = [0 if drawn[3 * i] < t.zeros else 1 - 2 * (drawn[3 * i + 1] >> 7) for i in range(n)]
    elif t.format == INT8:
        codes = [sum(drawn[3 * i : 3 * i + 3]) // 8 - 47 for i in range(n)]
    else:
        codes = [2 * (sum(drawn[3 * i : 3 * i + 3]) // 48) - 15 for i in range(n)]
    return pack(t.format, codes)


def scales(index: int, t: Tensor) -> bytes:
    """Scales as binary16."""
    n = 0 if t.format == F32 else t.rows if t.per_row else 1
    return struct.pack(f"<{n}e", *((index + row + 1) * 0.125 for row in range(n)))


def varint(value: int) -> bytes:
    """7 bits a byte, the lowest first."""
    return bytes([value]) if value < 128 else bytes([value % 128 + 128]) + varint(value // 128)


def allot(weights: list[int], bits: int) -> list[int]:
    """Slots of symbols, as lib/rans_model.c says."""
    slots, total = 2**bits, sum(weights)
    small = [w != 0 and w * slots < total for w in weights]
    large = sum(w for w, is_small in zip(weights, small, strict=True) if not is_small)
    rest = slots - sum(small)
    f = [
        0 if w == 0 else 1 if is_small else max(1, (w * rest + large // 2) // large)
        for w, is_small in zip(weights, small, strict=True)
    ]
    present = [s for s, w in enumerate(weights) if w]
    while sum(f) < slots:  # ties: the smallest symbol
        f[max(present, key=lambda s: (Ratio(weights[s], 2 * f[s] + 1), -s))] += 1
    while sum(f) > slots:
        f[min((s for s in present if f[s] > 1), key=lambda s: (Ratio(weights[s], 2 * f[s] - 1), s))] -= 1
    return f


class Ratio(NamedTuple):
    """A fraction that compares exactly."""

    above: int
    below: int

    def __lt__(self, other: object) -> bool:
        """By cross multiplication."""
        return isinstance(other, Ratio) and self.above * other.below < other.above * self.below

    def __gt__(self, other: object) -> bool:
        """The other way round."""
        return isinstance(other, Ratio) and other < self

    def __eq__(self, other: object) -> bool:
        """Equal as numbers."""
        return isinstance(other, Ratio) and self.above * other.below == other.above * self.below

    def __hash__(self) -> int:
        """Not used."""
        return 0


def digit_weights(shares: tuple[int, ...]) -> list[int]:
    """Weights of the 243 symbols: products of 5 shares, in 2^-40ths, cut off as in lib/rans_model.c."""
    found = []
    for symbol in range(243):
        digits = [symbol // 3**i % 3 for i in range(5)]
        product = 1
        for digit in digits[:4]:
            product *= shares[digit]
        weight = (product >> 24) * shares[digits[4]] >> 16
        is_present = product != 0 and shares[digits[4]] != 0
        found.append(max(weight, 1) if is_present else 0)
    return found


def model(symbols: bytes, bits: int, kind: int) -> tuple[bytes, list[int]]:
    """The bytes of a group's model, and the slots of each symbol."""
    first = bytes([(bits - 12) // 2 + 4 * kind])
    if kind == 0:
        digits = [0, 0, 0]
        for symbol in symbols:
            for i in range(5):
                digits[symbol // 3**i % 3] += 1
        total = sum(digits)
        shares = [max((c * 65535 + total // 2) // total, 1 if c else 0) for c in digits]
        most = digits.index(max(digits))
        shares[most] += 65535 - sum(shares)
        return first + struct.pack("<2H", *shares[:2]), [
            *allot(digit_weights(tuple(shares)), bits),
            *[0] * 13,
        ]
    f = allot([symbols.count(s) for s in range(256)], bits)
    coded, s = first, 0
    while s < 256:
        coded += varint(f[s])
        s += 1
        if f[s - 1] == 0:
            end = next((later for later in range(s, 256) if f[later]), 256)
            coded += varint(end - s)
            s = end
    return coded, f


def encode(segments: list[tuple[bytes, int, list[int]]]) -> bytes:
    """The stream of segments (symbols, slot bits, slots), from the last symbol to the first."""
    states, words, used = [65536] * LANES, [], False
    for symbols, bits, f in reversed(segments):
        if sum(1 for slots in f if slots) < 2:
            continue
        used = True
        for i in reversed(range(len(symbols))):
            x, slots, first = states[i % LANES], f[symbols[i]], sum(f[: symbols[i]])
            if x >= slots << 32 - bits:
                words.append(x & 65535)
                x >>= 16
            states[i % LANES] = (x // slots << bits) + x % slots + first
    return struct.pack(f"<{LANES}I{len(words)}H", *states, *reversed(words)) if used else b""


def original(config: bytes) -> bytes:
    """The file of version 1."""
    directory_offset = 128 + len(config) + len(align(METADATA, 8))
    data_offset = -(-(directory_offset + 64 * len(TENSORS)) // 32) * 32
    directory, data = b"", b""
    for index, t in enumerate(TENSORS):
        data = align(data, 32)
        inside = payload(index, t) + scales(index, t)
        directory += struct.pack("<32s4B", t.name.encode(), t.format, PACKING[t.format], t.per_row, 0)
        directory += struct.pack("<3I2Q", t.rows, t.columns, 0, data_offset + len(data), len(inside))
        data += inside
    body = config + align(METADATA, 8) + directory
    body += bytes(data_offset - 128 - len(body)) + data
    header = b"\x89HYB\r\n\x1a\n" + struct.pack(
        "<2I10Q24xI",
        *(1, 128, 128 + len(body), 128, len(config), 0, 0),
        *(128 + len(config), len(METADATA), directory_offset, len(TENSORS), data_offset, crc32c(body)),
    )
    return header + struct.pack("<I", crc32c(header)) + body


def golden() -> tuple[bytes, bytes]:
    """Build the compressed file and its original."""
    config = struct.pack("<7Iff7B21x", 256, 12, 1, 2, 1, 20, 32, 10000.0, 1e-5, 0, 0, 1, TERNARY, 0, 0, INT8)
    whole = original(config)
    directory, raw, before = b"", b"", ""
    segments: list[tuple[bytes, int, list[int]]] = []
    for index, t in enumerate(TENSORS):
        shared = next(
            (i for i, (a, b) in enumerate(zip(before, t.name, strict=False)) if a != b),
            min(len(before), len(t.name)),
        )
        rest = t.name[shared:].encode()
        directory += bytes([shared, len(rest)]) + rest
        directory += bytes([t.format + 16 * t.per_row, PACKING[t.format] + 16 * t.coding])
        directory += varint(t.rows) + varint(t.columns)
        inside, before = payload(index, t), t.name
        if t.coding == ENTROPY:
            directory += varint(t.group_rows)
            size = 64 * t.group_rows or len(inside)
            groups = [inside[i : i + size] for i in range(0, len(inside), size)]
            kinds = [t.models[min(i, len(t.models) - 1)] for i in range(len(groups))]
            for symbols, (bits, kind) in zip(groups, kinds, strict=True):
                coded, f = model(symbols, bits, kind)
                directory += coded
                segments.append((symbols, bits, f))
        elif t.coding == HALF:
            raw += struct.pack(f"<{t.columns}e", *struct.unpack(f"<{t.columns}f", inside))
        else:
            raw += inside
        raw += scales(index, t)
    stream = encode(segments)
    body = config + METADATA + directory + raw + stream
    header = b"\x89HYB\r\n\x1a\n" + struct.pack(
        "<2IQ2I7QI28xI",
        *(3, 128, 128 + len(body), 1, crc32c(whole[128:]), len(whole), 0, len(METADATA)),
        *(len(directory), len(TENSORS), len(raw), len(stream), LANES, crc32c(body)),
    )
    return header + struct.pack("<I", crc32c(header)) + body, whole


if __name__ == "__main__":
    default = Path(__file__).with_name("golden_v3.hyb")
    compressed, expanded = golden()
    (Path(sys.argv[1]) if len(sys.argv) > 1 else default).write_bytes(compressed)
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_bytes(expanded)
