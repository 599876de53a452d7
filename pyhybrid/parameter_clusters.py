"""Clusters of a model's parameters: what the rows of a layer's matrices share, and how much they matter.

    model.gradients(tokens)
    layers = cluster_rows(model, 4)
    print(cluster_table(layers))

Place in the data flow: reads weights and gradients of a LanguageModel, clusters them with clustering.py;
training takes multipliers of the learning rate from the result (_run_parameter_clusters.py).
Sources: Lloyd 1982 (K-means); Lee et al. 2019, "SNIP" (importance |w dL/dw|); Molchanov et al. 2019,
"Importance Estimation for Neural Network Pruning" (the same term of first order, squared).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from pyhybrid._buffers import Array
from pyhybrid._errors import InvalidArgumentError
from pyhybrid.clustering import KMeans, cluster_statistics

if TYPE_CHECKING:
    from pyhybrid._model_types import Parameter
    from pyhybrid.language_model import LanguageModel

__all__ = [
    "LayerClusters",
    "ParameterCluster",
    "cluster_rows",
    "cluster_table",
    "cluster_values",
    "importance_shares",
    "row_multipliers",
    "size_importance",
]

Features = Literal["statistics", "weights"]
Rates = Literal["inverse_importance", "importance", "none"]

# Multipliers of the learning rate stay in this range before they are scaled to a mean of 1.
_RATE_RANGE = 0.5, 2.0
# Norms below this share of a matrix's largest count as that share: their logarithm stays finite.
_SMALLEST_NORM = 1e-6


@dataclass(frozen=True, kw_only=True)
class ParameterCluster:
    """What the members of one cluster, rows or single weights, are like.

    Args:
        cluster: its number.
        size: number of its members.
        centroid_norm: Euclidean norm of the mean of its members' weights; 0 if it is empty.
        inertia: sum of the squared distances of its members to the centroid, in the space of the features.
        mean_distance: mean distance to the centroid; infinite if it is empty.
        cohesion: 1 - mean squared distance to the centroid / that of all members to their common mean; 1 if
            its members are equal, 0 if they differ as much as all do, NaN if it is empty.
        importance: its share of the layer's sum of |w dL/dw|, the change of the loss to first order when a
            weight is removed; NaN without a gradient.
        magnitude: mean |w| of its weights; NaN if it is empty.
    """

    cluster: int
    size: int
    centroid_norm: float
    inertia: float
    mean_distance: float
    cohesion: float
    importance: float
    magnitude: float


@dataclass(frozen=True, kw_only=True)
class LayerClusters:
    """Clusters of one matrix.

    Args:
        name: of the parameter.
        labels: int32, the cluster of each row, [rows], or of each weight, [rows, columns].
        centroids: [clusters, features].
        clusters: one entry a cluster.
        cohesion: 1 - inertia / sum of the squared distances to the mean: the share of the variance that the
            clusters explain.
    """

    name: str
    labels: Array
    centroids: Array
    clusters: tuple[ParameterCluster, ...]
    cohesion: float

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values, without labels and centroids; None stands for what is not known."""
        return {
            "name": self.name,
            "members": "rows" if self.labels.ndim == 1 else "weights",
            "cohesion": self.cohesion,
            "clusters": [
                {key: _plain(value) for key, value in vars(cluster).items()} for cluster in self.clusters
            ],
        }


def _plain(value: float) -> float | None:
    return value if isinstance(value, int) or math.isfinite(value) else None


# ---- what is clustered ----


def _matrices(model: LanguageModel, names: Iterable[str] | None) -> list[Parameter]:
    found = {name: p for name, p in model.parameters().items() if p.is_layer_matrix}
    if names is None:
        return list(found.values())
    wanted = [names] if isinstance(names, str) else list(names)
    for name in wanted:
        if name not in found:
            raise InvalidArgumentError(f"{name!r} is no layer's matrix; choose one of {', '.join(found)}")
    return [found[name] for name in wanted]


def _log_norms(rows: Array) -> Array:
    norms: Array = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    largest = float(norms.max())
    return np.log(np.maximum(norms, largest * _SMALLEST_NORM)) if largest > 0 else np.zeros(len(rows))


def _row_statistics(weights: Array, effective: Array, gradient: Array | None) -> Array:
    """Each row's log norm, share of zeros and log norm of the gradient, standardised."""
    columns = [_log_norms(weights), (effective == 0).mean(1)]
    if gradient is not None:
        columns.append(_log_norms(gradient))
    features = np.stack(columns, axis=1)
    features -= features.mean(0)
    deviations = features.std(0)
    # Rounding is no difference between rows that are alike.
    return np.asarray(features / np.where(deviations > 1e-9, deviations, np.inf))


def _check_number(n_clusters: int, n_members: int, name: str, members: str) -> None:
    if isinstance(n_clusters, int) and n_clusters > n_members:
        raise InvalidArgumentError(
            f"n_clusters is {n_clusters}, {name} has {n_members} {members}; ask for at most as many"
        )


# ---- clustering ----


def cluster_rows(
    model: LanguageModel,
    n_clusters: int = 4,
    *,
    features: Features = "statistics",
    names: Iterable[str] | None = None,
    seed: int = 0,
) -> dict[str, LayerClusters]:
    """Clusters the output rows of each of the layers' matrices.

    Args:
        model: with gradients, or without: then nothing is known of importance.
        n_clusters: in each matrix, at most its number of rows.
        features: 'statistics': log norm of the row, share of zeros among its codes, and log norm of its
            gradient, standardised; or 'weights': the row itself, which says little, as rows point in all
            directions.
        names: of the matrices; None: all.
        seed: of the first centroids.

    Returns:
        Clusters by the parameter's name.

    Raises:
        InvalidArgumentError: more clusters than rows, an unknown name or features.
        NotFiniteError: a weight or gradient is NaN or infinite.
    """
    if features not in ("statistics", "weights"):
        raise InvalidArgumentError(f"features is {features!r}; choose 'statistics' or 'weights'")
    found = {}
    for p in _matrices(model, names):
        effective = model.effective(p.name)
        weights = effective if p.values is None else p.values
        _check_number(n_clusters, len(weights), p.name, "rows")
        points = weights if features == "weights" else _row_statistics(weights, effective, p.gradient)
        fit = KMeans(n_clusters, random_state=seed, context=model.context).fit(points)
        found[p.name] = _describe(p, points, weights, fit, fit.labels_)
    return found


def cluster_values(
    model: LanguageModel, n_clusters: int = 4, *, names: Iterable[str] | None = None, seed: int = 0
) -> dict[str, LayerClusters]:
    """Clusters the single weights of each of the layers' matrices by their values.

    Args:
        model: as for `cluster_rows`.
        n_clusters: in each matrix.
        names: of the matrices; None: all.
        seed: of the first centroids.

    Returns:
        Clusters by the parameter's name; labels are of the matrix's shape.

    Raises:
        InvalidArgumentError: more clusters than weights, or an unknown name.
        NotFiniteError: a weight or gradient is NaN or infinite.
    """
    found = {}
    for p in _matrices(model, names):
        weights = model.effective(p.name) if p.values is None else p.values
        _check_number(n_clusters, weights.size, p.name, "weights")
        points = weights.reshape(-1, 1)
        fit = KMeans(n_clusters, random_state=seed, context=model.context).fit(points)
        found[p.name] = _describe(p, points, weights, fit, fit.labels_.reshape(weights.shape))
    return found


def _describe(p: Parameter, points: Array, weights: Array, fit: KMeans, labels: Array) -> LayerClusters:
    """Sums over the members of each cluster; labels are of rows or of weights."""
    members = weights.reshape(len(points), -1)
    owners, k = labels.ravel(), len(fit.cluster_centers_)
    magnitudes = np.bincount(owners, np.abs(members).sum(1, dtype=np.float64), k) / members.shape[1]
    importance = np.full(k, math.nan)
    if p.gradient is not None:
        importance = importance_shares(members, p.gradient.reshape(members.shape), owners, k)
    centered = points - points.mean(0, dtype=np.float64)
    variance = float(np.einsum("ij,ij->", centered, centered, dtype=np.float64)) / len(points)
    clusters = []
    for s in cluster_statistics(points, owners, fit.cluster_centers_, context=fit.context):
        c, size = s.cluster, s.size
        mean = members[owners == c].mean(0, dtype=np.float64) if size else np.zeros(1)
        clusters.append(
            ParameterCluster(
                cluster=c,
                size=size,
                centroid_norm=float(np.linalg.norm(mean)),
                inertia=s.inertia,
                mean_distance=s.mean_distance,
                cohesion=_cohesion(s.inertia, size, variance),
                importance=float(importance[c]),
                magnitude=float(magnitudes[c]) / size if size else math.nan,
            )
        )
    within = math.fsum(cluster.inertia for cluster in clusters)
    return LayerClusters(
        name=p.name,
        labels=labels,
        centroids=fit.cluster_centers_,
        clusters=tuple(clusters),
        cohesion=_cohesion(within, len(points), variance),
    )


def importance_shares(members: Array, gradient: Array, labels: Array, n_clusters: int) -> Array:
    """Returns each cluster's share of the sum of |w dL/dw|; of the members where that sum is 0.

    Args:
        members: float weights [members, columns].
        gradient: of the loss by them, of the same shape.
        labels: integers [members], the cluster of each.
        n_clusters: number of clusters.

    Returns:
        float64 [n_clusters], which sums to 1.

    Source: Lee et al. 2019.
    """
    products = np.abs(members * gradient).sum(1, dtype=np.float64)
    total = products.sum()
    weights = products / total if total > 0 else np.full(len(products), 1.0 / len(products))
    return np.bincount(labels, weights, n_clusters)


def size_importance(sizes: npt.ArrayLike, mean_distances: npt.ArrayLike) -> Array:
    """Returns a guess of importance where no gradient is known: large and tight clusters count more.

    Args:
        sizes: numbers of members [clusters], at least one above 0.
        mean_distances: of the members to the centroid [clusters]; infinite for an empty cluster.

    Returns:
        float64 [clusters], proportional to size / (1 + mean distance), which sums to 1.
    """
    weights = np.asarray(sizes, np.float64) / (1.0 + np.asarray(mean_distances, np.float64))
    return np.asarray(weights / weights.sum())


def _cohesion(inertia: float, size: int, variance: float) -> float:
    if size == 0:
        return math.nan
    return 1.0 - inertia / size / variance if variance > 0 else 1.0


# ---- learning rates ----


def row_multipliers(layer: LayerClusters, rule: Rates) -> Array:
    """Returns multipliers of the rows' learning rate that follow from their clusters' importance.

    A cluster's importance per row, divided by the layer's, to the power of -1/2 or 1/2, is limited to 0.5
    ... 2; then the multipliers are scaled so that the mean over the rows is 1.

    Args:
        layer: clusters of rows, with importance.
        rule: 'inverse_importance' (what matters is changed with care), 'importance' (what matters learns
            faster), or 'none' (1 everywhere).

    Returns:
        float32 [rows], for `LanguageModel.set_row_multipliers`.

    Raises:
        InvalidArgumentError: an unknown rule, clusters of single weights, or without importance.
    """
    if rule not in ("inverse_importance", "importance", "none"):
        raise InvalidArgumentError(f"rule is {rule!r}; choose 'inverse_importance', 'importance' or 'none'")
    if layer.labels.ndim != 1:
        raise InvalidArgumentError(
            f"{layer.name}: these are clusters of single weights; give those of cluster_rows"
        )
    if rule == "none":
        return np.ones(len(layer.labels), np.float32)
    sizes = np.array([c.size for c in layer.clusters], np.float64)
    importance = np.array([c.importance for c in layer.clusters], np.float64)
    if np.isnan(importance).any():
        raise InvalidArgumentError(
            f"{layer.name}: nothing is known of importance; call model.gradients before cluster_rows"
        )
    relative = importance * sizes.sum() / np.maximum(sizes, 1)
    with np.errstate(divide="ignore"):
        rates = relative ** (-0.5 if rule == "inverse_importance" else 0.5)
    rates = np.clip(rates, *_RATE_RANGE)
    rates *= sizes.sum() / (rates @ sizes)
    return np.asarray(rates.astype(np.float32)[layer.labels])


# ---- a table ----


def cluster_table(layers: Mapping[str, LayerClusters] | Iterable[LayerClusters]) -> str:
    """Returns clusters as text, a line each.

    Args:
        layers: as `cluster_rows` or `cluster_values` gave them.
    """
    each = list(layers.values() if isinstance(layers, Mapping) else layers)
    lines = [
        f"{'layer':<20} {'cluster':>7} {'size':>9} {'share':>7} {'centroid norm':>13} {'inertia':>11} "
        f"{'cohesion':>8} {'importance':>10} {'mean |w|':>9}"
    ]
    for layer in each:
        n = sum(c.size for c in layer.clusters)
        lines += [
            f"{layer.name if c.cluster == 0 else '':<20} {c.cluster:>7} {c.size:>9,} {c.size / n:>7.1%} "
            f"{c.centroid_norm:>13.4g} {c.inertia:>11.4g} {_cell(c.cohesion, '.3f'):>8} "
            f"{_cell(c.importance, '.1%'):>10} {_cell(c.magnitude, '.4g'):>9}"
            for c in layer.clusters
        ]
        lines.append(f"{'':<20} {'all':>7} {n:>9,} {'':>7} {'':>13} {'':>11} {layer.cohesion:>8.3f}")
    return "\n".join(lines)


def _cell(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "-"
