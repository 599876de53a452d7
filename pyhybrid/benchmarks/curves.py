"""Cost as work grows: rows put together as the points of a curve, with a power law through them.

Place in the data flow: sections whose rows form curves name them in CURVES; cli.py (JSON and text), plot.py
and report.py ask `fits` for them. Operations are counted at the same points and fitted in the same way: an
exponent below theirs means that larger work runs more efficiently.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = [
    "Curve",
    "Line",
    "PowerLaw",
    "describe",
    "fit_line",
    "fit_power_law",
    "fits",
    "known_curves",
]

# Modules with a dictionary CURVES: curves by the beginning of their rows' names.
_SECTIONS = ("scaling", "kmeans")


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What is measured against what.

    Args:
        title: of the table and the plot.
        x: name of the size that grows.
        x_label: of the plot's axis.
        what: the figure, in words.
        theory: what growth is expected, and why.
        operations: counts a point's, by the row's sizes.
    """

    title: str
    x: str
    x_label: str
    what: str
    theory: str
    operations: Callable[[Mapping[str, Any]], float]


def known_curves() -> dict[str, Curve]:
    """Returns the curves of all sections by the beginning of their rows' names."""
    found: dict[str, Curve] = {}
    for section in _SECTIONS:
        found |= importlib.import_module(f"pyhybrid.benchmarks.{section}").CURVES
    return found


class PowerLaw(NamedTuple):
    """y = coefficient * x^exponent.

    Args:
        exponent: slope in logarithms.
        standard_error: of the exponent, from the scatter around the line.
        coefficient: y at x = 1.
    """

    exponent: float
    standard_error: float
    coefficient: float


class Line(NamedTuple):
    """y = constant + slope * x, by least squares."""

    constant: float
    slope: float
    standard_error: float


def fit_line(x: Sequence[float], y: Sequence[float]) -> Line:
    """Fits a straight line by least squares.

    Args:
        x: at least 3 different positions.
        y: as many values.

    Returns:
        The line, and the standard error of its slope: the root of squared residuals / (n - 2) / squares of x
        around their mean.

    Raises:
        ValueError: fewer than 3 points, all at one position, or lengths that differ.
    """
    n = len(x)
    if n < 3 or n != len(y):
        raise ValueError(f"{n} positions and {len(y)} values; give at least 3 points")
    mean_x, mean_y = math.fsum(x) / n, math.fsum(y) / n
    squares = math.fsum((a - mean_x) ** 2 for a in x)
    if not squares > 0:
        raise ValueError("all points are at one position; give at least 2 different ones")
    slope = math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / squares
    constant = mean_y - slope * mean_x
    residuals = math.fsum((b - constant - slope * a) ** 2 for a, b in zip(x, y, strict=True))
    return Line(constant, slope, math.sqrt(residuals / (n - 2) / squares))


def fit_power_law(x: Sequence[float], y: Sequence[float]) -> PowerLaw:
    """Fits a power law: a straight line through the logarithms, each point with the same weight.

    Args:
        x: at least 3 different positions, positive.
        y: as many values, positive.

    Raises:
        ValueError: too few points, or one that is not positive.
    """
    line = fit_line([math.log(a) for a in x], [math.log(b) for b in y])
    return PowerLaw(line.slope, line.standard_error, math.exp(line.constant))


def fits(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Puts the measured points of each curve together and fits them.

    Args:
        results: as measure.measure gives them; rows of other sections are passed over.

    Returns:
        A dictionary for each curve that has at least 3 points: curve, title, what, x, x_label, unit, theory;
        operations (a count for each point) with their exponent; and by side (ours, peers' names) its points
        (x, median, lowest, highest), fit (exponent, standard_error, coefficient) of the medians, fit_lowest
        of the fastest rounds (the two differ where the machine was busy), and on the context curve the part
        of the time that grows with the context at the last point (growing_share, by a straight line;
        operations_growing_share is that of the operations); and the reasons of skipped peers.
    """
    found = []
    for key, curve in known_curves().items():
        members = [row for row in results if row["name"].startswith(f"{key}/")]
        members.sort(key=lambda row: float(row["sizes"][curve.x]))
        if len(members) < 3:
            continue
        x = [float(row["sizes"][curve.x]) for row in members]
        counts = [curve.operations(row["sizes"]) for row in members]
        fitted: dict[str, Any] = {
            "curve": key,
            "title": curve.title,
            "what": curve.what,
            "x": curve.x,
            "x_label": curve.x_label,
            "unit": members[0]["unit"],
            "theory": curve.theory,
            "operations": counts,
            "operations_exponent": fit_power_law(x, counts).exponent,
            "operations_growing_share": _growing_share(curve, x, counts),
            "sides": {},
            "skipped": {name: reason for row in members for name, reason in row["skipped"].items()},
        }
        for side in dict.fromkeys(["ours", *(name for row in members for name in row["peers"])]):
            figures = [row["ours"] if side == "ours" else row["peers"].get(side) for row in members]
            known = [(a, figure) for a, figure in zip(x, figures, strict=True) if figure is not None]
            if len(known) >= 3:
                fitted["sides"][side] = _side(curve, known)
        found.append(fitted)
    return found


def _side(curve: Curve, known: Sequence[tuple[float, Mapping[str, Any]]]) -> dict[str, Any]:
    x, medians = [a for a, _ in known], [figure["median"] for _, figure in known]
    lowest = [figure["lowest"] for _, figure in known]
    names = ("median", "lowest", "highest")
    return {
        "points": [{"x": a} | {name: figure[name] for name in names} for a, figure in known],
        "fit": fit_power_law(x, medians)._asdict(),
        "fit_lowest": fit_power_law(x, lowest)._asdict(),
        "growing_share": _growing_share(curve, x, medians),
    }


def _growing_share(curve: Curve, x: Sequence[float], y: Sequence[float]) -> float | None:
    """Part of the last value that grows with x, by a straight line; only where one is expected."""
    if curve.x != "context":
        return None
    line = fit_line(x, y)
    return line.slope * x[-1] / (line.constant + line.slope * x[-1])


def describe(fit: Mapping[str, Any]) -> list[str]:
    """Returns sentences about a curve, one a side, and what the operations say.

    Args:
        fit: one of `fits`.
    """
    sentences = []
    for side, found in fit["sides"].items():
        law, least = found["fit"], found["fit_lowest"]
        text = f"{side}: {fit['what']} ~ {fit['x']}^({law['exponent']:.3f} +- {law['standard_error']:.3f})"
        text += f", of the fastest rounds {least['exponent']:.3f} +- {least['standard_error']:.3f}"
        if found["growing_share"] is not None:
            text += f", {found['growing_share']:.0%} of it grows with the {fit['x']} at the last point"
        sentences.append(text)
    text = f"operations: {fit['x']}^{fit['operations_exponent']:.3f}"
    if fit["operations_growing_share"] is not None:
        text += f", {fit['operations_growing_share']:.0%} of them grow"
    return [*sentences, text]
