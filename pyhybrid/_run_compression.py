"""Compressed gradients, around any optimiser of a run.

Place in the data flow: between _run_step.py and the optimiser of _run_update.py. The gradients of the
layers' matrices are replaced by what their compressed form decodes to, which is what machines that train
together would exchange; what is lost is added to the next step's (gradient_compression.py). Embedding, head
and gains stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pyhybrid._buffers import Array
from pyhybrid.gradient_compression import CompressionStatistics, GradientCompressor, Scheme

if TYPE_CHECKING:
    from pyhybrid._run_update import Update
    from pyhybrid.config import TrainingConfig
    from pyhybrid.language_model import GradientStatistics, LanguageModel

__all__ = ["CompressedUpdate"]

_SCHEMES: dict[str, Scheme] = {"row": "row", "block": "block", "five_level": "five"}


class CompressedUpdate:
    """An optimiser that sees compressed gradients, with error feedback.

    AdamW's clipping goes by the norm of the gradient before it was compressed.

    Args:
        inner: the optimiser.
        config: gradient_compression.
    """

    def __init__(self, inner: Update, config: TrainingConfig) -> None:
        self.kind: str = inner.kind
        self._inner = inner
        self._scheme = _SCHEMES[config.gradient_compression]
        self._compressor: GradientCompressor | None = None

    def apply(
        self, model: LanguageModel, gradients: GradientStatistics, *, multiplier: float, number: int
    ) -> dict[str, Any]:
        """Replaces the gradients, and updates the model.

        Returns:
            Metrics of the optimiser, and gradient_cosine (of the matrices' compressed to their true
            gradient) and gradient_bits (a value of the whole gradient, what is not compressed counted with
            32).
        """
        found = _replace(self._compressor_of(model), model)
        squares = gradients.gradient_norm**2 - found.gradient_squares + found.compressed_squares
        seen = gradients._replace(gradient_norm=math.sqrt(max(squares, 0.0)))
        metrics = self._inner.apply(model, seen, multiplier=multiplier, number=number)
        n_values = model.count().total
        bits = (8 * found.bytes + 32 * (n_values - found.values)) / n_values
        return metrics | {"gradient_cosine": found.cosine, "gradient_bits": bits}

    def _compressor_of(self, model: LanguageModel) -> GradientCompressor:
        """The compressor, with a residual of zeros for each matrix at first."""
        if self._compressor is None:
            self._compressor = GradientCompressor(self._scheme, context=model.context)
            self._compressor.restore(
                {
                    name: np.zeros(p.shape, np.float32)
                    for name, p in model.parameters().items()
                    if p.is_layer_matrix
                }
            )
        return self._compressor

    def probe(self, model: LanguageModel) -> None:
        """Does the work of an update, with residuals of its own."""
        _replace(GradientCompressor(self._scheme, context=model.context), model)
        self._inner.probe(model)

    def arrays(self, model: LanguageModel) -> dict[str, Array]:
        """The residuals, and what the optimiser has."""
        residuals = self._compressor_of(model).residuals
        return {f"residual.{name}": array for name, array in residuals.items()} | self._inner.arrays(model)

    def state(self) -> dict[str, Any]:
        """The optimiser's."""
        return self._inner.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restores the optimiser's."""
        self._inner.load_state(state)


def _replace(compressor: GradientCompressor, model: LanguageModel) -> CompressionStatistics:
    """Compresses the gradients of a model's matrices in place."""
    for name, p in model.parameters().items():
        if p.is_layer_matrix and p.gradient is not None:
            compressor.round_trip(name, p.gradient, out=p.gradient)
    return compressor.total()
