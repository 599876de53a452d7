"""A GPU: opening it, what it is, memory on it, waiting for it.

Place in the data flow: every function of this package works on a `Device`. The CUDA module behind it is a
shared library of its own, loaded here; nothing else in pyhybrid needs it.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyhybrid._buffers import Array
from pyhybrid._context import Context
from pyhybrid._errors import HybridError, InvalidArgumentError, StateError, UnsupportedError
from pyhybrid._native import ffi, lib
from pyhybrid.cuda._arrays import DeviceArray, contiguous

__all__ = ["Device", "DeviceInfo", "default_device", "unavailable"]


@dataclass(frozen=True)
class DeviceInfo:
    """What is known of a device.

    Args:
        name: its own name.
        is_emulated: whether its kernels run on the CPU, for tests.
        capability: major and minor.
        multiprocessors: number of them.
        driver: CUDA version of the driver, 13000 for 13.0; 0 where unknown.
        runtime: CUDA version that the module was made with.
        total_bytes: of its memory.
        free_bytes: now.
        l2_bytes: of its second-level cache.
    """

    name: str
    is_emulated: bool
    capability: tuple[int, int]
    multiprocessors: int
    driver: int
    runtime: int
    total_bytes: int
    free_bytes: int
    l2_bytes: int


def _library_path(library: str | os.PathLike[str] | None) -> Any:
    """The module's path for C: as given, or beside this package; NULL leaves the choice to the C library."""
    if library is not None:
        return ffi.new("char[]", os.fsencode(library))
    if os.environ.get("HYB_CUDA_LIBRARY"):
        return ffi.NULL
    beside = Path(__file__).parent.parent / f"libhybrid_cuda.so.{lib.hyb_abi_version()}"
    return ffi.new("char[]", os.fsencode(beside)) if beside.exists() else ffi.NULL


class Device:
    """A GPU and the module that works on it. Calls from several threads take turns.

    Args:
        number: 0 for the first.
        library: path of libhybrid_cuda; None: the environment's HYB_CUDA_LIBRARY, or one that was installed
            with this package, or what the system's loader finds.
        context: of the C library; None for a new one.

    Raises:
        InvalidArgumentError: there is no such device.
        UnsupportedError: there is no module, no device, or no driver for it; the message says which.
        VersionError: the module is of another version.
    """

    def __init__(
        self,
        number: int = 0,
        *,
        library: str | os.PathLike[str] | None = None,
        context: Context | None = None,
    ) -> None:
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 2**31:
            raise InvalidArgumentError(f"device is {number!r}; give a whole number from 0")
        self.number = number
        self._path = _library_path(library)
        self.context = context or Context(threads=1)
        with self.context.lock:
            pointer = self._open(self.context)
        self._life = self.context.life_of(pointer, lib.hyb_cuda_close)
        self._owned: Any = ffi.gc(pointer, self._life.release)

    def _open(self, context: Context) -> Any:
        out = ffi.new("hyb_cuda **")
        context.check(lib.hyb_cuda_open(context.handle, self._path, self.number, out))
        return out[0]

    def open_in(self, context: Context) -> Any:
        """Returns another hyb_cuda of this device, in a context whose lock is held: for what works on objects
        of that context, such as a model.
        """
        _ = self.handle
        return context.own(self._open(context), lib.hyb_cuda_close)

    def own(self, pointer: Any, destroy: Any) -> Any:
        """Returns a C handle that is destroyed with its last reference, and always before this device."""
        _ = self.handle
        return self._life.own(pointer, destroy)

    @property
    def handle(self) -> Any:
        """The hyb_cuda.

        Raises:
            StateError: the device was closed.
        """
        if self._owned is None:
            raise StateError("this device was closed; open a new one")
        return self._owned

    def close(self) -> None:
        """Ends its use; the handle goes with the last array that was made with it."""
        self._owned = None

    def call(self, function: Any, *arguments: Any) -> None:
        """Calls a C function hyb_cuda_* of this device.

        Raises:
            HybridError: what its status says.
        """
        with self.context.lock:
            self.context.check(function(self.handle, *arguments))

    @property
    def info(self) -> DeviceInfo:
        """What is known of it, its free memory as of now."""
        found = ffi.new("hyb_cuda_info *")
        found.struct_size = ffi.sizeof("hyb_cuda_info")
        self.call(lib.hyb_cuda_get_info, found)
        return DeviceInfo(
            name=ffi.string(found.name).decode("utf-8", "replace"),
            is_emulated=bool(found.is_emulated),
            capability=(found.capability_major, found.capability_minor),
            multiprocessors=found.n_multiprocessors,
            driver=found.driver_version,
            runtime=found.runtime_version,
            total_bytes=found.total_bytes,
            free_bytes=found.free_bytes,
            l2_bytes=found.l2_bytes,
        )

    def self_test(self) -> None:
        """Runs a kernel whose result is known.

        Raises:
            UnsupportedError: the result is another.
            DeviceError: it could not be run.
        """
        self.call(lib.hyb_cuda_self_test)

    def synchronize(self, stream: int = 0) -> None:
        """Waits for a stream.

        Raises:
            NotFiniteError: a call since the last time met a NaN or an infinity.
            DeviceError: the device failed.
        """
        self.call(lib.hyb_cuda_synchronize, stream)

    # ---- memory ----

    def empty(self, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> DeviceArray:
        """Returns a new array with anything in it.

        Raises:
            OutOfMemoryError: the device has no room for it.
        """
        sizes = (shape,) if isinstance(shape, int) else tuple(shape)
        n_bytes = int(np.prod(sizes, dtype=np.int64)) * np.dtype(dtype).itemsize
        address = ffi.new("hyb_device_address *")
        self.call(lib.hyb_cuda_allocate, n_bytes, address)
        return DeviceArray(self, address[0], sizes, np.dtype(dtype), self._memory(address[0]))

    def _memory(self, address: int) -> Any:
        """What frees an address with its last reference, and keeps the device until then."""
        pointer = ffi.cast("hyb_cuda *", self.handle)

        def release(_: Any) -> None:
            lib.hyb_cuda_release(pointer, address)

        return self.own(ffi.new("char *"), release)

    def array(self, values: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> DeviceArray:
        """Returns a copy of the host's values on the device.

        Args:
            values: array, or anything that numpy.asarray takes.
            dtype: of the copy; None for the values' own.

        Raises:
            OutOfMemoryError: the device has no room for it.
        """
        host = contiguous(np.asarray(values, dtype))
        made = self.empty(host.shape, host.dtype)
        self.upload(host, made)
        return made

    def upload(self, host: Array, target: DeviceArray, stream: int = 0) -> None:
        """Copies the host's values to an array of the same size, and waits."""
        if host.nbytes != target.nbytes:
            raise InvalidArgumentError(f"{host.nbytes} bytes do not fit {target.nbytes}")
        source = ffi.from_buffer("char[]", host.reshape(-1).view(np.uint8)) if host.size else ffi.NULL
        self.call(lib.hyb_cuda_upload, source, host.nbytes, target.address, stream)
        self.call(lib.hyb_cuda_synchronize, stream)

    def copy(self, source: int, target: int, n_bytes: int, stream: int = 0) -> None:
        """Copies bytes between two addresses on the device."""
        self.call(lib.hyb_cuda_copy, source, n_bytes, target, stream)

    def __repr__(self) -> str:
        if self._owned is None:
            return "Device(closed)"
        info = self.info
        return f"Device({self.number}, {info.name!r}, {info.total_bytes / 2**30:.1f} GiB)"


@functools.cache
def _default() -> Device | HybridError:
    try:
        device = Device()
        device.self_test()
    except HybridError as error:
        return error
    return device


def default_device() -> Device:
    """Returns the first device, opened by the first call, on which a kernel ran with the right result.

    Raises:
        UnsupportedError: there is none; the message says why.
        DeviceError: it failed.
    """
    found = _default()
    if isinstance(found, HybridError):
        raise found
    return found


def unavailable() -> str | None:
    """Why no GPU can be used; None if one can. A device that is emulated on the CPU is no GPU."""
    try:
        device = default_device()
    except HybridError as error:
        return str(error)
    if device.info.is_emulated:
        return "the CUDA module is emulated on the CPU, for tests"
    return None


def device_or_default(device: Device | None) -> Device:
    """Returns a device, or the first where it is None.

    Raises:
        UnsupportedError: there is none.
    """
    if device is not None and not isinstance(device, Device):
        raise UnsupportedError(f"device is {type(device).__name__}; give a pyhybrid.cuda.Device")
    return device or default_device()
