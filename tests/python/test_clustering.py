"""K-means from Python: scikit-learn's contract and results, seeds, weights, statistics, suggestions."""

from __future__ import annotations

import math
import pickle
import signal
import threading
import time

import numpy as np
import pytest

from pyhybrid import (
    Context,
    HybridError,
    InvalidArgumentError,
    KMeans,
    NotFiniteError,
    StateError,
    cluster_statistics,
    suggest_k,
)


def _blobs(n=1500, d=5, k=6, spread=1.0, seed=0, dtype=np.float64):
    random = np.random.default_rng(seed)
    centres = random.uniform(-8, 8, (k, d))
    return (centres[random.integers(0, k, n)] + spread * random.standard_normal((n, d))).astype(dtype)


def _inertia(points, centres, labels):
    return float(((points.astype(np.float64) - centres.astype(np.float64)[labels]) ** 2).sum())


# ---- against scikit-learn ----


def _data(name):
    if name == "digits":
        datasets = pytest.importorskip("sklearn.datasets")
        return datasets.load_digits().data, 10
    if name == "weights":  # one dimension, as of a layer's weights
        return np.random.default_rng(3).standard_normal((20_000, 1)) * 0.05, 12
    if name == "noise":
        return np.random.default_rng(4).standard_normal((5000, 16)), 20
    return _blobs(), 6


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", ["blobs", "digits", "weights", "noise"])
@pytest.mark.parametrize("weighted", [False, True])
def test_kmeans_equals_scikit_learn_from_the_same_start(name, dtype, weighted):
    """Labels are equal but for near-ties, and the inertia to 1e-6 (float64) or 1e-4 (float32)."""
    cluster = pytest.importorskip("sklearn.cluster")
    points, k = _data(name)
    points = points.astype(dtype)
    weights = np.random.default_rng(5).uniform(0.5, 2, len(points)).astype(dtype) if weighted else None
    start = points[np.random.default_rng(6).choice(len(points), k, replace=False)]
    theirs = cluster.KMeans(k, init=start, n_init=1, tol=0, max_iter=100, algorithm="lloyd")
    theirs.fit(points, sample_weight=weights)
    ours = KMeans(k, init=start, tol=0, max_iter=100).fit(points, sample_weight=weights)
    single = dtype == np.float32
    assert ours.inertia_ == pytest.approx(theirs.inertia_, rel=1e-4 if single else 1e-6)
    different = ours.labels_ != theirs.labels_
    if not single:
        assert ours.n_iter_ == theirs.n_iter_
        np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, rtol=1e-6, atol=1e-9)
    assert different.mean() <= (0.005 if single else 0)
    if not different.any():
        return
    # Near-ties: a point in doubt is, for either side's label, as near to the one centre as to the other.
    distances = ours.transform(points[different]).astype(np.float64)
    rows = np.arange(len(distances))
    mine, other = distances[rows, ours.labels_[different]], distances[rows, theirs.labels_[different]]
    np.testing.assert_allclose(mine, other, rtol=0.02)


def test_kmeans_passes_check_estimator():
    """scikit-learn's own checks of an estimator pass, but for the one that its own KMeans is excused from."""
    checks = pytest.importorskip("sklearn.utils.estimator_checks")
    reason = "repeating samples changes what is drawn; scikit-learn's own KMeans is excused in the same way"
    checks.check_estimator(
        KMeans(), expected_failed_checks={"check_sample_weight_equivalence_on_dense_data": reason}
    )


def test_kmeans_works_in_a_pipeline():
    """An estimator can be cloned, searched and put behind a scaler."""
    pytest.importorskip("sklearn")
    from sklearn.base import clone, is_clusterer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    context = Context(threads=1)
    estimator = clone(KMeans(3, random_state=1, context=context))
    assert estimator.context is context
    assert is_clusterer(estimator)
    assert make_pipeline(StandardScaler(), estimator).fit_predict(_blobs(k=3)).shape == (1500,)


# ---- the estimator alone ----


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("options", [{}, {"init": "random"}, {"batch_size": 200}], ids=str)
def test_kmeans_finds_groups(dtype, options):
    """Groups that are apart are found from any start, and everything said of them is true."""
    points = _blobs(spread=0.3, dtype=dtype)
    model = KMeans(6, random_state=3, n_init=20, **options).fit(points)
    assert model.cluster_centers_.shape == (6, 5)
    assert model.cluster_centers_.dtype == dtype
    assert model.labels_.dtype == np.int32
    assert model.inertia_ == pytest.approx(_inertia(points, model.cluster_centers_, model.labels_), rel=1e-6)
    assert model.inertia_ < 1.2 * 0.3**2 * points.size
    assert model.n_features_in_ == 5
    assert 1 <= model.n_iter_ <= 300
    np.testing.assert_array_equal(model.predict(points), model.labels_)
    assert model.score(points) == pytest.approx(-model.inertia_)
    distances = model.transform(points)
    np.testing.assert_array_equal(distances.argmin(1), model.labels_)
    np.testing.assert_allclose(
        distances[:, 2], np.linalg.norm(points - model.cluster_centers_[2], axis=1), rtol=1e-5
    )


def test_kmeans_same_seed_same_result():
    """A seed fixes the result for any number of threads; no seed gives other starts."""
    points = np.random.default_rng(0).standard_normal((3000, 8))
    results = [
        KMeans(20, random_state=5, max_iter=2, context=Context(threads=threads)).fit(points).cluster_centers_
        for threads in (1, 2, 3)
    ]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
    free = [KMeans(20, max_iter=2).fit(points).inertia_ for _ in range(2)]
    assert free[0] != free[1]
    for state in (np.random.default_rng(1), np.random.RandomState(1)):
        assert KMeans(3, random_state=state).fit(points).converged_ in (True, False)


def test_kmeans_convergence_is_reported():
    """The flag says whether the last iteration found nothing to do."""
    points = np.random.default_rng(0).standard_normal((3000, 8))
    short = KMeans(20, random_state=5, max_iter=2, tol=0).fit(points)
    assert (short.n_iter_, short.converged_) == (2, False)
    assert KMeans(20, random_state=5, max_iter=500, tol=0).fit(points).converged_
    loose = KMeans(20, random_state=5, tol=0.1).fit(points)
    assert loose.converged_
    assert loose.n_iter_ < 20


def test_kmeans_weights():
    """Weights repeat samples; a weight of zero leaves a sample out, but labels it."""
    points = _blobs(n=300)
    weights = np.random.default_rng(1).integers(0, 4, 300)
    start = points[weights > 0][:4]
    weighted = KMeans(4, init=start, tol=0).fit(points, sample_weight=weights)
    repeated = KMeans(4, init=start, tol=0).fit(np.repeat(points, weights, axis=0))
    np.testing.assert_allclose(weighted.cluster_centers_, repeated.cluster_centers_, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(np.repeat(weighted.labels_, weights), repeated.labels_)
    assert weighted.labels_.shape == (300,)
    assert weighted.inertia_ == pytest.approx(repeated.inertia_)


def test_kmeans_parameters_and_pickling():
    """get_params, set_params, repr and pickling do what scikit-learn's do."""
    model = KMeans(4, random_state=1, context=Context(threads=1))
    assert model.get_params()["n_clusters"] == 4
    assert model.set_params(tol=0.5).tol == 0.5
    assert repr(KMeans(4, tol=0.5)) == "KMeans(n_clusters=4, tol=0.5)"
    with pytest.raises(InvalidArgumentError, match="n_klusters"):
        model.set_params(n_klusters=3)
    copy = pickle.loads(pickle.dumps(model.fit(_blobs())))
    np.testing.assert_array_equal(copy.predict(_blobs()), model.labels_)


REFUSED = [
    ({"n_clusters": 0}, "n_clusters is 0"),
    ({"n_clusters": 2.5}, "n_clusters is 2.5"),
    ({"n_clusters": 31}, "n_samples=30"),
    ({"init": "kmeans"}, "init is 'kmeans'"),
    ({"init": np.zeros((2, 2))}, "init has shape"),
    ({"n_init": 0}, "n_init is 0"),
    ({"max_iter": 0}, "max_iter is 0"),
    ({"tol": -1}, "tol is -1"),
    ({"tol": math.nan}, "tol is nan"),
    ({"batch_size": 0}, "batch_size is 0"),
    ({"random_state": -1}, "random_state is -1"),
]


@pytest.mark.parametrize(("options", "text"), REFUSED, ids=[text for _, text in REFUSED])
def test_kmeans_refuses_parameters(options, text):
    """A parameter out of range is named with its value."""
    with pytest.raises(InvalidArgumentError, match=text):
        KMeans(**options).fit(np.ones((30, 3)))


def test_kmeans_refuses_data():
    """Data that cannot be clustered is named; NaN is a NotFiniteError and a ValueError."""
    points = _blobs()
    for bad, text in [
        (points[0], "Reshape your data"),
        (points[:0], r"0 sample\(s\)"),
        (points[:, :0], r"0 feature\(s\)"),
        (points * 1j, "Complex data not supported"),
    ]:
        with pytest.raises(InvalidArgumentError, match=text):
            KMeans().fit(bad)
    for value in (math.nan, math.inf):
        bad = points.copy()
        bad[7, 2] = value
        with pytest.raises(NotFiniteError, match=r"points\[7\]\[2\]") as caught:
            KMeans().fit(bad)
        assert isinstance(caught.value, ValueError)
        with pytest.raises(NotFiniteError):
            KMeans().fit(points).predict(bad)
    with pytest.raises(InvalidArgumentError, match=r"sample_weights\[3\] is -1"):
        KMeans().fit(points, sample_weight=np.where(np.arange(1500) == 3, -1.0, 1.0))
    with pytest.raises(InvalidArgumentError, match="sample_weight has shape"):
        KMeans().fit(points, sample_weight=np.ones(3))
    with pytest.raises(StateError, match="call fit"):
        KMeans().predict(points)
    with pytest.raises(InvalidArgumentError, match="X has 3 features, but KMeans is expecting 5"):
        KMeans().fit(points).predict(points[:, :3])
    with pytest.raises(HybridError, match="1e150"):
        KMeans(2).fit(points * 1e160)


def test_kmeans_can_be_interrupted():
    """Ctrl-C ends a fit between iterations."""
    points = np.random.default_rng(0).standard_normal((50_000, 16))

    def interrupt():
        time.sleep(0.3)
        signal.raise_signal(signal.SIGINT)

    # A shell that starts a job in the background has it ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread, begun = threading.Thread(target=interrupt), time.monotonic()
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            while time.monotonic() < begun + 60:
                KMeans(64, tol=0, max_iter=1_000_000, random_state=0).fit(points)
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)


# ---- statistics, suggestions ----


def test_cluster_statistics_match_their_definitions():
    """Every figure is what NumPy computes; an empty cluster has none."""
    points = _blobs(dtype=np.float32)
    model = KMeans(5, random_state=0).fit(points)
    centres = np.vstack([model.cluster_centers_, np.zeros(5, np.float32)])
    found = cluster_statistics(points, model.labels_, centres)
    for cluster, entry in enumerate(found[:5]):
        members = points[model.labels_ == cluster].astype(np.float64)
        distances = np.linalg.norm(members - model.cluster_centers_[cluster], axis=1)
        assert (entry.cluster, entry.size) == (cluster, len(members))
        np.testing.assert_allclose(entry.mean, members.mean(0), rtol=1e-6)
        np.testing.assert_allclose(entry.std, members.std(0), rtol=1e-6)
        assert entry.mean_distance == pytest.approx(distances.mean())
        assert entry.largest_distance == pytest.approx(distances.max())
        assert entry.inertia == pytest.approx((distances**2).sum())
    assert (found[5].size, found[5].mean, found[5].mean_distance) == (0, None, math.inf)
    assert sum(entry.size for entry in model.statistics(points)) == len(points)
    with pytest.raises(InvalidArgumentError, match="labels go from"):
        cluster_statistics(points, np.full(len(points), 6), centres)
    with pytest.raises(InvalidArgumentError, match="labels has"):
        cluster_statistics(points, np.zeros(len(points)), centres)


@pytest.mark.parametrize("method", ["elbow", "silhouette", "both"])
def test_suggest_k_finds_the_number_of_groups(method):
    """Groups that are apart are counted, and the suggestion says what decided."""
    random = np.random.default_rng(0)
    centres = np.array([[0, 0, 0], [8, 8, 0], [8, 0, 8], [0, 8, 8]])
    points = centres[random.integers(0, 4, 3000)] + random.standard_normal((3000, 3))
    suggestion = suggest_k(points, k_max=10, method=method)
    assert suggestion.k == 4
    assert suggestion.method == ("elbow" if method == "elbow" else "silhouette")
    assert "4 clusters" in suggestion.reason
    assert suggestion.ks == tuple(range(1, 11))
    assert list(suggestion.inertias.values()) == sorted(suggestion.inertias.values(), reverse=True)
    assert len(suggestion.silhouettes) == (0 if method == "elbow" else 9)


def test_suggest_k_says_when_there_is_no_structure():
    """On noise the silhouette does not decide, and the reason says why."""
    noise = np.random.default_rng(0).standard_normal((500, 10))
    suggestion = suggest_k(noise, k_max=8)
    assert suggestion.method == "elbow"
    assert "No silhouette reaches 0.25" in suggestion.reason
    assert "no substantial structure" in suggest_k(noise, k_max=8, method="silhouette").reason
    assert suggest_k(np.ones((10, 2)), k_max=4).k == 1


def test_suggest_k_agrees_with_scikit_learn_on_silhouettes():
    """Mean silhouettes are scikit-learn's."""
    metrics = pytest.importorskip("sklearn.metrics")
    points = _blobs(n=400)
    suggestion = suggest_k(points, k_max=6, sample=400)
    for k, value in suggestion.silhouettes.items():
        labels = KMeans(k, n_init=3, random_state=0).fit(points).labels_
        assert value == pytest.approx(metrics.silhouette_score(points, labels), abs=1e-9)


def test_suggest_k_refuses():
    """Arguments out of range are named."""
    for options, text in [
        ({"method": "gap"}, "method is 'gap'"),
        ({"k_max": 1}, "k_max is 1"),
        ({"sample": 3}, "sample is 3"),
    ]:
        with pytest.raises(InvalidArgumentError, match=text):
            suggest_k(_blobs(), **options)
    with pytest.raises(InvalidArgumentError, match="2 rows"):
        suggest_k(np.ones((2, 2)))
