"""Products of packed ternary weights and int8 activations, beside ggml, PyTorch and NumPy.

The integer sums are compared exactly with NumPy (the same integers as fp32: every sum is below 2^24) and with
torch._int_mm. ggml takes fp32 activations and rounds them itself, so it is compared within its rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pyhybrid.benchmarks.registry import Answer, Goal, Limit, Options, Row
from pyhybrid.benchmarks.timing import Operation, hidden, rounds

__all__ = [
    "TernaryNumpy", "TernaryOurs", "TernaryQ4", "TernaryTQ1", "TernaryTQ2", "TernaryTorch",
    "TernaryTorchBf16", "TernaryTorchFp32", "rows",
]  # fmt: skip

# int8 activations of at most 127 keep their value in ggml's Q8_K up to the difference of a block's largest
# magnitude from 127: half a step in about 73 (root mean square) at most, 0.7 %.
_ACTIVATION_BOUND = 0.01
# Q4_0 has the codes -8 to 7: a weight that is as large as the block's scale but of the other sign is stored
# as 7/8 of it. A third of the weights, 1/8 off, relative to two thirds of ones: at most 1/8.
_Q4_BOUND = 0.125
# A sum in bf16 keeps 8 bits: half a unit in the last place, relative.
_BF16_BOUND = 2.0**-8
_NOTE = (
    "ggml's products take fp32 activations and quantise them within the time; ours, torch._int_mm and NumPy "
    "get them quantised. Q4_0 is ggml's plain layout, not its repacked one."
)


class _Ternary(Operation):
    def __init__(self, *, rows: int, columns: int, tokens: int, threads: int, seconds: float = 0.2) -> None:
        super().__init__(2.0 * rows * columns * tokens, seconds)
        random = np.random.default_rng(11)
        self.codes = random.integers(-1, 2, (rows, columns), np.int8)
        self.x = random.integers(-127, 128, (tokens, columns), np.int8)
        self.prepare(threads)

    def prepare(self, threads: int, /) -> None:
        """Packs or converts the weights, which is not timed."""

    def answer(self) -> Answer:
        """The sums [tokens, rows]."""
        return {"sums": np.asarray(self.call(), np.float64)}


class TernaryOurs(_Ternary):
    """hyb_matmul_i32 on packed weights; called through cffi, which costs about 0.3 microseconds."""

    def prepare(self, threads: int) -> None:
        from pyhybrid._context import Context
        from pyhybrid._native import ffi, lib
        from pyhybrid.quantization import PackedWeights, matmul

        context = Context(threads=threads)
        self.packed = PackedWeights(self.codes, np.ones(1, np.float32), context=context)
        self.out = np.empty((self.x.shape[0], self.codes.shape[0]), np.int32)
        matmul(self.packed, self.x, out=self.out)
        self.function, self.context = lib.hyb_matmul_i32, context
        x, out = ffi.from_buffer("int8_t[]", self.x), ffi.from_buffer("int32_t[]", self.out)
        self.arguments = (context.handle, self.packed.handle, x, self.x.shape[0], out)

    def call(self) -> Any:
        status = self.function(*self.arguments)
        if status:
            self.context.check(status)
        return self.out

    def amount(self, kind: str) -> float:
        """Bytes of weights that a billion operations read once, or the operations themselves."""
        return 1e9 * (self.packed.nbytes / self.per_call if kind == "read" else 1.0)


class TernaryNumpy(_Ternary):
    """The same integers as fp32 in NumPy."""

    def prepare(self, _: int) -> None:
        self.weights = np.ascontiguousarray(self.codes.T, np.float32)
        self.floats = self.x.astype(np.float32)
        self.out = np.empty((self.x.shape[0], self.codes.shape[0]), np.float32)

    def call(self) -> Any:
        return np.matmul(self.floats, self.weights, out=self.out)


class TernaryTorch(_Ternary):
    """torch._int_mm: int8 x int8 -> int32."""

    def prepare(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.multiply = torch._int_mm
        self.weights, self.input = torch.from_numpy(self.codes).t(), torch.from_numpy(self.x)

    def call(self) -> Any:
        return self.multiply(self.input, self.weights)


class TernaryTorchFp32(_Ternary):
    """torch.nn.functional.linear in fp32."""

    kind = "float32"

    def prepare(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        kind = getattr(torch, self.kind)
        self.multiply = torch.nn.functional.linear
        self.input, self.weights = torch.from_numpy(self.x).to(kind), torch.from_numpy(self.codes).to(kind)

    def call(self) -> Any:
        return self.multiply(self.input, self.weights)

    def answer(self) -> Answer:
        """The sums [tokens, rows]."""
        return {"sums": self.call().double().numpy()}


class TernaryTorchBf16(TernaryTorchFp32):
    """The same in bf16."""

    kind = "bfloat16"


class TernaryTQ2(_Ternary):
    """ggml's TQ2_0, 2.06 bits a weight."""

    kind = "TQ2_0"

    def prepare(self, threads: int) -> None:
        from pyhybrid.benchmarks.ggml import Product

        # A graph costs some microseconds to start: enough copies that it is below a percent.
        copies = int(min(32, max(1, 2e8 // self.per_call)))
        self.product = Product(
            self.kind, self.codes.astype(np.float32), self.x.astype(np.float32), threads, copies
        )
        self.per_call *= copies

    def call(self) -> Any:
        self.product.compute()
        return self.product.result


class TernaryTQ1(TernaryTQ2):
    """ggml's TQ1_0, 1.69 bits a weight."""

    kind = "TQ1_0"


class TernaryQ4(TernaryTQ2):
    """ggml's Q4_0, 4.5 bits a weight."""

    kind = "Q4_0"


# What the project set itself for one thread, by tier: at least so many times a peer's speed, or a share of
# the limit. bitnet.cpp's I2_S, which some of these were set against, is no Python package: measured elsewhere
# beside ggml's TQ2_0 on one thread it was 1.28 times as fast from DRAM, 1.55 times in the caches, 2.57 times
# with 8 tokens and 1.71 times with 128 and more.
_GOALS: dict[str, dict[str, tuple[dict[str, float], float | None]]] = {
    "avx512": {
        "one, DRAM": ({"ggml TQ2_0": 2.1}, 0.85),
        "one, cached": ({"ggml TQ2_0": 4.5}, None),
        "few": ({"ggml TQ2_0": 2.3 * 2.57}, None),
        "many, large": ({"torch._int_mm": 1.2, "ggml TQ2_0": 6.5}, 1.0),
        "many, small": ({"torch._int_mm": 1.0}, None),
    },
    "avx2": {
        "one, DRAM": ({"ggml TQ2_0": 1.15 * 1.28}, None),
        "one, cached": ({"ggml TQ2_0": 1.55}, None),
        "few": ({}, None),
        "many, large": ({"ggml TQ2_0": 1.3 * 1.71}, 0.75),
        "many, small": ({"ggml TQ2_0": 1.3 * 1.71}, 0.75),
    },
}


def _goals(n_rows: int, columns: int, tokens: int, threads: int, isa: str | None) -> tuple[Goal, ...]:
    """The claims of a row."""
    tier = _GOALS.get(isa or "avx512")
    if threads != 1 or tier is None:
        return ()
    what = f"Product of {n_rows}x{columns} ternary weights and {tokens} token(s) on one thread"
    what += f" with {isa}: " if isa else ": "
    if tokens == 1:
        least, share = tier["one, DRAM" if n_rows * columns >= 40_000_000 else "one, cached"]
    elif tokens < 128:
        least, share = tier["few"]
    else:
        least, share = tier["many, large" if min(n_rows, columns) >= 2560 else "many, small"]
    found = [
        Goal(text=f"{what}at least {limit:.3g} x {peer}.", kind="ratio", limit=limit, peer=peer)
        for peer, limit in least.items()
    ]
    if share is not None:
        name = "the read bandwidth" if tokens == 1 else "the int8 peak"
        found.append(Goal(text=f"{what}{share:.0%} of {name}.", kind="share", limit=share))
    return tuple(found)


def _row(n_rows: int, columns: int, tokens: int, threads: int, options: Options) -> Row:
    here = "pyhybrid.benchmarks.matmul"
    peers = {
        "ggml TQ2_0": f"{here}:TernaryTQ2",
        "ggml TQ1_0": f"{here}:TernaryTQ1",
        "ggml Q4_0": f"{here}:TernaryQ4",
        "torch._int_mm": f"{here}:TernaryTorch",
        "torch bf16": f"{here}:TernaryTorchBf16",
        "torch fp32": f"{here}:TernaryTorchFp32",
        "NumPy fp32": f"{here}:TernaryNumpy",
    }
    ggml = {"sums": _ACTIVATION_BOUND}
    packed_bytes = n_rows * columns // 4
    limits = [Limit(kind="int8", per_unit=1e9)]
    if tokens == 1:
        limits.append(Limit(kind="read", working_set=packed_bytes))
    operations = 2.0 * n_rows * columns * tokens
    return Row(
        name=f"matmul/{n_rows}x{columns}/{tokens}-tokens" + (f"/{threads}-threads" if threads > 1 else ""),
        section="matmul",
        unit="Gop/s",
        better="higher",
        ours=f"{here}:TernaryOurs",
        peers=peers,
        sizes={"rows": n_rows, "columns": columns, "tokens": tokens},
        hidden=hidden(options),
        threads=threads,
        rounds=rounds(options, operations),
        agreement={"sums": 0.0},
        peer_agreement={
            "ggml TQ2_0": ggml,
            "ggml TQ1_0": ggml,
            "ggml Q4_0": {"sums": _Q4_BOUND},
            "torch bf16": {"sums": _BF16_BOUND},
        },
        limits=tuple(limits),
        goals=_goals(n_rows, columns, tokens, threads, options.isa),
        note=_NOTE,
    )


def rows(options: Options) -> list[Row]:
    """One token and many through matrices from DRAM, from the last cache, and from the caches of a core."""
    shapes = [(n, k, 1) for n, k in ((11008, 4096), (4096, 4096), (768, 768))]
    shapes += [(n, k, t) for n, k in ((4096, 4096), (11008, 4096), (768, 768)) for t in (8, 128, 512)]
    if options.quick:
        shapes = [(4096, 4096, 1), (768, 768, 1), (768, 768, 128)]
    return [_row(*shape, threads, options) for threads in options.kernel_threads for shape in shapes]
