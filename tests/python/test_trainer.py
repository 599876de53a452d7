"""Tests of pyhybrid.trainer: learning, exact resume, signals, crashes, budgets, errors."""

from __future__ import annotations

import errno
import importlib.util
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyhybrid._run_budget as budget_module
import pyhybrid.checkpoint as checkpoint_module
import pyhybrid.trainer as trainer_module
from pyhybrid._context import Context
from pyhybrid._errors import HybridError, NotFiniteError, OutOfMemoryError
from pyhybrid.checkpoint import CheckpointError, CheckpointWarning, load_checkpoint
from pyhybrid.config import ConfigError, DataConfig, ModelConfig, RunConfig, TrainingConfig
from pyhybrid.data import DataError, load_dataset
from pyhybrid.language_model import LanguageModel
from pyhybrid.metrics import read_metrics
from pyhybrid.trainer import Trainer, TrainingResult

SHAPE = ModelConfig(dim=32, n_layers=2, n_heads=2, ffn_dim=64, max_context=32)
RUN = TrainingConfig(
    steps=24, batch_size=4, context=16, seed=5, threads=1, learning_rate=4e-3,
    evaluation_interval=10, checkpoint_interval=7,
)  # fmt: skip
TEXT = " ".join(
    f"the {animal} has {number} legs.\n" for number in range(40) for animal in ("cat", "dog")
).encode()

# How many moments the kill test tries; tools/full_check sets 30.
KILL_MOMENTS = int(os.environ.get("PYHYBRID_KILL_MOMENTS", "3"))

pytestmark = pytest.mark.filterwarnings("error::pyhybrid.checkpoint.CheckpointWarning")


@pytest.fixture(autouse=True)
def _no_picture(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than these runs; one test looks at the picture."""
    if request.node.name != "test_run_writes_its_files":
        monkeypatch.setattr(trainer_module, "plot_loss", lambda *_: False)


def changed(config: TrainingConfig = RUN, **fields: Any) -> TrainingConfig:
    """RUN with other fields."""
    import dataclasses

    return dataclasses.replace(config, **fields)


def weights(model: LanguageModel) -> dict[str, bytes]:
    """Every weight and what the optimiser keeps, bit for bit."""
    arrays = {}
    for name, p in model.parameters().items():
        assert p.values is not None
        assert p.optimizer_state
        for kind, array in ({"weights": p.values} | p.optimizer_state).items():
            arrays[f"{kind}.{name}"] = array.tobytes()
    return arrays


def run(config: TrainingConfig = RUN, **options: Any) -> tuple[LanguageModel, TrainingResult]:
    """A whole small run."""
    model = LanguageModel(SHAPE, seed=config.seed)
    return model, Trainer(model, TEXT, config, **options).train()


def stop_at(step: int, trainer: Trainer) -> None:
    """Makes a trainer stop behind a step."""
    trainer.callbacks.append(lambda record: trainer.stop() if record["step"] == step else None)


# ---- learning ----


def test_loss_falls_on_a_small_text() -> None:
    """A text with a simple pattern is learned: far below the loss of guessing letters by frequency."""
    _, result = run(changed(steps=150))
    counts = np.bincount(np.frombuffer(TEXT, np.uint8))
    shares = counts[counts > 0] / len(TEXT)
    by_frequency = float(-(shares * np.log(shares)).sum())
    assert result.validation_loss is not None
    assert result.training_loss is not None
    assert result.validation_loss < 0.6 * by_frequency
    assert result.training_loss < 0.6 * by_frequency
    assert result.validation_bits_per_byte == pytest.approx(result.validation_loss / np.log(2))
    assert not result.interrupted
    assert (result.steps, result.tokens) == (150, 150 * 64)


def test_run_writes_its_files(tmp_path: Path) -> None:
    """Model, configuration, metrics and checkpoint are there, agree with each other, and can be used."""
    _, result = run(out=tmp_path, data_config=None, preset="tiny")
    loaded = LanguageModel.load(tmp_path / "model.hyb")
    assert loaded.config == SHAPE
    assert loaded.metadata["steps"] == 24
    assert loaded.metadata["validation_loss"] == result.validation_loss
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["training"]["steps"] == 24
    assert config["preset"] == "tiny"
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [record["step"] for record in records] == list(range(1, 25))
    assert [r["step"] for r in records if "validation_loss" in r] == [10, 20, 24]
    assert records[-1]["validation_loss"] == result.validation_loss
    for name in ("loss", "gradient_norm", "learning_rate", "tokens_per_second", "seconds", "peak_rss_bytes"):
        assert all(
            record[name] > 0 or (name == "learning_rate" and record["step"] == 24) for record in records
        )
    for name in ("flipped_share", "zero_share"):
        assert all(0 <= record[name] <= 1 for record in records)
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == 24
    has_matplotlib = importlib.util.find_spec("matplotlib") is not None
    assert (tmp_path / "loss.png").exists() == has_matplotlib


def test_equal_runs_end_with_equal_weights(tmp_path: Path) -> None:
    """The same configuration gives the same bits, in the model file too; another seed does not."""
    first, _ = run(out=tmp_path / "a")
    second, _ = run(out=tmp_path / "b")
    assert weights(first) == weights(second)
    assert (tmp_path / "a" / "model.hyb").read_bytes() == (tmp_path / "b" / "model.hyb").read_bytes()
    other, _ = run(changed(seed=6))
    assert weights(other) != weights(first)


def test_threads_do_not_change_the_weights() -> None:
    """One and two threads end with the same bits."""
    one, _ = run(changed(threads=1))
    two, _ = run(changed(threads=2))
    assert two.context.threads == 2
    assert weights(one) == weights(two)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "wsd", "constant"])
def test_learning_rate_follows_the_schedule(schedule: str, tmp_path: Path) -> None:
    """Warm-up rises to the peak, and what follows has the shape that its name says."""
    config = changed(
        steps=20, schedule=schedule, warmup_fraction=0.25, decay_fraction=0.5, final_ratio=0.5,
        checkpoint_interval=0, learning_rate=1e-3, optimizer="adamw",
    )  # fmt: skip
    run(config, out=tmp_path)
    records = read_metrics(tmp_path / "metrics.jsonl")
    rates = [record["schedule"] for record in records]
    assert [record["learning_rate"] for record in records] == pytest.approx([1e-3 * rate for rate in rates])
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert max(rates) == pytest.approx(1)
    if schedule == "constant":
        assert rates[5:] == pytest.approx([1.0] * 15)
    else:
        assert rates[-1] == pytest.approx(0.5, abs=0.05)
        assert all(a >= b for a, b in itertools.pairwise(rates[5:]))
    if schedule == "wsd":
        assert rates[5:10] == pytest.approx([1.0] * 5)


def test_model_may_be_trained_again() -> None:
    """A second run begins without the first one's optimiser state."""
    model, _ = run()
    fresh = LanguageModel(SHAPE, seed=5)
    fresh.prepare(4, 16)
    for name, parameter in model.parameters().items():
        target = fresh.parameters()[name].values
        assert target is not None
        assert parameter.values is not None
        target[...] = parameter.values
    fresh.touch()
    Trainer(fresh, TEXT, RUN).train()
    Trainer(model, TEXT, RUN).train()
    assert weights(fresh) == weights(model)


# ---- resume ----


@pytest.mark.parametrize("stop_step", [1, 7, 13, 23])
def test_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, stop_step: int) -> None:
    """Weights, moments, losses and the model file are the same bit for bit, wherever the run was stopped."""
    whole, whole_result = run(out=tmp_path / "whole")
    model = LanguageModel(SHAPE, seed=5)
    trainer = Trainer(model, TEXT, RUN, out=tmp_path / "parts")
    stop_at(stop_step, trainer)
    assert trainer.train().interrupted
    resumed = Trainer.resume(tmp_path / "parts", TEXT)
    assert resumed.step == stop_step
    result = resumed.train()
    assert weights(resumed.model) == weights(whole)
    assert not result.interrupted
    for name in ("loss", "training_loss", "validation_loss", "steps", "tokens"):
        assert getattr(result, name) == getattr(whole_result, name)
    timings = ("seconds", "tokens_per_second", "peak_rss_bytes")
    lines = [read_metrics(tmp_path / part / "metrics.jsonl") for part in ("whole", "parts")]
    for record in lines[0] + lines[1]:
        for name in timings:
            del record[name]
    assert lines[0] == lines[1]
    assert (tmp_path / "whole" / "model.hyb").read_bytes() == (tmp_path / "parts" / "model.hyb").read_bytes()


@pytest.mark.parametrize(
    "fields",
    [
        {"optimizer": "adamw"},
        {"optimizer": "adamw", "state_bits": 8},
        {"trust_norm": "spectral", "state_bits": 8},
        {"trust_norm": "rms", "state_bits": 8},
        {"radius_rule": "adaptive"},
        {"radius_rule": "fixed", "row_beta": 0.9},
        {"trust_norm": "rms", "radius_form": "squared"},
        {"trust_norm": "l2"},
        {"parameter_clusters": 3, "cluster_rate_interval": 10},
        {"gradient_compression": "block"},
        {"optimizer": "adamw", "parameter_clusters": 2, "gradient_compression": "five_level"},
    ],
    ids=lambda fields: "-".join(map(str, fields.values())),
)
def test_every_optimizer_resumes_bit_for_bit(fields: dict[str, Any], tmp_path: Path) -> None:
    """A stop in the middle changes nothing, whatever the optimiser remembers; and the text is learned."""
    config = changed(learning_rate=None, **fields)
    whole, result = run(config)
    trainer = Trainer(LanguageModel(SHAPE, seed=5), TEXT, config, out=tmp_path)
    stop_at(13, trainer)
    trainer.train()
    resumed = Trainer.resume(tmp_path, TEXT)
    resumed.train()
    assert weights(resumed.model) == weights(whole)
    assert result.validation_loss is not None
    assert result.validation_loss < 5.45  # guessing uniformly: 5.55


def test_damaged_optimizer_state_is_refused(tmp_path: Path) -> None:
    """A checkpoint whose network is missing says so."""
    trainer = Trainer(LanguageModel(SHAPE, seed=5), TEXT, RUN, out=tmp_path)
    stop_at(14, trainer)
    trainer.train()
    checkpoint = trainer_module.load_checkpoint(tmp_path)
    assert checkpoint is not None
    checkpoint.state["optimizer"] = {"radius": 0.05}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module, "load_checkpoint", lambda _: checkpoint)
        with pytest.raises(CheckpointError, match="optimiser"):
            Trainer.resume(tmp_path, TEXT)


def test_finished_run_resumes_to_itself(tmp_path: Path) -> None:
    """Resuming a finished run does no step and reports the same losses."""
    model, result = run(out=tmp_path)
    again = Trainer.resume(tmp_path, TEXT)
    repeated = again.train()
    assert weights(again.model) == weights(model)
    assert repeated.steps == result.steps
    assert repeated.loss == result.loss
    assert repeated.validation_loss == result.validation_loss
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 24


def test_damaged_newest_checkpoint_is_passed_over(tmp_path: Path) -> None:
    """The previous checkpoint is used with a warning, and the end is the same."""
    whole, _ = run()
    trainer = Trainer(LanguageModel(SHAPE, seed=5), TEXT, RUN, out=tmp_path)
    stop_at(16, trainer)
    trainer.train()
    tensors = tmp_path / "checkpoint" / "step-00000016" / "tensors.safetensors"
    data = bytearray(tensors.read_bytes())
    data[-5] ^= 16
    tensors.write_bytes(data)
    with pytest.warns(CheckpointWarning, match="step-00000016"):
        resumed = Trainer.resume(tmp_path, TEXT)
    assert resumed.step == 14
    resumed.train()
    assert weights(resumed.model) == weights(whole)


def test_resume_refuses_what_would_change_the_run(tmp_path: Path) -> None:
    """Another configuration, model or text is named; without a checkpoint there is nothing to resume."""
    with pytest.raises(CheckpointError, match="no checkpoint"):
        Trainer.resume(tmp_path, TEXT)
    trainer = Trainer(LanguageModel(SHAPE, seed=5), TEXT, RUN, out=tmp_path)
    stop_at(10, trainer)
    trainer.train()
    with pytest.raises(CheckpointError, match=r"training\.learning_rate: 0\.004 and 0\.001"):
        Trainer.resume(tmp_path, TEXT, changed(learning_rate=1e-3))
    with pytest.raises(CheckpointError, match=r"training\.state_bits: 32 and 8"):
        Trainer.resume(tmp_path, TEXT, changed(state_bits=8))
    with pytest.raises(CheckpointError, match=r"model\.n_layers: 2 and 1"):
        other = ModelConfig(dim=32, n_layers=1, n_heads=2, ffn_dim=64, max_context=32)
        Trainer.resume(tmp_path, TEXT, model=LanguageModel(other))
    with pytest.raises(CheckpointError, match="the data is not"):
        Trainer.resume(tmp_path, TEXT + b"!")
    with pytest.raises(CheckpointError, match="in memory"):
        Trainer.resume(tmp_path)
    free = changed(threads=2, log_interval=5, evaluation_interval=6, checkpoint_interval=0)
    assert Trainer.resume(tmp_path, TEXT, free).config.log_interval == 5


def test_data_is_found_again(tmp_path: Path) -> None:
    """A run on files, or on a pipe, resumes without being told its data."""
    import io

    path = tmp_path / "text.txt"
    path.write_bytes(TEXT)
    whole, _ = run()
    for name, paths in (("file", (str(path),)), ("pipe", ("-",))):
        out = tmp_path / name
        config = RunConfig(model=SHAPE, training=RUN, data=DataConfig(paths=paths))
        trainer = Trainer.from_config(config, out=out, stdin=io.BytesIO(TEXT))
        stop_at(9, trainer)
        trainer.train()
        resumed = Trainer.resume(out)
        resumed.train()
        assert weights(resumed.model) == weights(whole)
    path.write_bytes(TEXT[::-1])
    with pytest.raises(CheckpointError, match="the data is not"):
        Trainer.resume(tmp_path / "file")


def test_run_resumes_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths are stored as absolute ones, and the model file does not depend on the detour."""
    for name in ("home", "away"):
        (tmp_path / name).mkdir()
    (tmp_path / "home" / "text.txt").write_bytes(TEXT)
    monkeypatch.chdir(tmp_path / "home")
    config = RunConfig(model=SHAPE, training=RUN, data=DataConfig(paths=("text.txt",)))
    Trainer.from_config(config, out=tmp_path / "whole").train()
    trainer = Trainer.from_config(config, out=tmp_path / "parts")
    stop_at(9, trainer)
    trainer.train()
    stored = json.loads((tmp_path / "parts" / "config.json").read_text())
    assert stored["data"]["paths"] == [str(tmp_path / "home" / "text.txt")]
    monkeypatch.chdir(tmp_path / "away")
    Trainer.resume(tmp_path / "parts").train()
    whole, parts = ((tmp_path / name / "model.hyb").read_bytes() for name in ("whole", "parts"))
    assert whole == parts


def test_bpe_run_resumes_with_its_tokenizer(tmp_path: Path) -> None:
    """A vocabulary that was trained on the text is kept in the checkpoint and in the model file."""
    pytest.importorskip("tokenizers", reason="training a vocabulary needs the tokenizers library")
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT)
    model = ModelConfig(vocab_size=300, dim=32, n_layers=1, n_heads=2, ffn_dim=64, max_context=32)
    config = RunConfig(
        model=model, training=changed(context=8), data=DataConfig(paths=(str(path),), tokenizer="bpe")
    )
    whole = Trainer.from_config(config, out=tmp_path / "whole")
    result = whole.train()
    assert result.validation_bits_per_byte is not None
    assert result.validation_loss is not None
    assert result.validation_bits_per_byte < result.validation_loss / np.log(2)
    trainer = Trainer.from_config(config, out=tmp_path / "parts")
    stop_at(9, trainer)
    trainer.train()
    resumed = Trainer.resume(tmp_path / "parts")
    assert resumed.model.tokenizer == whole.model.tokenizer
    resumed.train()
    assert weights(resumed.model) == weights(whole.model)
    assert LanguageModel.load(tmp_path / "parts" / "model.hyb").tokenizer == whole.model.tokenizer


def test_unfinished_run_is_not_overwritten_by_accident(tmp_path: Path) -> None:
    """A new run in its folder is refused unless it is wanted; a finished run may be replaced."""
    trainer = Trainer(LanguageModel(SHAPE), TEXT, RUN, out=tmp_path)
    stop_at(10, trainer)
    trainer.train()
    with pytest.raises(CheckpointError, match="unfinished run"):
        run(out=tmp_path)
    assert load_checkpoint(tmp_path).step == 10  # type: ignore[union-attr]
    run(out=tmp_path, overwrite=True)
    run(out=tmp_path)


# ---- a time budget ----


def test_minutes_are_turned_into_steps_by_the_measured_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock on which a step takes 0.1 s and a validation 1.6 s, the plan fills the budget."""
    now = 0.0
    real_gradients, real_loss = LanguageModel.gradients, LanguageModel.loss_sum

    def gradients(self: LanguageModel, tokens: Any) -> Any:
        nonlocal now
        now += 0.1
        return real_gradients(self, tokens)

    def loss_sum(self: LanguageModel, tokens: Any) -> float:
        nonlocal now
        now += 0.01 * tokens.shape[0] * (tokens.shape[1] - 1) / 4
        return real_loss(self, tokens)

    monkeypatch.setattr(LanguageModel, "gradients", gradients)
    monkeypatch.setattr(LanguageModel, "loss_sum", loss_sum)
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    config = changed(minutes=1, evaluation_interval=20, evaluation_tokens=640)
    # The long text has more tokens than a validation may take: 640 / 4 x 0.01 s = 1.6 s.
    result = Trainer(LanguageModel(SHAPE), TEXT * 8, config).train()
    assert 0.85 * 60 < result.seconds < 60
    assert result.total_steps == pytest.approx(0.92 * 60 / (0.1 + 1.6 / 20), rel=0.1)


def test_minutes_become_steps_that_a_resume_keeps(tmp_path: Path) -> None:
    """The planned number of steps is recorded, and planning leaves no trace in the weights."""
    config = changed(minutes=1 / 60, evaluation_interval=0, checkpoint_interval=0)
    trainer = Trainer(LanguageModel(SHAPE, seed=5), TEXT, config, out=tmp_path)
    stop_at(5, trainer)
    assert trainer.train().interrupted
    assert trainer.total_steps is not None
    assert trainer.total_steps > 5
    # The rest without a limit: on a busy machine it might end early.
    resumed = Trainer.resume(tmp_path, TEXT, changed(config, minutes=None))
    assert resumed.total_steps == trainer.total_steps
    resumed.train()
    plain, _ = run(changed(config, minutes=None, steps=trainer.total_steps))
    assert weights(plain) == weights(resumed.model)


def test_run_that_exceeds_its_minutes_ends_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps that become ten times slower than measured end the run at 110 %, saved, evaluated, resumable."""
    now = 0.0
    real_gradients = LanguageModel.gradients
    counts = {"steps": 0}

    def gradients(self: LanguageModel, tokens: Any) -> Any:
        nonlocal now
        counts["steps"] += 1
        now += 0.5 if counts["steps"] <= 20 else 5.0
        return real_gradients(self, tokens)

    monkeypatch.setattr(LanguageModel, "gradients", gradients)
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    config = changed(minutes=1, evaluation_interval=0, log_interval=1000)
    model = LanguageModel(SHAPE, seed=5)
    with pytest.warns(RuntimeWarning, match="more than 10 %"):
        result = Trainer(model, TEXT, config, out=tmp_path).train()
    assert result.note is not None
    assert f"stopped at step {result.steps} of {result.total_steps}" in result.note
    assert not result.interrupted
    assert result.steps < result.total_steps
    assert 66 < result.seconds <= 66 + 5  # behind the first step that ended too late
    assert result.validation_loss is not None
    assert result.training_loss is not None
    last = read_metrics(tmp_path / "metrics.jsonl")[-1]
    assert (last["step"], last["note"]) == (result.steps, result.note)
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == result.steps
    assert LanguageModel.load(tmp_path / "model.hyb").metadata["steps"] == result.steps
    # Resumed without a limit it does the rest, as if it had never stopped.
    monkeypatch.undo()
    monkeypatch.setattr(trainer_module, "plot_loss", lambda *_: False)
    resumed = Trainer.resume(tmp_path, TEXT, changed(config, minutes=None))
    rest = resumed.train()
    assert (rest.steps, rest.note) == (result.total_steps, None)
    plain, _ = run(changed(config, minutes=None, steps=result.total_steps))
    assert weights(plain) == weights(resumed.model)


# ---- signals and crashes ----

CHILD = """
import sys
from pathlib import Path
from pyhybrid.config import ModelConfig, TrainingConfig
from pyhybrid.language_model import LanguageModel
from pyhybrid.trainer import Trainer

out, text, resume = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes(), sys.argv[3] == "resume"
shape = ModelConfig(dim=32, n_layers=2, n_heads=2, ffn_dim=64, max_context=32)
run = TrainingConfig(steps=int(sys.argv[4]), batch_size=4, context=16, seed=5, checkpoint_interval=5,
                     evaluation_interval=0, learning_rate=4e-3)
if resume:
    trainer = Trainer.resume(out, text)
else:
    trainer = Trainer(LanguageModel(shape, seed=5), text, run, out=out)
print("start", trainer.step, flush=True)
trainer.callbacks.append(lambda record: print("step", record["step"], flush=True))
result = trainer.train()
print("end", result.steps, result.interrupted, flush=True)
"""


class Child:
    """A training run in a process of its own."""

    def __init__(self, folder: Path, resume: bool, steps: int) -> None:
        text = folder / "text.txt"
        text.write_bytes(TEXT)
        mode = "resume" if resume else "new"
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", CHILD, str(folder / "out"), str(text), mode, str(steps)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, word: str) -> list[str]:
        """Reads lines up to one that begins with these words."""
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line.strip())
            if line.startswith(word):
                return lines
        raise AssertionError(f"the process ended early: {self.process.communicate()[1]}")

    def finish(self) -> tuple[int, list[str]]:
        """Exit code and the remaining lines."""
        out, error = self.process.communicate(timeout=120)
        assert "Traceback" not in error or self.process.returncode != 0
        return self.process.returncode, out.split("\n")


def plain_run(steps: int) -> dict[str, bytes]:
    """What every interrupted run of CHILD must end with."""
    config = changed(steps=steps, checkpoint_interval=0, evaluation_interval=0)
    return weights(run(config)[0])


def final_weights(folder: Path) -> dict[str, bytes]:
    """Weights of the run's last checkpoint."""
    model = Trainer.resume(folder / "out", TEXT)
    model.train()
    return weights(model.model)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_then_stops(tmp_path: Path, number: int) -> None:
    """The first signal ends the run after the current step with a checkpoint and a model; resume is exact."""
    child = Child(tmp_path, resume=False, steps=5000)
    child.wait_for("step 6")
    child.process.send_signal(number)
    code, lines = child.finish()
    assert code == 0
    end = next(line.split() for line in lines if line.startswith("end"))
    assert end[2] == "True"
    checkpoint = load_checkpoint(tmp_path / "out")
    assert checkpoint is not None
    assert checkpoint.step == int(end[1])
    model = Trainer.resume(tmp_path / "out", TEXT)
    stop_at(checkpoint.step + 5, model)
    model.train()
    reference = Trainer(LanguageModel(SHAPE, seed=5), TEXT, changed(steps=5000, evaluation_interval=0))
    stop_at(checkpoint.step + 5, reference)
    reference.train()
    assert weights(model.model) == weights(reference.model)
    assert LanguageModel.load(tmp_path / "out" / "model.hyb").config == SHAPE


def test_second_signal_aborts_at_once_and_handlers_come_back() -> None:
    """A second Ctrl-C is not swallowed, and after the run the caller's handlers are in place again."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    steps = []

    def twice(record: Any) -> None:
        steps.append(record["step"])
        if record["step"] == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        Trainer(LanguageModel(SHAPE), TEXT, RUN, callbacks=[twice]).train()
    assert steps == [1, 2, 3]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_training_works_outside_the_main_thread() -> None:
    """Handlers cannot be set there; the run goes on without them."""
    import threading

    results: list[TrainingResult] = []
    thread = threading.Thread(target=lambda: results.append(run()[1]))
    thread.start()
    thread.join()
    assert results[0].steps == 24


def kill_and_resume(folder: Path, n_moments: int, steps: int = 60, seed: int = 0) -> dict[str, int]:
    """Kills a run with SIGKILL at random moments, resuming it after each, until it has finished.

    Args:
        folder: empty, for the run's files.
        n_moments: number of kills.
        steps: length of the run.
        seed: of the moments.

    Returns:
        Counts: kills, and the steps that were lost at most by one of them.

    Raises:
        AssertionError: a kill lost more than the steps since the last checkpoint, or the weights differ at
            the end.
    """
    chance = random.Random(seed)
    kills = most_lost = 0
    reached = 0
    resume = False
    while kills < n_moments:
        child = Child(folder, resume, steps)
        start = int(child.wait_for("start")[-1].split()[1])
        # The step that was reported last may be one whose checkpoint the kill cut short.
        assert start >= (reached - 1) // 5 * 5, f"resumed at {start}, but {reached} steps were done"
        most_lost = max(most_lost, reached - start)
        # Between the start of `train` and about ten steps later, so that there is something left to kill.
        time.sleep(chance.uniform(0, 0.25))
        child.process.kill()
        lines = child.process.communicate()[0].split("\n")
        done = [int(line.split()[1]) for line in lines if line.startswith("step")]
        reached = max([start, *done])
        kills += 1
        # Before the first checkpoint there is nothing to resume; the run starts again.
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            resume = load_checkpoint(folder / "out") is not None
        if reached >= steps:
            reached, resume = 0, False  # the run had ended before the kill: begin another
            for path in sorted((folder / "out").rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
    code, lines = Child(folder, resume, steps).finish()
    assert code == 0, lines
    assert final_weights(folder) == plain_run(steps)
    return {"kills": kills, "most_steps_lost": most_lost}


@pytest.mark.skipif(os.name == "nt", reason="kill -9 is a POSIX thing")
def test_kill_at_random_moments_costs_at_most_the_steps_since_the_last_checkpoint(tmp_path: Path) -> None:
    """After every kill the run resumes, and it ends with the weights of a run that was left alone."""
    counts = kill_and_resume(tmp_path, KILL_MOMENTS, steps=400)
    assert counts["kills"] == KILL_MOMENTS
    assert counts["most_steps_lost"] <= 5


# ---- errors ----


def test_not_a_number_stops_with_the_step_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    """A weight that becomes NaN raises an error with the step in it; what was saved before stays usable."""
    model = LanguageModel(SHAPE, seed=5)

    def poison(record: Any) -> None:
        if record["step"] == 9:
            values = model.parameters()["blk.1.ffn_up"].values
            assert values is not None
            values[0, 0] = np.nan
            model.touch()

    with pytest.raises(NotFiniteError, match=r"step 10: .*step 7 is kept"):
        Trainer(model, TEXT, RUN, out=tmp_path, callbacks=[poison]).train()
    resumed = Trainer.resume(tmp_path, TEXT)
    assert resumed.step == 7
    resumed.train()
    assert weights(resumed.model) == weights(run()[0])


def test_divergence_is_reported_not_trained_on() -> None:
    """An absurd learning rate ends in an error of this library, or in finite weights, never in NaN."""
    model = LanguageModel(SHAPE, seed=5)
    try:
        Trainer(model, TEXT, changed(optimizer="adamw", learning_rate=1e6, warmup_fraction=0,
        steps=30)).train()
    except HybridError as error:
        assert "step" in str(error)
    for parameter in model.parameters().values():
        assert parameter.values is not None
        assert np.isfinite(parameter.values).all()


def test_full_disk_is_a_clear_error_and_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says that there is no room, and the run resumes when there is."""

    def fill(record: Any) -> None:
        def full(*_: Any) -> str:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        if record["step"] == 10:
            monkeypatch.setattr(checkpoint_module, "write_tensors", full)

    with pytest.raises(CheckpointError, match=r"no space is left.*step 7 is kept"):
        run(out=tmp_path, callbacks=[fill])
    monkeypatch.undo()
    resumed = Trainer.resume(tmp_path, TEXT)
    resumed.train()
    assert weights(resumed.model) == weights(run()[0])


def test_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    """A file in the place of the output folder is named."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="cannot be made a folder"):
        run(out=tmp_path / "file" / "out")


def test_too_little_memory_is_refused_before_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate is compared with what is available; near the limit there is a warning."""
    model = LanguageModel(SHAPE)
    estimate = LanguageModel.memory_estimate(SHAPE, 4, 16, optimizer="spectral", context=model.context)
    needed = estimate.training_bytes
    monkeypatch.setattr(budget_module, "available_memory_bytes", lambda: needed - 1)
    with pytest.raises(OutOfMemoryError, match=r"training\.batch_size"):
        Trainer(model, TEXT, RUN).train()
    assert model.parameters()["embedding"].gradient is None
    monkeypatch.setattr(budget_module, "available_memory_bytes", lambda: needed + 1)
    with pytest.warns(ResourceWarning, match="MiB"):
        Trainer(model, TEXT, RUN).train()


def test_bad_data_and_sizes_are_refused() -> None:
    """Empty and short texts, and windows longer than the model, raise before anything is computed."""
    model = LanguageModel(SHAPE)
    with pytest.raises(DataError, match="empty"):
        Trainer(model, b"", RUN)
    with pytest.raises(DataError, match="at least"):
        Trainer(model, b"abc", RUN)
    with pytest.raises(DataError, match="no such file"):
        Trainer(model, "no/such/file.txt", RUN)
    with pytest.raises(ConfigError, match="max_context"):
        Trainer(model, TEXT, changed(context=33))


def test_text_without_a_validation_split_can_be_trained_on() -> None:
    """With a fraction of 0 there is no validation loss, and no error."""
    data = load_dataset(TEXT, validation_fraction=0)
    result = Trainer(LanguageModel(SHAPE), data, RUN).train()
    assert result.validation_loss is None
    assert result.training_loss is not None


def test_context_of_the_model_is_used() -> None:
    """The trainer computes with the threads of the model's own context unless the run names others."""
    context = Context(threads=2)
    model = LanguageModel(SHAPE, context=context)
    Trainer(model, TEXT, changed(steps=2, threads=None)).train()
    assert context.threads == 2
    Trainer(model, TEXT, changed(steps=2, threads=1)).train()
    assert context.threads == 1


def test_progress_bar_is_shown_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """The bar on standard error names the loss; without a terminal it stays silent by itself."""
    pytest.importorskip("tqdm", reason="the bar needs tqdm")
    run(changed(steps=5))
    assert capsys.readouterr().err == ""
    run(changed(steps=5), progress=True)
    shown = capsys.readouterr().err
    assert "loss=" in shown
    assert "5/5" in shown
