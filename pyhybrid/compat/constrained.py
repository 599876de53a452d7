"""The documents' trust-region steps of plain arrays: a bounded change, with quantisation before and after.

Quantising the only copy of the weights would undo every step that is smaller than half a level, which are
nearly all: a network would never leave its first codes. `ConstrainedOptimizationStep.step` therefore keeps
the exact weights, the master copy, between steps: it gives quantised weights back, and when they come in
again as the next step's parameters, it goes on from the master copy instead.

Place in the data flow: for the user; a model's own steps are `LanguageModel.apply_trust_region`, in C.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from pyhybrid._buffers import Array
from pyhybrid._elementwise import constrain_norm, vector_norm
from pyhybrid._errors import InvalidArgumentError, NotFiniteError, StateError
from pyhybrid.auxiliary_nn import TrainingState
from pyhybrid.compat._arguments import finite_array
from pyhybrid.compat.auxiliary import AuxiliaryNN, gradient_of
from pyhybrid.compat.quantization import Quantizer158Bit
from pyhybrid.trust_region import ActivationTarget

__all__ = ["AdaptiveConstrainedOptimizer", "ConstrainedOptimizationStep", "ConstrainedUpdateInfo"]

ConstraintForm = Literal["norm", "squared"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ConstrainedUpdateInfo:
    """What one step did.

    Args:
        update_magnitude: Euclidean norm of the update.
        constraint_active: the bound shortened the update.
        constraint_radius: the radius that was asked for.
        quantization_error: Euclidean norm of what quantising changed: in the parameters if they were
            quantised, else in the gradients; 0 without.
        update_efficiency: norm of the update by that of the one without the bound; 1 if that is 0.
        parameters_updated: the new parameters, quantised if that was asked for; None in a history.
        update_vector: the change of the exact parameters; None in a history.
    """

    update_magnitude: float
    constraint_active: bool
    constraint_radius: float
    quantization_error: float = 0.0
    update_efficiency: float = 1.0
    parameters_updated: Array | None = None
    update_vector: Array | None = None

    @property
    def efficiency(self) -> float:
        """Another name of update_efficiency."""
        return self.update_efficiency


class _Master(NamedTuple):
    """Exact weights, and the quantised ones that were given out for them."""

    exact: Array
    given: Array


class ConstrainedOptimizationStep:
    """Gradient steps in a ball, on quantised gradients and parameters with a master copy.

    Args:
        quantizer: with `quantize_gradients` and `quantize_weights`; None: a Quantizer158Bit.
        use_quantization: False: nothing is quantised, whatever `step` is told.
        constraint_form: 'norm': the update's norm is at most the radius; 'squared': at most its square.

    Attributes:
        step_history: a ConstrainedUpdateInfo a step, without arrays.

    Raises:
        InvalidArgumentError: an unknown form.
    """

    def __init__(
        self,
        quantizer: Any = None,
        use_quantization: bool = True,
        *,
        constraint_form: ConstraintForm = "norm",
    ) -> None:
        if constraint_form not in ("norm", "squared"):
            raise InvalidArgumentError(f"constraint_form is {constraint_form!r}; choose 'norm' or 'squared'")
        self.quantizer = Quantizer158Bit() if quantizer is None else quantizer
        self.use_quantization = use_quantization
        self.constraint_form = constraint_form
        self.step_history: list[ConstrainedUpdateInfo] = []
        self._masters: dict[str, _Master] = {}

    def apply_constraint(self, unconstrained_update: Any, constraint_radius: float) -> tuple[Array, bool]:
        """Scales an update down to the ball.

        Args:
            unconstrained_update: float, any shape, finite.
            constraint_radius: above 0; with constraint_form='squared' its square is the bound.

        Returns:
            The update, with a norm of at most the bound, and whether it was shortened.

        Raises:
            InvalidArgumentError: empty, or a radius that is no number above 0.
            NotFiniteError: NaN or infinity.
        """
        update = finite_array(unconstrained_update, "unconstrained_update")
        if not (math.isfinite(constraint_radius) and constraint_radius > 0):
            raise InvalidArgumentError(f"constraint_radius is {constraint_radius!r}; give a number above 0")
        bound = constraint_radius if self.constraint_form == "norm" else constraint_radius**2
        return constrain_norm(update, bound)

    def apply_quantization_gradient(self, gradients: Any) -> tuple[Array, float]:
        """Returns quantised gradients and the Euclidean norm of what that changed."""
        return _quantized(finite_array(gradients, "gradients"), self.quantizer.quantize_gradients)

    def apply_quantization_post_update(self, parameters: Any, quantizer: Any = None) -> tuple[Array, float]:
        """Returns quantised parameters and the Euclidean norm of what that changed.

        Args:
            parameters: float, any shape, finite; they are not written to. Keep them: steps go on from them.
            quantizer: None: the one of the constructor.
        """
        chosen = self.quantizer if quantizer is None else quantizer
        return _quantized(finite_array(parameters, "parameters"), chosen.quantize_weights)

    def master_parameters(self, name: str = "") -> Array:
        """Returns a copy of the exact weights behind the last step's.

        Raises:
            StateError: no step of this name quantised parameters.
        """
        if name not in self._masters:
            raise StateError(f"there is no master copy called {name!r}; make a step with quantize_parameters")
        return self._masters[name].exact.copy()

    def reset(self) -> None:
        """Forgets all master copies: the next steps begin from the parameters that they are given."""
        self._masters.clear()

    def step(
        self,
        parameters: Any,
        gradients: Any,
        constraint_radius: float,
        learning_rate: float = 0.001,
        quantize_gradients: bool = True,
        quantize_parameters: bool = True,
        *,
        name: str = "",
    ) -> ConstrainedUpdateInfo:
        """Makes a step: -learning_rate times the gradients, shortened to the ball.

        Args:
            parameters: float, any shape; they are not written to. If they are what the last step of this
                name returned quantised, the step goes on from its master copy; otherwise from themselves.
            gradients: of their shape.
            constraint_radius: of the ball, above 0.
            learning_rate: above 0.
            quantize_gradients: step along quantised gradients.
            quantize_parameters: return quantised parameters, and keep the exact ones.
            name: of the tensor, where one object makes the steps of several.

        Returns:
            `parameters_updated` are the next step's parameters. The bound holds for `update_vector`, the
            change of the exact ones.

        Raises:
            InvalidArgumentError: empty, shapes that differ, or a radius or rate that is no number above 0.
            NotFiniteError: NaN or infinity.
        """
        if not (math.isfinite(learning_rate) and learning_rate > 0):
            raise InvalidArgumentError(f"learning_rate is {learning_rate!r}; give a number above 0")
        exact = self._exact(finite_array(parameters, "parameters"), name)
        direction, error = gradient_of(gradients, exact), 0.0
        if self.use_quantization and quantize_gradients:
            direction, error = self.apply_quantization_gradient(direction)
        wanted = np.asarray(-learning_rate * direction, exact.dtype)
        update, active = self.apply_constraint(wanted, constraint_radius)
        updated = exact + update
        self._masters.pop(name, None)
        if self.use_quantization and quantize_parameters:
            master = updated
            updated, error = self.apply_quantization_post_update(master)
            self._masters[name] = _Master(master, updated.copy())
        length, full = vector_norm(update), vector_norm(wanted)
        info = ConstrainedUpdateInfo(
            update_magnitude=length,
            constraint_active=active,
            constraint_radius=float(constraint_radius),
            quantization_error=error,
            update_efficiency=length / full if full > 0 else 1.0,
            parameters_updated=updated,
            update_vector=update,
        )
        self.step_history.append(replace(info, parameters_updated=None, update_vector=None))
        return info

    def _exact(self, parameters: Array, name: str) -> Array:
        """The master copy behind the parameters, or themselves."""
        master = self._masters.get(name)
        if master is None:
            return parameters
        if np.array_equal(master.given, parameters):
            return master.exact
        warnings.warn(
            f"the parameters of step {name!r} are not those that the last step returned: the master copy is "
            "started anew from them. Where one object makes the steps of several tensors, give each a name; "
            "call reset() before other weights are trained",
            stacklevel=3,
        )
        return parameters


def _quantized(values: Array, quantize: Any) -> tuple[Array, float]:
    result = quantize(values)
    return result, vector_norm(result - values)


class AdaptiveConstrainedOptimizer:
    """Constrained steps whose rate and radius an AuxiliaryNN sets, learning from the losses.

    The radius is the network's answer by its first answer, times a base that adapts until the bound shortens
    `target_activation` of the steps; both together stay in 0.001 to 1.

    Args:
        base_learning_rate: that the network's multiplier multiplies, above 0.
        quantizer: as for ConstrainedOptimizationStep.
        use_quantization: quantise gradients and parameters, with a master copy.
        use_adaptive_optimizer: False: no network, no adaptation: base_learning_rate and
            initial_trust_radius are used as they are.
        constraint_form: as for ConstrainedOptimizationStep.
        initial_trust_radius: between 0.001 and 1.
        target_activation: share of the steps that the bound should shorten; None: the base stays.
        hidden_size: of the network.
        seed: of the network.

    Attributes:
        auxiliary_nn: the network; None without.
        constrained_step: the ConstrainedOptimizationStep.
        loss_history: a loss a step.

    Raises:
        InvalidArgumentError: a value out of its range.
    """

    def __init__(
        self,
        base_learning_rate: float = 0.001,
        quantizer: Any = None,
        use_quantization: bool = True,
        use_adaptive_optimizer: bool = True,
        *,
        constraint_form: ConstraintForm = "norm",
        initial_trust_radius: float = 0.01,
        target_activation: float | None = 0.3,
        hidden_size: int = 16,
        seed: int = 0,
    ) -> None:
        if not (math.isfinite(base_learning_rate) and base_learning_rate > 0):
            raise InvalidArgumentError(f"base_learning_rate is {base_learning_rate!r}; give a number above 0")
        self.base_learning_rate = base_learning_rate
        self.initial_trust_radius = initial_trust_radius
        self.constrained_step = ConstrainedOptimizationStep(
            quantizer, use_quantization, constraint_form=constraint_form
        )
        self.auxiliary_nn: AuxiliaryNN | None = None
        self._base = None if target_activation is None else ActivationTarget(
            initial_trust_radius, target_activation
        )  # fmt: skip
        if use_adaptive_optimizer:
            self.auxiliary_nn = AuxiliaryNN(
                hidden_size=hidden_size, initial_trust_radius=initial_trust_radius, seed=seed
            )
        self.loss_history: list[float] = []
        self._multiplier = 1.0

    @property
    def step_history(self) -> list[ConstrainedUpdateInfo]:
        """A ConstrainedUpdateInfo a step, without arrays."""
        return self.constrained_step.step_history

    def step(
        self, parameters: Any, gradients: Any, state: TrainingState, current_loss: float
    ) -> ConstrainedUpdateInfo:
        """Makes a step; the network first learns what the step before it led to.

        Args:
            parameters: as for ConstrainedOptimizationStep.step: the last step's `parameters_updated`.
            gradients: of their shape.
            state: what the network sees.
            current_loss: at these parameters.

        Raises:
            InvalidArgumentError: empty, or shapes that differ.
            NotFiniteError: NaN or infinity.
        """
        if not math.isfinite(current_loss):
            raise NotFiniteError(f"current_loss is {current_loss!r}; lower base_learning_rate")
        rate, radius, network = self.base_learning_rate, self.initial_trust_radius, self.auxiliary_nn
        if network is not None:
            if self.loss_history:
                network.update_with_feedback(self._multiplier, self.loss_history[-1] - current_loss)
            self._multiplier = network.predict_learning_rate(state)
            rate *= self._multiplier
            radius = network.predict_trust_region(state)
            if self._base is not None:
                radius *= self._base.radius / self.initial_trust_radius
            radius = min(max(radius, 1e-3), 1.0)
        info = self.constrained_step.step(parameters, gradients, radius, rate)
        self.loss_history.append(float(current_loss))
        if network is not None and self._base is not None:
            self._base.observe(info.constraint_active)
        return info

    def get_training_summary(self) -> dict[str, float]:
        """Returns figures over all steps.

        Returns:
            'total_steps', 'constraints_active', 'constraint_activation_rate', 'mean_update_magnitude',
            'std_update_magnitude', 'mean_quantization_error', 'total_loss_reduction' (first loss less the
            last), 'loss_trend' (last loss by the one before it; 1 after one step); {'steps': 0} before the
            first step.
        """
        history, losses = self.step_history, self.loss_history
        if not history:
            return {"steps": 0}
        lengths = np.array([info.update_magnitude for info in history])
        active = sum(info.constraint_active for info in history)
        return {
            "total_steps": len(history),
            "constraints_active": active,
            "constraint_activation_rate": active / len(history),
            "mean_update_magnitude": float(lengths.mean()),
            "std_update_magnitude": float(lengths.std()),
            "mean_quantization_error": float(np.mean([info.quantization_error for info in history])),
            "total_loss_reduction": losses[0] - losses[-1],
            "loss_trend": losses[-1] / losses[-2] if len(losses) > 1 and losses[-2] else 1.0,
        }
