"""The documents' trainer: one class for rows of features and for tokens.

Rows of features train a `TernaryMLP` (array_run.py), with given targets or to reconstruct the rows; tokens
train a `LanguageModel` with `Trainer`. Each step: gradients, state of the run, rate and radius from the
auxiliary network, a bounded step of exact master weights, metrics. Place in the data flow: for the user.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pyhybrid._buffers import Array
from pyhybrid._errors import InvalidArgumentError, StateError
from pyhybrid._model_config import check_size
from pyhybrid._run_log import RunLog
from pyhybrid.auxiliary_nn import TrainingState
from pyhybrid.compat._arguments import as_array, finite_array
from pyhybrid.compat._losses import UserLoss
from pyhybrid.compat._trainer_file import read_trainer, write_trainer
from pyhybrid.compat.array_run import ArrayRun, canonical_config, network_sizes
from pyhybrid.compat.clustering import DataClustering
from pyhybrid.compat.training import TrainingConfig, TrainingMetrics
from pyhybrid.config import ConfigError, ModelConfig
from pyhybrid.config import TrainingConfig as CanonicalTrainingConfig
from pyhybrid.language_model import LanguageModel
from pyhybrid.mlp import FIT_DEFAULTS, TernaryMLP
from pyhybrid.samplers import make_sampler
from pyhybrid.schedule import LearningRateSchedule
from pyhybrid.trainer import Trainer

__all__ = ["HybridLLMTrainer"]

#: Two means of the loss over eval_interval steps that differ by less than this share: converged.
_TOLERANCE = 1e-4
#: Attention heads of a language model have so many dimensions where model_dim allows it.
_HEAD_DIM = 32
_CONTEXT = 128


def _size(value: Any, name: str) -> int:
    """A size of at least 1."""
    size = check_size(value, name)
    if size < 1:
        raise InvalidArgumentError(f"{name} is {size}; give at least 1")
    return size


class HybridLLMTrainer:
    """Trains a ternary network with the hybrid optimiser.

    The first argument may be the configuration. Both sizes follow from the data where they are not given.

    Args:
        model_dim: width of the hidden layers; of a language model, a multiple of 32 or at most 32.
        num_layers: layers.
        config: a pyhybrid.TrainingConfig; None: its defaults.
        seed: of initial weights, batches, clusters and auxiliary network.
        verbose: print the lines of the log.

    Attributes:
        config: the configuration.
        network: a TernaryMLP or a LanguageModel; None before there is data.
        metrics: a TrainingMetrics, of the last step and all before.

    Raises:
        ConfigError: a configuration of another class, or two of them.
        InvalidArgumentError: a size out of its range.
    """

    def __init__(
        self,
        model_dim: int | TrainingConfig | None = None,
        num_layers: int | None = None,
        config: TrainingConfig | None = None,
        *,
        seed: int = 0,
        verbose: bool = True,
    ) -> None:
        if model_dim is not None and not isinstance(model_dim, (int, np.integer)):
            if config is not None:
                raise ConfigError("the first argument is a configuration, and config is one too; give one")
            model_dim, config = None, model_dim
        self.config = TrainingConfig.of(config)
        self.model_dim = None if model_dim is None else _size(model_dim, "model_dim")
        self.num_layers = None if num_layers is None else _size(num_layers, "num_layers")
        self.seed, self.verbose = seed, verbose
        self.metrics = TrainingMetrics()
        self.network: TernaryMLP | LanguageModel | None = None
        self._run: ArrayRun | None = None
        self._sizes: list[int] = []
        self._loss = "mse"
        self._cluster_labels: Array | None = None
        self._errors: list[float] = []
        self._seconds = 0.0

    # ---- data ----

    def prepare_training_data(self, data_embeddings: Any) -> dict[str, Any]:
        """Clusters training data, as config.use_clustering asks for.

        Args:
            data_embeddings: float [n, features], finite.

        Returns:
            'clusters': int64 arrays of row numbers; with clustering also 'cluster_infos' and 'strategy'.

        Raises: those of `DataClustering.cluster_embeddings`.
        """
        rows = finite_array(data_embeddings, "data_embeddings")
        if not self.config.use_clustering:
            return {"clusters": [np.arange(len(rows))]}
        clustering = DataClustering(min(self.config.data_clusters, len(rows)), random_state=self.seed)
        self._cluster_labels, infos = clustering.cluster_embeddings(rows)
        return {
            "clusters": clustering.get_balanced_clusters(balanced=False),
            "cluster_infos": infos,
            "strategy": clustering.suggest_mini_batch_strategy(),
        }

    def _arrays(self, data: Any, targets: Any) -> tuple[Array, Array]:
        """Checked rows and targets; reconstruction without targets."""
        x = finite_array(data, "training_data")
        if x.ndim != 2:
            raise InvalidArgumentError(f"training_data has shape {list(x.shape)}; give [rows, features]")
        x = x.astype(np.float32)
        if targets is None:
            return x, x
        y = as_array(targets)
        if len(y) != len(x):
            raise InvalidArgumentError(f"there are {len(x)} rows of training data and {len(y)} targets")
        if y.dtype.kind not in "bui" or y.ndim != 1:
            y = finite_array(y, "training_targets").astype(np.float32)
            y = y[:, None] if y.ndim == 1 else y
        return x, y

    def _make_run(self, x: Array, y: Array, *, steps: int) -> ArrayRun:
        """The run that fits the data; the one that there is, if it does."""
        classes = y.dtype.kind in "bui"
        n_out = int(y.max()) + 1 if classes else y.shape[1]
        if self._run is not None:
            if x.shape[1] != self._sizes[0] or (
                n_out > self._sizes[-1] if classes else n_out != self._sizes[-1]
            ):
                raise InvalidArgumentError(
                    f"the network has {self._sizes[0]} features and {self._sizes[-1]} outputs; this data has "
                    f"{x.shape[1]} and {n_out}: make another trainer"
                )
            return self._run
        self._sizes = network_sizes(x.shape[1], n_out, self.model_dim, self.num_layers)
        self._loss = "cross_entropy" if classes else "mse"
        return self._adopt(steps)

    def _adopt(self, steps: int) -> ArrayRun:
        run = ArrayRun(
            self.config,
            self._sizes,
            self._loss,
            steps=steps,
            batch_size=self.config.batch_size,
            seed=self.seed,
        )
        self._run, self.network = run, run.network
        return run

    # ---- a step ----

    def compute_batch_gradients(
        self, batch_data: Any, batch_targets: Any = None, loss_fn: UserLoss | None = None
    ) -> tuple[Array, float]:
        """Computes the gradients of a batch.

        Args:
            batch_data: float [rows, features].
            batch_targets: float [rows, outputs] or [rows]; integers [rows]: classes; None: batch_data.
            loss_fn: called with predictions and targets; returns the loss, or the loss and its derivative by
                the predictions; None: mean squared error, or cross-entropy of classes.

        Returns:
            float32 [parameters] in the order of `parameters`, and the loss.

        Raises:
            InvalidArgumentError: shapes that do not fit each other or the network.
            NotFiniteError: NaN or infinity.
        """
        x, y = self._arrays(batch_data, batch_targets)
        run = self._make_run(x, y, steps=self.config.max_steps or 1000)
        statistics = run.gradients(x, y, loss_fn)
        return run.flat_gradient(), float(statistics.loss)

    def create_training_state(
        self, loss: float, gradients: Any, cluster_id: int = 0, previous_loss: float | None = None
    ) -> TrainingState:
        """Returns what the auxiliary network would see.

        Args:
            loss: of the batch.
            gradients: of the batch, any shape.
            cluster_id: that most of the batch came from.
            previous_loss: of the batch before; None: the last one that was trained on.
        """
        given = finite_array(gradients, "gradients")
        history = self.metrics.metrics_history.get("loss", [])
        previous = (history[-1] if history else loss) if previous_loss is None else previous_loss
        return TrainingState(
            current_loss=float(loss),
            gradient_magnitude=float(np.linalg.norm(given)),
            cluster_id=float(cluster_id),
            loss_trend=float(loss) / previous if previous else 1.0,
            gradient_variance=float(np.var(given)),
            step_number=self.metrics.step,
        )

    def train_step(
        self,
        batch_data: Any,
        batch_targets: Any = None,
        loss_fn: UserLoss | None = None,
        cluster_id: int = 0,
    ) -> TrainingMetrics:
        """Makes one step, at the full rate of the configuration; arguments and errors as for
        `compute_batch_gradients`.

        Args:
            batch_data: float [rows, features].
            batch_targets: see there.
            loss_fn: see there.
            cluster_id: that the batch came from.

        Returns:
            The metrics behind the step.
        """
        x, y = self._arrays(batch_data, batch_targets)
        run = self._make_run(x, y, steps=self.config.max_steps or 1000)
        self._step(run, x, y, loss_fn, cluster=cluster_id / max(1, self.config.data_clusters), multiplier=1.0)
        return self.metrics

    def _step(
        self,
        run: ArrayRun,
        x: Array,
        y: Array,
        loss_fn: UserLoss | None,
        *,
        cluster: float,
        multiplier: float,
    ) -> dict[str, Any]:
        """A step, its metrics, and its record for the log."""
        begun = time.perf_counter()
        statistics = run.gradients(x, y, loss_fn)
        number = self.metrics.step + 1
        found = run.update(statistics, number=number, multiplier=multiplier, cluster=min(cluster, 1.0))
        if number % self.config.log_interval == 0 or number == 1:
            self._errors.append(run.quantization_error())
        self._seconds += time.perf_counter() - begun
        self._record(number, statistics.loss, statistics.gradient_norm, found)
        return {"step": number, "loss": statistics.loss, "gradient_norm": statistics.gradient_norm, **found}

    def _record(self, number: int, loss: float, norm: float, found: Mapping[str, Any]) -> None:
        before = self.metrics.metrics_history.get("loss", [])
        m = self.metrics
        m.step, m.time_elapsed = number, self._seconds
        m.record("loss_reduction", before[-1] - loss if before else 0.0)
        m.record("loss", float(loss))
        m.record("gradient_magnitude", float(norm))
        m.record("update_magnitude", float(found.get("update_magnitude", 0.0)))
        m.record("constraint_active", bool(found.get("constraint_active", 0.0) > 0.5))
        m.record("learning_rate", float(found["learning_rate"]))
        m.record("quantization_error", self._errors[-1] if self._errors else 0.0)
        for name in ("lr_multiplier", "trust_radius"):
            if name in found:
                m.record(name, float(found[name]))

    # ---- a run ----

    def train(
        self,
        training_data: Any,
        training_targets: Any = None,
        loss_fn: UserLoss | None = None,
        eval_fn: Callable[[Array], float] | None = None,
    ) -> TrainingMetrics:
        """Trains for config.max_steps or max_epochs, whichever ends first, under a falling learning rate.

        Called again it goes on with the same network, for as long again.

        Args:
            training_data: float [rows, features]; or integers [n], tokens to predict one from those before.
            training_targets: float [rows, outputs] or [rows]; integers [rows]: classes; None: the rows
                themselves are to be reconstructed. None with tokens.
            loss_fn: see `compute_batch_gradients`.
            eval_fn: called every config.eval_interval steps with the parameters, float32 [parameters]; its
                number is logged.

        Returns:
            The metrics.

        Raises:
            InvalidArgumentError: data that does not fit.
            NotFiniteError: NaN or infinity.
        """
        data = as_array(training_data)
        if data.size == 0:
            raise InvalidArgumentError("training_data is empty; give at least one row, or tokens")
        if data.dtype.kind in "ui" and training_targets is None:
            return self._train_tokens(data, loss_fn, eval_fn)
        x, y = self._arrays(training_data, training_targets)
        size = min(self.config.batch_size, len(x))
        steps = self._planned(len(x), size)
        run = self._make_run(x, y, steps=steps)
        clusters = self._clusters_of(x)
        self._say_start(f"  Model: {self._sizes[1]}D x {len(self._sizes) - 1} layers", clusters, steps)
        sampler = make_sampler(
            "epoch" if clusters is None else "stratified",
            n_tokens=len(x) + 1 if len(x) == 1 else len(x),
            window=1,
            batch_size=size,
            seed=self.seed,
            labels=clusters,
            jitter=False,
        )
        rates = LearningRateSchedule(canonical_config(self.config, FIT_DEFAULTS["hybrid"], steps), steps)
        first = self.metrics.step
        log = RunLog(lambda: first + steps, interval=self.config.log_interval)
        for number in range(1, steps + 1):
            plan = sampler.plan(first + number - 1)
            rows = np.minimum(plan.windows, len(x) - 1)
            share = 0.5 if clusters is None else plan.majority / max(1, int(clusters.max()))
            record = self._step(
                run, x[rows], y[rows], loss_fn, cluster=share, multiplier=rates.multiplier(number)
            )
            if eval_fn is not None and number % self.config.eval_interval == 0:
                record["validation_loss"] = float(eval_fn(self.parameters))
                self.metrics.record("evaluation_loss", record["validation_loss"])
            if self.verbose:
                log(record)
        self._say_end(log)
        return self.metrics

    def _planned(self, n: int, batch_size: int) -> int:
        """Steps of a run over n rows."""
        epochs, steps = self.config.max_epochs, self.config.max_steps
        of_epochs = None if epochs is None else epochs * -(-n // batch_size)
        return min(value for value in (of_epochs, steps) if value is not None)

    def _clusters_of(self, x: Array) -> Array | None:
        """The cluster of each row; None without clustering or with too few rows."""
        if not self.config.use_clustering or len(x) < 2:
            return None
        if self._cluster_labels is None or len(self._cluster_labels) != len(x):
            self.prepare_training_data(x)
        return self._cluster_labels

    def _train_tokens(
        self, tokens: Array, loss_fn: Any, eval_fn: Callable[[Array], float] | None
    ) -> TrainingMetrics:
        if loss_fn is not None:
            raise InvalidArgumentError("loss_fn is for rows of features; tokens are trained on cross-entropy")
        if self._run is not None:
            raise InvalidArgumentError("the network is one for rows of features: make another trainer")
        flat = tokens.ravel()
        if flat.min() < 0:
            raise InvalidArgumentError(f"training_data holds the token {flat.min()}; tokens are at least 0")
        context = max(1, min(_CONTEXT, flat.size // 16))
        steps = self._planned(-(-flat.size // context), self.config.batch_size)
        if self.network is None:
            self.network = self._make_language_model(int(flat.max()))
        assert isinstance(self.network, LanguageModel)
        c = self.network.config
        self._say_start(f"  Model: {c.dim}D x {c.n_layers} layers", None, steps)
        usual = CanonicalTrainingConfig(optimizer="hybrid").for_model(c)
        settings = canonical_config(
            self.config,
            usual,
            steps,
            seed=self.seed,
            batch_size=self.config.batch_size,
            context=context,
            evaluation_interval=self.config.eval_interval,
        )
        first = self.metrics.step
        log = RunLog(lambda: first + steps, interval=self.config.log_interval)

        def tell(record: Mapping[str, Any]) -> None:
            self._record(first + record["step"], record["loss"], record["gradient_norm"], record)
            if self.verbose:
                log({**record, "step": first + record["step"]})
            if eval_fn is not None and record["step"] % self.config.eval_interval == 0:
                self.metrics.record("evaluation_loss", float(eval_fn(self.parameters)))

        begun = time.perf_counter()
        trainer = Trainer(self.network, flat.astype(np.uint32), settings, callbacks=[tell], progress=False)
        trainer.train()
        self._seconds += time.perf_counter() - begun
        self.metrics.time_elapsed = self._seconds
        self._say_end(log)
        return self.metrics

    def _make_language_model(self, largest: int) -> LanguageModel:
        quantised = self.config.use_quantization and self.config.quantize_weights
        dim = 128 if self.model_dim is None else self.model_dim
        heads = dim // _HEAD_DIM if dim % _HEAD_DIM == 0 else 1
        config = ModelConfig(
            vocab_size=max(256, largest + 1),
            dim=dim,
            n_layers=4 if self.num_layers is None else self.num_layers,
            n_heads=heads,
            n_kv_heads=heads,
            ffn_dim=3 * dim,
            bits=self.config.target_bits if quantised else 32,
        )
        return LanguageModel(config, seed=self.seed)

    # ---- log and summary ----

    def _print(self, line: str) -> None:
        if self.verbose:
            print(line, flush=True)

    def _say_start(self, model: str, clusters: Array | None, steps: int) -> None:
        bits = self.config.target_bits if self.config.use_quantization else 32
        self._print(f"Starting hybrid LLM training with {bits:g}-bit quantization")
        self._print(model)
        self._print(f"  Data clusters: {0 if clusters is None else int(clusters.max()) + 1}")
        self._print(f"  Max steps: {steps}")

    def _say_end(self, log: RunLog) -> None:
        self._print(f"Training complete. Final loss: {self.metrics.loss:.6f}")
        self._print(f"Total time: {self._seconds:.2f} s")
        if self.verbose:
            for line in log.summary():
                self._print(line)

    @property
    def parameters(self) -> Array:
        """float32 [parameters], a copy of the master weights in the order of `network.parameters()`.

        Raises:
            StateError: there is no network before there is data.
        """
        if self.network is None:
            raise StateError("there is no network yet: train it, or load a checkpoint")
        return np.concatenate([np.ravel(p.values) for p in self.network.parameters().values()])  # type: ignore[arg-type]

    def has_converged(self) -> bool:
        """True if the loss rests: its means over the last two stretches of config.eval_interval steps differ
        by less than a ten-thousandth."""
        n, losses = self.config.eval_interval, self.metrics.metrics_history.get("loss", [])
        if len(losses) < 2 * n:
            return False
        before, last = float(np.mean(losses[-2 * n : -n])), float(np.mean(losses[-n:]))
        return abs(last - before) <= _TOLERANCE * max(abs(before), 1e-12)

    def get_training_summary(self) -> dict[str, Any]:
        """Returns figures over all steps.

        Returns:
            'total_steps', 'final_loss' (None before the first step), 'total_time' (seconds), 'converged',
            'optimizer_summary' and 'metrics_history'; behind the first step also 'initial_loss',
            'total_loss_reduction' and 'loss_reduction_rate' (a step).
        """
        history = self.metrics.metrics_history
        losses = history.get("loss", [])
        summary: dict[str, Any] = {
            "total_steps": self.metrics.step,
            "final_loss": losses[-1] if losses else None,
            "total_time": self._seconds,
            "converged": self.has_converged(),
            "optimizer_summary": self._optimizer_summary(),
            "metrics_history": history,
        }
        if losses:
            reduction = losses[0] - losses[-1]
            summary |= {
                "initial_loss": losses[0],
                "total_loss_reduction": reduction,
                "loss_reduction_rate": reduction / len(losses),
            }
        return summary

    def _optimizer_summary(self) -> dict[str, float]:
        history = self.metrics.metrics_history
        losses = history.get("loss", [])
        if not losses:
            return {"steps": 0}
        active, lengths = history["constraint_active"], np.asarray(history["update_magnitude"])
        return {
            "total_steps": len(losses),
            "constraints_active": int(np.sum(active)),
            "constraint_activation_rate": float(np.mean(active)),
            "mean_update_magnitude": float(lengths.mean()),
            "std_update_magnitude": float(lengths.std()),
            "mean_quantization_error": float(np.mean(self._errors)) if self._errors else 0.0,
            "total_loss_reduction": losses[0] - losses[-1],
            "loss_trend": losses[-1] / losses[-2] if len(losses) > 1 and losses[-2] else 1.0,
        }

    # ---- checkpoints ----

    def _path(self, filepath: str | os.PathLike[str] | None) -> Path:
        folder = Path(self.config.checkpoint_dir or "ckpt")
        return folder / "trainer.safetensors" if filepath is None else Path(filepath)

    def save_checkpoint(self, filepath: str | os.PathLike[str] | None = None) -> Path:
        """Writes weights, optimiser, metrics and configuration: tensors and JSON, never code.

        Args:
            filepath: the file; None: 'trainer.safetensors' in config.checkpoint_dir.

        Returns:
            The file.

        Raises:
            StateError: there is nothing to save, or the network is a language model, which has files of its
                own (`network.save`, `Trainer(out=...)`).
            OSError: it cannot be written; a file that was there is still whole.
        """
        if isinstance(self.network, LanguageModel):
            raise StateError("a language model is saved with network.save, or by pyhybrid.Trainer(out=...)")
        if self._run is None:
            raise StateError("there is nothing to save before there is a network: train it first")
        state = {
            "sizes": self._sizes,
            "loss": self._loss,
            "seed": self.seed,
            "step": self.metrics.step,
            "seconds": self._seconds,
            "errors": self._errors,
            "history": self.metrics.metrics_history,
            "run": self._run.state(),
        }
        return write_trainer(self._path(filepath), self._run.arrays(), state)

    def load_checkpoint(self, filepath: str | os.PathLike[str] | None = None) -> None:
        """Takes up where `save_checkpoint` left off: the next step is the one that would have followed.

        Args:
            filepath: as for `save_checkpoint`.

        Raises:
            OSError: it cannot be read.
            CheckpointError: it is no such file, or damaged.
            InvalidArgumentError: it is of a network that this configuration does not make.
        """
        arrays, state = read_trainer(self._path(filepath))
        self._sizes, self._loss, self.seed = state["sizes"], state["loss"], state["seed"]
        run = self._adopt(self.config.max_steps or 1000)
        run.restore(arrays, state["run"])
        self._errors, self._seconds = list(state["errors"]), float(state["seconds"])
        self.metrics = TrainingMetrics(metrics_history=dict(state["history"]))
        for name, values in self.metrics.metrics_history.items():
            if values and name in self.metrics.to_dict():
                setattr(self.metrics, name, values[-1])
        self.metrics.step, self.metrics.time_elapsed = int(state["step"]), self._seconds
