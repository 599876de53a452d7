"""tools/bench_compare: its verdicts on measured times, and its command line."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "bench_compare"
_loader = SourceFileLoader("bench_compare", str(TOOL))
_spec = importlib.util.spec_from_loader("bench_compare", _loader)
assert _spec is not None
bench_compare = importlib.util.module_from_spec(_spec)
_loader.exec_module(bench_compare)


@pytest.mark.parametrize(
    ("factor", "slower"), [(0.5, False), (1.0, False), (1.04, False), (1.06, True), (3.0, True)]
)
def test_a_slower_version_is_found_through_noise(factor: float, slower: bool) -> None:
    """A machine that halves its speed now and then changes both sides of a pair alike."""
    old = [1.0, 2.0, 1.0, 1.1, 2.1, 1.0, 1.0, 1.9, 1.0]
    verdict = bench_compare.judge(old, [factor * seconds for seconds in old], 5)
    assert verdict["slower"] is slower
    assert verdict["ratio"] == pytest.approx(factor)
    assert not verdict["unsure"]


def test_scattered_ratios_around_the_limit_are_unsure() -> None:
    """Ratios that spread wider than the tolerance on both sides of the limit ask for more rounds."""
    new = [0.9, 1.2, 0.95, 1.15, 1.02, 1.1, 0.9, 1.2, 1.04]
    assert bench_compare.judge([1.0] * 9, new, 5)["unsure"]
    assert not bench_compare.judge([1.0] * 9, [seconds + 1 for seconds in new], 5)["unsure"]


def test_a_version_is_as_fast_as_itself(tmp_path: Path) -> None:
    """The command measures, prints and writes; the tolerance is wide, for this is no quiet machine."""
    out = tmp_path / "rows.json"
    command = [sys.executable, "-P", TOOL, sys.executable, sys.executable, "--only", "unpack/base3"]
    command += ["--rounds", "3", "--tolerance", "400", "--json", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads(out.read_text(encoding="utf-8"))
    assert row["row"] == "unpack/base3 1 Mi codes"
    assert row["old_seconds"] > 0
    assert "unpack/base3" in done.stdout


def test_what_is_neither_revision_nor_interpreter_is_named() -> None:
    """Wrong usage says so."""
    command = [sys.executable, "-P", TOOL, "no-such-revision", sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "no-such-revision" in done.stderr
