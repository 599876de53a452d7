"""Trust-region steps in C against singular values and against NumPy; the feedback that sets their radius."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pyhybrid import _reference as reference
from pyhybrid._errors import InvalidArgumentError, StateError
from pyhybrid.auxiliary_nn import AuxiliaryNetwork, TrainingState
from pyhybrid.config import ModelConfig
from pyhybrid.language_model import LanguageModel
from pyhybrid.trust_region import FeedbackConfig, TrustRegionController

SHAPE = ModelConfig(
    vocab_size=60, dim=48, n_layers=2, n_heads=3, n_kv_heads=1, ffn_dim=80, max_context=32, sub_norms=True
)


def _model(optimizer: str = "spectral") -> LanguageModel:
    model = LanguageModel(SHAPE, seed=3)
    model.prepare(4, 24, optimizer=optimizer)
    return model


def _gradients(model: LanguageModel, seed: int) -> None:
    random = np.random.default_rng(seed)
    model.gradients(random.integers(0, 60, (4, 25)).astype(np.uint32))


def _values(model: LanguageModel) -> dict[str, np.ndarray]:
    return {name: np.array(p.values, np.float64) for name, p in model.parameters().items()}


def test_change_stays_in_the_ball_of_the_spectral_norm() -> None:
    """Forty random steps: no matrix's change has a singular value beyond the radius."""
    model, random, tightest = _model(), np.random.default_rng(0), 0.0
    for step in range(1, 41):
        _gradients(model, step)
        before = _values(model)
        rate, radius = 10 ** random.uniform(-3, 0, 2)
        decay = float(random.choice([0.0, 0.1, 1.0]))
        model.apply_trust_region(learning_rate=rate, radius=radius, weight_decay=decay, step=step)
        for name, after in _values(model).items():
            change = after - before[name]
            rounding = np.linalg.norm(
                np.spacing(np.maximum(abs(after), abs(before[name])).astype(np.float32)) / 2
            )
            if name.startswith("blk.") and "norm" not in name:
                largest = np.linalg.svd(change, compute_uv=False)[0]
                unit = radius * math.sqrt(max(1.0, change.shape[0] / change.shape[1]))
                assert largest <= unit * (1 + 1e-3) + rounding, (name, step)
                tightest = max(tightest, largest / unit)
            else:
                assert np.abs(change).max() <= 0.32 * radius * (1 + 1e-5) + rounding, (name, step)
    assert tightest > 0.9  # the ball is used


def test_ball_holds_for_weights_written_from_outside() -> None:
    """Weights that were made a hundred times larger in between are shortened for as what they are."""
    model = _model()
    for step in range(1, 4):
        _gradients(model, step)
        if step == 3:
            for name, p in model.parameters().items():
                if name.startswith("blk.") and "norm" not in name:
                    p.values[...] *= 100  # type: ignore[index]
            model.touch()
            _gradients(model, step)
        before = _values(model)
        model.apply_trust_region(learning_rate=1.0, radius=0.05, weight_decay=1.0, step=step)
    for name, after in _values(model).items():
        if name.startswith("blk.") and "norm" not in name:
            change = after - before[name]
            rounding = np.linalg.norm(np.spacing(np.abs(after).astype(np.float32)) / 2)
            unit = 0.05 * math.sqrt(max(1.0, change.shape[0] / change.shape[1]))
            assert np.linalg.svd(change, compute_uv=False)[0] <= unit * (1 + 1e-3) + rounding, name


@pytest.mark.parametrize("norm", ["rms", "l2"])
def test_change_stays_in_the_ball_of_a_norm_of_elements(norm: str) -> None:
    """The same for balls around each tensor, and around all of them together."""
    model, random = _model(norm), np.random.default_rng(0)
    for step in range(1, 25):
        _gradients(model, step)
        before = _values(model)
        rate, radius = 10 ** random.uniform(-3, 0, 2)
        found = model.apply_trust_region(learning_rate=rate, radius=radius, weight_decay=0.5, step=step)
        total = rounding = 0.0
        for name, after in _values(model).items():
            change = after - before[name]
            slack = float(np.linalg.norm(np.spacing(np.abs(after).astype(np.float32)) / 2))
            total, rounding = total + float(np.sum(change**2)), rounding + slack
            if norm == "rms":
                rms = max(math.sqrt(np.mean(before[name] ** 2)), 1e-3)
                assert math.sqrt(np.mean(change**2)) <= radius * rms * (1 + 1e-5) + slack, (name, step)
        if norm == "l2":
            assert math.sqrt(total) <= radius * (1 + 1e-5) + rounding
            assert found.shortened_share in (0.0, 1.0)


@pytest.mark.parametrize("row_beta", [0.0, 0.95])
def test_step_is_what_the_header_says(row_beta: float) -> None:
    """Three steps of a model agree with the equations in NumPy, float64."""
    model = _model()
    momentum = {name: np.zeros(p.shape) for name, p in model.parameters().items()}
    rows: dict[str, np.ndarray | None] = {}
    for step in range(1, 4):
        _gradients(model, step)
        before = _values(model)
        slopes = {name: np.array(p.gradient, np.float64) for name, p in model.parameters().items()}
        model.apply_trust_region(
            learning_rate=0.02, radius=0.5, weight_decay=0.3, row_beta=row_beta, step=step
        )
        for name, p in model.parameters().items():
            if not name.startswith("blk.") or "norm" in name:
                continue
            change, momentum[name], rows[name] = reference.spectral_change(
                slopes[name], before[name], momentum[name], rows.get(name), learning_rate=0.02, momentum=0.8,
                row_beta=row_beta, weight_decay=0.3,
            )  # fmt: skip
            found = np.array(p.values, np.float64) - before[name]
            # Quintic steps amplify the rounding of small singular values.
            assert np.linalg.norm(found - change) <= 2e-3 * np.linalg.norm(change), (name, step)
            assert np.array(p.last_change) == pytest.approx(found, abs=1e-6)


def test_alignment_is_the_cosine_to_the_last_change() -> None:
    """0 before the first step, then the cosine over the layers' matrices."""
    model = _model()
    _gradients(model, 0)
    assert model.alignment() == 0.0
    model.apply_trust_region(learning_rate=0.05, radius=0.05, step=1)
    _gradients(model, 1)
    pairs = [
        (np.array(p.gradient, np.float64).ravel(), np.array(p.last_change, np.float64).ravel())
        for p in model.parameters().values()
        if p.last_change is not None
    ]
    slope, change = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
    wanted = slope @ change / np.linalg.norm(slope) / np.linalg.norm(change)
    assert model.alignment() == pytest.approx(wanted, abs=1e-6)


def test_wrong_use_is_refused() -> None:
    """The other optimiser's call, a value out of its range and an unknown name say what to do."""
    model = _model()
    _gradients(model, 0)
    with pytest.raises(StateError, match="apply_trust_region"):
        model.apply(learning_rate=0.1, step=1)
    with pytest.raises(InvalidArgumentError, match="radius"):
        model.apply_trust_region(learning_rate=0.1, radius=math.nan, step=1)
    with pytest.raises(InvalidArgumentError, match="give a number"):
        model.apply_trust_region(learning_rate="fast", radius=1.0, step=1)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="'spectral'"):
        model.prepare(1, 8, optimizer="muon")


# ---- the network and its control ----


def _state(**fields: float) -> TrainingState:
    values = {
        "current_loss": 2.0, "gradient_magnitude": 0.5, "cluster_id": 0.5, "loss_trend": 0.999,
        "gradient_variance": 0.01, "step_number": 10,
    }  # fmt: skip
    return TrainingState(**(values | fields))  # type: ignore[arg-type]


def test_network_starts_where_it_is_told() -> None:
    """Before it has learned anything: multiplier 1 and the initial radius, whatever the state."""
    network = AuxiliaryNetwork(initial_radius=0.02)
    for loss in (0.1, 2.0, 50.0):
        output = network.forward(_state(current_loss=loss).to_features())
        assert network.multiplier(output) == pytest.approx(1.0)
        assert network.radius(output) == pytest.approx(0.02)


def test_network_learns_along_the_gradient_it_is_given() -> None:
    """Outputs move against the gradient, to the ends of their ranges and not beyond, and back."""
    network = AuxiliaryNetwork()
    features = _state().to_features()
    for sign in (1.0, -1.0):
        for _ in range(2000):
            output = network.forward(features)
            network.learn([sign, sign])
        output = network.forward(features)
        assert network.multiplier(output) == pytest.approx(10.0**-sign, rel=0.3)
        assert network.radius(output) == pytest.approx(0.001 if sign > 0 else 1.0, rel=0.7)
        assert 0.1 <= network.multiplier(output) <= 10
        assert 0.001 <= network.radius(output) <= 1


def test_network_can_tell_states_apart() -> None:
    """It learns opposite answers for two states: the hidden layer is used."""
    network = AuxiliaryNetwork(seed=1)
    early, late = (
        _state(step_number=1).to_features(),
        _state(step_number=2000, current_loss=0.7).to_features(),
    )
    for _ in range(600):
        for features, wanted in ((early, 0.5), (late, -0.5)):
            network.learn(network.forward(features) - wanted)
    assert network.forward(early) == pytest.approx([0.5, 0.5], abs=0.1)
    assert network.forward(late) == pytest.approx([-0.5, -0.5], abs=0.1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -1.0, 0.0, 1e300])
def test_network_survives_any_number(bad: float) -> None:
    """NaN, infinities and absurd sizes in state or feedback leave finite answers and weights."""
    network = AuxiliaryNetwork()
    for _ in range(50):
        output = network.forward(
            _state(
                current_loss=bad, gradient_magnitude=bad, loss_trend=bad, gradient_variance=bad
            ).to_features()
        )
        network.learn([bad, -bad])
        network.learn([1.0, -1.0])
    assert np.isfinite(output).all()
    assert all(np.isfinite(array).all() for name, array in network.state().items() if name != "features")


def test_network_state_round_trip() -> None:
    """A restored network gives the same answers; a damaged state is refused."""
    one, two = AuxiliaryNetwork(seed=1), AuxiliaryNetwork(seed=2)
    one.forward(_state().to_features())
    one.learn([0.3, -0.7])
    two.load_state(one.state())
    assert (one.forward(_state().to_features()) == two.forward(_state().to_features())).all()
    with pytest.raises(InvalidArgumentError, match="weights1"):
        two.load_state({**one.state(), "weights1": np.zeros((2, 2))})
    with pytest.raises(InvalidArgumentError, match="bias2"):
        two.load_state({**one.state(), "bias2": [math.nan, 0.0]})
    with pytest.raises(InvalidArgumentError, match="hidden_size"):
        AuxiliaryNetwork(hidden_size=-1)


@pytest.mark.parametrize("base_rate", [0.005, 0.05, 0.5])
def test_controller_brings_any_base_rate_to_the_radius(base_rate: float) -> None:
    """With an alignment on target, rate and radius meet at the radius that is pulled to."""
    controller = TrustRegionController(base_rate, radius=0.05, feedback=FeedbackConfig(alignment_weight=0.5))
    for step in range(1, 300):
        size = controller.propose(loss=2.0, gradient_norm=0.4, step=step)
        controller.observe(0.085, 1.0)
    assert min(size.learning_rate, size.radius) == pytest.approx(0.05, rel=0.3)


def test_controller_state_round_trip() -> None:
    """A restored controller goes on as the first one does."""
    feedback = FeedbackConfig(alignment_weight=0.5)
    one, two = (TrustRegionController(0.5, feedback=feedback) for _ in range(2))
    random = np.random.default_rng(0)
    for step in range(1, 20):
        one.observe(float(random.normal()), 0.9)
        one.propose(loss=3.0 / step, gradient_norm=float(random.random()), step=step)
    two.load_state(one.state())
    for controller in (one, two):
        controller.observe(0.2, 0.8)
    assert one.propose(loss=1.0, gradient_norm=0.2, step=20) == two.propose(
        loss=1.0, gradient_norm=0.2, step=20
    )
    with pytest.raises(InvalidArgumentError, match="averages"):
        two.load_state({**one.state(), "averages": np.zeros(2)})
    with pytest.raises(InvalidArgumentError, match="base_rate"):
        TrustRegionController(0.0)
