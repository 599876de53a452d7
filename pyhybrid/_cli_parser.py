"""The command line's grammar and its help.

Place in the data flow: cli.py parses with it and runs the command that was chosen.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["make_parser"]

Command = Callable[[argparse.Namespace], int]

EXIT_CODES = """\
exit codes:
  0    done
  1    failed: no memory, disk full, a check of `doctor` failed ...
  2    the command line or a configuration value is wrong
  3    an input is bad: a missing or damaged model file, unreadable or unsuitable data
  4    a number is not finite: NaN or infinity in the weights, the loss or the gradients
  130  interrupted (Ctrl-C, SIGTERM); `train` saves a checkpoint first
"""

DESCRIPTION = """\
Train 1.58-bit (ternary) language models on text, store them in one small file, and run them anywhere.

first steps:
  pyhybrid train                          learn the documentation text that Python carries, in minutes
  pyhybrid generate runs/tiny/model.hyb --prompt "The "
  pyhybrid info runs/tiny/model.hyb       what the file holds, and how small it is
"""

TRAIN = """\
Train a ternary language model and write it to a folder.

Without arguments it learns the documentation text that comes with Python, byte by byte, with the preset
`tiny`, in at most a few minutes on two cores. The folder then holds
  model.hyb       the model: packed weights, tokenizer, configuration
  checkpoint/     to go on with --resume, bit for bit
  metrics.jsonl   one JSON object a step
  config.json     every setting of the run
  loss.png        the loss curve, if matplotlib is installed
"""

TRAIN_EXAMPLES = """\
examples:
  pyhybrid train --data book.txt --out runs/book --minutes 10
  pyhybrid train --data corpus/ --preset small --steps 2000 --tokenizer bpe:2048
  pyhybrid train --data "notes/**/*.md" --bits 4 --set training.learning_rate=2e-3
  cat book.txt | pyhybrid train --data - --steps 300
  pyhybrid train --out runs/book --resume           go on after Ctrl-C, a crash or a power cut

Settings come from --preset, then --config (a TOML file with the tables [model], [training], [data]), then the
options, then --set; the later ones win.
"""

EVAL_EXAMPLES = """\
examples:
  pyhybrid eval runs/tiny/model.hyb                     the validation share of the embedded text
  pyhybrid eval runs/book/model.hyb --data other.txt    all of another text
  pyhybrid eval runs/book/model.hyb --data book.txt --split validation
"""

GENERATE_EXAMPLES = """\
examples:
  pyhybrid generate runs/tiny/model.hyb --prompt "The " --tokens 300
  pyhybrid generate model.hyb --prompt "def " --temperature 0            the most likely text
  pyhybrid generate model.hyb --prompt "Q: " --stop "\\n" --seed 7        until the end of the line
  echo -n "Once upon" | pyhybrid generate model.hyb

The same model, prompt and seed give the same text on every machine and for any number of threads.
"""


class _Parser(argparse.ArgumentParser):
    """argparse with the text laid out as written."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1")
    return value


_positive.__name__ = "whole number"


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=_positive, metavar="T", help="threads (default: all processors)")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object on standard output, nothing else"
    )
    parser.add_argument("--debug", action="store_true", help="show the whole traceback of an error")


def _add_train(commands: Any) -> None:
    parser = commands.add_parser(
        "train", help="train a model on text", description=TRAIN, epilog=f"{TRAIN_EXAMPLES}\n{EXIT_CODES}"
    )
    parser.add_argument(
        "--data",
        nargs="+",
        action="extend",
        metavar="PATH",
        help="files, folders, globs, - for standard input, .npy token arrays (default: the embedded text)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the run (default: runs/PRESET)")
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--steps", type=_positive, metavar="N", help="number of updates (default: the preset's)"
    )
    length.add_argument("--minutes", type=float, metavar="M", help="train for about so long instead")
    parser.add_argument(
        "--preset", metavar="NAME", help="tiny (default), small, base or large: shape and run"
    )
    parser.add_argument(
        "--bits", type=float, metavar="B", help="of the weights: 1.58 (default), 1, 2, 4, 8, 32"
    )
    parser.add_argument(
        "--bits-target",
        type=float,
        metavar="B",
        help="entropy a ternary weight, such as 1.53 or 1.4: a smaller compressed file, slower steps",
    )
    parser.add_argument("--optimizer", metavar="NAME", help="hybrid (default) or adamw")
    parser.add_argument("--tokenizer", metavar="T", help="bytes (default), bpe:VOCAB, or a tokenizer.json")
    parser.add_argument(
        "--seed", type=int, metavar="S", help="of the initial weights and the batches (default: 0)"
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="TOML file with [model], [training], [data]"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="any setting, as in training.learning_rate=2e-3; may be repeated",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the folder's checkpoint")
    parser.add_argument("--overwrite", action="store_true", help="replace an unfinished run in the folder")
    _add_common(parser)


def _add_eval(commands: Any) -> None:
    parser = commands.add_parser(
        "eval",
        help="measure how well a model predicts a text",
        epilog=f"{EVAL_EXAMPLES}\n{EXIT_CODES}",
        description="Measure how well a model predicts a text: nats per token, bits per byte, perplexity.",
    )
    parser.add_argument("model", metavar="MODEL", help="a .hyb file")
    parser.add_argument("--data", nargs="+", action="extend", metavar="PATH", help="as for train")
    parser.add_argument(
        "--split",
        choices=("all", "train", "validation"),
        help="which part of the data (default: all; validation without --data)",
    )
    parser.add_argument(
        "--validation-fraction",
        type=float,
        default=0.1,
        metavar="F",
        help="share that the split is made with (0.1)",
    )
    parser.add_argument(
        "--context",
        type=_positive,
        metavar="N",
        help="tokens a window (default: what the model was trained with, else its maximum)",
    )
    _add_common(parser)


def _add_generate(commands: Any) -> None:
    parser = commands.add_parser(
        "generate",
        help="continue a text",
        epilog=f"{GENERATE_EXAMPLES}\n{EXIT_CODES}",
        description="Continue a text; prints prompt and continuation as they come.",
    )
    parser.add_argument("model", metavar="MODEL", help="a .hyb file")
    parser.add_argument(
        "--prompt",
        action="append",
        metavar="TEXT",
        help="what to continue (default: standard input); may be repeated",
    )
    parser.add_argument("--tokens", type=_positive, default=200, metavar="N", help="most new tokens (200)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the draws (0)")
    parser.add_argument(
        "--temperature", type=float, default=0.8, metavar="T", help="0: the most likely token (0.8)"
    )
    parser.add_argument(
        "--top-k", type=int, default=0, metavar="K", help="draw from the K most likely; 0: all (0)"
    )
    parser.add_argument(
        "--top-p", type=float, default=0.0, metavar="P", help="draw from this probability; 0: all (0)"
    )
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end before this; may be repeated"
    )
    parser.add_argument(
        "--cache", choices=("f32", "int8"), default="f32", help="format of keys and values (f32)"
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="what computes; the text is the same (cpu)",
    )
    _add_common(parser)


def _add_rest(commands: Any) -> None:
    parser = commands.add_parser(
        "info",
        help="what a model file holds",
        epilog=EXIT_CODES,
        description="Show what a model file holds, read from the file alone: sizes, formats, shape, tensors.",
    )
    parser.add_argument("model", metavar="MODEL", help="a .hyb file")
    parser.add_argument(
        "--clusters",
        metavar="K",
        type=int,
        help="also cluster the rows of each layer's matrices into K groups",
    )
    _add_common(parser)
    parser = commands.add_parser(
        "compress",
        help="a model file in fewer bytes, that opens like any other",
        epilog=EXIT_CODES,
        description="Write a model file in its compressed form: its codes entropy-coded, nothing lost "
        "unless one of the last two options is given.",
    )
    parser.add_argument("model", metavar="IN", help="a .hyb file")
    parser.add_argument(
        "-o", "--out", type=Path, metavar="OUT", help="what to write (default: NAME.compressed.hyb beside IN)"
    )
    parser.add_argument(
        "--embedding-bits", type=float, metavar="B",
        help="first requantise embedding and head of a language model: 8, 4, 2, 1.58 or 1",
    )  # fmt: skip
    parser.add_argument("--half-gains", action="store_true", help="first round the norms' gains to binary16")
    _add_common(parser)
    parser = commands.add_parser(
        "expand",
        help="the original of a compressed model file, bit for bit",
        epilog=EXIT_CODES,
        description="Write the original of a compressed model file, bit for bit.",
    )
    parser.add_argument("model", metavar="IN", help="a compressed .hyb file")
    parser.add_argument("out", type=Path, metavar="OUT", help="what to write; may be IN")
    _add_common(parser)
    parser = commands.add_parser(
        "backends",
        help="which backend the dispatcher chooses, and why",
        epilog=EXIT_CODES,
        description="Show the dispatcher's backends and what it chooses by this machine's calibration.",
    )
    parser.add_argument("--calibrate", action="store_true", help="measure anew, whatever the cache holds")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object on standard output, nothing else"
    )
    parser.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    parser = commands.add_parser(
        "selftest",
        help="ten tests of the installed package, in a few seconds",
        epilog=EXIT_CODES,
        description="Run ten tests of the installed package; the last line says how many passed.",
    )
    parser.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    parser = commands.add_parser(
        "doctor",
        help="what this machine offers, and whether all is well",
        epilog=EXIT_CODES,
        description="Show processor, kernels, threads and optional parts, and run the known-answer test.",
    )
    _add_common(parser)


def make_parser(arguments: Sequence[str], runs: Mapping[str, Command]) -> argparse.ArgumentParser:
    """Returns the parser.

    Args:
        arguments: those that will be parsed: the benchmarks are imported only for their own command.
        runs: the function of each command; it becomes `run` of the parsed arguments.
    """
    parser = _Parser(prog="pyhybrid", description=DESCRIPTION, epilog=EXIT_CODES)
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command")
    for add in (_add_train, _add_eval, _add_generate, _add_rest):
        add(commands)
    bench = commands.add_parser("bench", help="measure speed and quality, beside peers in the same run")
    if "bench" in arguments[:1]:  # its imports are not for every start
        from pyhybrid.benchmarks import cli as benchmarks

        benchmarks.add_arguments(bench)
        bench.set_defaults(run=benchmarks.run)
    for name, run in runs.items():
        commands.choices[name].set_defaults(run=run)
    return parser
