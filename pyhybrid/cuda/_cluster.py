"""K-means on a device.

Place in the data flow: what `pyhybrid.KMeans` is for the processor, from given centroids, with its labels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pyhybrid._native import ffi, lib
from pyhybrid.cuda._arrays import current_stream, make_like, view
from pyhybrid.cuda._device import Device, device_or_default

__all__ = ["Clusters", "kmeans", "nearest"]


class Clusters(NamedTuple):
    """What K-means gives.

    Args:
        centroids: float32 [clusters, features] on the device.
        labels: int32 [points] on the device.
        inertia: sum of squared distances to the own centroid.
        n_iterations: of the run.
        converged: False if max_iter ended it.
    """

    centroids: Any
    labels: Any
    inertia: float
    n_iterations: int
    converged: bool


def nearest(points: Any, centroids: Any, *, device: Device | None = None) -> Any:
    """Returns the labels int32 [points] of the nearest centroids; both float32 on the device."""
    gpu, stream = device_or_default(device), current_stream(points)
    data = view(points, np.float32, "points", (None, None), stream=stream)
    centres = view(centroids, np.float32, "centroids", (None, data.shape[1]), stream=stream)
    labels = make_like(points, gpu, data.shape[:1], np.int32)
    given = data.address, *data.shape, centres.address, centres.shape[0]
    gpu.call(lib.hyb_cuda_cluster_nearest, *given, view(labels, np.int32, "labels").address, 0, stream)
    return labels


def kmeans(
    points: Any, centroids: Any, *, max_iter: int = 300, tol: float = 1e-4, device: Device | None = None
) -> Clusters:
    """Lloyd's iterations from given centroids; waits for the result.

    Args:
        points: float32 [points, features] on the device.
        centroids: float32 [clusters, features] to start from, on the device; they stay as they are.
        max_iter: most iterations.
        tol: as for `pyhybrid.KMeans`.
        device: that they are on; None for the first one.

    Raises:
        NotFiniteError: a NaN or an infinity.
        OutOfMemoryError: the device has no room for the work.
    """
    gpu, stream = device_or_default(device), current_stream(points)
    data = view(points, np.float32, "points", (None, None), stream=stream)
    start = view(centroids, np.float32, "centroids", (None, data.shape[1]), stream=stream)
    made = make_like(points, gpu, start.shape, np.float32)
    labels = make_like(points, gpu, data.shape[:1], np.int32)
    target = view(made, np.float32, "centroids").address
    gpu.copy(start.address, target, 4 * start.size, stream)
    options, result = ffi.new("hyb_kmeans_options *"), ffi.new("hyb_kmeans_result *")
    options.struct_size = ffi.sizeof("hyb_kmeans_options")
    options.n_clusters, options.init, options.n_init = start.shape[0], lib.HYB_KMEANS_GIVEN, 1
    options.max_iterations, options.tolerance = max_iter, tol
    given = options, data.address, *data.shape, target, view(labels, np.int32, "labels").address
    gpu.call(lib.hyb_cuda_kmeans, *given, result, stream)
    return Clusters(made, labels, result.inertia, result.n_iterations, bool(result.converged))
