"""Tests of the optimiser's moments in 8 bits as the package shows them: arrays, bytes, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from pyhybrid import InvalidArgumentError, LanguageModel
from pyhybrid._state_8bit import decode_moment
from pyhybrid.checkpoint import Checkpoint, CheckpointError, read_tensors, write_tensors
from pyhybrid.config import ConfigError, ModelConfig, TrainingConfig

SHAPE = ModelConfig(vocab_size=64, dim=32, n_layers=1, n_heads=2, ffn_dim=300, max_context=16)
WIDE = ModelConfig(vocab_size=256, dim=512, n_layers=2, n_heads=8, ffn_dim=1024, max_context=16)
TOKENS = np.arange(34, dtype=np.uint32).reshape(2, 17) % 11


def trained(optimizer: str, bits: int, steps: int = 3) -> LanguageModel:
    """A model behind a few updates."""
    model = LanguageModel(SHAPE, seed=2)
    model.prepare(2, 16, optimizer=optimizer, state_bits=bits)
    for number in range(1, steps + 1):
        model.gradients(TOKENS)
        if optimizer == "adamw":
            model.apply(learning_rate=1e-3, step=number)
        else:
            model.apply_trust_region(learning_rate=1e-3, radius=0.05, step=number)
    return model


@pytest.mark.parametrize("optimizer", ["adamw", "spectral", "rms", "l2"])
def test_moments_are_codes_that_stand_for_those_of_fp32(optimizer: str) -> None:
    """Codes and scales have their shapes; decoded they are near what fp32 moments would be."""
    full, coded = trained(optimizer, 32, 1).parameters(), trained(optimizer, 8, 1).parameters()
    for name, p in coded.items():
        assert p.first_moment is None
        assert p.second_moment is None
        assert p.state_8bit["first_codes"].dtype == np.uint8
        assert p.state_8bit["first_codes"].shape == p.shape
        assert p.state_8bit["first_scales"].shape == (p.shape[0], -(-p.shape[1] // 256))
        assert ("second_codes" in p.state_8bit) == (full[name].second_moment is not None)
        assert set(p.state_8bit) <= set(p.optimizer_state)
        assert full[name].state_8bit == {}
        expected = full[name].moments()
        assert set(p.moments()) == set(expected)
        for kind, found in p.moments().items():
            largest = np.abs(expected[kind]).max()
            near = largest / 3000 if kind == "first_moment" else largest * 1e-6
            assert np.all(np.abs(found - expected[kind]) <= np.abs(expected[kind]) / 7 + near)


def test_arrays_are_the_models_memory() -> None:
    """What is written into them is what the next update reads."""
    model = trained("adamw", 8)
    before = model.parameters()["blk.0.attn_q"].moments()["first_moment"]
    model.parameters()["blk.0.attn_q"].state_8bit["first_scales"][:] *= 2
    assert np.array_equal(model.parameters()["blk.0.attn_q"].moments()["first_moment"], 2 * before)


def test_memory_is_a_quarter() -> None:
    """The estimate falls by 47.75 bits a parameter, and the arrays have the bytes that it says."""
    full, coded = (LanguageModel.memory_estimate(WIDE, 1, 8, state_bits=bits) for bits in (32, 8))
    n = LanguageModel.count_of(WIDE).total
    assert 47.7 < 8 * (full.training_bytes - coded.training_bytes) / n < 47.76
    assert full == LanguageModel.memory_estimate(WIDE, 1, 8)
    model = LanguageModel(WIDE)
    model.prepare(1, 8, state_bits=8)
    held = sum(a.nbytes for p in model.parameters().values() for a in p.optimizer_state.values())
    assert 16.24 < 8 * held / n < 16.3


def test_other_bits_are_refused() -> None:
    """By the configuration, by prepare and by the estimate, each with the choices."""
    for value in (16, 4, 0, True, "8", None):
        with pytest.raises(ConfigError, match=r"training\.state_bits = .*give 32 or 8"):
            TrainingConfig(state_bits=value)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgumentError, match="give 32 or 8"):
            LanguageModel(SHAPE).prepare(1, 8, state_bits=value)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgumentError, match="give 32 or 8"):
            LanguageModel.memory_estimate(SHAPE, 1, 8, state_bits=value)  # type: ignore[arg-type]
    assert TrainingConfig().state_bits == 32
    assert TrainingConfig(state_bits=8).state_bits == 8


def test_codes_and_scales_must_fit() -> None:
    """Their shapes belong together."""
    codes = np.zeros((2, 257), np.uint8)
    assert not decode_moment("second", codes, np.zeros((2, 2), np.float32)).any()
    with pytest.raises(InvalidArgumentError, match="scales"):
        decode_moment("second", codes, np.zeros((2, 1), np.float32))


def test_files_keep_bytes_and_refuse_another_type(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """uint8 arrays come back as they were; an array of the same shape but another type is not overwritten."""
    tensors = {"codes": np.arange(6, dtype=np.uint8).reshape(2, 3), "scales": np.ones((2, 1), np.float32)}
    write_tensors(tmp_path / "tensors.safetensors", tensors)
    found = read_tensors(tmp_path / "tensors.safetensors")
    assert found["codes"].dtype == np.uint8
    assert all(np.array_equal(found[name], array) for name, array in tensors.items())
    other = {"codes": np.zeros((2, 3), np.float32), "scales": np.zeros((2, 1), np.float32)}
    with pytest.raises(CheckpointError, match="'codes' is of type uint8"):
        Checkpoint(tmp_path, 1, {}).restore(other)
    assert not other["scales"].any()
