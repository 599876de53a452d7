"""AdamW's settings for the rows that compare training with PyTorch, whose optimiser it is on both sides.

Place in the data flow: from a preset's configuration to our model's update and to torch_model.make_optimizer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from pyhybrid.config import ModelConfig, TrainingConfig

if TYPE_CHECKING:
    from pyhybrid.language_model import LanguageModel

__all__ = ["AdamW", "adamw"]


class AdamW(NamedTuple):
    """What both sides' optimisers are made with; the fields are TrainingConfig's."""

    learning_rate: float
    weight_decay: float
    beta1: float
    beta2: float
    epsilon: float
    clip_norm: float

    def apply(self, model: LanguageModel, rate: float, number: int) -> None:
        """One update of our model.

        Args:
            model: with gradients.
            rate: learning rate of this step.
            number: of the update; 1 for the first.
        """
        model.apply(
            learning_rate=rate,
            step=number,
            beta1=self.beta1,
            beta2=self.beta2,
            epsilon=self.epsilon,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
        )


def adamw(training: TrainingConfig, model: ModelConfig) -> AdamW:
    """Returns a configuration's AdamW.

    Args:
        training: gives betas, epsilon, clipping, and rate and decay unless it leaves them to the optimiser.
        model: gives the width.
    """
    filled = replace(training, optimizer="adamw").for_model(model)
    return AdamW(
        filled.learning_rate,
        filled.weight_decay,
        training.beta1,
        training.beta2,
        training.epsilon,
        training.clip_norm,
    )
