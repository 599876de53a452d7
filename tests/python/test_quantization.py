"""Quantisers, packing and products: the C functions against the NumPy reference, integers exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pyhybrid as ph
from pyhybrid import _reference as reference
from pyhybrid.quantization import round_to_half

BITS = (1.58, 1, 2, 4, 8)
PACKINGS = {
    "ternary2": (-1, 0, 1),
    "base3": (-1, 0, 1),
    "int1": (-1, 1),
    "int2": (-3, -1, 1, 3),
    "int4": tuple(range(-15, 16, 2)),
    "int8": tuple(range(-127, 128)),
}
SHAPES = ((1, 1), (3, 5), (16, 16), (17, 33), (64, 100), (5, 257))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", ["tensor", "row"])
@pytest.mark.parametrize("bits", BITS)
def test_quantize_equals_reference(
    bits: float, scale: str, shape: tuple[int, int], rng: np.random.Generator
) -> None:
    """Codes and scales of every format are those of the reference, bit for bit."""
    weights = rng.normal(0, 0.3, shape).astype(np.float32)
    codes, scales = ph.quantize(weights, bits=bits, scale=scale)
    expected_codes, expected_scales = reference.quantize(weights, bits, scale)
    assert np.array_equal(scales.view(np.uint32), expected_scales.view(np.uint32))
    assert np.array_equal(codes, expected_codes)


@pytest.mark.parametrize("scale", ["tensor", "row"])
def test_quantize_lloyd_equals_reference_and_is_better(scale: str, rng: np.random.Generator) -> None:
    """The Lloyd scale is the reference's, and its squared error is not above absmean's."""
    weights = (rng.standard_t(3, (40, 65)) * 0.1).astype(np.float32)
    lloyd = ph.quantize(weights, scale=scale, threshold="lloyd")
    expected_codes, expected_scales = reference.quantize(weights, 1.58, scale, "lloyd")
    assert np.array_equal(lloyd.codes, expected_codes)
    assert np.array_equal(lloyd.scales, expected_scales)
    error = [
        float(((ph.dequantize(*quantized) - weights) ** 2).sum())
        for quantized in (lloyd, ph.quantize(weights, scale=scale))
    ]
    assert error[0] <= error[1]


@pytest.mark.parametrize("scale", ["tensor", "row"])
@pytest.mark.parametrize("tier", ["scalar", None])
def test_quantize_three_of_four_equals_reference(
    scale: str, tier: str | None, rng: np.random.Generator
) -> None:
    """One zero in each four; it packs into 1.25 bits a code; the runtime's weights are the same."""
    weights = rng.standard_normal((33, 72)).astype(np.float32)
    weights[3, 8:12] = 0
    for threads in (1, 2):
        context = ph.Context(threads=threads, isa=tier)  # type: ignore[arg-type]
        options: Any = {"scale": scale, "threshold": "three_of_four", "context": context}
        codes, scales = ph.quantize(weights, **options)
        expected_codes, expected_scales = reference.quantize(weights, 1.58, scale, "three_of_four")
        assert np.array_equal(codes, expected_codes)
        assert np.array_equal(scales.view(np.uint32), expected_scales.view(np.uint32))
        assert (np.count_nonzero(codes.reshape(-1, 4), axis=1) == 3).all()
        packed = ph.pack(codes, "ternary3of4")
        assert packed.size == -(-codes.size * 5 // 32)
        assert np.array_equal(ph.unpack(packed, codes.shape, "ternary3of4"), codes)
        x = rng.integers(-127, 128, (2, 72)).astype(np.int8)
        of_codes = ph.PackedWeights(codes, scales, context=context)
        at_once = ph.PackedWeights.from_float(weights, **options)
        assert np.array_equal(ph.matmul(of_codes, x), ph.matmul(at_once, x))
    with pytest.raises(ph.InvalidArgumentError, match="multiple of 4"):
        ph.quantize(weights[:, :70], threshold="three_of_four")


def test_quantize_absmean_by_hand() -> None:
    """Four weights with a mean magnitude of 1/2 and threshold 1/4."""
    codes, scales = ph.quantize(np.array([[0.9, -0.2, -0.65, 0.25]], np.float32))
    assert scales.tolist() == [0.5]
    assert codes.tolist() == [[1, 0, -1, 0]]


@pytest.mark.parametrize("bits", BITS)
def test_quantize_zeros_and_tiny(bits: float) -> None:
    """An all-zero matrix has scale 0 and dequantises to zeros; weights below binary16 do not crash."""
    for weights in (np.zeros((4, 9), np.float32), np.full((4, 9), 1e-30, np.float32)):
        codes, scales = ph.quantize(weights, bits=bits)
        assert scales.tolist() == [0.0]
        assert not ph.dequantize(codes, scales).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_quantize_not_finite(bad: float) -> None:
    """NaN and infinity are refused, and the message says where they are."""
    weights = np.ones((3, 20), np.float32)
    weights[1, 17] = bad
    with pytest.raises(ph.NotFiniteError, match="row 1, column 17"):
        ph.quantize(weights)
    with pytest.raises(ph.NotFiniteError):
        ph.quantize_activations(weights)


def test_quantize_scale_too_large() -> None:
    """A scale that binary16 cannot hold is an error, not infinity."""
    with pytest.raises(ph.NotFiniteError, match="65504"):
        ph.quantize(np.full((2, 2), 1e6, np.float32))


def test_quantize_threads_and_tiers_agree(tier: str, rng: np.random.Generator) -> None:
    """Every tier and thread count gives the same codes and scales."""
    weights = rng.normal(size=(130, 517)).astype(np.float32)
    expected = ph.quantize(weights, scale="row", context=ph.Context(threads=1, isa="scalar"))
    for threads in (1, 2):
        got = ph.quantize(weights, scale="row", context=ph.Context(threads=threads, isa=tier))  # type: ignore[arg-type]
        assert np.array_equal(got.codes, expected.codes)
        assert np.array_equal(got.scales, expected.scales)


@pytest.mark.parametrize("n", [1, 15, 16, 17, 100])
def test_quantize_activations_equals_reference(n: int, rng: np.random.Generator) -> None:
    """Activation codes and scales are those of the reference, ties and zero rows included."""
    x = rng.normal(size=(7, n)).astype(np.float32)
    x[2] = 0
    x[3] = np.linspace(-127, 127, n, dtype=np.float32).round() / 2  # halves: ties to even
    codes, scales = ph.quantize_activations(x)
    expected_codes, expected_scales = reference.quantize_activations(x)
    assert np.array_equal(codes, expected_codes)
    assert np.array_equal(scales.view(np.uint32), expected_scales.view(np.uint32))
    assert scales[2] == 0
    assert not codes[2].any()


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 7, 8, 9, 31, 1000])
@pytest.mark.parametrize("packing", PACKINGS)
def test_pack_equals_reference_and_returns(packing: str, n: int, rng: np.random.Generator) -> None:
    """Packed bytes are the reference's, and unpacking gives the codes back, tails included."""
    codes = rng.choice(PACKINGS[packing], n).astype(np.int8)
    packed = ph.pack(codes, packing)  # type: ignore[arg-type]
    assert packed.tobytes() == reference.pack(codes, packing)
    assert np.array_equal(ph.unpack(packed, n, packing), codes)  # type: ignore[arg-type]
    assert np.array_equal(reference.unpack(packed.tobytes(), n, packing), codes)


def test_pack_base3_is_five_codes_a_byte() -> None:
    """A hundred thousand ternary weights take 1.6 bits each."""
    assert ph.pack(np.zeros((1000, 100), np.int8)).size * 8 / 100_000 == 1.6


@pytest.mark.parametrize("packing", PACKINGS)
def test_pack_refuses_codes_outside(packing: str) -> None:
    """A code that the packing cannot hold is an error."""
    outside = -128 if packing == "int8" else 2
    with pytest.raises(ph.InvalidArgumentError):
        ph.pack(np.array([1, outside], np.int8), packing)  # type: ignore[arg-type]


def test_unpack_refuses_bytes_that_no_codes_give() -> None:
    """Every byte value either unpacks to codes that pack to it, or is an error."""
    for packing, per_byte in (("base3", 5), ("ternary2", 4)):
        n_good = 0
        for byte in range(256):
            try:
                codes = ph.unpack(bytes([byte]), per_byte, packing)  # type: ignore[arg-type]
            except ph.FileFormatError:
                continue
            n_good += 1
            assert ph.pack(codes, packing).tobytes() == bytes([byte])  # type: ignore[arg-type]
        assert n_good == 3**per_byte
    with pytest.raises(ph.FileFormatError):
        ph.unpack(bytes([0]), 3, "base3")  # the tail must be code 0, that is digit 1
    with pytest.raises(ph.InvalidArgumentError, match="take 2"):
        ph.unpack(b"\0", 6, "base3")


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 17, 33), (70, 48, 100), (1, 130, 257)])
def test_matmul_equals_reference(
    bits: float, shape: tuple[int, int, int], tier: str, rng: np.random.Generator
) -> None:
    """Integer sums and scaled results are the reference's on every tier."""
    tokens, rows, columns = shape
    context = ph.Context(threads=2, isa=tier)  # type: ignore[arg-type]
    weights = rng.normal(size=(rows, columns)).astype(np.float32)
    x = rng.integers(-127, 128, (tokens, columns)).astype(np.int8)
    x_scales = rng.uniform(0.01, 1, tokens).astype(np.float32)
    codes, scales = ph.quantize(weights, bits=bits, scale="row")
    packed = ph.PackedWeights(codes, scales, bits=bits, context=context)
    sums = ph.matmul(packed, x)
    assert np.array_equal(sums, x.astype(np.int64) @ codes.astype(np.int64).T)
    got = ph.matmul(packed, x, x_scales)
    assert np.array_equal(got.view(np.uint32), reference.matmul(codes, scales, x, x_scales).view(np.uint32))


def test_matmul_largest_sum_does_not_overflow() -> None:
    """65,536 columns of 127 x 127 are summed exactly."""
    codes = np.full((2, 65536), 127, np.int8)
    packed = ph.PackedWeights(codes, np.ones(1, np.float32), bits=8)
    assert ph.matmul(packed, codes[:1]).tolist() == [[127 * 127 * 65536] * 2]
    with pytest.raises(ph.InvalidArgumentError, match="65536"):
        ph.PackedWeights(np.zeros((1, 65537), np.int8), np.ones(1, np.float32), bits=8)


def test_packed_weights_from_float_and_memory(rng: np.random.Generator) -> None:
    """The short way gives the same product, and ternary weights take 2 bits in memory."""
    weights = rng.normal(size=(256, 512)).astype(np.float32)
    x = rng.integers(-127, 128, (2, 512)).astype(np.int8)
    packed = ph.PackedWeights.from_float(weights)
    assert np.array_equal(ph.matmul(packed, x), ph.matmul(ph.PackedWeights(*ph.quantize(weights)), x))
    assert packed.nbytes < 256 * 512 * 2.2 / 8 + 4096


@pytest.mark.parametrize("transpose", ["nn", "nt", "tn"])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (5, 7, 3), (33, 65, 130), (100, 20, 301)])
def test_gemm_within_bound(transpose: str, sizes: tuple[int, int, int], rng: np.random.Generator) -> None:
    """The product is within k rounding errors of binary64's, and the same for one and two threads."""
    m, n, k = sizes
    a, b = rng.normal(size=(m, k)).astype(np.float32), rng.normal(size=(k, n)).astype(np.float32)
    left = a.T.copy() if transpose == "tn" else a
    right = b.T.copy() if transpose == "nt" else b
    got = ph.gemm(left, right, transpose, context=ph.Context(threads=1))  # type: ignore[arg-type]
    assert np.array_equal(got, ph.gemm(left, right, transpose, context=ph.Context(threads=2)))  # type: ignore[arg-type]
    exact = a.astype(np.float64) @ b.astype(np.float64)
    bound = (k + 1) * 2.0**-24 * (np.abs(a).astype(np.float64) @ np.abs(b).astype(np.float64)) + 1e-30
    assert (np.abs(got - exact) <= bound).all()
    twice = ph.gemm(left, right, transpose, accumulate=True, out=got.copy())  # type: ignore[arg-type]
    np.testing.assert_allclose(twice, 2 * exact, rtol=0, atol=float(4 * bound.max()))


def test_round_to_half_is_the_scale_grid(rng: np.random.Generator) -> None:
    """Scales of every quantiser are binary16 numbers already."""
    weights = rng.normal(size=(20, 20)).astype(np.float32)
    for bits in BITS:
        scales = ph.quantize(weights, bits=bits, scale="row").scales
        assert np.array_equal(round_to_half(scales), scales)


def test_inputs_are_converted_only_without_loss() -> None:
    """Wider integers and exact doubles are taken; what would change is refused with the way out."""
    assert ph.pack(np.array([1, 0, -1], np.int64)).size == 1
    assert ph.quantize(np.array([[0.5, -0.25]])).scales.tolist() == [0.375]
    with pytest.raises(ph.InvalidArgumentError, match=r"astype\(np.float32\)"):
        ph.quantize(np.array([[0.1, 0.2]], np.float64))
    with pytest.raises(ph.InvalidArgumentError, match="holds 300"):
        ph.pack(np.array([300]))
    with pytest.raises(ph.InvalidArgumentError, match="dtype float"):
        ph.pack(np.array([1.0]))
    with pytest.raises(ph.InvalidArgumentError, match="dtype"):
        ph.quantize("weights")
    with pytest.raises(ph.InvalidArgumentError, match="dimensions"):
        ph.quantize(np.zeros(4, np.float32))


def test_outputs_are_written_in_place_or_refused(rng: np.random.Generator) -> None:
    """`out` is written without a copy; a wrong dtype, shape, layout or overlap is refused."""
    codes = rng.integers(-1, 2, (4, 6)).astype(np.int8)
    scales = np.ones(1, np.float32)
    out = np.empty((4, 6), np.float32)
    assert ph.dequantize(codes, scales, out=out) is out
    assert np.array_equal(out, codes)
    read_only = np.empty((4, 6), np.float32)
    read_only.flags.writeable = False
    for wrong in (np.empty((4, 6)), np.empty((6, 4), np.float32), np.empty((6, 4), np.float32).T, read_only):
        with pytest.raises(ph.InvalidArgumentError):
            ph.dequantize(codes, scales, out=wrong)
    square = np.ones((3, 3), np.float32)
    with pytest.raises(ph.InvalidArgumentError, match="overlap"):
        ph.gemm(square, square, out=square)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: ph.quantize(np.ones((1, 1), np.float32), bits=3), "bits"),
        (lambda: ph.quantize(np.ones((1, 1), np.float32), scale="column"), "scale"),
        (lambda: ph.quantize(np.ones((1, 1), np.float32), threshold="median"), "threshold"),
        (lambda: ph.quantize(np.ones((0, 4), np.float32)), "0 x 4"),
        (lambda: ph.pack(np.ones(1, np.int8), "base4"), "packing"),
        (lambda: ph.unpack(b"", -1), "shape"),
        (lambda: ph.dequantize(np.ones((2, 2), np.int8), np.ones(3, np.float32)), "scales"),
        (lambda: ph.gemm(np.ones((2, 3), np.float32), np.ones((2, 3), np.float32)), "inner lengths"),
        (lambda: ph.PackedWeights(np.full((1, 1), 2, np.int8), np.ones(1, np.float32)), "code"),
    ],
)
def test_wrong_options_are_named(call: object, word: str) -> None:
    """The message of a wrong option names it."""
    with pytest.raises(ph.InvalidArgumentError, match=word):
        call()  # type: ignore[operator]
