"""How much arithmetic and memory traffic a model asks for: the amounts of the rows' limits.

Place in the data flow: training.py and generation.py give these numbers to the `Limit`s of their rows.
Counted are the products (a multiplication and an addition are two operations), which is nearly all of the
arithmetic; norms, rotations, softmax and the optimiser's update are not.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from pyhybrid.config import ModelConfig

__all__ = ["Operations", "decode_bytes", "step_operations"]


class Operations(NamedTuple):
    """Operations by the arithmetic that they are done in."""

    int8: float
    fp32: float


def _linear_parameters(config: ModelConfig) -> int:
    """Weights of all layers' matrices: query, key, value, output; gate, up, down."""
    dim, head_dim = config.dim, config.dim // config.n_heads
    kv_dim = head_dim * (config.n_kv_heads or config.n_heads)
    return config.n_layers * (2 * dim * dim + 2 * dim * kv_dim + 3 * dim * config.ffn_dim)


def step_operations(
    config: ModelConfig, batch_size: int, context: int, backward: Literal["int8", "fp32"] = "int8"
) -> Operations:
    """Operations of the products of one training step.

    A matrix is used three times: in the forward pass, for the gradient of its input, for its own. Attention
    makes two causal products forward and four backward; only pairs of a token and an earlier one, or itself,
    count. The head's gradients are fp32 products, see `backward` of TrainingConfig.

    Args:
        config: shape and formats.
        batch_size: sequences a step.
        context: tokens a sequence.
        backward: arithmetic of the quantised layers' gradients.
    """
    tokens = batch_size * context
    linear, head = 2.0 * tokens * _linear_parameters(config), 2.0 * tokens * config.vocab_size * config.dim
    pairs = batch_size * context * (context + 1) // 2
    attention = 2.0 * config.n_layers * pairs * config.dim
    int8 = fp32 = 0.0
    for amount, bits, integer_backward in (
        (linear, config.bits, backward == "int8"),
        (head, config.embedding_bits, False),
    ):
        forward_int8 = amount if bits < 32 else 0.0
        backward_int8 = 2 * amount if bits < 32 and integer_backward else 0.0
        int8 += forward_int8 + backward_int8
        fp32 += 3 * amount - forward_int8 - backward_int8
    return Operations(int8, fp32 + 6 * attention)


def decode_bytes(weight_bytes: int, config: ModelConfig, position: float) -> float:
    """Bytes that must be read to generate one token: the weights once, and the cached keys and values.

    Args:
        weight_bytes: of all packed matrices with their scales, the head included.
        config: shape.
        position: tokens in the cache, on average.
    """
    kv_dim = config.dim // config.n_heads * (config.n_kv_heads or config.n_heads)
    return weight_bytes + 2.0 * 4 * position * config.n_layers * kv_dim
