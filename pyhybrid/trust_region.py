"""The hybrid optimiser's control: which learning rate and trust radius the next step has.

Place in the data flow: the trainer hands over what a step's gradients showed, asks for a rate and a radius,
and gives them to the model's trust-region step in C. The auxiliary network sits between; this module turns
measurements into its inputs and into the gradient that it learns from.

What the network learns from is a pull towards a radius in the operator norm of the matrices: it brings a base
rate that is wrong by a factor of ten back (BENCHMARKS.md, optimizer/base-rate).
A hypergradient can be added: the cosine between the new gradient and the last change,
which says that the last step went too far where it is above a target. It looks one step ahead where a run is
long, its target depends on momentum and batch, and no gain was measured (BENCHMARKS.md,
optimizer/ablation/hypergradient), so its weight is 0 unless it is asked for.

Sources: Baydin et al. 2018, "Online learning rate adaptation with hypergradient descent"; Wu et al. 2018,
"Understanding short-horizon bias in stochastic meta-optimization".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pyhybrid._errors import InvalidArgumentError
from pyhybrid.auxiliary_nn import AuxiliaryNetwork, TrainingState

__all__ = ["ActivationTarget", "FeedbackConfig", "StepSize", "TrustRegionController"]


class StepSize(NamedTuple):
    """What a step may do, before the schedule's multiplier.

    Args:
        learning_rate: base rate times multiplier.
        radius: of the ball.
        multiplier: of the base rate.
    """

    learning_rate: float
    radius: float
    multiplier: float


@dataclass(frozen=True, kw_only=True)
class FeedbackConfig:
    """Constants of the feedback; the defaults are those of the experiments behind them.

    Args:
        alignment_target: cosine between gradient and last change that is neither too far nor too short, at
            the schedule's full rate.
        alignment_scale: cosine beyond the target that counts as 1.
        alignment_weight: of the hypergradient against the pull.
        pull_scale: factor of ten to this power that counts as 1, from the radius that is pulled to.
        least_schedule: below this share of the full rate the network is left as it is.
    """

    alignment_target: float = 0.085
    alignment_scale: float = 0.1
    alignment_weight: float = 0.0
    pull_scale: float = 0.3
    least_schedule: float = 0.15


class ActivationTarget:
    """A radius that shortens a given share of the steps: longer after a step that it shortened, else shorter.

    Args:
        radius: at the start, above 0.
        share: of the steps that should be shortened, between 0 and 1.
        rate: of adaptation: a step changes the radius by at most this factor's exponent.

    Raises:
        InvalidArgumentError: a value out of its range.

    Source: Robbins & Monro 1951 (the quantile of the step lengths by stochastic approximation).
    """

    def __init__(self, radius: float, share: float = 0.3, rate: float = 0.1) -> None:
        for name, value, most in (
            ("radius", radius, math.inf),
            ("share", share, 1.0),
            ("rate", rate, math.inf),
        ):
            if not 0.0 < value < most:
                raise InvalidArgumentError(f"{name} is {value!r}; give a number above 0 and below {most:g}")
        self.radius, self.share, self.rate = float(radius), float(share), float(rate)

    def observe(self, shortened: bool) -> None:
        """Adapts the radius to what it did to a step, within 1e-3 and 1."""
        self.radius *= math.exp(self.rate * ((1.0 if shortened else 0.0) - self.share))
        self.radius = min(max(self.radius, 1e-3), 1.0)


class _Average:
    """An exponential moving average that starts at its first value."""

    def __init__(self, decay: float, value: float | None = None) -> None:
        self.decay, self.value = decay, value

    def add(self, value: float) -> float:
        """Adds a value; a value that is not finite changes nothing. The average."""
        if math.isfinite(value):
            self.value = value if self.value is None else self.decay * self.value + (1.0 - self.decay) * value
        return 0.0 if self.value is None else self.value


class TrustRegionController:
    """Learns a learning-rate multiplier and a trust radius while a run goes on.

    Args:
        base_rate: learning rate that the multiplier multiplies, in the unit of the radius.
        radius: that the feedback pulls to, and the first answer.
        hidden_size: of the auxiliary network.
        seed: of the auxiliary network.
        feedback: constants.

    Raises:
        InvalidArgumentError: the base rate is not above 0, or the radius not between 0.001 and 1.
    """

    def __init__(
        self,
        base_rate: float,
        *,
        radius: float = 0.07,
        hidden_size: int = 16,
        seed: int = 0,
        feedback: FeedbackConfig | None = None,
    ) -> None:
        if not (base_rate > 0.0 and math.isfinite(base_rate)):
            raise InvalidArgumentError(f"base_rate is {base_rate!r}; give a number above 0")
        self.base_rate = base_rate
        self.target_radius = radius
        self.feedback = feedback or FeedbackConfig()
        self.network = AuxiliaryNetwork(hidden_size=hidden_size, initial_radius=radius, seed=seed)
        self._loss, self._norm, self._variance = _Average(0.9), _Average(0.95), _Average(0.95)
        self._last: StepSize | None = None

    def propose(self, *, loss: float, gradient_norm: float, cluster: float = 0.5, step: int) -> StepSize:
        """Returns the rate and the radius of the next step.

        Args:
            loss: of the batch, nats per token.
            gradient_norm: Euclidean norm.
            cluster: most of the batch's, as a share of the number of clusters; 0.5 without clusters.
            step: 1 for the first.
        """
        before = self._loss.value
        smooth = self._loss.add(loss)
        mean = self._norm.add(gradient_norm)
        state = TrainingState(
            current_loss=loss,
            gradient_magnitude=gradient_norm,
            cluster_id=cluster,
            loss_trend=smooth / before if before else 1.0,
            gradient_variance=self._variance.add((gradient_norm - mean) ** 2),
            step_number=step,
        )
        output = self.network.forward(state.to_features())
        multiplier = self.network.multiplier(output)
        self._last = StepSize(self.base_rate * multiplier, self.network.radius(output), multiplier)
        return self._last

    def observe(self, alignment: float, schedule: float) -> None:
        """Learns from what the last step led to.

        Args:
            alignment: cosine between the new gradient and the last change; ignored where its weight is 0.
            schedule: the schedule's multiplier of the last step, 0 to 1.
        """
        f, last = self.feedback, self._last
        if last is None or schedule < f.least_schedule:
            return
        overshoot = 0.0
        if f.alignment_weight > 0.0:
            if not math.isfinite(alignment):
                return
            overshoot = f.alignment_weight * _clip(
                (alignment - f.alignment_target * schedule) / f.alignment_scale
            )
        gradient_radius = overshoot + self._pull(last.radius)
        if last.radius < last.learning_rate:  # the radius decides: the rate follows it
            gradient_rate = _clip(math.log10(last.learning_rate / last.radius) / f.pull_scale)
        else:
            gradient_rate = overshoot + self._pull(last.learning_rate)
        self.network.learn([gradient_rate, gradient_radius])

    def _pull(self, value: float) -> float:
        return _clip(math.log10(value / self.target_radius) / self.feedback.pull_scale)

    def state(self) -> dict[str, Any]:
        """Returns everything that a checkpoint needs, as arrays and floats."""
        last = [math.nan] * 3 if self._last is None else list(self._last)
        averages = [
            a.value if a.value is not None else math.nan for a in (self._loss, self._norm, self._variance)
        ]
        return {**self.network.state(), "averages": np.array(averages), "last": np.array(last)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restores what `state` gave.

        Raises:
            InvalidArgumentError: an array is missing or misshapen.
        """
        self.network.load_state(state)
        averages, last = (np.asarray(state.get(name), np.float64) for name in ("averages", "last"))
        if averages.shape != (3,) or last.shape != (3,):
            raise InvalidArgumentError(
                "the controller's averages or last step are missing; start the run anew"
            )
        for average, value in zip((self._loss, self._norm, self._variance), averages, strict=True):
            average.value = float(value) if math.isfinite(value) else None
        self._last = StepSize(*map(float, last)) if np.isfinite(last).all() else None


def _clip(value: float) -> float:
    return min(max(value, -1.0), 1.0)
