"""The GPU's benchmark rows: their own sides run, on an emulated device, and answer as those on the CPU do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pyhybrid import cuda
from pyhybrid.benchmarks import cli, gpu
from pyhybrid.benchmarks.registry import Options, UnavailableError
from pyhybrid.cli import main


@pytest.fixture
def emulated(device: cuda.Device, monkeypatch: pytest.MonkeyPatch) -> cuda.Device:
    """An emulated device in the place of the GPU."""
    monkeypatch.setattr(cuda, "unavailable", lambda: None)
    monkeypatch.setattr(cuda, "default_device", lambda: device)
    monkeypatch.setattr(gpu, "_CALLS_SECONDS", 1e-6)
    monkeypatch.setattr(gpu._Ours, "copies", lambda _self, _bytes: 2)
    return device


def test_gpu_sides_run(emulated: cuda.Device) -> None:
    """Each of our sides gives a figure above 0, and the answer that it should."""
    product = gpu.Matmul(rows=20, columns=70, tokens=2)
    codes, x = gpu._product(20, 70, 2)
    np.testing.assert_allclose(product.answer()["y"], x @ codes.T.astype(np.float32), rtol=0.1, atol=0.5)
    sides: list[Any] = [product]
    sides += [gpu.QuantizePack(rows=16, columns=64, scale=scale) for scale in ("tensor", "row")]
    sides += [gpu.AdamW(n=300), gpu.KMeans(n=60, d=3, k=4)]
    for operation, n in (("quantize", 500), ("constrain", 500), ("matmul", 400)):
        ours, numpy = gpu.Documents(operation=operation, n=n), gpu.DocumentsNumpy(operation=operation, n=n)
        np.testing.assert_allclose(ours.answer()["values"], numpy.answer()["values"], rtol=1e-4, atol=1e-4)
        sides += [ours, numpy]
    assert all(side.run(0) > 0 for side in sides)


def test_gpu_rows(emulated: cuda.Device) -> None:
    """With a device every row has sides that exist; the promises' rows are among them."""
    rows = gpu.rows(Options(peers=True))
    names = {row.name for row in rows}
    assert len(names) == len(rows) > 20
    assert "gpu/documents/quantize/1000000/transfers" in names
    for row in rows:
        assert row.agreement
        for path in (row.ours, *row.peers.values()):
            assert hasattr(gpu, path.partition(":")[2])


def test_gpu_absent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a GPU there are no rows, and the command says why."""
    monkeypatch.setattr(cuda, "unavailable", lambda: "no such thing")
    monkeypatch.setattr("pyhybrid.cuda._device.unavailable", lambda: "no such thing")
    assert gpu.rows(Options()) == []
    with pytest.raises(UnavailableError, match="no such thing"):
        gpu.AdamW(n=1)
    assert main(["bench", "gpu"]) == 2
    assert "not measured, no such thing" in capsys.readouterr().err
    assert cli.rows("gpu", Options()) == []
