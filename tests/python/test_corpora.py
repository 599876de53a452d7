"""Texts of the benchmark of samplers, and that its runs choose windows as the trainer does."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import pyhybrid.benchmarks.runs as runs_module
from pyhybrid.benchmarks.corpora import duplicated, mixed
from pyhybrid.benchmarks.optimizer import CLUSTERS
from pyhybrid.benchmarks.optimizer_sides import BatchesTime, Hybrid, HybridTime
from pyhybrid.config import TrainingConfig
from pyhybrid.data import Dataset
from pyhybrid.language_model import LanguageModel
from pyhybrid.trainer import Trainer
from pyhybrid.window_features import near_duplicate_weights


def lines_with(text: np.ndarray, mark: bytes) -> float:
    """Share of a text's bytes that is in lines with a mark."""
    lines = text.tobytes().split(b"\n")
    return sum(len(line) for line in lines if mark in line) / text.size


def test_mixed_has_unequal_shares_and_an_equal_validation() -> None:
    """70, 25 and 5 % to train on, a third each to validate on, and nothing of one in the other."""
    found = mixed()
    assert found.train.size == 1_500_000
    assert found.validation.size == 3 * 32_768
    prose, code, markup = np.split(found.validation, 3)
    assert lines_with(markup, b"&nbsp;") > 0.5 > 10 * lines_with(prose, b"&nbsp;")
    assert lines_with(code, b"    ") > 0.5
    assert 0.02 < lines_with(found.train, b"&nbsp;") < 0.06
    # Whole pieces are held out: a long run of the validation is not in the training text.
    text = found.train.tobytes()
    assert text.find(markup[16_000:16_400].tobytes()) == -1
    assert text.find(prose[16_000:16_400].tobytes()) == -1


def test_duplicated_is_found_by_the_weights() -> None:
    """30 % are near-copies, no two of them equal; together they weigh next to nothing."""
    found = duplicated()
    text = found.train[: found.train.size // 128 * 128]
    weights = near_duplicate_weights(text, 128)
    assert 0.27 < np.mean(weights < 0.1) < 0.36
    assert weights[weights < 0.1].sum() < 0.01 * weights.sum()
    assert np.unique(text.reshape(-1, 128), axis=0).shape[0] > 0.9 * weights.size


def test_corpora_are_the_same_in_every_process() -> None:
    """Another seed of the hashes of sets and strings gives the same bytes."""
    program = "from pyhybrid.benchmarks.corpora import mixed; print(mixed().sha256)"
    told = subprocess.run(
        [sys.executable, "-P", "-c", program],
        env={"PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == mixed().sha256


SMALL = (
    "model.dim=32 model.n_layers=1 model.ffn_dim=64 model.n_heads=2 model.n_kv_heads=2 training.batch_size=4"
)


def test_benchmark_runs_choose_windows_like_the_trainer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """An override of the sampler has its effect, and the loss is the trainer's, bit for bit."""
    rng = np.random.default_rng(5)
    text = rng.integers(32, 64, 9000).astype(np.uint8)
    text[::3] += 40
    data = Dataset(text[:8000], text[8000:], 8000, 1000, "no hash", "small")
    monkeypatch.setitem(runs_module.CORPORA, "mixed", lambda: data)
    losses = {}
    for name, changes in {"uniform": "", **CLUSTERS["mixed"]}.items():
        ours = " ".join(f"ours.training.{change}" for change in changes.split())
        side = Hybrid(preset="tiny", steps=5, text="mixed", changes=f"{SMALL} {ours}", runs=str(tmp_path))
        losses[name] = side.run(2)
        assert side.record(2)["clusters"] is None or len(side.record(2)["clusters"]["sizes"]) == 8
    assert len(set(losses.values())) == len(losses)
    parts = [
        side_of(preset="tiny", steps=5, text="mixed", changes=f"{SMALL} {ours}", runs=str(tmp_path)).run(2)
        for side_of in (BatchesTime, HybridTime)
    ]
    assert 0 < parts[0] < parts[1]
    config: TrainingConfig = side.config.training
    model = LanguageModel(side.config.model, seed=2)
    result = Trainer(model, data, dataclasses.replace(config, seed=2, evaluation_tokens=0)).train()
    assert result.validation_loss == pytest.approx(losses["stratified-equal"], rel=1e-12)
