"""How ternary the weights are while a model trains: the ramp's blend, and the dead zone, which sets the bits.

The wider the dead zone, the more codes are 0 and the fewer bits an entropy coder needs for them. With
`bits_target` the zone is regulated: the share of zeros answers at once, because the codes are made anew in
each update. Place in the data flow: the trainer asks before an update and tells the share of zeros behind it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pyhybrid.schedule import ternary_blend

if TYPE_CHECKING:
    from pyhybrid.config import TrainingConfig
    from pyhybrid.language_model import LanguageModel

__all__ = ["TernarySchedule", "zero_share_of"]

# Of what the share of zeros lacks, added to the dead zone in each update: d zero_share / d dead_zone is about
# 0.5 for weights like these, so the zone follows within some ten updates and does not swing.
_GAIN = 0.2
_LOWEST, _HIGHEST = 0.05, 4.0


def zero_share_of(bits: float) -> float:
    """Returns the share of zeros, at least a third, whose ternary codes have so many bits of entropy.

    Args:
        bits: a code, above 0 and at most log2(3); the other two codes equally likely.
    """
    low, high = 1 / 3, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        entropy = -middle * math.log2(middle) - (1 - middle) * math.log2((1 - middle) / 2)
        low, high = (middle, high) if entropy > bits else (low, middle)
    return high


class TernarySchedule:
    """Blend and dead zone of each update.

    Args:
        config: gives ramp_start, ramp_end, dead_zone and bits_target.
        total_steps: of the run.
        last: metrics of the last update of a run that goes on; none at its start.
    """

    def __init__(
        self, config: TrainingConfig, total_steps: int, last: Mapping[str, Any] | None = None
    ) -> None:
        self._config, self._total = config, total_steps
        self._wanted = None if config.bits_target is None else zero_share_of(config.bits_target)
        self.dead_zone: float = config.dead_zone
        self._before = self.dead_zone
        if last and self._wanted is not None:
            self._before = self.dead_zone = float(last["dead_zone"])
            self._regulate(float(last["zero_share"]))

    def begin(self, model: LanguageModel) -> None:
        """Gives a model the dead zone that its codes have now, before the first update.

        Args:
            model: to be trained.
        """
        if model.config.bits == 1.58:
            model.set_dead_zone(self._before)

    def before_gradients(self, model: LanguageModel, number: int) -> dict[str, float]:
        """Sets the blend of an update; returns it as a metric, if there is a ramp.

        Args:
            model: prepared for training.
            number: of the update; 1 for the first.
        """
        blend = ternary_blend(self._config, number, self._total)
        if blend is None:
            return {}
        model.set_ternary_blend(blend)
        return {"ternary_blend": blend}

    def before_update(self, model: LanguageModel) -> dict[str, float]:
        """Sets the dead zone of the codes that an update makes; returns it as a metric, if it is regulated.

        Args:
            model: with gradients.
        """
        if self._wanted is None:
            return {}
        model.set_dead_zone(self.dead_zone)
        return {"dead_zone": self.dead_zone}

    def after_update(self, metrics: Mapping[str, Any]) -> None:
        """Moves the dead zone towards the wanted share of zeros.

        Args:
            metrics: of the update; with zero_share.
        """
        if self._wanted is not None:
            self._regulate(float(metrics["zero_share"]))

    def _regulate(self, zero_share: float) -> None:
        assert self._wanted is not None
        moved = self.dead_zone + _GAIN * (self._wanted - zero_share)
        self.dead_zone = min(max(moved, _LOWEST), _HIGHEST)
