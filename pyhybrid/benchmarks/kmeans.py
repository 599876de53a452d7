"""K-means beside scikit-learn and faiss: twenty of Lloyd's iterations from one start; and how its cost grows.

The points are standard normal: they have no clusters, so that labels keep changing, bounds spare little,
and every side does all of the work in every iteration. OpenBLAS chooses kernels by the processor's model,
and may take a new one for an older: scikit-learn and faiss run as they are and with the kernels of a
SkylakeX, and the better of both is the peer. A figure counts the multiply-adds of the twenty assignments,
over the time of the whole call.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyhybrid.benchmarks.curves import Curve
from pyhybrid.benchmarks.registry import Answer, Goal, Limit, Options, Row, UnavailableError
from pyhybrid.benchmarks.timing import Operation, hidden, rounds

__all__ = [
    "CURVES",
    "Faiss",
    "FaissSkylake",
    "Fit",
    "FitSklearn",
    "Iterations",
    "Ours",
    "Sklearn",
    "SklearnSkylake",
    "rows",
]

_ITERATIONS = 20
#: n, d, k, and how many times as fast as the best scikit-learn the fit must be.
_SIZES = ((10_000, 64, 10, 3.0), (100_000, 128, 64, 1.8), (1_000_000, 32, 256, 2.0))
# The sides round differently, and points in the middle between two centroids decide by it: after twenty
# iterations some labels in a thousand differ, by any number, and 2 in a hundred of a million points (a norm
# of 0.11); the inertia is what must agree.
_AGREEMENT = {"inertia": 1e-4, "labels": 0.15}


def _points(n: int, d: int) -> NDArray[np.float32]:
    return np.random.default_rng(7).standard_normal((n, d), np.float32)


class _KMeans(Operation):
    def __init__(self, *, n: int, d: int, k: int, threads: int, seconds: float = 0.2) -> None:
        super().__init__(2.0 * n * d * k * _ITERATIONS, seconds)
        self.points = _points(n, d)
        self.start, self.k = self.points[:k].copy(), k
        self.prepare(threads)

    def prepare(self, threads: int, /) -> None:
        """Imports, and sets threads; not timed."""

    def answer(self) -> Answer:
        """Labels [n], and their inertia."""
        centroids, labels = self.call()
        difference = self.points - centroids[labels]
        return {"inertia": np.array(np.vdot(difference, difference)), "labels": np.array(labels, np.float64)}


class Ours(_KMeans):
    """pyhybrid.KMeans."""

    def prepare(self, threads: int) -> None:
        from pyhybrid._context import Context
        from pyhybrid.clustering import KMeans

        self.estimator = KMeans(
            self.k, init=self.start, max_iter=_ITERATIONS, tol=0, context=Context(threads=threads)
        )

    def call(self) -> Any:
        fit = self.estimator.fit(self.points)
        return fit.cluster_centers_, fit.labels_


class Sklearn(_KMeans):
    """sklearn.cluster.KMeans, algorithm 'lloyd'."""

    def prepare(self, _: int) -> None:
        from sklearn.cluster import KMeans

        self.estimator = KMeans(
            self.k, init=self.start, n_init=1, max_iter=_ITERATIONS, tol=0, algorithm="lloyd"
        )

    def call(self) -> Any:
        fit = self.estimator.fit(self.points)
        return fit.cluster_centers_, fit.labels_


def _require_avx512() -> None:
    from pyhybrid._context import detected_isa

    if not detected_isa().startswith("avx512"):
        raise UnavailableError("this processor has no AVX-512")


class SklearnSkylake(Sklearn):
    """The same with the kernels of a SkylakeX: the row sets OPENBLAS_CORETYPE for its process."""

    def prepare(self, threads: int) -> None:
        _require_avx512()
        super().prepare(threads)


class Faiss(_KMeans):
    """faiss.Kmeans; it gives no labels, which are found after the measurement."""

    def prepare(self, threads: int) -> None:
        import faiss

        self.library: Any = faiss
        self.library.omp_set_num_threads(threads)

    def call(self) -> Any:
        n, d = self.points.shape
        self.found = self.library.Kmeans(
            d, self.k, niter=_ITERATIONS, min_points_per_centroid=1, max_points_per_centroid=n
        )
        self.found.train(self.points, init_centroids=self.start)

    def answer(self) -> Answer:
        """As above."""
        self.call()
        labels = self.found.index.search(self.points, 1)[1][:, 0]
        difference = self.points - self.found.centroids[labels]
        return {"inertia": np.array(np.vdot(difference, difference)), "labels": np.array(labels, np.float64)}


class FaissSkylake(Faiss):
    """The same with the kernels of a SkylakeX."""

    def prepare(self, threads: int) -> None:
        _require_avx512()
        super().prepare(threads)


class Fit:
    """Our time of a fit: a point of the curves of cost."""

    side_class: type[_KMeans] = Ours

    def __init__(self, *, n: int, d: int, k: int, seconds: float, threads: int) -> None:
        self.side = self.side_class(n=n, d=d, k=k, threads=threads)
        self.seconds = seconds

    def answer(self) -> Answer:
        """Labels and inertia, as above."""
        return self.side.answer()

    def run(self, _: int) -> float:
        """Milliseconds an iteration."""
        calls, start = 0, time.perf_counter()
        while (seconds := time.perf_counter() - start) < self.seconds or not calls:
            self.side.call()
            calls += 1
        return 1e3 * seconds / calls / _ITERATIONS


class FitSklearn(Fit):
    """scikit-learn's."""

    side_class = Sklearn


class Iterations:
    """Iterations of a whole fit (k-means++, tol 1e-4, at most 1000) on points without clusters."""

    def __init__(self, *, n: int, d: int, k: int, threads: int) -> None:
        self.sizes, self.threads = (n, d, k), threads

    def answer(self) -> Answer:
        """Nothing to compare with."""
        return {}

    def run(self, round_number: int) -> float:
        """Iterations; the round is the seed of points and start."""
        from pyhybrid._context import Context
        from pyhybrid.clustering import KMeans

        n, d, k = self.sizes
        points = np.random.default_rng(round_number).standard_normal((n, d), np.float32)
        fit = KMeans(
            k,
            n_init=1,
            max_iter=1000,
            tol=1e-4,
            random_state=round_number,
            context=Context(threads=self.threads),
        )
        return float(fit.fit(points).n_iter_)


def _row(n: int, d: int, k: int, factor: float, threads: int, options: Options) -> Row:
    here = "pyhybrid.benchmarks.kmeans"
    operations = 2.0 * n * d * k * _ITERATIONS
    sklearn, skylake = "scikit-learn", "scikit-learn SkylakeX"
    core = {"OPENBLAS_CORETYPE": "SKYLAKEX"}
    text = f"K-means of {n:,} x {d} points, k = {k}, on {threads} thread(s) is {factor:g} times as fast as"
    return Row(
        name=f"kmeans/{n}x{d}/k-{k}" + (f"/{threads}-threads" if threads > 1 else ""),
        section="kmeans",
        unit="GFLOP/s",
        better="higher",
        ours=f"{here}:Ours",
        peers={
            sklearn: f"{here}:Sklearn",
            skylake: f"{here}:SklearnSkylake",
            "faiss": f"{here}:Faiss",
            "faiss SkylakeX": f"{here}:FaissSkylake",
        },
        sizes={"n": n, "d": d, "k": k},
        hidden=hidden(options),
        threads=threads,
        rounds=rounds(options, operations),
        agreement=_AGREEMENT,
        peer_environment={skylake: core, "faiss SkylakeX": core},
        limits=(Limit(kind="fma", per_unit=1e9),),
        goals=tuple(
            Goal(text=f"{text} {peer}.", kind="ratio", limit=factor, peer=peer) for peer in (sklearn, skylake)
        ),
        note=f"{_ITERATIONS} iterations from the same start on points without clusters",
    )


def _cost_rows(options: Options) -> list[Row]:
    """One size grows at a time, from 20,000 points of 32 dimensions in 32 clusters."""
    base = {"n": 20_000, "d": 32, "k": 32}
    points = [("n", (5_000, 20_000, 80_000, 320_000)), ("d", (8, 32, 128, 512)), ("k", (8, 32, 128, 512))]
    return [
        Row(
            name=f"kmeans/cost-by-{name}/{name}-{value}",
            section="kmeans",
            unit="ms",
            better="lower",
            ours="pyhybrid.benchmarks.kmeans:Fit",
            peers={"scikit-learn": "pyhybrid.benchmarks.kmeans:FitSklearn"},
            agreement=_AGREEMENT,
            sizes=base | {name: value},
            hidden=hidden(options),
            rounds=3,
            note="an iteration, all that a call does once included",
        )
        for name, values in points
        for value in values
    ]


def _operations(sizes: Mapping[str, Any]) -> float:
    """Of the distances of an iteration."""
    return 2.0 * float(sizes["n"]) * float(sizes["d"]) * float(sizes["k"])


#: By the beginning of a row's name.
CURVES: dict[str, Curve] = {
    f"kmeans/cost-by-{x}": Curve(
        title=f"K-means by {label}",
        x=x,
        x_label=label,
        what="time of an iteration",
        theory=f"An iteration takes n d k multiply-adds: proportional to {x}, {theory}.",
        operations=_operations,
    )
    for x, label, theory in (
        ("n", "points", "but for what a call does once"),
        ("d", "dimensions", "but for the search of the minimum, which does not depend on it"),
        ("k", "clusters", "but for the sums of the members, which do not depend on it"),
    )
}


def rows(options: Options) -> list[Row]:
    """Three sizes beside the peers; and, but for `quick`, the cost by size."""
    sizes = _SIZES[:1] if options.quick else _SIZES
    found = [_row(*size, threads, options) for threads in options.kernel_threads for size in sizes]
    iterations = Row(
        name="kmeans/iterations/10000x128/k-10",
        section="kmeans",
        unit="iterations",
        better="lower",
        ours="pyhybrid.benchmarks.kmeans:Iterations",
        sizes={"n": 10_000, "d": 128, "k": 10},
        rounds=10,
        goal=Goal(text="K-means converges within 100 iterations (median).", kind="value", limit=100),
        note="tol 1e-4, points without clusters, which take the longest; one round a seed",
    )
    return found if options.quick else [*found, iterations, *_cost_rows(options)]
