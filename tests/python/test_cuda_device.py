"""Devices and their arrays, on an emulated one: opening, memory, other libraries' arrays, what goes wrong."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest

from pyhybrid import (
    InvalidArgumentError,
    OutOfMemoryError,
    StateError,
    UnsupportedError,
    VersionError,
)
from pyhybrid.cuda import Device
from pyhybrid.cuda._arrays import _Tensor, current_stream, make_like, view


class Foreign:
    """An array as another library shows it."""

    def __init__(self, array: Any, **changes: Any) -> None:
        self.owner, self._changes = array, changes

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.owner.__cuda_array_interface__ | self._changes


class Capsuled:
    """An array that is shown by DLPack alone."""

    def __init__(self, array: Any, *, kind: int = 2, code: int = 2, bits: int = 32) -> None:
        self.array, self._kind = array, kind
        shape = (ctypes.c_int64 * len(array.shape))(*array.shape)
        self._tensor = _Tensor(
            data=array.address,
            device_type=kind,
            n_dims=len(array.shape),
            code=code,
            bits=bits,
            lanes=1,
            shape=shape,
        )
        self.stream: int | None = None

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._kind, 0

    def __dlpack__(self, *, stream: int) -> Any:
        self.stream = stream
        make = ctypes.pythonapi.PyCapsule_New
        make.restype, make.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return make(ctypes.addressof(self._tensor), b"dltensor", None)


def test_device_info(device: Device) -> None:
    """A device has a name, an emulated one says so, and a kernel runs on it."""
    info = device.info
    assert info.is_emulated == (info.name == "CPU emulation")
    assert 0 < info.free_bytes <= info.total_bytes
    device.self_test()
    device.synchronize()
    assert info.name in repr(device)


def test_device_arrays(device: Device, rng: np.random.Generator) -> None:
    """What goes up comes down, whatever its shape; memory is given back."""
    before = device.info.free_bytes
    for shape in ((), (0,), (5,), (3, 4), (2, 0, 3)):
        host = rng.standard_normal(shape).astype(np.float32)
        array = device.array(host)
        assert array.shape == host.shape
        assert array.nbytes == host.nbytes
        np.testing.assert_array_equal(array.numpy(), host)
    transposed = np.asfortranarray(rng.integers(0, 99, (4, 7)))
    np.testing.assert_array_equal(device.array(transposed).numpy(), transposed)
    del array
    assert device.info.free_bytes == before
    with pytest.raises(InvalidArgumentError, match="do not fit"):
        device.upload(np.zeros(3), device.empty(4, np.float64))


def test_device_out_of_memory(device: Device) -> None:
    """Too much memory is an error with words, and the device works on."""
    with pytest.raises(OutOfMemoryError, match="out of memory"):
        device.empty(2**50, np.uint8)
    device.self_test()


def test_device_absent(
    emulated_module: Path, monkeypatch: pytest.MonkeyPatch, python: Callable[..., CompletedProcess[str]]
) -> None:
    """No module, a foreign library, no device, a number that is none: each has its own message."""
    with pytest.raises(UnsupportedError, match=r"no CUDA module .*/no/such/module\.so"):
        Device(library="/no/such/module.so")
    with pytest.raises(VersionError, match=r"libc\.so\.6 is not a CUDA module"):
        Device(library="libc.so.6")
    with pytest.raises(InvalidArgumentError, match="no CUDA device 7"):
        Device(7, library=emulated_module)
    with pytest.raises(InvalidArgumentError, match="whole number"):
        Device(-1)
    with monkeypatch.context() as patch:
        patch.setenv("HYB_EMULATION_DEVICES", "0")
        with pytest.raises(UnsupportedError, match="no CUDA-capable device"):
            Device(library=emulated_module)
    code = "from pyhybrid import cuda; print(cuda.unavailable())"
    assert "emulated on the CPU" in python("-c", code, HYB_CUDA_LIBRARY=str(emulated_module)).stdout
    assert "no CUDA module" in python("-c", code, HYB_CUDA_LIBRARY="/no/such/module.so").stdout


def test_device_closed(device: Device) -> None:
    """A closed device says so; arrays that were made with it still free their memory."""
    array = device.array(np.ones(3))
    device.close()
    with pytest.raises(StateError, match="closed"):
        device.synchronize()
    assert repr(device) == "Device(closed)"
    del array


def test_array_views(device: Device) -> None:
    """Arrays of other libraries are taken where they lie; what does not fit is refused with its name."""
    array = device.array(np.arange(12, dtype=np.float32).reshape(3, 4))
    for value in (array, Foreign(array), Foreign(array, strides=(16, 4)), Capsuled(array)):
        found = view(value, np.float32, "weights", (3, None))
        assert (found.address, found.shape) == (array.address, (3, 4))
    capsuled = Capsuled(array)
    view(capsuled, np.float32, "weights", stream=77)
    assert capsuled.stream == 77
    bad: list[tuple[Any, str]] = [
        (np.zeros((3, 4), np.float32), r"weights is a numpy\.ndarray in the host's memory"),
        ([1.0], r"builtins\.list in the host's memory"),
        (Capsuled(array, kind=1), "host's memory"),
        (Foreign(array, strides=(4, 12)), "not C-contiguous"),
        (Foreign(array, typestr="<f8"), "dtype float64"),
        (Capsuled(array, code=4, bits=16), "dtype that NumPy lacks"),
        (device.array(np.zeros((4, 4), np.float32)), r"shape \[4, 4\]; it must be \[3, any\]"),
    ]
    for value, message in bad:
        with pytest.raises(InvalidArgumentError, match=message):
            view(value, np.float32, "weights", (3, None))


def test_array_results_follow_their_arguments(device: Device) -> None:
    """Unknown libraries get arrays of ours, on the default stream."""
    array = device.array(np.zeros(2))
    assert current_stream(Foreign(array)) == 0
    made = make_like(Foreign(array), device, (5, 2), np.int8)
    assert (made.shape, made.dtype) == ((5, 2), np.int8)
