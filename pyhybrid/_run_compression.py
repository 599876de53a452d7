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
        self._gradients: dict[str, Array] = {}  # of the model's matrices
        self._n_values = 0  # in the whole gradient

    def apply(
        self, model: LanguageModel, gradients: GradientStatistics, *, number: int, **rest: Any
    ) -> dict[str, Any]:
        """Replaces the gradients, and updates the model.

        Returns:
            Metrics of the optimiser, and gradient_cosine (of the matrices' compressed to their true
            gradient) and gradient_bits (a value of the whole gradient, what is not compressed counted with
            32).
        """
        compressor = self._compressor_of(model)
        found = _replace(compressor, self._gradients)
        squares = gradients.gradient_norm**2 - found.gradient_squares + found.compressed_squares
        seen = gradients._replace(gradient_norm=math.sqrt(max(squares, 0.0)))
        metrics = self._inner.apply(model, seen, number=number, **rest)
        bits = (8 * found.bytes + 32 * (self._n_values - found.values)) / self._n_values
        return metrics | {"gradient_cosine": found.cosine, "gradient_bits": bits}

    def _compressor_of(self, model: LanguageModel) -> GradientCompressor:
        """The compressor, with a residual of zeros for each matrix at first."""
        if self._compressor is None:
            self._compressor = GradientCompressor(self._scheme, context=model.context)
            self._gradients = _gradients_of(model)
            self._n_values = sum(math.prod(p.shape) for p in model.parameters().values())
            self._compressor.restore({name: np.zeros_like(g) for name, g in self._gradients.items()})
        return self._compressor

    def probe(self, model: LanguageModel) -> None:
        """Does the work of an update, with residuals of its own."""
        _replace(GradientCompressor(self._scheme, context=model.context), _gradients_of(model))
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


def _gradients_of(model: LanguageModel) -> dict[str, Array]:
    """The gradients of the layers' matrices, as views."""
    each = model.parameters().items()
    return {name: p.gradient for name, p in each if p.is_layer_matrix and p.gradient is not None}


def _replace(compressor: GradientCompressor, gradients: Mapping[str, Array]) -> CompressionStatistics:
    """Compresses gradients in place."""
    for name, gradient in gradients.items():
        compressor.round_trip(name, gradient, out=gradient)
    return compressor.total()
