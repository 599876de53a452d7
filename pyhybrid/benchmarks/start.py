"""Start: how long a newcomer's first commands take, each in a process of its own with the defaults."""

from __future__ import annotations

import subprocess
import sys
import time
from tempfile import TemporaryDirectory

import numpy as np

from pyhybrid.benchmarks.registry import Answer, Goal, Options, Row

__all__ = ["Command", "rows"]


class Command:
    """`pyhybrid COMMAND` in an empty folder.

    Args:
        command: of pyhybrid, without options.
        threads: not looked at; the command has its default.
    """

    def __init__(self, *, command: str, threads: int) -> None:
        del threads
        self.command = command

    def answer(self) -> Answer:
        """Nothing to compare."""
        return {"commands": np.array(1)}

    def run(self, _: int) -> float:
        """Seconds from start to end.

        Raises:
            RuntimeError: it failed.
        """
        with TemporaryDirectory() as folder:
            begun = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-P", "-m", "pyhybrid", self.command],
                cwd=folder,
                capture_output=True,
                text=True,
                check=False,
            )
            seconds = time.perf_counter() - begun
        if done.returncode:
            raise RuntimeError(f"pyhybrid {self.command} failed: {done.stderr.strip()[-300:]}")
        return seconds


def rows(options: Options) -> list[Row]:
    """The self-test and training."""
    limits = {"selftest": 60.0, "train": 180.0}
    return [
        Row(
            name=f"start/{command}",
            section="start",
            unit="s",
            better="lower",
            ours="pyhybrid.benchmarks.start:Command",
            peers={},
            sizes={"command": command},
            rounds=options.rounds or 1,
            goal=Goal(
                text=f"`pyhybrid {command}` takes at most {limit:.0f} seconds.", kind="value", limit=limit
            ),
            note="The process's start included.",
        )
        for command, limit in limits.items()
    ]
