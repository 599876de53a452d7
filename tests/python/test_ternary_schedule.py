"""The dead zone: codes beside plain NumPy, the regulation to a number of bits, runs that resume."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyhybrid.trainer as trainer_module
from pyhybrid import _reference as reference
from pyhybrid._errors import InvalidArgumentError, StateError
from pyhybrid.cli import main
from pyhybrid.config import ConfigError, ModelConfig, RunConfig, TrainingConfig
from pyhybrid.language_model import LanguageModel
from pyhybrid.metrics import read_metrics
from pyhybrid.quantization import PackedWeights, quantize
from pyhybrid.ternary_schedule import TernarySchedule, zero_share_of
from pyhybrid.trainer import Trainer

SHAPE = ModelConfig(dim=32, n_layers=2, n_heads=2, ffn_dim=64, max_context=32)
RUN = TrainingConfig(
    steps=40, batch_size=4, context=16, seed=5, threads=1, ramp_start=0.2, ramp_end=0.6, bits_target=1.4,
    evaluation_interval=0, checkpoint_interval=0,
)  # fmt: skip
TEXT = b"".join(b"the cat has %d legs and the dog has %d.\n" % (n, n * n) for n in range(60))


@pytest.fixture(autouse=True)
def _no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than these runs."""
    monkeypatch.setattr(trainer_module, "plot_loss", lambda *_: False)


def entropy(zero_share: float) -> float:
    """Bits a code, the other two equally likely."""
    rest = 1 - zero_share
    return -zero_share * math.log2(zero_share) - rest * math.log2(rest / 2)


def zero_share(model: LanguageModel) -> float:
    """Of the layers' codes."""
    blocks = [
        np.asarray(model.effective(name))
        for name in model.parameters()
        if ".attn_" in name or ".ffn_" in name
    ]
    matrices = [block for block in blocks if block.ndim == 2 and block.shape[0] > 1]
    return sum(int((m == 0).sum()) for m in matrices) / sum(m.size for m in matrices)


# ---- codes ----


@pytest.mark.parametrize("scale", ["tensor", "row"])
@pytest.mark.parametrize("dead_zone", [0.25, 0.5, 0.75, 1.0, 4.0])
def test_codes_equal_reference(scale: str, dead_zone: float, rng: np.random.Generator) -> None:
    """The dead zone moves the thresholds and not the scale."""
    weights = rng.standard_normal((33, 70)).astype(np.float32)
    codes, scales = quantize(weights, scale=scale, dead_zone=dead_zone)
    expected_codes, expected_scales = reference.quantize(weights, 1.58, scale, dead_zone=dead_zone)
    assert np.array_equal(codes, expected_codes)
    assert np.array_equal(scales, expected_scales)
    assert np.array_equal(scales, quantize(weights, scale=scale).scales)
    packed = PackedWeights.from_float(weights, scale=scale, dead_zone=dead_zone)
    assert packed.nbytes == PackedWeights.from_float(weights, scale=scale).nbytes


@pytest.mark.parametrize("bad", [0, -0.5, 4.1, math.nan, math.inf, True, "0.5"])
def test_wrong_dead_zones_are_refused(bad: Any) -> None:
    """By the functions on arrays, by a model and by the configuration."""
    with pytest.raises(InvalidArgumentError, match="dead_zone"):
        quantize(np.ones((2, 3), np.float32), dead_zone=bad)
    with pytest.raises(ConfigError, match=r"training\.dead_zone"):
        TrainingConfig(dead_zone=bad)
    if not isinstance(bad, (bool, str)):
        with pytest.raises(InvalidArgumentError, match="dead zone"):
            LanguageModel(SHAPE).set_dead_zone(bad)


def test_only_absmean_ternary_weights_have_a_dead_zone(tmp_path: Path) -> None:
    """The others say so."""
    weights = np.ones((2, 3), np.float32)
    for options in ({"threshold": "lloyd"}, {"bits": 8}, {"bits": 1}):
        with pytest.raises(InvalidArgumentError, match="absmean"):
            quantize(weights, dead_zone=0.7, **options)  # type: ignore[arg-type]
    for changes in ({"threshold": "lloyd"}, {"bits": 2}, {"bits": 32}):
        shape = dataclasses.replace(SHAPE, **changes)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgumentError, match="absmean"):
            LanguageModel(shape).set_dead_zone(0.7)
        for given in ({"dead_zone": 0.7}, {"bits_target": 1.5}):
            with pytest.raises(ConfigError, match=r"model\.bits=1\.58"):
                RunConfig(model=shape, training=dataclasses.replace(RUN, **({"bits_target": None} | given)))
    LanguageModel(SHAPE).save(tmp_path / "model.hyb")
    with pytest.raises(StateError, match="master weights"):
        LanguageModel.load(tmp_path / "model.hyb").set_dead_zone(0.7)
    with pytest.raises(InvalidArgumentError, match="a number above 0"):
        LanguageModel(SHAPE).set_dead_zone("wide")  # type: ignore[arg-type]


def test_model_has_the_zeros_of_its_dead_zone(tmp_path: Path) -> None:
    """At once, in what it computes with and in the file."""
    model = LanguageModel(SHAPE, seed=1)
    shares = []
    for dead_zone in (0.25, 0.5, 1.0):
        model.set_dead_zone(dead_zone)
        model.save(tmp_path / "model.hyb")
        shares.append(zero_share(LanguageModel.load(tmp_path / "model.hyb")))
        values = np.asarray(model.parameters()["blk.0.attn_q"].values)
        codes = reference.quantize(values, dead_zone=dead_zone)[0]
        assert np.array_equal(np.sign(model.effective("blk.0.attn_q")), codes)
    # Uniform or Gaussian initial weights, both: between a tenth and three quarters.
    assert 0.1 < shares[0] < shares[1] < shares[2] < 0.75


# ---- regulation ----


@pytest.mark.parametrize("bits", [0.2, 1.0, 1.4, 1.53, 1.58])
def test_zero_share_of_is_the_inverse_of_the_entropy(bits: float) -> None:
    assert entropy(zero_share_of(bits)) == pytest.approx(bits, abs=1e-9)


@pytest.mark.parametrize("optimizer", ["hybrid", "adamw"])
def test_run_ends_at_its_bits(optimizer: Any, tmp_path: Path) -> None:
    """Whatever the dead zone that takes; the metrics tell it, and the file has those codes."""
    Trainer(
        LanguageModel(SHAPE, seed=5), TEXT, dataclasses.replace(RUN, optimizer=optimizer), out=tmp_path
    ).train()
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert records[0]["dead_zone"] == 0.5
    assert records[-1]["dead_zone"] > 0.7
    assert entropy(records[-1]["zero_share"]) == pytest.approx(1.4, abs=0.01)
    assert zero_share(LanguageModel.load(tmp_path / "model.hyb")) == pytest.approx(
        records[-1]["zero_share"], abs=1e-12
    )


def test_fixed_dead_zone_is_that_of_all_steps(tmp_path: Path) -> None:
    """The first gradients see it already."""
    config = dataclasses.replace(RUN, bits_target=None, dead_zone=1.0, ramp_start=0.0, ramp_end=0.0, steps=1)
    losses = []
    for dead_zone in (0.5, 1.0):
        trainer = Trainer(
            LanguageModel(SHAPE, seed=5), TEXT, dataclasses.replace(config, dead_zone=dead_zone)
        )
        losses.append(trainer.train().loss)
    model = LanguageModel(SHAPE, seed=5)
    model.set_dead_zone(1.0)
    trainer = Trainer(model, TEXT, config)
    assert losses[0] != losses[1] == trainer.train().loss


@pytest.mark.parametrize("stop_step", [1, 11, 30])
def test_regulated_run_resumes_bit_for_bit(stop_step: int, tmp_path: Path) -> None:
    """A stop anywhere changes nothing."""
    whole = Trainer(LanguageModel(SHAPE, seed=5), TEXT, RUN)
    whole.train()
    trainer = Trainer(LanguageModel(SHAPE, seed=5), TEXT, RUN, out=tmp_path)
    trainer.callbacks.append(lambda record: trainer.stop() if record["step"] == stop_step else None)
    assert trainer.train().interrupted
    resumed = Trainer.resume(tmp_path, TEXT, RUN)
    resumed.train()
    for name, parameter in whole.model.parameters().items():
        assert np.array_equal(parameter.values, resumed.model.parameters()[name].values), name
        assert np.array_equal(whole.model.effective(name), resumed.model.effective(name)), name


def test_schedule_without_a_target_stays() -> None:
    """And does not look at zeros."""
    schedule = TernarySchedule(TrainingConfig(dead_zone=0.8), 10)
    schedule.after_update({})
    assert schedule.dead_zone == 0.8


def test_bits_target_of_the_command_line_brings_a_ramp(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One flag; --set has the last word."""
    text = tmp_path / "text.txt"
    text.write_bytes(TEXT * 4)
    arguments = [
        "train",
        "--data",
        str(text),
        "--steps",
        "3",
        "--bits-target",
        "1.4",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main([*arguments, "--set", "training.ramp_end=0.9"]) == 0
    written = json.loads((tmp_path / "run" / "config.json").read_text())["training"]
    assert (written["bits_target"], written["ramp_start"], written["ramp_end"]) == (1.4, 0.3, 0.9)
    capsys.readouterr()
    assert main([*arguments[:-4], "--bits-target", "1.6", "--out", str(tmp_path / "other")]) == 2
    assert "bits_target" in capsys.readouterr().err
