"""Learning rates by clusters of rows, around any optimiser of a run.

Place in the data flow: between _run_step.py and the optimiser of _run_update.py. Every so many steps the
rows of each matrix are clustered (parameter_clusters.py); the multipliers that follow hold until the next
time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pyhybrid._buffers import Array
from pyhybrid.parameter_clusters import cluster_rows, row_multipliers

if TYPE_CHECKING:
    from pyhybrid._run_update import Update
    from pyhybrid.config import TrainingConfig
    from pyhybrid.language_model import GradientStatistics, LanguageModel

__all__ = ["ClusterRateUpdate"]


class ClusterRateUpdate:
    """An optimiser whose learning rate differs between clusters of rows.

    Args:
        inner: the optimiser.
        config: parameter_clusters, cluster_rates and cluster_rate_interval.
    """

    def __init__(self, inner: Update, config: TrainingConfig) -> None:
        self.kind: str = inner.kind
        self._inner, self._config = inner, config
        self._multipliers: dict[str, Array] = {}
        self._known = False  # to the model

    def apply(
        self, model: LanguageModel, gradients: GradientStatistics, *, number: int, **rest: Any
    ) -> dict[str, Any]:
        """Updates the model; at the first of every interval's steps the clusters are made anew.

        Returns:
            Metrics of the optimiser; at those steps also cluster_cohesion, the mean of the matrices'.
        """
        measured = {}
        if (number - 1) % self._config.cluster_rate_interval == 0:
            measured["cluster_cohesion"] = self._cluster(model)
        if not self._known:  # new, or restored from a checkpoint
            model.set_row_multipliers(self._stored(model))
            self._known = True
        return self._inner.apply(model, gradients, number=number, **rest) | measured

    def _cluster(self, model: LanguageModel) -> float:
        c = self._config
        layers = cluster_rows(model, c.parameter_clusters, seed=c.seed)
        for name, stored in self._stored(model).items():
            stored[...] = row_multipliers(layers[name], c.cluster_rates)
        self._known = False
        return float(np.mean([layer.cohesion for layer in layers.values()]))

    def _stored(self, model: LanguageModel) -> dict[str, Array]:
        """Returns the multipliers by the parameter's name, float32 [rows]; 1 before the first step."""
        if not self._multipliers:
            self._multipliers = {
                name: np.ones(p.shape[0], np.float32)
                for name, p in model.parameters().items()
                if p.is_layer_matrix
            }
        return self._multipliers

    def probe(self, model: LanguageModel) -> None:
        """Does the work of an update, but for the clusters, which most steps do not make."""
        self._inner.probe(model)

    def arrays(self, model: LanguageModel) -> dict[str, Array]:
        """The multipliers, and what the optimiser has."""
        own = {f"row_multipliers.{name}": array for name, array in self._stored(model).items()}
        return own | self._inner.arrays(model)

    def state(self) -> dict[str, Any]:
        """The optimiser's."""
        return self._inner.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restores the optimiser's."""
        self._inner.load_state(state)
