"""Samplers of windows: what each promises about its batches, resuming, weights, bounded clusters."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from pyhybrid import InvalidArgumentError, NotFiniteError
from pyhybrid.batches import Batches
from pyhybrid.cluster_balance import balanced_labels, squared_distances
from pyhybrid.samplers import (
    SAMPLERS,
    EpochSampler,
    LossWeightedSampler,
    SingleClusterSampler,
    StratifiedSampler,
    UniformSampler,
    make_sampler,
)
from pyhybrid.text_sources import DataError

WINDOW, BATCH, N_TOKENS = 32, 8, 32 * 103 + 5
N_WINDOWS = N_TOKENS // WINDOW


@pytest.fixture
def labels(rng: np.random.Generator) -> np.ndarray:
    """Four clusters of unequal size."""
    return rng.choice(4, N_WINDOWS, p=[0.5, 0.25, 0.15, 0.1]).astype(np.int32)


def options(**changes: Any) -> dict[str, Any]:
    return {"n_tokens": N_TOKENS, "window": WINDOW, "batch_size": BATCH, "seed": 5} | changes


@pytest.mark.parametrize("size", [33, 34, 1000, 70_001])
def test_uniform_is_batches(size: int) -> None:
    """The uniform sampler gives the places that Batches gives, for any seed and step."""
    for seed in (0, 7, 2**63 + 1):
        batches = Batches(np.zeros(size, np.uint8), batch_size=5, context=32, seed=seed)
        sampler = UniformSampler(n_tokens=size, window=32, batch_size=5, seed=seed)
        for step in (0, 1, 99, 2**40):
            assert sampler.starts(step) == batches.starts(step)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("jitter", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_plan_is_a_function_of_seed_and_step(
    name: str, jitter: bool, weighted: bool, labels: np.ndarray, rng: np.random.Generator
) -> None:
    """Plans do not depend on what was asked before; windows lie in the text; clusters are theirs."""
    weights = rng.random(N_WINDOWS) if weighted else None
    made = [make_sampler(name, **options(labels=labels, weights=weights, jitter=jitter)) for _ in range(2)]
    for step in (3, 0, 1, 50):
        made[0].plan(step + 1)
        a, b = made[0].plan(step), made[1].plan(step)
        assert a.starts == b.starts == made[0].starts(step)
        assert len(a.starts) == len(a.clusters) == len(a.windows) == BATCH
        assert all(0 <= start <= N_TOKENS - WINDOW - 1 for start in a.starts)
        assert np.array_equal(a.clusters, labels[a.windows])
        overlap = WINDOW - np.abs(np.array(a.starts) - a.windows * WINDOW)
        assert (overlap >= WINDOW // 2 - 1).all()
        assert a.majority == np.bincount(a.clusters).argmax()
    other = make_sampler(name, **options(labels=labels, weights=weights, jitter=jitter, seed=6))
    assert other.starts(3) != made[0].starts(3)
    assert make_sampler("uniform", **options()).plan(0).majority == -1


@pytest.mark.parametrize("name", ["uniform", "stratified", "single", "loss_weighted"])
def test_windows_come_as_often_as_their_weights_say(
    name: str, labels: np.ndarray, rng: np.random.Generator
) -> None:
    """Over many batches each window's share is its weight's; windows of weight 0 never come."""
    weights = rng.choice([0.0, 0.5, 1.0, 2.0], N_WINDOWS)
    sampler = make_sampler(name, **options(labels=labels, weights=weights, batch_size=50))
    n_batches = 4000 if name == "single" else 800
    drawn = np.concatenate([sampler.plan(step).windows for step in range(n_batches)])
    counts = np.bincount(drawn, minlength=N_WINDOWS)
    assert not counts[weights == 0].any()
    expected = weights / weights.sum() * drawn.size
    kept = expected > 0
    # 'single' draws its clusters once a batch: the deviation of a share is sqrt(batches) / batches
    deviation = np.sqrt(expected[kept]) * (50**0.5 if name == "single" else 1.0)
    assert (np.abs(counts[kept] - expected[kept]) < 5 * deviation).all()


def test_stratified_covers_clusters_in_proportion(labels: np.ndarray) -> None:
    """A cluster's number in a batch is within one of its share, and keys order windows within clusters."""
    keys = np.arange(N_WINDOWS)[::-1].copy()
    sampler = StratifiedSampler(**options(labels=labels, batch_size=20, keys=keys))
    share = np.bincount(labels, minlength=4) / N_WINDOWS * 20
    for step in range(100):
        plan = sampler.plan(step)
        assert (np.abs(np.bincount(plan.clusters, minlength=4) - share) < 2).all()
        assert (np.diff(plan.clusters) >= 0).all()
        for cluster in range(4):
            assert (np.diff(plan.windows[plan.clusters == cluster]) <= 0).all()


def test_single_cluster_batches(labels: np.ndarray) -> None:
    """All windows of a batch are of one cluster, and clusters come by their sizes."""
    sampler = SingleClusterSampler(**options(labels=labels))
    chosen = []
    for step in range(2000):
        plan = sampler.plan(step)
        assert len(set(plan.clusters.tolist())) == 1
        chosen.append(plan.majority)
    share = np.bincount(labels, minlength=4) / N_WINDOWS
    assert np.allclose(np.bincount(chosen, minlength=4) / 2000, share, atol=5 * 0.5 / 2000**0.5)


def test_empty_clusters_are_never_drawn() -> None:
    """Labels may leave numbers out, and weights may empty a cluster."""
    labels = np.where(np.arange(N_WINDOWS) % 2 == 0, 1, 4)
    weights = (labels == 1).astype(float)
    for name in ("single", "stratified", "loss_weighted"):
        sampler = make_sampler(name, **options(labels=labels, weights=weights))
        assert all((sampler.plan(step).clusters == 1).all() for step in range(50))


def test_loss_weighted_prefers_high_losses_within_bounds(labels: np.ndarray) -> None:
    """A cluster of high loss comes more often, at most e^2 times as often as by size against the lowest."""
    sampler = LossWeightedSampler(**options(labels=labels, batch_size=64))
    assert sampler.factors().tolist() == [1, 1, 1, 1]
    for cluster, loss in enumerate((1.0, 1.0, 9.0, 1.0)):
        sampler.update(np.flatnonzero(labels == cluster)[:3], [loss] * 3)
    factors = sampler.factors()
    assert factors[2] == math.e
    assert factors[0] == 1 / math.e
    drawn = np.concatenate([sampler.plan(step).clusters for step in range(500)])
    share = np.bincount(labels, minlength=4) * factors
    assert np.allclose(np.bincount(drawn, minlength=4) / drawn.size, share / share.sum(), atol=0.02)
    sampler.update([int(np.flatnonzero(labels == 2)[0])], 1.0)  # one loss for all; the average follows slowly
    assert sampler.factors()[2] == math.e
    for bad in ([math.nan], [1.0, 2.0]):
        with pytest.raises(InvalidArgumentError, match="losses"):
            sampler.update([1], bad)
    with pytest.raises(InvalidArgumentError, match="numbered"):
        sampler.update([N_WINDOWS], 1.0)


def test_loss_weighted_resumes_from_its_state(labels: np.ndarray) -> None:
    """A sampler with a restored state, which passes through JSON, goes on as the first one."""
    first, second = (LossWeightedSampler(**options(labels=labels)) for _ in range(2))
    for step in range(20):
        plan = first.plan(step)
        first.update(plan.windows, plan.clusters * 0.7 + 1.0)
    second.restore(json.loads(json.dumps(first.state())))
    assert second.state() == first.state()
    assert [second.starts(step) for step in range(20, 30)] == [first.starts(step) for step in range(20, 30)]
    for bad in ({}, {"losses": [1.0], "seen": [1]}, {"losses": "x", "seen": []}):
        with pytest.raises(InvalidArgumentError, match="state"):
            second.restore(bad)
    with pytest.raises(InvalidArgumentError, match="no state"):
        UniformSampler(**options()).restore({"losses": []})
    UniformSampler(**options()).restore(UniformSampler(**options()).state())


@pytest.mark.parametrize("n_windows", [1, 2, 3, 16, 17, 64, 103])
def test_epoch_has_each_window_once(n_windows: int) -> None:
    """An epoch is a permutation of the windows, others differ, and batches run across epochs."""
    sampler = EpochSampler(n_tokens=n_windows * WINDOW + 1, window=WINDOW, batch_size=5, seed=3)
    n_epochs = 10  # five windows at a time: whole batches
    drawn = np.concatenate([sampler.plan(step).windows for step in range(n_windows * n_epochs // 5)])
    epochs = drawn.reshape(n_epochs, n_windows)
    assert (np.sort(epochs, axis=1) == np.arange(n_windows)).all()
    assert n_windows < 16 or len({tuple(epoch) for epoch in epochs}) == n_epochs
    assert sampler.epoch_of(0) == 0
    assert sampler.epoch_of(n_windows) == 5


def test_epoch_reads_no_token_twice() -> None:
    """Windows of an epoch are shifted alike, so that inner ones do not overlap; epochs differ."""
    sampler = EpochSampler(n_tokens=WINDOW * 50 + 1, window=WINDOW, batch_size=50)
    starts = [np.sort(sampler.starts(epoch)) for epoch in range(6)]
    assert all((np.diff(each)[1:-1] == WINDOW).all() for each in starts)
    assert len({int(each[10]) for each in starts}) > 3


def test_epoch_with_weights_thins() -> None:
    """A window comes at most once an epoch, and as often as its weight says over many."""
    weights = np.where(np.arange(N_WINDOWS) % 3 == 0, 0.25, 1.0)
    sampler = EpochSampler(**options(weights=weights, batch_size=1))
    n, n_epochs = sampler.epoch_windows, 40
    assert n == int(weights.sum())
    drawn = np.array([sampler.plan(step).windows[0] for step in range(n * n_epochs)]).reshape(n_epochs, n)
    assert all(len(set(epoch)) == n for epoch in drawn.tolist())
    counts = np.bincount(drawn.ravel(), minlength=N_WINDOWS) / n_epochs
    assert np.allclose(counts[weights == 1].mean(), 1.0, atol=0.02)
    assert np.allclose(counts[weights == 0.25].mean(), 0.25, atol=0.02)


def test_bad_input_is_named(labels: np.ndarray) -> None:
    """Each refused value is named, with what is allowed."""
    with pytest.raises(InvalidArgumentError, match="choose one of 'uniform'"):
        make_sampler("random", **options())
    with pytest.raises(InvalidArgumentError, match="needs labels"):
        make_sampler("stratified", **options())
    with pytest.raises(InvalidArgumentError, match="unexpected"):
        make_sampler("uniform", **options(shuffle=True))
    with pytest.raises(DataError, match="too few"):
        make_sampler("uniform", **options(n_tokens=WINDOW))
    for changes, words in (
        ({"window": 0}, "window"),
        ({"batch_size": 0}, "batch_size"),
        ({"seed": -1}, "seed"),
        ({"labels": labels[:-1]}, "labels"),
        ({"labels": labels - 1}, "labels"),
        ({"labels": labels * 0.5}, "labels"),
        ({"weights": np.zeros(N_WINDOWS)}, "not all 0"),
        ({"weights": np.full(N_WINDOWS, -1.0)}, "weights"),
        ({"weights": np.full(N_WINDOWS, math.nan)}, "weights"),
        ({"weights": np.ones(3)}, "weights"),
        ({"keys": np.full(N_WINDOWS, math.nan)}, "keys"),
        ({"keys": np.ones(3)}, "keys"),
        ({"decay": 1.0}, "decay"),
        ({"bound": -1.0}, "bound"),
    ):
        with pytest.raises(InvalidArgumentError, match=words):
            make_sampler("loss_weighted", **(options(labels=labels) | changes))


# ---- clusters of bounded size ----


@pytest.mark.parametrize("slack", [1.0, 1.1, 1.5])
@pytest.mark.parametrize("n", [1, 7, 100, 1001])
def test_balanced_sizes_obey_the_capacity(n: int, slack: float, rng: np.random.Generator) -> None:
    """No cluster holds more than ceil(n / k * slack), and every point has a cluster."""
    for k in (1, 2, 7, 16):
        labels = balanced_labels(rng.random((n, k)) ** 4, slack=slack)
        assert labels.shape == (n,)
        assert labels.min() >= 0
        assert np.bincount(labels, minlength=k).max() <= math.ceil(n / k * slack)


def test_balanced_cost_is_near_the_optimum(rng: np.random.Generator) -> None:
    """Where sizes fit anyway nothing changes; else the cost is near that of the best balanced assignment."""
    centers = rng.normal(size=(8, 4)) * 3
    even = np.repeat(np.arange(8), 40)
    costs = squared_distances(centers[even] + rng.normal(size=(320, 4)) * 0.2, centers)
    assert np.array_equal(balanced_labels(costs), costs.argmin(axis=1))
    uneven = rng.choice(8, 320, p=[0.3, 0.2, 0.15, 0.1, 0.1, 0.05, 0.05, 0.05])
    costs = squared_distances(centers[uneven] + rng.normal(size=(320, 4)), centers)
    labels = balanced_labels(costs, slack=1.1)
    cost = costs[np.arange(320), labels].mean()
    assert cost >= costs.min(axis=1).mean()
    optimize = pytest.importorskip("scipy.optimize")
    columns = np.repeat(np.arange(8), 44)  # a column for each of a cluster's places
    best = costs[:, columns][optimize.linear_sum_assignment(costs[:, columns])].mean()
    assert cost <= 1.05 * best


def test_balanced_refuses_what_it_cannot_do(rng: np.random.Generator) -> None:
    """NaN, no cluster, and too little room are errors; no points are no error."""
    assert balanced_labels(np.empty((0, 3))).shape == (0,)
    with pytest.raises(InvalidArgumentError, match="cannot hold"):
        balanced_labels(np.zeros((10, 3)), capacity=3)
    with pytest.raises(InvalidArgumentError, match="slack"):
        balanced_labels(np.zeros((10, 3)), slack=0.5)
    with pytest.raises(InvalidArgumentError, match="at least one cluster"):
        balanced_labels(np.zeros((10, 0)))
    with pytest.raises(NotFiniteError):
        balanced_labels([[1.0, math.nan]])


def test_squared_distances_far_from_the_origin(rng: np.random.Generator) -> None:
    """Distances of points with a large common offset keep their digits."""
    points, centers = rng.normal(size=(20, 5)) + 1e6, rng.normal(size=(3, 5)) + 1e6
    exact = ((points[:, None] - centers) ** 2).sum(axis=2)
    assert np.allclose(squared_distances(points, centers), exact, rtol=1e-7)
