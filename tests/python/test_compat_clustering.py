"""The documents' clustering classes: names, defaults, spellings, statistics, precision, balance."""

from __future__ import annotations

import numpy as np
import pytest

from pyhybrid import (
    ClusterInfo,
    DataClustering,
    InvalidArgumentError,
    KMeans,
    KMeansClustering,
    NotFiniteError,
    ParameterClustering,
    StateError,
)
from pyhybrid.compat._arguments import as_array
from pyhybrid.config import ConfigError
from pyhybrid.precision import STORED_BITS


@pytest.fixture
def points(rng: np.random.Generator) -> np.ndarray:
    """Four separate groups of unequal size in three dimensions."""
    centres = 10 * np.eye(4, 3) - 5
    return np.concatenate(
        [c + rng.standard_normal((n, 3)) for c, n in zip(centres, (10, 30, 60, 100), strict=True)]
    )


def test_compat_kmeans_has_the_documented_defaults_and_results(points):
    """8 clusters, 100 iterations, tolerance 1e-4; the results are those of KMeans."""
    default = KMeansClustering()
    assert (default.n_clusters, default.max_iter, default.tol, default.tolerance) == (8, 100, 1e-4, 1e-4)
    assert default.centroids is None
    fit = KMeansClustering(4, random_state=3)
    assert fit.fit(points) is fit
    ours = KMeans(4, max_iter=100, random_state=3).fit(points)
    np.testing.assert_array_equal(fit.labels, ours.labels_)
    np.testing.assert_array_equal(fit.centroids, ours.cluster_centers_)
    assert (fit.inertia, fit.converged, fit.n_iter) == (ours.inertia_, True, ours.n_iter_)
    np.testing.assert_array_equal(fit.predict(points), fit.labels)
    assert KMeansClustering(4, 100, 1e-3, 7).tol == 1e-3  # the documents' order
    assert KMeansClustering.suggest_k(points).k == 4


def test_compat_kmeans_takes_tol_and_tolerance():
    """Both names set the same value; two different values are an error that names both."""
    assert KMeansClustering(tolerance=1e-2).tol == 1e-2
    assert KMeansClustering(tol=1e-2, tolerance=1e-2).tolerance == 1e-2
    with pytest.raises(ConfigError, match=r"tol=0.1 and tolerance=0.2"):
        KMeansClustering(tol=0.1, tolerance=0.2)
    with pytest.raises(TypeError, match="tolerence"):
        KMeansClustering(tolerence=0.1)


def test_compat_kmeans_info_is_a_list_and_a_dictionary(points):
    """Entries by place and by items(); fields as attributes and as items; figures are NumPy's."""
    fit = KMeansClustering(4, random_state=0).fit(points)
    info = fit.get_cluster_info(points)
    assert isinstance(info, list)
    assert list(info.keys()) == [0, 1, 2, 3]
    assert list(info.values()) == list(info)
    for cluster_id, entry in info.items():
        own = points[fit.predict(points) == cluster_id]
        assert info.index(entry) == cluster_id
        assert entry.size == entry["size"] == len(own)
        np.testing.assert_array_equal(entry.members, np.where(fit.labels == cluster_id)[0])
        np.testing.assert_allclose(entry["mean"], own.mean(0))
        np.testing.assert_allclose(entry["std"], own.std(0))
        np.testing.assert_allclose(entry["variance"], own.var(0))
        distance = np.linalg.norm(own - entry.centroid, axis=1).mean()
        assert entry.mean_distance == pytest.approx(distance)
    assert set(info[0].keys()) >= {
        "cluster_id",
        "centroid",
        "members",
        "size",
        "mean_distance",
        "mean",
        "std",
    }
    with pytest.raises(KeyError, match="'sizes' is not known"):
        info[0]["sizes"]


def test_compat_kmeans_info_of_an_empty_cluster(points):
    """Clusters that new points do not reach have no mean, and an infinite mean distance."""
    fit = KMeansClustering(4, random_state=0).fit(points)
    info = fit.get_cluster_info(points[:1])
    empty = [entry for entry in info if entry.size == 0]
    assert len(empty) == 3
    assert all(e.mean is None and e.variance is None and e.mean_distance == np.inf for e in empty)
    assert ClusterInfo(0, np.zeros(2), np.zeros(0, int), 0, np.inf).std is None


def test_compat_kmeans_reduces_too_many_clusters():
    """More clusters than points: a warning, and a cluster a point."""
    with pytest.warns(UserWarning, match="n_clusters is 8, there are 3 points"):
        fit = KMeansClustering(random_state=0).fit(np.eye(3))
    assert len(fit.centroids) == 3
    assert sorted(fit.labels) == [0, 1, 2]


def test_compat_kmeans_leaves_the_global_generator_alone(points):
    """A fit does not reseed or use NumPy's global generator."""
    np.random.seed(5)
    expected = np.random.random()
    np.random.seed(5)
    KMeansClustering(2, random_state=9).fit(points)
    assert np.random.random() == expected


@pytest.mark.parametrize(
    ("X", "error", "match"),
    [
        (np.array([[1.0, np.nan]]), NotFiniteError, "NaN"),
        (np.array([[1.0, np.inf]]), ValueError, "infinite"),
        (np.zeros(5), InvalidArgumentError, "2D"),
        (np.zeros((0, 3)), InvalidArgumentError, "0 sample"),
    ],
)
def test_compat_kmeans_refuses_bad_points(X, error, match):
    """NaN, infinity, vectors and empty arrays are errors that say so."""
    with pytest.raises(error, match=match):
        KMeansClustering(1).fit(X)


def test_compat_kmeans_refuses_bad_numbers_and_order(points):
    """A number of clusters below 1, and prediction before the fit."""
    with pytest.raises(InvalidArgumentError, match="n_clusters is 0"):
        KMeansClustering(0).fit(points)
    for call in (KMeansClustering().predict, KMeansClustering().get_cluster_info):
        with pytest.raises(StateError, match="fit"):
            call(points)
    with pytest.raises(InvalidArgumentError, match="features"):
        KMeansClustering(2).fit(points).predict(points[:, :2])


class Tensor:
    """What a PyTorch tensor with a gradient is to NumPy."""

    def __init__(self, values):
        self.values = values

    def detach(self):
        return self

    cpu = detach

    def numpy(self):
        return self.values


def test_compat_clustering_takes_tensors(points):
    """A tensor is detached and read on the CPU."""
    fit = KMeansClustering(4, random_state=0).fit(Tensor(points))
    np.testing.assert_array_equal(fit.labels, KMeansClustering(4, random_state=0).fit(points).labels)
    torch = pytest.importorskip("torch")
    np.testing.assert_array_equal(as_array(torch.ones(2, requires_grad=True)), [1, 1])


# ---- parameters ----


def test_compat_parameters_are_clustered_by_value(rng):
    """Four clusters of single weights by default; importance sums to 1; the layer is remembered."""
    clusters = ParameterClustering()
    weights = rng.standard_normal((32, 16)).astype(np.float32)
    found = clusters.cluster_layer_parameters("layer", weights)
    assert clusters.n_clusters == 4
    assert found["labels"].shape == (512,)
    assert found["centroids"].shape == (4, 1)
    assert clusters.layer_clusters["layer"] is found
    for entry in found["info"]:
        own = weights.ravel()[found["labels"] == entry.cluster_id]
        assert entry.centroid[0] == pytest.approx(own.mean(), rel=1e-4)
    importance = clusters.get_cluster_importance("layer")
    expected = np.array([e.size / 512 / (1 + e.mean_distance) for e in found["info"]])
    np.testing.assert_allclose(importance, expected / expected.sum())
    assert importance.sum() == pytest.approx(1)
    assert clusters.get_cluster_importance("other") is None


def test_compat_parameter_importance_follows_gradients(rng):
    """With gradients, importance is the share of |w dL/dw|."""
    clusters, weights = ParameterClustering(), rng.standard_normal(300).astype(np.float32)
    gradients = np.where(weights > 0, 5.0, 0.0)
    found = clusters.cluster_layer_parameters("layer", weights, gradients=gradients)
    products = np.abs(weights * gradients)
    expected = [products[found["labels"] == c].sum() / products.sum() for c in range(4)]
    np.testing.assert_allclose(clusters.get_cluster_importance("layer"), expected, rtol=1e-5)
    with pytest.raises(InvalidArgumentError, match="gradients has 2 values for 300"):
        clusters.cluster_layer_parameters("layer", weights, gradients=[1.0, 2.0])


@pytest.mark.parametrize("target", [1.0, 1.3, 1.58, 1.6, 2.0, 3.1, 4.0])
def test_compat_parameter_precision_stays_in_the_budget(rng, target):
    """Bits are available formats, and their size-weighted mean, as stored, is at most the target."""
    clusters = ParameterClustering(6)
    found = clusters.cluster_layer_parameters("layer", rng.standard_normal(999) ** 3)
    bits = clusters.suggest_quantization_precision("layer", target)
    sizes = np.array([entry.size for entry in found["info"]])
    assert set(bits) <= set(STORED_BITS)
    assert sizes @ [STORED_BITS[b] for b in bits] <= target * sizes.sum() * (1 + 1e-12)
    if target == 4:
        assert (bits == 4).all()
    if target == 1:
        assert (bits == 1).all()


def test_compat_parameter_precision_refuses(rng):
    """A layer that was not clustered, a budget that nothing fits, NaN, nothing."""
    clusters = ParameterClustering()
    with pytest.raises(InvalidArgumentError, match="'layer' was not clustered"):
        clusters.suggest_quantization_precision("layer")
    clusters.cluster_layer_parameters("layer", rng.standard_normal(50))
    with pytest.raises(InvalidArgumentError, match=r"budget is 0.5 bits.*takes 1"):
        clusters.suggest_quantization_precision("layer", 0.5)
    with pytest.raises(NotFiniteError, match="weights"):
        clusters.cluster_layer_parameters("layer", [1.0, np.nan])
    with pytest.raises(InvalidArgumentError, match="weights is empty"):
        clusters.cluster_layer_parameters("layer", [])
    with pytest.warns(UserWarning, match="there are 2 points"):
        assert len(clusters.cluster_layer_parameters("small", [1.0, 2.0])["info"]) == 2


# ---- data ----


def test_compat_data_clusters_are_balanced_or_raw(points):
    """Groups hold every point once; balanced ones have at most ceil(n / k), raw ones the sizes of the fit."""
    clusters = DataClustering(4, random_state=0)
    assert DataClustering().n_clusters == 8
    labels, info = clusters.cluster_embeddings(points)
    np.testing.assert_array_equal(clusters.cluster_assignments, labels)
    raw = clusters.get_balanced_clusters(balanced=False)
    assert [len(group) for group in raw] == [entry.size for entry in info]
    assert sorted(map(len, raw)) == [10, 30, 60, 100]
    balanced = clusters.get_balanced_clusters()
    assert [len(group) for group in balanced] == [50] * 4
    for groups in (raw, balanced):
        np.testing.assert_array_equal(np.sort(np.concatenate(groups)), np.arange(200))


def test_compat_data_strategy(points):
    """The strategy's figures are those of the clusters."""
    clusters = DataClustering(4, random_state=0)
    clusters.cluster_embeddings(points)
    strategy = clusters.suggest_mini_batch_strategy()
    assert sorted(strategy.pop("cluster_sizes")) == [10, 30, 60, 100]
    assert strategy == {
        "total_samples": 200,
        "balanced_batch_size": 10,
        "strategy": "sample_from_each_cluster",
    }


def test_compat_data_refuses_before_clustering():
    """Groups and strategy need clusters."""
    for name in ("get_balanced_clusters", "suggest_mini_batch_strategy"):
        with pytest.raises(StateError, match="cluster_embeddings"):
            getattr(DataClustering(), name)()
    with pytest.raises(NotFiniteError):
        DataClustering(1).cluster_embeddings([[np.nan]])
