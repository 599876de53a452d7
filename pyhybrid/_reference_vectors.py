"""The dispatcher's operations in plain NumPy: rounding to levels, the bound of a norm, K-means.

Place in the data flow: the backend `numpy` (_backends.py), and the oracle of the tests. Levels and bounded
vectors have the bits of the C core; K-means the same labels from given centroids, up to ties.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from pyhybrid._errors import NotFiniteError

Array = npt.NDArray[Any]

LANES = 16
F32 = np.float32


def quantize_levels(values: Array, levels: int = 5, scale: float = 1.0, out: Array | None = None) -> Array:
    """Rounds to -1, -0.5, 0, 0.5, 1 (levels 5) or -1, 0, 1 (3), times a scale.

    Args:
        values: float32 or float64, any shape.
        levels: 5 or 3.
        scale: of the levels, rounded to the dtype.
        out: to write to, may be values; None for a new array.

    Raises:
        NotFiniteError: a NaN.
    """
    kind = values.dtype.type
    result = np.clip(values, kind(-1), kind(1), out=out)
    if np.isnan(result).any():
        raise NotFiniteError(f"value {int(np.argmax(np.isnan(result)))} is NaN")
    steps = kind(2 if levels == 5 else 1)
    result *= steps
    np.rint(result, out=result)
    result /= steps
    result *= kind(scale)
    return result


#: Values whose squares are added before they join the others.
SUM_CHUNK = 65536


def sum_squares(values: Array, unit: float = 1.0) -> float:
    """Sum of squares in binary64: chunks of 65536, in 16 lanes each, lanes and chunks in ascending order.

    Args:
        values: float32 or float64, any shape.
        unit: multiplies each value first.
    """
    flat, total = values.reshape(-1), 0.0
    for start in range(0, flat.size, SUM_CHUNK):
        chunk = flat[start : start + SUM_CHUNK].astype(np.float64)
        squares = np.zeros((-(-chunk.size // LANES), LANES))
        chunk *= unit
        np.multiply(chunk, chunk, out=squares.reshape(-1)[: chunk.size])
        total += sum(np.add.reduce(squares, axis=0).tolist())
    return total


def constrain_norm(values: Array, radius: float, out: Array | None = None) -> tuple[Array, float, bool]:
    """Shortens a vector to the Euclidean ball of a radius.

    Args:
        values: float32 or float64, any shape, finite.
        radius: of the ball.
        out: to write to, may be values; None for a new array.

    Returns:
        The vector, its norm before, and whether it was shortened.

    Raises:
        NotFiniteError: NaN or infinity.
    """
    if not np.isfinite(values).all():
        raise NotFiniteError(f"value {int(np.argmin(np.isfinite(values)))} is not finite")
    unit = 1.0
    with np.errstate(over="ignore", under="ignore"):
        total = sum_squares(values)
        if not 1e-280 <= total <= 1e300 and values.dtype == np.float64 and values.size:
            unit = math.ldexp(1.0, min(1000, -math.frexp(float(np.abs(values).max()))[1]))
            total = sum_squares(values, unit)
        length = math.sqrt(total)
        norm = float(np.float64(length) / unit)
    factor = 1.0
    if norm > radius:
        additions = min(values.size, SUM_CHUNK) // LANES + values.size // SUM_CHUNK + 64
        single = values.dtype == np.float32
        slack = additions * 2.0**-52 + (2.0**-24 if single else 0.0)
        factor = radius / length * (1.0 - slack) * unit
        if single:
            rounded = F32(factor)
            factor = float(np.nextafter(rounded, F32(0)) if float(rounded) > factor else rounded)
    return np.multiply(values, values.dtype.type(factor), out=out), norm, norm > radius


def kmeans_start(points: Array, n_clusters: int, seed: int) -> Array:
    """Draws centroids by k-means++ (Arthur and Vassilvitskii 2007), one candidate each.

    Args:
        points: float32 or float64 [n, features].
        n_clusters: at most n.
        seed: of NumPy's generator.
    """
    rng = np.random.default_rng(seed)
    chosen = [int(rng.integers(len(points)))]
    nearest = np.full(len(points), np.inf)
    while len(chosen) < n_clusters:
        offsets = points - points[chosen[-1]]
        nearest = np.minimum(nearest, np.einsum("nd,nd->n", offsets, offsets, dtype=np.float64))
        nearest[chosen[-1]] = 0
        total = nearest.sum()
        rest = np.setdiff1d(np.arange(len(points)), chosen)
        chosen.append(int(rng.choice(len(points), p=nearest / total) if total > 0 else rest[0]))
    return points[chosen].copy()


def nearest(points: Array, centroids: Array) -> tuple[Array, Array]:
    """Returns labels int32 [n] of the nearest centroids, and |c|^2 - 2 x c of each [n, clusters]."""
    scores = points @ centroids.T
    scores *= -2
    scores += np.einsum("kd,kd->k", centroids, centroids)
    return scores.argmin(1).astype(np.int32), scores


def kmeans(points: Array, start: Array, max_iter: int = 300, tol: float = 1e-4) -> tuple[Array, Array, int]:
    """Lloyd's iterations; a cluster that becomes empty takes the point farthest from its centroid.

    Args:
        points: float32 or float64 [n, features], finite.
        start: [clusters, features].
        max_iter: most iterations.
        tol: ends when the squared shift is at most tol times the mean variance of the features.

    Returns:
        Labels int32 [n], centroids, and the number of iterations.

    Source: Lloyd 1982.
    """
    centroids, limit = start.copy(), tol * float(points.var(0, dtype=np.float64).mean())
    labels, iteration = np.full(len(points), -1, np.int32), 0
    for iteration in range(1, max_iter + 1):
        found, scores = nearest(points, centroids)
        if np.array_equal(found, labels):
            return labels, centroids, iteration
        labels, previous = found, centroids.copy()
        for empty in np.flatnonzero(np.bincount(labels, minlength=len(centroids)) == 0):
            own = scores[np.arange(len(points)), labels] + np.einsum("nd,nd->n", points, points)
            own[np.bincount(labels, minlength=len(centroids))[labels] == 1] = -np.inf
            labels[int(own.argmax())] = empty
        for cluster in range(len(centroids)):
            centroids[cluster] = points[labels == cluster].mean(0, dtype=np.float64)
        if float(np.square(centroids - previous, dtype=np.float64).sum()) <= limit:
            break
    return nearest(points, centroids)[0], centroids, iteration
