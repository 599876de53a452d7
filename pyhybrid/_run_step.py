"""One update of a model, computed in C.

Place in the data flow: the trainer gives a batch and an optimiser, and gets the step's metrics back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhybrid._errors import HybridError, NotFiniteError
from pyhybrid._run_batches import Batch
from pyhybrid._run_update import Update
from pyhybrid.ternary_schedule import TernarySchedule

if TYPE_CHECKING:
    from pyhybrid.language_model import LanguageModel

__all__ = ["one_step"]


def one_step(
    model: LanguageModel,
    update: Update,
    batch: Batch,
    *,
    multiplier: float,
    ternary: TernarySchedule,
    number: int,
    saved_step: int | None,
) -> dict[str, Any]:
    """Computes gradients and applies an update.

    Args:
        model: prepared for training.
        update: the optimiser.
        batch: what to learn.
        multiplier: the schedule's.
        ternary: gives blend and dead zone.
        number: of the update; 1 for the first.
        saved_step: of the last checkpoint, for the message of an error; None: there is none.

    Returns:
        The step's metrics: step, loss (nats per token), gradient_norm, schedule (the multiplier),
        ternary_blend (with a ramp), dead_zone (if it is regulated), those of the optimiser, cluster (of most
        of the batch, if there are clusters), and tokens (seen so far).

    Raises:
        HybridError: of the kind that the library raised; the message names the step.
    """
    try:
        set_before = ternary.before_gradients(model, number)
        statistics = model.gradients(batch.tokens)
        set_before |= ternary.before_update(model)
        found = update.apply(
            model, statistics, multiplier=multiplier, number=number, cluster=batch.cluster_share
        )
        ternary.after_update(found)
    except HybridError as error:
        raise type(error)(f"step {number}: {error}{_advice(error, saved_step)}", error.status) from error
    return {
        "step": number,
        "loss": float(statistics.loss),
        "gradient_norm": float(statistics.gradient_norm),
        "schedule": multiplier,
        **set_before,
        **found,
        **({} if batch.cluster is None else {"cluster": batch.cluster}),
        "tokens": number * batch.tokens.shape[0] * (batch.tokens.shape[1] - 1),
    }


def _advice(error: HybridError, saved_step: int | None) -> str:
    if not isinstance(error, NotFiniteError):
        return ""
    kept = f"; the checkpoint of step {saved_step} is kept" if saved_step is not None else ""
    return f"{kept}; lower training.learning_rate or training.clip_norm"
