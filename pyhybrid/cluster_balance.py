"""Clusters of bounded size: assigns points to centroids so that none gets more than its share.

Place in the data flow: distances of any clustering -> labels for samplers.py, where clusters of very
different sizes would make batches of one cluster repeat.
Source: the regret rule of the generalised assignment problem, Martello & Toth 1981: whoever would lose most
by the second choice goes first.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from pyhybrid._buffers import input_array
from pyhybrid._errors import InvalidArgumentError, NotFiniteError

__all__ = ["balanced_labels", "squared_distances"]


def squared_distances(points: npt.ArrayLike, centroids: npt.ArrayLike) -> NDArray[np.float64]:
    """Returns the squared Euclidean distance of each point to each centroid.

    Args:
        points: float [n, d].
        centroids: float [k, d].

    Returns:
        float64 [n, k], at least 0.

    Raises:
        InvalidArgumentError: shapes that do not fit.
    """
    x = input_array(points, np.float64, "points", (None, None))
    c = input_array(centroids, np.float64, "centroids", (None, x.shape[1]))
    if c.shape[0] == 0 or x.shape[0] == 0:
        return np.zeros((x.shape[0], c.shape[0]))
    middle = c.mean(axis=0)  # the form below loses digits far from the origin
    x, c = x - middle, c - middle
    squares: NDArray[np.float64] = (x * x).sum(axis=1)[:, None] - 2.0 * (x @ c.T) + (c * c).sum(axis=1)
    return np.maximum(squares, 0.0, out=squares)


def balanced_labels(
    distances: npt.ArrayLike, *, slack: float = 1.0, capacity: int | None = None
) -> NDArray[np.int32]:
    """Assigns each point to a cluster of bounded size, at little more than the least total distance.

    In rounds: every point that has no cluster asks for the nearest one with room; a cluster takes those that
    would lose most by their second choice. A round fills a cluster or is the last: at most k rounds.

    Args:
        distances: float [n, k], cost of each point in each cluster, finite.
        slack: capacity by the mean size, at least 1.
        capacity: most points of a cluster; None: ceil(n / k * slack).

    Returns:
        int32 [n].

    Raises:
        InvalidArgumentError: no clusters, or a capacity that cannot hold all points.
        NotFiniteError: a distance is NaN or infinite.
    """
    costs = input_array(distances, np.float64, "distances", (None, None))
    n, k = costs.shape
    labels = np.full(n, -1, np.int32)
    if n == 0:
        return labels
    if k == 0:
        raise InvalidArgumentError("distances has no columns; give at least one cluster")
    if not np.isfinite(costs).all():
        raise NotFiniteError("distances holds a NaN or an infinity")
    if capacity is None:
        if not 1 <= slack < math.inf:
            raise InvalidArgumentError(f"slack is {slack!r}; give at least 1")
        capacity = math.ceil(n / k * slack - 1e-9)
    if capacity * k < n:
        raise InvalidArgumentError(f"{k} clusters of at most {capacity} cannot hold {n} points")
    room = np.full(k, capacity)
    waiting = np.arange(n)
    while waiting.size:
        is_open = np.flatnonzero(room)
        here = costs[np.ix_(waiting, is_open)]
        nearest = here.argmin(axis=1)
        regret = np.full(waiting.size, math.inf)
        if is_open.size > 1:
            two = np.partition(here, 1, axis=1)
            regret = two[:, 1] - two[:, 0]
        choice = is_open[nearest]
        order = np.lexsort((waiting, -regret, choice))
        begins = np.searchsorted(choice[order], choice[order], side="left")
        taken = order[np.arange(order.size) - begins < room[choice[order]]]
        labels[waiting[taken]] = choice[taken]
        room -= np.bincount(choice[taken], minlength=k)
        waiting = np.delete(waiting, taken)
    return labels
