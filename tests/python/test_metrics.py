"""Tests of pyhybrid.metrics: the file of JSON lines, its repair on resume, the picture."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from pyhybrid.metrics import MetricsWriter, available_memory_bytes, peak_rss_bytes, plot_loss, read_metrics


def write_steps(path: Path, n_steps: int) -> None:
    """A small diary with a validation every ten steps."""
    with MetricsWriter(path) as writer:
        for step in range(1, n_steps + 1):
            record: dict[str, float] = {"step": step, "loss": 5 / step}
            if step % 10 == 0:
                record["validation_loss"] = 5 / step + 0.1
            writer.write(record)


def test_each_line_is_readable_before_the_next(tmp_path: Path) -> None:
    """A line is in the file as soon as write returns, and a value that is not finite becomes null."""
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        writer.write({"step": 1, "loss": 2.5})
        assert read_metrics(path) == [{"step": 1, "loss": 2.5}]
        writer.write({"step": 2, "loss": math.inf, "gradient_norm": math.nan})
    assert json.loads(path.read_text().splitlines()[1]) == {"step": 2, "loss": None, "gradient_norm": None}


def test_resume_drops_later_and_damaged_lines(tmp_path: Path) -> None:
    """Lines beyond the resumed step and a line cut short go; the rest stays as it was."""
    path = tmp_path / "metrics.jsonl"
    write_steps(path, 5)
    with path.open("a") as file:
        file.write('{"step": 6, "lo')
    with MetricsWriter(path, resume_step=3) as writer:
        writer.write({"step": 4, "loss": 9.0})
    assert [record["step"] for record in read_metrics(path)] == [1, 2, 3, 4]
    assert read_metrics(path)[3]["loss"] == 9.0


def test_a_new_run_starts_the_file_anew(tmp_path: Path) -> None:
    """Without a step to resume from nothing old is kept."""
    path = tmp_path / "metrics.jsonl"
    write_steps(path, 5)
    write_steps(path, 2)
    assert len(read_metrics(path)) == 2


def test_read_forgives_a_cut_last_line_only(tmp_path: Path) -> None:
    """A crash may cut the end; damage elsewhere is reported with its line number."""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert len(read_metrics(path)) == 2
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_metrics(path)
    assert [record["step"] for record in read_metrics(path, strict=False)] == [1, 3]


def test_plot_draws_a_picture(tmp_path: Path) -> None:
    """The picture is a PNG that is not blank; a file without lines gives none."""
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    path, picture = tmp_path / "metrics.jsonl", tmp_path / "loss.png"
    path.write_text("")
    assert plot_loss(path, picture) is False
    assert not picture.exists()
    write_steps(path, 60)
    assert plot_loss(path, picture) is True
    from matplotlib.image import imread

    pixels = imread(picture)
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 10


def test_peak_rss_grows_with_what_is_held() -> None:
    """A block that is written to shows in the peak."""
    before = peak_rss_bytes()
    if before == 0:
        pytest.skip("this system does not report a peak")
    block = np.ones(before // 8 + (64 << 20) // 8)
    assert peak_rss_bytes() >= before + (32 << 20)
    assert block.size


def test_available_memory_is_plausible() -> None:
    """What is available is positive, and not beyond a petabyte."""
    available = available_memory_bytes()
    if available is None:
        pytest.skip("this system does not report its memory")
    assert 0 < available < 2**50
