"""Gradual ternarising: gradients of a blended step beside plain NumPy, the schedule, runs with a ramp."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity import Array, backward_bound, draw_weights, relative_error, set_weights

import pyhybrid.trainer as trainer_module
from pyhybrid._context import Context
from pyhybrid._errors import InvalidArgumentError, StateError
from pyhybrid._reference_gradients import training_step
from pyhybrid._run_log import RunLog
from pyhybrid._run_losses import RunLosses
from pyhybrid.config import ConfigError, ModelConfig, TrainingConfig
from pyhybrid.language_model import LanguageModel
from pyhybrid.metrics import read_metrics
from pyhybrid.schedule import ternary_blend
from pyhybrid.trainer import Trainer

GOLDENS = sorted((Path(__file__).resolve().parent.parent / "data").glob("golden_*.npz"))


# ---- one step ----


def test_reference_gradients_match_golden() -> None:
    """The NumPy step gives the goldens' loss and gradients: an oracle must be right before it can judge."""
    for path in GOLDENS:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        layout = json.loads(str(arrays["layout"]))
        ends = np.cumsum([int(np.prod(shape)) for shape in layout.values()])
        parts = {
            kind: {
                name: part.reshape(shape)
                for (name, shape), part in zip(layout.items(), np.split(arrays[kind], ends[:-1]), strict=True)
            }
            for kind in ("weights", "gradients")
        }
        config = ModelConfig(**json.loads(str(arrays["config"])))
        found = training_step(config, parts["weights"], arrays["tokens"])
        assert found.loss == pytest.approx(float(arrays["loss"]), rel=1e-9), path.stem
        assert config.bits == 32 or found.margin == pytest.approx(arrays["activation_margin"], rel=0.01)
        for name, exact in parts["gradients"].items():
            # The goldens are stored in fp32, and the tables of the rotation are rounded to it.
            assert relative_error(found.gradients[name], exact) < 1e-6, (path.stem, name)


_SHAPE: dict[str, Any] = {
    "vocab_size": 19, "dim": 16, "n_layers": 2, "n_heads": 4, "ffn_dim": 18, "max_context": 8,
}  # fmt: skip
MODELS = {
    "ternary": ModelConfig(**_SHAPE),
    "rows": ModelConfig(
        **_SHAPE, n_kv_heads=2, activation="squared_relu", sub_norms=True, tied_embeddings=False,
        scale="row", threshold="lloyd", embedding_bits=32,
    ),
    "binary": ModelConfig(**_SHAPE, bits=1, sub_norms=True),
    "2 bits": ModelConfig(**_SHAPE, bits=2, n_kv_heads=1),
    "4 bits": ModelConfig(**_SHAPE, bits=4, tied_embeddings=False),
    "8 bits": ModelConfig(**_SHAPE, bits=8, scale="row"),
}  # fmt: skip


def blended_gradients(model: LanguageModel, tokens: Array, blend: float) -> tuple[float, dict[str, Array]]:
    """Loss and a copy of every gradient."""
    model.prepare(tokens.shape[0], tokens.shape[1] - 1, backward="fp32", ternary_blend=0.0)
    model.set_ternary_blend(blend)
    loss = model.gradients(tokens).loss
    found = {}
    for name, parameter in model.parameters().items():
        assert parameter.gradient is not None
        found[name] = parameter.gradient.copy()
    return loss, found


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("blend", [0.0, 0.3, 0.9, 1.0])
def test_blended_step_equals_reference(name: str, blend: float) -> None:
    """Loss and gradients between master and quantised weights are NumPy's within the fp32 bound: at 0 those
    of unquantised weights on quantised activations, at 1 those of the quantised model."""
    config = MODELS[name]
    model = LanguageModel(config, context=Context(threads=1))
    tokens = np.random.default_rng(6).integers(0, config.vocab_size, (2, 6)).astype(np.uint32)
    for seed in range(100):  # the first weights that leave every activation clear of a tie
        weights = draw_weights(model, seed)
        exact = training_step(config, weights, tokens, ternary_blend=blend)
        # An activation is off by less than 2e-6 of its row's largest, which is 127 steps of the code.
        if exact.margin >= 127 * 2e-6:
            break
    else:
        pytest.fail("no seed with a margin")
    set_weights(model, weights)
    loss, gradients = blended_gradients(model, tokens, blend)
    bound = backward_bound(config, 10)
    assert abs(loss - exact.loss) <= bound * exact.loss
    errors = {key: relative_error(gradients[key], value) for key, value in exact.gradients.items()}
    assert set(gradients) == set(errors)
    assert max(errors.values()) <= bound, errors


def test_reference_notices_another_blend() -> None:
    """A blend that is off by a hundredth is outside the bound: the test above can fail."""
    config = MODELS["ternary"]
    model = LanguageModel(config, context=Context(threads=1))
    tokens = np.random.default_rng(6).integers(0, config.vocab_size, (2, 6)).astype(np.uint32)
    weights = draw_weights(model, 0)
    steps = [training_step(config, weights, tokens, ternary_blend=blend) for blend in (0.3, 0.31)]
    for name in ("blk.0.attn_v", "blk.1.ffn_down"):
        a, b = (step.gradients[name] for step in steps)
        assert relative_error(a, b) > 10 * backward_bound(config, 10)


@pytest.mark.parametrize("blend", [-0.1, 1.1, math.nan, math.inf, "half", None])
def test_blend_out_of_range_is_refused(blend: Any) -> None:
    """The message names the value and the range."""
    model = LanguageModel(MODELS["ternary"])
    with pytest.raises(InvalidArgumentError, match="0 to 1"):
        model.set_ternary_blend(blend)
    with pytest.raises(InvalidArgumentError, match="0 to 1"):
        model.prepare(1, 4, ternary_blend=blend)


def test_blend_without_its_memory_is_refused() -> None:
    """A step that was not prepared for says what to call; evaluation goes on."""
    model = LanguageModel(MODELS["ternary"])
    tokens = np.zeros((1, 5), np.uint32)
    model.prepare(1, 4)
    model.set_ternary_blend(0.5)
    with pytest.raises(StateError, match="prepare"):
        model.gradients(tokens)
    assert math.isfinite(model.loss_sum(tokens))
    model.prepare(1, 4)  # its default is 1 again
    model.gradients(tokens)
    needed = [
        LanguageModel.memory_estimate(MODELS["ternary"], 4, 8, ternary_blend=blend) for blend in (1.0, 0.5)
    ]
    assert needed[1].training_bytes > needed[0].training_bytes
    assert needed[1].weight_bytes == needed[0].weight_bytes


# ---- the schedule ----


def test_schedule_is_flat_linear_flat() -> None:
    """0 until the start, linear, 1 from the end to the last step; nothing without a ramp."""
    config = TrainingConfig(ramp_start=0.5, ramp_end=0.9)
    blends = [ternary_blend(config, step, 20) for step in range(1, 21)]
    assert blends == pytest.approx([0.0] * 10 + [k / 8 for k in range(1, 8)] + [1.0] * 3)
    assert blends[9] == 0
    assert blends[17] == 1
    assert ternary_blend(TrainingConfig(ramp_end=1.0), 7, 7) == 1
    assert ternary_blend(TrainingConfig(), 3, 20) is None
    assert [TrainingConfig().initial_ternary_blend, config.initial_ternary_blend] == [1, 0]


@pytest.mark.parametrize(
    ("start", "end", "field"),
    [
        (-0.1, 0.9, "ramp_start"),
        (1.0, 1.0, "ramp_start"),
        (0.5, 1.1, "ramp_end"),
        (0.5, 0.5, "ramp_end"),
        (0.5, 0.0, "ramp_end"),
        (0.5, math.nan, "ramp_end"),
        ("0.5", 0.9, "ramp_start"),
    ],
)
def test_wrong_ramps_are_refused(start: Any, end: Any, field: str) -> None:
    """The error names the field and what would be right."""
    with pytest.raises(ConfigError, match=rf"training\.{field}.*(from 0|above ramp_start)"):
        TrainingConfig(ramp_start=start, ramp_end=end)


# ---- runs ----

SHAPE = ModelConfig(dim=32, n_layers=2, n_heads=2, ffn_dim=64, max_context=32)
RUN = TrainingConfig(
    steps=20, batch_size=4, context=16, seed=5, threads=1, ramp_start=0.3, ramp_end=0.8,
    evaluation_interval=10, checkpoint_interval=6,
)  # fmt: skip
TEXT = b"".join(b"the cat has %d legs and the dog has %d.\n" % (n, n * n) for n in range(60))


@pytest.fixture(autouse=True)
def _no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than these runs."""
    monkeypatch.setattr(trainer_module, "plot_loss", lambda *_: False)


def weights_of(model: LanguageModel) -> dict[str, bytes]:
    """The master weights, bit for bit."""
    return {name: np.asarray(p.values).tobytes() for name, p in model.parameters().items()}


@pytest.mark.parametrize("optimizer", ["hybrid", "adamw"])
def test_ramp_ends_with_a_ternary_file_of_the_last_loss(optimizer: Any, tmp_path: Path) -> None:
    """The blend is in the metrics, and the file's loss is the trainer's last validation: it is ternary."""
    config = dataclasses.replace(RUN, optimizer=optimizer)
    trainer = Trainer(LanguageModel(SHAPE, seed=5), TEXT, config, out=tmp_path)
    result = trainer.train()
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [r["ternary_blend"] for r in records] == [ternary_blend(config, n, 20) for n in range(1, 21)]
    assert records[-1]["ternary_blend"] == 1
    loaded = LanguageModel.load(tmp_path / "model.hyb")
    assert loaded.config.bits == 1.58
    of_file = RunLosses(loaded, trainer.data, config).validation()["validation_loss"]
    assert of_file == result.validation_loss == records[-1]["validation_loss"]
    assert set(np.unique(np.sign(loaded.effective("blk.0.attn_q")))) <= {-1, 0, 1}
    assert len(np.unique(np.abs(loaded.effective("blk.0.attn_q")))) <= 2
    plain = Trainer(LanguageModel(SHAPE, seed=5), TEXT, dataclasses.replace(config, ramp_start=0, ramp_end=0))
    plain.train()
    assert weights_of(plain.model) != weights_of(trainer.model)


@pytest.mark.parametrize("stop_step", [3, 11, 17])
def test_run_with_a_ramp_resumes_bit_for_bit(stop_step: int, tmp_path: Path) -> None:
    """A stop before, on and behind the ramp changes nothing; neither do threads."""
    whole = Trainer(LanguageModel(SHAPE, seed=5), TEXT, RUN)
    whole.train()
    trainer = Trainer(LanguageModel(SHAPE, seed=5), TEXT, RUN, out=tmp_path)
    trainer.callbacks.append(lambda record: trainer.stop() if record["step"] == stop_step else None)
    assert trainer.train().interrupted
    resumed = Trainer.resume(tmp_path, TEXT, dataclasses.replace(RUN, threads=2))
    resumed.train()
    assert weights_of(resumed.model) == weights_of(whole.model)
    with pytest.raises(Exception, match="ramp_end"):
        Trainer.resume(tmp_path, TEXT, dataclasses.replace(RUN, ramp_end=0.9))


def test_ramp_that_is_over_at_once_changes_nothing() -> None:
    """With a ramp that is over at the first step nothing differs from a run without."""
    over = dataclasses.replace(RUN, ramp_start=0.0, ramp_end=0.1, steps=6)
    models = []
    for config in (over, dataclasses.replace(over, ramp_end=0.0)):
        trainer = Trainer(LanguageModel(SHAPE, seed=5), TEXT, config)
        trainer.train()
        models.append(weights_of(trainer.model))
    assert models[0] == models[1]


def test_step_line_shows_the_blend(capsys: pytest.CaptureFixture[str]) -> None:
    """Only where there is a ramp."""
    record = {"step": 1, "loss": 2.0, "gradient_norm": 1.0}
    RunLog(lambda: 4)(record)
    RunLog(lambda: 4)(record | {"ternary_blend": 0.254})
    plain, ramped = capsys.readouterr().out.splitlines()
    assert "Ternary" not in plain
    assert ramped == f"{plain} | Ternary: 25%"


def test_benchmark_runs_follow_the_configuration(tmp_path: Path) -> None:
    """A run of the benchmarks sets blend, dead zone and state, too: with others it ends elsewhere."""
    from pyhybrid.benchmarks.runs import TrainingRun

    (tmp_path / "text").write_bytes(TEXT)
    shape = "model.dim=32 model.n_layers=1 model.n_heads=2 model.ffn_dim=64"
    shape += " training.batch_size=2 training.context=16"
    losses = [
        TrainingRun(
            preset="tiny", steps=6, text="file", data=str(tmp_path / "text"), changes=f"{shape} {change}"
        ).run(0)
        for change in (
            "",
            "training.ramp_end=0.1",  # over at the first of 6 steps
            "training.ramp_start=0.3 training.ramp_end=0.9",
            "training.dead_zone=0.7",
            "training.bits_target=1.4",
            "training.state_bits=8",
        )
    ]
    assert losses[0] == losses[1]
    assert len(set(losses)) == len(losses) - 1
