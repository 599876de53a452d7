"""The auxiliary network: from the state of a training run to a learning-rate multiplier and a trust radius.

A feed-forward network of 6 inputs, 16 hidden ReLU units and 2 tanh outputs that learns while the run goes
on, from what its last outputs led to. Place in the data flow: trust_region.py's controller asks it before
each step and tells it afterwards in which direction its outputs should have been.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pyhybrid._errors import InvalidArgumentError

__all__ = ["AuxiliaryNetwork", "LossFeedback", "TrainingState"]

Vector = npt.NDArray[np.float64]

#: Ranges of the outputs, as powers of ten: multiplier 0.1 to 10, radius 0.001 to 1.
_RADIUS_CENTRE, _RADIUS_SPAN = -1.5, 1.5
_WEIGHTS = ("weights1", "bias1", "weights2", "bias2")
#: Largest magnitude of a feature: an input that runs away must not shut the hidden layer.
_FEATURE_LIMIT = 4.0


@dataclass(frozen=True)
class TrainingState:
    """What the network sees of a run.

    Args:
        current_loss: of the batch, nats per token.
        gradient_magnitude: Euclidean norm of the gradient.
        cluster_id: the cluster that most of the batch came from, as a share of the number of clusters (0 to
            1); its number does as well where there are few.
        loss_trend: smoothed loss divided by the one before it; 1 at the start.
        gradient_variance: running variance of gradient_magnitude.
        step_number: updates done.
    """

    current_loss: float
    gradient_magnitude: float
    cluster_id: float
    loss_trend: float
    gradient_variance: float
    step_number: int

    def to_features(self) -> Vector:
        """Returns float64 [6], each of the order of 1 in a healthy run and finite in any."""
        tiny = 1e-12
        raw = (
            math.log(max(_finite(self.current_loss), tiny)) - 0.7,
            math.log(max(_finite(self.gradient_magnitude), tiny)),
            _finite(self.cluster_id) - 0.5,
            100.0 * (_finite(self.loss_trend) - 1.0),
            0.2 * math.log(max(_finite(self.gradient_variance), tiny)),
            math.log1p(max(self.step_number, 0)) / 6.0 - 0.5,
        )
        return np.clip(np.array(raw, np.float64), -_FEATURE_LIMIT, _FEATURE_LIMIT)


def _finite(value: float) -> float:
    """The value, or 0 for NaN and infinities."""
    return float(value) if math.isfinite(value) else 0.0


class AuxiliaryNetwork:
    """Six features in, (learning-rate multiplier, trust radius) out, learning by normalised least mean
    squares.

    Args:
        input_size: features.
        hidden_size: ReLU units; 0: the outputs are integrators of what they learn from.
        output_size: tanh units; the first is the multiplier's, the second the radius's.
        initial_radius: what an untrained network answers, with a multiplier of 1; between 0.001 and 1.
        learning_rate: of the output layer; the hidden layer has a tenth.
        seed: of the hidden layer's initial weights.

    Raises:
        InvalidArgumentError: a size below 1 (0 hidden units are fine), or a radius out of its range.

    Source: Widrow & Hoff 1960 (least mean squares); Nagumo & Noda 1967 (normalised).
    """

    def __init__(
        self,
        input_size: int = 6,
        hidden_size: int = 16,
        output_size: int = 2,
        *,
        initial_radius: float = 0.07,
        learning_rate: float = 0.05,
        seed: int = 0,
    ) -> None:
        for name, size, least in (
            ("input_size", input_size, 1),
            ("hidden_size", hidden_size, 0),
            ("output_size", output_size, 1),
        ):
            if size < least:
                raise InvalidArgumentError(f"{name} is {size}; give at least {least}")
        if not 0.001 < initial_radius < 1.0:
            raise InvalidArgumentError(
                f"initial_radius is {initial_radius!r}; give a number between 0.001 and 1"
            )
        generator = np.random.Generator(np.random.Philox(key=np.array([seed, 0x617578], np.uint64)))
        self.learning_rate = learning_rate
        self.weights1 = 0.3 * generator.standard_normal((hidden_size, input_size))
        self.bias1 = np.full(hidden_size, 0.3)
        self.weights2 = np.zeros((output_size, hidden_size))
        self.bias2 = np.zeros(output_size)
        self.bias2[-1] = math.atanh((math.log10(initial_radius) - _RADIUS_CENTRE) / _RADIUS_SPAN)
        self._cache: tuple[Vector, Vector, Vector] | None = None

    def forward(self, features: Vector) -> Vector:
        """Returns the outputs, float64 [output_size] in (-1, 1), and remembers them for `learn`.

        Args:
            features: float64 [input_size].
        """
        features = np.nan_to_num(
            np.asarray(features, np.float64), posinf=_FEATURE_LIMIT, neginf=-_FEATURE_LIMIT
        )
        hidden = np.maximum(self.weights1 @ features + self.bias1, 0.0)
        output = np.tanh(self.weights2 @ hidden + self.bias2)
        self._cache = features, hidden, output
        return np.asarray(output)

    @property
    def hidden(self) -> Vector | None:
        """The hidden units of the last `forward`, float64 [hidden_size]; None before it and after `learn`."""
        return None if self._cache is None else self._cache[1]

    @staticmethod
    def multiplier(output: Vector) -> float:
        """Returns the learning-rate multiplier of an output, 0.1 to 10."""
        return float(10.0 ** output[0])

    @staticmethod
    def radius(output: Vector) -> float:
        """Returns the trust radius of an output, 0.001 to 1."""
        return float(10.0 ** (_RADIUS_CENTRE + _RADIUS_SPAN * output[-1]))

    def learn(self, gradient: npt.ArrayLike) -> None:
        """Moves the outputs of the last `forward` against a gradient, once; nothing happens if it is not
        finite.

        Args:
            gradient: float64 [output_size], derivative of an error by the outputs; clipped to -2..2.
        """
        slope = np.clip(np.asarray(gradient, np.float64), -2.0, 2.0)
        if self._cache is None or not np.isfinite(slope).all():
            return
        features, hidden, output = self._cache
        self._cache = None
        steepness = 1.0 - output * output
        # A saturated output must find its way back, and must not be driven further out.
        delta = slope * np.where(slope * output > 0.0, np.maximum(steepness, 0.05), steepness)
        back = (self.weights2.T @ delta) * (hidden > 0.0)
        rate = self.learning_rate / (1.0 + float(hidden @ hidden))
        self.weights2 -= rate * np.outer(delta, hidden)
        self.bias2 -= rate * delta
        self.weights1 -= 0.1 * rate * np.outer(back, features)
        self.bias1 -= 0.1 * rate * back

    def state(self) -> dict[str, Vector]:
        """Returns copies of the weights and the last features (NaN before the first) by name."""
        arrays = {name: getattr(self, name).copy() for name in _WEIGHTS}
        none = np.full(self.weights1.shape[1], np.nan)
        return {**arrays, "features": none if self._cache is None else self._cache[0].copy()}

    def load_state(self, state: Mapping[str, npt.ArrayLike]) -> None:
        """Restores what `state` gave.

        Raises:
            InvalidArgumentError: an array is missing, misshapen or not finite.
        """
        for name in _WEIGHTS:
            own = getattr(self, name)
            array = np.asarray(state.get(name), np.float64)
            if array.shape != own.shape or not np.isfinite(array).all():
                raise InvalidArgumentError(
                    f"{name} of the auxiliary network has shape {list(array.shape)}; give finite numbers of "
                    f"shape {list(own.shape)}"
                )
            own[...] = array
        features = np.asarray(state.get("features"), np.float64)
        self._cache = None
        if features.shape == (self.weights1.shape[1],) and np.isfinite(features).all():
            self.forward(features)


class LossFeedback:
    """What changes of the loss say about the length of steps: a little longer after a fall, far shorter after
    a rise.

    A change counts by its size beside the running mean of sizes, up to 1.

    Args:
        growth: change of an output's target after a fall that counts fully.
        shrink: the same after a rise; with 5 times the growth, rates settle where a sixth of the steps fail.

    Source: Vogl et al. 1988, "Accelerating the convergence of the back-propagation method" ("bold driver").
    """

    def __init__(self, growth: float = 0.2, shrink: float = 1.0) -> None:
        self.growth, self.shrink = growth, shrink
        self._scale = 0.0

    def step(self, loss_reduction: float) -> float:
        """Returns by how much an output should have been larger, -shrink to growth; 0 if it is not finite.

        Args:
            loss_reduction: loss before the step less the loss after it.
        """
        if not math.isfinite(loss_reduction) or loss_reduction == 0.0:
            return 0.0
        size = abs(loss_reduction)
        self._scale = 0.9 * self._scale + 0.1 * size if self._scale else size
        share = min(size / self._scale, 1.0)
        return share * (self.growth if loss_reduction > 0.0 else -self.shrink)
