"""Clusters of a run's training text: which windows are about the same.

Place in the data flow: the training split's tokens -> features of windows (window_features.py) -> K-means on
a sample of them (clustering.py) -> a label for each window, which _run_batches.py gives to the sampler.
A text is gone through in pieces, so that features of a long one are never held together.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyhybrid._cluster_calls import assign
from pyhybrid._context import Context, default_context
from pyhybrid.batches import Tokens
from pyhybrid.clustering import KMeans
from pyhybrid.window_features import WindowFeatures

__all__ = ["N_FEATURES", "WindowClusters", "cluster_windows"]

#: Features of a window.
N_FEATURES = 64
# K-means sees at most this many windows, or this many a cluster: more do not move its centroids.
_SAMPLE_WINDOWS = 16384
_SAMPLE_PER_CLUSTER = 32
# Second word of Philox's key: keeps the sample apart from other uses of the same seed ("clust" in ASCII).
_SAMPLE_STREAM = 0x636C757374
# Windows whose features are held at once.
_PIECE_WINDOWS = 32768


@dataclass(frozen=True)
class WindowClusters:
    """Clusters of windows, the largest of the sample first.

    Args:
        labels: int32 [windows], the cluster of each.
        centroids: float32 [clusters, N_FEATURES]; the labels are a function of them and the text.
        seconds: that it took.
    """

    labels: NDArray[np.int32]
    centroids: NDArray[np.float32]
    seconds: float

    @property
    def sizes(self) -> NDArray[np.int64]:
        """int64 [clusters], windows of each."""
        return np.bincount(self.labels, minlength=len(self.centroids)).astype(np.int64)

    def summary(self) -> dict[str, Any]:
        """Returns sizes, shares and the time that it took, as JSON values."""
        sizes = self.sizes
        return {
            "sizes": sizes.tolist(),
            "shares": [round(share, 4) for share in (sizes / sizes.sum()).tolist()],
            "seconds": round(self.seconds, 3),
        }


def cluster_windows(
    tokens: Tokens,
    window: int,
    n_clusters: int,
    *,
    seed: int = 0,
    context: Context | None = None,
    centroids: NDArray[np.float32] | None = None,
    progress: Callable[[int], None] | None = None,
) -> WindowClusters:
    """Clusters the windows of a text by the n-grams in them.

    Args:
        tokens: uint8, uint16 or uint32 [n].
        window: tokens a window.
        n_clusters: at most n // window.
        seed: of K-means.
        context: threads, on which the result does not depend; None: the default context.
        centroids: float32 [n_clusters, N_FEATURES] found before; None: they are found now.
        progress: told how many windows have got a label.

    Returns:
        Labels and centroids; with the same centroids the same labels on every processor.

    Raises:
        InvalidArgumentError: more clusters than windows.
    """
    begun = time.perf_counter()
    context = context or default_context()
    features = WindowFeatures(window, n_features=N_FEATURES, context=context)
    n_windows = tokens.size // window
    rows = tokens[: n_windows * window].reshape(n_windows, window)
    if centroids is None:
        centroids = _find(rows, n_clusters, features, seed)
    labels = np.empty(n_windows, np.int32)
    for first in range(0, n_windows, _PIECE_WINDOWS):
        piece = rows[first : first + _PIECE_WINDOWS]
        labels[first : first + len(piece)], _ = assign(
            features.transform(piece.reshape(-1)), centroids, context
        )
        if progress is not None:
            progress(len(piece))
    return WindowClusters(labels, centroids, time.perf_counter() - begun)


def _find(rows: NDArray[Any], n_clusters: int, features: WindowFeatures, seed: int) -> NDArray[np.float32]:
    """Centroids of a spread sample of the windows, those of the most windows first."""
    most = max(_SAMPLE_WINDOWS, _SAMPLE_PER_CLUSTER * n_clusters)
    sample = rows
    if len(rows) > most:  # one of each of equal parts: a text may have a period
        raw = np.random.Philox(key=np.array([seed, _SAMPLE_STREAM], np.uint64)).random_raw(most)
        places = np.arange(most) + (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
        sample = rows[np.minimum(places * (len(rows) / most), len(rows) - 1).astype(np.int64)]
    estimator = KMeans(n_clusters, random_state=seed, context=features.context)
    labels = estimator.fit_predict(features.transform(np.ascontiguousarray(sample).reshape(-1)))
    order = np.argsort(-np.bincount(labels, minlength=n_clusters), kind="stable")
    return np.ascontiguousarray(estimator.cluster_centers_[order])
