"""What a quantiser keeps of Gaussian weights, beside what any coder of the same rate could keep.

The rate is the entropy of the codes. A Gaussian source at R bits a value cannot be had with less than
2^(-2R) of its variance as squared error, nor with a cosine above sqrt(1 - 2^(-2R)). Source: Cover & Thomas
2006, "Elements of Information Theory", theorem 10.3.2.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyhybrid.benchmarks.registry import Answer, Goal, Options, Row

__all__ = ["QUANTISERS", "Bound", "Ours", "rows"]

Array = NDArray[Any]


class _Quantiser(NamedTuple):
    words: str
    bits: float
    threshold: str = "absmean"


#: By name.
QUANTISERS: dict[str, _Quantiser] = {
    "binary": _Quantiser("one bit", 1),
    "ternary": _Quantiser("ternary, threshold by the mean", 1.58),
    "ternary-lloyd": _Quantiser("ternary, Lloyd's thresholds", 1.58, "lloyd"),
    "five-levels": _Quantiser("five levels, their step chosen for 1.58 bits,", 1.58, "levels"),
    "int2": _Quantiser("two bits", 2),
    "int4": _Quantiser("four bits", 4),
}
#: Figures: how the table calls them, the promise, and its limit.
_FIGURES: dict[str, tuple[str, str, float]] = {
    "cosine": ("1 - cosine", "keeps 99 % of the signal (cosine)", 0.01),
    "norm": ("|1 - norm ratio|", "keeps the magnitude within 5 % (norm)", 0.05),
    "error": ("relative error", "has a relative error of at most 0.12", 0.12),
    "entropy": ("bits a code", "needs at most 1.58 bits a code (entropy)", 1.58),
}


class Ours:
    """Our quantisers on a matrix of Gaussian weights, one scale a matrix."""

    def __init__(self, *, quantiser: str, figure: str, n: int, threads: int) -> None:
        from pyhybrid._elementwise import entropy_scale, quantize_levels
        from pyhybrid.quantization import dequantize, quantize

        del threads
        self.figure, chosen = figure, QUANTISERS[quantiser]
        self.weights = np.random.default_rng(0).standard_normal((n // 1000, 1000), np.float32)
        if chosen.threshold == "levels":
            scale = entropy_scale(self.weights, chosen.bits)
            self.codes = quantize_levels(self.weights / np.float32(scale))
            self.values = np.asarray(self.codes * np.float32(scale))
            return
        found = quantize(self.weights, bits=chosen.bits, threshold=chosen.threshold)
        self.codes, self.values = found.codes, dequantize(found.codes, found.scales)

    def answer(self) -> Answer:
        """Norm of what is quantised."""
        return {"norm": np.array(np.linalg.norm(self.weights))}

    def bits(self) -> float:
        """Entropy of the codes, bits a code."""
        shares = np.unique(self.codes, return_counts=True)[1] / self.codes.size
        return float(-(shares * np.log2(shares)).sum())

    def run(self, _: int) -> float:
        """The figure."""
        if self.figure == "entropy":
            return self.bits()
        w, q = self.weights.astype(np.float64), self.values.astype(np.float64)
        norms = float(np.linalg.norm(w)), float(np.linalg.norm(q))
        return {
            "cosine": 1.0 - float((w * q).sum()) / (norms[0] * norms[1]),
            "norm": abs(1.0 - norms[1] / norms[0]),
            "error": float(np.linalg.norm(w - q)) / norms[0],
        }[self.figure]


class Bound(Ours):
    """The best that any coder of Gaussian weights can do with as many bits."""

    def run(self, _: int) -> float:
        """The figure."""
        lost = 2.0 ** (-2.0 * self.bits())
        return {"cosine": 1.0 - math.sqrt(1.0 - lost), "error": math.sqrt(lost)}[self.figure]


def rows(options: Options) -> list[Row]:
    """Every figure of every quantiser."""
    here, n = "pyhybrid.benchmarks.fidelity", 100_000 if options.quick else 1_000_000
    found = []
    for name, quantiser in QUANTISERS.items():
        for figure, (unit, promise, limit) in _FIGURES.items():
            text = f"Quantising Gaussian weights to {quantiser.words} {promise}."
            found.append(
                Row(
                    name=f"fidelity/{figure}/{name}",
                    section="fidelity",
                    unit=unit,
                    better="lower",
                    ours=f"{here}:Ours",
                    peers={"any coder": f"{here}:Bound"} if figure in ("cosine", "error") else {},
                    sizes={"quantiser": name, "figure": figure, "n": n},
                    rounds=1,
                    agreement={"norm": 0.0},
                    goal=Goal(text=text, kind="value", limit=limit) if quantiser.bits == 1.58 else None,
                    note="'any coder': the rate-distortion bound at the entropy of our codes.",
                )
            )
    return found
