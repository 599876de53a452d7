"""How many bits each part of a model gets under a budget: mixed precision by measured sensitivity.

    errors = quantization_errors(matrices)          # [parts, choices], squared error at 1, 1.58, 2 and 4 bits
    plan = allocate_precision([m.size for m in matrices], errors, budget=1.6)

Place in the data flow: weights of layers, or of clusters in a layer, -> a number of bits for each, for
`quantize`. compat/ calls it for the design documents' names; benchmarks/precision.py says what it is worth.
Sources: Shoham & Gersho 1988, "Efficient bit allocation for an arbitrary set of quantizers" (the convex hull
of each part's choices, walked by slope); Kellerer, Pferschy & Pisinger 2004, "Knapsack Problems", chapter 11
(the same walk for the multiple-choice knapsack problem, and its bound).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pyhybrid._buffers import Array, input_array
from pyhybrid._context import Context
from pyhybrid._errors import InvalidArgumentError, NotFiniteError
from pyhybrid.quantization import dequantize, quantize

__all__ = [
    "STORED_BITS",
    "PrecisionPlan",
    "allocate_precision",
    "normal_errors",
    "quantization_errors",
]

#: Up to this many parts all plans that matter are compared; with more, the walk along the hulls comes close.
_MOST_EXACT = 8

#: Bits of `quantize` to the bits that a packed weight takes: five ternary codes share a byte. Scales come on
#: top; they are the same for every choice.
STORED_BITS: Mapping[float, float] = {1: 1.0, 1.58: 1.6, 2: 2.0, 4: 4.0}


@dataclass(frozen=True, kw_only=True)
class PrecisionPlan:
    """Bits for each part.

    Args:
        bits: of each part, one of the choices.
        mean_bits: stored bits of a weight, the mean over all weights; never above the budget.
        error: sum of the parts' errors at these bits.
        least_error: no plan within the budget has a smaller sum; the plan is the best one where both are
            equal.
    """

    bits: tuple[float, ...]
    mean_bits: float
    error: float
    least_error: float


# ---- what a choice costs in accuracy ----


def quantization_errors(
    parts: Iterable[npt.ArrayLike],
    choices: Iterable[float] = tuple(STORED_BITS),
    *,
    importance: Iterable[npt.ArrayLike] | None = None,
    scale: str = "tensor",
    threshold: str = "lloyd",
    context: Context | None = None,
) -> Array:
    """Quantises each part at each number of bits and measures the squared error.

    Args:
        parts: float32 matrices [rows, columns] or vectors, finite; each has scales of its own.
        choices: numbers of bits, as `quantize` takes them.
        importance: of each part, what its squared errors are weighted with: a number, or an array of the
            part's shape such as mean squared gradients; None: 1.
        scale: one scale a 'tensor' or a 'row' of a part.
        threshold: how a ternary scale is found, 'absmean' or 'lloyd'.
        context: None for the default one.

    Returns:
        float64 [parts, choices], sums of importance * (weight - quantised weight)^2.

    Raises:
        InvalidArgumentError: a wrong shape, dtype or option, or an importance below 0.
        NotFiniteError: NaN or infinity.
    """
    matrices = [np.atleast_2d(input_array(part, np.float32, "parts")) for part in parts]
    factors: list[Any] = [1.0] * len(matrices) if importance is None else list(importance)
    if len(factors) != len(matrices):
        raise InvalidArgumentError(f"importance has {len(factors)} entries for {len(matrices)} parts")
    wanted = list(choices)
    errors = np.zeros((len(matrices), len(wanted)))
    for row, matrix, factor in zip(errors, matrices, factors, strict=True):
        weight = _importance(factor, matrix)
        for place, bits in enumerate(wanted):
            codes = quantize(matrix, bits=bits, scale=scale, threshold=threshold, context=context)
            lost = np.subtract(matrix, dequantize(*codes, context=context), dtype=np.float64)
            row[place] = (weight * lost * lost).sum()
    return errors


def _importance(factor: Any, matrix: Array) -> Array:
    """Importance that multiplies a part: a number, or one for each weight."""
    weight = input_array(factor, np.float64, "importance")
    if weight.size not in (1, matrix.size):
        raise InvalidArgumentError(
            f"importance has {weight.size} values for a part of {matrix.size} weights; give 1 or as many"
        )
    if not (np.isfinite(weight) & (weight >= 0)).all():
        raise InvalidArgumentError("importance holds something other than finite numbers of at least 0")
    return weight.reshape(()) if weight.size == 1 else weight.reshape(matrix.shape)


def normal_errors(choices: Iterable[float] = tuple(STORED_BITS)) -> Array:
    """Returns the share of its squares that a matrix of normal numbers loses, by number of bits.

    It stands for layers of which nothing is known but their importance.

    Args:
        choices: numbers of bits.

    Returns:
        float64 [choices], measured on 65,536 fixed numbers.
    """
    sample = np.random.default_rng(0).standard_normal(65536, np.float32)
    return np.asarray(quantization_errors([sample], choices)[0] / (sample.astype(np.float64) ** 2).sum())


# ---- who gets which ----


class _Step(NamedTuple):
    """One edge of a part's convex hull: from a choice to the next dearer one that is worth it."""

    slope: float
    part: int
    choice: int
    price: Fraction


def _exact(value: Any, name: str) -> Fraction:
    """The decimal number that a float is written as: sums of 1.6 must not drift over the budget."""
    number = float(value)
    if not (math.isfinite(number) and number > 0):
        raise InvalidArgumentError(f"{name} is {value!r}; give a number above 0")
    return Fraction(repr(number))


def _hull(prices: Sequence[Fraction], errors: Sequence[float]) -> list[int]:
    """Choices on the lower convex hull of (price, error), from the cheapest to the most accurate."""
    order = sorted(range(len(prices)), key=lambda c: (prices[c], errors[c]))
    hull: list[int] = []
    for choice in order:
        if hull and errors[choice] >= errors[hull[-1]]:
            continue  # dearer and no better
        while len(hull) >= 2 and _slope(hull[-1], choice, prices, errors) >= _slope(
            hull[-2], hull[-1], prices, errors
        ):
            hull.pop()
        hull.append(choice)
    return hull


def _slope(a: int, b: int, prices: Sequence[Fraction], errors: Sequence[float]) -> float:
    """Error saved by a bit when choice b replaces choice a."""
    return (errors[a] - errors[b]) / float(prices[b] - prices[a])


def allocate_precision(
    sizes: npt.ArrayLike,
    errors: npt.ArrayLike,
    budget: float,
    *,
    costs: Mapping[float, float] = STORED_BITS,
) -> PrecisionPlan:
    """Chooses bits for each part so that the sum of errors is small and the mean number of bits in budget.

    Up to 8 parts the plan is the best one. With more, every part begins at its cheapest choice; then the
    budget goes where a bit saves the most error, along the convex hulls of the parts' choices, and what
    remains goes to any improvement that still fits: `least_error` says how far the best plan may be.

    Args:
        sizes: [parts], numbers of weights.
        errors: [parts, choices], what each choice costs in accuracy, in the order of `costs`: from
            `quantization_errors`, or any measure that adds up, such as increases of the loss.
        budget: stored bits a weight, the mean over all weights.
        costs: choices, and the bits that a weight then takes.

    Returns:
        Bits by part; their mean cost, weighted by size, is at most the budget, exactly.

    Raises:
        InvalidArgumentError: wrong shapes, no parts, sizes that are no whole numbers above 0, or a budget
            below the cheapest choice.
        NotFiniteError: an error is NaN or infinite.
    """
    counts = input_array(sizes, np.float64, "sizes", (None,))
    table = input_array(errors, np.float64, "errors", (counts.size, len(costs)))
    if counts.size == 0 or not costs:
        raise InvalidArgumentError("there is nothing to allocate; give at least one part and one choice")
    if not (np.isfinite(counts) & (counts >= 1) & (counts == np.floor(counts))).all():
        raise InvalidArgumentError("sizes holds something other than whole numbers above 0")
    if not np.isfinite(table).all():
        raise NotFiniteError("errors holds a NaN or an infinity")
    choices = list(costs)
    prices = [_exact(price, f"the cost of {bits:g} bits") for bits, price in costs.items()]
    limit, n = _exact(budget, "budget"), [int(count) for count in counts]
    if limit < min(prices):
        raise InvalidArgumentError(
            f"budget is {budget!r} bits a weight; the cheapest choice takes {float(min(prices)):g}: "
            "give at least that"
        )
    rows = [[float(e) for e in row] for row in table]
    if len(n) <= _MOST_EXACT:
        chosen = _best(n, prices, rows, limit * sum(n))
        least = _total(rows, chosen)
    else:
        chosen, least = _walk(n, prices, rows, limit * sum(n))
    spent = sum(size * prices[c] for size, c in zip(n, chosen, strict=True))
    return PrecisionPlan(
        bits=tuple(choices[c] for c in chosen),
        mean_bits=float(spent / sum(n)),
        error=_total(rows, chosen),
        least_error=least,
    )


def _total(rows: Sequence[Sequence[float]], chosen: Sequence[int]) -> float:
    return math.fsum(row[c] for row, c in zip(rows, chosen, strict=True))


def _best(
    sizes: Sequence[int], prices: Sequence[Fraction], rows: Sequence[Sequence[float]], limit: Fraction
) -> list[int]:
    """The best choices, by extending all plans that no cheaper one beats, part by part."""
    reserve = sum(sizes) * min(prices)
    plans: list[tuple[Fraction, float, tuple[int, ...]]] = [(Fraction(0), 0.0, ())]
    for size, row in zip(sizes, rows, strict=True):
        reserve -= size * min(prices)
        longer = [
            (spent + size * price, error + row[choice], (*plan, choice))
            for spent, error, plan in plans
            for choice, price in enumerate(prices)
            if spent + size * price + reserve <= limit
        ]
        plans = []
        for candidate in sorted(longer):
            if not plans or candidate[1] < plans[-1][1]:
                plans.append(candidate)
    return list(plans[-1][2])


def _walk(
    sizes: Sequence[int], prices: Sequence[Fraction], rows: Sequence[Sequence[float]], limit: Fraction
) -> tuple[list[int], float]:
    """Choices along the hulls, and a lower bound of what any plan's errors sum to."""
    hulls = [_hull(prices, row) for row in rows]
    chosen = [hull[0] for hull in hulls]
    room = limit - sum(size * prices[c] for size, c in zip(sizes, chosen, strict=True))
    least: float | None = None
    full: set[int] = set()
    for step in _steps(sizes, prices, rows, hulls):
        if step.price > room and least is None:
            # Until here the walk was the best one; a fraction of this step is what could be gained at most.
            least = _total(rows, chosen) - step.slope * float(room)
        if step.price > room or step.part in full:
            full.add(step.part)
            continue
        chosen[step.part] = step.choice
        room -= step.price
    _fill(sizes, prices, rows, chosen, room)
    error = _total(rows, chosen)
    return chosen, error if least is None else min(least, error)


def _steps(
    sizes: Sequence[int],
    prices: Sequence[Fraction],
    rows: Sequence[Sequence[float]],
    hulls: Sequence[Sequence[int]],
) -> list[_Step]:
    """All edges of all hulls, the most error saved by a stored bit first."""
    steps = [
        _Step(_slope(a, b, prices, rows[part]) / sizes[part], part, b, sizes[part] * (prices[b] - prices[a]))
        for part, hull in enumerate(hulls)
        for a, b in itertools.pairwise(hull)
    ]
    # Slopes fall along a hull, and the sort is stable: a part's steps stay in their order.
    return sorted(steps, key=lambda step: -step.slope)


def _fill(
    sizes: Sequence[int],
    prices: Sequence[Fraction],
    rows: Sequence[Sequence[float]],
    chosen: list[int],
    room: Fraction,
) -> None:
    """Spends what is left, on the change that saves most and fits, again and again; changes `chosen`."""
    while True:
        best: tuple[float, int, int] | None = None
        for part, row in enumerate(rows):
            for choice, price in enumerate(prices):
                gain = row[chosen[part]] - row[choice]
                fits = sizes[part] * (price - prices[chosen[part]]) <= room
                if gain > 0 and fits and (best is None or gain > best[0]):
                    best = gain, part, choice
        if best is None:
            return
        _, part, choice = best
        room -= sizes[part] * (prices[choice] - prices[chosen[part]])
        chosen[part] = choice
