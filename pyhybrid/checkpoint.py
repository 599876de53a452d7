"""Checkpoints: all that a run needs to go on bit for bit, written so that a crash never costs the last one.

Place in the data flow: the trainer saves after some steps and on a signal, and reads the newest good one to
resume.

    DIR/checkpoint/latest                          name of the newest folder, for people and scripts
    DIR/checkpoint/step-00000120/tensors.safetensors   fp32 weights.*, first_moment.*, second_moment.*;
                                                       with moments in 8 bits uint8 *_codes.*, fp32 *_scales.*
    DIR/checkpoint/step-00000120/state.json            the rest, with the SHA-256 of both files

A folder is written under a temporary name, flushed to the disk, and renamed when it is complete; older ones
are deleted after that. Reading checks the hashes, and goes back to the previous folder with a warning where
they fail. Nothing is ever unpickled. Format of the tensors: https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import stat
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pyhybrid._errors import HybridError

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "CheckpointWarning",
    "checkpoint_folder",
    "load_checkpoint",
    "read_tensors",
    "remove_checkpoints",
    "save_checkpoint",
    "write_tensors",
]

#: Version of the layout above; a reader refuses a newer one.
FORMAT_VERSION = 1

_TENSORS = "tensors.safetensors"
_STATE = "state.json"
_PREFIX = "step-"
_TEMPORARY = ".writing-"

Array = NDArray[Any]
# Types of numbers that a checkpoint may hold, by their names in the file.
_TYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype(np.float32), "U8": np.dtype(np.uint8)}


class CheckpointError(HybridError):
    """A checkpoint cannot be written, read or used; the message says why and how to mend it."""


class CheckpointWarning(UserWarning):
    """A damaged checkpoint was passed over."""


@dataclass(frozen=True)
class Checkpoint:
    """One good checkpoint, read and checked.

    Args:
        folder: where it lies.
        step: updates that were done.
        state: what the trainer gave to `save_checkpoint`.
    """

    folder: Path
    step: int
    state: dict[str, Any]

    def restore(self, tensors: Mapping[str, Array]) -> None:
        """Copies the stored tensors into arrays of the same names and shapes, one after the other.

        Args:
            tensors: fp32 or uint8 arrays to be overwritten; all of the checkpoint's, and no other.

        Raises:
            CheckpointError: a name, shape or type differs; then nothing was copied. Or the file was changed
                meanwhile.
        """
        with _open_tensors(self.folder / _TENSORS) as (file, shapes, types):
            missing = sorted(set(tensors) ^ set(shapes))
            if missing:
                raise CheckpointError(
                    f"{self.folder}: the model and the checkpoint differ in tensor {missing[0]!r}"
                    f" ({len(missing)} in all); resume with the configuration that the checkpoint was made "
                    "with"
                )
            for name, array in tensors.items():
                if shapes[name] != array.shape:
                    raise CheckpointError(
                        f"{self.folder}: tensor {name!r} has shape {shapes[name]}, the model's "
                        f"{array.shape}; resume with the configuration that the checkpoint was made with"
                    )
                if types[name] != array.dtype:
                    raise CheckpointError(
                        f"{self.folder}: tensor {name!r} is of type {types[name]}, the model's of "
                        f"{array.dtype}; resume with the configuration that the checkpoint was made with"
                    )
            for name, array in tensors.items():
                array[...] = file.get_tensor(name)


def checkpoint_folder(out: str | os.PathLike[str]) -> Path:
    """Returns the folder of a run's checkpoints.

    Args:
        out: the run's output folder.
    """
    return Path(out) / "checkpoint"


# ---- tensors ----


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Array], notes: Mapping[str, str] | None = None
) -> str:
    """Writes a safetensors file and flushes it to the disk.

    Args:
        path: the file; replaced if it is there.
        tensors: fp32 or uint8 arrays by name; those in C order are written without a copy.
        notes: texts by name, kept in the file's header.

    Returns:
        SHA-256 of the whole file, hexadecimal.

    Raises:
        OSError: the disk is full or gone.
    """
    dense = {
        name: np.ascontiguousarray(array, np.uint8 if array.dtype == np.uint8 else np.float32)
        for name, array in tensors.items()
    }
    with open(path, "wb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    try:
        save_file(dense, path, metadata={**(notes or {}), "format": "pyhybrid"})
    except SafetensorError as error:
        raise _system_error(error, path) from error
    os.chmod(path, mode)  # the library's file can be read by its owner alone; ours, by whom the umask allows
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _system_error(error: Exception, path: str | os.PathLike[str]) -> OSError:
    """The system's error behind one of the library, which gives its number in the text only."""
    found = re.search(r"\b(?:os error|code:) (\d+)", str(error))
    if found is None:
        return OSError(errno.EIO, str(error), os.fspath(path))
    return OSError(int(found[1]), os.strerror(int(found[1])), os.fspath(path))


@contextlib.contextmanager
def _open_tensors(
    path: str | os.PathLike[str],
) -> Iterator[tuple[Any, dict[str, tuple[int, ...]], dict[str, np.dtype[Any]]]]:
    """Opens a safetensors file of _TYPES only; gives the library's reader, and shapes and types by name.

    The library checks every length against the file before it believes it.
    """
    try:
        with safe_open(os.fspath(path), framework="np") as file:
            shapes: dict[str, tuple[int, ...]] = {}
            types: dict[str, np.dtype[Any]] = {}
            for name in list(file.keys()):
                entry = file.get_slice(name)
                if entry.get_dtype() not in _TYPES:
                    raise CheckpointError(
                        f"{os.fspath(path)}: tensor {name!r} is of type {entry.get_dtype()}, not F32 or U8"
                    )
                shapes[name], types[name] = tuple(entry.get_shape()), _TYPES[entry.get_dtype()]
            yield file, shapes, types
    except SafetensorError as error:
        raise CheckpointError(
            f"{os.fspath(path)}: not a safetensors file, or damaged or cut short ({error})"
        ) from None


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Array]:
    """Reads all tensors of a safetensors file that holds fp32 and uint8 only.

    Args:
        path: the file.

    Returns:
        Arrays by name, with memory of their own.

    Raises:
        CheckpointError: not such a file, or its lengths contradict each other.
        OSError: the file cannot be read.
    """
    with _open_tensors(path) as (file, shapes, _):
        return {name: file.get_tensor(name) for name in shapes}


def read_notes(path: str | os.PathLike[str]) -> dict[str, str]:
    """Reads the texts that `write_tensors` was given; errors as in `read_tensors`."""
    with _open_tensors(path) as (file, _, _):
        return dict(file.metadata() or {})


# ---- writing ----


def _sync_folder(folder: Path) -> None:
    """Flushes a folder's entries, so that a rename in it outlives a power cut."""
    if os.name == "nt":
        return  # folders cannot be opened there
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_text(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _seal(state: Mapping[str, Any]) -> str:
    """The state as JSON with a hash of itself."""
    plain = json.dumps(state, sort_keys=True, allow_nan=False)
    return json.dumps(
        {"state": json.loads(plain), "sha256": hashlib.sha256(plain.encode()).hexdigest()}, indent=1
    )


def save_checkpoint(
    out: str | os.PathLike[str],
    step: int,
    tensors: Mapping[str, Array],
    state: Mapping[str, Any],
    *,
    keep: int = 2,
) -> Path:
    """Writes a checkpoint, then deletes the ones that it replaces.

    Args:
        out: the run's output folder; made where it is missing.
        step: updates that were done.
        tensors: fp32 or uint8 arrays by name.
        state: JSON values: configurations, totals, the data's hash.
        keep: newest checkpoints to keep, this one included; at least 1.

    Returns:
        The new folder.

    Raises:
        CheckpointError: the disk is full or cannot be written; earlier checkpoints are untouched.
    """
    parent = checkpoint_folder(out)
    temporary = parent / f"{_TEMPORARY}{step:08d}"
    final = parent / f"{_PREFIX}{step:08d}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _clean(parent)
        temporary.mkdir()
        digest = write_tensors(temporary / _TENSORS, tensors)
        whole = {
            "format_version": FORMAT_VERSION,
            "step": step,
            "tensors": {"file": _TENSORS, "sha256": digest},
            **state,
        }
        _write_text(temporary / _STATE, _seal(whole))
        _sync_folder(temporary)
        if final.exists():  # the same step again, after a return to an older checkpoint
            os.rename(final, parent / f"{_TEMPORARY}old-{step:08d}")
        os.rename(temporary, final)
        _sync_folder(parent)
        pointer = parent / f"{_TEMPORARY}latest"
        _write_text(pointer, final.name + "\n")
        os.replace(pointer, parent / "latest")
        _sync_folder(parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            _clean(parent)
        raise CheckpointError(_write_failure(parent, step, error)) from error
    except BaseException:  # an abort by the user: leave no half-written folder behind
        with contextlib.suppress(OSError):
            _clean(parent)
        raise
    with contextlib.suppress(OSError):
        _clean(parent)
        # Steps beyond this one are of a run that was given up: it went on from an older checkpoint.
        folders = _folders(parent)
        older = [folder for number, folder in folders if number < step]
        for folder in [folder for number, folder in folders if number > step] + older[max(keep, 1) - 1 :]:
            shutil.rmtree(folder, ignore_errors=True)
    return final


def _write_failure(parent: Path, step: int, error: OSError) -> str:
    kept = _folders(parent) if parent.is_dir() else []
    last = f"the checkpoint of step {kept[0][0]} is kept" if kept else "there is no earlier checkpoint"
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None), errno.EFBIG):
        reason = f"no space is left ({error.strerror}); free some, or give another output folder"
    else:
        reason = f"{error.strerror or error}; check the output folder"
    return f"{parent}: the checkpoint of step {step} cannot be written: {reason}; {last}"


def _clean(parent: Path) -> None:
    """Deletes what an interrupted writer left."""
    for entry in parent.glob(f"{_TEMPORARY}*"):
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _folders(parent: Path) -> list[tuple[int, Path]]:
    """The checkpoints of a run by step, the newest first."""
    found = []
    for entry in parent.glob(f"{_PREFIX}*"):
        number = entry.name.removeprefix(_PREFIX)
        if number.isascii() and number.isdigit() and entry.is_dir():
            found.append((int(number), entry))
    return sorted(found, reverse=True)


def remove_checkpoints(out: str | os.PathLike[str]) -> None:
    """Deletes all checkpoints of a run, and nothing else.

    Args:
        out: the run's output folder.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    parent = checkpoint_folder(out)
    if not parent.is_dir():
        return
    try:
        _clean(parent)
        for _, folder in _folders(parent):
            shutil.rmtree(folder)
        (parent / "latest").unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(f"{parent}: cannot be emptied ({error.strerror})") from error


# ---- reading ----


def _read(folder: Path, step: int) -> Checkpoint:
    """Reads and checks one folder."""
    try:
        sealed = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        state = sealed["state"]
        plain = json.dumps(state, sort_keys=True, allow_nan=False)
        if hashlib.sha256(plain.encode()).hexdigest() != sealed["sha256"]:
            raise CheckpointError(f"{_STATE} was changed after it was written")
        if state["format_version"] > FORMAT_VERSION:
            raise CheckpointError(
                f"its format version {state['format_version']} is newer than {FORMAT_VERSION}"
            )
        if state["step"] != step:
            raise CheckpointError(f"the folder says step {step}, {_STATE} {state['step']}")
        with (folder / state["tensors"]["file"]).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != state["tensors"]["sha256"]:
                raise CheckpointError(f"{_TENSORS} was changed after it was written, or cut short")
    except CheckpointError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"it cannot be read ({error})") from error
    return Checkpoint(folder, step, state)


def load_checkpoint(out: str | os.PathLike[str]) -> Checkpoint | None:
    """Finds the newest checkpoint whose hashes are right.

    Args:
        out: the run's output folder.

    Returns:
        The checkpoint; None if the run has none at all. A damaged one is passed over with a
        CheckpointWarning.

    Raises:
        CheckpointError: there are checkpoints, and all of them are damaged.
    """
    parent = checkpoint_folder(out)
    folders = _folders(parent) if parent.is_dir() else []
    reasons = []
    for step, folder in folders:
        try:
            checkpoint = _read(folder, step)
        except CheckpointError as error:
            reasons.append(f"{folder}: {error}")
            continue
        for reason in reasons:
            message = f"damaged checkpoint passed over: {reason}; going on from step {step}"
            warnings.warn(message, CheckpointWarning, stacklevel=2)
        return checkpoint
    if reasons:
        raise CheckpointError("no checkpoint is usable: " + "; ".join(reasons))
    return None
