"""The documents' classes of one backend each, over the dispatcher's backends.

Place in the data flow: for the user; HybridDispatcher is the canonical way. A class whose backend is absent
or switched off warns once, when it is made, of what runs instead; it never falls back silently.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from pyhybrid._backends import Backend, Clusters, backends
from pyhybrid._buffers import Array, float_array
from pyhybrid._cluster_calls import matrix
from pyhybrid._errors import InvalidArgumentError, StateError

__all__ = [
    "C_COMPILATION_INSTRUCTIONS",
    "GPU_AVAILABLE",
    "HAS_GPU",
    "CConstraintOperator",
    "CHybridOptimizer",
    "CMatrixOps",
    "CPPHybridOptimizer",
    "CPPKMeans",
    "CPPOptimizationStep",
    "CPPQuantizer",
    "CQuantizer",
    "GPUKMeans",
    "GPUMatrixOps",
    "GPUQuantizer",
    "GPUTrainingBackend",
]

#: Whether a GPU computes; not only whether a package can be imported.
HAS_GPU: bool = backends()["gpu"].reason is None
GPU_AVAILABLE: bool = HAS_GPU
_HAS_CPP: bool = backends()["simd"].reason is None
_HAS_C: bool = backends()["c"].reason is None

C_COMPILATION_INSTRUCTIONS = "The C library is part of this package: `pip install .` compiled it already."


class _OnBackend:
    """A class that runs on one backend.

    Args:
        wanted: the backend's name.
        use: whether it is asked for; if not, NumPy runs.
    """

    def __init__(self, wanted: str, use: bool) -> None:
        if not isinstance(use, bool):
            raise InvalidArgumentError(f"use_{wanted} is {use!r}; give True or False")
        self.backend: Backend = backends()[wanted if use else "numpy"]
        if self.backend.reason is not None:
            reason, self.backend = self.backend.reason, backends()["simd"]
            warnings.warn(
                f"{type(self).__name__}: {reason}; the C core runs instead "
                f"({self.backend.describe()['isa']}, {self.backend.describe()['threads']} threads)",
                stacklevel=3,
            )


class _Quantizer(_OnBackend):
    def __init__(self, wanted: str, use: bool, scale: float) -> None:
        super().__init__(wanted, use)
        self.scale = scale

    def quantize(self, values: npt.ArrayLike) -> Array:
        """Rounds to the levels -1, -0.5, 0, 0.5, 1 times the scale; see `pyhybrid.quantize_levels`."""
        return self.backend.quantize(values, scale=self.scale)

    def _gradients(self, gradients: npt.ArrayLike) -> tuple[Array, float]:
        """Five levels of the largest magnitude, and the norm of what that changed."""
        array = float_array(gradients, "gradients")
        if array.size == 0:
            raise InvalidArgumentError("gradients is empty; give at least one value")
        peak = array.dtype.type(np.abs(array).max())
        if peak == 0:
            return array.copy(), 0.0
        self.backend.norm(array)  # refuses NaN and infinity
        quantized = self.backend.quantize(array / peak, scale=float(peak))
        return quantized, self.backend.norm(quantized - array)


class _KMeans(_OnBackend):
    def __init__(
        self, wanted: str, use: bool, n_clusters: int, max_iter: int, tol: float, random_state: Any
    ) -> None:
        super().__init__(wanted, use)
        self.n_clusters, self.max_iter, self.tol, self.random_state = n_clusters, max_iter, tol, random_state
        self.centroids: Array | None = None
        self.labels: Array | None = None

    def fit(self, X: npt.ArrayLike) -> Any:
        """Clusters [n, features]; sets `labels` and `centroids`; returns itself."""
        fit = {"max_iter": self.max_iter, "tol": self.tol, "random_state": self.random_state}
        self.labels, self.centroids = self.backend.kmeans(X, self.n_clusters, **fit)
        return self

    def predict(self, X: npt.ArrayLike) -> Array:
        """Returns the nearest centroid of each row.

        Raises:
            StateError: not fitted.
        """
        if self.centroids is None:
            raise StateError(f"{type(self).__name__} is not fitted; call fit first")
        points = matrix(X, "X", self.centroids.dtype)
        if points.shape[1] != self.centroids.shape[1]:
            raise InvalidArgumentError(
                f"X has {points.shape[1]} features; {self.centroids.shape[1]} were fitted"
            )
        return self.backend.nearest(points, self.centroids)


class GPUQuantizer(_Quantizer):
    """The element-wise quantiser on the GPU.

    Args:
        use_gpu: False for NumPy.
        scale: of the levels.
    """

    def __init__(self, use_gpu: bool = True, scale: float = 1.0) -> None:
        super().__init__("gpu", use_gpu, scale)

    def quantize_gradients_gpu(self, gradients: npt.ArrayLike) -> tuple[Array, float]:
        """Returns five levels of the largest magnitude, and the norm of what that changed."""
        return self._gradients(gradients)


class CPPQuantizer(_Quantizer):
    """The element-wise quantiser with every instruction set and thread.

    Args:
        use_cpp: False for NumPy.
        scale: of the levels.
    """

    def __init__(self, use_cpp: bool = True, scale: float = 1.0) -> None:
        super().__init__("simd", use_cpp, scale)


class CQuantizer(_Quantizer):
    """The element-wise quantiser in plain C, on one thread.

    Args:
        use_c: False for NumPy.
        scale: of the levels.
    """

    def __init__(self, use_c: bool = True, scale: float = 1.0) -> None:
        super().__init__("c", use_c, scale)

    def quantize_block(self, values: npt.ArrayLike, block_size: int = 4096) -> Array:
        """`quantize`; the C core chooses its own blocks, so block_size only has to be at least 1."""
        if isinstance(block_size, bool) or not isinstance(block_size, int) or block_size < 1:
            raise InvalidArgumentError(f"block_size is {block_size!r}; give a whole number of at least 1")
        return self.quantize(values)

    def quantize_simd(self, values: npt.ArrayLike) -> Array:
        """`quantize` with vector instructions: backend `simd`, the same bits."""
        return backends()["simd"].quantize(values, scale=self.scale)


class GPUKMeans(_KMeans):
    """K-means on the GPU; arguments are those of `pyhybrid.KMeans`, and use_gpu=False for NumPy."""

    def __init__(
        self,
        n_clusters: int,
        max_iter: int = 100,
        tol: float = 1e-4,
        use_gpu: bool = True,
        random_state: Any = None,
    ) -> None:
        super().__init__("gpu", use_gpu, n_clusters, max_iter, tol, random_state)


class CPPKMeans(_KMeans):
    """K-means in the C core; arguments are those of `pyhybrid.KMeans`, and use_cpp=False for NumPy."""

    def __init__(
        self,
        n_clusters: int,
        max_iter: int = 100,
        tol: float = 1e-4,
        use_cpp: bool = True,
        random_state: Any = None,
    ) -> None:
        super().__init__("simd", use_cpp, n_clusters, max_iter, tol, random_state)


class GPUMatrixOps(_OnBackend):
    """Products, sums and norms on the GPU.

    Args:
        use_gpu: False for NumPy.
    """

    def __init__(self, use_gpu: bool = True) -> None:
        super().__init__("gpu", use_gpu)

    def matmul(self, a: npt.ArrayLike, b: npt.ArrayLike) -> Array:
        """Returns a b of float matrices; the C core multiplies float32 only."""
        return self.backend.matmul(a, b)

    def batch_matmul(self, a: npt.ArrayLike, b: npt.ArrayLike) -> Array:
        """Returns the products of [batch, m, k] and [batch, k, n]."""
        left, right = float_array(a, "a", (None, None, None)), float_array(b, "b", (None, None, None))
        if len(left) != len(right) or len(left) == 0:
            raise InvalidArgumentError(
                f"a has {len(left)} matrices, b {len(right)}; give as many, at least 1"
            )
        return np.stack([self.backend.matmul(x, y) for x, y in zip(left, right, strict=True)])

    def reduce_sum(self, values: npt.ArrayLike) -> float:
        """Returns the sum, in fp64; by NumPy, as no backend has it."""
        return float(float_array(values, "values").sum(dtype=np.float64))

    def norm(self, values: npt.ArrayLike) -> float:
        """Returns the Euclidean norm, summed in fp64."""
        return self.backend.norm(values)


class CMatrixOps(_OnBackend):
    """Dot product and length of vectors in plain C.

    Args:
        use_c: False for NumPy.
    """

    def __init__(self, use_c: bool = True) -> None:
        super().__init__("c", use_c)

    def dot_product(self, a: npt.ArrayLike, b: npt.ArrayLike) -> float:
        """Returns the dot product of two float32 vectors."""
        left, right = float_array(a, "a", (None,)), float_array(b, "b", (None,))
        return float(self.backend.matmul(left[None, :], right[:, None])[0, 0])

    def vector_magnitude(self, values: npt.ArrayLike) -> float:
        """Returns the Euclidean norm, summed in fp64."""
        return self.backend.norm(values)


class CConstraintOperator(_OnBackend):
    """The bound of a norm in plain C.

    Args:
        use_c: False for NumPy.
    """

    def __init__(self, use_c: bool = True) -> None:
        super().__init__("c", use_c)

    def constrain_norm(self, values: npt.ArrayLike, radius: float) -> tuple[Array, bool]:
        """Returns the vector, no longer than the radius, and whether it was shortened."""
        return self.backend.constrain(values, radius)


class CPPOptimizationStep(CConstraintOperator):
    """The bound of a norm with every instruction set and thread.

    Args:
        use_cpp: False for NumPy.
    """

    def __init__(self, use_cpp: bool = True) -> None:
        _OnBackend.__init__(self, "simd", use_cpp)

    def apply_constraint(self, update: npt.ArrayLike, constraint_radius: float) -> tuple[Array, bool]:
        """`constrain_norm`."""
        return self.constrain_norm(update, constraint_radius)


class CPPHybridOptimizer(_OnBackend):
    """Quantiser, K-means and constraint of the backend `simd`.

    Args:
        use_cpp: False for NumPy.
    """

    def __init__(self, use_cpp: bool = True) -> None:
        super().__init__("simd", use_cpp)
        self.quantizer, self.step = CPPQuantizer(use_cpp), CPPOptimizationStep(use_cpp)

    def get_backend_info(self) -> dict[str, Any]:
        """Returns name, label, availability, instruction set and threads."""
        return self.backend.describe()


class CHybridOptimizer(_OnBackend):
    """Quantiser, matrix operations and constraint of the backend `c`.

    Args:
        use_c: False for NumPy.
    """

    def __init__(self, use_c: bool = True) -> None:
        super().__init__("c", use_c)
        self.quantizer, self.matrix_ops = CQuantizer(use_c), CMatrixOps(use_c)
        self.constraint = CConstraintOperator(use_c)

    def get_backend_info(self) -> dict[str, Any]:
        """Returns name, label, availability, instruction set and threads."""
        return self.backend.describe()


class GPUTrainingBackend(_OnBackend):
    """Quantiser, K-means and gradients on the GPU.

    Args:
        use_gpu: False for NumPy.
        device_id: number of the device.
    """

    def __init__(self, use_gpu: bool = True, device_id: int = 0) -> None:
        super().__init__("gpu", use_gpu)
        self.device_id = device_id

    def get_device_info(self) -> dict[str, Any]:
        """Returns what runs, and whether a GPU is there and why not."""
        gpu = backends()["gpu"]
        return self.backend.describe() | {"gpu_available": gpu.reason is None, "gpu_reason": gpu.reason}

    def optimize_quantization(self, values: npt.ArrayLike, scale: float = 1.0) -> Array:
        """Rounds to five levels."""
        return self.backend.quantize(values, scale=scale)

    def optimize_kmeans(self, points: npt.ArrayLike, n_clusters: int, **options: Any) -> Clusters:
        """Clusters points; options are those of `HybridDispatcher.kmeans`."""
        return self.backend.kmeans(points, n_clusters, **options)

    def optimize_gradients(self, gradients: npt.ArrayLike, radius: float = np.inf) -> tuple[Array, bool]:
        """Bounds the norm of gradients."""
        return self.backend.constrain(gradients, radius)
