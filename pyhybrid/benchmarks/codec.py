"""The entropy coder: decoding speed beside zstd, bits a weight beside the entropy, compressed model files.

zstd gets the codes in 2 bits each, the form in which it codes them best, at its default level 3; both sides
decode to packed bytes. Codes are independent with a share of zeros P(0), signs alike. Files hold initial
weights, which are Gaussian; nothing is trained.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyhybrid.benchmarks.registry import Answer, Goal, Options, Row, UnavailableError
from pyhybrid.benchmarks.timing import Operation, hidden, rounds

__all__ = [
    "Bits",
    "Entropy",
    "FileBits",
    "Load",
    "LoadFloat",
    "Ours",
    "PackedBits",
    "PackedFile",
    "ReadFloat",
    "Zstd",
    "ZstdBits",
    "rows",
]

SHARES = {"0.31": 0.31, "1/3": 1 / 3, "0.4": 0.4, "0.5": 0.5, "0.59": 0.59, "0.7": 0.7, "0.9": 0.9}


def _codes(share: str, weights: int) -> NDArray[np.int8]:
    """Independent codes: 0 with the share, else -1 or 1."""
    random = np.random.default_rng(8)
    codes = random.integers(0, 2, weights, np.int8) * 2 - 1
    codes[random.random(weights, np.float32) < SHARES[share]] = 0
    return codes.astype(np.int8)


def _zstd(level: int) -> tuple[Any, Any]:
    """Compressor and decompressor.

    Raises:
        UnavailableError: the package is missing.
    """
    try:
        import zstandard
    except ModuleNotFoundError:
        raise UnavailableError("needs zstandard: pip install 'pyhybrid[peers]'") from None
    return zstandard.ZstdCompressor(level=level), zstandard.ZstdDecompressor()


# ---- decoding ----


class Ours(Operation):
    """hyb_symbols_decode: to five codes a byte."""

    def __init__(self, *, share: str, weights: int, threads: int, seconds: float = 0.2) -> None:
        super().__init__(float(weights), seconds)
        self.weights, self.codes = weights, _codes(share, weights)
        self.prepare(threads)

    def prepare(self, threads: int, /) -> None:
        """Coded bytes and buffers; not timed."""
        from pyhybrid._buffers import pointer
        from pyhybrid._context import Context
        from pyhybrid._native import lib
        from pyhybrid.codec import encode

        self.context = Context(threads=threads)
        self.data = np.frombuffer(encode(self.codes, "ternary"), np.uint8)
        self.out = np.empty(-(-self.weights // 5), np.uint8)
        self.function = lib.hyb_symbols_decode
        given, out = pointer(self.data), pointer(self.out, write=True)
        self.arguments = (self.context.handle, given, self.data.size, out, self.out.size)

    def call(self) -> Any:
        self.context.check(self.function(*self.arguments))
        return self.out

    def answer(self) -> Answer:
        """The codes that came back."""
        from pyhybrid.quantization import unpack

        return {"codes": np.asarray(unpack(self.call(), self.weights, packing="base3"))}


class Zstd(Ours):
    """ZSTD_decompress of the codes in 2 bits."""

    def prepare(self, threads: int) -> None:  # noqa: ARG002 - one thread, as ours
        from pyhybrid.quantization import pack

        compressor, self.decompressor = _zstd(3)
        self.coded = compressor.compress(np.asarray(pack(self.codes, "ternary2")).tobytes())

    def call(self) -> Any:
        return self.decompressor.decompress(self.coded)

    def answer(self) -> Answer:
        from pyhybrid.quantization import unpack

        packed = np.frombuffer(self.call(), np.uint8)
        return {"codes": np.asarray(unpack(packed, self.weights, packing="ternary2"))}


# ---- bits ----


class Bits:
    """Coded bytes, everything counted."""

    def __init__(self, *, share: str, weights: int, threads: int) -> None:  # noqa: ARG002 - as all sides
        self.codes = _codes(share, weights)

    def answer(self) -> Answer:
        """How many codes are 0: that the sides have the same."""
        return {"zeros": np.array(int((self.codes == 0).sum()))}

    def run(self, _: int) -> float:
        """Bits a weight."""
        from pyhybrid.codec import encode

        return 8 * len(encode(self.codes)) / self.codes.size


class Entropy(Bits):
    """Order-0 entropy of these very codes: the bound for codes taken as independent."""

    def run(self, _: int) -> float:
        from pyhybrid.codec import entropy

        return entropy(self.codes)


class PackedBits(Bits):
    """Five codes a byte."""

    def run(self, _: int) -> float:
        from pyhybrid.quantization import pack

        return 8 * np.asarray(pack(self.codes, "base3")).nbytes / self.codes.size


class ZstdBits(Bits):
    """zstd -3 of the codes in 2 bits."""

    def run(self, _: int) -> float:
        from pyhybrid.quantization import pack

        compressor, _ = _zstd(3)
        return (
            8 * len(compressor.compress(np.asarray(pack(self.codes, "ternary2")).tobytes())) / self.codes.size
        )


# ---- files ----


def _save(path: Path, preset: str, threads: int, **changes: Any) -> int:
    """Writes a preset's model with its initial weights; returns its parameters."""
    from dataclasses import replace

    from pyhybrid._context import Context
    from pyhybrid.config import PRESETS
    from pyhybrid.language_model import LanguageModel

    shape = replace(PRESETS[preset].model, **changes)
    model = LanguageModel(shape, seed=1, context=Context(threads=threads))
    model.save(path)
    return model.count().total


class PackedFile:
    """The file as it is saved: five codes a byte."""

    def __init__(self, *, preset: str, threads: int) -> None:
        self.folder = TemporaryDirectory()
        self.path = Path(self.folder.name) / "model.hyb"
        _save(self.path, preset, threads, threshold="lloyd")
        self.prepare()

    def prepare(self) -> None:
        """What is measured is there already."""

    def answer(self) -> Answer:
        """The number of ternary weights."""
        from pyhybrid.model_file import inspect

        return {"weights": np.array(inspect(self.path).ternary_parameters)}

    def run(self, _: int) -> float:
        """Bits per ternary weight, everything that a ternary tensor costs counted."""
        from pyhybrid.model_file import inspect

        found = inspect(self.path).ternary_bits_per_weight_counted
        if found is None:
            raise ValueError("the model has no ternary weights")
        return found


class FileBits(PackedFile):
    """The compressed file."""

    def prepare(self) -> None:
        from pyhybrid.model_file import compress

        compress(self.path, self.path)


class Load:
    """hyb_language_model_load of the compressed file: read, decoded, checked, ready to generate."""

    coded = True

    def __init__(self, *, preset: str, threads: int) -> None:
        from pyhybrid._context import Context
        from pyhybrid.model_file import compress

        self.folder = TemporaryDirectory()
        self.path = Path(self.folder.name) / "model.hyb"
        self.context = Context(threads=threads)
        self.parameters = _save(self.path, preset, threads, **self.shape())
        if self.coded:
            compress(self.path, self.path)

    def shape(self) -> dict[str, Any]:
        """Changes of the preset."""
        return {"threshold": "lloyd"}

    def answer(self) -> Answer:
        """The number of parameters."""
        return {"parameters": np.array(self.parameters)}

    def load(self) -> None:
        """Reads the file once."""
        from pyhybrid._native import ffi, lib

        out = ffi.new("hyb_language_model **")
        self.context.check(lib.hyb_language_model_load(self.context.handle, bytes(self.path), out))
        lib.hyb_language_model_destroy(out[0])

    def run(self, _: int) -> float:
        """Milliseconds; the shortest of three, the file being in the cache."""
        import time

        times = []
        for _ in range(4):  # the first one warms up
            start = time.perf_counter()
            self.load()
            times.append(time.perf_counter() - start)
        return 1e3 * min(times[1:])


class LoadFloat(Load):
    """The same of the same model's fp32 file."""

    coded = False

    def shape(self) -> dict[str, Any]:
        return {"bits": 32, "embedding_bits": 32}


class ReadFloat(LoadFloat):
    """Only reading the bytes of that file, into new memory."""

    def load(self) -> None:
        np.fromfile(self.path, np.uint8)


def _share_rows(share: str, options: Options) -> list[Row]:
    here = "pyhybrid.benchmarks.codec"
    weights = 2_000_000 if options.quick else 16_000_000
    zstd, within = "zstd -3, 2 bits", 0.001 if SHARES[share] < 0.75 else 0.005
    speed = Row(
        name=f"codec/decode/P(0)={share}",
        section="codec",
        unit="G weights/s",
        better="higher",
        ours=f"{here}:Ours",
        peers={zstd: f"{here}:Zstd"},
        sizes={"share": share, "weights": weights},
        hidden=hidden(options),
        rounds=rounds(options),
        agreement={"codes": 0.0},
        goal=Goal(
            text=f"Decoding codes {share} of which are 0 is at least as fast as zstd's.",
            kind="ratio",
            limit=1.0,
            peer=zstd,
        ),
    )
    size = Row(
        name=f"codec/bits/P(0)={share}",
        section="codec",
        unit="bits/weight",
        better="lower",
        ours=f"{here}:Bits",
        peers={"entropy": f"{here}:Entropy", "base 3": f"{here}:PackedBits", zstd: f"{here}:ZstdBits"},
        sizes={"share": share, "weights": weights},
        rounds=1,
        agreement={"zeros": 0.0},
        goal=Goal(
            text=f"Codes {share} of which are 0 take at most {within:.1%} more than their entropy.",
            kind="ratio",
            limit=1 / (1 + within),
            peer="entropy",
        ),
    )
    return [speed, size]


def rows(options: Options) -> list[Row]:
    """Speed and size by the share of zeros, then files."""
    here = "pyhybrid.benchmarks.codec"
    shares = ("0.5",) if options.quick else tuple(SHARES)
    found = [row for share in shares for row in _share_rows(share, options)]
    found.sort(key=lambda row: row.name.startswith("codec/bits"))
    base, large = ("tiny", "tiny") if options.quick else ("base", "large")
    found.append(
        Row(
            name=f"codec/file/{base}",
            section="codec",
            unit="bits/weight",
            better="lower",
            ours=f"{here}:FileBits",
            peers={"base 3": f"{here}:PackedFile"},
            sizes={"preset": base},
            rounds=1,
            agreement={"weights": 0.0},
            goal=Goal(
                text="Gaussian weights with Lloyd's threshold take at most 1.55 bits in a compressed file, "
                "everything counted.",
                kind="value",
                limit=1.55,
            ),
            note="Scales, directory, probabilities and the coder's states counted.",
        )
    )
    found.append(
        Row(
            name=f"codec/load/{large}",
            section="codec",
            unit="ms",
            better="lower",
            ours=f"{here}:Load",
            peers={"read fp32": f"{here}:ReadFloat", "load fp32": f"{here}:LoadFloat"},
            sizes={"preset": large},
            rounds=rounds(options),
            agreement={"parameters": 0.0},
            goal=None
            if options.quick  # so small a file is loaded before the clock has ticked
            else Goal(
                text="A compressed model is loaded, with every check, at least as fast as its fp32 file is "
                "read from the cache.",
                kind="ratio",
                limit=1.0,
                peer="read fp32",
            ),
            note="One thread; files in the cache. Loading decodes, checks and packs; reading does neither.",
        )
    )
    return found
