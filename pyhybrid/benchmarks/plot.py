"""Draws measured rows as PNG files, one a section: our median by each peer's, and the share of the limit.

Place in the data flow: cli.py calls `plot` after measuring. Needs matplotlib, an optional extra.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["plot"]


def plot(results: Sequence[Mapping[str, Any]], path: Path) -> list[Path]:
    """Draws bars on a logarithmic axis.

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
        _draw(section, [result for result in results if result["section"] == section], target)
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
