"""What the design documents promised, beside what was measured: the table of promises in CLAIMS.md.

A promise names the rows that measure it; its figure and its verdict are computed from their results. Place
in the data flow: report.py asks for the table when it writes CLAIMS.md.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["PROMISES", "Promise", "render_promises"]

ResultRow = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Promise:
    """A promise of the documents.

    Args:
        text: what they say.
        measured_as: what that is measured as, where the words leave it open.
        rows: names of rows; all are needed.
        figure: what they show, as text.
        verdict: of the same rows: 'true', 'no', or a sentence.
    """

    text: str
    measured_as: str
    rows: tuple[str, ...]
    figure: Callable[..., str]
    verdict: Callable[..., str]


def _yes(condition: bool) -> str:
    return "true" if condition else "**no**"


def _gain(row: ResultRow) -> float:
    return float(row["peers"]["AdamW, tuned"]["gain"])


def _share_lower(row: ResultRow) -> float:
    """How much lower our mean loss is than tuned AdamW's, as a share of that."""
    ours, peer = (statistics.fmean(side["samples"]) for side in (row["ours"], row["peers"]["AdamW, tuned"]))
    return float(1.0 - ours / peer)


def _spread(side: Mapping[str, Any]) -> float:
    """Standard deviation over the seeds by the mean."""
    return float(statistics.stdev(side["samples"]) / statistics.fmean(side["samples"]))


def _overhead(large: ResultRow, little: ResultRow) -> str:
    if large["ours"]["median"] > 15.0:
        return "**no**"
    return "true" if little["ours"]["median"] <= 15.0 else "true at large batches"


def _signal(one_step: ResultRow, sums: ResultRow) -> str:
    if one_step["ours"]["median"] <= 0.01:
        return "true"
    good = sums["ours"]["median"] <= 0.01
    return "true of sums with error feedback, not of a step" if good else "**no**"


def _fewer_steps(steps: int, share: float, text: str) -> Promise:
    return Promise(
        text="25-35 % (elsewhere 20-50 %) fewer steps to the same loss",
        measured_as=f"loss of tuned AdamW at {steps} steps, less ours at {share:.0%} of them, {text}",
        rows=(f"optimizer/fewer-steps-{steps}/{text}",),
        figure=lambda row: f"{_gain(row):+.3f} nats, {len(row['ours']['samples'])} seed(s)",
        verdict=lambda row: _yes(_gain(row) >= 0.0),
    )


#: In the order of the table. Others follow with the parts of the library that they are about.
PROMISES: tuple[Promise, ...] = (
    _fewer_steps(600, 0.65, "file"),
    _fewer_steps(600, 0.65, "documentation"),
    _fewer_steps(2000, 0.75, "library"),
    Promise(
        text="15 % lower final loss (0.45 to 0.38)",
        measured_as="validation loss at 600 steps beside tuned AdamW's",
        rows=("optimizer/steps-600/file",),
        figure=lambda row: f"{_share_lower(row):.1%} lower",
        verdict=lambda row: _yes(_share_lower(row) >= 0.15),
    ),
    Promise(
        text="Stability: the spread of losses falls from 5 % to 2 %",
        measured_as="standard deviation over 50 seeds by the mean, 100 steps",
        rows=("optimizer/short-runs/x4/file",),
        figure=lambda row: (
            f"{_spread(row['ours']):.2%}; a fixed rate {_spread(row['peers']['no feedback']):.2%}"
        ),
        verdict=lambda row: _yes(_spread(row["ours"]) <= 0.02),
    ),
    Promise(
        text="The trust region is active in 20-40 % of the steps",
        measured_as="share of matrices whose change the ball shortened, mean of a run",
        rows=("optimizer/trace/constraint_active/file",),
        figure=lambda row: f"{row['ours']['median']:.0%}",
        verdict=lambda row: _yes(0.2 <= row["ours"]["median"] <= 0.4),
    ),
    Promise(
        text="Learning-rate multipliers of 0.8 to 1.5, 1.15 on average",
        measured_as="mean of a run at the default rate",
        rows=("optimizer/trace/lr_multiplier/file",),
        figure=lambda row: f"{row['ours']['median']:.2f}",
        verdict=lambda row: _yes(0.8 <= row["ours"]["median"] <= 1.5),
    ),
    Promise(
        text="The auxiliary network finds the learning rate",
        measured_as="loss at a tenth and at ten times the base rate, less that at the default",
        rows=("optimizer/base-rate/x0.1/600/file", "optimizer/base-rate/x10/600/file"),
        figure=lambda low, high: " and ".join(
            f"{row['peers']['default rate']['difference']:+.3f} nats "
            f"(without feedback {-row['peers']['no feedback']['difference']:+.3f} above that)"
            for row in (low, high)
        ),
        verdict=lambda low, high: _yes(
            low["peers"]["default rate"]["difference"] <= 0.04
            and high["peers"]["default rate"]["difference"] <= 0.02
        ),
    ),
    Promise(
        text="Overhead of 10-15 % (elsewhere 12 %)",
        measured_as="time of the update by that of the gradients at 16,384 tokens",
        rows=("update/small/16384", "update/small/2048"),
        figure=lambda large, little: (
            f"{large['ours']['median']:.1f} %; {little['ours']['median']:.0f} % at 2,048 tokens"
        ),
        verdict=_overhead,
    ),
    Promise(
        text="Quantised gradients keep more than 99 % of the signal",
        measured_as="cosine of the summed messages and the summed gradients of a model, ternary a row",
        rows=(
            "compress/signal/row/model/1-steps",
            "compress/signal/row/model/20-steps",
            "compress/signal/row/model/200-steps",
        ),
        figure=lambda *rows: (
            ", ".join(f"{1 - row['ours']['median']:.4f}" for row in rows) + " of 1, 20, 200 steps"
        ),
        verdict=lambda *rows: _signal(rows[0], rows[-1]),
    ),
)


def render_promises(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns the lines of the table.

    Args:
        results: as report.load_results gives them.
    """
    rows = {
        row["name"]: (row, document["command"]) for document in results.values() for row in document["rows"]
    }
    lines = ["| promise | measured as | figure | verdict | command |", "|---|---|---|---|---|"]
    for promise in PROMISES:
        given = [rows[name] for name in promise.rows if name in rows]
        figure, verdict, command = "", "not measured yet", ""
        if len(given) == len(promise.rows):
            try:
                found = [row for row, _ in given]
                so_far = any("seeds so far" in row["note"] for row in found)
                figure, verdict, command = promise.figure(*found), promise.verdict(*found), f"`{given[0][1]}`"
                verdict += ", so far" if so_far else ""
            except KeyError as missing:
                verdict = f"not measured yet ({missing} was not run)"
        lines.append(f"| {promise.text} | {promise.measured_as} | {figure} | {verdict} | {command} |")
    return lines
