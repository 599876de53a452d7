"""The exceptions of the package, and the step from a C status to one of them.

Place in the data flow: every wrapper passes the status of a C call to `check`. Each class also derives from
the built-in exception that a caller would expect, so that ``except ValueError`` works without knowing this
library.
"""

from __future__ import annotations

from typing import Any

try:
    from pyhybrid._native import ffi, lib
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "pyhybrid's compiled part is missing: this is its source folder. Run `pip install .`, then start "
        "Python outside this folder, or with -P, or by the command `pyhybrid`",
        name=error.name,
    ) from error

__all__ = [
    "CancelledError",
    "ChecksumError",
    "DeviceError",
    "FileFormatError",
    "FileIOError",
    "HybridError",
    "InvalidArgumentError",
    "NotFiniteError",
    "OutOfMemoryError",
    "StateError",
    "ThreadError",
    "TruncatedFileError",
    "UnsupportedError",
    "VersionError",
    "check",
]


class HybridError(Exception):
    """Base class of the errors that this library raises.

    Args:
        message: one line that names the value and how to mend it.
        status: the C library's hyb_status, 0 if the error was found in Python.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.status = status

    def __str__(self) -> str:
        return self.message


class InvalidArgumentError(HybridError, ValueError):
    """A value, type, shape or size is outside its documented range."""


class OutOfMemoryError(HybridError, MemoryError):
    """The system has no memory of the size that was asked for."""


class UnsupportedError(HybridError, NotImplementedError):
    """Valid, but not available in this build or for this format."""


class NotFiniteError(HybridError, ArithmeticError):
    """NaN or infinity where a number is needed; the message names the tensor."""


class FileIOError(HybridError, OSError):
    """The operating system refused to read or write a file."""


class FileFormatError(HybridError, ValueError):
    """Not a file of this kind, or its fields contradict each other."""


class TruncatedFileError(FileFormatError):
    """The file ends before its header says so."""


class ChecksumError(FileFormatError):
    """The file's bytes were changed after it was written."""


class VersionError(FileFormatError):
    """The file is of a newer format version than this library reads."""


class StateError(HybridError, RuntimeError):
    """Called in the wrong order; the message names the call that is missing."""


class CancelledError(HybridError):
    """A callback asked to stop."""


class ThreadError(HybridError, RuntimeError):
    """The operating system gave no thread."""


class DeviceError(HybridError, RuntimeError):
    """A GPU or its driver failed; the message holds its words."""


_CLASSES: dict[int, type[HybridError]] = {
    lib.HYB_ERROR_INVALID_ARGUMENT: InvalidArgumentError,
    lib.HYB_ERROR_STRUCT_SIZE: InvalidArgumentError,
    lib.HYB_ERROR_OUT_OF_MEMORY: OutOfMemoryError,
    lib.HYB_ERROR_TOO_SMALL: InvalidArgumentError,
    lib.HYB_ERROR_UNSUPPORTED: UnsupportedError,
    lib.HYB_ERROR_NOT_FINITE: NotFiniteError,
    lib.HYB_ERROR_IO: FileIOError,
    lib.HYB_ERROR_FORMAT: FileFormatError,
    lib.HYB_ERROR_TRUNCATED: TruncatedFileError,
    lib.HYB_ERROR_CHECKSUM: ChecksumError,
    lib.HYB_ERROR_VERSION: VersionError,
    lib.HYB_ERROR_STATE: StateError,
    lib.HYB_ERROR_CANCELLED: CancelledError,
    lib.HYB_ERROR_THREAD: ThreadError,
    lib.HYB_ERROR_DEVICE: DeviceError,
}


def _text(pointer: Any) -> str:
    return "" if pointer == ffi.NULL else ffi.string(pointer).decode("utf-8", errors="replace")


def check(status: int, ctx: Any = None) -> None:
    """Raises the exception of a C status, with the detail that the context holds.

    Args:
        status: result of a C function.
        ctx: the hyb_ctx pointer that the function was called with; None if there is none.

    Raises:
        HybridError: status is not HYB_OK; one of the subclasses above.
    """
    if status == lib.HYB_OK:
        return
    phrase = _text(lib.hyb_status_string(status))
    detail = _text(lib.hyb_ctx_last_error(ctx)) if ctx is not None else ""
    raise _CLASSES.get(status, HybridError)(f"{phrase}: {detail}" if detail else phrase, status)
