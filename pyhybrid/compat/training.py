"""The documents' configuration and metrics of a training run on arrays.

Place in the data flow: what the user sets, and what a run tells. A language model's run on text has
`pyhybrid.config.TrainingConfig` instead; each refuses the other with a message that says so.
"""

from __future__ import annotations

import dataclasses
import math
import os
import typing
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from pyhybrid._config_tables import CheckedTable, unknown_name
from pyhybrid._errors import InvalidArgumentError
from pyhybrid.compat._arguments import one_value
from pyhybrid.config import ConfigError
from pyhybrid.config import TrainingConfig as LanguageModelTrainingConfig

__all__ = ["TrainingConfig", "TrainingMetrics"]

#: The documents' second names of fields.
_ALIASES = {"learning_rate": "base_learning_rate", "n_clusters": "data_clusters", "precision": "target_bits"}


@dataclass(frozen=True, kw_only=True)
class _Fields(CheckedTable):
    """The fields under their first names; see TrainingConfig."""

    use_quantization: bool = True
    quantize_weights: bool = True
    quantize_gradients: bool = True
    quantizer_scale: float = 1.0
    target_bits: float = 1.58
    use_clustering: bool = True
    data_clusters: int = 8
    parameter_clusters: int = 4
    base_learning_rate: float = 0.001
    max_steps: int | None = None
    max_epochs: int | None = None
    batch_size: int = 32
    use_adaptive_lr: bool = True
    use_auxiliary_nn: bool = True
    auxiliary_nn_hidden_size: int = 16
    use_trust_region: bool = True
    initial_trust_radius: float = 0.01
    log_interval: int = 10
    eval_interval: int = 50
    checkpoint_dir: str | None = None

    _table = "TrainingConfig"

    def __post_init__(self) -> None:
        for name, kind in typing.get_type_hints(_Fields).items():
            if kind is bool:
                self._flag(name)
        self._number("quantizer_scale", 0, math.inf, above_low=True)
        self._bits("target_bits")
        self._integer("data_clusters", 1, 2**24)
        self._integer("parameter_clusters", 1, 65536)
        self._number("base_learning_rate", 0, 1e6, above_low=True)
        if self.max_steps is None and self.max_epochs is None:
            object.__setattr__(self, "max_steps", 1000)
        for name in ("max_steps", "max_epochs"):
            if getattr(self, name) is not None:
                self._integer(name, 1, 2**53)
        self._integer("batch_size", 1, 2**24)
        self._integer("auxiliary_nn_hidden_size", 1, 4096)
        self._number("initial_trust_radius", 0.001, 1, above_low=True, below_high=True)
        self._integer("log_interval", 1, 2**53)
        self._integer("eval_interval", 1, 2**53)
        if self.checkpoint_dir is not None:
            try:
                object.__setattr__(self, "checkpoint_dir", os.fspath(self.checkpoint_dir))
            except TypeError:
                self._fail("checkpoint_dir", "give the name of a folder, or None")


class TrainingConfig(_Fields):
    """Configuration of a hybrid training run on arrays, by keyword; the values are fixed.

    Args:
        use_quantization: train quantised, with exact master weights; False: the three settings below it say
            nothing.
        quantize_weights: the forward pass has quantised weights.
        quantize_gradients: steps follow quantised gradients.
        quantizer_scale: magnitude of the outermost level of `Quantizer158Bit.quantize`.
        target_bits: bits of a weight: 1.58 (ternary), 1, 2, 4, 8 or 32.
        precision: another name of target_bits.
        use_clustering: cluster the training data, and draw each batch from all clusters in proportion; False:
            from all rows, each once before any comes again.
        data_clusters: clusters of the training data.
        n_clusters: another name of data_clusters.
        parameter_clusters: clusters of a layer's weights, in reports.
        base_learning_rate: that the auxiliary network's multiplier multiplies, in the documents' unit, in
            which 0.001 is usual, and stands for the usual rate of a trust-region step.
        learning_rate: another name of base_learning_rate.
        max_steps: updates; None: 1000, or with max_epochs no limit. With both the run ends at the first that
            is reached.
        max_epochs: passes over the training data; None: no limit.
        batch_size: samples a step.
        use_adaptive_lr: rate and radius are the auxiliary network's; False: they are as set here.
        use_auxiliary_nn: there is an auxiliary network; False: the same as use_adaptive_lr=False.
        auxiliary_nn_hidden_size: its hidden units.
        use_trust_region: the spectral norm of each matrix's step is bounded; False: AdamW.
        initial_trust_radius: the bound at the start, between 0.001 and 1, in the documents' unit: 0.01 is
            usual, and stands for the usual radius of the spectral norm.
        log_interval: steps between lines of the log.
        eval_interval: steps between evaluations.
        checkpoint_dir: folder of checkpoints that are saved without a path; None: 'ckpt'.

    Raises:
        TypeError: no field has this name; if a language model's run has it, the message says where.
        ConfigError: a value is out of its range, or two names of one field have different values; also a
            ValueError.
    """

    def __init__(
        self,
        *,
        learning_rate: float | None = None,
        n_clusters: int | None = None,
        precision: float | None = None,
        **values: Any,
    ) -> None:
        known = [f.name for f in dataclasses.fields(_Fields)]
        for name in values:
            if name not in known:
                raise TypeError(_unknown_field(name, [*known, *_ALIASES]))
        given = {"learning_rate": learning_rate, "n_clusters": n_clusters, "precision": precision}
        for alias, name in _ALIASES.items():
            value = one_value({alias: given[alias], name: values.get(name)}, None)
            if value is not None:
                values[name] = value
        super().__init__(**values)

    @property
    def learning_rate(self) -> float:
        """Another name of base_learning_rate."""
        return self.base_learning_rate

    @property
    def n_clusters(self) -> int:
        """Another name of data_clusters."""
        return self.data_clusters

    @property
    def precision(self) -> float:
        """Another name of target_bits."""
        return self.target_bits

    @classmethod
    def of(cls, config: Any) -> Self:
        """Returns a configuration that was given, or the defaults for None.

        Raises:
            ConfigError: it is of another class; one of a language model's run is named.
        """
        if config is None:
            return cls()
        if isinstance(config, cls):
            return config
        if isinstance(config, LanguageModelTrainingConfig):
            raise ConfigError(
                "config is a pyhybrid.config.TrainingConfig, which is for language models (Trainer, "
                "RunConfig); give a pyhybrid.TrainingConfig"
            )
        raise ConfigError(f"config is {type(config).__name__}; give a pyhybrid.TrainingConfig")


def _unknown_field(name: str, known: list[str]) -> str:
    text = f"TrainingConfig has no field {name!r}: {unknown_name(name, known)}"
    if any(f.name == name for f in dataclasses.fields(LanguageModelTrainingConfig)):
        text += f"; {name!r} is a field of pyhybrid.config.TrainingConfig, for language models (Trainer)"
    return text


@dataclass
class TrainingMetrics:
    """The figures of a run: the current ones, and those recorded.

    Args:
        step: updates done.
        loss: of the last batch.
        loss_reduction: by the last step.
        gradient_magnitude: Euclidean norm.
        update_magnitude: Euclidean norm of the last step.
        quantization_error: Euclidean norm of what quantising changed.
        constraint_active: the trust region shortened the last step.
        learning_rate: of the last step.
        time_elapsed: seconds since the run began.
        metrics_history: what `record` was given, by name.
    """

    step: int = 0
    loss: float = 0.0
    loss_reduction: float = 0.0
    gradient_magnitude: float = 0.0
    update_magnitude: float = 0.0
    quantization_error: float = 0.0
    constraint_active: bool = False
    learning_rate: float = 0.0
    time_elapsed: float = 0.0
    metrics_history: dict[str, list[float]] = field(default_factory=dict)

    def record(self, key: str, value: float) -> None:
        """Adds a value to the history; a figure of this class also becomes the current one.

        Args:
            key: name, of this class's figures or any other.
            value: a number or a bool; NaN is kept as it is.

        Raises:
            InvalidArgumentError: no number.
        """
        if (
            not isinstance(value, (bool, int, float, np.generic))
            or np.asarray(value).dtype.kind not in "biuf"
        ):
            raise InvalidArgumentError(f"{key} is {value!r}; record numbers")
        plain = value.item() if isinstance(value, np.generic) else value
        self.metrics_history.setdefault(key, []).append(plain)
        if key in self.to_dict():
            setattr(self, key, plain)

    def to_dict(self) -> dict[str, Any]:
        """Returns the nine current figures by name."""
        return {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "metrics_history"
        }
