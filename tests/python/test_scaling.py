"""The fits of the benchmark section `scaling`, and its way from a measurement to JSON, plot and report."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyhybrid.benchmarks import cli, curves, report, scaling
from pyhybrid.benchmarks.registry import Options, rows
from pyhybrid.language_model import LanguageModel

HAS_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None
HAS_TORCH = importlib.util.find_spec("torch") is not None


def _result(name: str, sizes: dict[str, Any], median: float, peers: dict[str, float]) -> dict[str, Any]:
    """What measure.measure would give."""

    def summary(figure: float) -> dict[str, Any]:
        return {"median": figure, "lowest": 0.9 * figure, "highest": 1.2 * figure, "samples": [figure] * 3}

    return {
        "name": name, "section": "scaling", "unit": "ms", "sizes": sizes, "ours": summary(median), "note": "",
        "peers": {peer: summary(figure) for peer, figure in peers.items()}, "share": None, "limits": [],
        "skipped": {}, "threads": 1, "goal": None, "goals": [],
    }  # fmt: skip


def _results() -> list[dict[str, Any]]:
    """Every point of the section: ours 2 x^0.5 and on the context curve 100 + context, the peer 3 x."""
    found = []
    for row in rows("scaling", Options()):
        x = row.sizes[scaling.CURVES[row.name.rpartition("/")[0]].x]
        ours = 100.0 + x if "by-context" in row.name else 2 * x**0.5
        found.append(_result(row.name, dict(row.sizes), ours, {"P": 3.0 * x}))
    return found


def test_fit_recovers_a_power_law_exactly() -> None:
    """Points on a power law give its exponent and coefficient, with no error."""
    x = [2.0, 5.0, 40.0, 1e6]
    law = curves.fit_power_law(x, [3 * a**0.7 for a in x])
    assert law.exponent == pytest.approx(0.7, rel=1e-12)
    assert law.coefficient == pytest.approx(3, rel=1e-12)
    assert law.standard_error < 1e-12


def test_fit_has_the_error_of_the_textbook() -> None:
    """Scatter of known size gives the standard error of the formula of regression, worked by hand."""
    # log y = x - 1, 2, -1 (times 0.1) around the slope 1 at log x = -1, 0, 1: the scatter is orthogonal to
    # constant and slope, so that the squared residuals are 0.06, over n - 2 = 1 and the squares of x, 2.
    x = [math.exp(a) for a in (-1, 0, 1)]
    y = [math.exp(a) for a in (-1 - 0.1, 0.2, 1 - 0.1)]
    law = curves.fit_power_law(x, y)
    assert law.exponent == pytest.approx(1, rel=1e-12)
    assert law.standard_error == pytest.approx(math.sqrt(0.06 / 2), rel=1e-9)


def test_error_of_the_fit_is_that_of_repeated_measurements() -> None:
    """Over many noisy draws the exponent scatters as much as the standard error says."""
    random = np.random.default_rng(5)
    x = np.geomspace(2e5, 3e7, 6)
    laws = [
        curves.fit_power_law(list(x), list(0.1 * x**0.9 * np.exp(0.05 * random.standard_normal(6))))
        for _ in range(1000)
    ]
    exponents = np.array([law.exponent for law in laws])
    # 1000 draws: both means are known to about 2 %.
    expected = 0.05 / math.sqrt(float(np.sum((np.log(x) - np.log(x).mean()) ** 2)))
    assert exponents.mean() == pytest.approx(0.9, abs=4 * expected / math.sqrt(1000))
    assert exponents.std() == pytest.approx(expected, rel=0.1)
    assert math.sqrt(np.mean([law.standard_error**2 for law in laws])) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    ("x", "y"), [([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [1, 2]), ([1, 2, 3], [1, 0, 1])]
)
def test_fit_refuses_what_it_cannot_fit(x: list[float], y: list[float]) -> None:
    """Two points have no error, one position no slope, and zero no logarithm."""
    with pytest.raises(ValueError, match=r".+"):
        curves.fit_power_law(x, y)


def test_models_are_a_ladder_of_the_sizes_asked_for() -> None:
    """Six sizes of 0.2 to 30 million parameters, one of 100 for generation; a step has as many tokens."""
    found = {row.name: dict(row.sizes) for row in rows("scaling", Options())}
    steps = [sizes for name, sizes in found.items() if "step-by-parameters" in name]
    generations = [sizes for name, sizes in found.items() if "token-by" in name]
    assert [sizes["parameters"] for sizes in steps] == [s["parameters"] for s in generations][:-1]
    assert len(steps) == 6
    assert steps[0]["parameters"] == pytest.approx(0.2e6, rel=0.2)
    assert steps[-1]["parameters"] == pytest.approx(30e6, rel=0.1)
    assert generations[-1]["parameters"] == pytest.approx(100e6, rel=0.1)
    contexts = [sizes for name, sizes in found.items() if "by-context" in name]
    assert [sizes["context"] for sizes in contexts] == [64, 128, 256, 512, 1024]
    assert {sizes["context"] * sizes["batch_size"] for sizes in (*steps, *contexts)} == {1024}


def test_operations_are_those_of_the_weights_and_of_attention() -> None:
    """Two a multiply-add: the layers' weights as the library counts them, the head, keys and values."""
    sizes = {"dim": 128, "tokens": 31}
    count = LanguageModel.count_of(scaling._config(128, 32))
    attention = 4 * 2 * 128 * 16  # layers, keys and values, width, mean length
    assert scaling.operations(sizes) == 2 * (count.linear + 256 * 128 + attention)
    step = {"dim": 128, "context": 31, "batch_size": 5}
    assert scaling.operations(step) == 3 * 31 * 5 * scaling.operations(sizes)


def test_fits_put_the_points_of_a_curve_together() -> None:
    """Each curve has its points in order of x, a fit a side, and on the context curve the part that grows."""
    found = curves.fits([*_results()[::-1], {"name": "train/small", "section": "train"}])
    assert [curve["curve"] for curve in found] == list(scaling.CURVES)
    by_parameters, by_context, generation = found
    assert by_parameters["sides"]["ours"]["fit"]["exponent"] == pytest.approx(0.5)
    assert by_parameters["sides"]["P"]["fit"]["exponent"] == pytest.approx(1)
    least = by_parameters["sides"]["P"]["fit_lowest"]
    assert least["exponent"] == pytest.approx(1)
    assert least["coefficient"] == pytest.approx(3 * 0.9)
    assert 0.9 < by_parameters["operations_exponent"] < 1
    assert by_parameters["sides"]["ours"]["growing_share"] is None
    assert [point["x"] for point in by_context["sides"]["ours"]["points"]] == [64, 128, 256, 512, 1024]
    assert by_context["sides"]["ours"]["growing_share"] == pytest.approx(1024 / 1124)
    # Attention's share of the operations: its half of the context, by the layers' 13 widths and the head.
    attention = 2 * 256 * 1024 / 2
    rest = 13 * 256**2 + 256 * 256 / 4 + 2 * 256 / 2
    assert by_context["operations_growing_share"] == pytest.approx(attention / (attention + rest))
    assert len(generation["sides"]["ours"]["points"]) == 7


def test_a_curve_of_two_points_is_not_fitted() -> None:
    """Chosen by --filter, a curve may have too few points; a peer that was skipped at some has none."""
    results = [row for row in _results() if "dim-64" in row["name"] or "dim-128" in row["name"]]
    assert curves.fits(results) == []
    results = [row for row in _results() if "by-context" in row["name"]]
    for row in results[1:4]:
        row["peers"] = {}
    assert list(curves.fits(results)[0]["sides"]) == ["ours"]


def test_quick_run_gives_points_fits_and_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`bench scaling --quick --json` measures, and its document holds what the report and the plot show."""
    monkeypatch.setattr(scaling, "_STEP_TOKENS", 256)
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    words = ["scaling", "--quick", "--rounds", "1", "--json", "--out", str(tmp_path / "scaling.json")]
    words += ["--plot", str(tmp_path / "scaling.png")] if HAS_MATPLOTLIB else []
    assert cli.run(parser.parse_args(words)) == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["rows"]) == 9
    assert [curve["curve"] for curve in document["fits"]] == list(scaling.CURVES)
    for curve in document["fits"]:
        found = curve["sides"]["ours"]
        assert len(found["points"]) == 3
        assert all(0 < p["lowest"] <= p["median"] <= p["highest"] for p in found["points"])
        assert math.isfinite(found["fit"]["exponent"])
        assert found["fit"]["standard_error"] >= 0
    results = report.load_results(tmp_path)
    text = report.render_benchmarks(results)
    assert "### Training step by context" in text
    assert ("![Cost as work grows](tools/benchmark_results/scaling.png)" in text) is HAS_MATPLOTLIB
    law = document["fits"][0]["sides"]["ours"]["fit"]
    assert f"- ours: {law['exponent']:.3f} ± {law['standard_error']:.3f}; of the fastest rounds " in text


def test_report_shows_points_and_exponents() -> None:
    """A table a curve with both sides' medians, spreads and local exponents, and the fits below."""
    document: dict[str, Any] = {
        "command": "pyhybrid bench scaling --peers", "versions": {}, "rows": _results(),
        "machine": {"cpu": "c", "isa": "i", "compiler": "g"},
    }  # fmt: skip
    text = report.render_benchmarks({"scaling": document})
    assert "| context | ours: median (spread), ms | local exponent | P: median (spread), ms | " in text
    assert "| 64 | 164 (147.6 to 196.8) |  | 192 (172.8 to 230.4) |  |" in text
    assert "| 128 | 228 (205.2 to 273.6) | 0.48 | 384 (345.6 to 460.8) | 1.00 |" in text
    assert "- ours: 0.500 ± 0.000; of the fastest rounds 0.500 ± 0.000\n- P: 1.000 ± 0.000; of the " in text
    assert "1.000 ± 0.000\n- operations: 0.9" in text
    assert "; 91% at context 1,024 grows with the context (straight line)" in text
    assert "skipped" not in text
    document["rows"] = [row | {"peers": {}, "skipped": {"P": "not installed: p"}} for row in _results()]
    assert report.render_benchmarks({"scaling": document}).count("- P: skipped: not installed: p\n") == 3


@pytest.mark.skipif(not HAS_MATPLOTLIB, reason="needs matplotlib: pip install 'pyhybrid[plot]'")
def test_plot_draws_curves_and_their_exponents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three panels with the exponents in their legends; too few points are said, not an error."""
    from matplotlib import pyplot

    from pyhybrid.benchmarks.plot import plot

    legends: list[list[str]] = []

    def keep(figure: Any) -> None:
        panels = [axes.get_legend() for axes in figure.axes]
        legends.extend([text.get_text() for text in legend.get_texts()] for legend in panels if legend)

    monkeypatch.setattr(pyplot, "close", keep)
    assert plot(_results(), tmp_path / "s.png") == [tmp_path / "s.png"]
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    assert len(legends) == 3
    assert "pyhybrid: exponent 0.50 ± 0.00" in legends[0]
    assert "P: exponent 1.00 ± 0.00" in legends[0]
    plot(_results()[:1], tmp_path / "few.png")
    assert len(legends) == 3


def test_a_side_refuses_another_number_of_parameters() -> None:
    """The number on the axis is that of the model."""
    with pytest.raises(ValueError, match="its row says 1"):
        scaling.Generate(parameters=1, dim=64, tokens=2, seconds=0.0, threads=1)


@pytest.mark.skipif(not HAS_TORCH, reason="needs PyTorch: pip install 'pyhybrid[peers]'")
@pytest.mark.parametrize("curve", ["step-by-parameters/dim-64", "token-by-parameters/dim-64"])
def test_sides_agree_and_are_timed(curve: str) -> None:
    """Both sides give the same loss or logits, and a time each."""
    from pyhybrid.benchmarks.measure import measure

    row = next(row for row in rows("scaling", Options(quick=True)) if row.name == f"scaling/{curve}")
    result = measure(row, peers=True, rounds=1)
    assert set(result["peers"]) == {"PyTorch eager"}
    assert result["ours"]["median"] > 0
