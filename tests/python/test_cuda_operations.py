"""The numeric cores on a device beside the processor's, and the dispatcher's backend `gpu`; emulated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyhybrid as ph
from pyhybrid import _backends, cuda
from pyhybrid._backend_gpu import GpuBackend
from pyhybrid._backends import backends
from pyhybrid._errors import FileFormatError
from pyhybrid.cuda import Device


@pytest.mark.parametrize("scale", ["tensor", "row"])
@pytest.mark.parametrize(
    ("bits", "threshold"),
    [
        (1.58, "absmean"),
        (1.58, "lloyd"),
        (1.58, "three_of_four"),
        (1, "absmean"),
        (4, "absmean"),
        (8, "absmean"),
    ],
)
def test_quantize(device: Device, rng: np.random.Generator, bits: float, threshold: Any, scale: Any) -> None:
    """Codes and scales are the processor's, as are the packed bytes made at once."""
    weights = rng.standard_normal((23, 68)).astype(np.float32)
    ours = cuda.quantize(device.array(weights), bits=bits, scale=scale, threshold=threshold, device=device)
    theirs = ph.quantize(weights, bits=bits, scale=scale, threshold=threshold)
    device.synchronize()
    np.testing.assert_array_equal(ours.codes.numpy(), theirs.codes)
    np.testing.assert_array_equal(ours.scales.numpy(), theirs.scales)
    back = cuda.dequantize(ours.codes, ours.scales, device=device).numpy()
    np.testing.assert_array_equal(back, ph.dequantize(theirs.codes, theirs.scales))
    packing: Any = {1: "int1", 4: "int4", 8: "int8"}.get(int(bits) if bits != 1.58 else 0, "base3")
    data, _ = cuda.quantize_and_pack(
        device.array(weights), packing, bits=bits, scale=scale, threshold=threshold, device=device
    )
    np.testing.assert_array_equal(data.numpy(), ph.pack(theirs.codes, packing=packing))
    codes = cuda.unpack(data, weights.shape, packing, device=device)
    np.testing.assert_array_equal(codes.numpy(), theirs.codes)
    again = cuda.pack(ours.codes, packing, device=device)
    np.testing.assert_array_equal(again.numpy(), data.numpy())


def test_quantize_reports_what_is_not_finite(device: Device) -> None:
    """A NaN shows at the next synchronisation, once; so do bytes that packing does not write."""
    weights = np.ones((4, 8), np.float32)
    weights[2, 3] = np.nan
    cuda.quantize(device.array(weights), device=device)
    with pytest.raises(ph.NotFiniteError):
        device.synchronize()
    device.synchronize()
    cuda.unpack(device.array(np.full(4, 255, np.uint8)), 20, device=device)
    with pytest.raises(FileFormatError):
        device.synchronize()


def test_quantize_levels(device: Device, rng: np.random.Generator) -> None:
    """Five and three levels in both precisions."""
    for dtype in (np.float32, np.float64):
        values = rng.standard_normal(1001).astype(dtype)
        for levels in (3, 5):
            ours = cuda.quantize_levels(device.array(values), levels, 0.7, device=device)
            np.testing.assert_array_equal(ours.numpy(), ph.quantize_levels(values, levels, 0.7))


def test_products(device: Device, rng: np.random.Generator) -> None:
    """Packed weights by fp32 and by int8 activations: the processor's bits; fp32 products within rounding."""
    weights = rng.standard_normal((37, 90)).astype(np.float32)
    x = rng.standard_normal((5, 90)).astype(np.float32)
    for bits in (1.58, 8):
        quantized = cuda.quantize(device.array(weights), bits=bits, device=device)
        packed = cuda.Weights(quantized.codes, quantized.scales, bits, device=device)
        assert packed.shape == (37, 90)
        assert packed.nbytes >= 37 * 90 / 4
        codes, scales = ph.quantize_activations(x)
        theirs = ph.matmul(ph.PackedWeights.from_float(weights, bits=bits), codes, scales)
        np.testing.assert_array_equal(cuda.matmul(packed, device.array(x)).numpy(), theirs)
        sums = codes.astype(np.int32) @ quantized.codes.numpy().astype(np.int32).T
        np.testing.assert_array_equal(cuda.matmul(packed, device.array(codes)).numpy(), sums)
    for transpose, a, b in (("nn", x, weights.T), ("nt", x, weights), ("tn", x.T, weights.T)):
        kind: Any = transpose
        ours = cuda.gemm(device.array(a), device.array(b), kind, device=device).numpy()
        np.testing.assert_allclose(ours, x @ weights.T, rtol=1e-4, atol=1e-4)
    with pytest.raises(ph.InvalidArgumentError, match="do not fit"):
        cuda.gemm(device.array(x), device.array(weights), device=device)
    ones = device.array(np.ones((2, 37), np.int8)), device.array(np.ones(1, np.float32))
    with pytest.raises(ph.InvalidArgumentError, match=r"shape \[5, 90\]; it must be \[any, 37\]"):
        cuda.matmul(cuda.Weights(*ones, device=device), device.array(x))
    with pytest.raises(ph.InvalidArgumentError, match=r"give pyhybrid\.cuda\.Weights"):
        cuda.matmul(weights, x)  # type: ignore[arg-type]


def test_activations(device: Device, rng: np.random.Generator) -> None:
    """Codes, sums and scales of tokens, padded to 64 columns."""
    x = rng.standard_normal((3, 70)).astype(np.float32)
    ours, theirs = cuda.quantize_activations(device.array(x), device=device), ph.quantize_activations(x)
    codes = ours.codes.numpy()
    assert codes.shape == (3, 128)
    np.testing.assert_array_equal(codes[:, :70], theirs.codes)
    assert not codes[:, 70:].any()
    np.testing.assert_array_equal(ours.sums.numpy(), theirs.codes.sum(axis=1, dtype=np.int32))
    np.testing.assert_array_equal(ours.scales.numpy(), theirs.scales)


def test_kmeans(device: Device, rng: np.random.Generator) -> None:
    """The processor's labels, centroids and inertia from the same start, which stays as it is."""
    points = rng.standard_normal((300, 7)).astype(np.float32)
    begin = device.array(points[:6])
    ours = cuda.kmeans(device.array(points), begin, max_iter=50, device=device)
    theirs = ph.KMeans(6, init=points[:6], n_init=1, max_iter=50).fit(points)
    np.testing.assert_array_equal(ours.labels.numpy(), theirs.labels_)
    np.testing.assert_allclose(ours.centroids.numpy(), theirs.cluster_centers_, rtol=1e-6, atol=1e-6)
    assert ours.inertia == pytest.approx(theirs.inertia_, rel=1e-9)
    np.testing.assert_array_equal(begin.numpy(), points[:6])
    labels = cuda.nearest(device.array(points), ours.centroids, device=device)
    np.testing.assert_array_equal(labels.numpy(), theirs.labels_)


def test_optimizer_steps(device: Device, rng: np.random.Generator) -> None:
    """AdamW beside its formula; singular values pushed to 1; norms and the ball."""
    w, g = rng.standard_normal((2, 400)).astype(np.float32)
    arrays = [device.array(a) for a in (w, g, np.zeros_like(w), np.zeros_like(w))]
    cuda.adamw_update(*arrays, step=1, learning_rate=0.1, weight_decay=0.01, device=device)
    expected = w - 0.1 * (g / (np.abs(g) + 1e-8) + 0.01 * w)
    np.testing.assert_allclose(arrays[0].numpy(), expected, rtol=1e-5, atol=1e-6)
    matrix = rng.standard_normal((20, 33)).astype(np.float32)
    result = cuda.orthogonalize(device.array(matrix), device=device).numpy()
    singular = np.linalg.svd(result, compute_uv=False)
    assert 0.8 < singular.min() <= singular.max() < 1.001
    squares = cuda.sum_squares(device.array(w), device=device).numpy()
    assert squares[0] == pytest.approx(np.sum(w.astype(float) ** 2))
    for dtype in (np.float32, np.float64):
        values = w.astype(dtype)
        ours = cuda.constrain_norm(device.array(values), 2.5, device=device)
        theirs = ph.constrain_norm(values, 2.5)
        np.testing.assert_array_equal(ours.values.numpy(), theirs.values)
        assert ours.is_active.numpy()[0] == theirs.active


def test_backend(device: Device, rng: np.random.Generator) -> None:
    """The backend `gpu` gives what `simd` gives, from arrays of the host."""
    ours, theirs = GpuBackend(device), backends()["simd"]
    assert ours.describe()["available"]
    assert ours.describe()["device"] == device.info.name
    values = rng.standard_normal((30, 40)).astype(np.float32)
    np.testing.assert_array_equal(ours.quantize(values, scale=0.5), theirs.quantize(values, scale=0.5))
    for radius in (3.0, 1e9):
        a, b = ours.constrain(values, radius), theirs.constrain(values, radius)
        np.testing.assert_array_equal(a.values, b.values)
        assert a.active == b.active
    assert ours.norm(values) == theirs.norm(values)
    np.testing.assert_allclose(ours.matmul(values, values.T), values @ values.T, rtol=1e-4, atol=1e-4)
    for init in (values[:4], None):
        a, b = (backend.kmeans(values, 4, init=init, random_state=3) for backend in (ours, theirs))
        np.testing.assert_array_equal(a.labels, b.labels)
        np.testing.assert_allclose(a.centroids, b.centroids, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(ours.nearest(values, values[:5]), theirs.nearest(values, values[:5]))
    empty = np.zeros(0, np.float32)
    assert ours.quantize(empty).size == ours.constrain(empty, 1.0).values.size == ours.norm(empty) == 0
    bad = values.copy()
    bad[0, 0] = np.inf
    for call in (lambda: ours.constrain(bad, 1.0), lambda: ours.kmeans(bad, 2, init=values[:2])):
        with pytest.raises(ph.NotFiniteError):
            call()
    with pytest.raises(ph.UnsupportedError, match="float32 only"):
        ours.matmul(values.astype(float), values.T.astype(float))


def test_dispatcher_counts_transfers(device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a device the dispatcher calibrates it beside the others, and reports its choice and why."""
    found = dict(backends()) | {"gpu": GpuBackend(device)}
    monkeypatch.setattr("pyhybrid.dispatcher.backends", lambda: found)
    floors = {"min_size_for_gpu": 0, "min_size_for_cpp": 0, "min_size_for_c": 0}
    config = ph.BackendConfig(**floors, cache=tmp_path / "backends.json")
    dispatcher = ph.HybridDispatcher(config)
    monkeypatch.setattr("pyhybrid._calibration._PROBES", {"quantize": (1000, 4000)})
    choice = dispatcher.choose("quantize", 4000, np.float32)
    assert set(choice.seconds) == {"gpu", "simd", "c", "numpy"}
    assert choice.backend == min(choice.seconds, key=lambda name: choice.seconds[name])
    assert "gpu" in (tmp_path / "backends.json").read_text()
    assert _backends.LABELS["gpu"] == "GPU"
