"""What the commands print, and their exit codes.

Results go to standard output, progress and errors to standard error. With --json standard output holds one
JSON object and nothing else.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyhybrid._context import Context

__all__ = [
    "BAD_INPUT",
    "FAILURE",
    "INTERRUPTED",
    "NOT_FINITE",
    "OK",
    "USAGE",
    "figure",
    "make_context",
    "note",
    "print_json",
    "readable_bytes",
    "say",
]

OK, FAILURE, USAGE, BAD_INPUT, NOT_FINITE, INTERRUPTED = 0, 1, 2, 3, 4, 130


def say(*lines: str) -> None:
    """Prints for people, on standard output."""
    print(*lines, sep="\n", flush=True)


def note(text: str) -> None:
    """Prints for people, on standard error."""
    print(f"pyhybrid: {text}", file=sys.stderr, flush=True)


def _finite(value: Any) -> Any:
    """JSON has no NaN: null stands for it."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, os.PathLike) else value


def print_json(values: dict[str, Any]) -> None:
    """Prints one JSON object on standard output."""
    print(json.dumps(_finite(values), allow_nan=False, ensure_ascii=False), flush=True)


def readable_bytes(count: float) -> str:
    """Returns a number of bytes with its unit."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} GiB"


def figure(value: float | None, digits: int = 3) -> str:
    """Returns a number with so many digits behind the point; '-' for none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def make_context(arguments: argparse.Namespace) -> Context:
    """Returns the context that the options of a command ask for."""
    from pyhybrid._context import Context

    return Context(threads=arguments.threads)
