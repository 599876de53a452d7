"""PerformanceBenchmark: measured rows with memory, a report that says what is absent; the speed table."""

from __future__ import annotations

import math

import pytest

import pyhybrid as ph
from pyhybrid._backends import backends
from pyhybrid.benchmarks.documents import SIDES, rows
from pyhybrid.benchmarks.measure import measure
from pyhybrid.benchmarks.memory import measure_apart
from pyhybrid.benchmarks.registry import Options

SMALL = {
    "quantization_sizes": [1000, 2_000_000],
    "kmeans_configs": [(60, 4, 3)],
    "matrix_sizes": [16],
    "iterations": 1,
    "threads": 1,
}


def test_run_all_benchmarks_measures_every_backend() -> None:
    """Each backend that is there has a row of each size, with memory; the report names what is absent."""
    benchmark = ph.PerformanceBenchmark(**SMALL)  # type: ignore[arg-type]
    assert "nothing was measured" in benchmark.generate_report()
    report = benchmark.run_all_benchmarks()
    assert len(benchmark.results) == 3 * (2 + 1 + 1)
    for result in benchmark.results:
        assert isinstance(result, ph.BenchmarkResult)
        assert result.time_ms > 0
        assert result.throughput_elements_per_ms == pytest.approx(result.data_size / result.time_ms)
    assert {r.backend for r in benchmark.results} == {"NumPy", "C", "C++"}
    # An output of 8 MB is touched by the call, and shows; a page more or less does not matter.
    large = [r.memory_mb for r in benchmark.results if r.data_size == 2_000_000]
    assert all(math.isnan(memory) or 7 < memory < 20 for memory in large)
    assert f"GPU: absent, {backends()['gpu'].reason}" in report
    assert report.count("quantize ") == 6
    assert "1.00x" in report


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantization_sizes": [0]}, "quantization_sizes is 0"),
        ({"kmeans_configs": [(10, 2)]}, "give .points, features, clusters."),
        ({"kmeans_configs": [(2, 2, 3)]}, "3 clusters of 2 points"),
        ({"iterations": 0}, "iterations is 0"),
        ({"threads": 1000}, "threads is 1000"),
    ],
)
def test_sizes_are_checked(arguments: dict[str, object], message: str) -> None:
    """A size that cannot be measured is refused before anything runs."""
    with pytest.raises(ph.InvalidArgumentError, match=message):
        ph.PerformanceBenchmark(**arguments)  # type: ignore[arg-type]


def test_measure_apart_says_what_failed() -> None:
    """A side that fails gives its traceback; one that is absent its reason."""
    with pytest.raises(RuntimeError, match="KeyError"):
        measure_apart(SIDES["quantize"]["c"], [{"size": 3}], 1, 1)
    assert measure_apart(SIDES["quantize"]["gpu"], [{"n": 3}], 1, 1) == backends()["gpu"].reason


def test_documents_table_is_measured() -> None:
    """Both rows run beside NumPy and C with equal answers; the GPU is skipped with its reason."""
    table = rows(Options(quick=True, peers=True))
    assert [row.name for row in table] == ["documents/quantize/1000000", "documents/kmeans/10000x128x10"]
    result = measure(table[0], peers=True, rounds=1)
    assert set(result["peers"]) == {"NumPy", "C"}
    assert result["skipped"] == {"GPU": backends()["gpu"].reason}
    assert "NumPy 45, C 15, C++ 3, GPU 1 ms" in result["note"]
