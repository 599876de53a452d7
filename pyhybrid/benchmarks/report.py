"""Renders measured results as BENCHMARKS.md and CLAIMS.md: nobody types a figure into them.

Place in the data flow: `pyhybrid bench SECTION --peers --out FILE` writes results as JSON, one file a
section, kept in tools/benchmark_results; tools/make_benchmarks reads them with this module and writes both
documents. The machine is described by processor, instruction-set tier and compiler alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyhybrid.benchmarks.curves import fits, known_curves
from pyhybrid.benchmarks.promise_table import PROMISES
from pyhybrid.benchmarks.promises import render_promises
from pyhybrid.benchmarks.registry import SECTIONS

__all__ = ["load_results", "render_benchmarks", "render_claims", "render_summary"]

#: Sections whose figures are losses or shares, which are compared by their difference.
_BY_DIFFERENCE = ("fidelity", "quality", "optimizer", "rate", "update", "mlp")
_TITLES = {
    "start": ("First commands", "Seconds of a newcomer's commands with their defaults, on two threads."),
    "mlp": (
        "Perceptrons",
        (
            "Held-out figures after the same training: digits in percent correct, and a linear target with "
            "64 features in mean squares, between predicting zero and the best ternary fit."
        ),
    ),
    "rate": (
        "Bits and loss",
        (
            "Runs with `--bits-target` (a ramp and a regulated dead zone) beside plain ternary weights: "
            "loss, and bits a weight of the compressed file; then without the ramp, of 1 and 2 uniform bits, "
            "and what smaller embeddings and gains cost."
        ),
    ),
    "update": (
        "The optimiser's share of a step",
        "Time of an update, in percent of the time of the step's gradients; less is better.",
    ),
    "optimizer": (
        "Optimiser",
        (
            "Validation losses of whole training runs with the hybrid optimiser, beside AdamW (tuned: rows "
            "`optimizer/tuning`) and plain Muon + AdamW; then base rates, and what each component is worth."
        ),
    ),
    "kmeans": (
        "K-means",
        (
            "Twenty of Lloyd's iterations from the same start, counted as the multiply-adds of their "
            "distances; the limit is the peak of fp32 multiply-adds. Then the cost of an iteration by size."
        ),
    ),
    "documents": (
        "The design documents' speed table",
        (
            "Time of a call: the C core with vector instructions (the documents' C++) beside NumPy, the same "
            "core without them on one thread (C) and the GPU. The notes hold the documents' own figures."
        ),
    ),
    "gpu": (
        "GPU",
        (
            "The CUDA module on one GPU, timed by the device's events, beside cuBLAS, PyTorch, a copy within "
            "the device, NumPy and the C core; rows `transfers` count the way there and back."
        ),
    ),
    "compress": (
        "Gradient compression",
        (
            "Speed of the schemes; and what they keep: 1 - cosine of the sums of compressed and true "
            "gradients (signal), 1 - ratio of their norms (magnitude)."
        ),
    ),
    "train": (
        "Training speed",
        (
            "Whole optimiser steps: forward, backward, clipping, AdamW, new ternary weights. Same weights "
            "and batches on both sides; PyTorch runs the model of `pyhybrid/benchmarks/torch_model.py` in "
            "fp32 with fake quantisation."
        ),
    ),
    "generate": (
        "Generation speed",
        "One sequence, greedy, with a key-value cache; the prompt's time is included.",
    ),
    "quantize": (
        "Quantising",
        "An fp32 matrix to ternary codes with the absmean scale. The limit is two reads of the matrix.",
    ),
    "fidelity": (
        "What quantisers keep",
        "Gaussian weights, beside the least that theory allows any coder at the same rate; less is better.",
    ),
    "pack": (
        "Quantising and packing",
        "An fp32 matrix to packed ternary bytes. The limit is two reads of the matrix.",
    ),
    "matmul": (
        "Ternary products",
        (
            "Packed ternary weights times int8 activations. The limits are the peak of int8 products and, "
            "for one token, reading the packed weights once; the share is that of the closer one."
        ),
    ),
    "codec": (
        "Entropy coding",
        (
            "Independent codes with a share of zeros P(0), decoded to packed bytes by one thread, beside "
            "zstd on the codes in 2 bits each; and compressed model files with everything counted."
        ),
    ),
    "gemm": ("fp32 products", "The limit is the peak of fp32 multiply-adds."),
    "kernels": (
        "Single operations",
        "Bytes that an operation must read and write. The limit is reading those that it reads.",
    ),
    "scaling": (
        "Cost as work grows",
        (
            "Models of four layers and growing width, one thread. An exponent is the slope of a straight "
            "line through the logarithms of the medians, with its standard error; that of the operations is "
            "fitted to their count at the same points. A smaller exponent than that: larger work runs more "
            "efficiently. The local exponent is the slope from the row above."
        ),
    ),
    "quality": (
        "Quality",
        (
            "Validation loss after the same number of steps from the same initial weights on the same "
            "batches; one round a seed."
        ),
    ),
    "twin": (
        "Ternary beside fp32",
        "The same model with ternary and with fp32 weights: loss, course, speed and memory of training.",
    ),
    "size": ("Size", "Bits per weight, read from the file that was written."),
}
_GENERATED = "<!-- Generated by tools/make_benchmarks from tools/benchmark_results; do not edit. -->"


def load_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Reads the results of every section that has been measured.

    Args:
        folder: holds SECTION.json files as `pyhybrid bench SECTION --out` writes them, and SECTION-WORD.json
            for runs with other options.

    Returns:
        Documents by the files' names without the ending, in the order of the registry; with "plot", its
        file's name, where a PNG of the same name is beside one.

    Raises:
        ValueError: a file is not such a document, or names another section.
    """
    found = {}
    for section in SECTIONS:
        paths = [*folder.glob(f"{section}.json"), *folder.glob(f"{section}-*.json")]
        for path in sorted(paths, key=lambda path: path.stem):
            found[path.stem] = _load(path, section)
    return found


def _load(path: Path, section: str) -> dict[str, Any]:
    document = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict) or not {"command", "machine", "versions", "rows"} <= document.keys():
        raise ValueError(f"{path}: not a result of pyhybrid bench")
    strange = [row["name"] for row in document["rows"] if row["section"] != section]
    if strange:
        raise ValueError(f"{path}: holds {strange[0]}, which is not of section {section}")
    if path.with_suffix(".png").exists():
        document["plot"] = path.with_suffix(".png").name
    return document


def _section_of(name: str) -> str:
    return name.partition("-")[0]


def _figure(value: float) -> str:
    """Four significant digits, without exponents for the sizes that occur here."""
    digits = f"{value:.4g}"
    return f"{value:,.0f}" if "e" in digits or abs(value) >= 1000 else digits


def _sizes(row: Mapping[str, Any]) -> str:
    parts = [f"{name} {value}" for name, value in row["sizes"].items()]
    return ", ".join([*parts, f"{row['threads']} thread" + ("s" if row["threads"] > 1 else "")])


def _side(summary: Mapping[str, Any]) -> str:
    if len(summary["samples"]) == 1:
        return _figure(summary["median"])
    return f"{_figure(summary['median'])} ({_figure(summary['lowest'])} to {_figure(summary['highest'])})"


def _relation(row: Mapping[str, Any], peer: Mapping[str, Any]) -> str:
    if row["section"] in _BY_DIFFERENCE:
        width = peer.get("half_width")
        return f"{peer['difference']:+.4f}" + (f" ± {width:.4f}" if width is not None else "")
    return f"{peer['ratio']:.2f} x"


def _section(name: str, document: Mapping[str, Any]) -> list[str]:
    title, text = _TITLES[_section_of(name)]
    if _section_of(name) != name:
        title, text = f"{title}: {name.partition('-')[2]}", ""
    machine, versions = document["machine"], document["versions"]
    lines = [f"## {title}", "", *([text, ""] if text else [])]
    lines.append(f"Command: `{document['command']}`. " + " ".join(_notes(document["rows"])))
    software = ", ".join(f"{key} {value}" for key, value in versions.items())
    lines += ["", f"Machine: {machine['cpu']}, {machine['isa']}, {machine['compiler']}; {software}.", ""]
    if document.get("plot"):
        lines += [f"![{title}](tools/benchmark_results/{document['plot']})", ""]
    of_curves = tuple(f"{key}/" for key in known_curves())
    rows = [row for row in document["rows"] if not row["name"].startswith(of_curves)]
    return lines + (_rows(name, rows) if rows else []) + _curves(document["rows"])


def _rows(name: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table with a line for each side."""
    by_difference = _section_of(name) in _BY_DIFFERENCE
    relation = "ours - peer (95 % interval of the mean)" if by_difference else "ours better by"
    shares = any(row.get("limits") for row in rows)
    share_title, share_rule = (" of the limit |", "---:|") if shares else ("", "")
    lines = [
        f"| row | unit | ours: median (spread) |{share_title} peer | peer: median (spread) | {relation} |",
        f"|---|---|---:|{share_rule}---|---:|---:|",
    ]
    for row in rows:
        first = f"| `{row['name']}`<br>{_sizes(row)} | {row['unit']} | {_side(row['ours'])} |"
        first += f" {_share(row)} |" if shares else ""
        rest = "| | | |" + (" |" if shares else "")
        skipped = row.get("skipped", {})
        if not row["peers"] and not skipped:
            lines.append(f"{first} none | | |")
        for peer_name, peer in row["peers"].items():
            lines.append(f"{first} {peer_name} | {_side(peer)} | {_relation(row, peer)} |")
            first = rest
        for peer_name, reason in skipped.items():
            lines.append(f"{first} {peer_name} | skipped: {reason} | |")
            first = rest
    return [*lines, ""]


def _curves(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table for each fitted curve, and its exponents below."""
    lines = []
    for curve in fits(rows):
        sides, unit = curve["sides"], curve["unit"]
        lines += [f"### {curve['title']}", "", curve["theory"], ""]
        heads = "".join(f" {side}: median (spread), {unit} | local exponent |" for side in sides)
        lines += [f"| {curve['x']} |{heads}", "|---:|" + "---:|---:|" * len(sides)]
        positions = [point["x"] for point in sides["ours"]["points"]]
        for position in positions:
            cells = [cell for found in sides.values() for cell in _point(found["points"], position)]
            lines.append(f"| {position:,.0f} | {' | '.join(cells)} |")
        lines += ["", f"Exponent of the {curve['what']} in {curve['x']}:", ""]
        for side, found in sides.items():
            law, least = found["fit"], found["fit_lowest"]
            text = f"- {side}: {law['exponent']:.3f} ± {law['standard_error']:.3f}"
            text += f"; of the fastest rounds {least['exponent']:.3f} ± {least['standard_error']:.3f}"
            lines.append(text + _growth(found["growing_share"], curve["x"], positions[-1]))
        lines += [f"- {name}: skipped: {reason}" for name, reason in curve["skipped"].items()]
        text = f"- operations: {curve['operations_exponent']:.3f}"
        lines += [text + _growth(curve["operations_growing_share"], curve["x"], positions[-1]), ""]
    return lines


def _point(points: Sequence[Mapping[str, Any]], position: float) -> tuple[str, str]:
    """Cells of one side at a position: the figure, and the slope in logarithms from its point before."""
    places = [point["x"] for point in points]
    if position not in places:
        return "", ""
    index = places.index(position)
    point = points[index]
    figure = f"{_figure(point['median'])} ({_figure(point['lowest'])} to {_figure(point['highest'])})"
    if not index:
        return figure, ""
    before = points[index - 1]
    slope = math.log(point["median"] / before["median"]) / math.log(point["x"] / before["x"])
    return figure, f"{slope:.2f}"


def _growth(share: float | None, x: str, last: float) -> str:
    """The part of the last point that grows, where a straight line says it."""
    return "" if share is None else f"; {share:.0%} at {x} {last:,.0f} grows with the {x} (straight line)"


def _share(row: Mapping[str, Any]) -> str:
    """Share of the closest limit, and that limit."""
    limits = row.get("limits") or []
    if not limits:
        return ""
    if row.get("limits_add"):
        kinds = " + ".join(limit["kind"] for limit in limits)
        return f"{row['share']:.0%} ({kinds}, one after the other)"
    limit = max(limits, key=lambda entry: float(entry["share"]))
    unit = "GB/s" if limit["kind"] in ("read", "copy") else "Gop/s"
    return f"{limit['share']:.0%} of {_figure(limit['per_second'] / 1e9)} {unit} ({limit['kind']})"


def render_summary(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns a short table for README.md: by section, how many times as fast as each peer, over its rows.

    Args:
        results: as load_results gives them.
    """
    lines = ["| what | rows | times as fast as |", "|---|---:|---|"]
    machines = set()
    for name, document in results.items():
        section = _section_of(name)
        ratios: dict[str, list[float]] = {}
        for row in document["rows"]:
            for peer, found in row["peers"].items() if row["unit"] != "MiB" else ():
                ratios.setdefault(peer, []).append(float(found["ratio"]))
        if section in _BY_DIFFERENCE or not ratios:  # losses are compared by difference
            continue
        spans = [
            f"{peer} {min(values):.2f}" + (f" to {max(values):.2f}" if len(values) > 1 else "")
            for peer, values in ratios.items()
        ]
        title = _TITLES[section][0] + (f", {name.partition('-')[2]}" if section != name else "")
        lines.append(f"| {title} | {max(map(len, ratios.values()))} | {', '.join(spans)} |")
        machines.add(document["machine"]["cpu"])
    return "\n".join([*lines, *(["", f"Processor: {', '.join(sorted(machines))}."] if machines else [])])


def _notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({row["note"] for row in rows if row["note"]})


def render_benchmarks(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the text of BENCHMARKS.md.

    Args:
        results: as load_results gives them.
    """
    lines = [
        "# Benchmarks",
        "",
        _GENERATED,
        "",
        (
            "Every figure was measured by the command above its table, beside a peer in the same run; sides "
            "take turns, each in a process of its own, and their answers were compared before anything was "
            "timed. The spread is the lowest and the highest round. `tools/make_benchmarks --measure` "
            "measures all of it again on your machine."
        ),
        "",
    ]
    for name, document in results.items():
        lines += _section(name, document)
    missing = [name for name in SECTIONS if name not in map(_section_of, results)]
    if missing:
        lines += [f"Not measured yet: {', '.join(missing)}.", ""]
    return "\n".join(lines)


def render_claims(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the text of CLAIMS.md: each claim, its limit, the measured figure, and whether it holds.

    Args:
        results: as load_results gives them.
    """
    lines = [
        "# Claims",
        "",
        _GENERATED,
        "",
        "## Promises of the design documents",
        "",
        *render_promises(PROMISES, results),
        "",
        "## Claims of the benchmarks",
        "",
        "What the benchmarks claim, the measured figure (BENCHMARKS.md) and the command that measures it.",
        "",
        "| claim | limit | measured | holds | command |",
        "|---|---:|---:|---|---|",
    ]
    signs = dict.fromkeys(("ratio", "gain", "share"), "at least")
    signs |= {"difference": "within", "value": "at most", "worst": "at most"}
    for document in results.values():
        for row in document["rows"]:
            for goal in row.get("goals", [row["goal"]] if row["goal"] else []):
                holds = {True: "yes", False: "**no**", None: "not measured"}[goal["holds"]]
                figure = "" if goal["figure"] is None else f"{goal['figure']:+.4f}".lstrip("+")
                limit = f"{signs[goal['kind']]} {goal['limit']:.4g}"
                lines.append(f"| {goal['text']} | {limit} | {figure} | {holds} | `{document['command']}` |")
    return "\n".join([*lines, ""])
