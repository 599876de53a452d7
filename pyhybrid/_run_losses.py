"""Losses of a run's two splits.

Place in the data flow: batches.py cuts a split into windows; the trainer asks for the mean over them during
the run and at its end, and the plan of a time budget counts them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pyhybrid.batches import Tokens, validation_batches
from pyhybrid.config import TrainingConfig
from pyhybrid.data import Dataset

if TYPE_CHECKING:
    from pyhybrid.language_model import LanguageModel

__all__ = ["RunLosses"]

# Most tokens of the training split that are evaluated where neither a validation nor the configuration gives
# a number.
_TRAINING_TOKENS = 65536


class RunLosses:
    """Evaluates a model on the splits that it is trained with.

    Args:
        model: prepared for the run's batches.
        data: both splits.
        config: gives batch_size, context and evaluation_tokens.
    """

    def __init__(self, model: LanguageModel, data: Dataset, config: TrainingConfig) -> None:
        self._model = model
        self._data = data
        self._config = config

    @property
    def validation_tokens(self) -> int:
        """Tokens that one validation predicts."""
        predictions = max(0, int(self._data.validation.size) - 1)
        return min(predictions, self._config.evaluation_tokens or predictions)

    @property
    def training_tokens(self) -> int:
        """Tokens of the training split that are evaluated at the end: as many as a validation has."""
        most = self.validation_tokens or self._config.evaluation_tokens or _TRAINING_TOKENS
        return min(int(self._data.train.size) - 1, most)

    def training(self, max_tokens: int | None = None) -> float:
        """Returns the loss over the training split, nats per token.

        Args:
            max_tokens: most predictions, at least 1; None: `training_tokens`.
        """
        return self._mean(self._data.train, self.training_tokens if max_tokens is None else max_tokens)

    def validation(self) -> dict[str, float | None]:
        """Returns validation_loss and validation_bits_per_byte (None if unknown); empty without a split."""
        if self._data.validation.size < 2:
            return {}
        loss = self._mean(self._data.validation, self.validation_tokens)
        per_token = self._data.validation_bytes_per_token
        bits = None if per_token is None else loss / math.log(2) / per_token
        return {"validation_loss": loss, "validation_bits_per_byte": bits}

    def _mean(self, tokens: Tokens, max_tokens: int) -> float:
        """Cross-entropy over evenly spread windows, nats per token."""
        total, count = 0.0, 0
        for batch in validation_batches(
            tokens, batch_size=self._config.batch_size, context=self._config.context, max_tokens=max_tokens
        ):
            total += self._model.loss_sum(batch)
            count += batch.shape[0] * (batch.shape[1] - 1)
        return total / count
