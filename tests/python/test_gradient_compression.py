"""Gradient compression: bytes and values, feedback by name, in place on a model, cosines, and bad input."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pyhybrid import (
    Context,
    FileFormatError,
    InvalidArgumentError,
    LanguageModel,
    NotFiniteError,
    decode_gradient,
    encode_gradient,
    pack,
)
from pyhybrid._run_update import make_update
from pyhybrid.config import ModelConfig, TrainingConfig
from pyhybrid.gradient_compression import CompressionStatistics, GradientCompressor, SignalTracker

KINDS = [("row", 64), ("block", 32), ("block", 64), ("five", 64)]


def make(kind: tuple[str, int], *, error_feedback: bool = True) -> GradientCompressor:
    scheme: Any = kind[0]
    return GradientCompressor(scheme, block_size=kind[1], error_feedback=error_feedback)


def bfloat16(scales: np.ndarray) -> np.ndarray:
    """Nearest bfloat16 values, ties to even."""
    bits = np.asarray(scales, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return np.asarray(rounded.astype(np.uint32).view(np.float32))


def reference_row(x: np.ndarray, scheme: str) -> np.ndarray:
    """What a row's codes stand for, in double precision but for the scale's last rounding."""
    x = x.astype(np.float64)
    if scheme == "five":
        scale = float(bfloat16(np.array([math.sqrt((x * x).mean())]))[0])
        return np.clip(np.rint(x / scale), -2, 2) * scale
    magnitudes = np.abs(x)
    threshold = 0.75 * magnitudes.mean()
    for _ in range(3):
        threshold = 0.8 * magnitudes[magnitudes > threshold].mean() - 0.6 * threshold
    scale = float(bfloat16(np.array([magnitudes[magnitudes > threshold].mean()]))[0])
    return np.sign(x) * (magnitudes > threshold) * scale


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (7, 64), (6, 200), (2, 1000)])
def test_values_equal_the_reference(
    kind: tuple[str, int], shape: tuple[int, int], rng: np.random.Generator
) -> None:
    """Without feedback a row's values are those of the definition; a few lie at a threshold."""
    gradient = (rng.standard_t(4, shape) * 1e-3).astype(np.float32)
    values = make(kind, error_feedback=False).round_trip("g", gradient)
    size = kind[1] if kind[0] == "block" else shape[1]
    expected = np.stack(
        [
            np.concatenate([reference_row(row[i : i + size], kind[0]) for i in range(0, row.size, size)])
            for row in gradient
        ]
    )
    different = np.abs(values - expected) > 1e-6 * np.abs(expected)
    assert different.mean() <= 0.005


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(40,), (13, 77), (3, 5, 50)])
def test_bytes_give_the_values(
    kind: tuple[str, int], shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    """compress, decompress and round_trip agree, in place or not, and leave the same residual."""
    gradient = rng.normal(size=shape).astype(np.float32)
    first, second, third = make(kind), make(kind), make(kind)
    for _ in range(3):
        values = np.empty_like(gradient)
        compressed = first.compress("g", gradient, out=values)
        assert compressed.shape == shape
        assert np.array_equal(first.decompress(compressed), values)
        assert np.array_equal(second.round_trip("g", gradient), values)
        in_place = gradient.copy()
        assert third.round_trip("g", in_place, out=in_place) is in_place
        assert np.array_equal(in_place, values)
        assert np.array_equal(first.residuals["g"], second.residuals["g"])
        assert np.array_equal(first.residuals["g"], third.residuals["g"])
    assert compressed.nbytes == len(compressed.data) == first.statistics["g"].bytes
    assert compressed.bits_per_value == first.statistics["g"].bits_per_value


def test_bits_of_a_value(rng: np.random.Generator) -> None:
    """Bytes are real: 1.6 bits and a scale a row, 1.85 with blocks of 64, 2.33 for five levels."""
    gradient = rng.normal(size=(256, 960)).astype(np.float32)
    bits = {kind: make(kind).compress("g", gradient).bits_per_value for kind in KINDS}
    assert bits["row", 64] == pytest.approx(1.6 + 16 / 960)
    assert bits["block", 64] == pytest.approx(1.6 + 16 / 64)
    assert bits["block", 32] == pytest.approx(1.6 + 16 / 32)
    assert bits["five", 64] == pytest.approx(7 / 3 + 16 / 960)
    row = make(("row", 64), error_feedback=False).compress("g", gradient[:1])
    codes = np.sign(make(("row", 64)).decompress(row)).astype(np.int8)
    assert row.data[:192] == pack(codes, "base3").tobytes()


def test_statistics_are_those_of_the_step(rng: np.random.Generator) -> None:
    """Cosine and norm ratio are to this step's gradient, the residual left out, alone and over all names."""
    compressor = GradientCompressor("row")
    gradients = {name: rng.normal(size=(20, 70)).astype(np.float32) * 10.0**-k for k, name in enumerate("ab")}
    for _ in range(3):
        values = {name: compressor.round_trip(name, gradient) for name, gradient in gradients.items()}
    for names in ("a", "b", "ab"):
        true = np.concatenate([gradients[name].ravel() for name in names]).astype(np.float64)
        sent = np.concatenate([values[name].ravel() for name in names]).astype(np.float64)
        found = compressor.total() if len(names) == 2 else compressor.statistics[names]
        norms = np.linalg.norm(true), np.linalg.norm(sent)
        assert found.cosine == pytest.approx(true @ sent / norms[0] / norms[1], rel=1e-5)
        assert found.norm_ratio == pytest.approx(norms[1] / norms[0], rel=1e-5)
        assert found.values == true.size
    zeros = compressor.round_trip("zeros", np.zeros((3, 4)))
    assert not zeros.any()
    assert compressor.statistics["zeros"].cosine == 1
    assert math.isnan(compressor.statistics["zeros"].norm_ratio)


#: Least cosine of one step on Gaussian rows of 960, and on rows of Laplace numbers: theory and measurement.
COSINES = {("row", 64): (0.897, 0.84), ("block", 64): (0.89, 0.84), ("five", 64): (0.95, 0.91)}


@pytest.mark.parametrize("kind", COSINES)
def test_one_step_keeps_what_theory_says(kind: tuple[str, int], rng: np.random.Generator) -> None:
    """The least-squares ternary code of Gaussian numbers has cosine 0.9; one step never reaches 0.99."""
    for gradient, least in zip(
        (rng.normal(size=(64, 960)), rng.laplace(size=(64, 960))), COSINES[kind], strict=True
    ):
        compressor = make(kind, error_feedback=False)
        compressor.round_trip("g", gradient.astype(np.float32))
        assert least < compressor.total().cosine < 0.99
        if kind[0] != "five":  # a least-squares scale shrinks by the cosine
            assert compressor.total().norm_ratio == pytest.approx(compressor.total().cosine, abs=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_feedback_makes_sums_follow(kind: tuple[str, int], rng: np.random.Generator) -> None:
    """With feedback the sums' cosine passes 0.985 in 20 steps and 0.999 in 200; without it is behind."""
    signal = rng.normal(size=(16, 320)).astype(np.float32) * 0.3
    cosines = {}
    for feedback in (True, False):
        compressor, tracker = make(kind, error_feedback=feedback), SignalTracker()
        for step in range(1, 201):
            gradient = signal + rng.normal(size=signal.shape).astype(np.float32)
            tracker.add("g", gradient, compressor.round_trip("g", gradient))
            if step in (20, 200):
                cosines[feedback, step] = tracker.statistics().cosine
        assert tracker.steps == 200
    assert cosines[True, 20] > 0.985
    assert cosines[True, 200] > 0.999
    assert cosines[True, 200] > cosines[False, 200]


def test_model_gradients_in_place(model: LanguageModel, rng: np.random.Generator) -> None:
    """The gradients of a model are replaced in place, used by the update, and it learns."""
    model.prepare(4, 40)
    tokens = np.tile(rng.integers(0, 256, (1, 41)), (4, 1)).astype(np.uint32)
    compressor, losses = GradientCompressor("block"), []
    gradients = {name: p.gradient for name, p in model.parameters().items()}
    for step in range(1, 31):
        losses.append(model.gradients(tokens).loss)
        for name, gradient in gradients.items():
            before = gradient.copy()
            assert compressor.round_trip(name, gradient, out=gradient) is gradient
            assert not np.array_equal(before, gradient)
        model.apply(learning_rate=3e-3, step=step)
    assert losses[-1] < 0.7 * losses[0]
    assert 0.7 < compressor.total().cosine < 1
    assert compressor.total().values == sum(gradient.size for gradient in gradients.values())


def test_state_resumes_bit_for_bit(rng: np.random.Generator) -> None:
    """A compressor that was given another's state goes on as that one would; residuals are copies."""
    first, second = GradientCompressor("five"), GradientCompressor("five")
    gradients = rng.normal(size=(6, 9, 50)).astype(np.float32)
    for gradient in gradients[:3]:
        first.round_trip("g", gradient)
    state = first.state()
    second.restore(state)
    for gradient in gradients[3:]:
        assert np.array_equal(first.round_trip("g", gradient), second.round_trip("g", gradient))
    assert not np.array_equal(state["g"], first.residuals["g"])
    first.reset("g")
    assert not first.residuals
    first.reset("unknown")
    second.reset()
    assert not second.residuals


def test_threads_and_tiers_agree(tier: str, rng: np.random.Generator) -> None:
    """Every tier and number of threads gives the same bytes and residuals."""
    gradient = rng.standard_t(3, (130, 517)).astype(np.float32)
    for scheme in ("row", "block", "five"):
        expected = GradientCompressor(scheme, context=Context(threads=1, isa="scalar"))  # type: ignore[arg-type]
        data = expected.compress("g", gradient).data
        for threads in (1, 2):
            context = Context(threads=threads, isa=tier)  # type: ignore[arg-type]
            other = GradientCompressor(scheme, context=context)  # type: ignore[arg-type]
            assert other.compress("g", gradient).data == data
            assert np.array_equal(other.residuals["g"], expected.residuals["g"])


@pytest.mark.parametrize("bad", [math.nan, math.inf, 3e16])
def test_not_finite_is_refused(bad: float, rng: np.random.Generator) -> None:
    """NaN, infinity and what is too large are named with their place; the residual starts afresh."""
    compressor = GradientCompressor("row")
    gradient = rng.normal(size=(5, 30)).astype(np.float32)
    compressor.round_trip("layer", gradient)
    gradient[3, 7] = bad
    with pytest.raises(NotFiniteError, match=r"layer: .*row 3, column 7"):
        compressor.round_trip("layer", gradient)
    assert "layer" not in compressor.residuals
    gradient[3, 7] = 0
    assert np.isfinite(compressor.round_trip("layer", gradient)).all()


def test_bad_input_is_named(rng: np.random.Generator) -> None:
    """Each refused value is named, with what is allowed."""
    for arguments, words in (
        ({"scheme": "sign"}, "'row', 'block', 'five'"),
        ({"scheme": "block", "block_size": 48}, "32 or 64"),
    ):
        with pytest.raises(InvalidArgumentError, match=words):
            GradientCompressor(**arguments)  # type: ignore[arg-type]
    compressor = GradientCompressor("row")
    compressor.round_trip("g", np.ones((2, 3)))
    for gradient, words in (
        (np.ones((3, 2)), "residual"),
        (np.ones((0, 2)), "nothing to compress"),
        (np.full((2, 3), 0.1), "float32"),
        (np.array([["a"]]), "dtype"),
    ):
        with pytest.raises(InvalidArgumentError, match=words):
            compressor.round_trip("g", gradient)
    with pytest.raises(InvalidArgumentError, match="out"):
        compressor.round_trip("g", np.ones((2, 3)), out=np.empty((3, 2), np.float32))
    with pytest.raises(InvalidArgumentError, match="name"):
        compressor.round_trip(3, np.ones((2, 3)))  # type: ignore[arg-type]
    tracker = SignalTracker()
    assert tracker.steps == 0
    assert tracker.statistics().cosine == 1
    with pytest.raises(InvalidArgumentError, match="shapes"):
        tracker.add("g", np.ones(3), np.ones(4))
    assert CompressionStatistics(1, 0, 0, 0, 0).cosine == 0


def test_bytes_from_anywhere_are_safe(rng: np.random.Generator) -> None:
    """Cut, grown and changed bytes are refused or give finite values; impossible shapes are refused."""
    for kind in KINDS:
        compressor = make(kind)
        good = compressor.compress("g", rng.normal(size=(4, 101)).astype(np.float32))
        for data in (b"", good.data[:-1], good.data + b"\0"):
            with pytest.raises(FileFormatError, match="bytes"):
                compressor.decompress(replace(good, data=data))
        with pytest.raises(FileFormatError, match="row 0"):
            compressor.decompress(replace(good, data=b"\xff" * len(good.data)))
        for _ in range(200):
            data = bytearray(good.data)
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
            try:
                values = compressor.decompress(replace(good, data=bytes(data)))
            except FileFormatError:
                continue
            assert np.isfinite(values).all()
        for shape in ((0, 4), (-1, 101), (2**40, 2**40), (4.0, 101)):
            with pytest.raises((InvalidArgumentError, FileFormatError)):
                compressor.decompress(replace(good, shape=shape))  # type: ignore[arg-type]
        with pytest.raises(InvalidArgumentError):
            compressor.decompress(replace(good, block_size=7))


# ---- as an option of training ----

TRAINING_SHAPE = ModelConfig(vocab_size=60, dim=32, n_layers=2, n_heads=2, ffn_dim=64, max_context=32)


def _train(steps: int = 8, **fields: Any) -> tuple[LanguageModel, list[dict[str, Any]]]:
    """A model after some updates with the configuration's optimiser, and their metrics."""
    config = TrainingConfig(steps=steps, batch_size=4, context=24, **fields)
    model, update = LanguageModel(TRAINING_SHAPE, seed=3), make_update(config, TRAINING_SHAPE)
    model.prepare(4, 24, optimizer=update.kind)
    metrics = []
    for number in range(1, steps + 1):
        tokens = np.random.default_rng(number).integers(0, 60, (4, 25)).astype(np.uint32)
        gradients = model.gradients(tokens)
        metrics.append(update.apply(model, gradients, multiplier=1.0, number=number))
    return model, metrics


@pytest.mark.parametrize("optimizer", ["adamw", "hybrid"])
@pytest.mark.parametrize(
    ("scheme", "least", "bits"), [("row", 0.7, 2.6), ("block", 0.8, 2.3), ("five_level", 0.85, 3.3)]
)
def test_training_uses_what_the_message_decodes_to(
    scheme: str, least: float, bits: float, optimizer: str
) -> None:
    """The update equals one by hand from decoded bytes; embedding and gains keep their gradients."""
    options: Any = {"optimizer": optimizer, "gradient_compression": scheme}
    model, metrics = _train(3, **options)
    by_hand = LanguageModel(TRAINING_SHAPE, seed=3)
    config = TrainingConfig(steps=3, batch_size=4, context=24, optimizer=options["optimizer"])
    update = make_update(config, TRAINING_SHAPE)
    by_hand.prepare(4, 24, optimizer=update.kind)
    worker = GradientCompressor({"five_level": "five"}.get(scheme, scheme))  # type: ignore[arg-type]
    for number in range(1, 4):
        tokens = np.random.default_rng(number).integers(0, 60, (4, 25)).astype(np.uint32)
        gradients = by_hand.gradients(tokens)
        for name, p in by_hand.parameters().items():
            assert p.gradient is not None
            if name.startswith("blk.") and "norm" not in name:
                p.gradient[...] = worker.decompress(worker.compress(name, p.gradient))
        squares = sum(float(np.vdot(p.gradient, p.gradient)) for p in by_hand.parameters().values())  # type: ignore[arg-type]
        seen = gradients._replace(gradient_norm=math.sqrt(squares))
        update.apply(by_hand, seen, multiplier=1.0, number=number)
    for name, p in model.parameters().items():
        wanted = by_hand.parameters()[name].values
        assert p.values is not None
        assert wanted is not None
        # The network sees the norm, which was added up in another order here.
        assert p.values == pytest.approx(wanted, abs=1e-6), name
    assert metrics[0]["gradient_cosine"] > least
    assert all(
        0.5 < metric["gradient_cosine"] < 1 for metric in metrics
    )  # what was fed back is not this step's
    total, linear = model.count()
    inside = (metrics[0]["gradient_bits"] * total - 32 * (total - linear)) / linear
    assert 1.6 < inside < bits


def test_uncompressed_training_has_no_such_metrics() -> None:
    """The default leaves the gradients alone."""
    assert "gradient_cosine" not in _train(1)[1][0]


def test_probe_leaves_no_residual() -> None:
    """Measuring the speed before a run changes nothing that the run starts from."""
    config = TrainingConfig(steps=2, batch_size=4, context=24, gradient_compression="row")
    model, update = LanguageModel(TRAINING_SHAPE, seed=3), make_update(config, TRAINING_SHAPE)
    model.prepare(4, 24, optimizer=update.kind)
    model.gradients(np.random.default_rng(1).integers(0, 60, (4, 25)).astype(np.uint32))
    update.probe(model)
    residuals = update.arrays(model)
    assert set(residuals) == {
        f"residual.{name}" for name, p in model.parameters().items() if p.is_layer_matrix
    }
    assert not any(residual.any() for residual in residuals.values())


# ---- messages ----


@pytest.mark.parametrize("shape", [(1,), (7,), (21,), (22,), (3, 5), (64, 129), (130, 384), (2, 3, 64)])
@pytest.mark.parametrize(("scheme", "block_size"), [("row", 0), ("block", 32), ("block", 64), ("five", 0)])
def test_coded_messages_return_bit_for_bit(
    scheme: Any, block_size: int, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    """Whatever the shape; large ones take fewer bytes."""
    compressor = GradientCompressor(scheme, **({"block_size": block_size} if block_size else {}))
    compressed = compressor.compress("g", rng.standard_normal(shape).astype(np.float32))
    message = encode_gradient(compressed)
    assert decode_gradient(message, shape, scheme, block_size) == compressed
    if math.prod(shape) > 5000:
        assert len(message) < 0.99 * compressed.nbytes


def test_ternary_message_takes_less_than_a_bit_and_six_tenths(rng: np.random.Generator) -> None:
    """With the scales, of rows as wide as real ones."""
    compressed = GradientCompressor("row").compress("g", rng.standard_normal((256, 1024)).astype(np.float32))
    assert 8 * len(encode_gradient(compressed)) / (256 * 1024) < 1.58
    assert compressed.bits_per_value > 1.6


def test_wrong_messages_are_refused(rng: np.random.Generator) -> None:
    """Bytes from anywhere: truncated, of another shape or scheme, damaged."""
    compressed = GradientCompressor("five").compress("g", rng.standard_normal((20, 50)).astype(np.float32))
    message = encode_gradient(compressed)
    for n in range(len(message)):
        with pytest.raises(FileFormatError):
            decode_gradient(message[:n], (20, 50), "five")
    for position in range(0, len(message) - 2 * 20, 7):
        damaged = bytearray(message)
        damaged[position] ^= 0x10
        with pytest.raises(FileFormatError):
            decode_gradient(bytes(damaged), (20, 50), "five")
    for shape, scheme in (((20, 52), "five"), ((21, 50), "five"), ((20, 50), "row")):
        with pytest.raises(FileFormatError):
            decode_gradient(message, shape, scheme)  # type: ignore[arg-type]
    for wrong, scheme in (((20, 0), "five"), ((), "five"), ((20, 50), "six")):
        with pytest.raises(InvalidArgumentError):
            decode_gradient(message, wrong, scheme)  # type: ignore[arg-type]
    with pytest.raises(FileFormatError):
        encode_gradient(replace(compressed, data=compressed.data[:-1]))
    with pytest.raises(FileFormatError):
        encode_gradient(replace(compressed, data=b"\xff" * compressed.nbytes))
