"""Clusters of a model's rows and weights: what is said of them, and the learning rates that follow."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest

from pyhybrid._errors import InvalidArgumentError, StateError
from pyhybrid._run_update import make_update
from pyhybrid.config import ConfigError, ModelConfig, TrainingConfig
from pyhybrid.language_model import LanguageModel
from pyhybrid.parameter_clusters import (
    Features,
    LayerClusters,
    ParameterCluster,
    cluster_rows,
    cluster_table,
    cluster_values,
    row_multipliers,
)
from pyhybrid.trainer import Trainer

SHAPE = ModelConfig(
    vocab_size=60, dim=48, n_layers=2, n_heads=3, n_kv_heads=1, ffn_dim=80, max_context=32, sub_norms=True
)
MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def _tokens(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 60, (4, 25)).astype(np.uint32)


def _model(optimizer: str = "spectral", *, seed: int = 3) -> LanguageModel:
    model = LanguageModel(SHAPE, seed=seed)
    model.prepare(4, 24, optimizer=optimizer)
    model.gradients(_tokens(0))
    return model


def _layer(importance: list[float], sizes: list[int]) -> LayerClusters:
    """Clusters of rows, of which only sizes and importance matter."""
    clusters = tuple(
        ParameterCluster(
            cluster=c, size=size, centroid_norm=1.0, inertia=0.0, mean_distance=0.0, cohesion=1.0,
            importance=importance[c], magnitude=1.0,
        )
        for c, size in enumerate(sizes)
    )  # fmt: skip
    labels = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    return LayerClusters(
        name="blk.0.attn_q", labels=labels, centroids=np.zeros((len(sizes), 1)), clusters=clusters, cohesion=1
    )


# ---- clusters ----


def test_every_matrix_is_described() -> None:
    """Sizes, inertia, importance and cohesion of the clusters agree with their definitions in NumPy."""
    model = _model()
    layers = cluster_rows(model, 3, features="weights")
    assert set(layers) == {f"blk.{layer}.{name}" for layer in range(2) for name in MATRICES}
    for name, layer in layers.items():
        p = model.parameters()[name]
        assert p.values is not None
        assert p.gradient is not None
        weights, gradient = p.values.astype(np.float64), p.gradient.astype(np.float64)
        products, variance = np.abs(weights * gradient), ((weights - weights.mean(0)) ** 2).sum()
        within = 0.0
        for c in layer.clusters:
            members = weights[layer.labels == c.cluster]
            squares = ((members - layer.centroids[c.cluster]) ** 2).sum()
            assert c.size == len(members) > 0
            assert c.inertia == pytest.approx(squares, rel=1e-4)
            assert c.centroid_norm == pytest.approx(np.linalg.norm(members.mean(0)), rel=1e-6)
            assert c.magnitude == pytest.approx(np.abs(members).mean(), rel=1e-6)
            share = products[layer.labels == c.cluster].sum() / products.sum()
            assert c.importance == pytest.approx(share, rel=1e-5)
            assert c.cohesion == pytest.approx(1 - squares / c.size / (variance / len(weights)), abs=1e-4)
            within += squares
        assert layer.cohesion == pytest.approx(1 - within / variance, abs=1e-4)
        assert sum(c.importance for c in layer.clusters) == pytest.approx(1)


def test_statistics_find_rows_of_another_kind() -> None:
    """Rows that are much larger than the others, and rows without a gradient, form clusters of their own."""
    model = _model()
    p = model.parameters()["blk.0.attn_q"]
    assert p.values is not None
    assert p.gradient is not None
    p.values[:10] *= 50
    p.gradient[30:40] = 0
    model.touch()
    labels = cluster_rows(model, 3, names=["blk.0.attn_q"])["blk.0.attn_q"].labels
    assert len(set(labels[:10])) == len(set(labels[30:40])) == 1
    assert labels[0] not in labels[10:]
    assert labels[30] not in np.delete(labels, np.s_[30:40])


def test_rows_that_are_alike_are_one_cluster() -> None:
    """A matrix of equal rows has nothing to tell apart: cohesion is 1, empty clusters say so."""
    model = _model()
    p = model.parameters()["blk.0.attn_k"]
    assert p.values is not None
    assert p.gradient is not None
    p.values[...] = p.values[0]
    p.gradient[...] = 0
    model.touch()
    each: tuple[Features, ...] = ("weights", "statistics")
    for features in each:
        layer = cluster_rows(model, 2, names=["blk.0.attn_k"], features=features)["blk.0.attn_k"]
        assert layer.cohesion == 1.0
        assert sum(c.size for c in layer.clusters) == len(layer.labels)
        assert all(math.isnan(c.cohesion) for c in layer.clusters if c.size == 0)
        assert (row_multipliers(layer, "importance") == 1).all()


def test_values_are_clustered_on_the_line() -> None:
    """Clusters of single weights are intervals, and explain most of the variance."""
    model = _model()
    for layer in cluster_values(model, 4, names=["blk.0.ffn_up", "blk.1.attn_v"]).values():
        values = model.parameters()[layer.name].values
        assert values is not None
        assert layer.labels.shape == values.shape
        order = np.argsort(layer.centroids[:, 0])
        ends = [(values[layer.labels == c].min(), values[layer.labels == c].max()) for c in order]
        assert all(left[1] < right[0] for left, right in itertools.pairwise(ends))
        assert layer.cohesion > 0.85  # Lloyd's four levels of a normal distribution: 0.88
        with pytest.raises(InvalidArgumentError, match="cluster_rows"):
            row_multipliers(layer, "importance")


def test_loaded_model_has_clusters_without_importance(tmp_path: Any) -> None:
    """A file is enough for sizes and norms; importance is not a number, and None in JSON values."""
    _model().save(tmp_path / "model.hyb")
    loaded = LanguageModel.load(tmp_path / "model.hyb")
    layers = cluster_rows(loaded, 3)
    layer = layers["blk.1.ffn_down"]
    assert layer.centroids.shape == (3, 2)
    assert all(math.isnan(c.importance) and c.centroid_norm > 0 for c in layer.clusters)
    plain = layer.to_dict()
    assert plain["members"] == "rows"
    assert plain["clusters"][0]["importance"] is None
    with pytest.raises(InvalidArgumentError, match="gradients"):
        row_multipliers(layer, "importance")
    assert sum(c.size for c in cluster_values(loaded, 3)["blk.0.attn_q"].clusters) == 48 * 48


def test_table_names_every_layer_and_cluster() -> None:
    """A line a cluster and one a layer, of equal width."""
    text = cluster_table(cluster_rows(_model(), 3)).splitlines()
    assert len(text) == 1 + 14 * 4
    assert sum(line.startswith("blk.") for line in text) == 14


def test_wrong_arguments_are_refused() -> None:
    """Too many clusters, unknown names, features and rules say what is possible."""
    model = _model()
    with pytest.raises(InvalidArgumentError, match=r"blk\.0\.attn_k has 16 rows"):
        cluster_rows(model, 17)
    with pytest.raises(InvalidArgumentError, match="n_clusters"):
        cluster_rows(model, 0)
    with pytest.raises(InvalidArgumentError, match="no layer's matrix"):
        cluster_rows(model, 2, names=["embedding"])
    with pytest.raises(InvalidArgumentError, match="statistics"):
        cluster_rows(model, 2, features="rows")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="inverse_importance"):
        row_multipliers(cluster_rows(model, 2)["blk.0.attn_q"], "more")  # type: ignore[arg-type]


# ---- learning rates ----


def test_multipliers_follow_from_importance() -> None:
    """The root of the importance per row, limited, with a mean of 1; the inverse rule turns it round."""
    layer = _layer([0.1, 0.1, 0.8], [10, 40, 50])
    relative = np.array([1.0, 0.25, 1.6])
    for rule, power in (("importance", 0.5), ("inverse_importance", -0.5)):
        rates = row_multipliers(layer, rule)  # type: ignore[arg-type]
        wanted = (relative**power).clip(0.5, 2)
        assert rates.dtype == np.float32
        assert rates.mean() == pytest.approx(1)
        assert rates[[0, 10, 50]] / rates[0] == pytest.approx(wanted / wanted[0], rel=1e-6)
    assert (row_multipliers(layer, "none") == 1).all()
    without = row_multipliers(_layer([0.0, 1.0], [5, 5]), "inverse_importance")
    assert without.max() / without.min() == pytest.approx(2 * math.sqrt(2), rel=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_multiplied_steps_stay_in_the_ball(decay: float) -> None:
    """With multipliers of 0 to 4 no singular value of a change is beyond the radius; the ball is used."""
    model, random, tightest = _model(), np.random.default_rng(1), 0.0
    for step in range(1, 21):
        model.gradients(_tokens(step))
        matrices = {name: p for name, p in model.parameters().items() if p.is_layer_matrix}
        before = {name: np.array(p.values, np.float64) for name, p in matrices.items()}
        model.set_row_multipliers(
            {name: random.uniform(0, 4, len(start)).astype(np.float32) for name, start in before.items()}
        )
        rate, radius = 10 ** random.uniform(-3, 0, 2)
        model.apply_trust_region(
            learning_rate=rate, radius=radius, weight_decay=decay, step=step, row_beta=0.95 * (step % 2)
        )
        for name, start in before.items():
            change = np.array(model.parameters()[name].values, np.float64) - start
            rounding = np.linalg.norm(np.spacing((abs(start) + abs(change)).astype(np.float32)) / 2)
            unit = radius * math.sqrt(max(1.0, change.shape[0] / change.shape[1]))
            largest = np.linalg.svd(change, compute_uv=False)[0]
            assert largest <= unit * (1 + 1e-3) + rounding, (name, step)
            tightest = max(tightest, largest / unit)
    assert tightest > 0.7


def test_multipliers_are_checked() -> None:
    """Names, shapes and values; before prepare there is no room for them."""
    model = _model()
    ones = np.ones(48, np.float32)
    with pytest.raises(InvalidArgumentError, match="no layer's matrix"):
        model.set_row_multipliers({"embedding": ones})
    with pytest.raises(InvalidArgumentError, match="shape"):
        model.set_row_multipliers({"blk.0.attn_q": ones[:-1]})
    with pytest.raises(InvalidArgumentError, match="row 2 is nan"):
        model.set_row_multipliers({"blk.0.attn_q": np.where(np.arange(48) == 2, np.float32(np.nan), ones)})
    with pytest.raises(StateError, match="prepare"):
        LanguageModel(SHAPE).set_row_multipliers({"blk.0.attn_q": ones})


# ---- training ----

RUN = TrainingConfig(steps=12, batch_size=4, context=24, parameter_clusters=3, cluster_rate_interval=5)


def _train(config: TrainingConfig) -> tuple[LanguageModel, list[dict[str, Any]]]:
    """A model after config.steps updates, and their metrics."""
    model = LanguageModel(SHAPE, seed=3)
    update = make_update(config, SHAPE)
    model.prepare(4, 24, optimizer=update.kind)
    found = []
    for number in range(1, config.steps + 1):
        gradients = model.gradients(_tokens(number))
        found.append(update.apply(model, gradients, multiplier=1.0, number=number))
    return model, found


def _weights(model: LanguageModel) -> bytes:
    return b"".join(np.array(p.values).tobytes() for p in model.parameters().values())


@pytest.mark.parametrize(
    "optimizer", [{"optimizer": "adamw"}, {}, {"trust_norm": "rms"}, {"trust_norm": "l2"}]
)
def test_rules_differ_and_none_is_as_without(optimizer: dict[str, Any]) -> None:
    """Each rule makes another model; the rule 'none' makes that without clusters, but measures them."""
    each = {}
    for rule in ("inverse_importance", "importance", "none"):
        model, found = _train(dataclasses.replace(RUN, cluster_rates=rule, **optimizer))
        measured = [number for number, metrics in enumerate(found, 1) if "cluster_cohesion" in metrics]
        assert measured == [1, 6, 11]
        assert 0 < found[0]["cluster_cohesion"] <= 1
        each[rule] = _weights(model)
    assert len(set(each.values())) == 3
    assert each["none"] == _weights(_train(dataclasses.replace(RUN, parameter_clusters=0, **optimizer))[0])


def test_configuration_is_checked() -> None:
    """Values out of their range name the field."""
    for name, value in (
        ("parameter_clusters", -1), ("cluster_rates", "faster"), ("cluster_rate_interval", 0),
        ("gradient_compression", "five"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=name):
            TrainingConfig(**{name: value})


def test_multipliers_end_with_their_run() -> None:
    """A model that was trained with clusters goes on without them as one that holds the same weights does."""
    text = b"the cat has four legs. " * 40
    config = TrainingConfig(steps=3, batch_size=2, context=16, threads=1, parameter_clusters=3)
    shape = dataclasses.replace(SHAPE, vocab_size=256)
    models = [LanguageModel(shape, seed=seed) for seed in (1, 2)]
    Trainer(models[0], text, config).train()
    for name, p in models[1].parameters().items():
        assert p.values is not None
        p.values[...] = models[0].parameters()[name].values
    models[1].touch()
    for model in models:
        Trainer(model, text, dataclasses.replace(config, parameter_clusters=0)).train()
    assert _weights(models[0]) == _weights(models[1])
