"""`pyhybrid bench`: measures rows of the registry and prints them, for people or as JSON.

Place in the data flow: cli.py of the package calls `add_arguments` and `run`; tools/make_benchmarks renders
what `--out` wrote.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from pyhybrid.benchmarks.registry import SECTIONS, Options, rows

__all__ = ["add_arguments", "run"]

_EPILOG = """examples:
  pyhybrid bench train --peers --json
  pyhybrid bench matmul --peers --quick
  pyhybrid bench gemm --peers --isa avx2 --plot gemm.png
  pyhybrid bench quality --peers --data tinyshakespeare.txt --threads 2
  pyhybrid bench all --peers --out results.json

exit codes: 0 measured; 1 answers differ, a side failed, or with --check a claim does not hold; 2 wrong usage
"""


def _numbers(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or any(not 1 <= number <= 256 for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r}: give whole numbers from 1 to 256, as in 1,2")
    return numbers


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number of at least 1")
    return number


def _presets(text: str) -> tuple[str, ...]:
    from pyhybrid.config import PRESETS

    names = tuple(text.split(","))
    unknown = [name for name in names if name not in PRESETS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r}: choose among {', '.join(PRESETS)}")
    return names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `pyhybrid bench`.

    Args:
        parser: of the subcommand.
    """
    parser.description = (
        "Measures speed, quality and size; with --peers beside ggml, PyTorch and NumPy in the same run."
    )
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    default = Options()
    parser.add_argument(
        "section", nargs="?", default="all", choices=[*SECTIONS, "all"], help="what to measure"
    )
    parser.add_argument(
        "--peers",
        action="store_true",
        help="run the peers too (the extras `peers` and `ggml`); what is missing is shown as skipped",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the JSON to a file")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.png",
        help="draw the figures, one file a section (needs matplotlib)",
    )  # fmt: skip
    parser.add_argument("--check", action="store_true", help="exit with 1 if a claim does not hold")
    parser.add_argument("--filter", default="", metavar="TEXT", help="only rows whose name contains it")
    parser.add_argument("--list", action="store_true", help="print the rows' names, measure nothing")
    parser.add_argument("--presets", type=_presets, default=default.presets, help="of model rows: small,base")
    parser.add_argument(
        "--threads",
        type=_numbers,
        metavar="N,...",
        help="of every row that takes threads; default: 1,2 for models, 1 for single operations",
    )
    parser.add_argument("--rounds", type=_positive, help="measurements a side (quality: see --seeds)")
    parser.add_argument("--steps", type=_positive, default=default.steps, help="steps of a quality run")
    parser.add_argument("--seeds", type=_positive, default=default.seeds, help="quality runs")
    parser.add_argument(
        "--data", type=Path, help="text of the quality and optimizer runs; default: the embedded one"
    )
    parser.add_argument(
        "--runs", type=Path, metavar="FOLDER", help="keep every optimizer run here, and do none twice"
    )
    parser.add_argument(
        "--kept",
        action="store_true",
        help="rows and seeds of optimizer and rate whose runs --runs has; trains nothing",
    )
    parser.add_argument(
        "--isa",
        choices=["scalar", "avx2", "avxvnni", "avx512", "lookup", "neon"],
        help="highest tier of our side (HYB_ISA)",
    )
    parser.add_argument("--quick", action="store_true", help="single operations: fewer rows, shorter rounds")


def _table(result: dict[str, Any]) -> list[str]:
    """Lines for people: one a side, the shares of the machine's limits, and the claims."""
    unit, ours = result["unit"], result["ours"]
    spread = f"{ours['lowest']:.5g} to {ours['highest']:.5g}"
    lines = [f"{result['name']}", f"  {'ours':<18}{ours['median']:>12.5g} {unit:<12} ({spread})"]
    for name, peer in result["peers"].items():
        spread = f"{peer['lowest']:.5g} to {peer['highest']:.5g}"
        relation = f"ratio {peer['ratio']:.3f}, difference {peer['difference']:+.4g}"
        lines.append(f"  {name:<18}{peer['median']:>12.5g} {unit:<12} ({spread}); {relation}")
    lines += [f"  {name:<18}skipped: {reason}" for name, reason in result["skipped"].items()]
    for limit in result["limits"]:
        what = limit["kind"] + (f" {limit['working_set'] / 2**20:.3g} MiB" if limit["working_set"] else "")
        figure = f"{limit['per_second'] / 1e9:.5g} G/s by {limit['method']}"
        lines.append(f"  {limit['share']:.1%} of the limit {what}: {figure}")
    if len(result["limits"]) > 1 and result["limits_add"]:
        lines.append(f"  {result['share']:.1%} of the time would do at these limits, one after the other")
    for goal in result["goals"]:
        verdict = {True: "holds", False: "DOES NOT HOLD", None: "not measured"}[goal["holds"]]
        lines.append(f"  claim: {goal['text']} {verdict}")
    return lines


def _options(args: argparse.Namespace) -> Options:
    return Options(
        peers=args.peers,
        presets=args.presets,
        threads=args.threads or Options().threads,
        kernel_threads=args.threads or Options().kernel_threads,
        quick=args.quick,
        isa=args.isa,
        rounds=args.rounds,
        steps=args.steps,
        seeds=args.seeds,
        data=args.data,
        runs=args.runs,
    )


def _command(args: argparse.Namespace) -> str:
    """The command line again, without paths and output options: what a reader types to measure the same."""
    default, words = Options(), ["pyhybrid bench", args.section]
    words += ["--peers"] if args.peers else []
    words += ["--quick"] if args.quick else []
    words += [f"--isa {args.isa}"] if args.isa else []
    for name in ("presets", "threads"):
        if getattr(args, name) not in (None, getattr(default, name)):
            words.append(f"--{name} {','.join(map(str, getattr(args, name)))}")
    for name in ("rounds", "steps", "seeds"):
        if getattr(args, name) != getattr(default, name):
            words.append(f"--{name} {getattr(args, name)}")
    reads_text = args.section in ("quality", "optimizer", "all")
    words += [f"--data {args.data.name}"] if args.data and reads_text else []
    words += [f"--filter {args.filter}"] if args.filter else []
    return " ".join(words)


def _missing_part(args: argparse.Namespace) -> str | None:
    """What must be installed or given before anything is measured."""
    import importlib.util

    if args.plot and importlib.util.find_spec("matplotlib") is None:
        return "--plot needs matplotlib: pip install matplotlib"
    if args.data is not None and not args.data.is_file():
        return f"--data {args.data}: no such file"
    return None


def _nothing_chosen(args: argparse.Namespace) -> str:
    """Why there is no row."""
    if args.section == "gpu":
        from pyhybrid.cuda import unavailable

        reason = unavailable()
        if reason is not None:
            return f"gpu: not measured, {reason}"
    return f"no row's name contains {args.filter!r}; see --list"


def run(args: argparse.Namespace) -> int:
    """Measures what the arguments choose.

    Args:
        args: of `add_arguments`.

    Returns:
        The exit code: 0, 1 or 2 as in the help.
    """
    options = _options(args)
    chosen = [row for row in rows(args.section, options) if args.filter in row.name]
    if args.kept:
        from pyhybrid.benchmarks.runs import kept_rows

        if args.section not in ("optimizer", "rate") or args.runs is None:
            print("pyhybrid bench: --kept is for `bench optimizer|rate --runs FOLDER`", file=sys.stderr)
            return 2
        chosen = kept_rows(chosen)
    if args.list:
        print("\n".join(row.name for row in chosen))
        return 0
    problem = _missing_part(args) or (None if chosen else _nothing_chosen(args))
    if problem:
        print(f"pyhybrid bench: {problem}", file=sys.stderr)
        return 2
    if args.plot:
        from pyhybrid.benchmarks.plot import plot
    from pyhybrid.benchmarks.curves import describe, fits
    from pyhybrid.benchmarks.measure import BenchmarkError, machine, measure, versions

    document: dict[str, Any] = {"command": _command(args), "machine": machine(args.isa)}
    document |= {"versions": versions(args.peers), "rows": []}
    if not args.json:
        print(
            ", ".join(
                f"{key}: {value}" for key, value in (document["machine"] | document["versions"]).items()
            )
        )
    failed = False
    for row in chosen:
        rounds = None if row.section in ("quality", "optimizer", "size") else options.rounds
        try:
            result = measure(row, peers=args.peers, rounds=rounds, progress=_progress, isa=args.isa)
        except BenchmarkError as error:
            print(f"pyhybrid bench: {row.name}: {error}", file=sys.stderr)
            failed = True
            continue
        document["rows"].append(result)
        failed = failed or (args.check and any(goal["holds"] is not True for goal in result["goals"]))
        if not args.json:
            print("\n".join(_table(result)), flush=True)
    if curves := fits(document["rows"]):
        document["fits"] = curves
    for fit in curves if not args.json else []:
        print("\n  ".join([fit["title"], *describe(fit)]), flush=True)
    text = json.dumps(document, indent=1, allow_nan=False)
    if args.json:
        print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")
    if args.plot:
        for path in plot(document["rows"], args.plot):
            print(f"wrote {path}", file=sys.stderr)
    return 1 if failed else 0


def _progress(line: str) -> None:
    if sys.stderr.isatty():
        print(line, file=sys.stderr, flush=True)
