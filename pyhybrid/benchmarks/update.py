"""The optimiser's share of a training step: the trust-region update, and the auxiliary network alone.

Each figure is a percentage of the time of the step's gradients, which both sides share; the peer is AdamW's
update. The update does not depend on the number of tokens, so its share falls with the batch.
"""

from __future__ import annotations

import time

import numpy as np

from pyhybrid.benchmarks.registry import Answer, Goal, Options, Row
from pyhybrid.config import PRESETS, TrainingConfig

__all__ = ["AdamW", "Network", "TrustRegion", "rows"]

_HERE = "pyhybrid.benchmarks.update"


class TrustRegion:
    """The hybrid optimiser as the trainer runs it.

    Args:
        preset: shape.
        batch_size: sequences a step.
        context: tokens a sequence.
        threads: that compute.
    """

    optimizer = "hybrid"

    def __init__(self, *, preset: str, batch_size: int, context: int, threads: int) -> None:
        from pyhybrid._context import Context
        from pyhybrid._run_update import make_update
        from pyhybrid.language_model import LanguageModel

        config = PRESETS[preset].model
        self.update = make_update(TrainingConfig(optimizer=self.optimizer), config)  # type: ignore[arg-type]
        self.model = LanguageModel(config, seed=1, context=Context(threads=threads))
        self.model.prepare(batch_size, context, optimizer=self.update.kind)
        random = np.random.default_rng(7)
        self.tokens = random.integers(0, config.vocab_size, (batch_size, context + 1)).astype(np.uint32)
        self.done = 0

    def answer(self) -> Answer:
        """Loss of the batch with the initial weights."""
        return {"loss": np.array(self.model.gradients(self.tokens).loss)}

    def run(self, round_number: int) -> float:
        """Percent of the gradients' time; the median of three steps, one more behind them warms up."""
        del round_number
        shares = []
        for _ in range(4):
            self.done += 1
            begun = time.perf_counter()
            gradients = self.model.gradients(self.tokens)
            middle = time.perf_counter()
            self.update.apply(self.model, gradients, multiplier=0.5, number=self.done)
            shares.append(100 * (time.perf_counter() - middle) / (middle - begun))
        return float(np.median(shares[1:]))


class AdamW(TrustRegion):
    """AdamW's update."""

    optimizer = "adamw"


class Network(TrustRegion):
    """The auxiliary network and its control alone: what they see, propose and learn."""

    def run(self, round_number: int) -> float:
        from pyhybrid._run_update import TrustRegionUpdate

        del round_number
        assert isinstance(self.update, TrustRegionUpdate)
        controller = self.update.controller
        assert controller is not None
        begun = time.perf_counter()
        gradients = self.model.gradients(self.tokens)
        middle = time.perf_counter()
        for _ in range(20):
            controller.observe(0.05, 1.0)
            self.done += 1
            controller.propose(loss=gradients.loss, gradient_norm=gradients.gradient_norm, step=self.done)
        return float(100 * (time.perf_counter() - middle) / 20 / (middle - begun))


def rows(options: Options) -> list[Row]:
    """Shares at 2,048 and 16,384 tokens a step for `small`, and at the batch of `base`."""
    found = []
    for preset, batch_size, context, limit in (
        ("small", 16, 128, None),
        ("small", 128, 128, 8.0),
        ("base", 16, 512, None),
    ):
        if preset not in options.presets or (options.quick and batch_size * context > 2048):
            continue
        tokens = batch_size * context
        text = f"The trust-region update takes at most {limit} % of the time of {tokens:,} tokens' gradients."
        found.append(
            Row(
                name=f"update/{preset}/{tokens}",
                section="update",
                unit="% of gradients",
                better="lower",
                ours=f"{_HERE}:TrustRegion",
                peers={"AdamW": f"{_HERE}:AdamW"},
                sizes={"preset": preset, "batch_size": batch_size, "context": context},
                agreement={"loss": 0.0},
                goal=None if limit is None else Goal(text=text, kind="value", limit=limit),
            )
        )
    if "small" in options.presets:
        found.append(
            Row(
                name="update/network",
                section="update",
                unit="% of gradients",
                better="lower",
                ours=f"{_HERE}:Network",
                peers={"the whole update": f"{_HERE}:TrustRegion"},
                agreement={"loss": 0.0},
                sizes={"preset": "small", "batch_size": 16, "context": 128},
                goal=Goal(
                    text="The auxiliary network takes at most 0.5 % of the time of 2,048 tokens' gradients.",
                    kind="value",
                    limit=0.5,
                ),
            )
        )
    return found
