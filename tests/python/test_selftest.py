"""The self-test: all ten pass, each way to start it works, and what is broken is found."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest

from pyhybrid import Quantizer158Bit, selftest
from pyhybrid.cli import main

#: The documents' names.
NAMES = {
    "test_quantization_levels",
    "test_size_reduction",
    "test_gradient_quantization",
    "test_kmeans_convergence",
    "test_data_clustering",
    "test_lr_prediction",
    "test_optimizer_feedback",
    "test_basic_training",
    "test_quantization_impact",
    "test_clustering_impact",
}


def test_command_prints_how_many_passed(capfd: pytest.CaptureFixture[str]) -> None:
    """The documents' line, and their ten names."""
    assert main(["selftest"]) == 0
    captured = capfd.readouterr()
    assert captured.out == "10/10 PASSED\n"
    assert all(name in captured.err for name in NAMES)


def test_one_liner_of_the_documents() -> None:
    """The star import brings the tests and unittest itself."""
    line = "from pyhybrid.selftest import *; unittest.main()"
    done = subprocess.run([sys.executable, "-P", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Ran 10 tests" in done.stderr


def test_what_is_broken_is_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A quantiser that rounds ties up costs a test."""
    monkeypatch.setattr(Quantizer158Bit, "quantize", lambda _, x: np.floor(2 * np.clip(x, -1, 1) + 0.51) / 2)
    passed, total = selftest.run(io.StringIO())
    assert total == 10
    assert passed < 10
    monkeypatch.setattr(selftest, "run", lambda: (passed, total))
    assert selftest.main() == 1
    assert capsys.readouterr().out == f"{passed}/10 passed\n"
