"""The design documents' speed table, measured: a million values quantised, ten thousand points clustered.

The documents' columns are NumPy, C, C++ and GPU; here C is the C core without vector instructions on one
thread, and C++ the same core with all of them on the row's threads. NumPy is written well: in place, into an
array that is there already, without the check for NaN that the C core makes. The documents leave open what
the points of K-means are; here 10,000 of 128 features, standard normal, in 10 clusters, from the first ten
points, for twenty iterations on every side. compat/benchmarks.py measures the same sides at other sizes.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from pyhybrid._backends import Backend, backends, native_backend
from pyhybrid.benchmarks.registry import Answer, Options, Row, UnavailableError
from pyhybrid.benchmarks.timing import hidden, rounds

__all__ = ["KMEANS_CLUSTERS", "KMEANS_FEATURES", "SIDES", "rows"]

KMEANS_FEATURES, KMEANS_CLUSTERS, KMEANS_ITERATIONS = 128, 10, 20


class _Side:
    """Times one call in milliseconds.

    Args:
        threads: of the side.
        seconds: least time of one measurement.
        sizes: of the operation.
    """

    def __init__(self, *, threads: int = 1, seconds: float = 0.2, **sizes: int) -> None:
        self.seconds, self.warm = seconds, False
        self.backend = self.make_backend(threads)
        self.prepare(**sizes)

    def make_backend(self, threads: int) -> Backend:
        """The backend that runs."""
        raise NotImplementedError

    def prepare(self, **sizes: int) -> None:
        """Inputs; not timed."""
        raise NotImplementedError

    def call(self) -> Any:
        """Does the operation once."""
        raise NotImplementedError

    def run(self, _: int) -> float:
        """Milliseconds a call, over as many as fill the measurement."""
        if not self.warm:
            self.call()
            self.warm = True
        start, calls = time.perf_counter(), 0
        while (seconds := time.perf_counter() - start) < self.seconds or not calls:
            self.call()
            calls += 1
        return 1e3 * seconds / calls


class _Numpy(_Side):
    def make_backend(self, _: int) -> Backend:
        return backends()["numpy"]


class _C(_Side):
    def make_backend(self, _: int) -> Backend:
        return native_backend(1, "scalar")


class _Simd(_Side):
    def make_backend(self, threads: int) -> Backend:
        return native_backend(threads)


class _Gpu(_Side):
    def make_backend(self, _: int) -> Backend:
        reason = backends()["gpu"].reason
        if reason is not None:
            raise UnavailableError(reason)
        return backends()["gpu"]


class _Quantize(_Side):
    def prepare(self, **sizes: int) -> None:
        self.values = np.random.default_rng(5).standard_normal(sizes["n"], np.float32)
        self.out = np.empty_like(self.values)

    def call(self) -> Any:
        return self.backend.quantize(self.values)

    def answer(self) -> Answer:
        """The levels."""
        return {"values": np.asarray(self.call())}


class QuantizeNumpy(_Quantize, _Numpy):
    """np.clip, np.rint and two products, all in place."""

    def call(self) -> Any:
        out, one = self.out, np.float32(1)
        np.clip(self.values, -one, one, out=out)
        out *= 2
        np.rint(out, out=out)
        out *= np.float32(0.5)
        return out


class _QuantizeInto(_Quantize):
    """The C core into an array that is there already, as NumPy's side does."""

    def call(self) -> Any:
        from pyhybrid.quantization import quantize_levels

        return quantize_levels(self.values, out=self.out, context=getattr(self.backend, "context", None))


class QuantizeC(_QuantizeInto, _C):
    """hyb_quantize_levels_f32 without vector instructions, one thread."""


class QuantizeSimd(_QuantizeInto, _Simd):
    """hyb_quantize_levels_f32."""


class QuantizeGpu(_Quantize, _Gpu):
    """On the GPU."""


class _KMeans(_Side):
    def prepare(self, **sizes: int) -> None:
        self.points = np.random.default_rng(7).standard_normal((sizes["n"], sizes["d"]), np.float32)
        self.k = sizes["k"]

    def call(self) -> Any:
        return self.backend.kmeans(
            self.points, self.k, init=self.points[: self.k], max_iter=KMEANS_ITERATIONS, tol=0.0
        )

    def answer(self) -> Answer:
        """The inertia."""
        labels, centroids = self.call()
        difference = self.points - centroids[labels]
        return {"inertia": np.array(np.vdot(difference, difference))}


class KMeansNumpy(_KMeans, _Numpy):
    """One product an iteration, and the means of the members."""


class KMeansC(_KMeans, _C):
    """hyb_kmeans_f32 without vector instructions, one thread."""


class KMeansSimd(_KMeans, _Simd):
    """hyb_kmeans_f32."""


class KMeansGpu(_KMeans, _Gpu):
    """On the GPU."""


class _Matmul(_Side):
    def prepare(self, **sizes: int) -> None:
        rng, side = np.random.default_rng(9), sizes["n"]
        self.a, self.b = rng.standard_normal((2, side, side), np.float32)

    def call(self) -> Any:
        return self.backend.matmul(self.a, self.b)

    def answer(self) -> Answer:
        """The product."""
        return {"product": np.asarray(self.call())}


class MatmulNumpy(_Matmul, _Numpy):
    """NumPy's BLAS."""


class MatmulC(_Matmul, _C):
    """hyb_gemm without vector instructions, one thread."""


class MatmulSimd(_Matmul, _Simd):
    """hyb_gemm."""


class MatmulGpu(_Matmul, _Gpu):
    """On the GPU."""


_HERE = "pyhybrid.benchmarks.documents"
#: Sides by operation and backend.
SIDES: dict[str, dict[str, str]] = {
    operation: {
        backend: f"{_HERE}:{name}{suffix}"
        for backend, suffix in (("numpy", "Numpy"), ("c", "C"), ("simd", "Simd"), ("gpu", "Gpu"))
    }
    for operation, name in (("quantize", "Quantize"), ("kmeans", "KMeans"), ("matmul", "Matmul"))
}
_PEERS = {"NumPy": "numpy", "C": "c", "GPU": "gpu"}


def _row(
    operation: str, sizes: dict[str, int], threads: int, bound: float, note: str, options: Options
) -> Row:
    name = f"documents/{operation}/{'x'.join(map(str, sizes.values()))}"
    return Row(
        name=name + (f"/{threads}-threads" if threads > 1 else ""),
        section="documents",
        unit="ms",
        better="lower",
        ours=SIDES[operation]["simd"],
        peers={label: SIDES[operation][backend] for label, backend in _PEERS.items()},
        sizes=sizes,
        hidden=hidden(options),
        threads=threads,
        rounds=rounds(options),
        agreement={"values" if operation == "quantize" else "inertia": bound},
        note=note,
    )


def rows(options: Options) -> list[Row]:
    """Both lines of the documents' table at every chosen number of threads."""
    quantize = "the documents say, of hardware that they do not name: NumPy 45, C 15, C++ 3, GPU 1 ms"
    kmeans = (
        f"{KMEANS_ITERATIONS} iterations; the documents say, of features, clusters, iterations and hardware "
        "that they do not name: NumPy 235, C++ 30, GPU 12 ms"
    )
    points = {"n": 10_000, "d": KMEANS_FEATURES, "k": KMEANS_CLUSTERS}
    return [
        row
        for threads in options.kernel_threads
        for row in (
            _row("quantize", {"n": 1_000_000}, threads, 0.0, quantize, options),
            _row("kmeans", points, threads, 1e-4, kmeans, options),
        )
    ]
