"""From an fp32 matrix to packed ternary bytes (quantise and pack), beside ggml, PyTorch and NumPy.

ggml scales each block of 256 by its largest magnitude, we a matrix by its mean: on the matrix here, whose
weights are 0 or 0.018 to 0.02 in magnitude, both give the same codes, which are compared. The time does not
depend on the values. The figure is GB/s of fp32 read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyhybrid.benchmarks.quantize import shapes
from pyhybrid.benchmarks.registry import Answer, Goal, Limit, Options, Row
from pyhybrid.benchmarks.timing import Operation, hidden, rounds

__all__ = ["GgmlTQ1", "GgmlTQ2", "Numpy", "Ours", "OursRuntime", "Torch", "rows"]


class _Pack(Operation):
    def __init__(
        self, *, rows: int, columns: int, packing: str, threads: int, seconds: float = 0.2
    ) -> None:
        super().__init__(4.0 * rows * columns, seconds)
        random = np.random.default_rng(14)
        self.packing, self.weights = packing, random.uniform(0.018, 0.02, (rows, columns)).astype(np.float32)
        self.weights *= random.integers(-1, 2, (rows, columns), np.int8)
        self.prepare(threads)

    def prepare(self, threads: int, /) -> None:
        """Buffers and threads; not timed."""

    def codes(self, packed: Any, /) -> NDArray[np.int8]:
        """The codes in what `call` returned."""
        from pyhybrid.quantization import unpack

        data = np.ascontiguousarray(packed, np.uint8).reshape(-1)
        return np.asarray(
            unpack(data, self.weights.size, packing="base3" if self.packing == "base3" else "ternary2")
        )

    def answer(self) -> Answer:
        """The codes, flat."""
        return {"codes": self.codes(self.call()).reshape(-1)}


class Ours(_Pack):
    """hyb_quantize, then hyb_pack."""

    def prepare(self, threads: int) -> None:
        from pyhybrid._context import Context
        from pyhybrid._native import ffi, lib
        from pyhybrid.quantization import PACKINGS

        kind = PACKINGS[self.packing]
        self.context, self.quantize, self.pack = Context(threads=threads), lib.hyb_quantize, lib.hyb_pack
        n, scale = self.weights.size, ffi.new("float[1]")
        self.bytes = np.empty(lib.hyb_packed_bytes(kind, n), np.uint8)
        quantizer = ffi.new("hyb_quantizer *", {"format": lib.HYB_FORMAT_TERNARY})
        weights, codes = ffi.from_buffer("float[]", self.weights), ffi.new("int8_t[]", n)
        handle, out = self.context.handle, ffi.from_buffer("uint8_t[]", self.bytes)
        self.first = (handle, quantizer, weights, *self.weights.shape, codes, scale)
        self.second = (handle, kind, codes, n, out)

    def call(self) -> Any:
        self.context.check(self.quantize(*self.first))
        self.context.check(self.pack(*self.second))
        return self.bytes


class OursRuntime(_Pack):
    """hyb_weights_create_quantized: the products' layout, 2 bits a weight, in one sweep behind the mean."""

    def call(self) -> Any:
        from pyhybrid.quantization import PackedWeights

        return PackedWeights.from_float(self.weights, context=self.context)

    def prepare(self, threads: int) -> None:
        from pyhybrid._context import Context

        self.context = Context(threads=threads)

    def codes(self, packed: Any) -> NDArray[np.int8]:
        """The products with the columns of the identity matrix."""
        from pyhybrid.quantization import matmul

        n_rows, columns = self.weights.shape
        codes = np.empty((n_rows, columns), np.int8)
        for first in range(0, columns, 256):
            x = np.eye(min(256, columns - first), columns, first, np.int8)
            codes[:, first : first + 256] = matmul(packed, x).T
        return codes


class Numpy(_Pack):
    """The formula and the packing in NumPy."""

    def call(self) -> Any:
        scale = np.float32(np.abs(self.weights).mean())
        codes = (np.clip(np.round(self.weights / scale), -1, 1).astype(np.int8) + 1).astype(np.uint8)
        if self.packing != "base3":
            parts = codes.reshape(-1, 4)
            return parts[:, 0] | parts[:, 1] << 2 | parts[:, 2] << 4 | parts[:, 3] << 6
        flat = np.full(-(-codes.size // 5) * 5, 1, np.uint8)  # the tail is code 0
        flat[: codes.size] = codes.reshape(-1)
        return flat.reshape(-1, 5) @ np.array([1, 3, 9, 27, 81], np.uint8)


class Torch(_Pack):
    """The same in eager PyTorch, 2 bits a weight only."""

    def prepare(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.tensor, self.uint8 = torch.from_numpy(self.weights), torch.uint8

    def call(self) -> Any:
        scale = self.tensor.abs().mean()
        codes = (self.tensor / scale).round_().clamp_(-1, 1).add_(1).to(self.uint8).view(-1, 4)
        return codes[:, 0] | codes[:, 1] << 2 | codes[:, 2] << 4 | codes[:, 3] << 6


class GgmlTQ2(_Pack):
    """ggml_quantize_chunk to TQ2_0."""

    kind = "TQ2_0"

    def prepare(self, _: int) -> None:
        from pyhybrid.benchmarks import ggml

        n_rows, columns = self.weights.shape
        self.quantize, self.dequantize = ggml.quantize, ggml.dequantize
        self.bytes = np.empty((n_rows, ggml.row_bytes(self.kind, columns)), np.uint8)

    def call(self) -> Any:
        self.quantize(self.kind, self.weights, self.bytes)
        return self.bytes

    def codes(self, packed: Any) -> NDArray[np.int8]:
        n_rows, columns = self.weights.shape
        return np.sign(self.dequantize(self.kind, packed, (n_rows, columns))).astype(np.int8)


class GgmlTQ1(GgmlTQ2):
    """ggml_quantize_chunk to TQ1_0."""

    kind = "TQ1_0"


def _row(n_rows: int, columns: int, packing: str, threads: int, options: Options) -> Row:
    here = "pyhybrid.benchmarks.pack"
    ggml = "ggml TQ1_0" if packing == "base3" else "ggml TQ2_0"
    peers = {ggml: f"{here}:Ggml{ggml[5:8]}", "NumPy": f"{here}:Numpy"}
    if packing != "base3":
        peers["PyTorch eager"] = f"{here}:Torch"
    what = f"Quantising {n_rows}x{columns} and packing it as {packing}"
    goals = [
        Goal(text=f"{what} is at least 18 x {ggml}.", kind="ratio", limit=18.0, peer=ggml),
        Goal(text=f"{what} is at least 5 x NumPy.", kind="ratio", limit=5.0, peer="NumPy"),
    ]
    if n_rows * columns >= 40_000_000:
        goals.append(Goal(text=f"{what} reaches 60 % of two reads.", kind="share", limit=0.6))
    return Row(
        name=f"pack/{packing}/{n_rows}x{columns}" + (f"/{threads}-threads" if threads > 1 else ""),
        section="pack",
        unit="GB/s",
        better="higher",
        ours=f"{here}:{'OursRuntime' if packing == 'runtime' else 'Ours'}",
        peers=peers,
        sizes={"rows": n_rows, "columns": columns, "packing": packing},
        hidden=hidden(options),
        threads=threads,
        rounds=rounds(options),
        agreement={"codes": 0.0},
        limits=(Limit(kind="read", per_unit=2e9, working_set=4 * n_rows * columns),),
        goals=tuple(goals) if threads == 1 else (),
        note="ggml and NumPy use one thread whatever the row's number." if threads > 1 else "",
    )


def rows(options: Options) -> list[Row]:
    """The layout of the products and both packings of files, of both shapes."""
    return [
        _row(n_rows, columns, packing, threads, options)
        for threads in options.kernel_threads
        for packing in ("runtime", "ternary2", "base3")
        for n_rows, columns in shapes(options)
    ]
