"""Loss and gradients without PyTorch: committed goldens of an independent fp64 model, and finite differences.

The goldens' recipe is tests/data/make_goldens.py; the bounds are derived in parity.py.
"""

from __future__ import annotations

import json
from pathlib import Path
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
from pyhybrid._errors import InvalidArgumentError
from pyhybrid.config import ModelConfig
from pyhybrid.language_model import LanguageModel

GOLDENS = sorted((Path(__file__).resolve().parent.parent / "data").glob("golden_*.npz"))
NAMES = {path.stem.removeprefix("golden_") for path in GOLDENS}


def _split(flat: Array, layout: dict[str, list[int]]) -> dict[str, Array]:
    ends = np.cumsum([int(np.prod(shape)) for shape in layout.values()])
    parts = np.split(flat, ends[:-1])
    return {name: part.reshape(shape) for (name, shape), part in zip(layout.items(), parts, strict=True)}


class Golden:
    """A golden file, and our model with its weights."""

    def __init__(self, path: Path, isa: Any = None) -> None:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        layout = json.loads(str(arrays["layout"]))
        self.config = ModelConfig(**json.loads(str(arrays["config"])))
        self.tokens = arrays["tokens"]
        self.loss, self.logits = float(arrays["loss"]), arrays["logits"]
        self.margin = float(arrays["activation_margin"])
        self.gradients = _split(arrays["gradients"], layout)
        self.model = LanguageModel(self.config, context=Context(threads=1, isa=isa))
        set_weights(self.model, _split(arrays["weights"], layout))


def test_goldens_cover_every_format() -> None:
    """A golden exists for fp32, ternary, binary, 2, 4 and 8 bits, and for every architecture option."""
    assert {"f32", "f32_full", "ternary", "ternary_full", "int8", "int4", "int2", "binary"} <= NAMES


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
def test_logits_match_golden(path: Path) -> None:
    """The inference path gives the golden logits within fp32 rounding, quantised or not."""
    golden = Golden(path)
    logits = golden.model.logits(golden.tokens[0, :-1])
    assert relative_error(logits, golden.logits) <= forward_bound(golden.config, golden.tokens.shape[1] - 1)


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
@pytest.mark.parametrize("isa", [None, "scalar"], ids=["best", "scalar"])
def test_loss_and_gradients_match_golden(path: Path, isa: str | None) -> None:
    """Loss and each parameter's gradient are the golden's, straight-through estimator included."""
    golden = Golden(path, isa)
    n_tokens = golden.tokens.shape[0] * (golden.tokens.shape[1] - 1)
    bound = backward_bound(golden.config, n_tokens)
    loss, gradients = gradients_of(golden.model, golden.tokens)
    assert abs(loss - golden.loss) <= bound * golden.loss
    assert set(gradients) == set(golden.gradients)
    errors = {name: relative_error(gradients[name], exact) for name, exact in golden.gradients.items()}
    assert max(errors.values()) <= bound, errors


def test_golden_margins_exclude_other_codes() -> None:
    """Each quantised golden keeps a margin above the error bound, so equal codes are a fact, not luck."""
    for path in GOLDENS:
        golden = Golden(path)
        # In steps of the int8 code: 127 steps are the row's maximum.
        assert golden.margin >= 127 * 2e-6


# ---- finite differences ----

_SHAPE: dict[str, Any] = {
    "vocab_size": 37, "dim": 36, "n_layers": 2, "n_heads": 6, "ffn_dim": 52, "max_context": 16, "bits": 32,
    "embedding_bits": 32,
}  # fmt: skip
VARIANTS = {
    "plain": ModelConfig(**_SHAPE),
    "grouped": ModelConfig(**_SHAPE, n_kv_heads=2),
    "squared_relu": ModelConfig(**_SHAPE, activation="squared_relu"),
    "sub_norms": ModelConfig(**_SHAPE, sub_norms=True),
    "untied": ModelConfig(**_SHAPE, tied_embeddings=False),
    "everything": ModelConfig(
        **_SHAPE, n_kv_heads=3, activation="squared_relu", sub_norms=True, tied_embeddings=False
    ),
}


class Slope:
    """Directional derivatives of our own loss by central differences with Richardson's extrapolation."""

    def __init__(self, model: LanguageModel, tokens: Array, noise: float) -> None:
        self.model, self.tokens, self.noise = model, tokens, noise

    def _loss(self) -> float:
        self.model.touch()
        n_tokens: int = self.tokens.shape[0] * (self.tokens.shape[1] - 1)
        return float(self.model.loss_sum(self.tokens)) / n_tokens

    def along(self, values: Array, direction: Array, step: float) -> tuple[float, float]:
        """The derivative of the loss at `values` along `direction`, and how far it may be off.

        The loss is rounded in fp32 on its way: each difference is uncertain by `noise`. What is left of the
        truncation after the extrapolation is below half of what the extrapolation changed.
        """
        start, slopes = values.copy(), []
        for h in (step, step / 2):
            ends = []
            for sign in (1, -1):
                values[:] = start + np.float32(sign * h) * direction
                ends.append(self._loss())
            slopes.append((ends[0] - ends[1]) / (2 * h))
        values[:] = start
        better = (4 * slopes[1] - slopes[0]) / 3
        return better, abs(slopes[1] - slopes[0]) / 2 + 3 * self.noise / step


@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_match_finite_differences(name: str) -> None:
    """Each tensor's gradient agrees with differences of our loss, along itself and at random."""
    config = VARIANTS[name]
    model = LanguageModel(config, context=Context(threads=1))
    set_weights(model, draw_weights(model, 5))
    random = np.random.default_rng(6)
    tokens = random.integers(0, config.vocab_size, (4, 13)).astype(np.uint32)
    loss, gradients = gradients_of(model, tokens)
    # Rounding of the logits, averaged over the tokens: the chain's 28 operations as a random walk.
    noise = float(np.sqrt(12 * config.n_layers + 4)) * U * loss
    slope, bound = Slope(model, tokens, noise), backward_bound(config, 48)
    for parameter in model.parameters().values():
        values, gradient = parameter.values, gradients[parameter.name].astype(np.float64)
        assert values is not None
        length = float(np.linalg.norm(values))
        norm = float(np.linalg.norm(gradient))
        aside = random.standard_normal(values.shape)
        for kind, raw in (("along", gradient), ("random", aside)):
            # As long as the tensor itself, so that a step is a relative change.
            direction = (raw * (length / np.linalg.norm(raw))).astype(np.float32)
            expected = float(np.sum(gradient * direction))
            found, uncertainty = slope.along(values, direction, 2.0**-8)
            full = norm * length  # the derivative along the gradient
            assert uncertainty <= 0.05 * full, f"{parameter.name} {kind}: the test is blind"
            assert abs(found - expected) <= uncertainty + bound * full, f"{parameter.name} {kind}"


INTEGER = {
    "ternary": ModelConfig(**(_SHAPE | {"bits": 1.58, "embedding_bits": 8})),
    "rows": ModelConfig(**(_SHAPE | {"bits": 1.58, "embedding_bits": 8}), scale="row", sub_norms=True),
    "int4": ModelConfig(**(_SHAPE | {"bits": 4, "embedding_bits": 8}), n_kv_heads=2, tied_embeddings=False),
}


@pytest.mark.parametrize("name", INTEGER)
def test_integer_gradients_are_near_those_of_fp32(name: str) -> None:
    """Each gradient of the integer backward pass points where the fp32 one does; the head's are the same.

    Rounding to 1 / 127 of the largest of values that are near normal (the largest 3 to 4 deviations) is off
    by sqrt(1 / 12) * 3.5 / 127 = 0.8 % of them. A gradient comes out of up to 4 products a layer, each with
    an independent error, and the weights' own: sqrt(9) * 0.8 % = 2.4 %; the bound is twice that.
    """
    model = LanguageModel(INTEGER[name], context=Context(threads=1))
    set_weights(model, draw_weights(model, 5))
    tokens = np.random.default_rng(6).integers(0, 37, (4, 17)).astype(np.uint32)
    loss, exact = gradients_of(model, tokens)
    integer_loss, found = gradients_of(model, tokens, backward="int8")
    assert integer_loss == loss
    for parameter, gradient in exact.items():
        assert relative_error(found[parameter], gradient) <= 0.05, parameter
        a, b = gradient.ravel().astype(np.float64), found[parameter].ravel().astype(np.float64)
        assert a @ b >= 0.998 * np.linalg.norm(a) * np.linalg.norm(b), parameter
    assert np.array_equal(found["final_norm"], exact["final_norm"])
    assert not np.array_equal(found["blk.1.ffn_down"], exact["blk.1.ffn_down"])


def test_backward_is_of_no_account_for_fp32_matrices() -> None:
    """A model without quantised matrices has the same gradients and memory in both modes."""
    config = ModelConfig(**_SHAPE)
    model = LanguageModel(config, context=Context(threads=2))
    tokens = np.random.default_rng(6).integers(0, 37, (2, 17)).astype(np.uint32)
    _, exact = gradients_of(model, tokens)
    _, found = gradients_of(model, tokens, backward="int8")
    assert all(np.array_equal(found[name], exact[name]) for name in exact)
    estimates = {
        LanguageModel.memory_estimate(config, 2, 16, backward=kind).training_bytes
        for kind in ("int8", "fp32")
    }
    assert len(estimates) == 1


def test_unknown_backward_is_refused() -> None:
    """Another name is an error that lists the known ones."""
    model = LanguageModel(ModelConfig(**_SHAPE))
    with pytest.raises(InvalidArgumentError, match="backward"):
        model.prepare(1, 8, backward="int4")


def test_finite_differences_notice_a_wrong_gradient() -> None:
    """A gradient that is off by 10 % along itself is outside the uncertainty: the test above can fail."""
    config = VARIANTS["everything"]
    model = LanguageModel(config, context=Context(threads=1))
    set_weights(model, draw_weights(model, 5))
    tokens = np.random.default_rng(6).integers(0, config.vocab_size, (4, 13)).astype(np.uint32)
    loss, gradients = gradients_of(model, tokens)
    slope = Slope(model, tokens, float(np.sqrt(28)) * U * loss)
    parameter = model.parameters()["blk.0.attn_q"]
    gradient = gradients["blk.0.attn_q"].astype(np.float64)
    assert parameter.values is not None
    length, norm = float(np.linalg.norm(parameter.values)), float(np.linalg.norm(gradient))
    found, uncertainty = slope.along(
        parameter.values, (gradient * (length / norm)).astype(np.float32), 2.0**-8
    )
    assert abs(found - 1.1 * norm * length) > uncertainty + backward_bound(config, 48) * norm * length


def test_loss_of_training_is_that_of_inference() -> None:
    """`gradients` reports the loss that `loss_sum` finds, up to rounding: codes may move by a step."""
    for bits, bound in ((32.0, 1e-6), (1.58, 1e-3)):
        config = ModelConfig(**(_SHAPE | {"bits": bits, "embedding_bits": 8 if bits != 32 else 32}))
        model = LanguageModel(config, seed=2)
        tokens = np.random.default_rng(1).integers(0, 37, (3, 9)).astype(np.uint32)
        loss, _ = gradients_of(model, tokens)
        assert abs(model.loss_sum(tokens) / 24 - loss) <= bound * loss


def test_gradient_norm_is_that_of_all_gradients() -> None:
    """The reported norm is the Euclidean norm over every parameter."""
    model = LanguageModel(ModelConfig(**_SHAPE), seed=3)
    tokens = np.random.default_rng(2).integers(0, 37, (2, 17)).astype(np.uint32)
    model.prepare(2, 16)
    statistics = model.gradients(tokens)
    gradients = [np.asarray(p.gradient, np.float64) for p in model.parameters().values()]
    total = sum(float(np.sum(g * g)) for g in gradients)
    assert statistics.gradient_norm == pytest.approx(np.sqrt(total), rel=1e-12)


def test_apply_is_adamw_with_decay_on_matrices() -> None:
    """Three updates follow AdamW's formula in fp64: clipping, bias correction, decay on matrices only."""
    config = ModelConfig(**(_SHAPE | {"bits": 1.58, "embedding_bits": 8}))
    model = LanguageModel(config, seed=4)
    random = np.random.default_rng(3)
    rate, beta1, beta2, epsilon, decay, clip = 1e-2, 0.8, 0.99, 1e-8, 0.5, 0.3
    model.prepare(2, 8)
    weights = {name: np.array(p.values, np.float64) for name, p in model.parameters().items()}
    first = {name: np.zeros_like(w) for name, w in weights.items()}
    second = {name: np.zeros_like(w) for name, w in weights.items()}
    for step in (1, 2, 3):
        norm = model.gradients(random.integers(0, 37, (2, 9)).astype(np.uint32)).gradient_norm
        assert norm > clip
        for name, parameter in model.parameters().items():
            g = np.array(parameter.gradient, np.float64) * (clip / norm)
            first[name] = beta1 * first[name] + (1 - beta1) * g
            second[name] = beta2 * second[name] + (1 - beta2) * g * g
            update = first[name] / (1 - beta1**step) / (np.sqrt(second[name] / (1 - beta2**step)) + epsilon)
            is_matrix = name.startswith("blk.") and not name.endswith("norm")
            weights[name] -= rate * (update + (decay if is_matrix else 0.0) * weights[name])
        model.apply(
            learning_rate=rate, step=step, beta1=beta1, beta2=beta2, epsilon=epsilon, weight_decay=decay,
            clip_norm=clip,
        )  # fmt: skip
        for name, parameter in model.parameters().items():
            # A rounded weight (U of it) and a step of at most a few rates with about 10 roundings.
            limit = step * (2 * U * np.abs(weights[name]).max() + 30 * U * rate)
            assert np.abs(np.array(parameter.values, np.float64) - weights[name]).max() <= limit, name
