"""Helpers of test_gradients and test_torch_parity: loading weights, and the bounds that comparisons are held
to.

The bound. One fp32 operation is off by at most u = 2^-24 relative to its result, a sum of n products by n u
relative to the norms (Higham 2002, "Accuracy and Stability of Numerical Algorithms", section 3.1). A decoder
is a chain of such steps: per layer about 12 (two norms, seven products, rotation, softmax, gate), 4 around
them. So the forward pass is within (12 n_layers + 4) n u, n the longest sum; the backward pass walks the
chain once more: twice that. All differences are Euclidean norms over a tensor, relative to the norm of the
exact tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyhybrid.config import ModelConfig
from pyhybrid.language_model import LanguageModel

Array = NDArray[Any]
#: Unit roundoff of fp32.
U = 2.0**-24


def forward_bound(config: ModelConfig, n_context: int) -> float:
    """Largest relative error of the logits in fp32."""
    longest = max(config.dim, config.ffn_dim, n_context)
    return (12 * config.n_layers + 4) * longest * U


def backward_bound(config: ModelConfig, n_tokens: int) -> float:
    """Largest relative error of a gradient in fp32; a weight's gradient is a sum over all n_tokens tokens."""
    longest = max(config.dim, config.ffn_dim, config.vocab_size, n_tokens)
    return 2 * (12 * config.n_layers + 4) * longest * U


def relative_error(ours: Array, exact: Array) -> float:
    """Euclidean norm of the difference by the norm of `exact`; shapes may differ by dimensions of 1."""
    a = np.asarray(ours, np.float64).squeeze()
    b = np.asarray(exact, np.float64).squeeze()
    assert a.shape == b.shape
    difference = float(np.linalg.norm(a - b))
    return difference / float(np.linalg.norm(b)) if difference else 0.0


def set_weights(model: LanguageModel, weights: Mapping[str, Array]) -> None:
    """Writes master weights by name; the names must be the model's."""
    parameters = model.parameters()
    assert set(parameters) == set(weights)
    for name, parameter in parameters.items():
        assert parameter.values is not None
        parameter.values[:] = weights[name]
    model.touch()


def draw_weights(model: LanguageModel, seed: int) -> dict[str, Array]:
    """Random weights that leave no operator idle: gains around 1, matrices of N(0, 1 / columns)."""
    random = np.random.default_rng(seed)
    weights: dict[str, Array] = {}
    for name, parameter in model.parameters().items():
        rows, columns = parameter.shape
        values = random.standard_normal((rows, columns))
        if name.endswith("norm"):
            values = 1 + 0.2 * values
        elif name.startswith("blk."):
            values /= np.sqrt(columns)
        else:
            values *= 0.7
        weights[name] = values.astype(np.float32)
    return weights


def gradients_of(
    model: LanguageModel, tokens: Array, *, backward: str = "fp32"
) -> tuple[float, dict[str, Array]]:
    """Loss and a copy of every gradient of a batch uint32 [B, T + 1]; exact products unless told."""
    model.prepare(tokens.shape[0], tokens.shape[1] - 1, backward=backward)
    loss = model.gradients(tokens).loss
    found = {}
    for name, parameter in model.parameters().items():
        assert parameter.gradient is not None
        found[name] = parameter.gradient.copy()
    return loss, found
