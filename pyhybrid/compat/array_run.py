"""Training of a `TernaryMLP` step by step, as the documents' TrainingConfig describes it.

Place in the data flow: trainer.py asks for gradients and updates; the network and the optimisers are those of
`TernaryMLP.fit`. Weights are trained quantised with exact master weights behind them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pyhybrid._buffers import Array
from pyhybrid._config_tables import FilledTraining
from pyhybrid._errors import InvalidArgumentError
from pyhybrid._model_types import GradientStatistics
from pyhybrid._run_compression import CompressedUpdate
from pyhybrid._run_update import AdamWUpdate, TrustRegionUpdate
from pyhybrid.compat._losses import UserLoss, with_derivative
from pyhybrid.compat.training import TrainingConfig
from pyhybrid.config import TrainingConfig as CanonicalTrainingConfig
from pyhybrid.mlp import FIT_DEFAULTS, TernaryMLP
from pyhybrid.precision import quantization_errors

__all__ = ["ArrayRun", "canonical_config", "network_sizes"]

#: Hidden width and number of layers where nothing is said about them.
_WIDEST, _NARROWEST, _LAYERS = 768, 64, 2
#: The documents' usual rate and radius: of steps with elements of the size of Adam's. Those of a trust-region
#: step are norms of whole matrices; what is usual there stands for what is usual here.
_USUAL_RATE, _USUAL_RADIUS = 0.001, 0.01


def canonical_config(
    config: TrainingConfig, usual: FilledTraining, steps: int, **more: Any
) -> CanonicalTrainingConfig:
    """Returns the optimiser's settings in the package's own configuration.

    Args:
        config: the documents'.
        usual: rate and radius of a trust-region step that stand for the documents' usual ones.
        steps: of the run.
        more: further fields.
    """
    guided = config.use_auxiliary_nn and config.use_adaptive_lr
    quantised = config.use_quantization and config.quantize_gradients
    bounded = config.use_trust_region
    return CanonicalTrainingConfig(
        steps=steps,
        optimizer="hybrid" if bounded else "adamw",
        learning_rate=config.base_learning_rate * (usual.learning_rate / _USUAL_RATE if bounded else 1.0),
        trust_radius=min(config.initial_trust_radius * (usual.trust_radius / _USUAL_RADIUS), 1.0),
        radius_rule="network" if guided else "fixed",
        auxiliary_hidden_size=config.auxiliary_nn_hidden_size,
        gradient_compression="five_level" if quantised else "none",
        **more,
    )


def network_sizes(n_in: int, n_out: int, model_dim: int | None, num_layers: int | None) -> list[int]:
    """Returns features, hidden widths and outputs; what is not given follows from the data.

    Args:
        n_in: features.
        n_out: outputs.
        model_dim: hidden width; None: the larger of both, from 64 to 768.
        num_layers: layers of weights; None: 2.
    """
    width = min(max(n_in, n_out, _NARROWEST), _WIDEST) if model_dim is None else model_dim
    return [n_in, *[width] * ((_LAYERS if num_layers is None else num_layers) - 1), n_out]


class ArrayRun:
    """A network and its optimiser.

    Args:
        config: the documents'.
        sizes: of the network.
        loss: 'mse' or 'cross_entropy'.
        steps: that the run is planned for.
        batch_size: most rows of a step.
        seed: of weights and auxiliary network.
    """

    def __init__(
        self, config: TrainingConfig, sizes: list[int], loss: Any, *, steps: int, batch_size: int, seed: int
    ) -> None:
        quantised = config.use_quantization and config.quantize_weights
        self.network = TernaryMLP(sizes, loss=loss, bits=config.target_bits if quantised else 32, seed=seed)
        settings = canonical_config(config, FIT_DEFAULTS["hybrid"], steps, seed=seed)
        assert settings.learning_rate is not None
        assert settings.trust_radius is not None
        filled = FIT_DEFAULTS[settings.optimizer]._replace(
            learning_rate=settings.learning_rate, trust_radius=settings.trust_radius
        )
        inner = (TrustRegionUpdate if settings.optimizer == "hybrid" else AdamWUpdate)(settings, filled)
        compressed = settings.gradient_compression != "none"
        self._update: Any = CompressedUpdate(inner, settings) if compressed else inner
        self._capacity = 0
        self._reserve(batch_size)

    def _reserve(self, rows: int) -> None:
        """Room for a batch; what the optimiser remembers stays."""
        if rows > self._capacity:
            self.network.prepare(rows, optimizer=self._update.kind)
            self._capacity = rows

    def gradients(self, x: Array, y: Array, loss: UserLoss | None) -> GradientStatistics:
        """Computes loss and gradients of a batch.

        Args:
            x: float [rows, features].
            y: targets of the network, or what the loss takes.
            loss: the user's; None: the network's own.

        Raises: as `TernaryMLP.gradients`.
        """
        if len(x) == 0:
            raise InvalidArgumentError("the batch is empty; give at least one row")
        self._reserve(len(x))
        if loss is None:
            return self.network.gradients(x, y)
        return self.network.gradients_with(x, with_derivative(loss, y))

    def update(
        self, statistics: GradientStatistics, *, number: int, multiplier: float, cluster: float
    ) -> dict[str, Any]:
        """Makes a step from the last gradients.

        Args:
            statistics: of the gradients.
            number: 1 for the first update.
            multiplier: the schedule's.
            cluster: cluster of the batch as a share of their number.

        Returns:
            Metrics of the optimiser.
        """
        metrics: dict[str, Any] = self._update.apply(
            self.network, statistics, multiplier=multiplier, number=number, cluster=cluster
        )
        return metrics

    def flat_gradient(self) -> Array:
        """float32 [parameters], the last gradients, in the order of the network's parameters."""
        return self._flat("gradient")

    def flat_parameters(self) -> Array:
        """float32 [parameters], the master weights, in the same order."""
        return self._flat("values")

    def _flat(self, field: str) -> Array:
        arrays = [getattr(p, field) for p in self.network.parameters().values()]
        return np.concatenate([a.ravel() for a in arrays])

    def quantization_error(self) -> float:
        """Euclidean norm of what quantising changes in the matrices."""
        if self.network.bits == 32:
            return 0.0
        matrices = [p.values for p in self.network.parameters().values() if p.format != "f32"]
        given = [m for m in matrices if m is not None]
        return math.sqrt(float(quantization_errors(given, [self.network.bits], threshold="absmean").sum()))

    # ---- what a checkpoint keeps ----

    def arrays(self) -> dict[str, Array]:
        """All that changes from step to step, by name: views."""
        found: dict[str, Array] = {}
        for name, p in self.network.parameters().items():
            found[f"values.{name}"] = p.values  # type: ignore[assignment]
            found |= {f"{kind}.{name}": array for kind, array in p.optimizer_state.items()}
        return found | {f"update.{name}": a for name, a in self._update.arrays(self.network).items()}

    def state(self) -> dict[str, Any]:
        """What the optimiser remembers, as JSON values."""
        return {"update": self._update.state(), "capacity": self._capacity}

    def restore(self, arrays: dict[str, Array], state: dict[str, Any]) -> None:
        """Takes what `arrays` and `state` gave.

        Raises:
            InvalidArgumentError: they are of another network or optimiser.
        """
        self._reserve(int(state["capacity"]))
        own = self.arrays()
        if {n: a.shape for n, a in own.items()} != {n: a.shape for n, a in arrays.items()}:
            raise InvalidArgumentError("the checkpoint is of another network or optimiser")
        self.network.touch()  # before the rest: it resets what is remembered of the weights' norms
        for name, array in own.items():
            array[...] = arrays[name]
        self._update.load_state(state["update"])
