"""What a run may use: memory, checked before it is taken, and time, turned into steps and then enforced.

Place in the data flow: the trainer asks before the first step, and, with a time budget, after every step.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from pyhybrid._errors import OutOfMemoryError
from pyhybrid._run_losses import RunLosses
from pyhybrid.config import TrainingConfig
from pyhybrid.metrics import available_memory_bytes

if TYPE_CHECKING:
    from pyhybrid.language_model import LanguageModel

__all__ = ["check_memory", "overtime_note", "plan_steps"]

# Share of the time budget that is planned; the rest is for checkpoints and a machine that is a little slower
# later.
_PLANNED_SHARE = 0.95
# A run that has taken this share of its budget ends after the step that is running, done or not.
_LIMIT_SHARE = 1.1
# The speed is measured over at least this many steps and seconds (or this share of the budget, if that is
# less).
_PROBE_STEPS = 3
_PROBE_SECONDS = 2.0
_PROBE_SHARE = 0.05
# Share of the available memory above which there is a warning: the estimate leaves out the interpreter and
# the data.
_MEMORY_SHARE = 0.8


def check_memory(model: LanguageModel, config: TrainingConfig) -> None:
    """Refuses a run that cannot fit, before it takes the memory; warns of one that may not.

    Args:
        model: not prepared yet.
        config: gives batch_size and context.

    Raises:
        OutOfMemoryError: training needs more memory than is available.
    """
    available = available_memory_bytes()
    if available is None:
        return
    estimate = model.memory_estimate(
        model.config,
        config.batch_size,
        config.context,
        backward=config.backward,
        optimizer=config.model_optimizer,
        ternary_blend=config.initial_ternary_blend,
        state_bits=config.state_bits,
        context=model.context,
    )
    needed = estimate.training_bytes  # the weights are there already
    if config.gradient_compression != "none":
        needed += 4 * model.count().linear  # residuals
    text = (
        f"training needs about {needed / 2**20:,.0f} MiB, and {available / 2**20:,.0f} MiB are "
        "available; lower training.batch_size, training.context or the model's size"
    )
    if needed > available:
        raise OutOfMemoryError(text)
    if needed > _MEMORY_SHARE * available:
        warnings.warn(text, ResourceWarning, stacklevel=3)


def plan_steps(
    config: TrainingConfig,
    probe: Callable[[], None],
    losses: RunLosses,
    *,
    spent: Callable[[], float],
    stopping: Callable[[], bool],
) -> int:
    """Turns a time budget into a number of steps by the measured speed.

    Args:
        config: gives minutes, and what is evaluated when.
        probe: one step of the run's size that leaves no trace in the weights.
        losses: evaluates; one batch is timed.
        spent: seconds of the budget that are gone already.
        stopping: true once a stop was asked for; the probing then ends early.

    Returns:
        Steps, at least 1, that leave time for the evaluations.
    """
    budget = (config.minutes or 0) * 60
    begun = time.perf_counter()
    window = min(_PROBE_SECONDS, _PROBE_SHARE * budget)
    durations: list[float] = []
    while len(durations) < _PROBE_STEPS + 1 or time.perf_counter() - begun < window:
        at = time.perf_counter()
        probe()
        durations.append(time.perf_counter() - at)
        if stopping():
            break
    measured = durations[1:] or durations  # the first one warms up
    step_seconds = sum(measured) / len(measured)  # the mean: what other programs take counts, too
    at = time.perf_counter()
    losses.training(config.tokens_per_step)
    per_token = (time.perf_counter() - at) / config.tokens_per_step
    validation = per_token * losses.validation_tokens
    left = budget * _PLANNED_SHARE - spent()
    left -= validation + per_token * losses.training_tokens  # at the end of the run
    if config.evaluation_interval:
        step_seconds += validation / config.evaluation_interval
    return max(1, int(left / step_seconds))


def overtime_note(
    config: TrainingConfig, seconds: float, step: int, total_steps: int, schedule: float
) -> str | None:
    """Says that a run ends before its last step because its time is up, or returns None while it is not.

    Args:
        config: gives minutes (None: no limit).
        seconds: that the run has taken in this process.
        step: updates done.
        total_steps: updates planned.
        schedule: the schedule's multiplier of the last update.
    """
    if config.minutes is None or step >= total_steps or seconds <= _LIMIT_SHARE * config.minutes * 60:
        return None
    over = f"{100 * (_LIMIT_SHARE - 1):.0f} %"
    return (
        f"stopped at step {step} of {total_steps}: the time budget of {config.minutes:g} minutes is exceeded "
        f"by more than {over}, because the steps became slower than they were measured; the learning rate "
        f"ends where it is, at {100 * schedule:.0f} % of its peak; resume the run to do the other steps"
    )
