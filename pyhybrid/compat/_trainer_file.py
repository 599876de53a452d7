"""The file of the documents' trainer: tensors, and the rest as JSON in the same file; nothing is unpickled.

Place in the data flow: between `HybridLLMTrainer.save_checkpoint` and `load_checkpoint`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyhybrid._buffers import Array
from pyhybrid.checkpoint import CheckpointError, read_notes, read_tensors, write_tensors

__all__ = ["read_trainer", "write_trainer"]

_NOTE = "trainer"
#: What the state must hold, and of which type.
_STATE = {
    "sizes": list,
    "loss": str,
    "seed": int,
    "step": int,
    "seconds": float,
    "errors": list,
    "history": dict,
    "run": dict,
}


def write_trainer(path: Path, arrays: Mapping[str, Array], state: Mapping[str, Any]) -> Path:
    """Writes the file at once: a crash leaves the old one or the new one.

    Args:
        path: the file; its folder is made.
        arrays: fp32 by name.
        state: JSON values.

    Returns:
        The path.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.tmp")
    try:
        write_tensors(partial, arrays, {_NOTE: json.dumps(state)})
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def read_trainer(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """Reads arrays and state.

    Raises:
        OSError: the file cannot be read.
        CheckpointError: it is not such a file, or damaged.
    """
    arrays, note = read_tensors(path), read_notes(path).get(_NOTE)
    if note is None:
        raise CheckpointError(f"{path}: tensors, but not of HybridLLMTrainer.save_checkpoint")
    try:
        state = json.loads(note)
        wrong = [name for name, kind in _STATE.items() if not isinstance(state[name], kind)]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: the trainer's state is damaged ({error})") from None
    if wrong:
        raise CheckpointError(f"{path}: the trainer's state is damaged ({', '.join(wrong)})")
    return arrays, state
