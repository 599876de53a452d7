"""What a run tells while it goes on: the metrics file, the callbacks, the progress bar.

Place in the data flow: the trainer hands over each step's record.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pyhybrid.checkpoint import CheckpointError
from pyhybrid.metrics import MetricsWriter

__all__ = ["Callback", "RunReport", "progress_bar", "write_json"]

Callback = Callable[[Mapping[str, Any]], None]


class RunReport:
    """Tells everybody who listens about each step.

    Args:
        path: of the metrics file; None: none is written.
        callbacks: called with each record.
        progress: show a progress bar on standard error; None: if that is a terminal.
        step: updates done before.
        total_steps: updates planned.
        resumed: goes on with the metrics file instead of starting it anew.
    """

    def __init__(
        self,
        path: Path | None,
        callbacks: Iterable[Callback],
        progress: bool | None,
        *,
        step: int,
        total_steps: int,
        resumed: bool,
    ) -> None:
        self._writer = None if path is None else MetricsWriter(path, step if resumed else None)
        self._callbacks = callbacks
        self._bar = progress_bar(progress, "training", "step", total_steps, initial=step)

    def tell(
        self, record: Mapping[str, Any], *, log: bool, validation: float | None, saved_step: int | None
    ) -> None:
        """Passes a step on.

        Args:
            record: metrics by name.
            log: write them into the file, too.
            validation: the last validation loss, nats per token, if there was one.
            saved_step: of the last checkpoint, for the message if the disk is full.

        Raises:
            CheckpointError: the metrics file cannot be written.
        """
        if self._writer is not None and log:
            try:
                self._writer.write(record)
            except OSError as error:
                raise CheckpointError(
                    f"step {record['step']}: {self._writer.path} cannot be written ({error.strerror}); the "
                    f"checkpoint of step {saved_step} is kept"
                ) from error
        for callback in self._callbacks:
            callback(record)
        if self._bar is not None:
            postfix = {"loss": f"{record['loss']:.3f}"}
            if validation is not None:
                postfix["val"] = f"{validation:.3f}"
            postfix["tok/s"] = f"{record['tokens_per_second']:,.0f}"
            self._bar.set_postfix(postfix, refresh=False)
            self._bar.update(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._bar is not None:
            self._bar.close()


def progress_bar(progress: bool | None, what: str, unit: str, total: int, *, initial: int = 0) -> Any:
    """Returns a tqdm bar, or None.

    Args:
        progress: show it; None: if standard error is a terminal.
        what: is being done.
        unit: that is counted.
        total: units.
        initial: units done before.
    """
    if progress is False or (progress is None and not sys.stderr.isatty()):
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(total=total, initial=initial, unit=unit, dynamic_ncols=True, desc=what)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON file in one piece: a reader sees the old one or the new one.

    Args:
        path: the file.
        value: JSON values by name.

    Raises:
        CheckpointError: the file cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written ({error.strerror}); check the output folder"
        ) from error
