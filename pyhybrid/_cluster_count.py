"""How many clusters to ask for: the elbow of the inertia, and silhouettes, on a sample.

Place in the data flow: clustering.py offers `suggest_k` to the user.
Sources: Rousseeuw 1987 (silhouettes); Satopaa et al. 2011 (the elbow as the point farthest from the chord).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from pyhybrid._buffers import Array
from pyhybrid._cluster_calls import distances_to, matrix, run_kmeans, whole
from pyhybrid._context import Context, default_context
from pyhybrid._errors import InvalidArgumentError

__all__ = ["KSuggestion", "suggest_k"]

Method = Literal["elbow", "silhouette", "both"]

#: A mean silhouette below this is "no substantial structure" (Kaufman & Rousseeuw 1990, table 4, chapter 2).
_LEAST_SILHOUETTE = 0.25


@dataclass(frozen=True, kw_only=True)
class KSuggestion:
    """How many clusters to ask for, and what says so.

    Args:
        k: the suggestion.
        method: which criterion decided, 'elbow' or 'silhouette'.
        reason: a sentence.
        ks: numbers of clusters that were tried.
        inertias: inertia by number of clusters.
        silhouettes: mean silhouette by number of clusters (k = 1 has none); empty if it was not asked for.
    """

    k: int
    method: Literal["elbow", "silhouette"]
    reason: str
    ks: tuple[int, ...]
    inertias: Mapping[int, float]
    silhouettes: Mapping[int, float]


def _silhouette(distances: Array, labels: Array, k: int) -> float:
    """Mean silhouette of points with pairwise distances [n, n]; points alone in their cluster have 0."""
    sizes = np.bincount(labels, minlength=k).astype(np.float64)
    sums = distances @ np.eye(k)[labels]
    rows = np.arange(len(labels))
    own = sums[rows, labels] / np.maximum(sizes[labels] - 1, 1)
    means = np.where(sizes > 0, sums / np.maximum(sizes, 1), np.inf)
    means[rows, labels] = np.inf
    other = means.min(1)
    widest = np.maximum(own, other)
    valid = (sizes[labels] > 1) & np.isfinite(other) & (widest > 0)
    values = np.zeros(len(labels))
    values[valid] = (other[valid] - own[valid]) / widest[valid]
    return float(values.mean())


def _elbow(ks: list[int], inertias: Mapping[int, float]) -> tuple[int, float]:
    """The point of the curve farthest below the chord of its ends, and by how much of the curve's height."""
    first, last = inertias[ks[0]], inertias[ks[-1]]
    if len(ks) < 3 or first <= last:
        return ks[0], 0.0
    gaps = {k: 1 - (k - ks[0]) / (ks[-1] - ks[0]) - (inertias[k] - last) / (first - last) for k in ks}
    best = max(ks, key=lambda k: gaps[k])
    return best, gaps[best]


def suggest_k(
    points: npt.ArrayLike,
    k_max: int = 16,
    *,
    sample: int = 2000,
    method: Method = "both",
    seed: int = 0,
    context: Context | None = None,
) -> KSuggestion:
    """Suggests a number of clusters.

    The elbow is the number from which on more clusters lower the inertia little; the silhouette compares each
    point's mean distance to its own cluster with that to the next one. 'both': the silhouette decides where
    it finds a substantial structure (0.25 or more), else the elbow, which always finds something.

    Args:
        points: [n, features], finite.
        k_max: largest number to try, at least 2; fewer if there are fewer points.
        sample: points that are looked at, at least 10, drawn without replacement; memory grows with its
            square.
        method: 'elbow', 'silhouette' or 'both'.
        seed: of the sample and of the starts.
        context: None for the default one.

    Raises:
        InvalidArgumentError: an argument out of range, or fewer than 3 points.
        NotFiniteError: NaN or infinity.

    Source: Satopaa et al. 2011; Rousseeuw 1987.
    """
    if method not in ("elbow", "silhouette", "both"):
        raise InvalidArgumentError(f"method is {method!r}; choose 'elbow', 'silhouette' or 'both'")
    context = context or default_context()
    array = matrix(points, "points")
    if len(array) < 3:
        raise InvalidArgumentError(f"points has {len(array)} rows; a suggestion needs at least 3")
    k_max, sample = whole(k_max, "k_max", 2), whole(sample, "sample", 10)
    seed = whole(seed, "seed", 0, 2**64 - 1)
    if len(array) > sample:
        chosen = np.random.default_rng(seed).choice(len(array), sample, replace=False)
        array = array[np.sort(chosen)]
    ks = list(range(1, min(k_max, len(array) - 1) + 1))
    distances = None if method == "elbow" else distances_to(array, array, context).astype(np.float64)
    inertias: dict[int, float] = {}
    silhouettes: dict[int, float] = {}
    for k in ks:
        options = {"n_init": 3, "max_iterations": 300, "tolerance": 1e-4, "seed": seed}
        fit = run_kmeans(array, None, k, context, None, **options)
        inertias[k] = fit.inertia
        if distances is not None and k > 1:
            silhouettes[k] = _silhouette(distances, fit.labels, k)
    elbow, gap = _elbow(ks, inertias)
    tried = f"1 to {ks[-1]} on {len(array)} points"
    if silhouettes:
        best = max(silhouettes, key=lambda k: silhouettes[k])
        value = silhouettes[best]
        if method == "silhouette" or value >= _LEAST_SILHOUETTE:
            reason = f"Of {tried}, {best} clusters have the largest mean silhouette, {value:.2f}."
            if value < _LEAST_SILHOUETTE:
                reason += f" Below {_LEAST_SILHOUETTE} there is no substantial structure."
            return KSuggestion(
                k=best,
                method="silhouette",
                reason=reason,
                ks=tuple(ks),
                inertias=inertias,
                silhouettes=silhouettes,
            )
    reason = (
        f"Of {tried}, the inertia bends most at {elbow} clusters, {gap:.0%} of its range below the chord."
    )
    if silhouettes:
        reason += f" No silhouette reaches {_LEAST_SILHOUETTE} (largest: {max(silhouettes.values()):.2f})."
    return KSuggestion(
        k=elbow, method="elbow", reason=reason, ks=tuple(ks), inertias=inertias, silhouettes=silhouettes
    )
