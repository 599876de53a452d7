"""The benchmark registry, its measuring loop and its report; figures themselves are not asserted here."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyhybrid import cuda
from pyhybrid._context import Context
from pyhybrid.benchmarks import cli, measure, report
from pyhybrid.benchmarks.limits import LIMITS, measure_limit
from pyhybrid.benchmarks.registry import SECTIONS, Goal, Limit, Options, Row, rows

HAS_TORCH = importlib.util.find_spec("torch") is not None
HAS_GGML = importlib.util.find_spec("llama_cpp") is not None
HAS_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None


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
    found = rows("all", Options(kernel_threads=(1, 2)))
    assert len({row.name for row in found}) == len(found)
    without_gpu = {"gpu"} if cuda.unavailable() is not None else set()
    assert {row.section for row in found} | without_gpu == set(SECTIONS) == set(report._TITLES)
    for row in found:
        assert row.agreement or not row.peers, f"{row.name} compares no answers"
        compared = row.unit in ("ms", "MiB", "nats/byte", "processor s", "%") or row.unit.endswith("/s")
        assert row.peers or not compared, f"{row.name} has no peer"
        for goal in (*row.goals, *([row.goal] if row.goal else [])):
            assert goal.peer is None or goal.peer in row.peers
            assert goal.kind != "share" or row.limits
        assert not row.limits or row.better == "higher"
        assert {*row.peer_agreement, *row.peer_environment} <= set(row.peers)
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
        ("worst", 1.05, {"ratio": 1.0, "worst": 1.04}, True),
        ("worst", 1.05, {"ratio": 1.0, "worst": 1.06}, False),
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
    assert f"Not measured yet: {', '.join(name for name in SECTIONS if name != 'size')}." in text
    assert len(report.render_summary(results).splitlines()) == 2  # no row has a peer
    beside = document["rows"][0] | {"peers": {"P": {"ratio": 2.5}, "Q": {"ratio": 1.0}}}
    summary = report.render_summary({"size": document | {"rows": [beside, beside]}})
    assert "| Size | 2 | P 2.50 to 2.50, Q 1.00 to 1.00 |" in summary
    assert "| yes |" in report.render_claims(results)


def test_command_line_rejects_wrong_usage(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A filter without rows and a missing text are wrong usage (2); an unknown preset ends in the parser."""
    assert cli.run(_arguments("size", "--filter", "nothing")) == 2
    assert cli.run(_arguments("quality", "--data", str(tmp_path / "none.txt"))) == 2
    assert "no such file" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        _arguments("train", "--presets", "huge")


def test_a_missing_peer_is_shown_as_skipped(tmp_path: Path) -> None:
    """A peer that is not installed is named with the reason, in the result and in the report."""
    row = replace(ROW, peers={"P": "no_such_package.module:Side"}, agreement={"x": 0.0})
    result = measure.measure(row, peers=True)
    assert result["skipped"] == {"P": "not installed: no_such_package"}
    assert result["peers"] == {}
    document = {"command": "c", "machine": measure.machine(), "versions": {}, "rows": [result]}
    text = report.render_benchmarks({"train": document})
    assert "P | skipped: not installed: no_such_package |" in text
    with pytest.raises(measure.BenchmarkError, match="no_such_module"):
        measure.measure(replace(row, peers={"P": "pyhybrid.no_such_module:Side"}), peers=True)


def test_limits_are_positive_and_methods_named() -> None:
    """Every limit is measured, with the instructions it was measured with; a smaller tier uses others."""
    context = Context(threads=1)
    for kind in LIMITS:
        figure, method = measure_limit(kind, 1 << 20, context)
        assert figure > 1e6, kind
        assert method, kind
    assert measure_limit("fma", 0, Context(threads=1, isa="scalar"))[1] == "portable C"
    with pytest.raises(KeyError):
        measure_limit("luck", 0, context)


def test_a_row_reports_its_share_of_the_limits() -> None:
    """The share is median times amount by the limit; a claim about it is judged; --isa reaches us."""
    sizes = {"rows": 64, "columns": 256, "tokens": 1}
    row = replace(
        ROW, ours="pyhybrid.benchmarks.matmul:TernaryOurs", sizes=sizes, goal=None,
        hidden={"seconds": 0.001}, limits=(Limit(kind="int8", per_unit=1e9), Limit(kind="read")),
        goals=(Goal(text="", kind="share", limit=0.0), Goal(text="", kind="share", limit=1e9)),
    )  # fmt: skip
    result = measure.measure(row, peers=False, isa="scalar")
    assert [goal["holds"] for goal in result["goals"]] == [True, False]
    assert {limit["method"] for limit in result["limits"]} == {"portable C"}
    first = result["limits"][0]
    assert first["share"] == result["ours"]["median"] * 1e9 / first["per_second"]
    # 2 bits a weight in the layout of today; never fewer than log2(3) a weight, two operations each.
    assert result["limits"][1]["per_unit"] >= 1e9 * 1.58 / 8 / 2
    assert result["share"] == max(limit["share"] for limit in result["limits"])


@pytest.mark.parametrize("packing", ["ternary2", "base3"])
def test_numpy_packs_the_same_codes(packing: str) -> None:
    """Our bytes and those of the NumPy peer hold the same codes, also where the tail is not full."""
    sizes = {"rows": 3, "columns": 4, "packing": packing}
    row = replace(
        ROW, ours="pyhybrid.benchmarks.pack:Ours", peers={"NumPy": "pyhybrid.benchmarks.pack:Numpy"},
        sizes=sizes, hidden={"seconds": 0.001}, agreement={"codes": 0.0}, goal=None,
    )  # fmt: skip
    result = measure.measure(row, peers=True, rounds=1)
    assert result["peers"]["NumPy"]["agreement"]["codes"]["difference"] == 0


@pytest.mark.skipif(not HAS_GGML, reason="needs llama-cpp-python: pip install 'pyhybrid[ggml]'")
@pytest.mark.parametrize("kind", ["TQ1_0", "TQ2_0", "Q4_0"])
@pytest.mark.parametrize("threads", [1, 2])
def test_ggml_multiplies_what_we_give_it(kind: str, threads: int) -> None:
    """The peer's product is that of the dequantised weights, within its rounding of the activations."""
    from pyhybrid.benchmarks import ggml

    random = np.random.default_rng(3)
    weights = random.integers(-1, 2, (5, 512)).astype(np.float32)
    x = random.integers(-127, 128, (3, 512)).astype(np.float32)
    product = ggml.Product(kind, weights, x, threads, copies=2)
    product.compute()
    packed = np.empty((5, ggml.row_bytes(kind, 512)), np.uint8)
    ggml.quantize(kind, weights, packed)
    stored = ggml.dequantize(kind, packed, (5, 512))
    assert kind == "Q4_0" or (stored == weights).all()
    # 1/2 step of 1/127 of the block's largest activation each, in random directions.
    assert measure.relative_difference(product.result, x @ stored.T) < 0.01


@pytest.mark.skipif(not HAS_MATPLOTLIB, reason="needs matplotlib: pip install 'pyhybrid[plot]'")
def test_plot_writes_a_file_a_section(tmp_path: Path) -> None:
    """Rows of one section go to the file, of several to one each."""
    from pyhybrid.benchmarks.plot import plot

    rows_ = [
        {"name": f"{s}/a", "section": s, "peers": {"P": {"ratio": 2.0}}, "share": 0.5}
        for s in ("gemm", "pack")
    ]
    assert plot(rows_[:1], tmp_path / "x.png") == [tmp_path / "x.png"]
    written = plot(rows_, tmp_path / "y.png")
    assert written == [tmp_path / "y-gemm.png", tmp_path / "y-pack.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
    losses = [{"name": "optimizer/a", "section": "optimizer", "unit": "nats", "share": None, "peers": {}}]
    losses.append({**losses[0], "peers": {"P": {"difference": -0.1, "half_width": None}}})
    for shown in (losses[:1], losses):
        (path,) = plot(shown, tmp_path / "z.png")
        assert path.read_bytes().startswith(b"\x89PNG")


def test_documents_are_what_the_results_give() -> None:
    """BENCHMARKS.md, CLAIMS.md and README.md's table are generated, never typed."""
    tool = Path(__file__).parents[2] / "tools" / "make_benchmarks"
    command = [sys.executable, "-P", tool, "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(not HAS_TORCH, reason="needs PyTorch: pip install 'pyhybrid[peers]'")
def test_training_sides_agree_and_are_timed() -> None:
    """One round of `train` on the preset `tiny` beside PyTorch: same first loss, a ratio, a verdict."""
    (row,) = rows("train", Options(presets=("tiny",), threads=(1,)))
    small = replace(row, sizes={**row.sizes, "batch_size": 2, "context": 32, "steps": 1}, rounds=1)
    result = measure.measure(small, peers=True)
    assert result["peers"]["PyTorch eager"]["ratio"] > 0
    assert {goal["holds"] for goal in result["goals"]} <= {True, False}
    assert 0 < result["share"] < 1
    assert result["share"] == sum(limit["share"] for limit in result["limits"])


def test_first_commands_are_timed_and_must_succeed() -> None:
    """Seconds of a command in a process of its own; one that fails is no measurement."""
    from pyhybrid.benchmarks.start import Command

    assert 0 < Command(command="doctor", threads=1).run(0) < 60
    with pytest.raises(RuntimeError, match="nonsense"):
        Command(command="nonsense", threads=1).run(0)
