"""The documents' PerformanceBenchmark over the benchmark registry's sides.

Place in the data flow: for the user; `pyhybrid bench` is the canonical way, with peers and spreads. Every
figure is measured when it is asked for; a backend that is absent has no row, and the report says why.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyhybrid._backends import LABELS
from pyhybrid._cluster_calls import whole
from pyhybrid._errors import InvalidArgumentError
from pyhybrid.benchmarks.documents import KMEANS_CLUSTERS, KMEANS_FEATURES, SIDES
from pyhybrid.benchmarks.measure import machine
from pyhybrid.benchmarks.memory import METHOD, measure_apart

__all__ = ["BenchmarkResult", "PerformanceBenchmark"]


@dataclass(frozen=True)
class BenchmarkResult:
    """One measurement.

    Args:
        operation: 'quantize', 'kmeans' or 'matmul'.
        backend: 'NumPy', 'C', 'C++' or 'GPU'.
        data_size: number of values that go in.
        time_ms: of a call, median.
        memory_mb: MiB that the calls needed on top of their inputs (`pyhybrid.benchmarks.memory`); NaN where
            the system does not tell.
        throughput_elements_per_ms: data_size / time_ms.
    """

    operation: str
    backend: str
    data_size: int
    time_ms: float
    memory_mb: float
    throughput_elements_per_ms: float


class PerformanceBenchmark:
    """Measures the backends on the documents' operations; the defaults take well under a minute.

    Args:
        quantization_sizes: numbers of values.
        kmeans_configs: (points, features, clusters) of each.
        matrix_sizes: sides of the square matrices.
        iterations: measurements, of which the median counts.
        threads: of the backend C++ (`simd`); None: every processor that this process may use.

    Attributes:
        results: what was measured so far.
        config: the arguments by name.
        absent: why a backend is absent, by its label.
    """

    def __init__(
        self,
        quantization_sizes: Sequence[int] = (10_000, 100_000, 1_000_000),
        kmeans_configs: Sequence[tuple[int, int, int]] = (
            (1_000, KMEANS_FEATURES, KMEANS_CLUSTERS),
            (10_000, KMEANS_FEATURES, KMEANS_CLUSTERS),
        ),
        matrix_sizes: Sequence[int] = (128, 512),
        iterations: int = 3,
        threads: int | None = None,
    ) -> None:
        if threads is None:
            affinity = getattr(os, "sched_getaffinity", None)
            threads = min(len(affinity(0)) if affinity else os.cpu_count() or 1, 256)
        self.config: dict[str, Any] = {
            "quantization_sizes": [whole(n, "quantization_sizes", 1) for n in quantization_sizes],
            "kmeans_configs": [self._kmeans_sizes(sizes) for sizes in kmeans_configs],
            "matrix_sizes": [whole(n, "matrix_sizes", 1) for n in matrix_sizes],
            "iterations": whole(iterations, "iterations", 1),
            "threads": whole(threads, "threads", 1, 256),
        }
        self.results: list[BenchmarkResult] = []
        self.absent: dict[str, str] = {}

    @staticmethod
    def _kmeans_sizes(sizes: Sequence[int]) -> tuple[int, int, int]:
        if isinstance(sizes, str) or not hasattr(sizes, "__len__") or len(sizes) != 3:
            raise InvalidArgumentError(f"kmeans_configs holds {sizes!r}; give (points, features, clusters)")
        n, d, k = (whole(size, "kmeans_configs", 1) for size in sizes)
        if k > n:
            raise InvalidArgumentError(f"kmeans_configs asks for {k} clusters of {n} points; ask for fewer")
        return n, d, k

    def _measure(
        self, operation: str, cases: Sequence[Mapping[str, int]], data_sizes: Sequence[int]
    ) -> list[BenchmarkResult]:
        found: list[BenchmarkResult] = []
        wanted = [{**case, "seconds": 0.03} for case in cases]
        rounds, threads = self.config["iterations"], self.config["threads"]
        for backend, factory in SIDES[operation].items() if cases else ():
            measured = measure_apart(factory, wanted, rounds, threads)
            if isinstance(measured, str):
                self.absent[LABELS[backend]] = measured
                continue
            for size, (milliseconds, extra) in zip(data_sizes, measured, strict=True):
                memory = float("nan") if extra is None else extra / 2**20
                found.append(
                    BenchmarkResult(
                        operation, LABELS[backend], size, milliseconds, memory, size / milliseconds
                    )
                )
        self.results += found
        return found

    def benchmark_quantization(self) -> list[BenchmarkResult]:
        """Measures rounding to five levels at every size on every backend."""
        sizes = self.config["quantization_sizes"]
        return self._measure("quantize", [{"n": n} for n in sizes], sizes)

    def benchmark_kmeans(self) -> list[BenchmarkResult]:
        """Measures twenty iterations of K-means from one start."""
        configs = self.config["kmeans_configs"]
        cases = [{"n": n, "d": d, "k": k} for n, d, k in configs]
        return self._measure("kmeans", cases, [n * d for n, d, _ in configs])

    def benchmark_matrix_operations(self) -> list[BenchmarkResult]:
        """Measures fp32 products of square matrices."""
        sides = self.config["matrix_sizes"]
        return self._measure("matmul", [{"n": n} for n in sides], [2 * n * n for n in sides])

    def generate_report(self) -> str:
        """Returns what was measured so far as a table; speed-ups are over NumPy in this run."""
        about = machine()
        lines = [
            "Backends: time, memory, throughput",
            f"{about['cpu']}, {about['isa']}, {about['compiler']}; C: scalar, 1 thread; "
            f"C++: the C core with vector instructions, {self.config['threads']} threads",
            f"memory: {METHOD}",
            "",
            f"{'operation':<10}{'values':>12}  {'backend':<8}{'ms':>10}{'MiB':>9}{'values/ms':>14}"
            f"{'speed-up':>10}",
        ]
        plain = {(r.operation, r.data_size): r.time_ms for r in self.results if r.backend == LABELS["numpy"]}
        for r in sorted(self.results, key=lambda r: (r.operation, r.data_size)):
            base = plain.get((r.operation, r.data_size))
            gain = "-" if base is None else f"{base / r.time_ms:.2f}x"
            lines.append(
                f"{r.operation:<10}{r.data_size:>12,}  {r.backend:<8}{r.time_ms:>10.4g}{r.memory_mb:>9.2f}"
                f"{r.throughput_elements_per_ms:>14,.0f}{gain:>10}"
            )
        if not self.results:
            lines.append("nothing was measured yet: call run_all_benchmarks()")
        lines += [f"{label}: absent, {reason}" for label, reason in self.absent.items()]
        return "\n".join(lines)

    def run_all_benchmarks(self) -> str:
        """Measures everything anew, and returns the report."""
        self.results = []
        self.benchmark_quantization()
        self.benchmark_kmeans()
        self.benchmark_matrix_operations()
        return self.generate_report()
