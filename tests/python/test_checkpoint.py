"""Tests of pyhybrid.checkpoint: format, atomicity, damage, full disk."""

from __future__ import annotations

import errno
import json
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import pyhybrid.checkpoint as checkpoint_module
from pyhybrid.checkpoint import (
    CheckpointError,
    CheckpointWarning,
    checkpoint_folder,
    load_checkpoint,
    read_tensors,
    remove_checkpoints,
    save_checkpoint,
    write_tensors,
)


def some_tensors(seed: int = 0) -> dict[str, Any]:
    """A few arrays of odd shapes with every kind of float in them."""
    random = np.random.default_rng(seed)
    tensors = {
        "weights.a": random.standard_normal((3, 5)).astype(np.float32),
        "weights.b": random.standard_normal((1, 7)).astype(np.float32),
        "empty": np.empty((0, 4), np.float32),
    }
    tensors["weights.b"][0, :4] = [-0.0, 1e-45, np.inf, 3.4e38]
    return tensors


def like(tensors: dict[str, Any]) -> dict[str, Any]:
    """Arrays of the same shapes to restore into."""
    return {name: np.full_like(array, 7) for name, array in tensors.items()}


def same_bits(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Names, shapes and bytes agree."""
    return first.keys() == second.keys() and all(
        first[name].shape == second[name].shape and first[name].tobytes() == second[name].tobytes()
        for name in first
    )


def entries(out: Path) -> list[str]:
    """What lies in the checkpoint folder."""
    return sorted(os.listdir(checkpoint_folder(out)))


# ---- the tensor file ----


def test_tensor_file_is_safetensors(tmp_path: Path) -> None:
    """Any program with the safetensors library reads what we write, and we read what it writes."""
    tensors = some_tensors()
    write_tensors(tmp_path / "ours.safetensors", tensors)
    assert same_bits(
        tensors, {name: safetensors.numpy.load_file(tmp_path / "ours.safetensors")[name] for name in tensors}
    )
    safetensors.numpy.save_file(tensors, tmp_path / "theirs.safetensors")
    theirs = read_tensors(tmp_path / "theirs.safetensors")
    assert same_bits(tensors, {name: theirs[name] for name in tensors})


def test_tensor_file_round_trip_is_exact(tmp_path: Path) -> None:
    """Every bit survives, negative zero and denormals too; data begin at a multiple of 8."""
    tensors = some_tensors()
    path = tmp_path / "t.safetensors"
    write_tensors(path, tensors)
    assert same_bits(tensors, read_tensors(path))
    assert struct.unpack("<Q", path.read_bytes()[:8])[0] % 8 == 0


def test_every_truncation_of_a_tensor_file_is_an_error(tmp_path: Path) -> None:
    """A file cut anywhere raises CheckpointError, never another exception."""
    path, cut = tmp_path / "t.safetensors", tmp_path / "cut.safetensors"
    write_tensors(path, some_tensors())
    whole = path.read_bytes()
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_tensors(cut)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{}x",
        b'{"a": 3}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}',
        b'{"a": {"dtype": "F32", "shape": [4611686018427387905], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F16", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": "x", "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}}',
        b'{"a": {"dtype": "F32", "shape": [1]}}',
        b"\xff\xfe",
    ],
)
def test_hostile_headers_are_errors(tmp_path: Path, header: bytes) -> None:
    """Lengths are checked against the file before they are believed."""
    path = tmp_path / "t.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    with pytest.raises(CheckpointError):
        read_tensors(path)


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_tensor_file_may_be_read_by_whom_the_umask_allows(tmp_path: Path) -> None:
    """Both files of a checkpoint have the permissions that any new file has, and nothing else lies beside."""
    before = os.umask(0o027)
    try:
        folder = save_checkpoint(tmp_path, 1, some_tensors(), {})
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == {"state.json": 0o640, "tensors.safetensors": 0o640}


def test_arrays_in_another_order_are_stored_in_c_order(tmp_path: Path) -> None:
    """A transposed view is written as what it shows, not as its memory lies."""
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T
    write_tensors(tmp_path / "t.safetensors", {"a": array})
    np.testing.assert_array_equal(read_tensors(tmp_path / "t.safetensors")["a"], array)


def test_folder_that_is_gone_is_a_system_error(tmp_path: Path) -> None:
    """The error keeps the system's number, from which the message of a full disk is made."""
    with pytest.raises(FileNotFoundError):
        write_tensors(tmp_path / "nowhere" / "t.safetensors", some_tensors())
    error = checkpoint_module._system_error(Exception("I/O error: No space left (os error 28)"), "t")
    assert (error.errno, error.filename) == (errno.ENOSPC, "t")
    assert checkpoint_module._system_error(Exception("something else"), "t").errno == errno.EIO


# ---- folders ----


def test_saved_state_comes_back(tmp_path: Path) -> None:
    """Tensors and state are read back equal, and the pointer names the folder."""
    tensors = some_tensors()
    folder = save_checkpoint(tmp_path, 120, tensors, {"total_steps": 400, "metrics": {"loss": 2.5}})
    assert folder.name == "step-00000120"
    assert (folder.parent / "latest").read_text() == "step-00000120\n"
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded.step == 120
    assert loaded.state["total_steps"] == 400
    assert loaded.state["metrics"] == {"loss": 2.5}
    target = like(tensors)
    loaded.restore(target)
    assert same_bits(tensors, target)


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    """A folder without a run, and one that is not there."""
    assert load_checkpoint(tmp_path) is None
    assert load_checkpoint(tmp_path / "nowhere") is None


def test_newest_two_are_kept(tmp_path: Path) -> None:
    """Older ones are deleted when the new one is complete; `keep` says how many stay."""
    for step in (0, 10, 20, 30):
        save_checkpoint(tmp_path, step, some_tensors(step), {})
    assert entries(tmp_path) == ["latest", "step-00000020", "step-00000030"]
    save_checkpoint(tmp_path, 40, some_tensors(), {}, keep=1)
    assert entries(tmp_path) == ["latest", "step-00000040"]
    remove_checkpoints(tmp_path)
    assert entries(tmp_path) == []


def test_restore_refuses_another_model(tmp_path: Path) -> None:
    """A missing tensor or another shape is named, and nothing is overwritten."""
    tensors = some_tensors()
    save_checkpoint(tmp_path, 1, tensors, {})
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    for change in ("name", "shape"):
        target = like(tensors)
        if change == "name":
            target["weights.c"] = target.pop("weights.b")
        else:
            target["weights.b"] = np.full((7, 1), 7, np.float32)
        with pytest.raises(CheckpointError, match=r"weights\.[bc]"):
            loaded.restore(target)
        assert all((array == 7).all() for array in target.values())


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
def test_every_damage_goes_back_to_the_previous_one(tmp_path: Path, name: str) -> None:
    """A flipped bit or a cut in either file is seen; the older checkpoint is used, with a warning."""
    save_checkpoint(tmp_path, 1, some_tensors(1), {"mark": 1})
    folder = save_checkpoint(tmp_path, 2, some_tensors(2), {"mark": 2})
    whole = (folder / name).read_bytes()
    state = json.loads((folder / "state.json").read_text())
    for place in [*range(0, len(whole), 7), len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        (folder / name).write_bytes(damaged)
        if name == "state.json":
            try:  # white space may change without harm
                if json.loads(damaged) == state:
                    continue
            except ValueError:
                pass
        with pytest.warns(CheckpointWarning, match="step-00000002"):
            loaded = load_checkpoint(tmp_path)
        assert loaded is not None
        assert (loaded.step, loaded.state["mark"]) == (1, 1)
    (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.warns(CheckpointWarning):
        assert load_checkpoint(tmp_path).step == 1  # type: ignore[union-attr]
    (folder / name).unlink()
    with pytest.warns(CheckpointWarning):
        assert load_checkpoint(tmp_path).step == 1  # type: ignore[union-attr]


def test_all_damaged_is_an_error(tmp_path: Path) -> None:
    """Without a good checkpoint nothing is guessed."""
    folder = save_checkpoint(tmp_path, 2, some_tensors(), {})
    (folder / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no checkpoint is usable"):
        load_checkpoint(tmp_path)


def test_newer_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version from the future is not interpreted."""
    monkeypatch.setattr(checkpoint_module, "FORMAT_VERSION", 2)
    save_checkpoint(tmp_path, 2, some_tensors(), {})
    monkeypatch.setattr(checkpoint_module, "FORMAT_VERSION", 1)
    with pytest.raises(CheckpointError, match="newer than 1"):
        load_checkpoint(tmp_path)


def test_step_saved_again_replaces_a_damaged_one(tmp_path: Path) -> None:
    """A run that went back and reached the same step again overwrites damaged and later ones."""
    save_checkpoint(tmp_path, 1, some_tensors(1), {})
    folder = save_checkpoint(tmp_path, 2, some_tensors(2), {})
    (folder / "state.json").write_text("{}")
    save_checkpoint(tmp_path, 2, some_tensors(3), {"mark": "new"})
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded.state["mark"] == "new"
    save_checkpoint(tmp_path, 1, some_tensors(1), {})
    assert entries(tmp_path) == ["latest", "step-00000001"]


# ---- failures while writing ----


@pytest.mark.parametrize("call", ["fsync", "rename", "replace"])
def test_failure_at_any_system_call_keeps_the_last_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Whichever call fails, the message says so, and the old or the new checkpoint can be loaded."""
    save_checkpoint(tmp_path, 1, some_tensors(1), {})
    real = getattr(os, call)
    for fail_at in range(20):
        n_calls = 0

        def failing(*arguments: Any, _fail_at: int = fail_at) -> Any:
            nonlocal n_calls
            n_calls += 1
            if n_calls == _fail_at + 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments)

        monkeypatch.setattr(os, call, failing)
        try:
            save_checkpoint(tmp_path, 2, some_tensors(2), {})
        except CheckpointError as error:
            assert "no space is left" in str(error)
            monkeypatch.setattr(os, call, real)
            loaded = load_checkpoint(tmp_path)
            assert loaded is not None
            target = like(some_tensors())
            loaded.restore(target)
            assert same_bits(target, some_tensors(loaded.step))
            assert not any(name.startswith(".") for name in entries(tmp_path))
        else:
            break  # fewer calls than fail_at: every one of them has failed once
    assert fail_at > 0
    monkeypatch.setattr(os, call, real)
    assert load_checkpoint(tmp_path).step == 2  # type: ignore[union-attr]


@pytest.mark.skipif(sys.platform != "linux", reason="file size limits work differently elsewhere")
def test_disk_without_room_is_a_clear_error(tmp_path: Path) -> None:
    """The system refuses bytes in mid-file: the error says what to do, the last checkpoint is whole."""
    save_checkpoint(tmp_path, 1, some_tensors(1), {})
    script = (
        "import resource, sys, numpy as np\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "from pyhybrid.checkpoint import CheckpointError, save_checkpoint\n"
        "try:\n"
        "    save_checkpoint(sys.argv[1], 2, {'big': np.ones((1000, 1000), np.float32)}, {})\n"
        "except CheckpointError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "no space is left" in done.stdout
    assert "step 1 is kept" in done.stdout
    assert load_checkpoint(tmp_path).step == 1  # type: ignore[union-attr]
    assert entries(tmp_path) == ["latest", "step-00000001"]


@pytest.mark.skipif(os.name == "nt", reason="kill -9 is a POSIX thing")
def test_kill_while_saving_leaves_a_good_checkpoint(tmp_path: Path) -> None:
    """A process that only saves is killed five times; what it leaves can always be loaded."""
    script = (
        "import itertools, sys, numpy as np\n"
        "from pyhybrid.checkpoint import save_checkpoint\n"
        "for step in itertools.count(int(sys.argv[2])):\n"
        "    save_checkpoint(sys.argv[1], step, {'x': np.full((200, 1000), step, np.float32)}, {})\n"
        "    print(step, flush=True)\n"
    )
    step = 0
    for attempt in range(5):
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", script, str(tmp_path), str(step)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        finished = int(process.stdout.readline())
        try:
            process.wait(timeout=0.05 + 0.037 * attempt)  # a different moment within a save each time
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        finished = max([finished, *(int(line) for line in process.communicate()[0].split())])
        assert process.returncode == -signal.SIGKILL
        loaded = load_checkpoint(tmp_path)
        assert loaded is not None
        assert loaded.step in (finished, finished + 1)
        target = {"x": np.empty((200, 1000), np.float32)}
        loaded.restore(target)
        assert (target["x"] == loaded.step).all()
        step = loaded.step + 1
