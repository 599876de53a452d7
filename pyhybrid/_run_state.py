"""What a checkpoint says about a run: its arrays, the contents of state.json, and whether a run may go on.

Place in the data flow: the trainer writes this state with checkpoint.py, and `Trainer.resume` reads it.
"""

from __future__ import annotations

import base64
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pyhybrid._errors import StateError
from pyhybrid._native import ffi, lib
from pyhybrid.checkpoint import Array, Checkpoint, CheckpointError, CheckpointWarning, load_checkpoint
from pyhybrid.config import DataConfig, ModelConfig, TrainingConfig, to_dict

if TYPE_CHECKING:
    from pyhybrid._context import Context
    from pyhybrid.language_model import LanguageModel
    from pyhybrid.tokenizer import Tokenizer

__all__ = [
    "FREE_FIELDS",
    "RunState",
    "check_replaceable",
    "check_same",
    "make_model",
    "reset_moments",
    "state_tensors",
    "tokenizer_text",
    "version_string",
]

#: Fields that may differ when a run is resumed: they do not change the weights.
FREE_FIELDS = (
    "threads",
    "minutes",
    "evaluation_interval",
    "evaluation_tokens",
    "checkpoint_interval",
    "log_interval",
)


@dataclass(frozen=True, kw_only=True)
class RunState:
    """The contents of state.json, but for what checkpoint.py adds.

    Args:
        total_steps: updates planned.
        seconds: of the run so far.
        preset: that the configuration started from, if any.
        model: shape and formats.
        training: the run.
        data_config: where the data came from, with absolute paths.
        data_sha256: of the text.
        data_tokens: in both splits.
        data_description: where the text came from, for people.
        data_known: the data can be loaded from data_config.
        tokenizer: as `tokenizer_text` gives it.
        last: metrics of the last step.
        validation: the last validation's losses.
        optimizer: what the optimiser remembers beyond the model's arrays.
        batches: what the sampler remembers, and where K-means ended.
    """

    total_steps: int
    seconds: float
    preset: str | None
    model: ModelConfig
    training: TrainingConfig
    data_config: DataConfig
    data_sha256: str
    data_tokens: int
    data_description: str
    data_known: bool
    tokenizer: str | None
    last: Mapping[str, Any]
    validation: Mapping[str, float | None]
    optimizer: Mapping[str, Any]
    batches: Mapping[str, Any]

    def plain(self, step: int) -> dict[str, Any]:
        """Returns JSON values.

        Args:
            step: updates done.
        """
        return {
            "version": version_string(),
            "total_steps": self.total_steps,
            "seconds": self.seconds,
            "preset": self.preset,
            "model": to_dict(self.model),
            "training": to_dict(self.training),
            "data_config": to_dict(self.data_config),
            "data": {
                "sha256": self.data_sha256,
                "n_tokens": self.data_tokens,
                "description": self.data_description,
                "known": self.data_known,
            },
            # With `batches`, the places are a function of these: there is no state of a random generator.
            "cursor": {"seed": self.training.seed, "next_step": step + 1},
            "tokenizer": self.tokenizer,
            "optimizer": dict(self.optimizer),
            "batches": dict(self.batches),
            "metrics": {"last": dict(self.last), "validation": dict(self.validation)},
        }

    def model_metadata(self, step: int, training_loss: float | None) -> dict[str, Any]:
        """Returns what the model file says about its training: nothing that differs between two equal runs.

        Args:
            step: updates done.
            training_loss: at the end, nats per token; None if the run was interrupted.
        """
        training = {name: value for name, value in to_dict(self.training).items() if name not in FREE_FIELDS}
        return {
            "pyhybrid": version_string(),
            "steps": step,
            "total_steps": self.total_steps,
            "tokens": step * self.training.tokens_per_step,
            "training_loss": training_loss,
            **self.validation,
            "data": {"description": self.data_description, "sha256": self.data_sha256},
            "training": training,
        }

    @classmethod
    def read(cls, checkpoint: Checkpoint) -> Self:
        """Reads what `plain` gave.

        Args:
            checkpoint: one whose hashes are right.

        Raises:
            CheckpointError: a value is missing or wrong.
        """
        state = checkpoint.state
        try:
            return cls(
                total_steps=int(state["total_steps"]),
                seconds=float(state["seconds"]),
                preset=state.get("preset"),
                model=ModelConfig(**state["model"]),
                # A run from before there was a choice goes on with the bits that it began with.
                training=TrainingConfig(**({"backward": "fp32"} | state["training"])),
                data_config=DataConfig(**state["data_config"]),
                data_sha256=str(state["data"]["sha256"]),
                data_tokens=int(state["data"]["n_tokens"]),
                data_description=str(state["data"]["description"]),
                data_known=bool(state["data"]["known"]),
                tokenizer=state.get("tokenizer"),
                last=dict(state["metrics"]["last"]),
                validation=dict(state["metrics"]["validation"]),
                optimizer=dict(state.get("optimizer", {})),
                batches=dict(state.get("batches", {})),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{checkpoint.folder}: of another version of this library ({error})"
            ) from error


def version_string() -> str:
    """Returns the version of the C library that is running."""
    return str(ffi.string(lib.hyb_version_string()).decode())


# ---- arrays ----


def state_tensors(model: LanguageModel) -> dict[str, Array]:
    """Returns the arrays that make up a run's state, as views of the model's memory.

    Args:
        model: prepared for training.

    Raises:
        StateError: the model cannot be trained.
    """
    tensors: dict[str, Array] = {}
    for name, parameter in model.parameters().items():
        if parameter.values is None or not parameter.optimizer_state:
            raise StateError(
                f"{name} has no weights or moments: a model that was loaded cannot be trained; make a new one"
            )
        for kind, array in ({"weights": parameter.values} | parameter.optimizer_state).items():
            tensors[f"{kind}.{name}"] = array
    return tensors


def reset_moments(model: LanguageModel) -> None:
    """Forgets what the optimiser knows.

    Args:
        model: prepared for training.
    """
    for name, array in state_tensors(model).items():
        if not name.startswith("weights."):
            array[...] = 0


# ---- the model ----


def tokenizer_text(tokenizer: Tokenizer) -> str | None:
    """Returns a tokenizer as text; None for bytes, which need no description.

    Args:
        tokenizer: of the model.
    """
    if tokenizer.kind == "bytes":
        return None
    return base64.b64encode(tokenizer.serialize()).decode("ascii")


def make_model(
    config: ModelConfig, seed: int, context: Context | None, tokenizer: str | None
) -> LanguageModel:
    """Makes a model for a checkpoint's tensors, with the tokenizer that the run had.

    Args:
        config: shape and formats.
        seed: of the weights that are overwritten later.
        context: threads and instruction sets; None: the default context.
        tokenizer: as `tokenizer_text` gave it.
    """
    from pyhybrid.language_model import LanguageModel
    from pyhybrid.tokenizer import Tokenizer

    model = LanguageModel(config, seed=seed, context=context)
    if tokenizer is not None:
        model.tokenizer = Tokenizer.deserialize(base64.b64decode(tokenizer))
    return model


# ---- may it go on? ----


def check_same(checkpoint: Checkpoint, differences: Sequence[str]) -> None:
    """Refuses to go on with another configuration.

    Args:
        checkpoint: where the run stands.
        differences: as `differing_fields` names them.

    Raises:
        CheckpointError: there are any.
    """
    if differences:
        raise CheckpointError(
            f"{checkpoint.folder} was made with another configuration (its value, then the one given): "
            + "; ".join(differences)
            + "; resume without these, or start a new run in another folder"
        )


def check_replaceable(out: Path) -> None:
    """Refuses to start over where an unfinished run waits to be resumed.

    Args:
        out: the run's output folder.

    Raises:
        CheckpointError: it holds an unfinished run.
    """
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
