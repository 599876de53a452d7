"""Gradient compression: its speed beside NumPy and PyTorch, and how much of a gradient's signal it keeps.

Speed is GB/s of fp32 gradient. Signal is 1 - cosine between what was sent and the true gradient: of one step,
or of the sums over 20 and 200 steps with error feedback; on Gaussian numbers, and on the gradients of a
language model while it trains. Magnitude is the distance of the norms' ratio from 1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyhybrid.benchmarks.registry import Answer, Goal, Limit, Options, Row
from pyhybrid.benchmarks.timing import Operation, hidden, rounds

__all__ = [
    "BytesNumpy",
    "BytesOurs",
    "BytesTorch",
    "SignalNumpy",
    "SignalOurs",
    "StepNumpy",
    "StepOurs",
    "StepTorch",
    "rows",
]

# A value that lies at a threshold within rounding may fall on the other side: each such value moves the norm
# by as much as itself, and there are a few in a million.
_VALUES_BOUND = 0.01


# ---- the schemes in NumPy and PyTorch: the same definition as include/hybrid/compress.h ----


def _bfloat16(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    bits = scales.view(np.uint32)
    return (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1)) & np.uint32(0xFFFF0000)).view(
        np.float32
    )


def _codes_numpy(x: NDArray[np.float32], scheme: str) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Codes and scales of the rows of x."""
    if scheme == "five":
        scale = _bfloat16(np.sqrt(np.mean(x * x, axis=1, keepdims=True)))
        return np.clip(np.rint(x / np.maximum(scale, 1e-38)), -2, 2).astype(np.int8), scale
    magnitudes = np.abs(x)
    threshold = np.float32(0.75) * magnitudes.mean(axis=1, keepdims=True)
    for evaluation in range(4):
        above = magnitudes > threshold
        count = np.maximum(np.count_nonzero(above, axis=1, keepdims=True), 1).astype(np.float32)
        scale = np.sum(magnitudes, axis=1, keepdims=True, where=above) / count
        if evaluation < 3:
            threshold = np.float32(0.8) * scale - np.float32(0.6) * threshold
    codes = (x > threshold).astype(np.int8) - (x < -threshold).astype(np.int8)
    return codes, _bfloat16(scale)


def _codes_torch(x: Any, scheme: str) -> tuple[Any, Any]:
    """The same in eager PyTorch."""
    import torch

    if scheme == "five":
        scale = (x * x).mean(1, keepdim=True).sqrt().to(torch.bfloat16).to(torch.float32)
        return (x / scale.clamp(min=1e-38)).round().clamp(-2, 2).to(torch.int8), scale
    magnitudes = x.abs()
    threshold = 0.75 * magnitudes.mean(1, keepdim=True)
    for evaluation in range(4):
        above = magnitudes > threshold
        scale = (magnitudes * above).sum(1, keepdim=True) / above.sum(1, keepdim=True).clamp(min=1)
        if evaluation < 3:
            threshold = 0.8 * scale - 0.6 * threshold
    codes = (x > threshold).to(torch.int8) - (x < -threshold).to(torch.int8)
    return codes, scale.to(torch.bfloat16).to(torch.float32)


def _grouped(x: Any, scheme: str) -> Any:
    """Rows that share a scale."""
    return x.reshape(-1, 64) if scheme == "block" else x


def _pack(codes: Any, scheme: str) -> Any:
    """Codes of each row in bytes; columns must be a multiple of 120. NumPy and PyTorch alike."""
    if scheme != "five":
        digits = (codes + 1).reshape(codes.shape[0], -1, 5)
        total = digits[:, :, 0] + 3 * digits[:, :, 1] + 9 * digits[:, :, 2]
        return total + 27 * digits[:, :, 3] + 81 * digits[:, :, 4]  # int8 wraps; the bits are right
    digits = (codes + 2).reshape(codes.shape[0], -1, 3)
    fields = (digits[:, :, 0] + 5 * digits[:, :, 1] + 25 * digits[:, :, 2]).reshape(codes.shape[0], -1, 8)
    # Field f has bits 7 f to 7 f + 6: byte i holds the upper 7 - i bits of field i, then of the next.
    return [(fields[:, :, i] >> i) | (fields[:, :, i + 1] << (7 - i)) for i in range(7)]


# ---- speed ----


class _Compress(Operation):
    def __init__(self, *, scheme: str, rows: int, columns: int, threads: int, seconds: float = 0.2) -> None:
        super().__init__(4.0 * rows * columns, seconds)
        random = np.random.default_rng(17)
        self.scheme = scheme
        self.gradient = random.standard_normal((rows, columns), np.float32) * np.float32(1e-3)
        self.residual = random.standard_normal((rows, columns), np.float32) * np.float32(3e-4)
        self.prepare(threads)

    def prepare(self, threads: int, /) -> None:
        """Buffers and threads; not timed."""


class _OursBase(_Compress):
    def prepare(self, threads: int) -> None:
        from pyhybrid._context import Context
        from pyhybrid.gradient_compression import GradientCompressor

        context = Context(threads=threads)
        scheme: Any = self.scheme
        self.plain = GradientCompressor(scheme, error_feedback=False, context=context)
        self.feedback = GradientCompressor(scheme, context=context)
        self.feedback.restore({"g": self.residual})


class BytesOurs(_OursBase):
    """GradientCompressor.compress, without feedback."""

    def call(self) -> Any:
        return self.plain.compress("g", self.gradient)

    def answer(self) -> Answer:
        """The values that the bytes give."""
        return {"values": self.plain.decompress(self.call())}


class BytesNumpy(_Compress):
    """The same in NumPy."""

    def call(self) -> Any:
        codes, scales = _codes_numpy(_grouped(self.gradient, self.scheme), self.scheme)
        return _pack(codes.reshape(self.gradient.shape), self.scheme), codes, scales

    def answer(self) -> Answer:
        """The values of codes and scales."""
        _, codes, scales = self.call()
        return {"values": (codes * scales).reshape(self.gradient.shape)}


class BytesTorch(_Compress):
    """The same in eager PyTorch."""

    def prepare(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.tensor = torch.from_numpy(self.gradient)

    def call(self) -> Any:
        codes, scales = _codes_torch(_grouped(self.tensor, self.scheme), self.scheme)
        return _pack(codes.reshape(self.tensor.shape), self.scheme), codes, scales

    def answer(self) -> Answer:
        """The values of codes and scales."""
        _, codes, scales = self.call()
        return {"values": np.asarray((codes * scales).reshape(self.gradient.shape))}


class StepOurs(_OursBase):
    """GradientCompressor.round_trip with feedback, in place."""

    def prepare(self, threads: int) -> None:
        super().prepare(threads)
        self.work = self.gradient.copy()

    def call(self) -> Any:
        return self.feedback.round_trip("g", self.work, out=self.work)

    def answer(self) -> Answer:
        """Values, and what is left."""
        self.work[:] = self.gradient
        self.feedback.restore({"g": self.residual})
        values = self.call().copy()
        return {"values": values, "residual": self.feedback.residuals["g"].copy()}


class StepNumpy(_Compress):
    """The same in NumPy."""

    def prepare(self, _: int) -> None:
        self.work, self.left = self.gradient.copy(), self.residual.copy()

    def call(self) -> Any:
        self.left += self.work
        codes, scales = _codes_numpy(_grouped(self.left, self.scheme), self.scheme)
        np.multiply(codes, scales, out=_grouped(self.work, self.scheme))
        self.left -= self.work
        return self.work

    def answer(self) -> Answer:
        """Values, and what is left."""
        self.prepare(1)
        return {"values": self.call().copy(), "residual": self.left.copy()}


class StepTorch(_Compress):
    """The same in eager PyTorch."""

    def prepare(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.multiply = torch.mul
        self.work, self.left = (torch.from_numpy(a.copy()) for a in (self.gradient, self.residual))

    def call(self) -> Any:
        self.left += self.work
        codes, scales = _codes_torch(_grouped(self.left, self.scheme), self.scheme)
        self.multiply(codes, scales, out=_grouped(self.work, self.scheme))
        self.left -= self.work
        return self.work

    def answer(self) -> Answer:
        """Values, and what is left."""
        self.work.copy_(self.work.new_tensor(self.gradient))
        self.left.copy_(self.left.new_tensor(self.residual))
        return {"values": np.array(self.call()), "residual": np.array(self.left)}


# ---- signal ----


class _Signal:
    def __init__(self, *, scheme: str, source: str, steps: int, figure: str, threads: int) -> None:
        self.scheme, self.source, self.steps, self.figure = scheme, source, steps, figure
        self.threads = threads
        self.result: dict[str, float] | None = None

    def gradients(self) -> Any:
        """Yields the gradients of each step by name: independent normal numbers, or those of a model that
        trains with AdamW and made 20 steps before."""
        if self.source == "gaussian":
            random = np.random.default_rng(18)
            for _ in range(self.steps):
                yield {"gaussian": random.standard_normal((256, 960), np.float32)}
            return
        from pyhybrid._context import Context
        from pyhybrid.batches import Batches
        from pyhybrid.config import PRESETS
        from pyhybrid.data import embedded_text
        from pyhybrid.language_model import LanguageModel

        tokens = np.frombuffer(embedded_text().text, np.uint8)
        batches = Batches(tokens, batch_size=8, context=64, seed=1)
        model = LanguageModel(PRESETS["tiny"].model, seed=1, context=Context(threads=self.threads))
        model.prepare(8, 64)
        matrices = {n: p.gradient for n, p in model.parameters().items() if p.shape[0] > 1}
        for step in range(1, 21 + self.steps):
            model.gradients(batches.batch(step))
            if step > 20:
                yield matrices
            model.apply(learning_rate=2e-3, step=step, clip_norm=1.0)

    def send(self, name: str, gradient: NDArray[np.float32], /) -> NDArray[np.float32]:
        """What arrives of a gradient; keeps residuals if there are several steps."""
        raise NotImplementedError

    def _measured(self) -> dict[str, float]:
        if self.result is None:
            from pyhybrid.gradient_compression import SignalTracker

            tracker = SignalTracker()
            for gradients in self.gradients():
                for name, gradient in gradients.items():
                    tracker.add(name, gradient, self.send(name, gradient))
            found = tracker.statistics()
            self.result = {"cosine": found.cosine, "norm_ratio": found.norm_ratio, "bits": self.bits()}
            self.result["coded"] = self.coded()
        return self.result

    def bits(self) -> float:
        """Of a message a value; NaN where no message is made."""
        return math.nan

    def coded(self) -> float:
        """The same of entropy-coded messages."""
        return math.nan

    def answer(self) -> Answer:
        """The cosine of the sums, and the ratio of their norms."""
        return {name: np.array(self._measured()[name]) for name in ("cosine", "norm_ratio")}

    def run(self, _: int) -> float:
        """What is lost of the direction, or of the norm; or the bits a value of the messages."""
        found = self._measured()
        if self.figure in ("bits", "coded"):
            return found[self.figure]
        return 1 - found["cosine"] if self.figure == "signal" else abs(1 - found["norm_ratio"])


class SignalOurs(_Signal):
    """GradientCompressor."""

    def send(self, name: str, gradient: NDArray[np.float32]) -> NDArray[np.float32]:
        if not hasattr(self, "compressor"):
            from pyhybrid.gradient_compression import GradientCompressor

            scheme: Any = self.scheme
            self.compressor = GradientCompressor(scheme, error_feedback=self.steps > 1)
            self.coded_bytes = self.n_values = 0
        if self.figure != "coded":
            return np.asarray(self.compressor.round_trip(name, gradient))
        from pyhybrid.gradient_messages import encode_gradient

        values = np.empty_like(gradient)
        self.coded_bytes += len(encode_gradient(self.compressor.compress(name, gradient, out=values)))
        self.n_values += gradient.size
        return values

    def coded(self) -> float:
        return 8 * self.coded_bytes / self.n_values if self.n_values else math.nan

    def bits(self) -> float:
        return float(self.compressor.total().bits_per_value)


class SignalNumpy(_Signal):
    """The same in NumPy."""

    def send(self, name: str, gradient: NDArray[np.float32]) -> NDArray[np.float32]:
        if not hasattr(self, "residuals"):
            self.residuals: dict[str, NDArray[np.float32]] = {}
        x = self.residuals.get(name, np.float32(0.0)) + gradient
        if self.scheme == "block" and x.shape[1] % 64:
            raise ValueError(f"{name} has {x.shape[1]} columns; blocks of 64 need a multiple")
        codes, scales = _codes_numpy(_grouped(x, self.scheme), self.scheme)
        values = (codes * scales).reshape(gradient.shape)
        if self.steps > 1:
            self.residuals[name] = x - values
        return np.asarray(values)


# ---- rows ----

_HERE = "pyhybrid.benchmarks.compress"
_SCHEMES = {"row": "ternary a row", "block": "ternary a block of 64", "five": "five levels a row"}


def _speed_row(kind: str, scheme: str, shape: tuple[int, int], threads: int, options: Options) -> Row:
    n_bytes = 4 * shape[0] * shape[1]
    to_bytes = kind == "bytes"
    side = "Bytes" if to_bytes else "Step"
    text = f"Compressing {shape[0]}x{shape[1]} ({_SCHEMES[scheme]}, {kind}) on {threads} thread(s)"
    peers = {"NumPy": f"{_HERE}:{side}Numpy", "PyTorch eager": f"{_HERE}:{side}Torch"}
    return Row(
        name=f"compress/{kind}/{scheme}/{shape[0]}x{shape[1]}"
        + (f"/{threads}-threads" if threads > 1 else ""),
        section="compress",
        unit="GB/s",
        better="higher",
        ours=f"{_HERE}:{side}Ours",
        peers=peers,
        sizes={"scheme": scheme, "rows": shape[0], "columns": shape[1]},
        hidden=hidden(options),
        threads=threads,
        rounds=rounds(options),
        agreement={"values": _VALUES_BOUND} | ({} if to_bytes else {"residual": _VALUES_BOUND}),
        # A step reads and writes gradient and residual: a copy of 8 bytes a value.
        limits=(
            Limit(kind="read", per_unit=1e9, working_set=n_bytes)
            if to_bytes
            else Limit(kind="copy", per_unit=2e9, working_set=2 * n_bytes),
        ),
        goals=tuple(
            Goal(text=f"{text} is at least 5 x {peer}.", kind="ratio", limit=5.0, peer=peer) for peer in peers
        ),
        note="To bytes, without feedback." if to_bytes else "In place, with error feedback.",
    )


def _signal_row(figure: str, scheme: str, source: str, steps: int) -> Row:
    sums = f"the sum of {steps} steps with error feedback" if steps > 1 else "one step"
    words = {
        "bits": (f"{_SCHEMES[scheme]} needs at most 1.58 bits a value, {source}.", 1.58),
        "coded": (f"{_SCHEMES[scheme]} needs at most 1.6 bits a value, entropy-coded, {source}.", 1.6),
        "signal": (f"{_SCHEMES[scheme]} keeps 99 % of the signal of {sums}, {source} (cosine).", 0.01),
        "magnitude": (f"{_SCHEMES[scheme]} keeps 95 % of the magnitude of {sums}, {source} (norm).", 0.05),
    }
    text, limit = words[figure]
    return Row(
        name=f"compress/{figure}/{scheme}/{source}/{steps}-steps",
        section="compress",
        unit={"signal": "1 - cosine", "magnitude": "1 - norm"}.get(figure, "bits a value"),
        better="lower",
        ours=f"{_HERE}:SignalOurs",
        peers={} if figure in ("bits", "coded") else {"NumPy": f"{_HERE}:SignalNumpy"},
        sizes={"scheme": scheme, "source": source, "steps": steps, "figure": figure},
        rounds=1,
        agreement={"cosine": 1e-3, "norm_ratio": 1e-3},
        goal=Goal(text=text[0].upper() + text[1:], kind="value", limit=limit),
        note="The promise of the design documents, measured.",
    )


def rows(options: Options) -> list[Row]:
    """Speed of every scheme from DRAM and from the caches, then signal and magnitude."""
    shapes = [(768, 960)] if options.quick else [(8192, 3840), (768, 960)]
    found = [
        _speed_row(kind, scheme, shape, threads, options)
        for threads in options.kernel_threads
        for kind in ("bytes", "step")
        for shape in shapes
        for scheme in _SCHEMES
    ]
    for source in ("gaussian",) if options.quick else ("gaussian", "model"):
        for scheme in _SCHEMES:
            found.extend(_signal_row("signal", scheme, source, steps) for steps in (1, 20, 200))
            found.extend(_signal_row(figure, scheme, source, 1) for figure in ("magnitude", "bits", "coded"))
    return found
