"""Loss, gradients and updates beside an independent PyTorch model; needs the extra `peers`.

Each operator is isolated by weights that switch the others off (an output matrix of zeros), in fp32, against
PyTorch in fp64. The whole model is compared in fp32, and fake-quantised in two ways: on small models whose
values keep away from rounding ties, with the fp32 bound (parity.py), since all integers must be equal; and on
a model of the preset's width, where some of the 10^5 activations lie on a tie, against the scatter that
PyTorch's own fp32 shows around fp64.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from parity import (
    Array,
    U,
    backward_bound,
    draw_weights,
    forward_bound,
    gradients_of,
    relative_error,
    set_weights,
)

from pyhybrid._context import Context
from pyhybrid.benchmarks.adamw import adamw
from pyhybrid.config import BITS, ModelConfig, TrainingConfig
from pyhybrid.language_model import LanguageModel
from pyhybrid.quantization import PackedWeights, gemm, matmul, quantize, quantize_activations

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'pyhybrid[peers]'")

from pyhybrid.benchmarks import torch_model  # noqa: E402  (only where torch is)

_SHAPE: dict[str, Any] = {
    "vocab_size": 61, "dim": 48, "n_layers": 1, "n_heads": 4, "ffn_dim": 80, "max_context": 32,
}  # fmt: skip
_F32: dict[str, Any] = {**_SHAPE, "bits": 32, "embedding_bits": 32}
_FULL: dict[str, Any] = {
    "n_kv_heads": 2, "activation": "squared_relu", "sub_norms": True, "tied_embeddings": False,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Small tensors gain nothing from more."""
    torch.set_num_threads(1)


def _windows(config: ModelConfig, batch_size: int, context: int, seed: int = 0) -> Array:
    random = np.random.default_rng(seed)
    return random.integers(0, config.vocab_size, (batch_size, context + 1)).astype(np.uint32)


def _tensor(tokens: Array) -> Any:
    return torch.from_numpy(tokens.astype(np.int64))


def _peer(config: ModelConfig, weights: dict[str, Array], *, double: bool = True) -> Any:
    model = torch_model.Decoder(config)
    model.load(weights)
    return model.double() if double else model


def _peer_gradients(model: Any, tokens: Array) -> tuple[float, dict[str, Array]]:
    model.zero_grad()
    loss = model.loss(_tensor(tokens))
    loss.backward()
    return float(loss.detach()), model.gradients()


def _compare(config: ModelConfig, weights: dict[str, Array], tokens: Array) -> None:
    """Asserts equality of logits, loss and gradients within the fp32 bound."""
    ours = LanguageModel(config, context=Context(threads=1))
    set_weights(ours, weights)
    peer = _peer(config, weights)
    loss, gradients = gradients_of(ours, tokens)
    exact_loss, exact = _peer_gradients(peer, tokens)
    bound = backward_bound(config, tokens.shape[0] * (tokens.shape[1] - 1))
    assert abs(loss - exact_loss) <= bound * exact_loss
    assert set(gradients) == set(exact)
    errors = {name: relative_error(gradients[name], exact[name]) for name in exact if np.any(exact[name])}
    assert max(errors.values()) <= bound, errors
    for name in set(exact) - set(errors):
        assert not np.any(gradients[name]), name
    with torch.no_grad():
        logits = peer(_tensor(tokens[:1, :-1]))[0].numpy()
    assert relative_error(ours.logits(tokens[0, :-1]), logits) <= forward_bound(config, tokens.shape[1] - 1)


# ---- operators ----

# : Operator under test: changes of the configuration, and the output matrices that are zero, so that the rest
# is idle.
OPERATORS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "embedding, norm, tied head, cross-entropy": ({}, ("attn_output", "ffn_down")),
    "untied head": ({"tied_embeddings": False}, ("attn_output", "ffn_down")),
    "attention": ({}, ("ffn_down",)),
    "grouped-query attention": ({"n_kv_heads": 1}, ("ffn_down",)),
    "rotation with another base": ({"rope_theta": 100.0}, ("ffn_down",)),
    "attention sub-norm": ({"sub_norms": True}, ("ffn_down",)),
    "gated FFN with SiLU": ({}, ("attn_output",)),
    "gated FFN with squared ReLU": ({"activation": "squared_relu"}, ("attn_output",)),
    "FFN sub-norm": ({"sub_norms": True}, ("attn_output",)),
    "large epsilon": ({"norm_epsilon": 0.5}, ()),
}


@pytest.mark.parametrize("operator", OPERATORS)
def test_operator_matches_torch(operator: str) -> None:
    """Forward and backward of one operator agree with PyTorch in fp64 within the fp32 bound."""
    changes, zeros = OPERATORS[operator]
    config = ModelConfig(**(_F32 | changes))
    weights = draw_weights(LanguageModel(config), 8)
    for name in zeros:
        weights[f"blk.0.{name}"][:] = 0
    _compare(config, weights, _windows(config, 3, 32))


@pytest.mark.parametrize("bits", [bits for bits in BITS if bits != 32])
@pytest.mark.parametrize("scale", ["tensor", "row"])
@pytest.mark.parametrize("threshold", ["absmean", "lloyd"])
def test_quantize_matches_torch(bits: float, scale: str, threshold: str) -> None:
    """Codes and scales are those of the PyTorch quantiser, number by number."""
    random = np.random.default_rng(9)
    for shape in ((1, 1), (7, 33), (64, 128), (5, 1000)):
        weights = random.standard_normal(shape).astype(np.float32)
        ours = quantize(weights, bits=bits, scale=scale, threshold=threshold)
        codes, scales = torch_model.quantize_weights(
            torch.from_numpy(weights).double(), bits, scale, threshold
        )
        assert np.array_equal(ours.scales, scales.numpy().ravel())
        assert np.array_equal(ours.codes, codes.numpy())


def test_quantize_activations_matches_torch() -> None:
    """Codes are equal wherever fp64 is not on a rounding tie; scales are off by one rounding at most."""
    x = np.random.default_rng(10).standard_normal((50, 301)).astype(np.float32)
    x[3] = 0
    ours = quantize_activations(x)
    exact = torch.from_numpy(x).double()
    codes, scales = torch_model.quantize_activations(exact)
    assert np.allclose(ours.scales, scales.numpy().ravel(), rtol=2 * U, atol=0)
    differing = ours.codes != codes.numpy()
    position = np.abs(x[differing] / np.repeat(ours.scales, 301).reshape(x.shape)[differing])
    # Two roundings of a number up to 127.
    assert np.all(np.abs(position % 1 - 0.5) <= 127 * 4 * U)


def test_matmul_matches_torch() -> None:
    """Ternary x int8 sums are exactly torch._int_mm's."""
    random = np.random.default_rng(11)
    codes = random.integers(-1, 2, (64, 136)).astype(np.int8)
    x = random.integers(-127, 128, (40, 136)).astype(np.int8)
    expected = torch._int_mm(torch.from_numpy(x), torch.from_numpy(codes).t())
    assert np.array_equal(matmul(PackedWeights(codes, np.ones(1, np.float32)), x), expected.numpy())


@pytest.mark.parametrize("transpose", ["nn", "nt", "tn"])
def test_gemm_matches_torch(transpose: Any) -> None:
    """Every entry of the fp32 product is within k 2^-24 of the sum of magnitudes: k roundings."""
    random = np.random.default_rng(12)
    m, n, k = 37, 53, 129
    a = random.standard_normal((k, m) if transpose == "tn" else (m, k)).astype(np.float32)
    b = random.standard_normal((n, k) if transpose == "nt" else (k, n)).astype(np.float32)
    left, right = torch.from_numpy(a).double(), torch.from_numpy(b).double()
    left = left.t() if transpose == "tn" else left
    right = right.t() if transpose == "nt" else right
    error = np.abs(gemm(a, b, transpose) - (left @ right).numpy())
    assert np.all(error <= k * U * (left.abs() @ right.abs()).numpy())


def test_adamw_matches_torch() -> None:
    """Five updates with the same gradients leave torch.optim.AdamW's weights, clipping included."""
    config = ModelConfig(**_SHAPE)
    training = TrainingConfig(weight_decay=0.7, clip_norm=0.2)
    ours = LanguageModel(config, seed=5)
    peer = _peer(config, {name: np.array(p.values) for name, p in ours.parameters().items()})
    optimizer = torch_model.make_optimizer(peer, adamw(training, config), fused=False)
    ours.prepare(2, 16)
    for step in range(1, 6):
        rate = 1e-2 / step
        ours.gradients(_windows(config, 2, 16, step))
        for name, parameter in peer.parameter_names().items():
            gradient = np.array(ours.parameters()[name].gradient, np.float64)
            parameter.grad = torch.from_numpy(gradient).reshape(parameter.shape)
        torch.nn.utils.clip_grad_norm_(peer.parameters(), training.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        adamw(training, config).apply(ours, rate, step)
    for name, parameter in peer.parameter_names().items():
        exact = parameter.detach().numpy().ravel()
        # torch adds 1e-6 to the norm before it divides: 5e-6 of a clipped gradient, which AdamW's quotient
        # cancels but for epsilon. The rest: each update rounds the weight, and a step of at most a few rates
        # about 10 times.
        limit = 5 * 2 * U * np.abs(exact).max() + 30 * U * 5e-2 + 1e-6 * 5e-2
        assert np.abs(np.array(ours.parameters()[name].values).ravel() - exact).max() <= limit, name


# ---- the whole model ----


@pytest.mark.parametrize("full", [False, True], ids=["plain", "full"])
def test_whole_model_matches_torch_in_fp32(full: bool) -> None:
    """Loss, logits and every gradient of a three-layer fp32 model are PyTorch's within the fp32 bound."""
    config = ModelConfig(**(_F32 | {"n_layers": 3} | (_FULL if full else {})))
    _compare(config, draw_weights(LanguageModel(config), 13), _windows(config, 2, 29))


_TINY: dict[str, Any] = {
    "vocab_size": 23, "dim": 16, "n_layers": 2, "n_heads": 2, "ffn_dim": 24, "max_context": 8,
}  # fmt: skip


def _quantized(bits: float, scale: Any, threshold: Any, full: bool) -> ModelConfig:
    return ModelConfig(**_TINY, bits=bits, scale=scale, threshold=threshold, **(_FULL if full else {}))


QUANTIZED: dict[str, ModelConfig] = {
    f"{bits:g} bits, {scale}, {threshold}, {'full' if full else 'plain'}": _quantized(
        bits, scale, threshold, full
    )
    for bits, scale, threshold, full in (
        (1.58, "tensor", "absmean", False),
        (1.58, "tensor", "lloyd", True),
        (1.58, "row", "absmean", True),
        (1.58, "row", "lloyd", False),
        (1, "tensor", "absmean", True),
        (2, "tensor", "absmean", False),
        (4, "row", "absmean", True),
        (8, "tensor", "absmean", False),
    )
}


@pytest.mark.parametrize("name", QUANTIZED)
def test_whole_model_matches_torch_fake_quantised(name: str) -> None:
    """With every value away from rounding ties, a quantised model holds the fp32 bound."""
    config = QUANTIZED[name]
    ours = LanguageModel(config)
    # An activation is off by at most the forward bound's random-walk part: 1e-5 of the maximum is generous.
    for seed in range(500):
        weights, tokens = draw_weights(ours, seed), _windows(config, 1, 6, seed)
        activations, thresholds = _peer(config, weights).margins(_tensor(tokens[:, :-1]))
        if activations >= 127 * 1e-5 and thresholds >= 1e-5:
            break
    else:
        pytest.fail("no seed keeps away from ties")
    _compare(config, weights, tokens)


def _roundings(config: ModelConfig, weights: dict[str, Array]) -> list[Any]:
    """PyTorch models that differ from the fp64 one by rounding only: fp32, and gains off by a few units."""
    random, models = np.random.default_rng(14), [_peer(config, weights, double=False)]
    for _ in range(3):
        model = _peer(config, weights)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.mul_(torch.from_numpy(1 + 4 * U * random.standard_normal(parameter.shape)))
        models.append(model)
    return models


@pytest.mark.parametrize("bits", [1.58, 8])
def test_wide_quantised_model_is_as_close_as_torch_with_roundings(bits: float) -> None:
    """At the preset's width we are no farther from fp64 than twice what roundings do to PyTorch's own
    gradients.

    Of 4 x 10^5 activations some lie so near a tie that fp32 rounds them the other way, in PyTorch as here.
    """
    config = replace(
        ModelConfig(**_SHAPE),
        dim=128,
        n_layers=2,
        n_heads=4,
        n_kv_heads=4,
        ffn_dim=384,
        max_context=64,
        bits=bits,
    )
    ours = LanguageModel(config, seed=3)
    weights = {name: np.array(p.values) for name, p in ours.parameters().items()}
    exact, rounded = _peer(config, weights), _roundings(config, weights)
    our_errors, torch_errors = [], []
    for seed in range(4):
        tokens = _windows(config, 4, 64, seed)
        exact_loss, reference = _peer_gradients(exact, tokens)
        length = np.sqrt(sum(np.sum(g * g) for g in reference.values()))

        def errors(
            loss: float,
            gradients: dict[str, Array],
            exact_loss: float = exact_loss,
            reference: dict[str, Array] = reference,
            length: float = length,
        ) -> tuple[float, float]:
            squares = [np.sum(np.square(gradients[n].reshape(g.shape) - g)) for n, g in reference.items()]
            return abs(loss - exact_loss), float(np.sqrt(sum(squares)) / length)

        our_errors.append(errors(*gradients_of(ours, tokens)))
        torch_errors += [errors(*_peer_gradients(model, tokens)) for model in rounded]
    floor = backward_bound(config, 256)
    limit = 2 * np.max(torch_errors, axis=0) + floor
    assert np.all(np.max(our_errors, axis=0) <= limit), (our_errors, torch_errors)
    # What is compared must be rounding, not noise of the size of the gradient.
    assert limit[1] < 0.05


# ---- the PyTorch model itself ----


def test_torch_fake_quantisation_is_straight_through() -> None:
    """The peer's quantised product is integers times scales, with the gradients of a plain product."""
    config = ModelConfig(**_TINY)
    layer = torch_model.BitLinear(16, 24, config).double()
    x = torch.randn(
        5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True
    )
    y = layer(x)
    codes, scale = torch_model.quantize_weights(layer.weight, 1.58)
    x_codes, x_scales = torch_model.quantize_activations(x.detach())
    assert set(codes.ravel().tolist()) <= {-1.0, 0.0, 1.0}
    expected = (x_codes @ codes.t()) * x_scales * scale
    assert torch.allclose(y, expected, rtol=1e-12)
    dy = torch.ones_like(y)
    y.backward(dy)
    assert torch.allclose(x.grad, dy @ (codes * scale), rtol=1e-12)
    assert torch.allclose(layer.weight.grad, dy.t() @ (x_codes * x_scales), rtol=1e-12)


def test_torch_cache_gives_the_logits_of_the_whole_sequence() -> None:
    """The peer's key-value cache, fed token by token, reproduces its full forward pass."""
    config = ModelConfig(**(_F32 | {"n_kv_heads": 2}))
    model = _peer(config, draw_weights(LanguageModel(config), 3), double=False)
    tokens = _tensor(_windows(config, 1, 9))
    caches = [torch_model.KeyValueCache(config, 1, 10) for _ in model.layers]
    with torch.no_grad():
        whole = model(tokens)[0]
        parts = [model(tokens[:, :4], caches)[0]]
        parts += [model(tokens[:, i : i + 1], caches)[0] for i in range(4, 10)]
    assert torch.allclose(torch.cat(parts), whole, rtol=0, atol=1e-4)


def test_golden_recipe_gives_the_committed_gradients() -> None:
    """The committed goldens are what the PyTorch model computes today."""
    from test_gradients import GOLDENS, Golden

    for path in GOLDENS:
        golden = Golden(path)
        weights = {name: np.array(p.values) for name, p in golden.model.parameters().items()}
        loss, gradients = _peer_gradients(_peer(golden.config, weights), golden.tokens)
        assert loss == pytest.approx(golden.loss, rel=1e-12)
        for name, stored in golden.gradients.items():
            assert relative_error(gradients[name], stored) <= 2 * U, name
