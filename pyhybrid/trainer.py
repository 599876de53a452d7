"""The training loop: batches in, a model file, checkpoints and metrics out.

Place in the data flow: data.py gives a batch for a step number; the model computes gradients and applies an
update, both in C; this loop sets the learning rate, measures, evaluates, saves, and stops on a signal. A run
is a function of its configuration, data and seed: stopped and resumed, it ends with the same weights bit for
bit.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import math
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from pyhybrid._errors import HybridError, NotFiniteError, OutOfMemoryError, StateError
from pyhybrid._native import ffi, lib
from pyhybrid.checkpoint import (
    Array,
    Checkpoint,
    CheckpointError,
    CheckpointWarning,
    load_checkpoint,
    remove_checkpoints,
    save_checkpoint,
)
from pyhybrid.config import (
    ConfigError,
    DataConfig,
    ModelConfig,
    RunConfig,
    TrainingConfig,
    differing_fields,
    to_dict,
)
from pyhybrid.data import (
    CACHE_NAME,
    Batches,
    DataError,
    Dataset,
    Tokens,
    load_dataset,
    read_text,
    text_pieces,
    validation_batches,
)
from pyhybrid.metrics import MetricsWriter, available_memory_bytes, peak_rss_bytes, plot_loss
from pyhybrid.schedule import LearningRateSchedule

if TYPE_CHECKING:
    from pyhybrid._context import Context
    from pyhybrid.language_model import LanguageModel, UpdateStatistics
    from pyhybrid.tokenizer import Tokenizer

__all__ = ["Trainer", "TrainingResult"]

Callback = Callable[[Mapping[str, Any]], None]

#: Fields that may differ when a run is resumed: they do not change the weights.
_FREE_FIELDS = (
    "threads",
    "minutes",
    "evaluation_interval",
    "evaluation_tokens",
    "checkpoint_interval",
    "log_interval",
)
# Share of the time budget that is planned; the rest is for checkpoints and a machine that is a little slower
# later.
_PLANNED_SHARE = 0.95
# The speed is measured over at least this many steps and seconds (or this share of the budget, if that is
# less).
_PROBE_STEPS = 3
_PROBE_SECONDS = 2.0
_PROBE_SHARE = 0.05


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a run came to.

    Args:
        steps: updates done, those before a resume included.
        total_steps: updates planned.
        loss: of the last step's batch, nats per token.
        training_loss: over evaluation_tokens of the training split at the end, nats per token; None if
            interrupted.
        validation_loss: the last validation, nats per token; None without a validation split.
        validation_bits_per_byte: the same in bits per byte of text; None if the bytes are not known.
        tokens: seen, those before a resume included.
        tokens_per_second: of the steps in this process, without evaluations and checkpoints.
        seconds: of the whole run, those before a resume included.
        peak_rss_bytes: most memory that this process held.
        interrupted: stopped by a signal or by `stop` before the last step.
        out: the output folder, if there is one.
    """

    steps: int
    total_steps: int
    loss: float
    training_loss: float | None
    validation_loss: float | None
    validation_bits_per_byte: float | None
    tokens: int
    tokens_per_second: float
    seconds: float
    peak_rss_bytes: int
    interrupted: bool
    out: Path | None


class _StopOnSignal:
    """Turns the first SIGINT or SIGTERM into a flag, and the second into KeyboardInterrupt at once."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._previous: dict[int, Any] = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._trainer.stopping:
            raise KeyboardInterrupt
        self._trainer.stop()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # others may not set handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, signal.SIG_DFL if previous is None else previous)


class Trainer:
    """Trains a model on data.

    Args:
        model: trainable; its weights are the start.
        data: a Dataset, or whatever `load_dataset` takes: a DataConfig, paths, bytes, an array of tokens, or
            None for the embedded text.
        config: the run; None: the defaults of TrainingConfig.
        out: folder for model.hyb, config.json, metrics.jsonl, loss.png and checkpoint/; None: nothing is
            written.
        data_config: where a Dataset came from, so that `resume` can load it again.
        preset: name to note in config.json.
        callbacks: called after each step with its metrics.
        progress: show a progress bar on standard error; None: if that is a terminal.
        overwrite: replace an unfinished run in `out`; a finished one is replaced without asking.

    Raises:
        ConfigError: the configurations of model and run contradict each other.
        DataError: the data cannot be loaded or is too short.
    """

    def __init__(
        self,
        model: LanguageModel,
        data: Any = None,
        config: TrainingConfig | None = None,
        *,
        out: str | os.PathLike[str] | None = None,
        data_config: DataConfig | None = None,
        preset: str | None = None,
        callbacks: Iterable[Callback] = (),
        progress: bool | None = None,
        overwrite: bool = False,
    ) -> None:
        self.model = model
        self.config = TrainingConfig() if config is None else config
        self.out = None if out is None else Path(out)
        self.run_config = RunConfig(
            preset=preset,
            model=model.config,
            training=self.config,
            data=data if isinstance(data, DataConfig) else data_config or DataConfig(),
        )
        # Without a record of where the data came from, the caller must give it again on resume.
        self._data_known = data is None or isinstance(data, DataConfig) or data_config is not None
        if data is None:
            data = self.run_config.data
        if isinstance(data, Dataset):
            self.data = data
        else:
            self.data = load_dataset(
                data, model.tokenizer, vocab_size=model.config.vocab_size, cache_dir=self.out
            )
        self.data.check_window(self.config.context)
        self.callbacks = list(callbacks)
        self.progress = progress
        self.overwrite = overwrite
        #: Updates done so far.
        self.step = 0
        #: Updates planned; None until the time budget has been turned into steps.
        self.total_steps: int | None = None if self.config.minutes is not None else self.config.steps
        #: True once a stop was asked for.
        self.stopping = False
        self._resumed: Checkpoint | None = None
        self._saved_step: int | None = None
        self._started = time.perf_counter()
        self._seconds_before = 0.0
        self._last: dict[str, Any] = {}
        self._validation: dict[str, float | None] = {}

    @classmethod
    def from_config(
        cls,
        config: RunConfig,
        *,
        out: str | os.PathLike[str] | None = None,
        context: Context | None = None,
        callbacks: Iterable[Callback] = (),
        progress: bool | None = None,
        overwrite: bool = False,
        stdin: BinaryIO | None = None,
    ) -> Trainer:
        """Makes model, tokenizer and data as a whole run describes them.

        Args:
            config: the run; with tokenizer 'bpe' one is trained on the training split.
            out: folder of the run; None: nothing is written.
            context: threads and instruction sets; None: the default context.
            callbacks: called after each step with its metrics.
            progress: show a progress bar on standard error; None: if that is a terminal.
            overwrite: replace an unfinished run in `out`; a finished one is replaced without asking.
            stdin: read for the path '-' instead of the process's standard input.

        Raises:
            ConfigError: the vocabulary is smaller than the tokenizer's.
            DataError: the data cannot be loaded or is too short.
            CheckpointError: `out` holds an unfinished run.
            OutOfMemoryError: the model does not fit.
        """
        from pyhybrid.language_model import LanguageModel

        if out is not None and not overwrite:
            _check_replaceable(Path(out))  # before anything slow
        tokenizer, data = _tokenizer_and_data(config, out, stdin)
        data.check_window(config.training.context)
        model = LanguageModel(config.model, seed=config.training.seed, context=context)
        if tokenizer is not None:
            model.tokenizer = tokenizer
        return cls(
            model,
            data,
            config.training,
            out=out,
            data_config=config.data,
            preset=config.preset,
            callbacks=callbacks,
            progress=progress,
            overwrite=overwrite,
        )

    @classmethod
    def resume(
        cls,
        out: str | os.PathLike[str],
        data: Any = None,
        config: TrainingConfig | None = None,
        *,
        model: LanguageModel | None = None,
        context: Context | None = None,
        callbacks: Iterable[Callback] = (),
        progress: bool | None = None,
    ) -> Trainer:
        """Makes a trainer that goes on from the newest good checkpoint; `train` then does the rest.

        Args:
            out: the run's output folder.
            data: the same data again; None: it is loaded from where the run found it.
            config: may change threads and intervals; every other field must agree. None: the run's own.
            model: a trainable model of the same configuration to load into; None: one is made.
            context: threads and instruction sets of the model that is made; its threads replace the run's.
            callbacks: called after each step with its metrics.
            progress: show a progress bar on standard error; None: if that is a terminal.

        Raises:
            CheckpointError: there is no good checkpoint, or it is of another configuration or other data;
                the message names the fields that differ.
        """
        out = Path(out)
        checkpoint = load_checkpoint(out)
        if checkpoint is None:
            raise CheckpointError(f"{out} holds no checkpoint; start the run without resume")
        state = checkpoint.state
        try:
            stored_model = ModelConfig(**state["model"])
            stored = TrainingConfig(**state["training"])
            data_config = DataConfig(**state["data_config"])
            total_steps, seconds = int(state["total_steps"]), float(state["seconds"])
            data_sha256, data_known = str(state["data"]["sha256"]), bool(state["data"]["known"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{checkpoint.folder}: of another version of this library ({error})"
            ) from error
        if config is not None:
            _check_same(checkpoint, differing_fields(stored, config, _FREE_FIELDS))
        elif context is not None:
            stored = dataclasses.replace(stored, threads=None)
        if model is not None:
            _check_same(checkpoint, differing_fields(stored_model, model.config))
        else:
            model = _make_model(stored_model, stored.seed, context, state.get("tokenizer"))
        if data is None:
            if not data_known:
                raise CheckpointError(
                    f"{out}: the run was given its data in memory; give the same data again"
                )
            data = _data_again(out, data_config, model, data_sha256)
        trainer = cls(
            model,
            data,
            config or stored,
            out=out,
            data_config=data_config if data_known else None,
            preset=state.get("preset"),
            callbacks=callbacks,
            progress=progress,
        )
        if trainer.data.sha256 != data_sha256:
            raise CheckpointError(
                f"{out}: the data is not what the run began with (SHA-256 {trainer.data.sha256[:16]}..., "
                f"then {data_sha256[:16]}...); give the same text, or start a new run in another folder"
            )
        trainer.step = checkpoint.step
        trainer.total_steps = total_steps
        trainer._resumed = checkpoint
        trainer._seconds_before = seconds
        trainer._last = dict(state["metrics"]["last"])
        trainer._validation = dict(state["metrics"]["validation"])
        return trainer

    # ---- the run ----

    def stop(self) -> None:
        """Asks the loop to save and end after the step that is running; from any thread."""
        self.stopping = True

    def train(self) -> TrainingResult:
        """Runs to the last step, or until a signal.

        Ctrl-C or SIGTERM ends the run after the current step with a checkpoint; a second one aborts at once.

        Returns:
            Totals and last losses.

        Raises:
            OutOfMemoryError: the run would need more memory than there is.
            NotFiniteError: loss or gradient became NaN or infinite; the message names step and tensor.
            CheckpointError: the disk is full, or `out` holds an unfinished run.
        """
        self._started = time.perf_counter()
        self._check_memory()
        if self.config.threads is not None:
            self.model.context.threads = self.config.threads
        self.model.prepare(self.config.batch_size, self.config.context)
        with _StopOnSignal(self):
            self._begin()
            speed = self._loop()
            result = self._finish(speed)
        return result

    def _begin(self) -> None:
        """Puts weights and optimiser state where the run starts, and writes the first files."""
        if self._resumed is not None:
            self._resumed.restore(_state_tensors(self.model))
            self.model.touch()
            self._saved_step = self.step
            return
        if self.out is not None:
            try:
                self.out.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise CheckpointError(f"{self.out}: cannot be made a folder ({error.strerror})") from error
            if not self.overwrite:
                _check_replaceable(self.out)
            remove_checkpoints(self.out)
        _reset_moments(self.model)  # the model may have been trained before
        if self.total_steps is None:
            self.total_steps = self._plan_steps()
        if self.out is not None:
            _write_json(self.out / "config.json", {"version": version_string(), **to_dict(self.run_config)})
            self._save()  # a run that dies early can be resumed, too, and a full disk shows at once

    def _loop(self) -> float:
        """Steps until the end or a stop; returns the tokens per second of the steps themselves."""
        config = self.config
        schedule = LearningRateSchedule(config, self._total())
        batches = Batches(
            self.data.train, batch_size=config.batch_size, context=config.context, seed=config.seed
        )
        writer = None
        if self.out is not None:
            writer = MetricsWriter(self.out / "metrics.jsonl", None if self._resumed is None else self.step)
        bar = self._progress_bar()
        first, busy = self.step, 0.0
        try:
            while self.step < self._total() and not self.stopping:
                begun = time.perf_counter()
                record = self._one_step(batches, schedule)
                elapsed = time.perf_counter() - begun
                busy += elapsed
                self._complete(record, elapsed)
                self._report(record, writer, bar)
                if _due(self.step, config.checkpoint_interval):
                    self._save()
            self._save()
        finally:
            if writer is not None:
                writer.close()
            if bar is not None:
                bar.close()
        return (self.step - first) * config.tokens_per_step / busy if busy else 0.0

    def _one_step(self, batches: Batches, schedule: LearningRateSchedule) -> dict[str, Any]:
        """One update; returns its metrics."""
        config = self.config
        number = self.step + 1
        rate = schedule.rate(number)
        try:
            statistics = self.model.gradients(batches.batch(number))
            update = self._apply(rate, number)
        except HybridError as error:
            raise type(error)(f"step {number}: {error}{self._advice(error)}", error.status) from error
        self.step = number
        return {
            "step": number,
            "loss": float(statistics.loss),
            "gradient_norm": float(statistics.gradient_norm),
            "flipped_share": float(update.flipped_share),
            "zero_share": float(update.zero_share),
            "learning_rate": rate,
            "tokens": number * config.tokens_per_step,
        }

    def _apply(self, rate: float, number: int) -> UpdateStatistics:
        """The optimiser's update in C; it has just been given the gradients."""
        config = self.config
        return self.model.apply(
            learning_rate=rate,
            beta1=config.beta1,
            beta2=config.beta2,
            epsilon=config.epsilon,
            weight_decay=config.weight_decay,
            step=number,
            clip_norm=config.clip_norm,
        )

    def _advice(self, error: HybridError) -> str:
        if not isinstance(error, NotFiniteError):
            return ""
        kept = f"; the checkpoint of step {self._saved_step} is kept" if self._saved_step is not None else ""
        return f"{kept}; lower training.learning_rate or training.clip_norm"

    def _complete(self, record: dict[str, Any], elapsed: float) -> None:
        """Adds a validation, where one is due, and the figures about time and memory."""
        if self.step == self._total() or _due(self.step, self.config.evaluation_interval):
            self._validation = self._validate()
            record.update({name: value for name, value in self._validation.items() if value is not None})
        record["tokens_per_second"] = round(self.config.tokens_per_step / max(elapsed, 1e-9), 1)
        record["seconds"] = round(self._seconds(), 3)
        record["peak_rss_bytes"] = peak_rss_bytes()
        self._last = record

    def _report(self, record: dict[str, Any], writer: MetricsWriter | None, bar: Any) -> None:
        """Tells everybody who listens about a step."""
        if writer is not None and (_due(self.step, self.config.log_interval) or "validation_loss" in record):
            try:
                writer.write(record)
            except OSError as error:
                raise CheckpointError(
                    f"step {self.step}: {writer.path} cannot be written ({error.strerror}); the checkpoint "
                    f"of step {self._saved_step} is kept"
                ) from error
        for callback in self.callbacks:
            callback(record)
        if bar is not None:
            postfix = {"loss": f"{record['loss']:.3f}"}
            validation = self._validation.get("validation_loss")
            if validation is not None:
                postfix["val"] = f"{validation:.3f}"
            postfix["tok/s"] = f"{record['tokens_per_second']:,.0f}"
            bar.set_postfix(postfix, refresh=False)
            bar.update(1)

    def _finish(self, speed: float) -> TrainingResult:
        """Evaluates, writes model and picture, and sums up."""
        interrupted = self.step < self._total()
        training_loss = None
        if not interrupted:
            training_loss = self._mean_loss(self.data.train, self._training_cap())
        result = TrainingResult(
            steps=self.step,
            total_steps=self._total(),
            loss=float(self._last.get("loss", math.nan)),
            training_loss=training_loss,
            validation_loss=self._validation.get("validation_loss"),
            validation_bits_per_byte=self._validation.get("validation_bits_per_byte"),
            tokens=self.step * self.config.tokens_per_step,
            tokens_per_second=speed,
            seconds=self._seconds(),
            peak_rss_bytes=peak_rss_bytes(),
            interrupted=interrupted,
            out=self.out,
        )
        if self.out is not None:
            self.model.save(self.out / "model.hyb", self._metadata(training_loss))
            with contextlib.suppress(OSError):  # the picture is an extra
                plot_loss(self.out / "metrics.jsonl", self.out / "loss.png")
        return result

    # ---- parts ----

    def _total(self) -> int:
        if self.total_steps is None:
            raise StateError("the number of steps is not planned yet; call train")
        return self.total_steps

    def _seconds(self) -> float:
        """Wall-clock time of the run, earlier parts included."""
        return self._seconds_before + time.perf_counter() - self._started

    def _check_memory(self) -> None:
        """Refuses a run that cannot fit, before it takes the memory."""
        available = available_memory_bytes()
        if available is None:
            return
        config = self.config
        estimate = self.model.memory_estimate(
            self.model.config, config.batch_size, config.context, context=self.model.context
        )
        needed = estimate.training_bytes  # the weights are there already
        text = (
            f"training needs about {needed / 2**20:,.0f} MiB, and {available / 2**20:,.0f} MiB are "
            "available; lower training.batch_size, training.context or the model's size"
        )
        if needed > available:
            raise OutOfMemoryError(text)
        if needed > 0.8 * available:  # the estimate leaves out the interpreter and the data
            warnings.warn(text, ResourceWarning, stacklevel=3)

    def _plan_steps(self) -> int:
        """Turns the time budget into a number of steps.

        The steps that are measured run with a learning rate of 0, and the optimiser state is cleared behind
        them, so the run that follows depends on the number of steps alone, not on how it was found.
        """
        config = self.config
        budget = (config.minutes or 0) * 60
        batches = Batches(
            self.data.train, batch_size=config.batch_size, context=config.context, seed=config.seed
        )
        begun = time.perf_counter()
        window = min(_PROBE_SECONDS, _PROBE_SHARE * budget)
        durations: list[float] = []
        while len(durations) < _PROBE_STEPS + 1 or time.perf_counter() - begun < window:
            at = time.perf_counter()
            self.model.gradients(batches.batch(0))
            self._apply(0.0, 1)
            durations.append(time.perf_counter() - at)
            if self.stopping:
                break
        _reset_moments(self.model)
        measured = durations[1:] or durations  # the first one warms up
        step_seconds = sum(measured) / len(measured)  # the mean: what other programs take counts, too
        at = time.perf_counter()
        self._mean_loss(self.data.train, config.tokens_per_step)
        per_token = (time.perf_counter() - at) / config.tokens_per_step
        validation = per_token * self._validation_cap()
        left = budget * _PLANNED_SHARE - (time.perf_counter() - self._started)
        left -= validation + per_token * self._training_cap()  # at the end of the run
        if config.evaluation_interval:
            step_seconds += validation / config.evaluation_interval
        return max(1, int(left / step_seconds))

    def _validation_cap(self) -> int:
        """Tokens that one validation predicts."""
        predictions = max(0, int(self.data.validation.size) - 1)
        return min(predictions, self.config.evaluation_tokens or predictions)

    def _training_cap(self) -> int:
        """Tokens of the training split that are evaluated at the end: as many as a validation has."""
        return min(
            int(self.data.train.size) - 1, self._validation_cap() or self.config.evaluation_tokens or 65536
        )

    def _mean_loss(self, tokens: Tokens, max_tokens: int) -> float:
        """Cross-entropy over evenly spread windows, nats per token."""
        total, count = 0.0, 0
        for batch in validation_batches(
            tokens, batch_size=self.config.batch_size, context=self.config.context, max_tokens=max_tokens
        ):
            total += self.model.loss_sum(batch)
            count += batch.shape[0] * (batch.shape[1] - 1)
        return total / count

    def _validate(self) -> dict[str, float | None]:
        """Loss over the validation split; empty without one."""
        if self.data.validation.size < 2:
            return {}
        loss = self._mean_loss(self.data.validation, self._validation_cap())
        per_token = self.data.validation_bytes_per_token
        bits = None if per_token is None else loss / math.log(2) / per_token
        return {"validation_loss": loss, "validation_bits_per_byte": bits}

    def _progress_bar(self) -> Any:
        """A tqdm bar, or None."""
        if self.progress is False or (self.progress is None and not sys.stderr.isatty()):
            return None
        try:
            from tqdm import tqdm  # type: ignore[import-untyped]
        except ImportError:
            return None
        return tqdm(total=self._total(), initial=self.step, unit="step", dynamic_ncols=True, desc="training")

    def _metadata(self, training_loss: float | None) -> dict[str, Any]:
        """What the model file says about its training: nothing that differs between two equal runs."""
        training = {name: value for name, value in to_dict(self.config).items() if name not in _FREE_FIELDS}
        return {
            "pyhybrid": version_string(),
            "steps": self.step,
            "total_steps": self._total(),
            "tokens": self.step * self.config.tokens_per_step,
            "training_loss": training_loss,
            **self._validation,
            "data": {"description": self.data.description, "sha256": self.data.sha256},
            "training": training,
        }

    def _save(self) -> None:
        """Writes a checkpoint of the current step, unless it is there."""
        if self.out is None or self._saved_step == self.step:
            return
        state = {
            "version": version_string(),
            "total_steps": self._total(),
            "seconds": self._seconds(),
            "preset": self.run_config.preset,
            "model": to_dict(self.run_config.model),
            "training": to_dict(self.config),
            "data_config": to_dict(self.run_config.data),
            "data": {
                "sha256": self.data.sha256,
                "n_tokens": self.data.n_tokens,
                "description": self.data.description,
                "known": self._data_known,
            },
            # The batches' places are a function of these two: there is no other state of a random generator.
            "cursor": {"seed": self.config.seed, "next_step": self.step + 1},
            "tokenizer": _tokenizer_text(self.model.tokenizer),
            "metrics": {"last": self._last, "validation": self._validation},
        }
        save_checkpoint(self.out, self.step, _state_tensors(self.model), state)
        self._saved_step = self.step


def _due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0


def version_string() -> str:
    """Returns the version of the C library that is running."""
    return str(ffi.string(lib.hyb_version_string()).decode())


def _state_tensors(model: LanguageModel) -> dict[str, Array]:
    """The arrays that make up a run's state, as views of the model's memory; after `prepare`."""
    tensors: dict[str, Array] = {}
    for name, parameter in model.parameters().items():
        arrays = {
            "weights": parameter.values,
            "first_moment": parameter.first_moment,
            "second_moment": parameter.second_moment,
        }
        for kind, array in arrays.items():
            if array is None:
                raise StateError(
                    f"{name} has no {kind}: a model that was loaded cannot be trained; make a new one"
                )
            tensors[f"{kind}.{name}"] = array
    return tensors


def _reset_moments(model: LanguageModel) -> None:
    """Forgets what the optimiser knows."""
    for name, array in _state_tensors(model).items():
        if not name.startswith("weights."):
            array[...] = 0


def _tokenizer_text(tokenizer: Tokenizer) -> str | None:
    """A tokenizer as text for state.json; None for bytes, which need no description."""
    if tokenizer.kind == "bytes":
        return None
    return base64.b64encode(tokenizer.serialize()).decode("ascii")


def _make_model(
    config: ModelConfig, seed: int, context: Context | None, tokenizer: str | None
) -> LanguageModel:
    """A model for a checkpoint's tensors, with the tokenizer that the run had."""
    from pyhybrid.language_model import LanguageModel
    from pyhybrid.tokenizer import Tokenizer

    model = LanguageModel(config, seed=seed, context=context)
    if tokenizer is not None:
        model.tokenizer = Tokenizer.deserialize(base64.b64decode(tokenizer))
    return model


def _check_same(checkpoint: Checkpoint, differences: list[str]) -> None:
    if differences:
        raise CheckpointError(
            f"{checkpoint.folder} was made with another configuration (its value, then the one given): "
            + "; ".join(differences)
            + "; resume without these, or start a new run in another folder"
        )


def _check_replaceable(out: Path) -> None:
    """Refuses to start over where an unfinished run waits to be resumed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CheckpointWarning)
        try:
            checkpoint = load_checkpoint(out)
        except CheckpointError:
            return  # nothing of it can be used
    if checkpoint is None:
        return
    total = checkpoint.state.get("total_steps", 0)
    if 0 < checkpoint.step < total:
        raise CheckpointError(
            f"{out} holds an unfinished run (step {checkpoint.step} of {total}); resume it, give another "
            "folder, or overwrite it on purpose"
        )


def _tokenizer_and_data(
    config: RunConfig, out: str | os.PathLike[str] | None, stdin: BinaryIO | None
) -> tuple[Tokenizer | None, Dataset]:
    """The tokenizer that a run names (None: bytes), and its data."""
    from pyhybrid.tokenizer import Tokenizer

    data, vocab_size = config.data, config.model.vocab_size
    options: dict[str, Any] = {"vocab_size": vocab_size, "cache_dir": out}
    if data.tokenizer == "bytes":
        return None, load_dataset(data, stdin=stdin, **options)
    if data.tokenizer != "bpe":
        try:
            tokenizer = Tokenizer.from_tokenizers(data.tokenizer)
        except OSError as error:
            raise DataError(
                f"{data.tokenizer}: cannot be read ({error.strerror}); check data.tokenizer"
            ) from error
        if tokenizer.vocab_size > vocab_size:
            raise ConfigError(
                f"model.vocab_size = {vocab_size}: {data.tokenizer} has {tokenizer.vocab_size} tokens; set "
                f"model.vocab_size={tokenizer.vocab_size}"
            )
        return tokenizer, load_dataset(data, tokenizer, stdin=stdin, **options)
    text = read_text(data.paths, cache_dir=out, stdin=stdin)
    cut = text.boundary(data.validation_fraction, at_character=True)
    tokenizer = Tokenizer.train_bpe(text_pieces(text.data[:cut]), vocab_size)
    return tokenizer, Dataset.from_text(
        text, tokenizer, vocab_size=vocab_size, validation_fraction=data.validation_fraction, cache_dir=out
    )


def _data_again(out: Path, data_config: DataConfig, model: LanguageModel, sha256: str) -> Dataset:
    """The run's data from where it was found; what came through a pipe is in the output folder."""
    options: dict[str, Any] = {
        "vocab_size": model.config.vocab_size,
        "validation_fraction": data_config.validation_fraction,
        "cache_dir": out,
    }
    cache = out / CACHE_NAME
    if cache.is_file():
        dataset = load_dataset(cache, model.tokenizer, **options)
        if dataset.sha256 == sha256:
            return dataset
    if "-" in data_config.paths:
        raise CheckpointError(
            f"{out}: the text came from standard input, and its copy {cache} is gone or changed"
        )
    return load_dataset(data_config, model.tokenizer, **options)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON file in one piece: a reader sees the old one or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written ({error.strerror}); check the output folder"
        ) from error
