"""Single operations of the public interface beside PyTorch: int8 activations, AdamW, the sum of squares.

Operations that only the networks use (RMS norm, attention, SiLU, rotation, cross-entropy) have no public
function: `check_vector --bench` and its like measure them against the reference, the sections `train` and
`generate` measure what they add up to. The figure is GB/s of the bytes that an operation must read and write.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pyhybrid.benchmarks.registry import Answer, Goal, Limit, Options, Row
from pyhybrid.benchmarks.timing import Operation, hidden, rounds

__all__ = [
    "ActivationsNumpy", "ActivationsOurs", "ActivationsTorch", "AdamwOurs", "AdamwTorch", "SquaresNumpy",
    "SquaresOurs", "SquaresTorch", "rows",
]  # fmt: skip

# A code on the other side of a rounding tie, where the two sides divide in another order: about one in 10^5.
_TIE_BOUND = 1e-3


class _Activations(Operation):
    """fp32 [tokens, columns] to int8 with one scale a token."""

    def __init__(self, *, tokens: int, columns: int, threads: int, seconds: float = 0.2) -> None:
        super().__init__(5.0 * tokens * columns, seconds)
        self.x = np.random.default_rng(15).standard_normal((tokens, columns), np.float32)
        self.prepare(threads)

    def prepare(self, threads: int, /) -> None:
        """Buffers and threads; not timed."""

    def answer(self) -> Answer:
        """Codes and scales."""
        codes, scales = self.call()
        return {"codes": np.asarray(codes), "scales": np.asarray(scales).reshape(-1)}


class ActivationsOurs(_Activations):
    """hyb_quantize_activations."""

    def prepare(self, threads: int) -> None:
        from pyhybrid._context import Context
        from pyhybrid._native import ffi, lib

        self.context, self.function = Context(threads=threads), lib.hyb_quantize_activations
        self.codes, self.scales = np.empty(self.x.shape, np.int8), np.empty(self.x.shape[0], np.float32)
        codes, scales = ffi.from_buffer("int8_t[]", self.codes), ffi.from_buffer("float[]", self.scales)
        x = ffi.from_buffer("float[]", self.x)
        self.arguments = (self.context.handle, x, *self.x.shape, codes, scales)

    def call(self) -> Any:
        self.context.check(self.function(*self.arguments))
        return self.codes, self.scales


class ActivationsNumpy(_Activations):
    """The formula in NumPy."""

    def call(self) -> Any:
        largest = np.abs(self.x).max(axis=1, keepdims=True)
        return np.round(self.x * (np.float32(127) / largest)).astype(np.int8), largest / np.float32(127)


class ActivationsTorch(_Activations):
    """The formula in eager PyTorch."""

    def prepare(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.tensor, self.int8 = torch.from_numpy(self.x), torch.int8

    def call(self) -> Any:
        largest = self.tensor.abs().amax(dim=1, keepdim=True)
        return (self.tensor * (127 / largest)).round_().to(self.int8), largest / 127


class _Adamw(Operation):
    """One update of n parameters: 16 bytes read and 12 written each."""

    def __init__(self, *, n: int, threads: int, seconds: float = 0.2) -> None:
        super().__init__(28.0 * n, seconds)
        random = np.random.default_rng(16)
        self.weights = random.standard_normal(n, np.float32)
        self.gradient = random.standard_normal(n, np.float32)
        self.prepare(threads)

    def prepare(self, threads: int, /) -> None:
        """The optimiser; not timed."""

    def answer(self) -> Answer:
        """The weights after the first update."""
        return {"weights": np.array(self.call())}


class AdamwOurs(_Adamw):
    """hyb_adamw_update."""

    def prepare(self, threads: int) -> None:
        from pyhybrid._context import Context
        from pyhybrid._native import ffi, lib

        self.context, self.function = Context(threads=threads), lib.hyb_adamw_update
        fields = {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8}
        self.adamw = ffi.new("hyb_adamw *", fields | {"weight_decay": 0.1, "gradient_scale": 1.0, "step": 0})
        self.moments = [np.zeros_like(self.weights) for _ in range(2)]
        arrays = (self.gradient, self.weights, *self.moments)
        pointers = [ffi.from_buffer("float[]", array) for array in arrays]
        self.arguments = (self.context.handle, self.adamw, self.weights.size, *pointers)

    def call(self) -> Any:
        self.adamw.step += 1
        self.context.check(self.function(*self.arguments))
        return self.weights


class AdamwTorch(_Adamw):
    """torch.optim.AdamW, fused."""

    def prepare(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        parameter = torch.nn.Parameter(torch.from_numpy(self.weights))
        parameter.grad = torch.from_numpy(self.gradient)
        self.optimizer = torch.optim.AdamW(
            [parameter], lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, fused=True
        )

    def call(self) -> Any:
        self.optimizer.step()
        return self.weights


class _Squares(Operation):
    """Sum of squares of n values."""

    def __init__(self, *, n: int, threads: int, seconds: float = 0.2) -> None:
        super().__init__(4.0 * n, seconds)
        self.x = np.random.default_rng(17).standard_normal(n, np.float32)
        self.prepare(threads)

    def prepare(self, threads: int, /) -> None:
        """Buffers and threads; not timed."""

    def answer(self) -> Answer:
        """The sum."""
        return {"sum": np.array(float(self.call()))}


class SquaresOurs(_Squares):
    """hyb_sum_squares, in fp64."""

    def prepare(self, threads: int) -> None:
        from pyhybrid._context import Context
        from pyhybrid._native import ffi, lib

        self.context, self.function = Context(threads=threads), lib.hyb_sum_squares
        self.out = ffi.new("double *")
        x = ffi.from_buffer("float[]", self.x)
        self.arguments = (self.context.handle, x, self.x.size, self.out)

    def call(self) -> Any:
        self.context.check(self.function(*self.arguments))
        return self.out[0]


class SquaresNumpy(_Squares):
    """numpy.dot, in fp32."""

    def call(self) -> Any:
        return np.dot(self.x, self.x)


class SquaresTorch(_Squares):
    """torch.linalg.vector_norm, in fp32."""

    def prepare(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.tensor, self.norm = torch.from_numpy(self.x), torch.linalg.vector_norm

    def call(self) -> Any:
        return self.norm(self.tensor) ** 2


_HERE = "pyhybrid.benchmarks.kernels"


def _activations(tokens: int, columns: int, threads: int, options: Options) -> Row:
    return Row(
        name=f"kernels/int8-activations/{tokens}x{columns}" + (f"/{threads}-threads" if threads > 1 else ""),
        section="kernels",
        unit="GB/s",
        better="higher",
        ours=f"{_HERE}:ActivationsOurs",
        peers={"PyTorch eager": f"{_HERE}:ActivationsTorch", "NumPy": f"{_HERE}:ActivationsNumpy"},
        sizes={"tokens": tokens, "columns": columns},
        hidden=hidden(options),
        threads=threads,
        rounds=rounds(options),
        agreement={"codes": _TIE_BOUND, "scales": 1e-6},
        limits=(Limit(kind="read", per_unit=0.8e9, working_set=4 * tokens * columns),),  # 4 of the 5 bytes
    )


def _adamw(n: int, threads: int, options: Options) -> Row:
    goal = Goal(
        text=f"An AdamW update of {n} parameters on one thread is at least 1.1 x PyTorch's fused one.",
        kind="ratio", limit=1.1, peer="PyTorch fused",
    )  # fmt: skip
    return Row(
        name=f"kernels/adamw/{n}" + (f"/{threads}-threads" if threads > 1 else ""),
        section="kernels",
        unit="GB/s",
        better="higher",
        ours=f"{_HERE}:AdamwOurs",
        peers={"PyTorch fused": f"{_HERE}:AdamwTorch"},
        sizes={"n": n},
        hidden=hidden(options),
        threads=threads,
        rounds=rounds(options),
        agreement={"weights": 1e-6},
        # 16 of the 28 bytes are read; how fast the others are written no probe says.
        limits=(Limit(kind="read", per_unit=16 / 28 * 1e9, working_set=16 * n),),
        goals=(goal,) if threads == 1 else (),
    )


def _squares(n: int, threads: int, options: Options) -> Row:
    return Row(
        name=f"kernels/sum-of-squares/{n}" + (f"/{threads}-threads" if threads > 1 else ""),
        section="kernels",
        unit="GB/s",
        better="higher",
        ours=f"{_HERE}:SquaresOurs",
        peers={"PyTorch": f"{_HERE}:SquaresTorch", "NumPy": f"{_HERE}:SquaresNumpy"},
        sizes={"n": n},
        hidden=hidden(options),
        threads=threads,
        rounds=rounds(options),
        # Ours sums in fp64; a peer rounds n / 16 additions of positive terms in each of 16 or more sums.
        agreement={"sum": max(1e-4, n / 16 * 2.0**-24)},
        limits=(Limit(kind="read", per_unit=1e9, working_set=4 * n),),
    )


def rows(options: Options) -> list[Row]:
    """One size in a cache and one from DRAM of each operation."""
    sizes = (1 << 16,) if options.quick else (1 << 16, 1 << 24)
    found = []
    for threads in options.kernel_threads:
        found += [_activations(n // 4096, 4096, threads, options) for n in sizes]
        found += [_adamw(n, threads, options) for n in sizes]
        found += [_squares(n, threads, options) for n in sizes]
    return found
