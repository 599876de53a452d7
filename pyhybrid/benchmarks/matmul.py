"""Products: packed ternary weights times int8 activations, and the fp32 GEMM, beside NumPy and PyTorch.

Ternary: the integer sums are compared exactly. NumPy multiplies the same integers as fp32 (exact, since every
sum is below 2^24), PyTorch with torch._int_mm. fp32: NumPy's OpenBLAS is pinned to one thread, and so are the
others.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from pyhybrid.benchmarks.registry import Answer, Options, Row

__all__ = ["FloatNumpy", "FloatOurs", "FloatTorch", "TernaryNumpy", "TernaryOurs", "TernaryTorch", "rows"]

_SECONDS = 0.2  # least time of one measurement


def _rate(function: Callable[[], Any], operations: int) -> float:
    """Billions of operations a second, over as many calls as fill the measurement."""
    function()
    calls = 0
    start = time.perf_counter()
    while (seconds := time.perf_counter() - start) < _SECONDS:
        function()
        calls += 1
    return operations * calls / seconds / 1e9


class _Ternary:
    def __init__(self, *, rows: int, columns: int, tokens: int, threads: int) -> None:
        random = np.random.default_rng(11)
        self.codes = random.integers(-1, 2, (rows, columns)).astype(np.int8)
        self.x = random.integers(-127, 128, (tokens, columns)).astype(np.int8)
        self.operations = 2 * rows * columns * tokens
        self.prepare(threads)

    def prepare(self, threads: int, /) -> None:
        """Packs or converts the weights, which is not timed."""

    def product(self) -> Any:
        """Integer sums [tokens, rows]."""
        raise NotImplementedError

    def answer(self) -> Answer:
        """The sums."""
        return {"sums": np.asarray(self.product(), np.int64)}

    def run(self, _: int) -> float:
        """Billions of multiplications and additions a second."""
        return _rate(self.product, self.operations)


class TernaryOurs(_Ternary):
    """pyhybrid.matmul on weights of 2 bits."""

    def prepare(self, threads: int) -> None:
        from pyhybrid._context import Context
        from pyhybrid.quantization import PackedWeights

        one = np.ones(1, np.float32)
        self.packed = PackedWeights(self.codes, one, context=Context(threads=threads))
        self.out = np.empty((self.x.shape[0], self.codes.shape[0]), np.int32)

    def product(self) -> Any:
        from pyhybrid.quantization import matmul

        return matmul(self.packed, self.x, out=self.out)


class TernaryNumpy(_Ternary):
    """The same integers as fp32 in NumPy."""

    def prepare(self, _: int) -> None:
        self.weights = np.ascontiguousarray(self.codes.T, np.float32)
        self.floats = self.x.astype(np.float32)
        self.out = np.empty((self.x.shape[0], self.codes.shape[0]), np.float32)

    def product(self) -> Any:
        return np.matmul(self.floats, self.weights, out=self.out)


class TernaryTorch(_Ternary):
    """torch._int_mm: int8 x int8 -> int32."""

    def prepare(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.multiply = torch._int_mm
        self.weights, self.input = torch.from_numpy(self.codes).t(), torch.from_numpy(self.x)

    def product(self) -> Any:
        return self.multiply(self.input, self.weights)


class _Float:
    def __init__(self, *, m: int, n: int, k: int, threads: int) -> None:
        random = np.random.default_rng(12)
        self.a = random.standard_normal((m, k), np.float32)
        self.b = random.standard_normal((k, n), np.float32)
        self.out = np.empty((m, n), np.float32)
        self.operations = 2 * m * n * k
        self.prepare(threads)

    def prepare(self, threads: int, /) -> None:
        """Sets threads; not timed."""

    def product(self) -> Any:
        """fp32 [m, n]."""
        raise NotImplementedError

    def answer(self) -> Answer:
        """The product."""
        return {"product": np.array(self.product())}

    def run(self, _: int) -> float:
        """Billions of multiplications and additions a second."""
        return _rate(self.product, self.operations)


class FloatOurs(_Float):
    """pyhybrid.gemm."""

    def prepare(self, threads: int) -> None:
        from pyhybrid._context import Context

        self.context = Context(threads=threads)

    def product(self) -> Any:
        from pyhybrid.quantization import gemm

        return gemm(self.a, self.b, out=self.out, context=self.context)


class FloatNumpy(_Float):
    """NumPy's BLAS."""

    def product(self) -> Any:
        return np.matmul(self.a, self.b, out=self.out)


class FloatTorch(_Float):
    """torch.mm."""

    def prepare(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.multiply = torch.mm
        self.tensors = [torch.from_numpy(array) for array in (self.a, self.b, self.out)]

    def product(self) -> Any:
        self.multiply(self.tensors[0], self.tensors[1], out=self.tensors[2])
        return self.out


def rows(_: Options) -> list[Row]:
    """One token and many through two ternary matrices; fp32 products of three sizes; one thread each."""
    here = "pyhybrid.benchmarks.matmul"
    found = [
        Row(
            name=f"matmul/ternary/{n_rows}x{columns}/{tokens}-tokens",
            section="matmul",
            unit="Gop/s",
            better="higher",
            ours=f"{here}:TernaryOurs",
            peers={"NumPy fp32": f"{here}:TernaryNumpy", "torch._int_mm": f"{here}:TernaryTorch"},
            sizes={"rows": n_rows, "columns": columns, "tokens": tokens},
            agreement={"sums": 0.0},
        )
        for n_rows, columns in ((1024, 1024), (6912, 2560))
        for tokens in (1, 128)
    ]
    found += [
        Row(
            name=f"matmul/fp32/{m}x{n}x{k}",
            section="matmul",
            unit="GFLOP/s",
            better="higher",
            ours=f"{here}:FloatOurs",
            peers={"NumPy OpenBLAS": f"{here}:FloatNumpy", "torch.mm": f"{here}:FloatTorch"},
            sizes={"m": m, "n": n, "k": k},
            # Worst case of a sum of k products in fp32, relative to norms: k 2^-24.
            agreement={"product": k * 2.0**-24},
        )
        for m, n, k in ((512, 512, 512), (2048, 384, 128), (128, 2048, 2048))
    ]
    return found
