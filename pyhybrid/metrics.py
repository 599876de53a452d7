"""The run's diary: one JSON object a line, and a picture of the loss.

Place in the data flow: the trainer writes a line per step into DIR/metrics.jsonl; programs and `plot_loss`
read it. Fields: step, loss (nats per token), gradient_norm, flipped_share, zero_share, learning_rate, tokens
(seen so far), tokens_per_second, seconds (of this run, resumed parts included), peak_rss_bytes; and on lines
with a validation validation_loss (nats per token) and validation_bits_per_byte. Options of training add
theirs: gradient_cosine and gradient_bits, cluster_cohesion. A value that is not finite is written as null.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["MetricsWriter", "available_memory_bytes", "peak_rss_bytes", "plot_loss", "read_metrics"]


def peak_rss_bytes() -> int:
    """Returns the most memory that this process has held so far, in bytes; 0 if the system does not say."""
    try:
        # VmHWM starts anew with each program; getrusage would also count the parent's peak before exec.
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def available_memory_bytes() -> int | None:
    """Returns the memory that can be had without swapping, in bytes; None if the system does not say.

    The smaller of what the kernel estimates and what the control group of this process still allows.
    """
    limits: list[int] = []
    try:
        with open("/proc/meminfo", encoding="ascii") as meminfo:
            limits.extend(int(line.split()[1]) * 1024 for line in meminfo if line.startswith("MemAvailable:"))
    except OSError:
        pass
    groups = (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    )
    for limit_name, usage_name in groups:  # control groups version 2, version 1
        try:
            root = Path("/sys/fs/cgroup")
            limits.append(int((root / limit_name).read_text()) - int((root / usage_name).read_text()))
        except (OSError, ValueError):
            continue  # no such group, or its limit is the word "max"
    return max(0, min(limits)) if limits else None


class MetricsWriter:
    """Appends lines to a metrics file; each is handed to the system before `write` returns.

    Args:
        path: the file; its folder must exist.
        resume_step: None starts the file anew; a number keeps the lines up to this step and drops the rest,
            which a resumed run writes again, and lines that a crash has damaged.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], resume_step: int | None = None) -> None:
        self.path = Path(path)
        if resume_step is None or not self.path.exists():
            self._file = self.path.open("w", encoding="utf-8")
            return
        records = read_metrics(self.path, strict=False)
        kept = [record for record in records if _step(record) <= resume_step]
        temporary = self.path.with_name(self.path.name + ".tmp")
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(_line(record) for record in kept)
        os.replace(temporary, self.path)
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends one line.

        Args:
            record: JSON values by field name.

        Raises:
            OSError: the disk is full or gone.
        """
        self._file.write(_line(record))
        self._file.flush()

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _line(record: Mapping[str, Any]) -> str:
    plain = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in record.items()
    }
    return json.dumps(plain, allow_nan=False) + "\n"


def _step(record: Mapping[str, Any]) -> float:
    step = record.get("step")
    return step if isinstance(step, int) else math.inf


def read_metrics(path: str | os.PathLike[str], *, strict: bool = True) -> list[dict[str, Any]]:
    """Reads a metrics file.

    Args:
        path: as written by MetricsWriter; a last line that a crash cut short is left out.
        strict: raise at any other damaged line; False leaves it out, too.

    Returns:
        One dictionary a line, in the file's order.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line other than the last is not a JSON object.
    """
    lines = Path(path).read_text(encoding="utf-8", errors="replace").split("\n")
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("not an object")
        except ValueError as error:
            if not strict or number == len(
                lines
            ):  # no line feed behind it: the writer was stopped in the line
                continue
            raise ValueError(f"{os.fspath(path)}, line {number}: not a metrics line ({error})") from error
        records.append(record)
    return records


def plot_loss(metrics_path: str | os.PathLike[str], png_path: str | os.PathLike[str]) -> bool:
    """Draws training and validation loss over the steps.

    Args:
        metrics_path: a metrics file.
        png_path: the picture to write.

    Returns:
        False, with nothing written, where matplotlib is missing or the file has no line yet; else True.

    Raises:
        OSError: a file cannot be read or written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    records = read_metrics(metrics_path)
    training = [(r["step"], r["loss"]) for r in records if r.get("loss") is not None]
    validation = [(r["step"], r["validation_loss"]) for r in records if r.get("validation_loss") is not None]
    if not training:
        return False
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display
    axes = figure.add_subplot()
    axes.plot(*zip(*training, strict=True), color="#9db4d0", linewidth=0.8, label="training, each step")
    if len(training) >= 20:
        axes.plot(
            *zip(*_smooth(training), strict=True), color="#1f4e8c", linewidth=1.6, label="training, average"
        )
    if validation:
        axes.plot(
            *zip(*validation, strict=True), color="#c0392b", marker="o", markersize=4, label="validation"
        )
    axes.set_xlabel("step")
    axes.set_ylabel("cross-entropy, nats per token")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(os.fspath(png_path), dpi=120)
    return True


def _smooth(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """An exponential moving average over about a twentieth of the points, without the bias of its start."""
    decay = 1 - 1 / max(2.0, len(points) / 20)
    mean = 0.0
    weight = 0.0
    smooth = []
    for step, loss in points:
        mean = decay * mean + (1 - decay) * loss
        weight = decay * weight + (1 - decay)
        smooth.append((step, mean / weight))
    return smooth
