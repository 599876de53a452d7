"""The optimiser: validation losses of whole training runs, beside tuned AdamW and plain Muon + AdamW.

A round is a seed, of the initial weights and of the batches; a run is done once and kept (runs.py). Text as
bytes, the first 90 % to train on, the last 10 % to validate on. Who trains: optimizer_sides.py.
"""

from __future__ import annotations

from typing import Any

from pyhybrid.benchmarks.optimizer_sides import TUNED_ADAMW
from pyhybrid.benchmarks.registry import Goal, Options, Row
from pyhybrid.config import ModelConfig, TrainingConfig

__all__ = ["ABLATION", "ADAMW_GRID", "CLUSTERS", "MUON_RATES", "SHAPES", "rows"]

# The hybrid optimiser's default rate, and what it is multiplied by.
_RATE = TrainingConfig().for_model(ModelConfig()).learning_rate
_FACTORS = (0.1, 0.33, 1.0, 3.0, 10.0)
_SIDES = "pyhybrid.benchmarks.optimizer_sides"
_TIME_NOTE = "Processor seconds as each run was recorded, which other work on the machine makes longer."


def _row(name: str, options: Options, *, steps: int, text: str, changes: str = "", **fields: Any) -> Row:
    hidden = {"data": None if options.data is None else str(options.data)}
    hidden["runs"] = None if options.runs is None else str(options.runs)
    return Row(
        name=f"optimizer/{name}",
        section="optimizer",
        unit=fields.pop("unit", "nats/byte"),
        better="lower",
        ours=f"{_SIDES}:{fields.pop('ours', 'Hybrid')}",
        peers={label: f"{_SIDES}:{side}" for label, side in fields.pop("peers", {}).items()},
        sizes={"preset": fields.pop("preset", "small"), "steps": steps, "text": text, "changes": changes}
        | fields.pop("sizes", {}),
        hidden=hidden,
        threads=max(options.threads),
        agreement={"first_batch": 0.0},
        rounds=fields.pop("seeds", options.seeds),
        note=fields.pop("note", "Validation loss; one round a seed."),
        **fields,
    )


def _gain(text: str, limit: float, peer: str) -> Goal:
    return Goal(text=text, kind="gain", limit=limit, peer=peer)


def _against_adamw(options: Options, text: str, steps: int, seeds: int) -> list[Row]:
    """At equal steps, and with fewer: their loss and their time."""
    gain, share = (0.09, 0.65) if steps < 1000 else (0.03, 0.75)
    where, fewer = f"{steps} steps of 2,048 bytes, {text}", round(share * steps)
    same: dict[str, Any] = {"text": text, "seeds": seeds}
    less: dict[str, Any] = {**same, "steps": fewer, "changes": f"peer.training.steps={steps}"}
    tuned = "AdamW, tuned"
    return [
        _row(
            f"steps-{steps}/{text}",
            options,
            **same,
            steps=steps,
            peers={tuned: "AdamW"},
            goal=_gain(f"{where}: at least {gain} nats below tuned AdamW.", gain, tuned),
        ),
        _row(
            f"fewer-steps-{steps}/{text}",
            options,
            **less,
            peers={tuned: "AdamW"},
            goal=_gain(f"{where}: {fewer} steps suffice for tuned AdamW's loss.", 0.0, tuned),
        ),
        _row(
            f"fewer-steps-{steps}-time/{text}",
            options,
            **less,
            unit="processor s",
            note=_TIME_NOTE,
            ours="HybridTime",
            peers={tuned: "AdamWTime"},
            goal=Goal(text=f"{where}: {fewer} steps take less time.", kind="ratio", limit=1.0, peer=tuned),
        ),
    ]


def _base_rates(
    options: Options, text: str, *, steps: int, seeds: int, changes: str = "", name: str = ""
) -> list[Row]:
    """The base rate wrong by a factor, with feedback and without."""
    found = []
    for factor in _FACTORS:
        limit = 0.04 if factor == 0.1 else 0.02
        where = f"{name or 'small'}, {steps} steps, {text}"
        goals = [
            Goal(
                text=f"{where}: a base rate of {factor:g} times the default ends within {limit} nats of it.",
                kind="difference",
                limit=limit,
                peer="default rate",
            )
        ]
        if factor == 1:
            text_of = f"{where}: the feedback loses at most 0.5 % to the tuned fixed rate."
            goals = [Goal(text=text_of, kind="ratio", limit=0.995, peer="no feedback")]
        found.append(
            _row(
                f"base-rate/x{factor:g}/{steps}/{text}{name and '/' + name}",
                options,
                steps=steps,
                text=text,
                seeds=seeds,
                changes=f"{changes} ours.training.learning_rate={_RATE * factor:g}".strip(),
                peers={"default rate": "HybridDefaults", "no feedback": "HybridFixed"},
                goals=tuple(goals),
            )
        )
    return found


def _short_runs(options: Options, text: str) -> Row:
    return _row(
        f"short-runs/x4/{text}",
        options,
        steps=100,
        text=text,
        seeds=50,
        changes="ours.training.learning_rate=" + f"{4 * _RATE:g}",
        peers={"default rate": "HybridDefaults", "no feedback": "HybridFixed"},
        goal=Goal(
            text="Each of 50 short runs at 4 times the rate ends within 5 % of the loss at the default rate.",
            kind="worst",
            limit=1.05,
            peer="default rate",
        ),
    )


#: Other shapes that the base rates are varied at, with no constant changed.
SHAPES: dict[str, str] = {
    "width-192": "model.dim=192 model.n_heads=6 model.n_kv_heads=6 model.ffn_dim=576",
    "depth-8": "model.n_layers=8",
    "batch-4096": "training.batch_size=32",
}

#: What each component is worth: changes that leave it out or replace it.
ABLATION: dict[str, str] = {
    "no-network": "training.radius_rule=fixed",
    "hypergradient": "training.hypergradient_weight=0.5",
    "adaptive-radius": "training.radius_rule=adaptive",
    "squared-radius": "training.radius_form=squared training.trust_radius=0.2646",
    "norm-rms": "training.trust_norm=rms",
    "norm-l2": "training.trust_norm=l2 training.radius_rule=fixed",
    "row-normalisation": "training.row_beta=0.95",
    "momentum-0.9": "training.momentum=0.9",
    "no-decay": "training.weight_decay=0",
    "ramp": "training.ramp_start=0.3 training.ramp_end=0.7",
    "ramp-no-network": "training.ramp_start=0.3 training.ramp_end=0.7 training.radius_rule=fixed",
    "ramp-from-the-start": "training.ramp_start=0 training.ramp_end=0.5",
    "ramp-late": "training.ramp_start=0.5 training.ramp_end=0.9",
    "parameter-clusters": "training.parameter_clusters=4",
    "parameter-clusters-importance": "training.parameter_clusters=4 training.cluster_rates=importance",
    "gradient-row": "training.gradient_compression=row",
    "gradient-block": "training.gradient_compression=block",
    "gradient-five-level": "training.gradient_compression=five_level",
    "state-8-bit": "training.state_bits=8",
    "sub-norms": "model.sub_norms=true",
    "squared-relu": "model.activation=squared_relu",
    "sub-norms-squared-relu": "model.sub_norms=true model.activation=squared_relu",
}

#: What was tried of AdamW, one value at a time around the best; the first is the rate.
ADAMW_GRID: dict[str, tuple[str, ...]] = {
    "600/file": (
        "learning_rate=1e-3 weight_decay=1",
        "learning_rate=2e-3 weight_decay=1",
        "learning_rate=3e-3 weight_decay=1",
        "learning_rate=4e-3 weight_decay=1",
        "learning_rate=8e-3 weight_decay=1",
        "learning_rate=2e-3 beta1=0.9 weight_decay=1",
        "learning_rate=2e-3 beta1=0.7 weight_decay=1",
        "learning_rate=2e-3 beta2=0.95 weight_decay=1",
        "learning_rate=2e-3 weight_decay=0.1",
        "learning_rate=2e-3 weight_decay=0.3",
        "learning_rate=2e-3 weight_decay=0.5",
        "learning_rate=2e-3 weight_decay=2",
        "learning_rate=1.5e-3 weight_decay=0.3",
        "learning_rate=3e-3 weight_decay=0.3",
    ),
    "600/documentation": (
        "learning_rate=1e-3 weight_decay=1",
        "learning_rate=2e-3 weight_decay=1",
        "learning_rate=4e-3 weight_decay=1",
        "learning_rate=8e-3 weight_decay=1",
        "learning_rate=2e-3 weight_decay=0.3",
        "learning_rate=4e-3 weight_decay=0.3",
    ),
    "2000/library": (
        "learning_rate=1e-3 weight_decay=1",
        "learning_rate=2e-3 weight_decay=1",
        "learning_rate=4e-3 weight_decay=1",
        "learning_rate=2e-3 weight_decay=0.3",
    ),
}

MUON_RATES = (0.01, 0.02, 0.04, 0.08)


#: What the choice of windows is worth on texts where it may be: changes by text.
CLUSTERS: dict[str, dict[str, str]] = {
    "mixed": {
        "stratified": "sampler=stratified data_clusters=8",
        "single": "sampler=single data_clusters=8",
        "loss_weighted": "sampler=loss_weighted data_clusters=8",
        "epoch": "sampler=epoch",
        "stratified-equal": "sampler=stratified data_clusters=8 cluster_exponent=0",
    },
    "duplicated": {"down_weight": "near_duplicates=down_weight"},
    "file": {"epoch": "sampler=epoch", "down_weight": "near_duplicates=down_weight"},
    "documentation": {"epoch": "sampler=epoch", "down_weight": "near_duplicates=down_weight"},
}


def _clusters(options: Options) -> list[Row]:
    """Samplers and weights beside uniform windows; and what they cost."""
    found = []
    for text, choices in CLUSTERS.items():
        if text == "file" and options.data is None:
            continue
        name, peer = ("duplicates", "keep") if text == "duplicated" else ("clusters", "uniform")
        for choice, changes in choices.items():
            overrides = " ".join(f"ours.training.{change}" for change in changes.split())
            same: dict[str, Any] = {"steps": 600, "text": text, "changes": overrides, "seeds": 3}
            found.append(_row(f"{name}/{text}/{choice}", options, **same, peers={peer: "HybridDefaults"}))
            if choice in ("stratified", "down_weight"):
                claim = f"{choice}, 600 steps, {text}: choosing windows takes at most 1 % of the run."
                found.append(
                    _row(
                        f"{name}/{text}/{choice}-time",
                        options,
                        **same,
                        unit="processor s",
                        note=_TIME_NOTE,
                        ours="BatchesTime",
                        peers={"whole run": "HybridTime"},
                        goal=Goal(text=claim, kind="ratio", limit=100.0, peer="whole run"),
                    )
                )
    return found


def _tuning(options: Options) -> list[Row]:
    """The peers with other settings, one seed each."""
    found = []
    for key, grid in ADAMW_GRID.items():
        steps, _, text = key.partition("/")
        if text == "file" and options.data is None:
            continue
        for values in grid:
            own = " ".join(f"peer.training.{value}" for value in ("optimizer=adamw", *values.split()))
            found.append(
                _row(
                    f"tuning/adamw/{key}/{values.replace(' ', ',')}",
                    options,
                    steps=int(steps),
                    text=text,
                    changes=own,
                    ours="HybridDefaults",
                    peers={"AdamW": "Peer"},
                    seeds=1,
                )
            )
    text = "documentation" if options.data is None else "file"
    return found + [
        _row(
            f"tuning/muon/600/{text}/learning_rate={rate:g}",
            options,
            steps=600,
            text=text,
            changes=f"peer.training.learning_rate={rate:g}",
            ours="HybridDefaults",
            peers={"Muon + AdamW": "Muon"},
            seeds=1,
        )
        for rate in MUON_RATES
    ]


def rows(options: Options) -> list[Row]:
    """Against AdamW and Muon; base rates; components; samplers; AdamW's tuning. --filter chooses."""
    text = "documentation" if options.data is None else "file"
    found = []
    for each in dict.fromkeys((text, "documentation")):
        found += _against_adamw(options, each, 600, 5)
    found += _against_adamw(options, "library", 2000, 3)
    found += [
        _row(f"muon-{steps}/{each}", options, steps=steps, text=each, seeds=3, peers={"Muon + AdamW": "Muon"})
        for steps, each in ((600, text), (2000, "library"))
    ]
    found.append(
        _row(
            "base/library",
            options,
            preset="base",
            steps=300,
            text="library",
            changes="training.batch_size=4",
            peers={"AdamW, default rate": "AdamWDefaults"},
            seeds=1,
        )
    )
    found += _base_rates(options, text, steps=600, seeds=3)
    found += _base_rates(options, "library", steps=2000, seeds=1)
    for name, changes in SHAPES.items():
        found += _base_rates(options, text, steps=600, seeds=1, changes=changes, name=name)
    found.append(_short_runs(options, text))
    traces = (("constraint_active", 600), ("lr_multiplier", 600), ("trust_radius", 600))
    found += [
        _row(
            f"trace/{quantity}/{text}",
            options,
            steps=steps,
            text=text,
            seeds=5,
            ours="HybridTrace",
            unit="mean of a run",
            sizes={"quantity": quantity},
        )
        for quantity, steps in (*traces, ("update_magnitude", 100))
    ]
    found.append(
        _row(
            f"success/{text}",
            options,
            steps=100,
            text=text,
            seeds=3,
            ours="HybridSuccess",
            unit="share of steps",
            note="Steps behind which the loss of their own batch is lower.",
        )
    )
    found += [
        _row(
            f"ablation/{name}/{text}",
            options,
            steps=600,
            text=text,
            seeds=3,
            changes=" ".join(f"ours.{change}" for change in changes.split()),
            peers={"default": "HybridDefaults"},
        )
        for name, changes in ABLATION.items()
    ]
    found += [
        _row(
            f"no-hidden-layer/x{factor:g}/{text}",
            options,
            steps=600,
            text=text,
            seeds=3,
            changes=f"training.learning_rate={_RATE * factor:g} ours.training.auxiliary_hidden_size=0",
            peers={"16 hidden units": "HybridDefaults"},
        )
        for factor in (0.1, 10.0)
    ]
    found += _clusters(options)
    found.append(
        _row(
            "ramp/2000/library",
            options,
            steps=2000,
            text="library",
            seeds=3,
            changes="ours.training.ramp_start=0.3 ours.training.ramp_end=0.7",
            peers={"default": "HybridDefaults"},
        )
    )
    tuned = " ".join(["training.optimizer=adamw", *TUNED_ADAMW[f"600/{text}"]])
    found.append(
        _row(
            f"ramp/adamw/{text}",
            options,
            steps=600,
            text=text,
            seeds=3,
            changes=f"{tuned} ours.training.ramp_start=0.3 ours.training.ramp_end=0.7",
            peers={"AdamW, tuned": "HybridDefaults"},
        )
    )
    found.append(
        _row(
            f"ablation/adamw-state-8-bit/{text}",
            options,
            steps=600,
            text=text,
            seeds=3,
            changes=f"{tuned} ours.training.state_bits=8",
            peers={"AdamW, tuned": "HybridDefaults"},
        )
    )
    return found + _tuning(options)
