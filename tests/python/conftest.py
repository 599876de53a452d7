"""Fixtures that the Python tests share: small models, a text, other processes, and tiers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyhybrid import Context, LanguageModel, ModelConfig
from pyhybrid._context import detected_isa
from pyhybrid.cuda import Device

ROOT = Path(__file__).resolve().parent.parent.parent
#: Tiers that HYB_ISA knows on this family of processors, the lowest first.
TIERS = ("scalar", "avx2", "avx512", "lookup")
TEXT = "The quick brown fox jumps over the lazy dog. " * 40


def tier_available(tier: str) -> bool:
    """True if this processor has a tier."""
    return (
        tier == "scalar"
        or detected_isa().startswith(tier)
        or (tier == "avx2" and detected_isa().startswith("avx"))
        or (tier == "lookup" and detected_isa() == "avx512vnni")
    )


def small_config(**changes: Any) -> ModelConfig:
    """A model that runs in milliseconds; odd sizes, so that every kernel has a tail."""
    values: dict[str, Any] = {
        "vocab_size": 256,
        "dim": 40,
        "n_layers": 2,
        "n_heads": 4,
        "n_kv_heads": 2,
        "ffn_dim": 72,
        "max_context": 48,
    }
    return ModelConfig(**(values | changes))


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed."""
    return np.random.default_rng(20240607)


@pytest.fixture
def config() -> ModelConfig:
    """The shape of `small_config`."""
    return small_config()


@pytest.fixture
def model(config: ModelConfig) -> LanguageModel:
    """A trainable model with random weights."""
    return LanguageModel(config, seed=1)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of a model file that has learned TEXT for a few steps, so that its output is not noise alone."""
    model = LanguageModel(small_config(), seed=3, context=Context(threads=1))
    tokens = np.frombuffer(TEXT.encode(), np.uint8).astype(np.uint32)
    rows = np.stack([tokens[i : i + 33] for i in range(0, 45 * 8, 45)])
    model.prepare(len(rows), 32)
    for step in range(1, 61):
        model.gradients(np.roll(rows, step, axis=0))
        model.apply(learning_rate=5e-3, step=step, clip_norm=1.0)
    path = tmp_path_factory.mktemp("model") / "trained.hyb"
    model.save(path, {"note": "for tests", "training": {"context": 32}})
    return str(path)


@pytest.fixture
def python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python with arguments in another process; keyword arguments are environment variables."""

    def run(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            # -P: never the source folder, which has no compiled part, only what is installed
            [sys.executable, "-P", *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **environment},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture(params=TIERS)
def tier(request: pytest.FixtureRequest) -> str:
    """Each tier that this processor has; the others are skipped visibly."""
    name = str(request.param)
    if not tier_available(name):
        pytest.skip(f"this processor has no {name}")
    return name


@pytest.fixture(scope="session")
def emulated_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CUDA module compiled for the CPU, so that what is above it is tested without a GPU."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler for the emulated CUDA module")
    path = tmp_path_factory.mktemp("cuda") / "libhybrid_cuda_emulated.so"
    flags = "-std=c++17 -O1 -fPIC -shared -fvisibility=hidden -ffp-contract=off -fno-strict-aliasing -pthread"
    folders = [f"-I{ROOT / folder}" for folder in ("cuda/emulation", "cuda", "include")]
    sources = [str(source) for source in sorted((ROOT / "cuda").glob("*.cu"))]
    subprocess.run(
        [compiler, *flags.split(), *folders, "-x", "c++", *sources, "-o", str(path)], check=True, timeout=600
    )
    return path


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    """A device that is emulated on the CPU; with HYB_TEST_DEVICE=gpu the real one."""
    is_real = os.environ.get("HYB_TEST_DEVICE") == "gpu"
    opened = Device(library=None if is_real else request.getfixturevalue("emulated_module"))
    yield opened
    opened.close()
