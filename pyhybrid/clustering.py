"""K-means on NumPy arrays: the C core behind scikit-learn's estimator contract, and statistics of clusters.

Place in the data flow: data clustering and parameter clustering use `KMeans`; it needs no scikit-learn, and
works inside its pipelines where it is installed. _cluster_calls.py makes the C calls, _cluster_count.py
suggests numbers of clusters.
Sources: Lloyd 1982; Arthur & Vassilvitskii 2007 (k-means++); Sculley 2010 (mini-batches).
"""

from __future__ import annotations

import inspect
import math
import sys
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from pyhybrid._buffers import Array, pointer
from pyhybrid._cluster_calls import (
    assign,
    check_status,
    distances_to,
    function_of,
    matrix,
    run_kmeans,
    seed_of,
    weights_of,
    whole,
)
from pyhybrid._cluster_count import KSuggestion, suggest_k
from pyhybrid._context import Context, default_context
from pyhybrid._errors import InvalidArgumentError, StateError
from pyhybrid._native import ffi, lib

__all__ = ["ClusterStatistics", "KMeans", "KSuggestion", "cluster_statistics", "suggest_k"]

Init = Literal["k-means++", "random"]

_INITS: dict[str, int] = {"k-means++": lib.HYB_KMEANS_PLUS_PLUS, "random": lib.HYB_KMEANS_RANDOM}


class _NotFittedError(StateError, ValueError, AttributeError):
    """An attribute of the fit is asked for before `fit`."""


def _not_fitted(estimator: object) -> Exception:
    """The error of an estimator without a fit; also scikit-learn's where that is in use."""
    message = f"this {type(estimator).__name__} is not fitted yet: call fit first"
    if "sklearn" in sys.modules:
        from sklearn.exceptions import NotFittedError

        return type("_NotFittedError", (_NotFittedError, NotFittedError), {})(message)  # type: ignore[no-any-return]
    return _NotFittedError(message)


# ---- statistics ----


@dataclass(frozen=True, kw_only=True)
class ClusterStatistics:
    """What the points of one cluster are like.

    Args:
        cluster: its number.
        size: number of its points.
        mean: [features] of its points; None if it is empty.
        std: [features], standard deviation of its points; None if it is empty.
        mean_distance: mean Euclidean distance to the centroid (cohesion: the smaller, the tighter); infinite
            if it is empty.
        largest_distance: of its points to the centroid; 0 if it is empty.
        inertia: sum of squared distances to the centroid.
    """

    cluster: int
    size: int
    mean: Array | None
    std: Array | None
    mean_distance: float
    largest_distance: float
    inertia: float


def cluster_statistics(
    points: npt.ArrayLike, labels: npt.ArrayLike, centroids: npt.ArrayLike, *, context: Context | None = None
) -> list[ClusterStatistics]:
    """Describes clusters.

    Args:
        points: float32 or float64 [n, features], finite.
        labels: integers [n], 0 to k - 1.
        centroids: [k, features].
        context: None for the default one.

    Returns:
        One entry a cluster, in their order.

    Raises:
        InvalidArgumentError: a wrong shape, or a label out of range.
        NotFiniteError: NaN or infinity.
    """
    context = context or default_context()
    array = matrix(points, "points")
    middle = matrix(centroids, "centroids", array.dtype)
    owner = np.asarray(labels)
    if owner.shape != (len(array),) or owner.dtype.kind not in "iu":
        raise InvalidArgumentError(
            f"labels has shape {owner.shape} and dtype {owner.dtype}; give integers of shape ({len(array)},)"
        )
    if middle.shape[1] != array.shape[1]:
        raise InvalidArgumentError(f"centroids has {middle.shape[1]} features, points has {array.shape[1]}")
    if owner.size and not 0 <= int(owner.min()) <= int(owner.max()) < len(middle):
        raise InvalidArgumentError(
            f"labels go from {owner.min()} to {owner.max()}; they must be 0 to {len(middle) - 1}"
        )
    owner = np.ascontiguousarray(owner, np.int32)
    found = ffi.new("hyb_cluster_statistics[]", len(middle))
    with context.lock:
        status = function_of("hyb_cluster_statistics", array.dtype)(
            context.handle, pointer(array), *array.shape, pointer(owner), pointer(middle), len(middle), found
        )
        check_status(context, status)
    order = np.argsort(owner, kind="stable")
    ends = np.cumsum([entry.size for entry in found])
    statistics = []
    for cluster, entry in enumerate(found):
        size = int(entry.size)
        members = array[order[ends[cluster] - size : ends[cluster]]]
        statistics.append(
            ClusterStatistics(
                cluster=cluster,
                size=size,
                mean=members.mean(0, dtype=np.float64) if size else None,
                std=members.std(0, dtype=np.float64) if size else None,
                mean_distance=float(entry.mean_distance) if size else math.inf,
                largest_distance=float(entry.largest_distance),
                inertia=float(entry.inertia),
            )
        )
    return statistics


# ---- the estimator ----


class KMeans:
    """K-means clustering in the C core, as an estimator in scikit-learn's sense.

    From given centroids, results are the same for any number of threads and on every processor. float32 data
    is clustered in float32, everything else in float64.

    Args:
        n_clusters: number of clusters, at most the number of samples.
        init: 'k-means++', 'random' (samples), or centroids [n_clusters, features].
        n_init: runs from different starts, of which the one of least inertia is kept; 'auto': 10 for
            'random', else 1.
        max_iter: most iterations of a run; with batch_size, most batches.
        tol: a run ends when the squared shift of the centroids is at most tol times the mean variance of the
            features.
        random_state: seed, NumPy generator, or None for another start each time.
        batch_size: samples of a mini-batch (Sculley 2010); None: Lloyd's iterations over all samples.
        context: None for the default one.

    Attributes:
        cluster_centers_: [n_clusters, features].
        labels_: int32 [n], the nearest centre of each sample of the fit.
        inertia_: sum of (weighted) squared distances to the own centre.
        n_iter_: iterations of the best run.
        converged_: False if max_iter ended the best run.
        n_features_in_: number of features of the fit.
    """

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: Init | npt.ArrayLike = "k-means++",
        n_init: int | Literal["auto"] = "auto",
        max_iter: int = 300,
        tol: float = 1e-4,
        random_state: Any = None,
        batch_size: int | None = None,
        context: Context | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state
        self.batch_size = batch_size
        self.context = context

    # -- parameters

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: ARG002 - scikit-learn's signature
        """Returns the constructor's arguments by name."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> Self:
        """Sets constructor arguments.

        Raises:
            InvalidArgumentError: no such argument.
        """
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise InvalidArgumentError(
                    f"{name!r} is no parameter of KMeans; choose one of {', '.join(known)}"
                )
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        defaults = {name: p.default for name, p in inspect.signature(type(self)).parameters.items()}
        given = {name: value for name, value in self.get_params().items() if value is not defaults[name]}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in given.items())})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "context": None}  # threads stay in their process

    def __sklearn_clone__(self) -> Self:
        return type(self)(**self.get_params())

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type="clusterer",
            target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(preserves_dtype=["float64", "float32"]),
            input_tags=InputTags(),
        )

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "cluster_centers_")

    # -- fitting

    def _options(self) -> dict[str, Any]:
        """Fields of hyb_kmeans_options, checked."""
        try:
            tolerance = float(self.tol)
        except (TypeError, ValueError):
            tolerance = math.nan
        if not 0 <= tolerance < math.inf:
            raise InvalidArgumentError(f"tol is {self.tol!r}; give a number of at least 0")
        if isinstance(self.init, str) and self.init not in _INITS:
            raise InvalidArgumentError(f"init is {self.init!r}; give 'k-means++', 'random' or an array")
        automatic = isinstance(self.n_init, str) and self.n_init == "auto"
        return {
            "init": _INITS[self.init] if isinstance(self.init, str) else lib.HYB_KMEANS_GIVEN,
            "n_init": 0 if automatic else whole(self.n_init, "n_init", 1),
            "max_iterations": whole(self.max_iter, "max_iter", 1),
            "tolerance": tolerance,
            "seed": seed_of(self.random_state),
            "batch_size": 0 if self.batch_size is None else whole(self.batch_size, "batch_size", 1),
        }

    def _start(self, points: Array) -> Array | None:
        """The given centroids, if any."""
        if isinstance(self.init, str):
            return None
        start = matrix(self.init, "init", points.dtype)
        wanted = (self.n_clusters, points.shape[1])
        if start.shape != wanted:
            raise InvalidArgumentError(f"init has shape {start.shape}; {wanted} is (n_clusters, features)")
        return start

    def fit(self, X: npt.ArrayLike, y: Any = None, sample_weight: npt.ArrayLike | None = None) -> Self:  # noqa: ARG002
        """Clusters samples.

        Args:
            X: [n, features], finite.
            y: ignored.
            sample_weight: [n], 0 or more; samples of weight 0 are labelled, and count for nothing else. None:
                1 each.

        Returns:
            The estimator.

        Raises:
            InvalidArgumentError: a parameter, shape or weight that cannot be.
            NotFiniteError: NaN or infinity; also a ValueError.
        """
        options = self._options()
        points = matrix(X, "X")
        n_clusters = whole(self.n_clusters, "n_clusters", 1, lib.HYB_KMEANS_MAX_CLUSTERS)
        weights = weights_of(sample_weight, len(points), points.dtype)
        chosen = points
        if weights is not None and (weights == 0).any():
            chosen, weights = points[weights != 0], weights[weights != 0]
            if len(chosen) == 0:
                raise InvalidArgumentError(
                    "sample_weight is zero for every sample; give one of them a weight"
                )
        if n_clusters > len(chosen):
            raise InvalidArgumentError(
                f"n_samples={len(chosen)} (weight above 0), n_clusters={n_clusters}: ask for fewer clusters"
            )
        context = self.context or default_context()
        fit = run_kmeans(chosen, weights, n_clusters, context, self._start(points), **options)
        self.cluster_centers_ = fit.centroids
        self.labels_ = fit.labels if chosen is points else assign(points, fit.centroids, context)[0]
        self.inertia_ = fit.inertia
        self.n_iter_ = fit.n_iterations
        self.converged_ = fit.converged
        self.n_features_in_ = points.shape[1]
        return self

    def fit_predict(
        self, X: npt.ArrayLike, y: Any = None, sample_weight: npt.ArrayLike | None = None
    ) -> Array:
        """Fits, and returns `labels_`; arguments are those of `fit`."""
        return self.fit(X, y, sample_weight).labels_

    def fit_transform(
        self, X: npt.ArrayLike, y: Any = None, sample_weight: npt.ArrayLike | None = None
    ) -> Array:
        """Fits, and returns `transform(X)`; arguments are those of `fit`."""
        return self.fit(X, y, sample_weight).transform(X)

    # -- new samples

    def _new_points(self, X: npt.ArrayLike) -> Array:
        if not self.__sklearn_is_fitted__():
            raise _not_fitted(self)
        points = matrix(X, "X", self.cluster_centers_.dtype)
        if points.shape[1] != self.n_features_in_:
            raise InvalidArgumentError(
                f"X has {points.shape[1]} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input"
            )
        return points

    def predict(self, X: npt.ArrayLike) -> Array:
        """Returns the nearest centre of each sample, int32 [n].

        Raises:
            StateError: not fitted.
            InvalidArgumentError: a wrong shape.
            NotFiniteError: NaN or infinity.
        """
        return assign(self._new_points(X), self.cluster_centers_, self.context or default_context())[0]

    def transform(self, X: npt.ArrayLike) -> Array:
        """Returns Euclidean distances to the centres, [n, n_clusters]; errors are those of `predict`."""
        return distances_to(self._new_points(X), self.cluster_centers_, self.context or default_context())

    def score(
        self,
        X: npt.ArrayLike,
        y: Any = None,  # noqa: ARG002
        sample_weight: npt.ArrayLike | None = None,
    ) -> float:
        """Returns minus the inertia of samples; errors are those of `predict`."""
        points = self._new_points(X)
        weights = weights_of(sample_weight, len(points), np.float64)
        _, squares = assign(points, self.cluster_centers_, self.context or default_context())
        return -float(squares.sum() if weights is None else squares @ weights)

    def statistics(self, X: npt.ArrayLike) -> list[ClusterStatistics]:
        """Returns what the samples nearest to each centre are like; errors are those of `predict`."""
        points = self._new_points(X)
        context = self.context or default_context()
        labels, _ = assign(points, self.cluster_centers_, context)
        return cluster_statistics(points, labels, self.cluster_centers_, context=context)

    def get_feature_names_out(self, input_features: Any = None) -> Array:  # noqa: ARG002
        """Returns the names of `transform`'s columns: 'kmeans0', 'kmeans1', ..."""
        if not self.__sklearn_is_fitted__():
            raise _not_fitted(self)
        name = type(self).__name__.lower()
        return np.array([f"{name}{i}" for i in range(len(self.cluster_centers_))], dtype=object)
