"""The fp32 product, beside NumPy's OpenBLAS (as it starts, and told to be on a SkylakeX) and torch.mm.

OpenBLAS chooses kernels by the processor's model and knows only those of its time; where it takes a new one
for an older, its AVX-512 kernels stay unused. The better of both is the peer.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pyhybrid.benchmarks.registry import Answer, Goal, Limit, Options, Row, UnavailableError
from pyhybrid.benchmarks.timing import Operation, hidden, rounds

__all__ = ["FloatNumpy", "FloatNumpySkylake", "FloatOurs", "FloatTorch", "rows"]


class _Float(Operation):
    def __init__(self, *, m: int, n: int, k: int, threads: int, seconds: float = 0.2) -> None:
        super().__init__(2.0 * m * n * k, seconds)
        random = np.random.default_rng(12)
        self.a = random.standard_normal((m, k), np.float32)
        self.b = random.standard_normal((k, n), np.float32)
        self.out = np.empty((m, n), np.float32)
        self.prepare(threads)

    def prepare(self, threads: int, /) -> None:
        """Sets threads; not timed."""

    def answer(self) -> Answer:
        """The product, fp32 [m, n]."""
        return {"product": np.array(self.call())}


class FloatOurs(_Float):
    """pyhybrid.gemm."""

    def prepare(self, threads: int) -> None:
        from pyhybrid._context import Context
        from pyhybrid.quantization import gemm

        self.context, self.multiply = Context(threads=threads), gemm

    def call(self) -> Any:
        return self.multiply(self.a, self.b, out=self.out, context=self.context)


class FloatNumpy(_Float):
    """NumPy's BLAS."""

    def call(self) -> Any:
        return np.matmul(self.a, self.b, out=self.out)


class FloatNumpySkylake(FloatNumpy):
    """NumPy's OpenBLAS with the kernels of a SkylakeX: the row sets OPENBLAS_CORETYPE for its process."""

    def prepare(self, _: int) -> None:
        from pyhybrid._context import detected_isa

        if not detected_isa().startswith("avx512"):
            raise UnavailableError("this processor has no AVX-512")


class FloatTorch(_Float):
    """torch.mm."""

    def prepare(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.multiply = torch.mm
        self.tensors = [torch.from_numpy(array) for array in (self.a, self.b, self.out)]

    def call(self) -> Any:
        self.multiply(self.tensors[0], self.tensors[1], out=self.tensors[2])
        return self.out


def _row(m: int, n: int, k: int, threads: int, options: Options) -> Row:
    here = "pyhybrid.benchmarks.gemm"
    name, skylake = f"gemm/{m}x{n}x{k}", "NumPy OpenBLAS SkylakeX"
    text = f"The fp32 product {m}x{n}x{k} on {threads} thread(s) is at least as fast as that of"
    peers = {
        "NumPy OpenBLAS": f"{here}:FloatNumpy",
        skylake: f"{here}:FloatNumpySkylake",
        "torch.mm": f"{here}:FloatTorch",
    }
    blas = {"OPENBLAS_NUM_THREADS": str(threads)}
    return Row(
        name=name + (f"/{threads}-threads" if threads > 1 else ""),
        section="gemm",
        unit="GFLOP/s",
        better="higher",
        ours=f"{here}:FloatOurs",
        peers=peers,
        sizes={"m": m, "n": n, "k": k},
        hidden=hidden(options),
        threads=threads,
        rounds=rounds(options, 2.0 * m * n * k),
        # Worst case of a sum of k products in fp32, relative to norms: k 2^-24.
        agreement={"product": k * 2.0**-24},
        peer_environment={"NumPy OpenBLAS": blas, skylake: blas | {"OPENBLAS_CORETYPE": "SKYLAKEX"}},
        limits=(Limit(kind="fma", per_unit=1e9),),
        goals=tuple(Goal(text=f"{text} {peer}.", kind="ratio", limit=1.0, peer=peer) for peer in peers),
    )


def rows(options: Options) -> list[Row]:
    """Square products, and the shapes of a training step."""
    shapes = [(512, 512, 512), (2048, 384, 128), (128, 2048, 2048), (512, 768, 768), (512, 4096, 4096)]
    if options.quick:
        shapes = shapes[:2]
    return [_row(*shape, threads, options) for threads in options.kernel_threads for shape in shapes]
