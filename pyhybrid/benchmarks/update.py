"""The optimiser's share of a training step: the trust-region update, the auxiliary network alone, and what
moments in 8 bits save and cost.

Each figure of the first kind is a percentage of the time of the step's gradients, which both sides share; the
peer is AdamW's update. The update does not depend on the number of tokens, so its share falls with the batch.
"""

from __future__ import annotations

import time

import numpy as np

from pyhybrid.benchmarks.registry import Answer, Goal, Options, Row
from pyhybrid.config import PRESETS, TrainingConfig

__all__ = [
    "AdamW",
    "AdamW8",
    "AdamW8Time",
    "AdamWTime",
    "Network",
    "StateBits",
    "StateBits32",
    "TrustRegion",
    "TrustRegion8",
    "TrustRegion8Time",
    "TrustRegionTime",
    "rows",
]

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
    state_bits = 32

    def __init__(self, *, preset: str, batch_size: int, context: int, threads: int) -> None:
        from pyhybrid._context import Context
        from pyhybrid._run_update import make_update
        from pyhybrid.language_model import LanguageModel

        config = PRESETS[preset].model
        self.update = make_update(TrainingConfig(optimizer=self.optimizer), config)  # type: ignore[arg-type]
        self.model = LanguageModel(config, seed=1, context=Context(threads=threads))
        kind = self.update.kind
        self.model.prepare(batch_size, context, optimizer=kind, state_bits=self.state_bits)
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


class TrustRegion8(TrustRegion):
    """The hybrid optimiser with moments in 8 bits."""

    state_bits = 8


class AdamW8(AdamW):
    """AdamW with moments in 8 bits."""

    state_bits = 8


class TrustRegionTime(TrustRegion):
    """Milliseconds of an update, all that the trainer does for it."""

    def run(self, round_number: int) -> float:
        del round_number
        times = []
        for _ in range(4):
            self.done += 1
            gradients = self.model.gradients(self.tokens)
            begun = time.perf_counter()
            self.update.apply(self.model, gradients, multiplier=0.5, number=self.done)
            times.append(1000 * (time.perf_counter() - begun))
        return float(np.median(times[1:]))


class TrustRegion8Time(TrustRegionTime):
    """The same with moments in 8 bits."""

    state_bits = 8


class AdamWTime(TrustRegionTime):
    """Milliseconds of AdamW's update."""

    optimizer = "adamw"


class AdamW8Time(AdamWTime):
    """The same with moments in 8 bits."""

    state_bits = 8


class StateBits:
    """Bits a parameter of all arrays that the optimiser keeps of a model, scales and rows included.

    Args:
        preset: shape.
        optimizer: 'adamw' or 'hybrid'.
        threads: that compute.
    """

    state_bits = 8

    def __init__(self, *, preset: str, optimizer: str, threads: int) -> None:
        from pyhybrid._context import Context
        from pyhybrid.language_model import LanguageModel

        self.model = LanguageModel(PRESETS[preset].model, seed=1, context=Context(threads=threads))
        kind = TrainingConfig(optimizer=optimizer).model_optimizer  # type: ignore[arg-type]
        self.model.prepare(1, 8, optimizer=kind, state_bits=self.state_bits)

    def answer(self) -> Answer:
        """The number of parameters."""
        return {"parameters": np.array(self.model.count().total)}

    def run(self, _: int) -> float:
        """Counted from the arrays themselves."""
        arrays = [a for p in self.model.parameters().values() for a in p.optimizer_state.values()]
        return 8 * sum(array.nbytes for array in arrays) / self.model.count().total


class StateBits32(StateBits):
    """With fp32 moments."""

    state_bits = 32


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


def _state_rows(options: Options) -> list[Row]:
    """Bits a parameter, and time of an update, of moments in 8 bits beside fp32."""
    found = []
    for preset in ("small", "base"):
        if preset not in options.presets or (options.quick and preset != "small"):
            continue
        for optimizer, side in (("adamw", "AdamW"), ("hybrid", "TrustRegion")):
            adamw = optimizer == "adamw"
            limit = 16.75 if preset == "small" else 16.5
            text = f"AdamW's state in 8 bits takes at most {limit} bits a parameter, preset {preset}."
            found.append(
                Row(
                    name=f"update/state-8-bit/{optimizer}/{preset}/bits",
                    section="update",
                    unit="bits/parameter",
                    better="lower",
                    ours=f"{_HERE}:StateBits",
                    peers={"fp32 moments": f"{_HERE}:StateBits32"},
                    sizes={"preset": preset, "optimizer": optimizer},
                    agreement={"parameters": 0.0},
                    rounds=1,
                    goal=Goal(text=text, kind="value", limit=limit) if adamw else None,
                    note="Counted from the arrays of the optimiser's state, gradients apart.",
                )
            )
            found.append(
                Row(
                    name=f"update/state-8-bit/{optimizer}/{preset}/time",
                    section="update",
                    unit="ms",
                    better="lower",
                    ours=f"{_HERE}:{side}8Time",
                    peers={"fp32 moments": f"{_HERE}:{side}Time"},
                    sizes={"preset": preset, "batch_size": 4, "context": 128},
                    agreement={"loss": 0.0},
                )
            )
    return found


def rows(options: Options) -> list[Row]:
    """Shares at 2,048 and 16,384 tokens a step for `small`, and at the batch of `base`; moments in 8 bits."""
    found = _state_rows(options)
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
