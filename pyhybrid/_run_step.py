"""One update of a model, computed in C.

Place in the data flow: the trainer gives a batch and a learning rate, and gets the step's metrics back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pyhybrid._errors import HybridError, NotFiniteError
from pyhybrid.config import TrainingConfig

if TYPE_CHECKING:
    from pyhybrid.language_model import LanguageModel, UpdateStatistics

__all__ = ["apply_update", "one_step"]


def one_step(
    model: LanguageModel,
    config: TrainingConfig,
    tokens: NDArray[np.uint32],
    *,
    rate: float,
    number: int,
    saved_step: int | None,
) -> dict[str, Any]:
    """Computes gradients and applies an update.

    Args:
        model: prepared for training.
        config: gives the optimiser's settings.
        tokens: uint32 [batch_size, context + 1].
        rate: learning rate.
        number: of the update; 1 for the first.
        saved_step: of the last checkpoint, for the message of an error; None: there is none.

    Returns:
        The step's metrics: step, loss (nats per token), gradient_norm, flipped_share, zero_share,
        learning_rate and tokens (seen so far).

    Raises:
        HybridError: of the kind that the library raised; the message names the step.
    """
    try:
        statistics = model.gradients(tokens)
        update = apply_update(model, config, rate=rate, number=number)
    except HybridError as error:
        raise type(error)(f"step {number}: {error}{_advice(error, saved_step)}", error.status) from error
    return {
        "step": number,
        "loss": float(statistics.loss),
        "gradient_norm": float(statistics.gradient_norm),
        "flipped_share": float(update.flipped_share),
        "zero_share": float(update.zero_share),
        "learning_rate": rate,
        "tokens": number * config.tokens_per_step,
    }


def apply_update(
    model: LanguageModel, config: TrainingConfig, *, rate: float, number: int
) -> UpdateStatistics:
    """Applies the optimiser to a model that has just been given its gradients.

    Args:
        model: with gradients.
        config: gives the optimiser's settings.
        rate: learning rate; 0 leaves the weights as they are.
        number: of the update; 1 for the first.
    """
    return model.apply(
        learning_rate=rate,
        beta1=config.beta1,
        beta2=config.beta2,
        epsilon=config.epsilon,
        weight_decay=config.weight_decay,
        step=number,
        clip_norm=config.clip_norm,
    )


def _advice(error: HybridError, saved_step: int | None) -> str:
    if not isinstance(error, NotFiniteError):
        return ""
    kept = f"; the checkpoint of step {saved_step} is kept" if saved_step is not None else ""
    return f"{kept}; lower training.learning_rate or training.clip_norm"
