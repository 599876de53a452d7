"""The documents' auxiliary network and the optimiser it guides, over `AuxiliaryNetwork`.

Place in the data flow: for the user, and for constrained.py beside it; training has trust_region.py.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from pyhybrid._buffers import Array
from pyhybrid._elementwise import vector_norm
from pyhybrid._errors import InvalidArgumentError, NotFiniteError, StateError
from pyhybrid.auxiliary_nn import AuxiliaryNetwork, LossFeedback, TrainingState
from pyhybrid.compat._arguments import finite_array, one_value

__all__ = ["AdaptiveOptimizer", "AuxiliaryNN", "TrainingState", "gradient_of"]

Vector = npt.NDArray[np.float64]


def gradient_of(gradients: Any, parameters: Any = None) -> Array:
    """Returns a checked gradient.

    Args:
        gradients: float, any shape, finite; an array or a tensor.
        parameters: that it belongs to; None: unknown.

    Raises:
        InvalidArgumentError: empty, or of another shape than the parameters.
        NotFiniteError: NaN or infinity.
    """
    gradient = finite_array(gradients, "gradients")
    if parameters is not None and gradient.shape != np.shape(parameters):
        raise InvalidArgumentError(
            f"gradients has shape {list(gradient.shape)}, parameters {list(np.shape(parameters))}; they must "
            "be the same"
        )
    return gradient


class AuxiliaryNN:
    """A feed-forward network of 6 inputs, 16 hidden ReLU units and 2 tanh outputs that answers with a
    learning-rate multiplier and a trust radius, and learns from what they led to.

    Args:
        input_size: features of a state: 6, those of `TrainingState`, for the `predict_...` methods.
        hidden_size: hidden units; None: 16.
        output_size: outputs: the first is the multiplier's, the last the radius's; None: 2.
        hidden: another name of hidden_size.
        output: another name of output_size.
        initial_trust_radius: the first answer, between 0.001 and 1; the first multiplier is 1.
        seed: of the initial weights.

    Attributes:
        network: the AuxiliaryNetwork that does the work.
        prediction_history: multipliers, in the order of `predict_learning_rate`.
        error_history: by how much the multiplier's output was off, in the order of `update_with_feedback`.

    Raises:
        InvalidArgumentError: a size below 1, or a radius out of its range.
        ConfigError: two names of one thing have different values.
    """

    def __init__(
        self,
        input_size: int = 6,
        hidden_size: int | None = None,
        output_size: int | None = None,
        *,
        hidden: int | None = None,
        output: int | None = None,
        initial_trust_radius: float = 0.07,
        seed: int = 0,
    ) -> None:
        self.input_size = input_size
        self.hidden_size = one_value({"hidden_size": hidden_size, "hidden": hidden}, 16)
        self.output_size = one_value({"output_size": output_size, "output": output}, 2)
        self.network = AuxiliaryNetwork(
            self.input_size,
            self.hidden_size,
            self.output_size,
            initial_radius=initial_trust_radius,
            seed=seed,
        )
        self.prediction_history: list[float] = []
        self.error_history: list[float] = []
        self._reductions: list[float] = []
        self._steps: list[float] = []
        self._feedback = LossFeedback()
        self._features: Vector | None = None

    def forward(self, features: npt.ArrayLike) -> tuple[Vector, Vector]:
        """Returns the outputs, float64 [output_size] in (-1, 1), and the hidden units, float64 [hidden_size].

        Args:
            features: float [input_size]; NaN counts as 0, and a magnitude too large is limited.

        Raises:
            InvalidArgumentError: another number of features.
        """
        given = np.asarray(features, np.float64)
        if given.shape != (self.input_size,):
            raise InvalidArgumentError(
                f"features has shape {list(given.shape)}; the network takes [{self.input_size}]"
            )
        self._features = given
        output = self.network.forward(given)
        hidden = self.network.hidden
        assert hidden is not None
        return output, hidden

    def _outputs(self, state: TrainingState) -> Vector:
        if not isinstance(state, TrainingState):
            raise InvalidArgumentError(f"state is {type(state).__name__}; give a TrainingState")
        return self.forward(state.to_features())[0]

    def predict_learning_rate(self, state: TrainingState) -> float:
        """Returns the multiplier of the learning rate, 0.1 to 10; 1 from an untrained network."""
        multiplier = self.network.multiplier(self._outputs(state))
        self.prediction_history.append(multiplier)
        return multiplier

    def predict_trust_region(self, state: TrainingState) -> float:
        """Returns the trust radius, 0.001 to 1."""
        return self.network.radius(self._outputs(state))

    def predict_update_direction_bias(self, state: TrainingState) -> float:
        """Returns the second output itself, in (-1, 1): above 0 for wide steps that go on, below for narrow
        ones.

        With two outputs it is the radius's. Updates do not use it.

        Raises:
            StateError: the network has one output.
        """
        output = self._outputs(state)
        if output.size < 2:
            raise StateError("this network has one output; make one with output_size=2")
        return float(output[1])

    def update_with_feedback(
        self, predicted_lr: float, actual_loss_reduction: float, learning_rate: float = 0.01
    ) -> None:
        """Learns from a step: outputs grow a little where the loss fell, and shrink much where it rose.

        Args:
            predicted_lr: the multiplier that the step had, above 0; what is outside 0.1 to 10 counts as the
                nearer end.
            actual_loss_reduction: loss before the step less the loss after it.
            learning_rate: of the network, for this update.

        Raises:
            StateError: nothing was predicted yet.
            InvalidArgumentError: a multiplier or rate that is no number above 0.
            NotFiniteError: the reduction is NaN or infinite; nothing is learned.
        """
        for name, value in (("predicted_lr", predicted_lr), ("learning_rate", learning_rate)):
            if not (math.isfinite(value) and value > 0):
                raise InvalidArgumentError(f"{name} is {value!r}; give a number above 0")
        if not math.isfinite(actual_loss_reduction):
            raise NotFiniteError(f"actual_loss_reduction is {actual_loss_reduction!r}; a step diverged")
        if self._features is None:
            raise StateError("nothing was predicted yet: call predict_learning_rate first")
        output, _ = self.forward(self._features)
        step = self._feedback.step(actual_loss_reduction)
        target = min(max(math.log10(predicted_lr), -1.0), 1.0) + step
        slope = np.zeros(output.size)
        slope[-1] = -step
        slope[0] = output[0] - target
        self.network.learning_rate = learning_rate
        self.network.learn(slope)
        self.error_history.append(float(slope[0]))
        self._reductions.append(float(actual_loss_reduction))
        self._steps.append(step)

    def get_prediction_statistics(self) -> dict[str, float]:
        """Returns what the feedback was like.

        Returns:
            'samples': calls of `update_with_feedback`; 'mean_loss_reduction', 'std_loss_reduction';
            'mean_feedback': mean of what the outputs should have been larger by, -1 to 0.2; 'success_rate':
            share of the steps whose loss fell. NaN without samples.
        """
        reductions = np.array(self._reductions or [math.nan])
        none = not self._reductions
        return {
            "samples": len(self._reductions),
            "mean_loss_reduction": float(reductions.mean()),
            "std_loss_reduction": float(reductions.std()),
            "mean_feedback": float(np.mean(self._steps or [math.nan])),
            "success_rate": math.nan if none else float((reductions > 0).mean()),
        }


class AdaptiveOptimizer:
    """Momentum on normalised gradients, with a learning rate that an AuxiliaryNN multiplies.

    Args:
        base_learning_rate: length of a step while the multiplier is 1 and gradients keep their direction.
        use_momentum: average the directions.
        auxiliary_nn: the network; None: a new one.

    Attributes:
        auxiliary_nn: the network.
        step_count: steps done.

    Raises:
        InvalidArgumentError: the rate is no number above 0.
    """

    def __init__(
        self,
        base_learning_rate: float = 0.001,
        use_momentum: bool = True,
        *,
        auxiliary_nn: AuxiliaryNN | None = None,
    ) -> None:
        if not (math.isfinite(base_learning_rate) and base_learning_rate > 0):
            raise InvalidArgumentError(f"base_learning_rate is {base_learning_rate!r}; give a number above 0")
        self.base_learning_rate = base_learning_rate
        self.use_momentum = use_momentum
        self.auxiliary_nn = auxiliary_nn or AuxiliaryNN()
        self.step_count = 0
        self._velocity: Array | None = None
        self._multiplier = 1.0
        self._loss: float | None = None

    def compute_update(self, gradients: Any, state: TrainingState, momentum_beta: float = 0.9) -> Array:
        """Returns the change of the parameters: add it to them.

        Args:
            gradients: float, any shape, finite; divided by its Euclidean norm first.
            state: what the network sees.
            momentum_beta: decay of the averaged direction, 0 or more and below 1.

        Returns:
            Float array of the gradients' shape; its norm is at most base_learning_rate times the multiplier.

        Raises:
            InvalidArgumentError: no gradients, another shape than before, or a beta out of its range.
            NotFiniteError: NaN or infinity.
        """
        if not 0 <= momentum_beta < 1:
            raise InvalidArgumentError(f"momentum_beta is {momentum_beta!r}; give a number from 0 to below 1")
        direction = gradient_of(gradients, self._velocity)
        norm = vector_norm(direction)
        direction = direction / norm if norm > 0 else np.zeros_like(direction)
        if self.use_momentum:
            if self._velocity is not None:
                direction = momentum_beta * self._velocity + (1 - momentum_beta) * direction
            self._velocity = direction
        self._multiplier = self.auxiliary_nn.predict_learning_rate(state)
        return -(self.base_learning_rate * self._multiplier) * direction

    def step(
        self, parameters: Any, gradients: Any, state: TrainingState, current_loss: float
    ) -> tuple[Array, dict[str, float]]:
        """Makes a step; the network first learns what the step before it led to.

        Args:
            parameters: float, any shape; they are not written to.
            gradients: of their shape.
            state: what the network sees.
            current_loss: at these parameters.

        Returns:
            New parameters, and 'update_magnitude', 'gradient_magnitude' (Euclidean norms), 'loss_reduction'
            (loss of the call before this one less current_loss; 0 at first), 'step_count'.

        Raises:
            InvalidArgumentError: empty, or shapes that differ.
            NotFiniteError: NaN or infinity.
        """
        values = finite_array(parameters, "parameters")
        gradient = gradient_of(gradients, values)
        if not math.isfinite(current_loss):
            raise NotFiniteError(f"current_loss is {current_loss!r}; lower the learning rate")
        reduction = 0.0 if self._loss is None else self._loss - current_loss
        if self._loss is not None:
            self.auxiliary_nn.update_with_feedback(self._multiplier, reduction)
        update = self.compute_update(gradient, state)
        self._loss = current_loss
        self.step_count += 1
        return values + update, {
            "update_magnitude": vector_norm(update),
            "gradient_magnitude": vector_norm(gradient),
            "loss_reduction": reduction,
            "step_count": self.step_count,
        }
