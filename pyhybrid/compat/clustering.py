"""The documents' clustering classes over `KMeans`, `cluster_balance` and `allocate_precision`.

Place in the data flow: for the user, and for quantization.py beside it; training has the canonical functions.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, KeysView
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pyhybrid._buffers import Array
from pyhybrid._cluster_calls import whole
from pyhybrid._errors import InvalidArgumentError, StateError
from pyhybrid.cluster_balance import balanced_labels, squared_distances
from pyhybrid.clustering import KMeans, suggest_k
from pyhybrid.compat._arguments import as_array, finite_array, one_value
from pyhybrid.parameter_clusters import importance_shares, size_importance
from pyhybrid.precision import STORED_BITS, allocate_precision, quantization_errors

__all__ = ["ClusterInfo", "ClusterInfoList", "DataClustering", "KMeansClustering", "ParameterClustering"]


@dataclass(frozen=True, eq=False)
class ClusterInfo:
    """What one cluster is like; each field is an attribute and an item: ``info.size``, ``info["size"]``.

    Args:
        cluster_id: its number.
        centroid: float [features].
        members: int64 [size], places of its points in the data.
        size: number of its points.
        mean_distance: mean Euclidean distance of its points to the centroid; infinite if it is empty.
        mean: float64 [features] of its points; None if it is empty.
        std: float64 [features], standard deviation of its points; None if it is empty.
    """

    cluster_id: int
    centroid: Array
    members: Array
    size: int
    mean_distance: float
    mean: Array | None = None
    std: Array | None = None

    @property
    def variance(self) -> Array | None:
        """float64 [features], the square of `std`."""
        return None if self.std is None else self.std**2

    def keys(self) -> tuple[str, ...]:
        """Returns the names of the items."""
        return (*(field.name for field in fields(self)), "variance")

    def __getitem__(self, name: str) -> Any:
        if name not in self.keys():
            raise KeyError(f"{name!r} is not known of a cluster; choose one of {', '.join(self.keys())}")
        return getattr(self, name)


class ClusterInfoList(list[ClusterInfo]):
    """Clusters in their order, with the methods of a dictionary from their numbers."""

    def keys(self) -> KeysView[int]:
        """Returns the clusters' numbers."""
        return {info.cluster_id: None for info in self}.keys()

    def values(self) -> Iterator[ClusterInfo]:
        """Returns an iterator of the clusters."""
        return iter(self)

    def items(self) -> Iterator[tuple[int, ClusterInfo]]:
        """Returns an iterator of numbers and clusters."""
        return ((info.cluster_id, info) for info in self)


class KMeansClustering:
    """Lloyd's algorithm until the centroids rest; `KMeans` does the work.

    Args:
        n_clusters: number of clusters; with fewer points it is reduced, with a warning.
        max_iter: most iterations.
        tol: the fit ends when the squared shift of the centroids is at most tol times the mean variance of
            the features; None: 1e-4.
        random_state: seed, NumPy generator, or None for another start each time; NumPy's global generator is
            left alone.
        tolerance: another name of tol.

    Attributes:
        centroids: [clusters, features]; None before `fit`, as all of these.
        labels: int32 [n], the cluster of each point of the fit.
        inertia: sum of the squared distances to the own centroid.
        converged: False if max_iter ended the fit.
        n_iter: iterations.

    Raises:
        InvalidArgumentError: an argument out of its range, in `fit`.
        ConfigError: tol and tolerance differ.
    """

    #: How many clusters to ask for: see `pyhybrid.suggest_k`.
    suggest_k = staticmethod(suggest_k)

    def __init__(
        self,
        n_clusters: int = 8,
        max_iter: int = 100,
        tol: float | None = None,
        random_state: Any = None,
        *,
        tolerance: float | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.max_iter = max_iter
        self.tol = self.tolerance = one_value({"tol": tol, "tolerance": tolerance}, 1e-4)
        self.random_state = random_state
        self.centroids: Array | None = None
        self.labels: Array | None = None
        self.inertia: float | None = None
        self.converged: bool | None = None
        self.n_iter: int | None = None
        self._kmeans: KMeans | None = None

    def fit(self, X: Any) -> Self:
        """Clusters points.

        Args:
            X: [n, features], finite; an array or a tensor.

        Returns:
            This object.

        Raises:
            InvalidArgumentError: X is no matrix, or an argument of the constructor is out of its range.
            NotFiniteError: NaN or infinity; also a ValueError.
        """
        points = as_array(X)
        k = whole(self.n_clusters, "n_clusters", 1)
        if points.ndim == 2 and 0 < len(points) < k:
            warnings.warn(
                f"n_clusters is {k}, there are {len(points)} points; each is a cluster", stacklevel=2
            )
            k = len(points)
        fit = KMeans(k, max_iter=self.max_iter, tol=self.tol, random_state=self.random_state).fit(points)
        self._kmeans = fit
        self.centroids, self.labels = fit.cluster_centers_, fit.labels_
        self.inertia, self.converged, self.n_iter = fit.inertia_, fit.converged_, fit.n_iter_
        return self

    def _fitted(self) -> KMeans:
        if self._kmeans is None:
            raise StateError("nothing is clustered yet: call fit first")
        return self._kmeans

    def predict(self, X: Any) -> Array:
        """Returns the nearest centroid of each point, int32 [n].

        Raises:
            StateError: before `fit`.
            InvalidArgumentError: a wrong shape.
            NotFiniteError: NaN or infinity.
        """
        return self._fitted().predict(as_array(X))

    def get_cluster_info(self, X: Any) -> ClusterInfoList:
        """Returns what the points nearest to each centroid are like; errors are those of `predict`."""
        fit, points = self._fitted(), as_array(X)
        labels = fit.predict(points)
        return ClusterInfoList(
            ClusterInfo(
                cluster_id=s.cluster,
                centroid=fit.cluster_centers_[s.cluster],
                members=np.flatnonzero(labels == s.cluster),
                size=s.size,
                mean_distance=s.mean_distance,
                mean=s.mean,
                std=s.std,
            )
            for s in fit.statistics(points)
        )


class ParameterClustering:
    """Clusters the single weights of layers by their values, and suggests bits for each cluster.

    Args:
        n_clusters: in each layer; a layer with fewer weights has fewer, with a warning.
        random_state: as for `KMeansClustering`; a seed, so that the same weights give the same clusters.

    Attributes:
        layer_clusters: what `cluster_layer_parameters` returned, by layer.
        layer_importance: float64 [clusters], sums to 1, by layer.
    """

    def __init__(self, n_clusters: int = 4, *, random_state: Any = 0) -> None:
        self.n_clusters = n_clusters
        self.random_state = random_state
        self.layer_clusters: dict[str, dict[str, Any]] = {}
        self.layer_importance: dict[str, Array] = {}
        self._errors: dict[str, Array] = {}

    def cluster_layer_parameters(
        self, layer_name: str, weights: Any, *, gradients: Any = None
    ) -> dict[str, Any]:
        """Clusters a layer's weights.

        Args:
            layer_name: under which the layer is remembered.
            weights: float, any shape, finite.
            gradients: of the loss, of the weights' shape: the clusters' importance is then measured; None:
                it follows from their size and cohesion.

        Returns:
            'info': ClusterInfoList; 'labels': int32 [weights], in C order; 'centroids': [clusters, 1].

        Raises:
            InvalidArgumentError: no weights, or gradients of another shape.
            NotFiniteError: NaN or infinity.
        """
        values = finite_array(weights, "weights").astype(np.float32).reshape(-1, 1)
        fit = KMeansClustering(self.n_clusters, random_state=self.random_state).fit(values)
        assert fit.labels is not None
        assert fit.centroids is not None
        info, k = fit.get_cluster_info(values), len(fit.centroids)
        slope = None if gradients is None else finite_array(gradients, "gradients").reshape(-1, 1)
        if slope is None:
            importance = size_importance([c.size for c in info], [c.mean_distance for c in info])
        else:
            if slope.shape != values.shape:
                raise InvalidArgumentError(f"gradients has {slope.size} values for {values.size} weights")
            importance = importance_shares(values, slope, fit.labels, k)
        self.layer_importance[layer_name] = importance
        self._errors[layer_name] = quantization_errors(
            (values[c.members, 0] for c in info),
            importance=None if slope is None else (slope[c.members, 0] ** 2 for c in info),
        )
        found = {"info": info, "labels": fit.labels, "centroids": fit.centroids}
        self.layer_clusters[layer_name] = found
        return found

    def get_cluster_importance(self, layer_name: str) -> Array | None:
        """Returns the importance of each cluster, float64 [clusters], which sums to 1.

        With gradients: its share of |w dL/dw|. Without: its share of the weights / (1 + mean distance to the
        centroid). None for a layer that was not clustered.
        """
        return self.layer_importance.get(layer_name)

    def suggest_quantization_precision(self, layer_name: str, target_bits: float = 1.58) -> Array:
        """Suggests bits for each cluster: 1, 1.58 (ternary), 2 or 4.

        The measured squared error of the clusters' weights, weighted by squared gradients where they were
        given, is made small within the budget. A ternary weight counts as the 1.6 bits it takes in memory,
        so that a budget of 1.58 has some clusters at 1 bit.

        Args:
            layer_name: of a layer that was clustered.
            target_bits: mean bits of a weight that must not be passed, at least 1.

        Returns:
            float64 [clusters].

        Raises:
            InvalidArgumentError: the layer was not clustered, or the budget is below 1 bit.
        """
        if layer_name not in self.layer_clusters:
            known = ", ".join(map(repr, self.layer_clusters)) or "none yet"
            raise InvalidArgumentError(
                f"layer {layer_name!r} was not clustered (those that were: {known}); call "
                "cluster_layer_parameters first"
            )
        sizes = np.array([c.size for c in self.layer_clusters[layer_name]["info"]])
        held = sizes > 0
        bits = np.full(sizes.size, min(STORED_BITS))
        bits[held] = allocate_precision(sizes[held], self._errors[layer_name][held], target_bits).bits
        return bits


class DataClustering:
    """Clusters training data, and makes groups for mini-batches.

    Args:
        n_clusters: as for `KMeansClustering`.
        random_state: as for `KMeansClustering`.

    Attributes:
        cluster_assignments: int32 [n], the cluster of each point; None before `cluster_embeddings`.
    """

    #: How many clusters to ask for: see `pyhybrid.suggest_k`.
    suggest_k = staticmethod(suggest_k)

    def __init__(self, n_clusters: int = 8, *, random_state: Any = None) -> None:
        self.n_clusters = n_clusters
        self.random_state = random_state
        self.cluster_assignments: Array | None = None
        self._distances: npt.NDArray[np.float64] | None = None

    def cluster_embeddings(self, embeddings: Any) -> tuple[Array, ClusterInfoList]:
        """Clusters points.

        Args:
            embeddings: [n, features], finite; an array or a tensor.

        Returns:
            The cluster of each point, int32 [n], and what the clusters are like.

        Raises:
            InvalidArgumentError: no matrix.
            NotFiniteError: NaN or infinity.
        """
        points = as_array(embeddings)
        fit = KMeansClustering(self.n_clusters, random_state=self.random_state).fit(points)
        assert fit.labels is not None
        self._distances = squared_distances(points, fit.centroids)  # type: ignore[arg-type]
        self.cluster_assignments = fit.labels
        return fit.labels, fit.get_cluster_info(points)

    def _assigned(self) -> tuple[Array, npt.NDArray[np.float64]]:
        if self.cluster_assignments is None or self._distances is None:
            raise StateError("nothing is clustered yet: call cluster_embeddings first")
        return self.cluster_assignments, self._distances

    def get_balanced_clusters(self, balanced: bool = True) -> list[Array]:
        """Returns the places of the points of each cluster, int64.

        Args:
            balanced: no cluster has more than ceil(n / clusters) points; those that lose least by it go to
                another cluster. False: the clusters as they were found.

        Raises:
            StateError: before `cluster_embeddings`.
        """
        labels, distances = self._assigned()
        owners = balanced_labels(distances) if balanced else labels
        return [np.flatnonzero(owners == cluster) for cluster in range(distances.shape[1])]

    def suggest_mini_batch_strategy(self) -> dict[str, Any]:
        """Recommends how to make mini-batches.

        Returns:
            'cluster_sizes': numbers of points; 'total_samples'; 'balanced_batch_size': points that can be
            drawn from each cluster without repeating any (the smallest size); 'strategy':
            'sample_from_each_cluster'.

        Raises:
            StateError: before `cluster_embeddings`.
        """
        sizes = [len(members) for members in self.get_balanced_clusters(balanced=False)]
        return {
            "cluster_sizes": sizes,
            "total_samples": sum(sizes),
            "balanced_batch_size": min(sizes),
            "strategy": "sample_from_each_cluster",
        }
