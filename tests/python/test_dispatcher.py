"""The dispatcher: equal results on every backend, choices by floors and calibration, the cache file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyhybrid as ph
from pyhybrid import cli
from pyhybrid._backends import backends
from pyhybrid._calibration import Calibration, cache_path
from pyhybrid.compat import backends as facades
from pyhybrid.dispatcher import AdaptiveDispatcher, BackendConfig, HybridDispatcher, describe_backends

PRESENT = [name for name, backend in backends().items() if backend.reason is None]
F32 = np.dtype(np.float32)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def _times(**seconds: float) -> dict[str, Any]:
    return {
        f"{operation}/{dtype}": {name: [[1e3, s * 1e-3], [1e6, s]] for name, s in seconds.items()}
        for operation in ("quantize", "constrain", "matmul", "kmeans")
        for dtype in ("float32", "float64")
    }


def _write_cache(**seconds: float) -> None:
    """A calibration in which a million values take so many seconds, on this machine's key."""
    key = Calibration(backends(), None).key
    cache_path().parent.mkdir(parents=True, exist_ok=True)
    cache_path().write_text(json.dumps({"format": 1, "machines": {key: _times(**seconds)}}))


# ---- results ----


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_backends_give_the_same_bits(dtype: type, rng: np.random.Generator) -> None:
    """quantize and constrain are equal bit for bit; kmeans labels are equal from one start."""
    values, points = rng.normal(0, 0.7, 100_001).astype(dtype), rng.normal(size=(900, 7)).astype(dtype)
    dispatcher, found = HybridDispatcher(), {}
    for name in PRESENT:
        short = dispatcher.constrain(values, 1.5, backend=name)
        clusters = dispatcher.kmeans(points, 5, backend=name, init=points[:5])
        found[name] = [dispatcher.quantize(values, scale=0.1, backend=name), *short, clusters.labels]
        assert clusters.centroids.shape == (5, 7)
    for name in PRESENT:
        for one, other in zip(found[name], found["numpy"], strict=True):
            assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def test_matmul_on_every_backend(rng: np.random.Generator) -> None:
    """float32 products agree within the rounding of their sums; float64 runs on NumPy, others say why not."""
    a, b = rng.normal(size=(33, 65)), rng.normal(size=(65, 17))
    dispatcher = HybridDispatcher()
    exact, bound = a @ b, np.abs(a) @ np.abs(b) * 70 * 2.0**-24
    for name in PRESENT:
        found = dispatcher.matmul(a.astype(F32), b.astype(F32), backend=name)
        assert (np.abs(found - exact) <= bound).all()
    assert np.array_equal(dispatcher.matmul(a, b), exact)
    assert "float32 only" in dispatcher.explain("matmul", 10**9, np.float64)
    with pytest.raises(ph.UnsupportedError, match="float32 only"):
        dispatcher.matmul(a, b, backend="cpp")


def test_kmeans_honours_n_clusters(rng: np.random.Generator) -> None:
    """As many clusters as asked for; more than points are reduced with a warning."""
    points = rng.normal(size=(40, 3)).astype(F32)
    for name in PRESENT:
        labels, centroids = HybridDispatcher().kmeans(points, 3, backend=name, random_state=1)
        assert centroids.shape == (3, 3)
        assert set(labels.tolist()) == {0, 1, 2}
        with pytest.warns(UserWarning, match="n_clusters=50 is more than the 40 points"):
            assert len(HybridDispatcher().kmeans(points, 50, backend=name).centroids) == 40


@pytest.mark.parametrize("name", PRESENT)
def test_bad_input_is_refused_by_every_backend(name: str) -> None:
    """NaN, wrong shapes and wrong types raise, whatever runs."""
    dispatcher = HybridDispatcher()
    with pytest.raises(ph.NotFiniteError):
        dispatcher.quantize([np.nan, 1.0], backend=name)
    with pytest.raises(ph.NotFiniteError):
        dispatcher.constrain([np.inf, 1.0], 1.0, backend=name)
    with pytest.raises(ph.NotFiniteError):
        dispatcher.kmeans([[np.nan], [1.0]], 1, backend=name)
    with pytest.raises(ph.InvalidArgumentError, match="do not fit"):
        dispatcher.matmul(np.ones((2, 3), F32), np.ones((2, 3), F32), backend=name)
    with pytest.raises(ph.InvalidArgumentError, match="dtype"):
        dispatcher.quantize(np.array(["a"]), backend=name)
    with pytest.raises(ph.InvalidArgumentError, match="init has shape"):
        dispatcher.kmeans(np.ones((5, 2)), 2, init=np.ones((3, 2)), backend=name)
    with pytest.raises(ph.InvalidArgumentError):
        dispatcher.constrain([1.0], -1.0, backend=name)
    with pytest.raises(ph.InvalidArgumentError, match="levels"):
        dispatcher.quantize([1.0], levels=4, backend=name)  # type: ignore[arg-type]
    for scale in (np.inf, np.nan, "x"):
        with pytest.raises(ph.InvalidArgumentError, match="scale"):
            dispatcher.quantize([1.0], scale=scale, backend=name)  # type: ignore[arg-type]
    with pytest.raises(ph.InvalidArgumentError, match="tol is -1"):
        dispatcher.kmeans(np.ones((5, 2)), 2, backend=name, tol=-1)
    with pytest.raises(ph.InvalidArgumentError, match="n_clusters is 0"):
        dispatcher.kmeans(np.ones((5, 2)), 0, backend=name)
    assert dispatcher.quantize(np.empty(0), backend=name).size == 0
    with pytest.raises(TypeError):
        dispatcher.kmeans(np.ones((5, 2)), 2, backend=name, clusters=3)


# ---- choices ----


def test_config_takes_keywords_and_attributes() -> None:
    """Both documented forms work; what is unknown or impossible is an error."""
    config = BackendConfig(prefer_gpu=False, min_size_for_gpu=5, verbose=False, benchmark_mode=False)
    config.min_size_for_c = 7
    assert (config.min_size_for_c, BackendConfig().min_size_for_cpp) == (7, 100_000)
    with pytest.raises(TypeError):
        BackendConfig(prefer_tpu=True)  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        config.prefer_tpu = True  # type: ignore[attr-defined]
    with pytest.raises(ph.InvalidArgumentError, match="min_size_for_c is -1"):
        BackendConfig(min_size_for_c=-1)
    config.prefer_c = "yes"  # type: ignore[assignment]
    with pytest.raises(ph.InvalidArgumentError, match="prefer_c is 'yes'"):
        HybridDispatcher(config).quantize(np.zeros(20_000, F32))


def test_choice_follows_floors_preferences_and_calibration() -> None:
    """Below the floors NumPy; above, the fastest of the calibration; without one, the order of preference."""
    _write_cache(simd=2e-4, c=1e-4, numpy=1e-3)
    dispatcher = HybridDispatcher()
    assert dispatcher.choose("quantize", 9_999).backend == "numpy"
    assert dispatcher.choose("quantize", 50_000).backend == "c"
    choice = dispatcher.choose("quantize", 5_000_000)
    assert choice.backend == "c"  # faster than simd in this calibration
    assert choice.rejected["gpu"] == backends()["gpu"].reason
    assert choice.seconds == pytest.approx({"simd": 1e-3, "c": 5e-4, "numpy": 5e-3})
    assert "below min_size_for_cpp=100,000" in dispatcher.explain("quantize", 50_000)
    assert HybridDispatcher(BackendConfig(calibrate=False)).choose("quantize", 5_000_000).backend == "simd"
    only = HybridDispatcher(BackendConfig(prefer_cpp=False, prefer_c=False))
    assert only.choose("quantize", 5_000_000).backend == "numpy"
    assert only.get_backend_info()["preferred_order"] == ["NumPy"]
    _write_cache(simd=2e-4, c=1e-4, numpy=1e-6)
    assert HybridDispatcher().choose("quantize", 5_000_000).backend == "numpy"
    with pytest.raises(ph.InvalidArgumentError, match="operation is 'sort'"):
        dispatcher.choose("sort", 10)


def test_absent_backend_is_said() -> None:
    """A backend that was asked for and is absent raises; information gives the reason."""
    reason = backends()["gpu"].reason
    assert reason is not None
    for name in ("gpu", "GPU"):
        with pytest.raises(ph.UnsupportedError, match=re.escape(reason)):
            HybridDispatcher().quantize([1.0], backend=name)
    with pytest.raises(ph.InvalidArgumentError, match="backend is 'tpu'"):
        HybridDispatcher().quantize([1.0], backend="tpu")
    info = ph.create_auto_dispatcher().get_backend_info()
    assert (info["numpy"], info["c"], info["cpp"], info["gpu"]) == (True, True, True, False)
    assert info["preferred_order"] == ["C++", "C", "NumPy"]
    assert info["reasons"] == {"gpu": reason}


def test_metrics_count_every_operation(capsys: pytest.CaptureFixture[str]) -> None:
    """Plain calls are counted and timed; benchmark runs every backend; verbose prints the choice."""
    _write_cache(simd=1e-4, c=2e-4, numpy=1e-3)
    dispatcher = HybridDispatcher(BackendConfig(verbose=True))
    values = np.zeros(200_000, F32)
    dispatcher.quantize(values)
    dispatcher.quantize(values[:10])
    metrics = dispatcher.get_metrics()
    assert metrics["total_operations"] == 2
    assert {name: entry["count"] for name, entry in metrics["backend_summary"].items()} == {
        "simd": 1,
        "numpy": 1,
    }
    entry = metrics["backend_summary"]["simd"]
    assert 0 < entry["min_time_ms"] <= entry["avg_time_ms"] <= entry["max_time_ms"] <= entry["total_time_ms"]
    assert "quantize of 200,000 float32 values: simd: the fastest" in capsys.readouterr().out
    dispatcher.constrain(values, 1.0, benchmark=True)
    assert dispatcher.get_metrics()["operations"]["constrain"] == dict.fromkeys(PRESENT, 1)


def test_thresholds_follow_the_calibration() -> None:
    """A backend that beats NumPy from the start gets the lowest floor; what is missing is recommended."""
    _write_cache(simd=1e-4, c=2e-3, numpy=1e-3)
    dispatcher = AdaptiveDispatcher()
    assert dispatcher.update_thresholds().min_size_for_cpp == 100
    assert dispatcher.config.min_size_for_c == 10_000  # never faster: stays
    assert dispatcher.recommend_compilation() == [f"GPU: {backends()['gpu'].reason}"]


# ---- the cache ----


def test_calibration_is_measured_once_and_kept() -> None:
    """The first use measures and writes; the second reads; another machine's entries stay."""
    cache_path().parent.mkdir(parents=True)
    cache_path().write_text(json.dumps({"format": 1, "machines": {"another": {"x": {}}}}))
    first = Calibration(backends(), cache_path())
    seconds = first.seconds("quantize", F32, "numpy", 50_000)
    assert seconds > 0
    assert "another" in json.loads(cache_path().read_text())["machines"]
    second = Calibration(backends(), cache_path())
    second.measure = None  # type: ignore[assignment,method-assign] - must not be called
    assert second.seconds("quantize", F32, "numpy", 50_000) == seconds
    assert [path.name for path in cache_path().parent.iterdir()] == ["backends.json"]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"format": 9, "machines": {}}',
        b'{"format": 1, "machines": 3}',
        b"[" * 100_000,
    ],
)
def test_calibration_survives_a_damaged_file(text: bytes) -> None:
    """Whatever the file holds, it is measured anew and replaced; the trouble is said."""
    cache_path().parent.mkdir(parents=True)
    cache_path().write_bytes(text)
    calibration = Calibration(backends(), cache_path())
    assert calibration.trouble is not None
    assert calibration.seconds("quantize", F32, "c", 1000) > 0
    assert json.loads(cache_path().read_text())["format"] == 1


@pytest.mark.parametrize("times", [[[1, -1]], [[1]], "x", [], [[2, 1], [1, 1]], [[1, float("nan")]], None])
def test_calibration_ignores_impossible_times(times: Any) -> None:
    """Entries that cannot have been written are measured anew."""
    key = Calibration(backends(), None).key
    cache_path().parent.mkdir(parents=True)
    cache_path().write_text(json.dumps({"format": 1, "machines": {key: {"quantize/float32": {"c": times}}}}))
    assert Calibration(backends(), cache_path()).seconds("quantize", F32, "c", 1000) > 0


def test_calibration_without_a_writable_folder(tmp_path: Path) -> None:
    """A folder that cannot be made costs nothing but the trouble's note."""
    blocker = tmp_path / "file"
    blocker.write_text("")
    calibration = Calibration(backends(), blocker / "folder" / "backends.json")
    assert calibration.seconds("quantize", F32, "c", 1000) > 0
    assert "cannot be kept" in str(calibration.trouble)


def test_cache_path_honours_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """XDG_CACHE_HOME where it is absolute, else ~/.cache; switched off, no file is written."""
    assert cache_path() == tmp_path / "pyhybrid" / "backends.json"
    HybridDispatcher(BackendConfig(keep_calibration=False)).quantize(np.zeros(20_000, F32))
    assert not cache_path().exists()
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_path() == tmp_path / ".cache" / "pyhybrid" / "backends.json"


# ---- command line and facades ----


def test_command_backends(capsys: pytest.CaptureFixture[str]) -> None:
    """The table and the JSON hold the same choices."""
    _write_cache(simd=1e-4, c=2e-4, numpy=1e-3)
    assert cli.main(["backends"]) == 0
    text = capsys.readouterr().out
    assert f"absent: {backends()['gpu'].reason}" in text
    assert cli.main(["backends", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(json.dumps(describe_backends()))
    assert [backend["name"] for backend in found["backends"]] == ["gpu", "simd", "c", "numpy"]
    assert {c["backend"] for c in found["choices"] if c["size"] == 10_000_000} == {"simd"}


def test_gpu_facades_warn_of_what_runs_instead(rng: np.random.Generator) -> None:
    """Without a GPU the classes name what runs; asked not to use it they do not warn."""
    assert ph.HAS_GPU is False
    values = rng.normal(size=1000).astype(F32)
    with pytest.warns(UserWarning, match="GPUQuantizer: .*; the C core runs instead"):
        quantizer = ph.GPUQuantizer(scale=0.5)
    assert np.array_equal(quantizer.quantize(values), ph.quantize_levels(values, scale=0.5))
    assert ph.GPUQuantizer(use_gpu=False).backend.name == "numpy"
    with pytest.warns(UserWarning, match="GPUTrainingBackend"):
        assert ph.GPUTrainingBackend().get_device_info()["gpu_available"] is False


def test_facades_of_the_c_core(rng: np.random.Generator) -> None:
    """Every class of the documents computes what its name says."""
    values = rng.normal(size=1000).astype(F32)
    expected = ph.quantize_levels(values)
    for quantizer in (ph.CPPQuantizer(), ph.CQuantizer(), ph.CQuantizer(use_c=False)):
        assert np.array_equal(quantizer.quantize(values), expected)
    assert np.array_equal(ph.CQuantizer().quantize_block(values, block_size=64), expected)
    assert np.array_equal(ph.CQuantizer().quantize_simd(values), expected)
    gradient, error = ph.GPUQuantizer(use_gpu=False).quantize_gradients_gpu(values)
    assert error == pytest.approx(float(np.linalg.norm(gradient - values)), rel=1e-6)
    assert len(np.unique(gradient)) <= 5
    assert ph.CMatrixOps().dot_product(values, values) == pytest.approx(float(values @ values), rel=1e-5)
    assert ph.CMatrixOps().vector_magnitude(values) == pytest.approx(float(np.linalg.norm(values)), rel=1e-6)
    short, active = ph.CConstraintOperator().constrain_norm(values, 0.5)
    assert active
    assert np.array_equal(short, ph.CPPOptimizationStep().apply_constraint(values, 0.5)[0])
    points = rng.normal(size=(60, 2))
    model = ph.CPPKMeans(4, random_state=0).fit(points)
    assert np.array_equal(model.predict(points), model.labels)
    with pytest.raises(ph.StateError, match="not fitted"):
        ph.CPPKMeans(4).predict(points)
    batch = ph.GPUMatrixOps(use_gpu=False).batch_matmul(np.ones((2, 3, 4)), np.ones((2, 4, 5)))
    assert np.array_equal(batch, np.full((2, 3, 5), 4.0))
    assert ph.CHybridOptimizer().get_backend_info()["isa"] == "scalar"
    assert ph.CPPHybridOptimizer().get_backend_info()["name"] == "simd"
    assert (facades._HAS_C, facades._HAS_CPP, facades.GPU_AVAILABLE) == (True, True, False)
    with pytest.raises(ph.InvalidArgumentError, match="empty"):
        ph.GPUQuantizer(use_gpu=False).quantize_gradients_gpu([])
