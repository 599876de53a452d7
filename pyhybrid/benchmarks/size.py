"""Size: bits per ternary weight and bytes of a model file, beside other ways to store the same weights.

Nothing is trained: the file of a `small` model with its initial weights is written and measured. The figures
come from the file, through pyhybrid.inspect.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pyhybrid.benchmarks.registry import Answer, Goal, Options, Row
from pyhybrid.config import PRESETS, ModelConfig

__all__ = ["Float16", "Float32", "Ours", "TwoBit", "rows"]


class Ours:
    """The .hyb file."""

    def __init__(self, *, preset: str, figure: str, threads: int) -> None:
        from pyhybrid._context import Context
        from pyhybrid.language_model import LanguageModel

        self.figure = figure
        self.model = LanguageModel(PRESETS[preset].model, seed=1, context=Context(threads=threads))
        self.parameters = self.model.parameters()

    def answer(self) -> Answer:
        """The number of weights that the figure is about."""
        names = [n for n, p in self.parameters.items() if self.figure == "file" or p.format == "ternary"]
        return {"weights": np.array(sum(np.prod(self.parameters[name].shape) for name in names))}

    def run(self, _: int) -> float:
        """Writes the file; bits per weight."""
        from pyhybrid.model_file import inspect

        with TemporaryDirectory() as folder:
            path = Path(folder) / "model.hyb"
            self.model.save(path)
            info = inspect(path)
            size = path.stat().st_size
        if self.figure == "file":
            return 8 * size / info.parameters
        counted = info.ternary_bits_per_weight_counted
        figure = info.ternary_bits_per_weight if self.figure == "payload" else counted
        if figure is None:
            raise ValueError("the model has no ternary weights")
        return figure


class TwoBit(Ours):
    """The same ternary codes, 4 a byte, with one fp16 scale a matrix: the usual packing elsewhere."""

    def run(self, _: int) -> float:
        from pyhybrid.quantization import pack, quantize

        n_bytes = n_weights = 0
        for parameter in self.parameters.values():
            if parameter.format == "ternary" and parameter.values is not None:
                codes = quantize(parameter.values).codes
                n_bytes += pack(codes, "ternary2").nbytes + (2 if self.figure == "counted" else 0)
                n_weights += codes.size
        return 8 * n_bytes / n_weights


class Float32(Ours):
    """A .npz file of the fp32 master weights, not compressed."""

    def run(self, _: int) -> float:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model.npz"
            arrays = {name: p.values for name, p in self.parameters.items() if p.values is not None}
            np.savez(path, **arrays)  # type: ignore[arg-type]
            n_weights = sum(array.size for array in arrays.values())
            return 8 * path.stat().st_size / n_weights


class Float16(Ours):
    """The same in fp16."""

    def run(self, _: int) -> float:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model.npz"
            arrays = {
                n: p.values.astype(np.float16) for n, p in self.parameters.items() if p.values is not None
            }
            np.savez(path, **arrays)  # type: ignore[arg-type]
            n_weights = sum(array.size for array in arrays.values())
            return 8 * path.stat().st_size / n_weights


def _tail_bits(config: ModelConfig) -> float:
    """What whole bytes may add to 1.6 bits a weight: a tensor's last byte may hold 1 code instead of 5."""
    kv_dim = config.dim // config.n_heads * config.kv_heads
    layer = 2 * config.dim * (config.dim + kv_dim) + 3 * config.dim * config.ffn_dim
    return 7 * 8 * 4 / 5 / layer  # seven matrices a layer


def rows(_: Options) -> list[Row]:
    """The payload, everything that a ternary tensor costs, and the whole file."""
    here = "pyhybrid.benchmarks.size"
    figures = (
        (
            "payload",
            1.6 + _tail_bits(PRESETS["small"].model),
            "The packed codes take at most 1.6 bits per ternary weight plus the tail.",
        ),
        ("counted", 1.65, "With scales, directory and padding it is at most 1.65 bits per ternary weight."),
        ("file", None, ""),
    )
    peers = {
        "payload": {"2-bit packing": f"{here}:TwoBit"},
        "counted": {"2-bit packing": f"{here}:TwoBit"},
        "file": {"fp16 .npz": f"{here}:Float16", "fp32 .npz": f"{here}:Float32"},
    }
    return [
        Row(
            name=f"size/small/{figure}",
            section="size",
            unit="bits/weight",
            better="lower",
            ours=f"{here}:Ours",
            peers=peers[figure],
            sizes={"preset": "small", "figure": figure},
            rounds=1,
            agreement={"weights": 0.0},
            goal=None if limit is None else Goal(text=text, kind="value", limit=limit),
            note="Read from the file.",
        )
        for figure, limit, text in figures
    ]
