"""Batches of a run by its configuration: samplers, clusters and weights; exact resume; errors."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyhybrid._run_clusters as clusters_module
import pyhybrid.trainer as trainer_module
from pyhybrid import InvalidArgumentError
from pyhybrid._context import Context
from pyhybrid._run_batches import Batch, RunBatches
from pyhybrid._run_clusters import N_FEATURES, cluster_windows
from pyhybrid._run_log import RunLog
from pyhybrid.batches import Batches
from pyhybrid.checkpoint import CheckpointError, load_checkpoint
from pyhybrid.config import ConfigError, ModelConfig, TrainingConfig, load_config
from pyhybrid.language_model import LanguageModel
from pyhybrid.metrics import read_metrics
from pyhybrid.trainer import Trainer

WINDOW = 32
SHAPE = ModelConfig(dim=32, n_layers=1, n_heads=2, ffn_dim=64, max_context=WINDOW)
RUN = TrainingConfig(
    steps=12, batch_size=4, context=WINDOW, seed=3, threads=1, evaluation_interval=0, checkpoint_interval=5
)
CLUSTERED: dict[str, dict[str, Any]] = {
    "uniform": {"data_clusters": 3},
    "stratified": {"data_clusters": 3},
    "single": {"data_clusters": 3, "cluster_exponent": 0.5},
    "loss_weighted": {"data_clusters": 3, "near_duplicates": "down_weight"},
    "epoch": {"near_duplicates": "down_weight"},
}


def kinds_text(n_windows: int = 240) -> bytes:
    """Windows of three kinds in shares of 1/2, 1/3 and 1/6, one after the other in turns."""
    rng = np.random.default_rng(1)
    alphabets = [b"etaoin shrdlu", b"()[]{}=+-*/.;", b"<p>&;amp/0123"]
    kinds = [0, 1, 0, 2, 1, 0]
    letters = [rng.choice(np.frombuffer(alphabets[kinds[i % 6]], np.uint8), WINDOW) for i in range(n_windows)]
    return np.concatenate(letters).tobytes()


TEXT = kinds_text()
TOKENS = np.frombuffer(TEXT, np.uint8)


@pytest.fixture(autouse=True)
def _no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "plot_loss", lambda *_: False)


def changed(**fields: Any) -> TrainingConfig:
    return dataclasses.replace(RUN, **fields)


def weights(model: LanguageModel) -> dict[str, bytes]:
    return {name: np.asarray(p.values).tobytes() for name, p in model.parameters().items()}


def new_model(seed: int = 3) -> LanguageModel:
    return LanguageModel(SHAPE, seed=seed, context=Context(threads=1))


# ---- batches ----


def test_uniform_batches_are_those_of_batches() -> None:
    """Uniform windows are what Batches gives, bit for bit; clusters change nothing."""
    plain = Batches(TOKENS, batch_size=4, context=WINDOW, seed=3)
    for clusters in (0, 3):
        config = changed(sampler="uniform", data_clusters=clusters)
        made = RunBatches(TOKENS, config)
        for step in (0, 1, 77):
            assert np.array_equal(made.batch(step).tokens, plain.batch(step))
    assert RunBatches(TOKENS, RUN).batch(1)[2:] == (None, 0.5)


def test_clusters_find_the_kinds_and_do_not_depend_on_threads() -> None:
    """Three kinds of windows are three clusters, the largest first; pieces and threads change nothing."""
    found = [cluster_windows(TOKENS, WINDOW, 3, seed=3, context=Context(threads=n)) for n in (1, 2)]
    assert found[0].sizes.tolist() == [120, 80, 40]
    kinds = np.tile([0, 1, 0, 2, 1, 0], 40)
    assert np.array_equal(found[0].labels, kinds)
    assert np.array_equal(found[0].centroids, found[1].centroids)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clusters_module, "_PIECE_WINDOWS", 7)
        told: list[int] = []
        again = cluster_windows(TOKENS, WINDOW, 3, centroids=found[0].centroids, progress=told.append)
    assert np.array_equal(again.labels, kinds)
    assert sum(told) == 240
    with pytest.MonkeyPatch.context() as patch:  # a sample of five in twelve windows
        patch.setattr(clusters_module, "_SAMPLE_WINDOWS", 100)
        sampled = cluster_windows(TOKENS, WINDOW, 3, seed=3)
    assert sorted(np.bincount(sampled.labels).tolist()) == [40, 80, 120]


def test_share_is_that_of_the_majority() -> None:
    """A batch of a single cluster tells its number, and it as a share of the clusters."""
    made = RunBatches(TOKENS, changed(sampler="single", data_clusters=3))
    assert made.clusters is not None
    for step in range(1, 9):
        batch = made.batch(step)
        assert set(made.clusters.labels[batch.windows]) == {batch.cluster}
        assert batch.cluster_share == batch.cluster / 3  # type: ignore[operator]


def drawn(config: TrainingConfig, tokens: Any = TOKENS, steps: int = 300) -> np.ndarray:
    """Share of the windows that are drawn of each of the text's kinds (which repeat by sixes)."""
    made = RunBatches(tokens, config)
    windows = np.concatenate([made.batch(step).windows for step in range(steps)])
    return np.bincount(np.array([0, 1, 0, 2, 1, 0])[windows % 6]) / windows.size


@pytest.mark.parametrize("sampler", CLUSTERED)
def test_exponent_changes_the_shares(sampler: str) -> None:
    """With exponent 1 clusters come as often as they are in the text, with 0 equally often."""
    config = changed(sampler=sampler, data_clusters=3, batch_size=16)
    assert drawn(config) == pytest.approx([1 / 2, 1 / 3, 1 / 6], abs=0.08)
    assert drawn(dataclasses.replace(config, cluster_exponent=0.0)) == pytest.approx([1 / 3] * 3, abs=0.08)


@pytest.mark.parametrize("sampler", ["uniform", "epoch"])
def test_near_duplicates_come_as_often_as_one(sampler: str) -> None:
    """Forty copies of a window are drawn about as often as one window that occurs once."""
    rng = np.random.default_rng(2)
    text = rng.integers(32, 127, 100 * WINDOW).astype(np.uint8)
    text[: 40 * WINDOW] = np.tile(text[:WINDOW], 40)
    config = changed(sampler=sampler, batch_size=61)
    share = {}
    for kind in ("keep", "down_weight"):
        made = RunBatches(text, dataclasses.replace(config, near_duplicates=kind))
        share[kind] = np.mean(np.concatenate([made.batch(step).windows for step in range(100)]) < 40)
    assert share["keep"] == pytest.approx(0.4, abs=0.03)
    assert share["down_weight"] == pytest.approx(1 / 61, abs=0.02)


def test_loss_weighted_learns_from_each_sequence() -> None:
    """A cluster whose sequences have more loss than the others comes more often."""

    class Model:
        def sequence_losses(self, n: int) -> np.ndarray:
            assert made.clusters is not None
            return np.where(made.clusters.labels[batch.windows] == 2, 3.0, 1.0)[:n]

    made = RunBatches(TOKENS, changed(sampler="loss_weighted", data_clusters=3, batch_size=16))
    batch: Batch
    for step in range(30):
        batch = made.batch(step)
        made.learn(batch, Model())  # type: ignore[arg-type]
    assert made.clusters is not None
    labels = np.concatenate([made.clusters.labels[made.batch(step).windows] for step in range(200)])
    assert np.mean(labels == 2) > 0.35  # of 1/6 of the text


# ---- runs ----


@pytest.mark.parametrize("sampler", CLUSTERED)
def test_every_sampler_resumes_bit_for_bit(sampler: str, tmp_path: Path) -> None:
    """A stop in the middle changes nothing, in the metrics either."""
    config = changed(sampler=sampler, **CLUSTERED[sampler])
    whole = new_model()
    Trainer(whole, TEXT, config, out=tmp_path / "whole").train()
    trainer = Trainer(new_model(), TEXT, config, out=tmp_path / "parts")
    trainer.callbacks.append(lambda record: trainer.stop() if record["step"] == 7 else None)
    assert trainer.train().interrupted
    resumed = Trainer.resume(tmp_path / "parts", TEXT)
    resumed.train()
    assert weights(resumed.model) == weights(whole)
    records = [read_metrics(tmp_path / part / "metrics.jsonl") for part in ("whole", "parts")]
    seen = [[(r["loss"], r.get("cluster")) for r in part] for part in records]
    assert seen[0] == seen[1]
    assert len(seen[0]) == 12
    assert all((cluster is None) == (sampler == "epoch") for _, cluster in seen[0])


def test_samplers_train_differently() -> None:
    """Each sampler ends with other weights; the cluster that the auxiliary network is told counts, too."""
    ends = []
    for sampler, fields in [("uniform", {}), *((name, CLUSTERED[name]) for name in CLUSTERED)]:
        model = new_model()
        # Below the radius: else the network has nothing to learn that changes a step.
        Trainer(model, TEXT, changed(sampler=sampler, learning_rate=0.02, **fields)).train()
        ends.append(weights(model)["embedding"])
    assert len(set(ends)) == len(ends)


def test_clusters_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sizes and shares are in config.json, which can still be loaded, and in the log."""
    trainer = Trainer(new_model(), TEXT, changed(data_clusters=3), out=tmp_path)
    assert trainer.clusters is None
    trainer.callbacks.append(RunLog(lambda: trainer.total_steps, lambda: trainer.clusters))
    trainer.train()
    assert trainer.clusters is not None
    told = json.loads((tmp_path / "config.json").read_text())["clusters"]
    assert sum(told["sizes"]) == trainer.data.train.size // WINDOW
    assert told["sizes"] == trainer.clusters.sizes.tolist()
    assert sum(told["shares"]) == pytest.approx(1, abs=1e-3)
    assert load_config(tmp_path / "config.json").training.data_clusters == 3
    assert f"Data clusters: 3 of {sum(told['sizes'])} windows" in capsys.readouterr().out


def test_labels_come_from_the_centroids_of_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed run does not look for clusters again; damaged centroids are refused."""
    trainer = Trainer(new_model(), TEXT, changed(sampler="stratified", data_clusters=3), out=tmp_path)
    trainer.callbacks.append(lambda record: trainer.stop() if record["step"] == 5 else None)
    trainer.train()
    monkeypatch.setattr(clusters_module, "_find", lambda *_: pytest.fail("K-means again"))
    resumed = Trainer.resume(tmp_path, TEXT)
    resumed.stop()
    resumed.train()
    assert resumed.clusters is not None
    assert trainer.clusters is not None
    assert np.array_equal(resumed.clusters.labels, trainer.clusters.labels)
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint is not None
    checkpoint.state["batches"]["centroids"] = "AAAA"
    monkeypatch.setattr(trainer_module, "load_checkpoint", lambda _: checkpoint)
    with pytest.raises(CheckpointError, match="sampler remembered is damaged"):
        Trainer.resume(tmp_path, TEXT).train()
    with pytest.raises(CheckpointError, match=r"training\.data_clusters: 3 and 4"):
        Trainer.resume(tmp_path, TEXT, changed(sampler="stratified", data_clusters=4))


# ---- errors ----


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sampler": "stratifed"}, "did you mean 'stratified'"),
        ({"sampler": "single"}, r"training\.sampler = 'single': .*set training\.data_clusters"),
        ({"data_clusters": 1}, "0 for none, or at least 2"),
        ({"data_clusters": -1}, "whole number from 0"),
        ({"data_clusters": 8, "cluster_exponent": 2}, "number from 0 to 1"),
        ({"cluster_exponent": 0.5}, r"set training\.data_clusters"),
        ({"near_duplicates": "drop"}, "'down_weight'"),
    ],
)
def test_wrong_values_are_refused(fields: dict[str, Any], message: str) -> None:
    """The message names the value and how to mend it."""
    with pytest.raises(ConfigError, match=message):
        changed(**fields)


def test_more_clusters_than_windows_are_refused() -> None:
    """Before anything is computed, with the number of windows that there are."""
    config = changed(data_clusters=300)
    with pytest.raises(ConfigError, match=r"data_clusters = 300: .* 240 windows .* at most 240"):
        RunBatches(TOKENS, config)
    with pytest.raises(ConfigError, match="at most 216"):
        Trainer(new_model(), TEXT, config)


def test_state_of_another_sampler_is_refused() -> None:
    """States belong to their sampler and their number of clusters."""
    made = RunBatches(TOKENS, changed(sampler="loss_weighted", data_clusters=3))
    state = json.loads(json.dumps(made.state()))
    assert len(state["sampler"]["losses"]) == 3
    assert len(state["centroids"]) == N_FEATURES * 3 * 4 * 4 // 3
    with pytest.raises(InvalidArgumentError, match="has no state"):
        RunBatches(TOKENS, changed(sampler="stratified", data_clusters=3), state=state)
    with pytest.raises(InvalidArgumentError, match="centroids of 4 clusters"):
        RunBatches(TOKENS, changed(sampler="loss_weighted", data_clusters=4), state=state)
