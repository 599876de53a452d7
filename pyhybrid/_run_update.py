"""The optimiser of a run: AdamW, or trust-region steps whose rate and radius are under feedback.

Place in the data flow: _run_step.py hands over what the gradients showed and the schedule's multiplier; the
update is computed in C; what an optimiser remembers between steps, beyond the model's own arrays, goes into
the checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pyhybrid._buffers import Array
from pyhybrid._run_compression import CompressedUpdate
from pyhybrid._run_parameter_clusters import ClusterRateUpdate
from pyhybrid.config import ModelConfig, TrainingConfig
from pyhybrid.trust_region import FeedbackConfig, StepSize, TrustRegionController

if TYPE_CHECKING:
    from pyhybrid._config_tables import FilledTraining
    from pyhybrid._network import Network
    from pyhybrid.language_model import GradientStatistics, LanguageModel

__all__ = ["AdamWUpdate", "TrustRegionUpdate", "Update", "make_update"]

# The documents' adaptation of the radius: it grows while it is free, and shrinks where it binds.
_GROWTH, _SHRINKAGE = 1.01, 0.95
_RADIUS_RANGE = 0.001, 1.0


class Update(Protocol):
    """An optimiser."""

    #: `LanguageModel.prepare`'s name of it.
    kind: str

    def apply(
        self,
        model: LanguageModel,
        gradients: GradientStatistics,
        *,
        multiplier: float,
        number: int,
        cluster: float = 0.5,
    ) -> dict[str, Any]:
        """Updates a model that has just been given its gradients.

        Args:
            model: with gradients.
            gradients: what `LanguageModel.gradients` returned.
            multiplier: the schedule's.
            number: of the update; 1 for the first.
            cluster: most of the batch's, as a share of the number of clusters; 0.5 without clusters.

        Returns:
            Metrics by name: learning_rate, flipped_share, zero_share, and others of this optimiser.
        """
        ...

    def probe(self, model: LanguageModel) -> None:
        """Does the work of an update without changing a weight or what the optimiser remembers."""
        ...

    def arrays(self, model: LanguageModel) -> dict[str, Array]:
        """What it remembers beside `state` and the model's arrays: float32 by name, to be read or written."""
        ...

    def state(self) -> dict[str, Any]:
        """What it remembers, as JSON values."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restores what `state` gave."""
        ...


class AdamWUpdate:
    """AdamW; its moments are the model's.

    Args:
        config: the optimiser's settings.
        filled: those of them whose defaults depend on the network.
    """

    kind: str = "adamw"

    def __init__(self, config: TrainingConfig, filled: FilledTraining) -> None:
        self._config, self._filled = config, filled

    def apply(
        self,
        model: Network,
        gradients: GradientStatistics,
        *,
        multiplier: float,
        number: int,
        cluster: float = 0.5,
    ) -> dict[str, Any]:
        del gradients, cluster
        c, rate = self._config, self._filled.learning_rate * multiplier
        update = model.apply(
            learning_rate=rate,
            beta1=c.beta1,
            beta2=c.beta2,
            epsilon=c.epsilon,
            weight_decay=self._filled.weight_decay,
            step=number,
            clip_norm=c.clip_norm,
        )
        return {
            "learning_rate": rate,
            "flipped_share": float(update.flipped_share),
            "zero_share": float(update.zero_share),
        }

    def probe(self, model: Network) -> None:
        model.apply(learning_rate=0.0, step=1)

    def arrays(self, model: Network) -> dict[str, Array]:  # noqa: ARG002
        return {}

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        pass


class TrustRegionUpdate:
    """Trust-region steps; momentum and last change are the model's, the feedback's memory is here.

    Args:
        config: the optimiser's settings.
        filled: those of them whose defaults depend on the network.
    """

    def __init__(self, config: TrainingConfig, filled: FilledTraining) -> None:
        self.kind: str = config.trust_norm
        self._config, self._filled = config, filled
        self._radius = self._filled.trust_radius
        self._multiplier = 0.0  # the schedule's, of the last step
        self.controller: TrustRegionController | None = None
        if config.radius_rule == "network" and self._filled.learning_rate > 0:
            # With Adam's directions rate and radius have different units: the rate stays where it is given.
            spectral = config.trust_norm == "spectral"
            self.controller = TrustRegionController(
                self._filled.learning_rate if spectral else self._filled.trust_radius,
                radius=self._filled.trust_radius,
                hidden_size=config.auxiliary_hidden_size,
                seed=config.seed,
                feedback=FeedbackConfig(alignment_weight=config.hypergradient_weight),
            )

    def _size(
        self, model: Network, gradients: GradientStatistics, number: int, cluster: float
    ) -> tuple[StepSize, float]:
        """Rate and radius before the schedule, and the alignment (NaN where nobody asked)."""
        if self.controller is None:
            return StepSize(self._filled.learning_rate, self._radius, 1.0), math.nan
        alignment = model.alignment() if self._config.hypergradient_weight > 0 else math.nan
        self.controller.observe(alignment, self._multiplier)
        size = self.controller.propose(
            loss=gradients.loss, gradient_norm=gradients.gradient_norm, cluster=cluster, step=number
        )
        return size._replace(learning_rate=self._filled.learning_rate * size.multiplier), alignment

    def apply(
        self,
        model: Network,
        gradients: GradientStatistics,
        *,
        multiplier: float,
        number: int,
        cluster: float = 0.5,
    ) -> dict[str, Any]:
        size, alignment = self._size(model, gradients, number, cluster)
        radius = size.radius**2 if self._config.radius_form == "squared" else size.radius
        update = self._step(model, size.learning_rate * multiplier, radius * multiplier, number)
        self._multiplier = multiplier
        if self._config.radius_rule == "adaptive":
            self._radius *= _SHRINKAGE if update.shortened_share > 0.5 else _GROWTH
            self._radius = min(
                max(self._radius, _RADIUS_RANGE[0]), max(_RADIUS_RANGE[1], self._filled.trust_radius)
            )
        found = {
            "learning_rate": min(size.learning_rate, radius) * multiplier
            if self.kind == "spectral"
            else size.learning_rate * multiplier,
            "flipped_share": float(update.flipped_share),
            "zero_share": float(update.zero_share),
            "lr_multiplier": size.multiplier,
            "trust_radius": radius * multiplier,
            "update_magnitude": float(update.change_norm),
            "constraint_active": float(update.shortened_share),
        }
        if math.isfinite(alignment):
            found["alignment"] = alignment
        return found

    def _step(self, model: Network, rate: float, radius: float, number: int) -> Any:
        c = self._config
        return model.apply_trust_region(
            learning_rate=rate,
            radius=radius,
            step=number,
            momentum=c.momentum,
            row_beta=c.row_beta,
            weight_decay=self._filled.weight_decay,
            vector_ratio=c.vector_ratio,
            beta1=c.beta1,
            beta2=c.beta2,
            epsilon=c.epsilon,
        )

    def probe(self, model: Network) -> None:
        self._step(model, 0.0, 1.0, 1)

    def arrays(self, model: Network) -> dict[str, Array]:  # noqa: ARG002
        return {}

    def state(self) -> dict[str, Any]:
        own: dict[str, Any] = {"radius": self._radius, "multiplier": self._multiplier}
        if self.controller is not None:
            own["controller"] = {
                name: [None if math.isnan(x) else x for x in array.ravel().tolist()]
                for name, array in self.controller.state().items()
            }
        return own

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._radius, self._multiplier = float(state["radius"]), float(state["multiplier"])
        if self.controller is not None:
            shapes = {name: array.shape for name, array in self.controller.state().items()}
            flat = {
                name: [math.nan if x is None else float(x) for x in values]
                for name, values in state["controller"].items()
            }
            self.controller.load_state(
                {name: np.array(flat[name], np.float64).reshape(shape) for name, shape in shapes.items()}
            )


def make_update(config: TrainingConfig, model: ModelConfig) -> Update:
    """Returns the optimiser that a configuration names, behind what the configuration puts before it.

    Args:
        config: of the run.
        model: gives the width.
    """
    filled = config.for_model(model)
    update: Update = (AdamWUpdate if config.optimizer == "adamw" else TrustRegionUpdate)(config, filled)
    if config.parameter_clusters:
        update = ClusterRateUpdate(update, config)
    if config.gradient_compression != "none":  # clusters, too, go by what all machines would see
        update = CompressedUpdate(update, config)
    return update
