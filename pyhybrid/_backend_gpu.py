"""The dispatcher's backend `gpu`: arrays of the host go to the device, results come back.

Place in the data flow: beside the backends of _backends.py. The time of a call, which the dispatcher
compares, counts both ways. Arrays that stay on a device are for pyhybrid.cuda.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pyhybrid import cuda, quantization
from pyhybrid._backends import Backend, Clusters, native_backend, number
from pyhybrid._buffers import Array, float_array
from pyhybrid._cluster_calls import run_kmeans, seed_of
from pyhybrid._context import default_context
from pyhybrid._elementwise import Constrained
from pyhybrid._errors import InvalidArgumentError

__all__ = ["GpuBackend"]


class GpuBackend(Backend):
    """The CUDA module.

    Args:
        device: that computes.
    """

    name = "gpu"

    def __init__(self, device: cuda.Device) -> None:
        self.device = device

    def describe(self) -> dict[str, Any]:
        info = self.device.info
        return super().describe() | {"device": info.name, "memory_bytes": info.total_bytes}

    def lacks(self, operation: str, dtype: np.dtype[Any]) -> str | None:
        if operation in ("matmul", "kmeans") and dtype != np.float32:
            return f"{dtype}: the CUDA module has this operation for float32 only"
        return None

    def _result(self, array: cuda.DeviceArray) -> Array:
        """Waits, and brings a result back."""
        self.device.synchronize()
        return array.numpy()

    def quantize(self, values: npt.ArrayLike, *, levels: Literal[3, 5] = 5, scale: float = 1.0) -> Array:
        if isinstance(levels, bool) or levels not in (3, 5):
            raise InvalidArgumentError(f"levels is {levels!r}; give 5 or 3")
        array = float_array(values, "values")
        number(scale, "scale", -float(np.finfo(array.dtype).max), float(np.finfo(array.dtype).max))
        if array.size == 0:
            return array.copy()
        given = self.device.array(array)
        return self._result(cuda.quantize_levels(given, levels, scale, device=self.device))

    def constrain(self, values: npt.ArrayLike, radius: float) -> Constrained:
        number(radius, "radius", 0.0, math.inf)
        array = float_array(values, "values")
        if array.size == 0:
            return Constrained(array.copy(), False)
        found = cuda.constrain_norm(self.device.array(array), radius, device=self.device)
        return Constrained(self._result(found.values), bool(found.is_active.numpy()[0]))

    def norm(self, values: npt.ArrayLike) -> float:
        array = float_array(values, "values")
        if array.size == 0:
            return 0.0
        found = cuda.constrain_norm(self.device.array(array), math.inf, device=self.device)
        return float(self._result(found.norm)[0])

    def nearest(self, points: Array, centroids: Array) -> Array:
        if points.dtype != np.float32:
            return native_backend(None).nearest(points, centroids)
        given = self.device.array(points), self.device.array(centroids)
        return self._result(cuda.nearest(*given, device=self.device))

    def _product(self, a: Array, b: Array) -> Array:
        if a.shape[1] == 0 or a.shape[0] == 0 or b.shape[1] == 0:
            return quantization.gemm(a, b)
        given = self.device.array(a), self.device.array(b)
        return self._result(cuda.gemm(*given, device=self.device))

    def _clusters(self, points: Array, n_clusters: int, start: Array | None, fit: dict[str, Any]) -> Clusters:
        """Without a start the processor draws one and makes the first iteration: the labels are the same."""
        seed, max_iter = fit["random_state"], fit["max_iter"]
        if start is None:
            options = {"max_iterations": 1, "tolerance": fit["tol"], "seed": seed_of(seed)}
            first = run_kmeans(points, None, n_clusters, default_context(), None, **options)
            if max_iter == 1:
                return Clusters(first.labels, first.centroids)
            start, max_iter = first.centroids, max_iter - 1
        data, begin = self.device.array(points), self.device.array(start)
        found = cuda.kmeans(data, begin, max_iter=max_iter, tol=fit["tol"], device=self.device)
        return Clusters(found.labels.numpy(), found.centroids.numpy())
