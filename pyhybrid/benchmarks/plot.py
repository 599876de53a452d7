"""Draws measured rows as PNG files, one a section.

Our median by each peer's, and the share of the limit; losses as differences with their confidence intervals;
the cost by size as curves with their fitted power laws.

Place in the data flow: cli.py calls `plot` after measuring. Needs matplotlib, an optional extra.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyhybrid.benchmarks.curves import fits

__all__ = ["plot"]

# Sections whose figures are losses: compared by difference.
_LOSSES = ("optimizer", "quality")
# Sections that are drawn as curves.
_CURVES = ("scaling", "kmeans")


def plot(results: Sequence[Mapping[str, Any]], path: Path) -> list[Path]:
    """Draws bars on a logarithmic axis, or the curves of `scaling` on two.

    Args:
        results: as measure.measure gives them.
        path: FILE.png; with more than one section, FILE-SECTION.png each.

    Returns:
        The files that were written.

    Raises:
        ModuleNotFoundError: matplotlib is missing.
    """
    sections = list(dict.fromkeys(result["section"] for result in results))
    written = []
    for section in sections:
        target = path if len(sections) == 1 else path.with_name(f"{path.stem}-{section}{path.suffix}")
        draw = _draw_differences if section in _LOSSES else _draw_curves if section in _CURVES else _draw
        draw = _draw_rate if section == "rate" else draw
        draw(section, [result for result in results if result["section"] == section], target)
        written.append(target)
    return written


def _draw(section: str, results: Sequence[Mapping[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    labels, ratios, colours = [], [], []
    for result in results:
        name = result["name"].removeprefix(f"{section}/")
        for peer, figures in result["peers"].items():
            labels.append(f"{name} : {peer}")
            ratios.append(figures["ratio"])
            colours.append("tab:blue" if figures["ratio"] >= 1 else "tab:red")
        if result["share"] is not None:
            labels.append(f"{name} : limit of the machine")
            ratios.append(result["share"])
            colours.append("tab:gray")
    figure, axes = pyplot.subplots(figsize=(10, 1.2 + 0.28 * max(1, len(labels))))
    bars = axes.barh(range(len(labels)), ratios, color=colours)
    axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.invert_yaxis()
    axes.set_xlabel("ours / other (above 1: we are better)")
    axes.set_title(f"pyhybrid bench {section}")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _draw_differences(section: str, results: Sequence[Mapping[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    units = list(dict.fromkeys(result["unit"] for result in results))
    bars = [
        (
            f"{result['name'].removeprefix(section + '/')} : {peer}",
            figures["difference"],
            figures["half_width"],
        )
        for result in results
        for peer, figures in result["peers"].items()
        if result["unit"] == units[0]  # further units, such as seconds, have another scale
    ]
    labels, differences, widths = (
        (list(column) for column in zip(*bars, strict=True)) if bars else ([], [], [])
    )
    figure, axes = pyplot.subplots(figsize=(10, 1.2 + 0.28 * max(1, len(labels))))
    colours = ["tab:blue" if value <= 0 else "tab:red" for value in differences]
    drawn = axes.barh(
        range(len(labels)), differences, xerr=[width or 0.0 for width in widths], color=colours, capsize=2
    )
    axes.bar_label(drawn, fmt="%+.3f", padding=2, fontsize=8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.axvline(0, color="black", linewidth=1)
    axes.margins(x=0.15)
    axes.invert_yaxis()
    axes.set_xlabel(
        f"ours - other [{', '.join(units[:1])}], 95 % interval of the mean; below 0: we are better"
    )
    axes.set_title(f"pyhybrid bench {section}")
    figure.savefig(path, dpi=120, bbox_inches="tight")
    pyplot.close(figure)


def _draw_rate(section: str, results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Loss by bits a weight: a panel for each number of steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = {result["name"]: result for result in results}
    pairs = [name.split("/")[2:] for name in rows if name.startswith("rate/loss/")]
    pairs = [[steps, name] for steps, name in pairs if f"rate/bits/{steps}/{name}" in rows]
    lengths = list(dict.fromkeys(steps for steps, _ in pairs)) or ["none"]
    figure, panels = pyplot.subplots(1, len(lengths), figsize=(6.4 * len(lengths), 4.8), squeeze=False)
    for axes, steps in zip(panels[0], lengths, strict=True):
        kinds: dict[str, list[tuple[float, float]]] = {}
        plain: tuple[float, ...] = ()
        for _, name in (pair for pair in pairs if pair[0] == steps):
            loss, bits = rows[f"rate/loss/{steps}/{name}"], rows[f"rate/bits/{steps}/{name}"]
            kind = name.rstrip("0123456789.").rstrip("-") or "with a ramp"
            kinds.setdefault(kind, []).append((bits["ours"]["median"], loss["ours"]["median"]))
            plain = tuple(row["peers"]["plain ternary"]["median"] for row in (bits, loss))
        for kind, points in kinds.items():
            axes.plot(*zip(*sorted(points), strict=True), "o-", label=kind)
        if plain:
            axes.plot(*plain, "k*", markersize=12, label="plain ternary")
        axes.set_xlabel("bits a weight of the compressed file, everything counted")
        axes.set_ylabel("validation loss [nats/byte]")
        axes.set_title(f"`small`, {steps} steps")
        axes.grid(True, alpha=0.3)
        axes.legend(fontsize=8)
    figure.suptitle(f"pyhybrid bench {section}")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _draw_curves(section: str, results: Sequence[Mapping[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    curves = fits(results)
    n = max(1, len(curves))
    figure, panels = pyplot.subplots(1, n, figsize=(5.2 * n, 4.6), squeeze=False)
    for axes, curve in zip(panels[0], curves, strict=False):
        _draw_curve(axes, curve)
    if not curves:
        panels[0][0].set_title("fewer than 3 points a curve: nothing to fit")
    figure.suptitle(f"pyhybrid bench {section}")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _draw_curve(axes: Any, curve: Mapping[str, Any]) -> None:
    """Medians with their spread, the fit of each side, and the operations scaled to our fit's middle."""
    for number, (side, found) in enumerate(curve["sides"].items()):
        points, law = found["points"], found["fit"]
        x, y = [point["x"] for point in points], [point["median"] for point in points]
        spread = [
            [point["median"] - point["lowest"] for point in points],
            [point["highest"] - point["median"] for point in points],
        ]
        colour, name = f"C{number}", "pyhybrid" if side == "ours" else side
        axes.errorbar(x, y, yerr=spread, fmt="o", color=colour, capsize=3, markersize=4)
        label = f"{name}: exponent {law['exponent']:.2f} \u00b1 {law['standard_error']:.2f}"
        axes.plot(x, [law["coefficient"] * a ** law["exponent"] for a in x], "--", color=colour, label=label)
        if side == "ours":
            # The least-squares distance of two curves in logarithms is smallest where their means meet.
            ratios = [math.log(b / count) for b, count in zip(y, curve["operations"], strict=True)]
            scale = math.exp(math.fsum(ratios) / len(ratios))
            label = f"operations: exponent {curve['operations_exponent']:.2f}"
            axes.plot(x, [scale * count for count in curve["operations"]], ":", color="gray", label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(curve["x_label"])
    axes.set_ylabel(f"{curve['what']} [{curve['unit']}]")
    axes.set_title(curve["title"])
    axes.grid(True, which="major", alpha=0.3)
    axes.legend(fontsize=8)
