"""ModelConfig to the C configuration and back, and checks of plain values that several wrappers share.

Place in the data flow: between config.py and the C calls of language_model.py and model_file.py.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from pyhybrid._errors import InvalidArgumentError
from pyhybrid._native import ffi, lib
from pyhybrid.config import ModelConfig
from pyhybrid.quantization import FORMAT_BITS, GRANULARITIES, THRESHOLDS, bits_to_format, choose

__all__ = [
    "check_seed",
    "check_size",
    "config_from_struct",
    "config_to_struct",
    "encode_path",
    "name_of",
    "parse_metadata",
    "physical_memory",
]

_ACTIVATIONS = {"silu": lib.HYB_ACTIVATION_SILU, "squared_relu": lib.HYB_ACTIVATION_SQUARED_RELU}


def _shortest(value: float) -> float:
    """The shortest decimal that gives this binary32 number: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def config_to_struct(config: ModelConfig) -> Any:
    """Returns a ModelConfig as a C configuration.

    Raises:
        InvalidArgumentError: config is no ModelConfig.
    """
    if not isinstance(config, ModelConfig):
        raise InvalidArgumentError(f"config is {type(config).__name__}; give a ModelConfig")
    struct = ffi.new("hyb_language_model_config *")
    struct.struct_size = ffi.sizeof("hyb_language_model_config")
    for name in (
        "vocab_size",
        "dim",
        "n_layers",
        "n_heads",
        "ffn_dim",
        "max_context",
        "rope_theta",
        "norm_epsilon",
    ):
        setattr(struct, name, getattr(config, name))
    struct.n_kv_heads = config.kv_heads
    struct.activation = choose(_ACTIVATIONS, config.activation, "activation")
    struct.sub_norms = int(config.sub_norms)
    struct.tied_embeddings = int(config.tied_embeddings)
    struct.linear_format = bits_to_format(config.bits)
    struct.linear_granularity = choose(GRANULARITIES, config.scale, "scale")
    struct.linear_threshold = choose(THRESHOLDS, config.threshold, "threshold")
    struct.embedding_format = bits_to_format(config.embedding_bits)
    return struct


def name_of(table: Mapping[str, int], code: int) -> Any:
    """Returns the name of an option by its C value."""
    return next(name for name, value in table.items() if value == code)


def config_from_struct(struct: Any) -> ModelConfig:
    """Returns a C configuration as a ModelConfig.

    Args:
        struct: hyb_language_model_config pointer.
    """
    return ModelConfig(
        vocab_size=struct.vocab_size,
        dim=struct.dim,
        n_layers=struct.n_layers,
        n_heads=struct.n_heads,
        n_kv_heads=struct.n_kv_heads,
        ffn_dim=struct.ffn_dim,
        max_context=struct.max_context,
        rope_theta=_shortest(struct.rope_theta),
        norm_epsilon=_shortest(struct.norm_epsilon),
        activation=name_of(_ACTIVATIONS, struct.activation),
        sub_norms=bool(struct.sub_norms),
        tied_embeddings=bool(struct.tied_embeddings),
        bits=FORMAT_BITS[struct.linear_format],
        scale=name_of(GRANULARITIES, struct.linear_granularity),
        threshold=name_of(THRESHOLDS, struct.linear_threshold),
        embedding_bits=FORMAT_BITS[struct.embedding_format],
    )


def physical_memory() -> int | None:
    """Bytes of memory of this machine, or of the group that the process is confined to; None if unknown."""
    limits = []
    with contextlib.suppress(AttributeError, OSError, ValueError):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with (
        contextlib.suppress(OSError, ValueError),  # ValueError: "max" is no limit
        open("/sys/fs/cgroup/memory.max", encoding="ascii") as file,
    ):
        limits.append(int(file.read()))
    return min(limits, default=None)


def check_seed(seed: int) -> int:
    """Returns a seed that a uint64 holds.

    Raises:
        InvalidArgumentError: it is no such number.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**64:
        raise InvalidArgumentError(f"seed is {seed!r}; give a whole number from 0 to 2^64 - 1")
    return int(seed)


def encode_path(path: str | os.PathLike[str]) -> bytes:
    """Returns a file's name as C takes it.

    Raises:
        InvalidArgumentError: it is empty or holds a NUL.
    """
    encoded = os.fsencode(path)
    if not encoded or b"\0" in encoded:
        raise InvalidArgumentError(f"path is {os.fspath(path)!r}; give the name of a file")
    return encoded


def check_size(value: Any, name: str) -> int:
    """Returns a whole number that a size_t holds.

    Raises:
        InvalidArgumentError: it is no such number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 0 <= value < 2**63:
        raise InvalidArgumentError(f"{name} is {value!r}; give a whole number that is not negative")
    return int(value)


def parse_metadata(raw: bytes) -> dict[str, Any]:
    """Returns a file's metadata section as a dictionary; what is no JSON object stands under "text"."""
    text = raw.decode("utf-8", "replace")
    try:
        parsed = json.loads(text) if text else {}
    except ValueError:
        parsed = text
    return parsed if isinstance(parsed, dict) else {"text": parsed}
