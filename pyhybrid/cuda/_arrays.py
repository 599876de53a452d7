"""Arrays in a device's memory: our own, and those of CuPy, PyTorch and others, without copies.

Place in the data flow: between the public functions of this package, which take what a user has, and the C
calls, which take addresses. CuPy and PyTorch show their arrays by `__cuda_array_interface__` (version 3),
others by DLPack; ours by the former, so that `cupy.asarray` and `torch.as_tensor` take them.

Sources: Numba, "CUDA Array Interface (Version 3)"; DLPack's dlpack.h, version 0.8.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pyhybrid._buffers import Array
from pyhybrid._errors import InvalidArgumentError
from pyhybrid._native import ffi, lib

if TYPE_CHECKING:
    from pyhybrid.cuda._device import Device

__all__ = ["DeviceArray", "View", "contiguous", "current_stream", "make_like", "view"]

_DLPACK_CUDA = 2  # kDLCUDA
_DLPACK_KINDS = {0: "i", 1: "u", 2: "f", 6: "b"}  # DLDataTypeCode


def contiguous(array: Array) -> Array:
    """Returns an array in C order, of its own shape where it has none."""
    return np.ascontiguousarray(array).reshape(array.shape)


class DeviceArray:
    """An array in a device's memory, in C order; made by `Device.array` and `Device.empty`.

    Args:
        device: that it is on.
        address: in the device's memory.
        shape: of the array.
        dtype: of its elements.
        memory: what frees it.
    """

    def __init__(
        self, device: Device, address: int, shape: tuple[int, ...], dtype: np.dtype[Any], memory: Any
    ) -> None:
        self.device, self.address, self.shape, self.dtype = device, address, shape, dtype
        self._memory = memory

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.size * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "stream": None,
        }

    def numpy(self, stream: int = 0) -> Array:
        """Returns a copy in the host's memory, after what is queued on the stream."""
        host = np.empty(self.shape, self.dtype)
        if host.size:
            target = ffi.from_buffer("char[]", host.reshape(-1).view(np.uint8), require_writable=True)
            self.device.call(lib.hyb_cuda_download, self.address, self.nbytes, target, stream)
        return host

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype})"


@dataclass(frozen=True)
class View:
    """An array in a device's memory as the C calls need it.

    Args:
        address: of the first element.
        shape: of the array.
        dtype: of its elements.
        owner: what the user gave; it keeps the memory.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: Any

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))


def _check_order(shape: tuple[int, ...], strides: Sequence[int] | None, itemsize: int, name: str) -> None:
    """Refuses what is not in C order; strides in bytes, None for C order."""
    expected = itemsize
    for size, stride in zip(reversed(shape), reversed(strides or ()), strict=False):
        if size > 1 and stride != expected:
            raise InvalidArgumentError(f"{name} is not C-contiguous; make a copy that is")
        expected *= size


def _from_interface(value: Any, name: str) -> View:
    about = value.__cuda_array_interface__
    shape, dtype = tuple(about["shape"]), np.dtype(about["typestr"])
    _check_order(shape, about.get("strides"), dtype.itemsize, name)
    return View(int(about["data"][0] or 0), shape, dtype, value)


class _Tensor(ctypes.Structure):
    """DLTensor, the first field of a DLManagedTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("n_dims", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def _from_dlpack(value: Any, name: str, stream: int) -> View:
    """The capsule stays ours and unused: its own destructor gives the tensor back with the last reference."""
    capsule = value.__dlpack__(stream=stream or 1)  # 1: the default stream
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    tensor = _Tensor.from_address(get(capsule, b"dltensor"))
    kind = _DLPACK_KINDS.get(tensor.code)
    if kind is None or tensor.lanes != 1 or tensor.bits % 8:
        raise InvalidArgumentError(f"{name} has a dtype that NumPy lacks; convert it first")
    dtype = np.dtype(f"{kind}{tensor.bits // 8}")
    shape = tuple(tensor.shape[i] for i in range(tensor.n_dims))
    strides = [tensor.strides[i] * dtype.itemsize for i in range(tensor.n_dims)] if tensor.strides else None
    _check_order(shape, strides, dtype.itemsize, name)
    return View((tensor.data or 0) + tensor.byte_offset, shape, dtype, (value, capsule))


def view(
    value: Any,
    dtype: npt.DTypeLike,
    name: str,
    shape: Sequence[int | None] | None = None,
    *,
    stream: int = 0,
) -> View:
    """Returns an array of a device as C needs it, without a copy.

    Args:
        value: a DeviceArray, or an array of CuPy, PyTorch or another library, in C order.
        dtype: that it must have.
        name: the argument's name, for messages.
        shape: that it must have; None for any, also in single places.
        stream: on which it will be used.

    Raises:
        InvalidArgumentError: it is in the host's memory, or has another dtype, shape or order.
    """
    if hasattr(type(value), "__cuda_array_interface__") and hasattr(value, "__cuda_array_interface__"):
        found = _from_interface(value, name)
    elif hasattr(value, "__dlpack_device__") and value.__dlpack_device__()[0] == _DLPACK_CUDA:
        found = _from_dlpack(value, name, stream)
    else:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise InvalidArgumentError(
            f"{name} is a {kind} in the host's memory; move it to the device, as by Device.array({name})"
        )
    if found.dtype != np.dtype(dtype):
        raise InvalidArgumentError(f"{name} has dtype {found.dtype}; give {np.dtype(dtype)}")
    fits = shape is None or (
        len(shape) == len(found.shape)
        and all(want is None or want == have for want, have in zip(shape, found.shape, strict=True))
    )
    if not fits:
        wanted = "[" + ", ".join("any" if size is None else str(size) for size in shape or ()) + "]"
        raise InvalidArgumentError(f"{name} has shape {list(found.shape)}; it must be {wanted}")
    return found


def _library_of(value: Any) -> str:
    return type(value).__module__.partition(".")[0]


def current_stream(value: Any) -> int:
    """Returns the stream on which the library that made an array works now; 0, the default, for others."""
    library = _library_of(value)
    if library == "cupy":
        return int(sys.modules["cupy"].cuda.get_current_stream().ptr)
    if library == "torch":
        return int(sys.modules["torch"].cuda.current_stream(value.device).cuda_stream)
    return 0


def make_like(value: Any, device: Device, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any:
    """Returns a new array of the library that made `value`, with anything in it: what a user gets back.

    Args:
        value: CuPy's and PyTorch's give arrays of theirs, on the same device; others a DeviceArray.
        device: for a DeviceArray.
        shape: of the new one.
        dtype: of the new one.
    """
    library = _library_of(value)
    if library == "cupy":
        return sys.modules["cupy"].empty(shape, np.dtype(dtype))
    if library == "torch":
        torch = sys.modules["torch"]
        return torch.empty(shape, dtype=getattr(torch, np.dtype(dtype).name), device=value.device)
    return device.empty(shape, dtype)
