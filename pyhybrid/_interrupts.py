"""Signals that end a run in good order.

Place in the data flow: the trainer holds one of these around its loop.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["StopOnSignal"]


class StopOnSignal:
    """Turns the first SIGINT or SIGTERM into a request, and the second into KeyboardInterrupt at once.

    Args:
        stop: called at the first signal; must be quick.
        stopping: true once a stop was asked for, by a signal or otherwise.
    """

    def __init__(self, stop: Callable[[], None], stopping: Callable[[], bool]) -> None:
        self._stop = stop
        self._stopping = stopping
        self._previous: dict[int, Any] = {}

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self._stopping():
            raise KeyboardInterrupt
        self._stop()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # others may not set handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, signal.SIG_DFL if previous is None else previous)
