"""The training loop: batches in, a model file, checkpoints and metrics out.

Place in the data flow: data.py gives a batch for a step number; the model computes gradients and applies an
update, both in C; this loop sets the learning rate, measures, evaluates, saves, and stops on a signal. A run
is a function of its configuration, data and seed: stopped and resumed, it ends with the same weights bit for
bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pyhybrid._buffers import Array
from pyhybrid._config_tables import check_table
from pyhybrid._errors import InvalidArgumentError, StateError
from pyhybrid._interrupts import StopOnSignal
from pyhybrid._run_batches import RunBatches, check_clusters
from pyhybrid._run_budget import check_memory, overtime_note, plan_steps
from pyhybrid._run_data import data_again, tokenizer_and_data
from pyhybrid._run_losses import RunLosses
from pyhybrid._run_report import Callback, RunReport, progress_bar, write_json
from pyhybrid._run_state import (
    FREE_FIELDS,
    RunState,
    check_replaceable,
    check_same,
    make_model,
    reset_moments,
    state_tensors,
    tokenizer_text,
    version_string,
)
from pyhybrid._run_step import one_step
from pyhybrid._run_update import make_update
from pyhybrid.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    remove_checkpoints,
    save_checkpoint,
)
from pyhybrid.config import DataConfig, RunConfig, TrainingConfig, differing_fields, to_dict
from pyhybrid.data import Dataset, load_dataset
from pyhybrid.metrics import peak_rss_bytes, plot_loss
from pyhybrid.schedule import LearningRateSchedule
from pyhybrid.ternary_schedule import TernarySchedule

if TYPE_CHECKING:
    from pyhybrid._context import Context
    from pyhybrid._run_clusters import WindowClusters
    from pyhybrid.language_model import LanguageModel

__all__ = ["Trainer", "TrainingResult"]


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
        note: why the run ended before the last step although nobody stopped it: its time was up; else None.
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
    note: str | None = None


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
        found_at = data if isinstance(data, DataConfig) else data_config or DataConfig()
        #: What config.json says; its paths are absolute, so that a resume works from any folder.
        self.run_config = RunConfig(
            preset=preset, model=model.config, training=self.config, data=found_at.absolute()
        )
        # Without a record of where the data came from, the caller must give it again on resume.
        self._data_known = data is None or isinstance(data, DataConfig) or data_config is not None
        if isinstance(data, Dataset):
            self.data = data
        else:
            self.data = load_dataset(
                found_at if data is None else data,
                model.tokenizer,
                vocab_size=model.config.vocab_size,
                cache_dir=self.out,
            )
        self.data.check_window(self.config.context)
        check_clusters(self.config, int(self.data.train.size))
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
        self._note: str | None = None
        self._losses = RunLosses(model, self.data, self.config)
        self._update = make_update(self.config, model.config)
        self._batches: RunBatches | None = None
        self._batches_state: dict[str, Any] = {}

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
            check_replaceable(Path(out))  # before anything slow
        tokenizer, data = tokenizer_and_data(config, out, stdin)
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
        if config is not None:
            check_table(config, TrainingConfig, "config")
        out = Path(out)
        checkpoint = load_checkpoint(out)
        if checkpoint is None:
            raise CheckpointError(f"{out} holds no checkpoint; start the run without resume")
        state = RunState.read(checkpoint)
        stored = state.training
        if config is not None:
            check_same(checkpoint, differing_fields(stored, config, FREE_FIELDS))
        elif context is not None:
            stored = dataclasses.replace(stored, threads=None)
        if model is not None:
            check_same(checkpoint, differing_fields(state.model, model.config))
        else:
            model = make_model(state.model, stored.seed, context, state.tokenizer)
        if data is None:
            if not state.data_known:
                raise CheckpointError(
                    f"{out}: the run was given its data in memory; give the same data again"
                )
            data = data_again(out, state.data_config, model, state.data_sha256)
        trainer = cls(
            model,
            data,
            config or stored,
            out=out,
            data_config=state.data_config if state.data_known else None,
            preset=state.preset,
            callbacks=callbacks,
            progress=progress,
        )
        if trainer.data.sha256 != state.data_sha256:
            raise CheckpointError(
                f"{out}: the data is not what the run began with (SHA-256 {trainer.data.sha256[:16]}..., "
                f"then {state.data_sha256[:16]}...); give the same text, or start a new run in another folder"
            )
        trainer._continue(checkpoint, state)
        return trainer

    def _continue(self, checkpoint: Checkpoint, state: RunState) -> None:
        """Stands where a checkpoint left off; `train` then restores the arrays."""
        # The same words as before, so that the model file comes out the same, too.
        self.data = dataclasses.replace(self.data, description=state.data_description)
        self.step = checkpoint.step
        self.total_steps = state.total_steps
        self._resumed = checkpoint
        self._seconds_before = state.seconds
        self._last = dict(state.last)
        self._validation = dict(state.validation)
        self._batches_state = dict(state.batches)
        try:
            self._update.load_state(state.optimizer)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{checkpoint.folder}: what the optimiser remembered is damaged ({error})"
            ) from error

    # ---- the run ----

    @property
    def clusters(self) -> WindowClusters | None:
        """The clusters of the training text's windows; None before `train`, and without clusters."""
        return None if self._batches is None else self._batches.clusters

    def stop(self) -> None:
        """Asks the loop to save and end after the step that is running; from any thread."""
        self.stopping = True

    def train(self) -> TrainingResult:
        """Runs to the last step, or until a signal.

        Ctrl-C or SIGTERM ends the run after the current step with a checkpoint; a second one aborts at once.
        With training.minutes, a run that exceeds them by more than 10 % ends in the same way, is evaluated,
        and says so in the result's note, in the metrics and in a warning; a resumed run has the time anew.

        Returns:
            Totals and last losses.

        Raises:
            OutOfMemoryError: the run would need more memory than there is.
            NotFiniteError: loss or gradient became NaN or infinite; the message names step and tensor.
            CheckpointError: the disk is full, or `out` holds an unfinished run.
        """
        self._started = time.perf_counter()
        self._note = None
        check_memory(self.model, self.config)
        if self.config.threads is not None:
            self.model.context.threads = self.config.threads
        self.model.prepare(
            self.config.batch_size,
            self.config.context,
            backward=self.config.backward,
            optimizer=self._update.kind,
            ternary_blend=self.config.initial_ternary_blend,
            state_bits=self.config.state_bits,
        )
        with StopOnSignal(self.stop, lambda: self.stopping):
            self._begin()
            speed = self._loop()
            return self._finish(speed)

    def _begin(self) -> None:
        """Puts weights and optimiser state where the run starts, and writes the first files."""
        self.model.set_row_multipliers({})  # the model may have been trained before
        if self._resumed is not None:
            self._make_batches()
            self.model.touch()  # before: it forgets what the optimiser knows of the weights, which comes next
            self._resumed.restore(self._arrays())
            self._saved_step = self.step
            return
        if self.out is not None:
            try:
                self.out.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise CheckpointError(f"{self.out}: cannot be made a folder ({error.strerror})") from error
            if not self.overwrite:
                check_replaceable(self.out)
            remove_checkpoints(self.out)
        reset_moments(self.model)  # the model may have been trained before
        self._make_batches()
        if self.total_steps is None:
            self.total_steps = self._plan_steps()
        if self.out is not None:
            found = {} if self.clusters is None else {"clusters": self.clusters.summary()}
            described = {"version": version_string(), **to_dict(self.run_config), **found}
            write_json(self.out / "config.json", described)
            self._save()  # a run that dies early can be resumed, too, and a full disk shows at once

    def _loop(self) -> float:
        """Steps until the end or a stop; returns the tokens per second of the steps themselves."""
        config = self.config
        schedule = LearningRateSchedule(config, self._total())
        ternary = TernarySchedule(config, self._total(), self._last)
        ternary.begin(self.model)
        batches = self._made_batches()
        report = RunReport(
            None if self.out is None else self.out / "metrics.jsonl",
            self.callbacks,
            self.progress,
            step=self.step,
            total_steps=self._total(),
            resumed=self._resumed is not None,
        )
        first, busy = self.step, 0.0
        with report:
            while self.step < self._total() and not self.stopping and self._note is None:
                begun = time.perf_counter()
                number = self.step + 1
                batch = batches.batch(number)
                record = one_step(
                    self.model,
                    self._update,
                    batch,
                    multiplier=schedule.multiplier(number),
                    ternary=ternary,
                    number=number,
                    saved_step=self._saved_step,
                )
                batches.learn(batch, self.model)
                self.step = number
                elapsed = time.perf_counter() - begun
                busy += elapsed
                self._complete(record, elapsed)
                report.tell(
                    record,
                    log=_due(self.step, config.log_interval)
                    or not {"validation_loss", "note"}.isdisjoint(record),
                    validation=self._validation.get("validation_loss"),
                    saved_step=self._saved_step,
                )
                if _due(self.step, config.checkpoint_interval):
                    self._save()
            self._save()
        if self._note is not None:
            warnings.warn(self._note, RuntimeWarning, stacklevel=3)
        return (self.step - first) * config.tokens_per_step / busy if busy else 0.0

    def _make_batches(self) -> None:
        """Clusters the text, if the run asks for it, and makes the sampler stand where the run does."""
        n_windows = self.data.train.size // self.config.context if self.config.data_clusters else 0
        bar = progress_bar(self.progress, "clustering", "window", n_windows) if n_windows else None
        try:
            self._batches = RunBatches(
                self.data.train,
                self.config,
                context=self.model.context,
                state=self._batches_state,
                progress=None if bar is None else bar.update,
            )
        except InvalidArgumentError as error:
            if self._resumed is None:
                raise
            raise CheckpointError(
                f"{self._resumed.folder}: what the sampler remembered is damaged ({error})"
            ) from error
        finally:
            if bar is not None:
                bar.close()

    def _made_batches(self) -> RunBatches:
        if self._batches is None:
            raise StateError("the batches are not made yet; call train")
        return self._batches

    def _complete(self, record: dict[str, Any], elapsed: float) -> None:
        """Adds a validation, where one is due, and the figures about time and memory."""
        if not self.stopping:
            seconds = time.perf_counter() - self._started
            self._note = overtime_note(self.config, seconds, self.step, self._total(), record["schedule"])
        ends = self.step == self._total() or self._note is not None
        if ends or _due(self.step, self.config.evaluation_interval):
            self._validation = self._losses.validation()
            record.update({name: value for name, value in self._validation.items() if value is not None})
        record["tokens_per_second"] = round(self.config.tokens_per_step / max(elapsed, 1e-9), 1)
        record["seconds"] = round(self._seconds(), 3)
        record["peak_rss_bytes"] = peak_rss_bytes()
        if self._note is not None:
            record["note"] = self._note
        self._last = record

    def _finish(self, speed: float) -> TrainingResult:
        """Evaluates, writes model and picture, and sums up."""
        interrupted = self.step < self._total() and self._note is None
        training_loss = None if interrupted else self._losses.training()
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
            note=self._note,
        )
        if self.out is not None:
            self.model.save(self.out / "model.hyb", self._state().model_metadata(self.step, training_loss))
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

    def _plan_steps(self) -> int:
        """Turns the time budget into a number of steps.

        The steps that are measured run with a learning rate of 0, and the optimiser state is cleared behind
        them, so the run that follows depends on the number of steps alone, not on how it was found. With a
        ramp they are steps before it, which are slow ones.
        """
        batches = self._made_batches()

        def probe() -> None:
            self.model.gradients(batches.batch(0).tokens)
            self._update.probe(self.model)

        n_steps = plan_steps(
            self.config, probe, self._losses, spent=self._seconds, stopping=lambda: self.stopping
        )
        reset_moments(self.model)
        return n_steps

    def _save(self) -> None:
        """Writes a checkpoint of the current step, unless it is there."""
        if self.out is None or self._saved_step == self.step:
            return
        save_checkpoint(self.out, self.step, self._arrays(), self._state().plain(self.step))
        self._saved_step = self.step

    def _arrays(self) -> dict[str, Array]:
        """What a checkpoint keeps of model and optimiser."""
        return state_tensors(self.model) | self._update.arrays(self.model)

    def _state(self) -> RunState:
        """Where the run stands, but for the arrays."""
        return RunState(
            total_steps=self._total(),
            seconds=self._seconds(),
            preset=self.run_config.preset,
            model=self.run_config.model,
            training=self.config,
            data_config=self.run_config.data,
            data_sha256=self.data.sha256,
            data_tokens=self.data.n_tokens,
            data_description=self.data.description,
            data_known=self._data_known,
            tokenizer=tokenizer_text(self.model.tokenizer),
            last=self._last,
            validation=self._validation,
            optimizer=self._update.state(),
            batches=self._made_batches().state(),
        )


def _due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0
