"""The documents' constrained steps: the bound, its two forms, master weights, adaptation, the summary."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pyhybrid import (
    AdaptiveConstrainedOptimizer,
    ConstrainedOptimizationStep,
    ConstrainedUpdateInfo,
    InvalidArgumentError,
    NotFiniteError,
    Quantizer158Bit,
    StateError,
    TrainingState,
)

STATE = TrainingState(1.0, 1.0, 0, 1.0, 0.1, 1)


class Regression:
    """Least squares with eight weights, whose best ones are no ternary numbers."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.inputs = rng.standard_normal((200, 8))
        self.targets = self.inputs @ rng.standard_normal(8)

    def __call__(self, weights):
        """Loss and gradient."""
        errors = self.inputs @ weights - self.targets
        return float(errors @ errors) / 200, 2 * self.inputs.T @ errors / 200


# ---- the result ----


def test_compat_info_has_all_documents_fields():
    """The union of the fields; efficiency is another name; the figures of one document alone do."""
    info = ConstrainedUpdateInfo(update_magnitude=0.1, constraint_active=True, constraint_radius=0.2)
    assert (info.quantization_error, info.update_efficiency, info.efficiency) == (0.0, 1.0, 1.0)
    assert info.parameters_updated is None
    assert info.update_vector is None
    assert float(info.constraint_active) == 1.0
    with pytest.raises(TypeError, match="radius"):
        ConstrainedUpdateInfo(radius=1)


# ---- one step ----


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_compat_constraint_is_never_exceeded(rng, dtype):
    """Norms stay in the ball for any size and magnitude; what is inside is left as it is."""
    step = ConstrainedOptimizationStep()
    for _ in range(100):
        update = (10.0 ** rng.uniform(-10, 10) * rng.standard_normal(rng.integers(1, 300))).astype(dtype)
        radius = float(10.0 ** rng.uniform(-10, 10))
        result, active = step.apply_constraint(update, radius)
        norm = math.sqrt(math.fsum(float(x) ** 2 for x in result))
        assert norm <= radius * (1 + 1e-15)
        assert type(active) is bool
        assert active == (math.sqrt(math.fsum(float(x) ** 2 for x in update)) > radius)
        if active:
            assert norm >= radius * (1 - 1e-5)
        else:
            np.testing.assert_array_equal(result, update)


def test_compat_constraint_may_be_squared():
    """'norm' bounds by the radius, 'squared' by its square; other forms are refused."""
    update = np.array([3.0, 4.0])
    np.testing.assert_allclose(ConstrainedOptimizationStep().apply_constraint(update, 0.5)[0], update / 10)
    squared = ConstrainedOptimizationStep(constraint_form="squared")
    np.testing.assert_allclose(squared.apply_constraint(update, 0.5)[0], update / 20)
    with pytest.raises(InvalidArgumentError, match="constraint_form is 'cubed'"):
        ConstrainedOptimizationStep(constraint_form="cubed")


def test_compat_step_quantises_before_and_after(rng):
    """The two quantisations are the quantizer's, with the norm of what they change; None is the own one."""
    step, values = ConstrainedOptimizationStep(), rng.standard_normal(50)
    ternary = Quantizer158Bit(levels=3)
    for found, expected in (
        (step.apply_quantization_gradient(values), Quantizer158Bit().quantize_gradients(values)),
        (step.apply_quantization_post_update(values), Quantizer158Bit().quantize_weights(values)),
        (step.apply_quantization_post_update(values, ternary), ternary.quantize_weights(values)),
    ):
        np.testing.assert_array_equal(found[0], expected)
        assert found[1] == pytest.approx(np.linalg.norm(expected - values))


def test_compat_step_without_quantisation_is_a_bounded_gradient_step():
    """Parameters move against the gradient, by the rate or the radius; arrays are left alone."""
    step = ConstrainedOptimizationStep(use_quantization=False)
    parameters, gradients = np.array([1.0, 2.0]), np.array([3.0, -4.0])
    info = step.step(parameters, gradients, 10.0)
    np.testing.assert_allclose(info.parameters_updated, [0.997, 2.004])
    assert not info.constraint_active
    assert (info.efficiency, info.quantization_error) == (1.0, 0.0)
    info = step.step(parameters, gradients, 0.01, learning_rate=0.1)
    np.testing.assert_allclose(info.update_vector, [-0.006, 0.008])
    assert info.constraint_active
    assert info.update_magnitude == pytest.approx(0.01)
    assert info.update_efficiency == pytest.approx(0.02)
    np.testing.assert_array_equal(parameters, [1.0, 2.0])
    assert len(step.step_history) == 2
    assert step.step_history[1].update_magnitude == info.update_magnitude
    assert step.step_history[1].update_vector is None


@pytest.mark.parametrize("levels", [3, 5])
def test_compat_step_learns_although_parameters_are_quantised(levels):
    """With the master copy the loss comes near that of the best weights quantised; updates a hundredth of a
    level wide would otherwise change nothing."""
    problem, weights = Regression(), np.zeros(8)
    step = ConstrainedOptimizationStep(Quantizer158Bit(levels=levels))
    first = problem(weights)[0]
    best = np.linalg.lstsq(problem.inputs, problem.targets, rcond=None)[0]
    losses = []
    for _ in range(800):
        weights = step.step(weights, problem(weights)[1], 0.02, 0.02).parameters_updated
        losses.append(problem(weights)[0])
    assert len(np.unique(weights)) <= levels
    assert min(losses[-100:]) < 0.3 * first
    assert min(losses[-100:]) < 1.5 * problem(step.quantizer.quantize_weights(best))[0]
    np.testing.assert_array_equal(step.quantizer.quantize_weights(step.master_parameters()), weights)


def test_compat_step_keeps_small_updates_in_the_master_copy():
    """Ten steps of a hundredth of a level add up in the master copy, while the levels stay."""
    step = ConstrainedOptimizationStep(Quantizer158Bit(levels=3))
    start = np.array([1.0, -1.0, 0.1, 0.05])
    given = start
    for _ in range(10):
        given = step.step(
            given, [1.0, 1.0, 1.0, 1.0], 1.0, 0.001, quantize_gradients=False
        ).parameters_updated
    np.testing.assert_allclose(step.master_parameters(), start - 0.01)


def test_compat_step_masters_have_names():
    """Several tensors in turns: each by its name; without names the loss of the copy is told."""
    step = ConstrainedOptimizationStep()
    given = {name: np.array([1.0, 0.3, size]) for name, size in (("a", 0.1), ("b", 0.7))}
    exact = {name: values.copy() for name, values in given.items()}
    for name in "ab" * 5:
        info = step.step(given[name], [0.1, 0.2, 0.3], 1.0, 0.01, quantize_gradients=False, name=name)
        given[name] = info.parameters_updated
    for name, values in exact.items():
        np.testing.assert_allclose(step.master_parameters(name), values - np.array([0.005, 0.01, 0.015]))
    with pytest.warns(UserWarning, match="give each a name"):
        step.step(given["b"] * 2, [0.1, 0.2, 0.3], 1.0, name="a")
    step.reset()
    with pytest.raises(StateError, match="no master copy called 'a'"):
        step.master_parameters("a")
    np.testing.assert_array_equal(step.step([1.0, 2.0], [0.0, 0.0], 1.0, name="a").update_vector, [0, 0])


@pytest.mark.parametrize(
    ("parameters", "gradients", "radius", "rate", "error", "match"),
    [
        ([1.0, 2.0], [1.0], 1.0, 0.1, InvalidArgumentError, r"gradients has shape \[1\], parameters \[2\]"),
        ([], [], 1.0, 0.1, InvalidArgumentError, "parameters is empty"),
        ([np.nan], [1.0], 1.0, 0.1, NotFiniteError, "parameters"),
        ([1.0], [np.inf], 1.0, 0.1, NotFiniteError, "gradients"),
        ([1.0], [1.0], 0.0, 0.1, InvalidArgumentError, "constraint_radius is 0"),
        ([1.0], [1.0], math.nan, 0.1, InvalidArgumentError, "constraint_radius is nan"),
        ([1.0], [1.0], 1.0, -0.1, InvalidArgumentError, "learning_rate is -0.1"),
    ],
)
def test_compat_step_refuses(parameters, gradients, radius, rate, error, match):
    """Shapes that differ, nothing, NaN, infinity, radius and rate out of range."""
    with pytest.raises(error, match=match):
        ConstrainedOptimizationStep().step(parameters, gradients, radius, rate)


# ---- the adaptive optimiser ----


def _train(optimizer, steps, problem=None):
    """Losses, and the last parameters."""
    problem = problem or Regression()
    weights, losses = np.zeros(8), []
    for step in range(steps):
        loss, gradient = problem(weights)
        trend = loss / losses[-1] if losses else 1.0
        losses.append(loss)
        state = TrainingState(loss, float(np.linalg.norm(gradient)), 0, trend, float(gradient.var()), step)
        weights = optimizer.step(weights, gradient, state, loss).parameters_updated
    return losses, weights


@pytest.mark.parametrize(("quantization", "share"), [(True, 0.4), (False, 1e-6)])
def test_compat_optimizer_trains(quantization, share):
    """The loss falls: to nothing with exact weights, to what five levels allow with quantised ones."""
    optimizer = AdaptiveConstrainedOptimizer(0.05, use_quantization=quantization, initial_trust_radius=0.1)
    losses, weights = _train(optimizer, 500)
    assert min(losses[-50:]) < share * losses[0]
    assert (len(np.unique(weights)) <= 5) == quantization
    assert optimizer.loss_history == losses
    assert all(info.update_magnitude <= info.constraint_radius for info in optimizer.step_history)


def test_compat_optimizer_bounds_the_target_share_of_steps(rng):
    """With gradients of all lengths the target share of steps is shortened; without one, another share."""
    shares = {}
    for target in (0.3, 0.6, None):
        optimizer = AdaptiveConstrainedOptimizer(
            0.01, use_quantization=False, initial_trust_radius=0.9, target_activation=target
        )
        weights = np.zeros(8)
        for _ in range(600):
            weights = optimizer.step(weights, np.exp(rng.normal(1, 1)) * rng.standard_normal(8), STATE, 1.0)
            weights = weights.parameters_updated
        active = [info.constraint_active for info in optimizer.step_history[200:]]
        shares[target] = np.mean(active)
    assert shares[0.3] == pytest.approx(0.3, abs=0.05)
    assert shares[0.6] == pytest.approx(0.6, abs=0.05)
    assert shares[None] < 0.1


def test_compat_optimizer_without_network_is_fixed():
    """No network: the base rate and a radius of 0.01, the documents' default."""
    optimizer = AdaptiveConstrainedOptimizer(use_adaptive_optimizer=False, use_quantization=False)
    assert optimizer.auxiliary_nn is None
    info = optimizer.step(np.zeros(2), np.array([3.0, 4.0]), STATE, 1.0)
    np.testing.assert_allclose(info.update_vector, [-0.003, -0.004])
    assert info.constraint_radius == 0.01
    for _ in range(20):
        assert optimizer.step(np.zeros(2), np.array([300.0, 400.0]), STATE, 1.0).constraint_radius == 0.01


def test_compat_optimizer_first_radius_is_the_given_one():
    """The network's first answers are the rate and the radius of the constructor."""
    optimizer = AdaptiveConstrainedOptimizer(initial_trust_radius=0.05)
    assert optimizer.step(np.ones(2), np.ones(2), STATE, 1.0).constraint_radius == pytest.approx(0.05)
    assert optimizer.auxiliary_nn.prediction_history == [pytest.approx(1.0)]


def test_compat_optimizer_squares_its_radius():
    """constraint_form='squared' bounds steps by the square of the radius."""
    optimizer = AdaptiveConstrainedOptimizer(
        1.0, use_adaptive_optimizer=False, use_quantization=False, constraint_form="squared"
    )
    assert optimizer.step(np.zeros(2), np.ones(2), STATE, 1.0).update_magnitude == pytest.approx(1e-4)


def test_compat_optimizer_summary_has_the_documented_keys():
    """Figures over all steps; before the first one {'steps': 0}."""
    optimizer = AdaptiveConstrainedOptimizer(0.05, initial_trust_radius=0.1)
    assert optimizer.get_training_summary() == {"steps": 0}
    losses, _ = _train(optimizer, 30)
    summary, history = optimizer.get_training_summary(), optimizer.step_history
    lengths = [info.update_magnitude for info in history]
    active = sum(info.constraint_active for info in history)
    assert summary == {
        "total_steps": 30,
        "constraints_active": active,
        "constraint_activation_rate": active / 30,
        "mean_update_magnitude": pytest.approx(np.mean(lengths)),
        "std_update_magnitude": pytest.approx(np.std(lengths)),
        "mean_quantization_error": pytest.approx(np.mean([info.quantization_error for info in history])),
        "total_loss_reduction": pytest.approx(losses[0] - losses[-1]),
        "loss_trend": pytest.approx(losses[-1] / losses[-2]),
    }


def test_compat_optimizer_refuses():
    """A diverged loss, shapes that differ, values out of range, unknown keywords."""
    optimizer = AdaptiveConstrainedOptimizer()
    with pytest.raises(NotFiniteError, match="current_loss is nan"):
        optimizer.step(np.ones(2), np.ones(2), STATE, math.nan)
    with pytest.raises(InvalidArgumentError, match="gradients has shape"):
        optimizer.step(np.ones(2), np.ones(3), STATE, 1.0)
    with pytest.raises(InvalidArgumentError, match="base_learning_rate is 0"):
        AdaptiveConstrainedOptimizer(0)
    with pytest.raises(InvalidArgumentError, match="initial_radius is 3"):
        AdaptiveConstrainedOptimizer(initial_trust_radius=3)
    with pytest.raises(InvalidArgumentError, match=r"share is 1\.5"):
        AdaptiveConstrainedOptimizer(target_activation=1.5)
    with pytest.raises(TypeError, match="radius"):
        AdaptiveConstrainedOptimizer(radius=1)
