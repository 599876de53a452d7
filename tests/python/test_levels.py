"""Rounding to levels and the bound of a norm: the C functions against plain NumPy, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import pyhybrid as ph
from pyhybrid import _reference_vectors as reference
from pyhybrid._elementwise import vector_norm

DTYPES = (np.float32, np.float64)
CONTEXTS = (ph.Context(threads=1, isa="scalar"), ph.Context(threads=2))


def bits_of(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return array.view(np.uint32 if array.dtype == np.float32 else np.uint64)


@pytest.mark.parametrize("context", CONTEXTS, ids=("scalar", "best"))
@pytest.mark.parametrize("dtype", DTYPES)
def test_quantize_levels_equals_plain_numpy(
    dtype: type, context: ph.Context, rng: np.random.Generator
) -> None:
    """Five and three levels have the bits of the NumPy expressions, with `clip` either way, and in place."""
    values = rng.normal(0, 0.8, (401, 333)).astype(dtype)
    values[0, :6] = 0.25, 0.75, -0.25, -0.0, np.inf, -np.inf
    scale = dtype(0.3)
    five = scale * (np.rint(2 * np.clip(values, -1, 1)) / 2)
    rounded_first = scale * np.clip(np.rint(2 * values) / 2, -1, 1)
    three = scale * np.rint(np.clip(values, -1, 1))
    for clip in (True, False):
        found = ph.quantize_levels(values, scale=0.3, clip=clip, context=context)
        assert np.array_equal(bits_of(found), bits_of(five))
        assert np.array_equal(bits_of(found), bits_of(rounded_first))
    assert np.array_equal(bits_of(ph.quantize_levels(values, 3, 0.3, context=context)), bits_of(three))
    assert np.array_equal(bits_of(reference.quantize_levels(values, 5, 0.3)), bits_of(five))
    assert np.array_equal(bits_of(reference.quantize_levels(values, 3, 0.3)), bits_of(three))
    assert ph.quantize_levels(values, scale=0.3, out=values, context=context) is values
    assert np.array_equal(bits_of(values), bits_of(five))


def test_quantize_levels_dtypes() -> None:
    """Floats keep their type, half precision becomes float32, lists and integers float64; empty is empty."""
    assert ph.quantize_levels(np.float16([0.3])).dtype == np.float32
    assert ph.quantize_levels([0.3, -2]).tolist() == [0.5, -1.0]
    assert ph.quantize_levels(np.arange(-2, 3)).dtype == np.float64
    assert ph.quantize_levels(np.empty((0, 4), np.float32)).shape == (0, 4)
    assert ph.quantize_levels(np.float32(0.8)).shape == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"levels": 4}, "levels is 4; give 5 or 3"),
        ({"levels": True}, "levels is True"),
        ({"scale": np.nan}, "scale is"),
        ({"scale": 1e39}, "float32 ends"),
        ({"scale": "x"}, "scale is 'x'"),
        ({"clip": 2}, "clip is 2"),
        ({"values": np.array([1j])}, "dtype complex128"),
        ({"values": np.array(["a"])}, "dtype <U1"),
        ({"out": np.empty(3)}, "dtype float32"),
        ({"out": np.empty(4, np.float32)}, r"shape \[4\]"),
    ],
)
def test_quantize_levels_refuses(arguments: dict[str, Any], message: str) -> None:
    """Every wrong argument is named."""
    given = {"values": np.zeros(3, np.float32)} | arguments
    with pytest.raises(ph.InvalidArgumentError, match=message):
        ph.quantize_levels(**given)


def test_quantize_levels_refuses_nan_and_overlap() -> None:
    """A NaN is found wherever it is; an output that overlaps in part is refused."""
    values = np.zeros(100_003, np.float32)
    values[99_999] = np.nan
    with pytest.raises(ph.NotFiniteError, match="value 99999 is NaN"):
        ph.quantize_levels(values)
    with pytest.raises(ph.NotFiniteError, match="99999"):
        reference.quantize_levels(values)
    with pytest.raises(ph.InvalidArgumentError, match="overlaps"):
        ph.quantize_levels(values[:10], out=values[1:11])


@pytest.mark.parametrize("size", [1.0, 1e-30, 1e30, 1e-200, 1e200])
@pytest.mark.parametrize("dtype", DTYPES)
def test_constrain_norm_holds_the_radius(dtype: type, size: float, rng: np.random.Generator) -> None:
    """No result is longer than the radius, none much shorter, and all backends give the same bits."""
    if dtype is np.float32 and not 1e-31 < size < 1e31:
        return
    values, radius = (rng.normal(size=200_001) * size).astype(dtype), 2.5 * size
    expected, norm, active = reference.constrain_norm(values, radius)
    for context in CONTEXTS:
        found = ph.constrain_norm(values, radius, context=context)
        assert found.active
        assert active
        assert vector_norm(values, context=context) == norm
        assert np.array_equal(bits_of(found.values), bits_of(expected))
    length = float(np.linalg.norm(expected.astype(np.longdouble) / size)) * size
    assert radius * (1 - 1e-6) < length <= radius
    assert not ph.constrain_norm(values, np.inf).active
    assert np.array_equal(ph.constrain_norm(values, norm).values, values)


def test_constrain_norm_refuses() -> None:
    """Radius, NaN and infinity are checked; the output stays as it was."""
    values, out = np.array([3.0, np.inf]), np.full(2, 7.0)
    with pytest.raises(ph.NotFiniteError, match="value 1 is infinite"):
        ph.constrain_norm(values, 1.0, out=out)
    assert out.tolist() == [7, 7]
    for radius in (-1, np.nan, "x"):
        with pytest.raises(ph.InvalidArgumentError, match="radius"):
            ph.constrain_norm([1.0], radius)
    assert vector_norm([]) == 0


@pytest.mark.parametrize("levels", [3, 5])
@pytest.mark.parametrize("bits", [0.3, 1.0, 1.5])
def test_entropy_scale_gives_the_bits(levels: Any, bits: float, rng: np.random.Generator) -> None:
    """The rounded values have it; five levels at 1.58 bits keep more of a Gaussian than ternary codes."""
    values = rng.normal(size=(500, 400))
    for kind in (values, values.astype(np.float32) * 1e-20, np.sign(values) * values**2 + 0.1):
        scale = ph.entropy_scale(kind, bits, levels)
        rounded = ph.quantize_levels(kind / kind.dtype.type(scale), levels)
        shares = np.unique(rounded, return_counts=True)[1] / rounded.size
        assert float(-(shares * np.log2(shares)).sum()) == pytest.approx(bits, abs=1e-3)
    if bits == 1.5 and levels == 5:
        rounded = ph.quantize_levels(values / ph.entropy_scale(values, 1.58))
        cosine = float((values * rounded).sum() / np.linalg.norm(values) / np.linalg.norm(rounded))
        assert cosine == pytest.approx(0.917, abs=2e-3)


def test_entropy_scale_at_its_limits() -> None:
    """More bits than there are: the scale of the most; few values; what has no answer is refused."""
    assert ph.quantize_levels(np.array([1.0, 2, 3, 4]) / ph.entropy_scale([1.0, 2, 3, 4], 9)).any()
    assert ph.entropy_scale([0.0, 5.0], 0.5) > 0
    for values, message in (([], "no value"), ([0.0, 0.0], "no value"), (["a"], "values")):
        with pytest.raises(ph.InvalidArgumentError, match=message):
            ph.entropy_scale(values)
    for bad in (0, -1, np.nan, np.inf, True, "1"):
        with pytest.raises(ph.InvalidArgumentError, match="bits"):
            ph.entropy_scale([1.0], bad)  # type: ignore[arg-type]
    with pytest.raises(ph.InvalidArgumentError, match="levels"):
        ph.entropy_scale([1.0], 1, 4)  # type: ignore[arg-type]
    with pytest.raises(ph.NotFiniteError):
        ph.entropy_scale([1.0, np.nan])
