"""What the design documents promised, beside what was measured: the mechanism of the table in CLAIMS.md.

A promise names the rows that measure it; its figure and its verdict are computed from their results, so that
neither is ever typed. What needs no measurement, because it is arithmetic, names no rows. Place in the data
flow: report.py asks for the table when it writes CLAIMS.md; the promises are in promise_table.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Promise", "render_promises"]


@dataclass(frozen=True, kw_only=True)
class Promise:
    """A promise of the documents.

    Args:
        number: of the requirement.
        text: what they say.
        measured_as: what that is measured as, where the words leave it open.
        rows: names of rows; all are needed. None at all: arithmetic.
        figure: what they show, as text; called with the rows in their order.
        verdict: of the same rows: 'true', 'no', or a sentence.
    """

    number: str
    text: str
    measured_as: str
    rows: tuple[str, ...]
    figure: Callable[..., str]
    verdict: Callable[..., str]


def render_promises(promises: tuple[Promise, ...], results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns the lines of the table.

    Args:
        promises: in the order of the table.
        results: as report.load_results gives them.
    """
    rows = {
        row["name"]: (row, document["command"]) for document in results.values() for row in document["rows"]
    }
    lines = ["| | promise | measured as | figure | verdict | command |", "|---|---|---|---|---|---|"]
    for promise in promises:
        given = [rows[name] for name in promise.rows if name in rows]
        figure, verdict, command = "", "not measured yet", ""
        if len(given) == len(promise.rows):
            try:
                found = [row for row, _ in given]
                so_far = any("seeds so far" in row["note"] for row in found)
                figure, verdict = promise.figure(*found), promise.verdict(*found)
                command = ", ".join(dict.fromkeys(f"`{command}`" for _, command in given))
                command = command or ("arithmetic" if figure else "")  # nothing measured, nothing computed
                verdict += ", so far" if so_far else ""
            except KeyError as missing:
                verdict = f"not measured yet ({missing} was not run)"
        cells = (promise.number, promise.text, promise.measured_as, figure, verdict, command)
        lines.append(f"| {' | '.join(cells)} |")
    return lines
