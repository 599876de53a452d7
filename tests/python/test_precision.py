"""Allocation of bits under a budget: never above it, the best plan where it says so, errors as measured."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest

from pyhybrid import (
    InvalidArgumentError,
    NotFiniteError,
    allocate_precision,
    dequantize,
    quantization_errors,
    quantize,
)
from pyhybrid.precision import STORED_BITS, normal_errors


def _mean(sizes, bits, costs=STORED_BITS):
    """Mean stored bits, exactly."""
    total = sum(int(s) * Fraction(str(costs[b])) for s, b in zip(sizes, bits, strict=True))
    return total / int(sum(sizes))


def _random_case(rng, most):
    parts = int(rng.integers(1, most))
    sizes = rng.integers(1, 10 ** int(rng.integers(1, 7)), parts)
    errors = rng.random((parts, 4)) * sizes[:, None]
    if rng.random() < 0.7:  # more bits are better, as a rule
        errors = np.sort(errors, axis=1)[:, ::-1]
    return sizes, errors, max(1.0, round(float(rng.uniform(0.9, 4.3)), int(rng.integers(0, 5))))


def test_precision_never_exceeds_the_budget(rng):
    """For 400 random cases of 1 to 60 parts the exact mean is at most the budget, and reported as it is."""
    for _ in range(400):
        sizes, errors, budget = _random_case(rng, 60)
        plan = allocate_precision(sizes, errors, budget)
        assert _mean(sizes, plan.bits) <= Fraction(str(budget))
        assert plan.mean_bits == pytest.approx(float(_mean(sizes, plan.bits)), rel=1e-14)
        assert plan.mean_bits <= budget
        chosen = [list(STORED_BITS).index(b) for b in plan.bits]
        assert plan.error == pytest.approx(errors[np.arange(len(sizes)), chosen].sum())
        assert plan.least_error <= plan.error


def test_precision_is_the_best_plan_of_few_parts(rng):
    """Up to five parts: the sum of errors is the least of all plans in the budget."""
    for _ in range(60):
        sizes, errors, budget = _random_case(rng, 6)
        plan = allocate_precision(sizes, errors, budget)
        best = min(
            errors[np.arange(len(sizes)), list(choice)].sum()
            for choice in itertools.product(range(4), repeat=len(sizes))
            if _mean(sizes, [list(STORED_BITS)[c] for c in choice]) <= Fraction(str(budget))
        )
        assert plan.error == plan.least_error == pytest.approx(best, rel=1e-12)


def test_precision_of_many_parts_is_near_its_bound(rng):
    """Many parts: no plan is better than the bound (that of linear programming), and the plan is near it."""
    for _ in range(20):
        sizes = rng.integers(100, 1000, 40)
        errors = np.outer(sizes * rng.random(40), normal_errors())
        plan = allocate_precision(sizes, errors, 2.0)
        assert plan.least_error <= plan.error <= 1.02 * plan.least_error
        # Lagrange's bound holds for any price of a bit.
        for price in (0.01, 0.05, 0.1, 0.3):
            costs = np.array(list(STORED_BITS.values()))
            bound = (errors + price * np.outer(sizes, costs)).min(1).sum() - price * 2.0 * sizes.sum()
            assert bound <= plan.error + 1e-9


def test_precision_gives_bits_to_what_is_sensitive():
    """At the bytes of 2 bits, the sensitive part gets 4, the others 1 or ternary; all equal: all 2."""
    loss = normal_errors()
    assert allocate_precision([100] * 3, np.outer([1.0, 1.0, 1.0], loss), 2.0).bits == (2, 2, 2)
    plan = allocate_precision([100] * 3, np.outer([100.0, 1.0, 1.0], loss), 2.0)
    assert plan.bits == (4, 1, 1)
    assert allocate_precision([7] * 12, np.outer([1.0] * 12, loss), 1.6).bits == (1.58,) * 12


def test_precision_counts_ternary_as_it_is_stored():
    """Ternary takes 1.6 bits: 1.58 has no room for it, unless the caller says what it costs."""
    errors = [[1.0, 0.0, 2.0, 2.0]]
    assert allocate_precision([10], errors, 1.58).bits == (1,)
    assert allocate_precision([10], errors, 1.6).bits == (1.58,)
    costs = {1: 1.0, 1.58: 1.55, 2: 2.0, 4: 4.0}
    assert allocate_precision([10], errors, 1.58, costs=costs).bits == (1.58,)


@pytest.mark.parametrize(
    ("sizes", "errors", "budget", "match"),
    [
        ([10], [[4, 3, 2, 1]], 0.99, r"budget is 0.99 bits a weight; the cheapest choice takes 1"),
        ([10], [[4, 3, 2, 1]], float("nan"), "budget is nan"),
        ([10], [[4, 3, 2, 1]], float("inf"), "budget is inf"),
        ([10], [[4, 3, 2]], 2, "errors has shape"),
        ([10, 10], [[4, 3, 2, 1]], 2, "errors has shape"),
        ([0], [[4, 3, 2, 1]], 2, "whole numbers above 0"),
        ([1.5], [[4, 3, 2, 1]], 2, "whole numbers above 0"),
        ([], np.zeros((0, 4)), 2, "nothing to allocate"),
    ],
)
def test_precision_refuses(sizes, errors, budget, match):
    """A budget below the cheapest choice, wrong shapes, sizes that are none."""
    with pytest.raises(InvalidArgumentError, match=match):
        allocate_precision(sizes, errors, budget)
    with pytest.raises(NotFiniteError, match="errors"):
        allocate_precision([10], [[np.nan, 1, 1, 1]], 2)


def test_precision_errors_are_those_of_the_quantiser(rng):
    """Squared errors, weighted by a number or by an array, of matrices and vectors."""
    parts = [rng.standard_normal((4, 8)).astype(np.float32), rng.standard_normal(9).astype(np.float32)]
    weight = rng.random((4, 8))
    errors = quantization_errors(parts, (1, 4), importance=[weight, 3.0])
    for part, factor, row in zip(parts, (weight, 3.0), errors, strict=True):
        for bits, error in zip((1, 4), row, strict=True):
            again = dequantize(*quantize(np.atleast_2d(part), bits=bits)).reshape(part.shape)
            difference = part.astype(np.float64) - again
            assert error == pytest.approx((factor * difference**2).sum(), rel=1e-12)


def test_precision_errors_of_normal_numbers_are_the_textbook_ones():
    """Distortions of a normal source (Max 1960): 0.363 at 1 bit, 0.190 ternary, 0.119 at 2, 0.0115 at 4."""
    np.testing.assert_allclose(normal_errors(), [0.363, 0.190, 0.119, 0.0115], rtol=0.02)


def test_precision_errors_refuse(rng):
    """Importance that fits no part or is negative; weights that are not finite."""
    part = rng.standard_normal((2, 3)).astype(np.float32)
    with pytest.raises(InvalidArgumentError, match="importance has 2 values for a part of 6"):
        quantization_errors([part], importance=[[1.0, 2.0]])
    with pytest.raises(InvalidArgumentError, match="at least 0"):
        quantization_errors([part], importance=[-1.0])
    with pytest.raises(InvalidArgumentError, match="importance has 2 entries for 1 parts"):
        quantization_errors([part], importance=[1.0, 1.0])
    with pytest.raises(NotFiniteError):
        quantization_errors([part * np.nan])
