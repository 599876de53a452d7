"""What changes with the step number: the learning rate, computed by the C library, and the ternary blend.

Place in the data flow: the trainer asks for the multiplier of a step and hands it to the optimiser; the blend
goes to the model before the step's gradients.
"""

from __future__ import annotations

from pyhybrid._errors import check
from pyhybrid._native import ffi, lib
from pyhybrid.config import TrainingConfig

__all__ = ["LearningRateSchedule", "ternary_blend"]

_SHAPES: dict[str, int] = {
    "constant": lib.HYB_SCHEDULE_CONSTANT,
    "cosine": lib.HYB_SCHEDULE_COSINE,
    "linear": lib.HYB_SCHEDULE_LINEAR,
    "wsd": lib.HYB_SCHEDULE_WSD,
}


class LearningRateSchedule:
    """Warm-up, then the shape that the configuration names.

    Args:
        config: gives schedule, warmup_fraction, decay_fraction and final_ratio.
        total_steps: length of the run.

    Source: include/hybrid/optimize.h.
    """

    def __init__(self, config: TrainingConfig, total_steps: int) -> None:
        warmup = min(round(config.warmup_fraction * total_steps), total_steps)
        self._schedule = ffi.new("hyb_schedule *")
        self._schedule.shape = _SHAPES[config.schedule]
        self._schedule.final_ratio = config.final_ratio
        self._schedule.total_steps = total_steps
        self._schedule.warmup_steps = warmup
        self._schedule.decay_steps = min(round(config.decay_fraction * total_steps), total_steps - warmup)

    def multiplier(self, step: int) -> float:
        """Returns what the learning rate of an update is multiplied by, from 0 to 1.

        Args:
            step: 1 for the first update, at most total_steps.

        Raises:
            InvalidArgumentError: step is 0 or beyond the end.
        """
        multiplier = ffi.new("double *")
        check(lib.hyb_schedule_multiplier(self._schedule, step, multiplier))
        return float(multiplier[0])


def ternary_blend(config: TrainingConfig, step: int, total_steps: int) -> float | None:
    """Returns the share that quantisation has in an update's gradients; None without a ramp.

    Args:
        config: gives ramp_start and ramp_end.
        step: 1 for the first update, at most total_steps.
        total_steps: length of the run.

    Returns:
        0 until ramp_start of the steps, then linearly to 1 at ramp_end.
    """
    if config.ramp_end <= 0:
        return None
    progress = (step / total_steps - config.ramp_start) / (config.ramp_end - config.ramp_start)
    return min(max(progress, 0.0), 1.0)
