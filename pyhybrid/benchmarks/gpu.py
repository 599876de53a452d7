"""The numeric cores on a GPU, beside PyTorch's libraries there, a copy within the device, and the CPU.

Times are the device's own, by its events, of calls that follow one another; rows whose name ends in
`transfers` count the way to the device and back, by the clock. Weights of products are several matrices that
take turns, four times the second-level cache, so that they come from memory. Without a GPU there are no rows.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from pyhybrid.benchmarks.registry import Answer, Goal, Options, Row, UnavailableError

__all__ = ["rows"]

_HERE = "pyhybrid.benchmarks.gpu"
_CALLS_SECONDS = 0.1  # least time of one measurement


def _seed(*sizes: int) -> np.random.Generator:
    return np.random.default_rng([21, *sizes])


# ---- clocks ----


class _Ours:
    """Times calls of our own module."""

    def __init__(self) -> None:
        from pyhybrid import cuda

        reason = cuda.unavailable()
        if reason is not None:
            raise UnavailableError(reason)
        self.cuda, self.device = cuda, cuda.default_device()

    def seconds(self, calls: int, call: Callable[[], Any]) -> float:
        """Seconds of so many calls."""
        from pyhybrid._native import ffi, lib

        found = ffi.new("double *")
        self.device.call(lib.hyb_cuda_timer_start, 0)
        for _ in range(calls):
            call()
        self.device.call(lib.hyb_cuda_timer_stop, 0, found)
        return float(found[0])

    def copies(self, n_bytes: int) -> int:
        """How many matrices of a size take turns."""
        return max(1, -(-4 * self.device.info.l2_bytes // n_bytes))


class _Torch:
    """Times calls of PyTorch."""

    def __init__(self) -> None:
        import torch

        if not torch.cuda.is_available():
            raise UnavailableError("PyTorch sees no GPU")
        torch.backends.cuda.matmul.allow_tf32 = False
        self.torch = torch

    def seconds(self, calls: int, call: Callable[[], Any]) -> float:
        """Seconds of so many calls."""
        make: Any = self.torch.cuda.Event
        first, last = make(enable_timing=True), make(enable_timing=True)
        first.record()
        for _ in range(calls):
            call()
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last)) * 1e-3

    def copies(self, n_bytes: int) -> int:
        """How many matrices of a size take turns."""
        cache = int(self.torch.cuda.get_device_properties(0).L2_cache_size)
        return max(1, -(-4 * cache // n_bytes))


class _Clock:
    """Times calls by the processor's clock: of what waits by itself."""

    def seconds(self, calls: int, call: Callable[[], Any]) -> float:
        """Seconds of so many calls."""
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return time.perf_counter() - start


class _Side:
    """A side that makes `call` and says what it does.

    Args:
        amount: of one call, in the row's unit; the figure is amount a second, or with `milliseconds` the
            milliseconds of a call.
    """

    milliseconds = False
    amount = 1.0
    seconds: Callable[[int, Callable[[], Any]], float]

    def call(self) -> Any:
        """Does the operation once."""
        raise NotImplementedError

    def answer(self) -> Answer:
        """What it computes."""
        return {}

    def run(self, _: int) -> float:
        """One measurement, over as many calls as fill it."""
        self.call()
        calls = 1
        while (taken := self.seconds(calls, self.call)) < _CALLS_SECONDS and calls < 10**6:
            calls = max(2 * calls, int(calls * 1.2 * _CALLS_SECONDS / max(taken, 1e-9)))
        return 1e3 * taken / calls if self.milliseconds else self.amount * calls / taken


# ---- copies: the bandwidth that the others are held against ----


class Copy(_Ours, _Side):
    """A copy within the device; the figure is what it would do for `bytes_per_unit` of traffic."""

    def __init__(self, *, bytes_per_unit: float = 1e9, **_: Any) -> None:
        super().__init__()
        n = min(2**30, self.device.info.free_bytes // 8)
        self.a, self.b = self.device.empty(n, np.uint8), self.device.empty(n, np.uint8)
        self.amount = 2.0 * n / bytes_per_unit

    def call(self) -> None:
        self.device.copy(self.a.address, self.b.address, self.a.nbytes)

    def answer(self) -> Answer:
        self.device.upload(np.full(self.a.nbytes, 7, np.uint8), self.a)
        self.call()
        return {"bytes": self.b.numpy()[-100:]}


class CopyTorch(_Torch, _Side):
    """PyTorch's copy."""

    def __init__(self, *, bytes_per_unit: float = 1e9, **_: Any) -> None:
        super().__init__()
        n = min(2**30, self.torch.cuda.mem_get_info()[0] // 8)
        self.a = self.torch.empty(n, dtype=self.torch.uint8, device="cuda")
        self.b = self.torch.empty_like(self.a)
        self.amount = 2.0 * n / bytes_per_unit

    def call(self) -> None:
        self.b.copy_(self.a)

    def answer(self) -> Answer:
        self.a.fill_(7)
        self.call()
        return {"bytes": self.b[-100:].cpu().numpy()}


# ---- products ----


def _product(rows: int, columns: int, tokens: int) -> tuple[Any, Any]:
    """Ternary codes as int8, and activations."""
    random = _seed(rows, columns, tokens)
    codes = random.integers(-1, 2, (rows, columns), np.int8)
    return codes, random.standard_normal((tokens, columns), np.float32)


class Matmul(_Ours, _Side):
    """hyb_cuda_matmul: activations quantised, packed weights multiplied."""

    def __init__(self, *, rows: int, columns: int, tokens: int, **_: Any) -> None:
        super().__init__()
        codes, x = _product(rows, columns, tokens)
        on_device, scale = self.device.array(codes), self.device.array(np.ones(1, np.float32))
        n = self.copies(rows * columns // 4)
        self.weights = [self.cuda.Weights(on_device, scale, device=self.device) for _ in range(n)]
        self.turns = itertools.cycle(self.weights)
        self.x, self.amount = self.device.array(x), 1e-9 * rows * columns * tokens

    def call(self) -> Any:
        return self.cuda.matmul(next(self.turns), self.x)

    def answer(self) -> Answer:
        return {"y": self.call().numpy()}


class MatmulBf16(_Torch, _Side):
    """cuBLAS in bf16, through PyTorch."""

    def __init__(self, *, rows: int, columns: int, tokens: int, **_: Any) -> None:
        super().__init__()
        codes, x = _product(rows, columns, tokens)
        bf16 = self.torch.bfloat16
        first = self.torch.from_numpy(codes).cuda().to(bf16)
        self.weights = [first.clone() for _ in range(self.copies(2 * rows * columns))]
        self.turns = itertools.cycle(self.weights)
        self.x, self.amount = self.torch.from_numpy(x).cuda().to(bf16), 1e-9 * rows * columns * tokens

    def call(self) -> Any:
        return self.x @ next(self.turns).T

    def answer(self) -> Answer:
        return {"y": self.call().float().cpu().numpy()}


class MatmulInt8(_Torch, _Side):
    """torch._int_mm of int8 codes, without the quantising; more than 16 tokens only."""

    def __init__(self, *, rows: int, columns: int, tokens: int, **_: Any) -> None:
        super().__init__()
        codes, x = _product(rows, columns, tokens)
        if tokens <= 16:
            raise UnavailableError("torch._int_mm takes more than 16 tokens")
        scale = np.abs(x).max(axis=1, keepdims=True) / 127
        self.scale, quantized = scale, np.rint(x / scale).astype(np.int8)
        self.weights = self.torch.from_numpy(codes).cuda().T
        self.x, self.amount = self.torch.from_numpy(quantized).cuda(), 1e-9 * rows * columns * tokens

    def call(self) -> Any:
        return self.torch._int_mm(self.x, self.weights)

    def answer(self) -> Answer:
        return {"y": self.call().cpu().numpy() * self.scale}


# ---- quantising ----


def _codes(packed: Any) -> Any:
    """The first codes in bytes of 2 bits a code."""
    first = np.asarray(packed[:4096], np.int16)
    return np.stack([(first >> 2 * i & 3) - 1 for i in range(4)])


class QuantizePack(_Ours, _Side):
    """fp32 to packed ternary bytes."""

    def __init__(self, *, rows: int, columns: int, scale: str, **_: Any) -> None:
        super().__init__()
        random = _seed(rows, columns)
        self.weights = self.device.array(random.standard_normal((rows, columns), np.float32))
        # A scale of the whole tensor needs all weights before the first code: they are read twice.
        reads = 2 if scale == "tensor" else 1
        self.scale, self.amount = scale, 1e-9 * rows * columns * (4 * reads + 0.25)

    def call(self) -> Any:
        return self.cuda.quantize_and_pack(self.weights, scale=self.scale, device=self.device)

    def answer(self) -> Answer:
        return {"codes": _codes(self.call().codes.numpy())}


class QuantizePackTorch(_Torch, _Side):
    """The formula and the packing in eager PyTorch; the traffic that ours needs is counted."""

    def __init__(self, *, rows: int, columns: int, scale: str, **_: Any) -> None:
        super().__init__()
        random = _seed(rows, columns)
        self.weights = self.torch.from_numpy(random.standard_normal((rows, columns), np.float32)).cuda()
        self.amount = 1e-9 * rows * columns * (4 * (2 if scale == "tensor" else 1) + 0.25)
        self.scale = scale

    def call(self) -> Any:
        w = self.weights
        mean = w.abs().mean() if self.scale == "tensor" else w.abs().mean(dim=1, keepdim=True)
        codes = ((w / mean).round().clamp(-1, 1) + 1).to(self.torch.uint8).reshape(-1, 4)
        return codes[:, 0] | codes[:, 1] << 2 | codes[:, 2] << 4 | codes[:, 3] << 6

    def answer(self) -> Answer:
        return {"codes": _codes(self.call().cpu().numpy())}


class AdamW(_Ours, _Side):
    """hyb_cuda_adamw_update: 28 bytes a parameter."""

    def __init__(self, *, n: int, **_: Any) -> None:
        super().__init__()
        values = _seed(n).standard_normal((2, n), np.float32) * np.float32(1e-2)
        moments = np.zeros((2, n), np.float32)
        self.arrays = [self.device.array(v) for v in (*values, *moments)]
        self.amount, self.step = 28e-9 * n, 0

    def call(self) -> None:
        self.step += 1
        rates = {"learning_rate": 1e-4, "beta2": 0.999, "weight_decay": 0.01}
        self.cuda.adamw_update(*self.arrays, step=self.step, **rates, device=self.device)

    def answer(self) -> Answer:
        self.call()
        return {"weights": self.arrays[0].numpy()[:1000]}


class AdamWTorch(_Torch, _Side):
    """torch.optim.AdamW(fused=True)."""

    def __init__(self, *, n: int, **_: Any) -> None:
        super().__init__()
        values = _seed(n).standard_normal((2, n), np.float32) * np.float32(1e-2)
        self.weights = self.torch.nn.Parameter(self.torch.from_numpy(values[0]).cuda())
        self.weights.grad = self.torch.from_numpy(values[1]).cuda()
        self.optimizer = self.torch.optim.AdamW([self.weights], lr=1e-4, weight_decay=0.01, fused=True)
        self.amount = 28e-9 * n

    def call(self) -> None:
        self.optimizer.step()

    def answer(self) -> Answer:
        self.call()
        return {"weights": self.weights.detach().cpu().numpy()[:1000]}


# ---- K-means ----


class KMeans(_Ours, _Side):
    """One iteration of Lloyd's: labels and means, exact; the difference of a long and a short run."""

    def __init__(self, *, n: int, d: int, k: int, **_: Any) -> None:
        super().__init__()
        points = _seed(n, d, k).standard_normal((n, d), np.float32)
        self.points, self.start = self.device.array(points), self.device.array(points[:k])

    def _run(self, iterations: int) -> Any:
        return self.cuda.kmeans(self.points, self.start, max_iter=iterations, tol=0.0, device=self.device)

    def answer(self) -> Answer:
        return {"inertia": np.array(self._run(2).inertia)}

    def run(self, _: int) -> float:
        """Milliseconds an iteration."""
        clock = _Clock()
        short, long = (clock.seconds(1, partial(self._run, i)) for i in (2, 12))
        return 1e3 * (long - short) / 10


class KMeansSklearn:
    """scikit-learn's Lloyd on all processors, the same."""

    def __init__(self, *, n: int, d: int, k: int, **_: Any) -> None:
        from sklearn.cluster import KMeans as Peer

        self.points = _seed(n, d, k).standard_normal((n, d), np.float32)
        self.peer: Any = Peer(k, init=self.points[:k], n_init=1, tol=0.0, algorithm="lloyd")

    def _fit(self, iterations: int) -> Any:
        return self.peer.set_params(max_iter=iterations).fit(self.points)

    def answer(self) -> Answer:
        return {"inertia": np.array(self._fit(2).inertia_)}

    def run(self, _: int) -> float:
        """Milliseconds an iteration."""
        clock = _Clock()
        short, long = (clock.seconds(1, partial(self._fit, i)) for i in (1, 3))
        return 1e3 * (long - short) / 2


# ---- generation ----


class Generate(_Ours):
    """Tokens a second of generation, batch 1, every step a graph."""

    device_name: Any = "cuda"

    def __init__(self, *, preset: str, tokens: int, **_: Any) -> None:
        if self.device_name is not None:
            super().__init__()
        from pyhybrid import LanguageModel
        from pyhybrid.config import PRESETS

        self.model, self.tokens = LanguageModel(PRESETS[preset].model, seed=1), tokens

    def _text(self, tokens: int) -> Any:
        options: dict[str, Any] = {"temperature": 0.0, "device": self.device_name}
        return self.model.generate_all([b"The "], tokens=tokens, **options)[0].tokens

    def answer(self) -> Answer:
        return {"tokens": self._text(16)}

    def run(self, _: int) -> float:
        """Tokens a second: a long run less a short one, which makes the session."""
        clock = _Clock()
        short, long = (clock.seconds(1, partial(self._text, n)) for n in (8, 8 + self.tokens))
        return self.tokens / (long - short)


class GenerateCPU(Generate):
    """The same on the processor, every instruction set and thread."""

    device_name = None


# ---- the documents' table ----


class Documents(_Ours, _Side):
    """An operation of the documents on arrays that are on the device."""

    milliseconds = True

    def __init__(self, *, operation: str, n: int, **_: Any) -> None:
        super().__init__()
        self.operation, values = operation, _seed(n).standard_normal(n, np.float32)
        if operation == "matmul":
            side = int(n**0.5)
            self.a = self.device.array(values[: side * side].reshape(side, side))
        else:
            self.a = self.device.array(values)

    def call(self) -> Any:
        if self.operation == "quantize":
            return self.cuda.quantize_levels(self.a, device=self.device)
        if self.operation == "constrain":
            return self.cuda.constrain_norm(self.a, 1.0, device=self.device).values
        return self.cuda.gemm(self.a, self.a, device=self.device)

    def answer(self) -> Answer:
        return {"values": self.call().numpy()}


class _DocumentsOnHost(_Clock, _Side):
    milliseconds = True
    backend = "numpy"

    def __init__(self, *, operation: str, n: int, **_: Any) -> None:
        from pyhybrid._backends import backends

        found = backends()[self.backend]
        if found.reason is not None:
            raise UnavailableError(found.reason)
        self.operation, self.chosen, values = operation, found, _seed(n).standard_normal(n, np.float32)
        side = int(n**0.5)
        self.a = values[: side * side].reshape(side, side) if operation == "matmul" else values

    def call(self) -> Any:
        if self.operation == "quantize":
            return self.chosen.quantize(self.a)
        if self.operation == "constrain":
            return self.chosen.constrain(self.a, 1.0).values
        return self.chosen.matmul(self.a, self.a)

    def answer(self) -> Answer:
        return {"values": np.asarray(self.call())}


class DocumentsNumpy(_DocumentsOnHost):
    """NumPy."""


class DocumentsTransfers(_DocumentsOnHost):
    """Ours, from arrays of the host and back."""

    backend = "gpu"


# ---- rows ----


def _row(name: str, unit: str, ours: str, peers: dict[str, str], sizes: dict[str, Any], **more: Any) -> Row:
    return Row(
        name=f"gpu/{name}",
        section="gpu",
        unit=unit,
        better="lower" if unit.startswith("ms") else "higher",
        ours=f"{_HERE}:{ours}",
        peers={label: f"{_HERE}:{side}" for label, side in peers.items()},
        sizes=sizes,
        **{"rounds": 5} | more,
    )


def _ratio(text: str, limit: float, peer: str) -> Goal:
    return Goal(text=text, kind="ratio", limit=limit, peer=peer)


def _products() -> list[Row]:
    found = []
    for rows_, columns in ((4096, 4096), (8192, 8192), (28672, 8192)):
        for tokens in (1, 8):
            goals = () if tokens > 1 else (
                _ratio("One token: at least 75 % of the device's copy bandwidth.", 0.75, "device copy"),
                _ratio("One token: at least 4 times as fast as cuBLAS bf16.", 4.0, "cuBLAS bf16"),
            )  # fmt: skip
            found.append(
                _row(
                    f"matmul/{tokens}x{rows_}x{columns}",
                    "G products/s",
                    "Matmul",
                    {"cuBLAS bf16": "MatmulBf16", "device copy": "Copy"},
                    {"rows": rows_, "columns": columns, "tokens": tokens},
                    # A copy's figure: products whose weights, 2 bits each, that bandwidth would bring.
                    hidden={"bytes_per_unit": 0.25e9 / tokens},
                    agreement={"y": 0.05},
                    peer_agreement={"device copy": {"y": None}},
                    goals=goals,
                )
            )
    return found + [
        _row(
            f"matmul/{tokens}x8192x8192",
            "G products/s",
            "Matmul",
            {"cuBLAS bf16": "MatmulBf16", "torch._int_mm": "MatmulInt8"},
            {"rows": 8192, "columns": 8192, "tokens": tokens},
            agreement={"y": 0.05},
            goal=_ratio("Many tokens: at least as fast as cuBLAS bf16.", 1.0, "cuBLAS bf16"),
        )
        for tokens in (256, 2048)
    ]


def _documents() -> list[Row]:
    found = []
    for operation, n in itertools.product(("quantize", "constrain", "matmul"), (10**4, 10**6, 10**8)):
        if operation == "matmul" and n > 10**7:
            continue
        sizes = {"operation": operation, "n": n}
        agreement = {"values": 0.0 if operation == "quantize" else 1e-4}
        for name, side in (("", "Documents"), ("/transfers", "DocumentsTransfers")):
            found.append(
                _row(
                    f"documents/{operation}/{n}{name}",
                    "ms",
                    side,
                    {"NumPy": "DocumentsNumpy"},
                    sizes,
                    agreement=agreement,
                    rounds=3,
                )
            )
    return found


def rows(options: Options) -> list[Row]:
    """All rows where there is a GPU; none elsewhere. `options.quick` leaves out the largest."""
    from pyhybrid import cuda

    if cuda.unavailable() is not None:
        return []
    found = [
        _row("copy", "GB/s", "Copy", {"PyTorch copy_": "CopyTorch"}, {}, agreement={"bytes": 0.0}),
        *_products(),
    ]
    found += [
        _row(
            f"quantize-pack/{scale}",
            "GB/s",
            "QuantizePack",
            {"device copy": "Copy", "PyTorch eager": "QuantizePackTorch"},
            {"rows": 8192, "columns": 16384, "scale": scale},
            # Our scale is a binary16 number: few codes are others.
            agreement={"codes": 0.05},
            peer_agreement={"device copy": {"codes": None}},
            goal=_ratio("Quantising and packing: 80 % of the copy bandwidth.", 0.8, "device copy"),
            note="Least traffic: the weights once for each time that they must be read, and the bytes.",
        )
        for scale in ("tensor", "row")
    ]
    peers = {"device copy": "Copy", "PyTorch fused": "AdamWTorch"}
    adamw: dict[str, Any] = {"agreement": {"weights": 1e-4}}
    adamw["peer_agreement"] = {"device copy": {"weights": None}}
    found.append(_row("adamw", "GB/s", "AdamW", peers, {"n": 2**27}, **adamw))
    sizes = {"n": 10**5 if options.quick else 10**6, "d": 128, "k": 1024}
    found.append(
        _row(
            "kmeans",
            "ms",
            "KMeans",
            {"scikit-learn": "KMeansSklearn"},
            sizes,
            agreement={"inertia": 1e-5},
            rounds=2,
            goal=_ratio("K-means: at least 50 times as fast as scikit-learn.", 50.0, "scikit-learn"),
        )
    )
    for preset in ("base",) if options.quick else ("base", "large"):
        model = {"preset": preset, "tokens": 128}
        same = {"tokens": 0.0}
        peer = {"CPU": "GenerateCPU"}
        found.append(_row(f"generate/{preset}", "tokens/s", "Generate", peer, model, agreement=same))
    return found + _documents()
