"""The benchmark registry, its measuring loop and its report; figures themselves are not asserted here."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyhybrid.benchmarks import cli, measure, report
from pyhybrid.benchmarks.registry import SECTIONS, Goal, Options, Row, rows

HAS_TORCH = importlib.util.find_spec("torch") is not None


ROW = Row(
    name="test/size",
    section="train",
    unit="tokens/s",
    better="higher",
    ours="pyhybrid.benchmarks.size:Ours",
    sizes={"preset": "tiny", "figure": "payload"},
    rounds=2,
    goal=Goal(text="Small.", kind="value", limit=1.7),
)


def _arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return parser.parse_args(list(words))


def test_rows_are_unique_and_their_sides_exist() -> None:
    """Every row of every section has its own name, a known section, and classes that can be imported."""
    found = rows("all", Options(compile=True))
    assert len({row.name for row in found}) == len(found)
    assert {row.section for row in found} == set(SECTIONS)
    for row in found:
        assert row.agreement, f"{row.name} compares no answers"
        assert row.peers, f"{row.name} has no peer"
        assert row.goal is None or row.goal.peer is None or row.goal.peer in row.peers
        for factory in (row.ours, *row.peers.values()):
            module, name = factory.split(":")
            assert hasattr(importlib.import_module(module), name)


def test_measure_runs_a_side_in_its_own_process() -> None:
    """A row gives one figure a round, their median and extremes, and judges its claim."""
    result = measure.measure(ROW, peers=False)
    assert result["ours"]["samples"] == [result["ours"]["median"]] * 2
    assert 1.6 <= result["ours"]["median"] < 1.7
    assert result["goal"]["holds"] is True
    assert (
        measure.measure(replace(ROW, goal=Goal(text="", kind="value", limit=1.0)), peers=False)["goal"][
            "holds"
        ]
        is False
    )


def test_measure_refuses_to_compare_different_answers() -> None:
    """Sides that disagree are an error, not a ratio."""
    other = {"fp32": "pyhybrid.benchmarks.matmul:TernaryNumpy"}
    row = replace(
        ROW, ours="pyhybrid.benchmarks.matmul:TernaryOurs", peers=other, goal=None,
        sizes={"rows": 8, "columns": 16, "tokens": 2}, agreement={"sums": -1.0},
    )  # fmt: skip
    with pytest.raises(measure.BenchmarkError, match="differ"):
        measure.measure(row, peers=True)
    result = measure.measure(replace(row, agreement={"sums": 0.0}), peers=True)
    assert result["peers"]["fp32"]["agreement"]["sums"]["difference"] == 0


def test_measure_reports_a_failing_side() -> None:
    """An exception in a side's process arrives with its traceback."""
    with pytest.raises(measure.BenchmarkError, match="no-such-preset"):
        measure.measure(replace(ROW, sizes={"preset": "no-such-preset", "figure": "payload"}), peers=False)


def test_relative_difference_of_unequal_shapes_or_nan_is_infinite() -> None:
    """What cannot be compared never agrees."""
    assert measure.relative_difference([1.0, 2.0], [1.0, 2.0]) == 0
    assert measure.relative_difference([3.0, 4.5], [3.0, 4.0]) == pytest.approx(0.1)
    assert measure.relative_difference([1.0], [1.0, 2.0]) == float("inf")
    assert measure.relative_difference([np.nan], [1.0]) == float("inf")


@pytest.mark.parametrize(
    ("kind", "limit", "figures", "holds"),
    [
        ("ratio", 1.0, {"ratio": 1.2, "difference": 5.0}, True),
        ("ratio", 1.0, {"ratio": 0.9, "difference": -5.0}, False),
        ("difference", 0.02, {"ratio": 1.0, "difference": -0.01}, True),
        ("difference", 0.02, {"ratio": 1.0, "difference": -0.03}, False),
    ],
)
def test_claims_are_judged_by_their_kind(
    kind: Any, limit: float, figures: dict[str, float], holds: bool
) -> None:
    """A ratio must reach its limit, a difference must stay within it; without the peer nothing is claimed."""
    goal = Goal(text="", kind=kind, limit=limit, peer="P")
    assert measure._judge(goal, {"median": 0}, {"P": figures})["holds"] is holds
    assert measure._judge(goal, {"median": 0}, {})["holds"] is None


def test_command_line_measures_and_the_report_shows_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`bench size --json --out` writes a document from which both reports are rendered, claims included."""
    assert cli.run(_arguments("size", "--json", "--check", "--out", str(tmp_path / "size.json"))) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document["machine"]) == {"cpu", "isa", "compiler"}
    assert [row["name"] for row in document["rows"]] == [
        "size/small/payload",
        "size/small/counted",
        "size/small/file",
    ]
    results = report.load_results(tmp_path)
    assert results == {"size": document}
    text = report.render_benchmarks(results)
    assert "size/small/payload" in text
    assert "Not measured yet: train, generate, matmul, quality." in text
    assert "| yes |" in report.render_claims(results)


def test_command_line_rejects_wrong_usage(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A filter without rows and a missing text are wrong usage (2); an unknown preset ends in the parser."""
    assert cli.run(_arguments("size", "--filter", "nothing")) == 2
    assert cli.run(_arguments("quality", "--data", str(tmp_path / "none.txt"))) == 2
    assert "no such file" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        _arguments("train", "--presets", "huge")


def test_peers_without_torch_say_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """--peers without PyTorch names the extra."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert cli.run(_arguments("size", "--peers")) == 2
    assert "pyhybrid[peers]" in capsys.readouterr().err


@pytest.mark.skipif(not HAS_TORCH, reason="needs PyTorch: pip install 'pyhybrid[peers]'")
def test_training_sides_agree_and_are_timed() -> None:
    """One round of `train` on the preset `tiny` beside PyTorch: same first loss, a ratio, a verdict."""
    (row,) = rows("train", Options(presets=("tiny",), threads=(1,)))
    small = replace(row, sizes={**row.sizes, "batch_size": 2, "context": 32, "steps": 1}, rounds=1)
    result = measure.measure(small, peers=True)
    assert result["peers"]["PyTorch eager"]["ratio"] > 0
    assert result["goal"]["holds"] in (True, False)
