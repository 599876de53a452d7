"""The NumPy reference itself, against plain binary64: an oracle must be right before it can judge."""

from __future__ import annotations

import numpy as np
import pytest

from pyhybrid import _reference as reference


@pytest.mark.parametrize("n", [1, 7, 16, 17, 100, 1000])
def test_lane_sum_is_a_sum(n: int, rng: np.random.Generator) -> None:
    """The 16-lane sum is within its error bound of the exact sum, and exact for small integers."""
    x = rng.normal(size=(3, n)).astype(np.float32)
    bound = (n / 16 + 6) * 2.0**-24 * np.abs(x).sum(axis=-1)
    assert (np.abs(reference.lane_sum(x) - x.astype(np.float64).sum(axis=-1)) <= bound).all()
    whole = rng.integers(-100, 100, (3, n)).astype(np.float32)
    assert np.array_equal(reference.lane_sum(whole), whole.sum(axis=-1))


def test_lane_sum_order_by_hand() -> None:
    """Elements 0 and 16 share a lane: 1e8 and -1e8 cancel before the small one is added."""
    x = np.zeros((1, 32), np.float32)
    x[0, 0], x[0, 16], x[0, 1] = 1e8, -1e8, 1.0
    assert reference.lane_sum(x)[0] == 1.0


def test_exp_is_within_two_units() -> None:
    """exp is within 2 units in the last place over its whole range, and clamps outside it."""
    x = np.linspace(-87.3, 88.7, 20001).astype(np.float32)
    exact = np.exp(x.astype(np.float64))
    assert (np.abs(reference.exp(x) - exact) <= 2 * np.spacing(exact.astype(np.float32))).all()
    assert reference.exp(np.array([0.0], np.float32))[0] == 1.0
    assert np.isfinite(reference.exp(np.array([-1e30, 1e30], np.float32))).all()


def test_quantize_ternary_equals_the_papers_formula(rng: np.random.Generator) -> None:
    """Codes are clip(round(w / s), -1, 1) for the scale that binary16 rounding gives."""
    weights = rng.normal(size=(30, 40)).astype(np.float32)
    codes, scales = reference.quantize(weights)
    assert abs(float(scales[0]) - np.abs(weights).mean()) < 1e-3
    assert np.array_equal(codes, np.clip(np.round(weights / scales[0]), -1, 1))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_quantize_error_falls_with_bits(bits: int, rng: np.random.Generator) -> None:
    """The squared error on Gaussian weights is near the optimum (Max 1960 for 1, 2 and 4 bits)."""
    weights = rng.normal(size=(100, 100)).astype(np.float32)
    error = ((reference.dequantize(*reference.quantize(weights, bits)) - weights) ** 2).mean()
    assert error < {1: 0.3634, 2: 0.1188, 4: 0.01154, 8: 1e-3}[bits] * 1.1


def test_norm_rotation_and_attention_against_binary64(rng: np.random.Generator) -> None:
    """The operators agree with textbook formulas in binary64."""
    x, gain = rng.normal(size=(4, 24)).astype(np.float32), rng.normal(size=24).astype(np.float32)
    wide = x.astype(np.float64)
    expected = wide / np.sqrt((wide**2).mean(axis=-1, keepdims=True) + 1e-5) * gain
    np.testing.assert_allclose(reference.rms_norm(x, gain, 1e-5), expected, rtol=1e-5, atol=1e-6)
    q = rng.normal(size=(4, 2, 6)).astype(np.float32)
    cosines, sines = reference.rotary_tables(6, 4, 10000.0)
    pairs = q[..., :3] + 1j * q[..., 3:]
    angle = np.arange(4)[:, None] * 10000.0 ** (-np.arange(3) * 2 / 6)
    turned = pairs * np.exp(1j * angle)[:, None]
    expected = np.concatenate([turned.real, turned.imag], axis=-1)
    np.testing.assert_allclose(reference.rotate(q, cosines, sines), expected, atol=1e-6)
    k, v = rng.normal(size=(2, 4, 1, 6)).astype(np.float32)
    scores = np.einsum("thd,sd->hts", q, k[:, 0]) / np.sqrt(6)
    scores = np.where(np.tri(4, dtype=bool), scores, -np.inf)
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    expected = np.einsum("hts,sd->thd", p, v[:, 0])
    np.testing.assert_allclose(reference.attention(q, k, v), expected, atol=1e-5)


def test_cross_entropy_of_equal_logits_is_log_of_the_vocabulary() -> None:
    """Equal logits leave log(n) nats."""
    losses = reference.cross_entropy(np.full((3, 7), 2.5, np.float32), [0, 3, 6])
    np.testing.assert_allclose(losses, np.log(7), rtol=1e-12)


def test_adamw_first_step_is_the_sign() -> None:
    """With bias correction the first step has the length of the learning rate."""
    w, g = np.zeros(3, np.float32), np.array([2.0, -0.5, 0.0], np.float32)
    options = {"learning_rate": 0.1, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-12, "weight_decay": 0.0}
    new, _, _ = reference.adamw(w, g, w, w, step=1, **options)
    np.testing.assert_allclose(new, [-0.1, 0.1, 0.0], atol=1e-9)
