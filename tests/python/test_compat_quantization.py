"""The documents' quantisers: levels, magnitudes, bits a layer, packing and its way back, errors."""

from __future__ import annotations

import numpy as np
import pytest

from pyhybrid import (
    AdaptiveQuantizer,
    HybridError,
    InvalidArgumentError,
    NotFiniteError,
    Quantizer158Bit,
    binarize_weights,
    estimate_model_size_reduction,
    pack_bits,
    pack_q4,
    quantize,
    quantize_per_row,
    quantize_weights,
    ternary_quantize_weights,
    unpack,
    unpack_binarized,
    unpack_q4,
    unpack_ternary,
)
from pyhybrid.config import ConfigError

# ---- Quantizer158Bit ----


def test_compat_quantizer_has_the_documented_defaults():
    """Scale 1, clipping, five levels; ternary under either name."""
    default = Quantizer158Bit()
    assert (default.scale, default.enable_clipping) == (1.0, True)
    assert default.levels == [-1, -0.5, 0, 0.5, 1]
    assert Quantizer158Bit(2.0, False).scale == 2
    for ternary in (Quantizer158Bit(levels=3), Quantizer158Bit(target_bits=1.58)):
        assert ternary.levels == [-1, 0, 1]
    assert Quantizer158Bit(levels=3, target_bits=1.58).levels == [-1, 0, 1]


@pytest.mark.parametrize("clipping", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_compat_quantizer_rounds_to_levels(clipping, dtype):
    """Ties go to the even level, what is outside to the ends; shape and dtype stay; scale multiplies."""
    values = np.array([[0.25, 0.75, -0.25, -0.75], [0.3, -9, 1.2, 0.1]], dtype)
    expected = np.array([[0, 1, 0, -1], [0.5, -1, 1, 0]])
    result = Quantizer158Bit(enable_clipping=clipping).quantize(values)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(Quantizer158Bit(4.0, clipping).quantize(values), 4 * expected)
    ternary = Quantizer158Bit(levels=3, enable_clipping=clipping).quantize([0.5, 0.51, -2, -0.5])
    np.testing.assert_array_equal(ternary, [0, 1, -1, 0])


@pytest.mark.parametrize("levels", [3, 5])
@pytest.mark.parametrize("n", [100, 10_000])
def test_compat_quantizer_keeps_the_norm_of_gradients(rng, levels, n):
    """The norm is the gradient's, the values are few levels, the direction is broadly kept."""
    gradient = 1e-3 * rng.standard_normal((n, 2))
    result = Quantizer158Bit(levels=levels).quantize_gradients(gradient)
    assert result.shape == gradient.shape
    assert np.linalg.norm(result) == pytest.approx(np.linalg.norm(gradient), rel=1e-6)
    assert len(np.unique(np.round(np.abs(result) / np.abs(result).max(), 6))) <= (levels + 1) // 2
    cosine = (result * gradient).sum() / np.linalg.norm(result) / np.linalg.norm(gradient)
    assert cosine > (0.8 if levels == 5 else 0.4)


def test_compat_quantizer_of_extreme_gradients():
    """All zeros stay zeros; tiny and huge gradients keep their norm."""
    np.testing.assert_array_equal(Quantizer158Bit().quantize_gradients(np.zeros(4)), np.zeros(4))
    for scale in (1e-300, 1e-30, 1e30, 1e300):
        gradient = scale * np.array([1.0, -0.5, 0.1])
        assert Quantizer158Bit().quantize_gradients(gradient) == pytest.approx(
            gradient, rel=0.2, abs=scale / 5
        )
    empty = pytest.raises(ValueError, match="gradients is empty")
    with empty:
        Quantizer158Bit().quantize_gradients([])


@pytest.mark.parametrize(("levels", "bound"), [(3, 0.20), (5, 0.09)])
def test_compat_quantizer_scales_weights_by_layer(rng, levels, bound):
    """Weights of any magnitude lose the same small share of their squares; small ones do not all become 0."""
    weights = rng.standard_normal((64, 64)).astype(np.float32)
    for scale in (1e-3, 1.0, 50.0):
        result = Quantizer158Bit(levels=levels).quantize_weights(scale * weights)
        assert result.dtype == np.float32
        error = ((result - scale * weights) ** 2).sum() / ((scale * weights) ** 2).sum()
        assert error < bound
        assert len(np.unique(result)) == levels
    np.testing.assert_array_equal(Quantizer158Bit().quantize_weights(np.zeros(3)), np.zeros(3))


def test_compat_quantizer_refuses():
    """Unknown keywords, levels, bits, scales; contradictions; NaN."""
    with pytest.raises(TypeError, match="bits"):
        Quantizer158Bit(bits=2)
    with pytest.raises(InvalidArgumentError, match="levels is 4"):
        Quantizer158Bit(levels=4)
    with pytest.raises(InvalidArgumentError, match="target_bits is 2"):
        Quantizer158Bit(target_bits=2)
    with pytest.raises(ConfigError, match=r"levels=5 and levels for target_bits=1.58=3"):
        Quantizer158Bit(levels=5, target_bits=1.58)
    for scale in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InvalidArgumentError, match="scale is"):
            Quantizer158Bit(scale)
    for name in ("quantize", "quantize_gradients", "quantize_weights"):
        with pytest.raises(NotFiniteError):
            getattr(Quantizer158Bit(), name)([1.0, float("nan")])


# ---- AdaptiveQuantizer ----


def test_compat_adaptive_layers_are_ternary_while_equally_important(rng):
    """All layers begin ternary; importance moves bits, within the budget of 1.6."""
    quantizer = AdaptiveQuantizer(num_layers=4)
    np.testing.assert_array_equal(quantizer.layer_importance, [0.25] * 4)
    assert quantizer.layer_bits == [1.58] * 4
    weights = rng.standard_normal((8, 8))
    assert len(np.unique(quantizer.quantize_layer(0, weights))) == 3
    quantizer.update_importance([100, 1, 1, 1])
    np.testing.assert_allclose(quantizer.layer_importance, np.array([100, 1, 1, 1]) / 103)
    assert quantizer.layer_bits[0] > 1.58
    assert sum({1.58: 1.6}.get(b, b) for b in quantizer.layer_bits) <= 4 * 1.6
    better = np.abs(quantizer.quantize_layer(0, weights) - weights).mean()
    worse = np.abs(quantizer.quantize_layer(3, weights) - weights).mean()
    assert better < worse


def test_compat_adaptive_budget_counts_sizes():
    """A small important layer gets its bits where a large one cannot."""
    quantizer = AdaptiveQuantizer(2, target_bits=2.0, layer_sizes=[10, 1000])
    quantizer.update_importance([1000, 1])
    assert quantizer.layer_bits[0] == 4
    assert quantizer.layer_bits[1] < 2


def test_compat_adaptive_delegates_clusters(rng):
    """Clusters, importance and precision are ParameterClustering's."""
    quantizer = AdaptiveQuantizer(1)
    found = quantizer.cluster_layer_parameters("a", rng.standard_normal(100))
    assert quantizer.parameter_clustering.layer_clusters["a"] is found
    assert quantizer.get_cluster_importance("a").sum() == pytest.approx(1)
    assert quantizer.suggest_quantization_precision("a").shape == (4,)
    assert (quantizer.suggest_quantization_precision("a", 4.0) == 4).all()


def test_compat_adaptive_refuses():
    """Numbers of layers, importances and layers that cannot be."""
    for number in (0, -1, 1.5, True):
        with pytest.raises(InvalidArgumentError, match="num_layers is"):
            AdaptiveQuantizer(number)
    with pytest.raises(InvalidArgumentError, match="layer_sizes has 1 entries for 2"):
        AdaptiveQuantizer(2, layer_sizes=[1])
    with pytest.raises(InvalidArgumentError, match=r"budget is 0.9"):
        AdaptiveQuantizer(2, target_bits=0.9)
    quantizer = AdaptiveQuantizer(2)
    for bad in ([1.0], [1.0, -1.0], [0.0, 0.0]):
        with pytest.raises(InvalidArgumentError, match="give 2 numbers"):
            quantizer.update_importance(bad)
    with pytest.raises(NotFiniteError, match="importances"):
        quantizer.update_importance([1.0, np.nan])
    for layer in (2, -1):
        with pytest.raises(InvalidArgumentError, match="layer_idx is"):
            quantizer.quantize_layer(layer, [1.0])


# ---- sizes and functions ----


def test_compat_size_estimate_is_arithmetic():
    """The documents' 7B model: 26.08 GiB to 1.29 GiB, 20.25 times less."""
    before, after = estimate_model_size_reduction(32, 7_000_000_000)
    assert before / 1024 == pytest.approx(26.08, abs=0.005)
    assert after / 1024 == pytest.approx(1.29, abs=0.005)
    assert before / after == pytest.approx(20.25, abs=0.005)
    assert estimate_model_size_reduction(16, 2**20, target_bits=4) == (2.0, 0.5)
    for arguments in ((0, 1), (float("nan"), 1), (32, -1)):
        with pytest.raises(InvalidArgumentError):
            estimate_model_size_reduction(*arguments)


@pytest.mark.parametrize("bits", [8, 4, 2, 1.58, 1])
def test_compat_functions_quantise_and_pack(rng, bits):
    """Codes, scale and zero point restore the weights; packed codes come back, and take the bits they say."""
    weights = rng.standard_normal((16, 20))
    codes, scale, zero_point = quantize_weights(weights, bits)
    assert (codes.dtype, codes.shape, zero_point) == (np.int8, weights.shape, 0)
    error = ((scale * (codes.astype(float) - zero_point) - weights) ** 2).mean()
    assert error < {8: 1e-3, 4: 0.02, 2: 0.15, 1.58: 0.23, 1: 0.42}[bits]
    packed = pack_bits(codes, bits)
    assert packed.nbytes == 320 * {1.58: 1.6}.get(bits, bits) / 8
    names = {8: "int8", 4: "int4", 2: "int2", 1.58: "base3", 1: "int1"}
    np.testing.assert_array_equal(unpack(packed, codes.shape, names[bits]), codes)
    rows, scales, zeros = quantize_per_row(weights, bits)
    assert scales.shape == zeros.shape == (16,)
    np.testing.assert_array_equal(
        rows, quantize(weights.astype("f"), bits=bits, scale="row", threshold="lloyd")[0]
    )
    assert not zeros.any()


def test_compat_functions_pack_4_bits(rng):
    """Two codes a byte, an odd number of them too; the default of quantize_weights is 4 bits."""
    codes, _, _ = quantize_weights(rng.standard_normal(7))
    assert set(np.abs(codes)) <= set(range(1, 16, 2))
    packed = pack_q4(codes)
    assert packed.shape == (4,)
    np.testing.assert_array_equal(unpack_q4(packed, 7), codes)
    with pytest.raises(InvalidArgumentError, match="4 bytes"):
        unpack_q4(packed, 9)
    with pytest.raises(InvalidArgumentError):
        pack_q4(np.array([2], np.int8))
    with pytest.raises(InvalidArgumentError, match="bits is 3"):
        pack_bits(codes, 3)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, None])
def test_compat_functions_binarise_along_an_axis(rng, axis):
    """Signs times the mean magnitude of each channel, an eighth of a byte a weight."""
    weights = rng.standard_normal((3, 4, 5)).astype(np.float32)
    packed, scales, meta = binarize_weights(weights, axis)
    assert packed.nbytes == 8
    assert meta == {"shape": (3, 4, 5), "per_channel_axis": axis, "quantization": "1bit"}
    others = tuple(a for a in range(3) if axis is None or a != axis % 3)
    mean = np.abs(weights).mean(others, keepdims=True)
    np.testing.assert_allclose(
        unpack_binarized(packed, scales, meta["shape"], axis), np.sign(weights) * mean, rtol=1e-3
    )


@pytest.mark.parametrize("axis", [0, 1, None])
@pytest.mark.parametrize("factor", [0.5, 0.7])
def test_compat_functions_ternarise_along_an_axis(rng, axis, factor):
    """0 up to a multiple of the mean magnitude, else the sign times the mean of what is kept."""
    weights = rng.standard_normal((6, 50)).astype(np.float32)
    codes, scales, meta = ternary_quantize_weights(weights, axis, threshold_factor=factor)
    assert codes.dtype == np.int8
    assert meta == {"shape": (6, 50), "per_channel_axis": axis, "quantization": "ternary_1.58bit"}
    other = None if axis is None else 1 - axis
    threshold = factor * np.abs(weights).mean(other, keepdims=True)
    kept = np.abs(weights) > threshold
    np.testing.assert_array_equal(codes, np.sign(weights) * kept)
    expected = (np.abs(weights) * kept).sum(other) / kept.sum(other)
    np.testing.assert_allclose(scales, np.atleast_1d(expected), rtol=1e-5)
    restored = unpack_ternary(codes, scales, meta["shape"], axis)
    np.testing.assert_allclose(restored, codes * np.reshape(scales, threshold.shape), rtol=1e-6)
    assert (
        ternary_quantize_weights(weights)[0].tolist() == ternary_quantize_weights(weights, 0, 0.5)[0].tolist()
    )


@pytest.mark.parametrize(
    "call",
    [
        lambda: quantize_weights([]),
        lambda: quantize_weights([1.0], 3),
        lambda: quantize_weights([np.nan]),
        lambda: quantize_per_row([1.0, 2.0]),
        lambda: binarize_weights([]),
        lambda: binarize_weights([[1.0]], 2),
        lambda: ternary_quantize_weights([[1.0]], 0, 0.0),
        lambda: ternary_quantize_weights([[np.inf]]),
        lambda: unpack_binarized(np.zeros(1, np.uint8), [1.0], (3, 4)),
        lambda: unpack_ternary(np.zeros(3, np.int8), [1.0], (2, 2)),
        lambda: unpack_ternary(np.zeros(4, np.int8), [1.0, 1.0, 1.0], (2, 2)),
    ],
)
def test_compat_functions_refuse(call):
    """Nothing, NaN, other bits, no such axis, parts that do not fit: an error, never a crash."""
    with pytest.raises(HybridError):
        call()
