"""The numbers of operations that the shares of the limits are computed with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pyhybrid.benchmarks.operations import decode_bytes, step_operations
from pyhybrid.config import ModelConfig
from pyhybrid.language_model import LanguageModel

CONFIG = ModelConfig(dim=24, n_layers=2, n_heads=4, n_kv_heads=2, ffn_dim=40, max_context=16, vocab_size=256)


def test_a_step_is_counted_like_by_hand() -> None:
    """Every matrix of the model, three times; every pair of tokens that attention sees, head by head."""
    batch, context = 3, 5
    parameters = LanguageModel(CONFIG).parameters().items()
    products = sum(p.values.size for n, p in parameters if n.startswith("blk.") and "norm" not in n)
    attention = 0
    for _ in range(CONFIG.n_layers * batch * CONFIG.n_heads):
        for query in range(context):
            for _ in range(query + 1):
                attention += 2 * (CONFIG.dim // CONFIG.n_heads)  # one product of a query and a key
    head = 2 * batch * context * 256 * CONFIG.dim
    counted = step_operations(CONFIG, batch, context)
    assert counted.int8 == 3 * 2 * batch * context * products + head
    assert counted.fp32 == 6 * attention + 2 * head


@pytest.mark.parametrize("bits", [32, 8])
def test_the_arithmetic_follows_the_formats(bits: float) -> None:
    """fp32 matrices have no integer products; the total does not depend on the formats."""
    config = replace(CONFIG, bits=bits, embedding_bits=bits)
    counted = step_operations(config, 2, 8, "fp32")
    assert (counted.int8 == 0) == (bits == 32)
    assert sum(counted) == sum(step_operations(CONFIG, 2, 8))


def test_a_token_reads_the_weights_and_its_cache() -> None:
    """fp32 keys and values of every layer and earlier position."""
    assert decode_bytes(1000, CONFIG, 10) == 1000 + 10 * CONFIG.n_layers * 2 * 2 * (24 // 4) * 4
