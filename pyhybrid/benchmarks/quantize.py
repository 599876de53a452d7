"""Quantising an fp32 matrix to ternary codes with the absmean scale, beside NumPy and PyTorch.

The figure is GB/s of fp32 read. Absmean needs the mean before the first code, so a matrix that no cache holds
is read twice: the limit counts both passes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pyhybrid.benchmarks.registry import Answer, Goal, Limit, Options, Row
from pyhybrid.benchmarks.timing import Operation, hidden, rounds

__all__ = ["Numpy", "Ours", "Torch", "rows", "shapes"]

# Two means that differ in the last bits can round to neighbouring binary16 scales, 2^-10 apart: then one
# weight in about 4000 lies between the two thresholds, which moves the norm by sqrt(1 / 4000) at most.
_CODES_BOUND = 0.02


class _Quantize(Operation):
    def __init__(self, *, rows: int, columns: int, threads: int, seconds: float = 0.2) -> None:
        super().__init__(4.0 * rows * columns, seconds)
        self.weights = np.random.default_rng(13).standard_normal((rows, columns), np.float32) * np.float32(
            0.02
        )
        self.prepare(threads)

    def prepare(self, threads: int, /) -> None:
        """Buffers and threads; not timed."""

    def answer(self) -> Answer:
        """The codes."""
        return {"codes": np.asarray(self.call())}


class Ours(_Quantize):
    """hyb_quantize."""

    def prepare(self, threads: int) -> None:
        from pyhybrid._context import Context
        from pyhybrid._native import ffi, lib

        self.context, self.function = Context(threads=threads), lib.hyb_quantize
        self.codes, self.scale = np.empty(self.weights.shape, np.int8), np.empty(1, np.float32)
        quantizer = ffi.new("hyb_quantizer *", {"format": lib.HYB_FORMAT_TERNARY})
        weights = ffi.from_buffer("float[]", self.weights)
        codes, scale = ffi.from_buffer("int8_t[]", self.codes), ffi.from_buffer("float[]", self.scale)
        self.arguments = (self.context.handle, quantizer, weights, *self.weights.shape, codes, scale)

    def call(self) -> Any:
        self.context.check(self.function(*self.arguments))
        return self.codes


class Numpy(_Quantize):
    """The formula in NumPy: clip(round(w / mean |w|), -1, 1)."""

    def call(self) -> Any:
        scale = np.float32(np.float16(np.abs(self.weights).mean()))
        return np.clip(np.round(self.weights / scale), -1, 1).astype(np.int8)


class Torch(_Quantize):
    """The same in eager PyTorch."""

    def prepare(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.tensor = torch.from_numpy(self.weights)
        self.half, self.int8 = torch.float16, torch.int8

    def call(self) -> Any:
        scale = self.tensor.abs().mean().to(self.half).to(self.tensor.dtype)
        return (self.tensor / scale).round_().clamp_(-1, 1).to(self.int8)


def shapes(options: Options) -> list[tuple[int, int]]:
    """A matrix from DRAM, and one that the caches of a core hold."""
    return [(768, 768)] if options.quick else [(11008, 4096), (768, 768)]


def rows(options: Options) -> list[Row]:
    """Both shapes at every chosen number of threads."""
    here = "pyhybrid.benchmarks.quantize"
    return [
        Row(
            name=f"quantize/ternary/{n_rows}x{columns}" + (f"/{threads}-threads" if threads > 1 else ""),
            section="quantize",
            unit="GB/s",
            better="higher",
            ours=f"{here}:Ours",
            peers={"NumPy": f"{here}:Numpy", "PyTorch eager": f"{here}:Torch"},
            sizes={"rows": n_rows, "columns": columns},
            hidden=hidden(options),
            threads=threads,
            rounds=rounds(options),
            agreement={"codes": _CODES_BOUND},
            limits=(Limit(kind="read", per_unit=2e9, working_set=4 * n_rows * columns),),
            goals=(
                Goal(
                    text=f"Quantising {n_rows}x{columns} to ternary is at least 3 x NumPy.",
                    kind="ratio", limit=3.0, peer="NumPy",
                ),
            ) if threads == 1 else (),
        )
        for threads in options.kernel_threads
        for n_rows, columns in shapes(options)
    ]  # fmt: skip
