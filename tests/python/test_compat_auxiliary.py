"""The documents' auxiliary network: ranges, spellings, learning from feedback, the optimiser it guides."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pyhybrid import (
    AdaptiveOptimizer,
    AuxiliaryNN,
    InvalidArgumentError,
    NotFiniteError,
    StateError,
    TrainingState,
)
from pyhybrid.auxiliary_nn import LossFeedback
from pyhybrid.auxiliary_nn import TrainingState as CanonicalState
from pyhybrid.config import ConfigError

STATE = TrainingState(2.0, 0.5, 3, 0.99, 0.01, 100)


def test_compat_state_is_the_canonical_one():
    """Six fields in the documents' order, without defaults."""
    assert TrainingState is CanonicalState
    assert STATE.current_loss == 2.0
    assert STATE.cluster_id == 3
    assert STATE.step_number == 100
    with pytest.raises(TypeError):
        TrainingState(1.0)


def test_compat_network_has_the_documented_shape_and_spellings():
    """6-16-2; hidden and output are other names; contradictions are errors that name both."""
    network = AuxiliaryNN()
    assert (network.input_size, network.hidden_size, network.output_size) == (6, 16, 2)
    output, hidden = network.forward(np.zeros(6))
    assert (output.shape, hidden.shape) == ((2,), (16,))
    other = AuxiliaryNN(input_size=6, hidden=8, output=3)
    assert (other.hidden_size, other.output_size) == (8, 3)
    assert AuxiliaryNN(6, 32, 2).hidden_size == 32
    with pytest.raises(ConfigError, match="hidden_size=4 and hidden=5"):
        AuxiliaryNN(hidden_size=4, hidden=5)
    with pytest.raises(TypeError, match="layers"):
        AuxiliaryNN(layers=3)
    with pytest.raises(InvalidArgumentError, match="features has shape"):
        network.forward(np.zeros(5))
    with pytest.raises(InvalidArgumentError, match="initial_radius is 2"):
        AuxiliaryNN(initial_trust_radius=2.0)


def test_compat_network_begins_at_one_and_stays_in_range(rng):
    """The first multiplier is 1, the first radius the given one; any state stays in the documented ranges."""
    network = AuxiliaryNN(initial_trust_radius=0.05)
    assert network.predict_learning_rate(STATE) == pytest.approx(1)
    assert network.predict_trust_region(STATE) == pytest.approx(0.05)
    network.network.weights2[...] = 10 * rng.standard_normal((2, 16))
    for values in ([math.nan] * 5, [math.inf] * 5, [1e300] * 5, [-1.0] * 5, rng.standard_normal(5)):
        state = TrainingState(*values, 3)
        assert 0.1 <= network.predict_learning_rate(state) <= 10
        assert 0.001 <= network.predict_trust_region(state) <= 1
        assert -1 <= network.predict_update_direction_bias(state) <= 1
    with pytest.raises(InvalidArgumentError, match="state is list"):
        network.predict_learning_rate([1, 2, 3])
    with pytest.raises(StateError, match="one output"):
        AuxiliaryNN(output_size=1).predict_update_direction_bias(STATE)


@pytest.mark.parametrize(("reduction", "sign"), [(0.1, 1), (-0.1, -1)])
def test_compat_network_learns_from_feedback(reduction, sign):
    """A hundred falls of the loss make steps longer, a hundred rises shorter; weights change, not noise."""
    network = AuxiliaryNN()
    before = network.network.state()
    radius = network.predict_trust_region(STATE)
    for _ in range(100):
        network.update_with_feedback(network.predict_learning_rate(STATE), reduction)
    multiplier = network.predict_learning_rate(STATE)
    assert sign * math.log10(multiplier) > 0.1
    assert sign * (network.predict_trust_region(STATE) - radius) > 0
    assert not np.array_equal(network.network.weights2, before["weights2"])
    again = AuxiliaryNN()
    for _ in range(100):
        again.update_with_feedback(again.predict_learning_rate(STATE), reduction)
    assert again.predict_learning_rate(STATE) == multiplier


def test_compat_network_does_not_stay_saturated():
    """After very many falls the multiplier is high; rises bring it below 1 again."""
    network = AuxiliaryNN()
    for reduction, n in ((0.1, 3000), (-0.1, 1500)):
        for _ in range(n):
            network.update_with_feedback(network.predict_learning_rate(STATE), reduction)
        if reduction > 0:
            assert network.predict_learning_rate(STATE) > 5
    assert network.predict_learning_rate(STATE) < 1


def test_compat_network_statistics_and_histories():
    """Statistics count feedback; without any they are NaN."""
    network = AuxiliaryNN()
    empty = network.get_prediction_statistics()
    assert empty["samples"] == 0
    assert math.isnan(empty["success_rate"])
    predicted = [network.predict_learning_rate(STATE) for _ in range(4)]
    for multiplier, reduction in zip(predicted, (0.4, 0.2, -0.2, 0.0), strict=True):
        network.update_with_feedback(multiplier, reduction)
    found = network.get_prediction_statistics()
    assert set(found) == {
        "samples",
        "mean_loss_reduction",
        "std_loss_reduction",
        "mean_feedback",
        "success_rate",
    }
    assert found["samples"] == 4
    assert found["mean_loss_reduction"] == pytest.approx(0.1)
    assert found["std_loss_reduction"] == pytest.approx(np.std([0.4, 0.2, -0.2, 0.0]))
    assert found["success_rate"] == 0.5
    assert network.prediction_history == predicted
    assert len(network.error_history) == 4


def test_compat_network_refuses_bad_feedback():
    """Feedback needs a prediction, a multiplier above 0, and a finite reduction."""
    with pytest.raises(StateError, match="predict_learning_rate"):
        AuxiliaryNN().update_with_feedback(1.0, 0.1)
    network = AuxiliaryNN()
    network.predict_learning_rate(STATE)
    for multiplier in (0.0, -1.0, math.nan):
        with pytest.raises(InvalidArgumentError, match="predicted_lr"):
            network.update_with_feedback(multiplier, 0.1)
    with pytest.raises(InvalidArgumentError, match="learning_rate is 0"):
        network.update_with_feedback(1.0, 0.1, learning_rate=0)
    with pytest.raises(NotFiniteError, match="diverged"):
        network.update_with_feedback(1.0, math.nan)


def test_loss_feedback_weighs_changes_by_their_usual_size():
    """A fall of the usual size gives the growth, a rise minus the shrinkage, a small one a share."""
    feedback = LossFeedback(growth=0.2, shrink=1.0)
    assert feedback.step(0.5) == 0.2
    assert feedback.step(-0.5) == -1.0
    assert 0 < feedback.step(0.005) < 0.01
    assert feedback.step(0.0) == feedback.step(math.nan) == 0.0


# ---- the optimiser ----


def _quadratic(optimizer, steps, seed=0):
    """Losses of 0.5 x A x with eigenvalues 0.1 to 3."""
    rng = np.random.default_rng(seed)
    curvature, x = np.linspace(0.1, 3, 20), rng.standard_normal(20)
    losses = []
    for step in range(steps):
        loss, gradient = 0.5 * float(x @ (curvature * x)), curvature * x
        trend = loss / losses[-1] if losses else 1.0
        losses.append(loss)
        state = TrainingState(loss, float(np.linalg.norm(gradient)), 0, trend, float(gradient.var()), step)
        x, info = optimizer.step(x, gradient, state, loss)
    return losses, info


def test_compat_optimizer_minimises_and_reports():
    """A quadratic falls by five orders; the figures of a step are those of its arrays."""
    optimizer = AdaptiveOptimizer(0.05)
    losses, info = _quadratic(optimizer, 400)
    assert losses[-1] < 1e-5 * losses[0]
    assert set(info) == {"update_magnitude", "gradient_magnitude", "loss_reduction", "step_count"}
    assert info["step_count"] == optimizer.step_count == 400
    assert info["loss_reduction"] == pytest.approx(losses[-2] - losses[-1])


@pytest.mark.parametrize("rate", [0.002, 0.5])
def test_compat_optimizer_corrects_a_wrong_base_rate(rate):
    """With a base rate that is far off, the learning network ends lower than the same without learning."""
    learning = AdaptiveOptimizer(rate)
    fixed = AdaptiveOptimizer(rate)
    fixed.auxiliary_nn.update_with_feedback = lambda *_: None
    assert _quadratic(learning, 300)[0][-1] < _quadratic(fixed, 300)[0][-1]
    assert (learning.auxiliary_nn.prediction_history[-1] > 1) == (rate < 0.01)


def test_compat_optimizer_update_is_normalised():
    """The update runs against the gradient with the length of the rate; momentum averages directions."""
    assert AdaptiveOptimizer().base_learning_rate == 0.001
    optimizer = AdaptiveOptimizer(0.1, use_momentum=False)
    update = optimizer.compute_update([3.0, 4.0], STATE)
    np.testing.assert_allclose(update, [-0.06, -0.08])
    optimizer = AdaptiveOptimizer(0.1)
    optimizer.compute_update([1.0, 0.0], STATE)
    np.testing.assert_allclose(optimizer.compute_update([0.0, 1.0], STATE, momentum_beta=0.6), [-0.06, -0.04])
    np.testing.assert_array_equal(AdaptiveOptimizer().compute_update(np.zeros(3), STATE), np.zeros(3))


def test_compat_optimizer_refuses():
    """Shapes that differ, nothing, NaN, a diverged loss, values out of range."""
    optimizer = AdaptiveOptimizer()
    with pytest.raises(InvalidArgumentError, match=r"gradients has shape \[2\], parameters \[3\]"):
        optimizer.step(np.zeros(3), np.zeros(2), STATE, 1.0)
    with pytest.raises(InvalidArgumentError, match="gradients is empty"):
        optimizer.compute_update([], STATE)
    with pytest.raises(NotFiniteError, match="gradients"):
        optimizer.compute_update([np.nan], STATE)
    with pytest.raises(NotFiniteError, match="current_loss"):
        optimizer.step(np.zeros(3), np.zeros(3), STATE, math.inf)
    with pytest.raises(InvalidArgumentError, match="momentum_beta is 1"):
        optimizer.compute_update([1.0], STATE, momentum_beta=1)
    with pytest.raises(InvalidArgumentError, match="base_learning_rate is -1"):
        AdaptiveOptimizer(-1)
