"""Contexts: the threads, the instruction sets and the error detail that every C call needs.

Place in the data flow: each wrapper takes a `Context` (or the default one) and holds its lock around the C
call, because a C context serves one thread at a time and cffi releases the interpreter's lock.
"""

from __future__ import annotations

import collections
import logging
import os
import threading
from types import TracebackType
from typing import Any, Literal

from pyhybrid._errors import InvalidArgumentError, StateError, UnsupportedError, check
from pyhybrid._native import ffi, lib

__all__ = ["Context", "Isa", "cpu_name", "default_context", "detected_isa"]

Isa = Literal["scalar", "avx2", "avxvnni", "avx512", "lookup", "neon", "dotprod", "i8mm"]

_AVX_VNNI = lib.HYB_ISA_AVX2 | lib.HYB_ISA_AVX_VNNI
_AVX512 = _AVX_VNNI | lib.HYB_ISA_AVX512 | lib.HYB_ISA_AVX512_VNNI
_MASKS: dict[str, int] = {
    "scalar": lib.HYB_ISA_MASK_SCALAR,
    "avx2": lib.HYB_ISA_AVX2,
    "avxvnni": _AVX_VNNI,
    "avx512": _AVX512,
    "lookup": _AVX512 | lib.HYB_ISA_AVX512_LOOKUP,
    "neon": lib.HYB_ISA_NEON,
    "dotprod": lib.HYB_ISA_NEON | lib.HYB_ISA_NEON_DOTPROD,
    "i8mm": lib.HYB_ISA_NEON | lib.HYB_ISA_NEON_DOTPROD | lib.HYB_ISA_NEON_I8MM,
}
#: Names of single tiers, the highest first.
_TIERS: tuple[tuple[int, str], ...] = (
    (lib.HYB_ISA_AVX512_LOOKUP, "lookup"),
    (lib.HYB_ISA_AVX512_VNNI, "avx512vnni"),
    (lib.HYB_ISA_AVX512, "avx512"),
    (lib.HYB_ISA_AVX_VNNI, "avxvnni"),
    (lib.HYB_ISA_AVX2, "avx2"),
    (lib.HYB_ISA_NEON_I8MM, "i8mm"),
    (lib.HYB_ISA_NEON_DOTPROD, "dotprod"),
    (lib.HYB_ISA_NEON, "neon"),
)
_LOG_LEVELS = {
    lib.HYB_LOG_DEBUG: logging.DEBUG,
    lib.HYB_LOG_INFO: logging.INFO,
    lib.HYB_LOG_WARNING: logging.WARNING,
}
_logger = logging.getLogger("pyhybrid")


@ffi.def_extern()  # type: ignore[untyped-decorator]
def pyhybrid_on_log(_user: Any, level: int, message: Any) -> None:
    """Passes a message of the C library to the logger "pyhybrid"."""
    _logger.log(_LOG_LEVELS.get(level, logging.INFO), "%s", ffi.string(message).decode("utf-8", "replace"))


def _highest_tier(mask: int) -> str:
    return next((name for bit, name in _TIERS if mask & bit), "scalar")


def detected_isa() -> str:
    """Returns the highest instruction-set tier of this processor, whatever the environment says."""
    return _highest_tier(lib.hyb_isa_detect())


def cpu_name() -> str:
    """Returns the processor's own name, or "unknown"."""
    buffer = ffi.new("char[]", 256)
    lib.hyb_cpu_name(buffer, 256)
    return str(ffi.string(buffer).decode("utf-8", "replace")).strip()


def _usable_processors() -> int:
    """Processors that this process may run on, as os.process_cpu_count counts them from Python 3.13 on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


class _CallLock:
    """A lock that a thread may take once: a second time is a callback that calls back into the context."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None

    def __enter__(self) -> None:
        if self._owner == threading.get_ident():
            raise StateError(
                "this context is in the middle of a call: a streaming callback must not use the model that "
                "generates; load it with another Context for that"
            )
        self._lock.acquire()
        self._owner = threading.get_ident()

    def __exit__(self, *_: object) -> None:
        self._owner = None
        self._lock.release()


class Life:
    """Destroys a C context or device with the last of what was made with it, whatever the order in which
    Python lets go: the garbage collector finalises the members of a cycle in any.

    Args:
        pointer: the hyb_ctx or hyb_cuda.
        destroy: C function that takes it.
    """

    def __init__(self, pointer: Any, destroy: Any) -> None:
        self._pointer, self._destroy = pointer, destroy
        # One entry for the context, at the left end, and one for each owner; both operations are atomic.
        self._owners: collections.deque[bool] = collections.deque([True])

    def hold(self) -> None:
        """One more owner."""
        self._owners.append(False)

    def release(self, _: Any = None) -> None:
        """One owner less; the last one destroys the context."""
        if self._owners.pop():
            self._destroy(self._pointer)

    def own(self, pointer: Any, destroy: Any) -> Any:
        """Returns a C handle that is destroyed with its last reference, and always before what this is the
        life of.
        """
        self.hold()

        def release(owned: Any) -> None:
            destroy(owned)
            self.release()

        return ffi.gc(pointer, release)


class Context:
    """Threads and instruction sets for the C library; every result is the same whatever they are.

    A context may be shared between Python threads: calls take turns. Models keep their context alive.

    Args:
        threads: threads that compute, 1 to 256; None: the environment's HYB_NUM_THREADS, or every processor
            that this process may use.
        isa: highest instruction-set tier to use, 'scalar', 'avx2', 'avxvnni', 'avx512', 'lookup' (AVX-512
            with ternary weights packed for table look-ups), 'neon', 'dotprod' or 'i8mm'; None: the best there
            is, and of 'avx512' and 'lookup' the one that a short measurement finds faster. What the processor
            lacks, or the environment's HYB_ISA forbids, is never used; see the property `isa`.

    Raises:
        InvalidArgumentError: a value out of its range.
    """

    def __init__(self, threads: int | None = None, isa: Isa | None = None) -> None:
        if threads is None:
            threads = 0 if os.environ.get("HYB_NUM_THREADS") else min(_usable_processors(), 256)
        elif isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 256:
            raise InvalidArgumentError(f"threads is {threads!r}; give a whole number from 1 to 256, or None")
        if isa is not None and isa not in _MASKS:
            raise InvalidArgumentError(
                f"isa is {isa!r}; choose one of {', '.join(map(repr, _MASKS))}, or None"
            )
        options = ffi.new("hyb_ctx_options *")
        options.struct_size = ffi.sizeof("hyb_ctx_options")
        options.n_threads = threads
        options.isa_mask = 0 if isa is None else _MASKS[isa]
        options.log = lib.pyhybrid_on_log
        out = ffi.new("hyb_ctx **")
        check(lib.hyb_ctx_create(options, out))
        self._life = Life(out[0], lib.hyb_ctx_destroy)
        self._owned: Any = ffi.gc(out[0], self._life.release)
        #: Held around every C call with this context.
        self.lock = _CallLock()

    @property
    def handle(self) -> Any:
        """The hyb_ctx pointer.

        Raises:
            StateError: the context was closed.
        """
        if self._owned is None:
            raise StateError("this context was closed; make a new one")
        return self._owned

    @property
    def threads(self) -> int:
        """Number of threads that compute; may be set between calls."""
        return int(lib.hyb_ctx_n_threads(self.handle))

    @threads.setter
    def threads(self, threads: int) -> None:
        if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 256:
            raise InvalidArgumentError(f"threads is {threads!r}; give a whole number from 1 to 256")
        with self.lock:
            self.check(lib.hyb_ctx_set_n_threads(self.handle, threads))

    @property
    def isa(self) -> str:
        """Highest instruction-set tier in use: 'scalar', 'avx2', 'avxvnni', 'avx512', 'avx512vnni', 'lookup',
        'neon', 'dotprod' or 'i8mm'."""
        return _highest_tier(lib.hyb_ctx_isa(self.handle))

    def kernels(self) -> dict[str, str]:
        """Returns the tier that was chosen for each kernel, by the kernel's name."""
        handle = self.handle
        text = [
            (lib.hyb_ctx_kernel_name(handle, i), lib.hyb_ctx_kernel_tier(handle, i))
            for i in range(lib.hyb_ctx_kernel_count(handle))
        ]
        return {ffi.string(name).decode(): ffi.string(tier).decode() for name, tier in text}

    def self_test(self) -> str | None:
        """Runs the known-answer test of the numerics contract.

        Returns:
            None if it passed, else the first check that failed.

        Raises:
            HybridError: it could not be run.
        """
        with self.lock:
            try:
                self.check(lib.hyb_ctx_self_test(self.handle))
            except UnsupportedError as error:
                return str(error)
        return None

    def check(self, status: int) -> None:
        """Raises the exception of a status with this context's detail; call it with the lock held."""
        check(status, self._owned)

    def own(self, pointer: Any, destroy: Any) -> Any:
        """Returns a C handle that is destroyed with its last reference, and always before this context.

        Args:
            pointer: handle made with this context.
            destroy: C function that takes it; it only frees memory, so it needs no lock.
        """
        _ = self.handle
        return self._life.own(pointer, destroy)

    def life_of(self, pointer: Any, destroy: Any) -> Life:
        """Returns the life of a C object that was made with this context and has objects of its own.

        Args:
            pointer: handle made with this context.
            destroy: C function that takes it; called after those of all that `Life.own` gave.
        """
        _ = self.handle
        context_life = self._life
        context_life.hold()

        def end(owned: Any) -> None:
            destroy(owned)
            context_life.release()

        return Life(pointer, end)

    def close(self) -> None:
        """Ends the use of this context; its memory goes with the last model that was made with it."""
        self._owned = None

    def __enter__(self) -> Context:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return (
            "Context(closed)" if self._owned is None else f"Context(threads={self.threads}, isa={self.isa!r})"
        )


_default: Context | None = None
_default_lock = threading.Lock()


def default_context() -> Context:
    """Returns the context that functions use when none is given; made by the first call."""
    global _default  # noqa: PLW0603 - one per process, guarded by the lock
    with _default_lock:
        if _default is None:
            _default = Context()
        return _default
