"""The documents' quantisers, and their functions from 1 to 8 bits, over pyhybrid.quantization.

Place in the data flow: for the user, and for constrained.py beside it. What is returned as floats takes as
much memory as before; what takes less is packed: `pack_bits`, `binarize_weights`, `pyhybrid.PackedWeights`.
Sources: Max 1960, "Quantizing for minimum distortion" (the step of five levels); Li & Liu 2016, "Ternary
Weight Networks" (thresholds as a multiple of the mean magnitude, the scale from what is kept).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pyhybrid._buffers import Array
from pyhybrid._elementwise import vector_norm
from pyhybrid._errors import InvalidArgumentError, NotFiniteError
from pyhybrid.compat._arguments import as_array, finite_array, one_value
from pyhybrid.compat.clustering import ParameterClustering
from pyhybrid.precision import STORED_BITS, allocate_precision, normal_errors
from pyhybrid.quantization import Packing, dequantize, pack, quantize, quantize_levels, unpack

__all__ = [
    "AdaptiveQuantizer",
    "Quantizer158Bit",
    "binarize_weights",
    "estimate_model_size_reduction",
    "pack_bits",
    "pack_q4",
    "quantize_per_row",
    "quantize_weights",
    "ternary_quantize_weights",
    "unpack_binarized",
    "unpack_q4",
    "unpack_ternary",
]

#: The outermost of five levels by the root mean square: twice the best step for normal numbers (Max 1960).
_FIVE_LEVELS_BY_RMS = 2 * 0.843

_PACKINGS: dict[float, Packing] = {8: "int8", 4: "int4", 2: "int2", 1.58: "base3", 1: "int1"}


# ---- classes ----


class Quantizer158Bit:
    """Rounds values to five levels, -1, -0.5, 0, 0.5 and 1, or to the ternary -1, 0 and 1.

    Five levels are the documents' default. They are not 1.58 bits: five codes hold up to log2(5) = 2.32 bits,
    three hold log2(3) = 1.58.

    Args:
        scale: magnitude of the outermost level that `quantize` gives; gradients and weights have scales of
            their own.
        enable_clipping: clip before rounding; False: after it, which gives the same, as both ends are levels.
        levels: 5 or 3; None: 5.
        target_bits: 1.58 is another name of levels=3.

    Attributes:
        levels: the levels, without the scale.

    Raises:
        InvalidArgumentError: another number of levels or bits, or a scale that is no number above 0.
        ConfigError: levels and target_bits contradict each other.
    """

    def __init__(
        self,
        scale: float = 1.0,
        enable_clipping: bool = True,
        *,
        levels: int | None = None,
        target_bits: float | None = None,
    ) -> None:
        if target_bits not in (None, 1.58):
            raise InvalidArgumentError(f"target_bits is {target_bits!r}; give 1.58, or levels=5 without it")
        named = None if target_bits is None else 3
        n_levels = one_value({"levels": levels, "levels for target_bits=1.58": named}, 5)
        if n_levels not in (3, 5):
            raise InvalidArgumentError(f"levels is {levels!r}; give 5 or 3")
        if not (math.isfinite(scale) and scale > 0):
            raise InvalidArgumentError(f"scale is {scale!r}; give a number above 0")
        self.scale = scale
        self.enable_clipping = enable_clipping
        self._n_levels: Literal[3, 5] = n_levels
        self.levels = [-1.0, 0.0, 1.0] if n_levels == 3 else [-1.0, -0.5, 0.0, 0.5, 1.0]

    def quantize(self, values: Any) -> Array:
        """Rounds to the nearest level, ties to the even one (0.25 to 0, 0.75 to 1), times the scale.

        Args:
            values: any shape; float32 and float64 stay, other real numbers become float64.

        Returns:
            Float array of their shape.

        Raises:
            NotFiniteError: NaN.
            InvalidArgumentError: no numbers.
        """
        return quantize_levels(as_array(values), self._n_levels, self.scale, self.enable_clipping)

    def quantize_gradients(self, gradients: Any) -> Array:
        """Quantises a gradient and keeps its Euclidean norm.

        The levels are multiples of the largest magnitude; then all are scaled so that the norm is the
        gradient's.

        Args:
            gradients: float, any shape, finite.

        Returns:
            Float array of their shape, with at most as many different values as levels.

        Raises:
            InvalidArgumentError: empty; also a ValueError.
            NotFiniteError: NaN or infinity.
        """
        array = finite_array(gradients, "gradients")
        peak = float(np.abs(array).max())
        if peak == 0:
            return array.copy()
        shares = array / peak
        levels = quantize_levels(shares, self._n_levels)
        return np.asarray(levels * (peak * (vector_norm(shares) / vector_norm(levels))), array.dtype)

    def quantize_weights(self, weights: Any) -> Array:
        """Quantises a layer's weights with a scale of the layer, so that small weights do not all become 0.

        Three levels: the least-squares ternary scale and threshold of `pyhybrid.quantize`. Five: a step of
        0.843 times the root mean square.

        Args:
            weights: float, any shape, finite.

        Returns:
            Float array of their shape: level times the layer's scale.

        Raises:
            InvalidArgumentError: empty.
            NotFiniteError: NaN or infinity.
        """
        array = finite_array(weights, "weights")
        if self._n_levels == 3:
            return _fake_quantized(array, 1.58)
        outermost = array.dtype.type(_FIVE_LEVELS_BY_RMS * vector_norm(array) / math.sqrt(array.size))
        if not np.isfinite(outermost):
            raise NotFiniteError(f"weights are too large for {array.dtype}; divide them by their magnitude")
        if outermost == 0:
            return np.zeros_like(array)
        return np.asarray(quantize_levels(array / outermost, 5) * outermost)


def _fake_quantized(array: Array, bits: float) -> Array:
    """Values at a number of bits with one scale, as floats of the same shape and dtype."""
    codes = quantize(array.astype(np.float32).reshape(1, -1), bits=bits, threshold="lloyd")
    return dequantize(*codes).reshape(array.shape).astype(array.dtype)


class AdaptiveQuantizer:
    """Gives important layers more bits than others, within a budget.

    Args:
        num_layers: of the model.
        target_bits: mean stored bits of a weight that must not be passed, at least 1. 1.6 is what a ternary
            weight takes: with equal importance all layers are then ternary.
        layer_sizes: numbers of weights; None: layers are of one size.
        n_clusters: of `cluster_layer_parameters`.

    Attributes:
        layer_importance: float64 [num_layers], sums to 1.
        layer_bits: bits of each layer: 1, 1.58 (ternary), 2 or 4.
        parameter_clustering: the ParameterClustering of the methods that cluster.

    Raises:
        InvalidArgumentError: a number, size or budget out of its range.
    """

    def __init__(
        self,
        num_layers: int,
        *,
        target_bits: float = STORED_BITS[1.58],
        layer_sizes: Sequence[int] | None = None,
        n_clusters: int = 4,
    ) -> None:
        if isinstance(num_layers, bool) or not isinstance(num_layers, (int, np.integer)) or num_layers < 1:
            raise InvalidArgumentError(f"num_layers is {num_layers!r}; give a whole number of at least 1")
        self.num_layers = int(num_layers)
        self.target_bits = target_bits
        self.layer_sizes = [1] * self.num_layers if layer_sizes is None else list(layer_sizes)
        if len(self.layer_sizes) != self.num_layers:
            raise InvalidArgumentError(
                f"layer_sizes has {len(self.layer_sizes)} entries for {num_layers} layers"
            )
        self.parameter_clustering = ParameterClustering(n_clusters)
        self.update_importance(np.ones(self.num_layers))

    def update_importance(self, importances: npt.ArrayLike) -> None:
        """Sets the layers' importance, and the bits that follow from it.

        A layer is taken to lose what normal weights lose at a number of bits, times its size and importance.

        Args:
            importances: [num_layers], at least 0, not all 0; scaled to a sum of 1.

        Raises:
            InvalidArgumentError: a wrong shape or a negative value.
            NotFiniteError: NaN or infinity.
        """
        values = finite_array(importances, "importances").astype(np.float64)
        if values.shape != (self.num_layers,) or (values < 0).any() or not values.any():
            raise InvalidArgumentError(
                f"importances has shape {list(values.shape)} and values from {values.min():g}; give "
                f"{self.num_layers} numbers of at least 0, not all of them 0"
            )
        importance = values / values.sum()
        errors = np.outer(importance * self.layer_sizes, normal_errors())
        plan = allocate_precision(self.layer_sizes, errors, self.target_bits)
        self.layer_importance, self.layer_bits = importance, list(plan.bits)

    def quantize_layer(self, layer_idx: int, weights: Any) -> Array:
        """Returns a layer's weights at its number of bits, as floats of their shape and dtype.

        Args:
            layer_idx: 0 to num_layers - 1.
            weights: float, any shape, finite.

        Raises:
            InvalidArgumentError: no such layer, or no weights.
            NotFiniteError: NaN or infinity.
        """
        if not 0 <= operator.index(layer_idx) < self.num_layers:
            raise InvalidArgumentError(
                f"layer_idx is {layer_idx!r}; there are {self.num_layers} layers, from 0 on"
            )
        return _fake_quantized(finite_array(weights, "weights"), self.layer_bits[layer_idx])

    def cluster_layer_parameters(
        self, layer_name: str, weights: Any, *, gradients: Any = None
    ) -> dict[str, Any]:
        """See ParameterClustering.cluster_layer_parameters."""
        return self.parameter_clustering.cluster_layer_parameters(layer_name, weights, gradients=gradients)

    def get_cluster_importance(self, layer_name: str) -> Array | None:
        """See ParameterClustering.get_cluster_importance."""
        return self.parameter_clustering.get_cluster_importance(layer_name)

    def suggest_quantization_precision(self, layer_name: str, target_bits: float = 1.58) -> Array:
        """See ParameterClustering.suggest_quantization_precision."""
        return self.parameter_clustering.suggest_quantization_precision(layer_name, target_bits)


def estimate_model_size_reduction(
    original_bits: float, params_count: int, *, target_bits: float = 1.58
) -> tuple[float, float]:
    """Multiplies: sizes of a model's weights before and after, without scales, headers or anything else.

    A file's true size is `pyhybrid.inspect(path)`'s.

    Args:
        original_bits: bits of a weight before, above 0.
        params_count: number of weights, at least 0.
        target_bits: bits of a weight after, above 0.

    Returns:
        MiB before and after.

    Raises:
        InvalidArgumentError: a number out of its range.
    """
    for name, value in (("original_bits", original_bits), ("target_bits", target_bits)):
        if not (math.isfinite(value) and value > 0):
            raise InvalidArgumentError(f"{name} is {value!r}; give a number above 0")
    if not (math.isfinite(params_count) and params_count >= 0):
        raise InvalidArgumentError(f"params_count is {params_count!r}; give a number of at least 0")
    per_bit = params_count / 8 / 2**20
    return original_bits * per_bit, target_bits * per_bit


# ---- functions ----


def quantize_weights(weights: Any, bits: float = 4) -> tuple[Array, float, int]:
    """Quantises weights symmetrically with one scale: weights are about scale * (codes - zero_point).

    Args:
        weights: float, any shape, finite.
        bits: 8, 4, 2, 1.58 or 1.

    Returns:
        Codes int8 of the shape (odd numbers -15 to 15 for 4 bits, -3 to 3 for 2), scale, zero_point 0.

    Raises:
        InvalidArgumentError: empty, or another number of bits.
        NotFiniteError: NaN or infinity.
    """
    array = finite_array(weights, "weights")
    codes, scales = quantize(array.astype(np.float32).reshape(1, -1), bits=bits, threshold="lloyd")
    return codes.reshape(array.shape), float(scales[0]), 0


def quantize_per_row(weights: Any, bits: float = 4) -> tuple[Array, Array, Array]:
    """Quantises a matrix symmetrically with a scale a row.

    Args:
        weights: float [rows, columns], finite.
        bits: as for `quantize_weights`.

    Returns:
        Codes int8 [rows, columns], scales float32 [rows], zero_points int32 [rows], all 0.

    Raises:
        InvalidArgumentError: no matrix, or another number of bits.
        NotFiniteError: NaN or infinity.
    """
    array = finite_array(weights, "weights").astype(np.float32)
    codes, scales = quantize(array, bits=bits, scale="row", threshold="lloyd")
    return codes, scales, np.zeros(len(scales), np.int32)


def pack_bits(codes: Any, bits: float = 1) -> Array:
    """Packs codes of `quantize_weights` as one run of bytes; `pyhybrid.unpack` is the way back.

    Args:
        codes: int8, any shape.
        bits: 8, 4, 2, 1.58 (five codes a byte) or 1: what the codes were made with.

    Returns:
        uint8 [bytes].

    Raises:
        InvalidArgumentError: another number of bits, or a code that they do not hold.
    """
    if isinstance(bits, (bool, str)) or bits not in _PACKINGS:
        raise InvalidArgumentError(
            f"bits is {bits!r}; choose one of {', '.join(f'{b:g}' for b in _PACKINGS)}"
        )
    return pack(as_array(codes), _PACKINGS[bits])


def pack_q4(q: Any) -> Array:
    """Packs codes of 4 bits, two a byte; errors are those of `pack_bits`."""
    return pack_bits(q, 4)


def unpack_q4(packed: Any, original_size: int) -> Array:
    """Returns the codes that `pack_q4` packed, int8 [original_size].

    Args:
        packed: uint8 [bytes], or bytes.
        original_size: number of codes.

    Raises:
        InvalidArgumentError: the number of bytes is another.
        FileFormatError: bytes that no codes give.
    """
    return unpack(packed, operator.index(original_size), "int4")


def _channels(array: Array, axis: int | None) -> Array:
    """The array as rows, one a channel; one row without an axis.

    Raises:
        InvalidArgumentError: no such axis.
    """
    if axis is None or array.ndim == 0:
        return array.reshape(1, -1)
    if not -array.ndim <= axis < array.ndim:
        raise InvalidArgumentError(f"per_channel_axis is {axis}; the weights have {array.ndim} dimensions")
    moved = np.moveaxis(array, axis, 0)
    return np.ascontiguousarray(moved).reshape(len(moved), -1)


def _from_channels(rows: Array, shape: Sequence[int], axis: int | None) -> Array:
    """The inverse of `_channels`."""
    if axis is None or len(shape) == 0:
        return rows.reshape(tuple(shape))
    rest = list(shape)
    first = rest.pop(axis)
    return np.ascontiguousarray(np.moveaxis(rows.reshape(first, *rest), 0, axis))


def _meta(array: Array, axis: int | None, name: str) -> dict[str, Any]:
    return {"shape": array.shape, "per_channel_axis": axis, "quantization": name}


def binarize_weights(weights: Any, per_channel_axis: int | None = 0) -> tuple[Array, Array, dict[str, Any]]:
    """Keeps the signs, 8 a byte, and the mean magnitude of each channel.

    Args:
        weights: float, any shape, finite.
        per_channel_axis: axis along which each index has a scale; None: one scale.

    Returns:
        Packed signs uint8, channel by channel without padding; scales float32 [channels]; 'shape',
        'per_channel_axis' and 'quantization' ('1bit').

    Raises:
        InvalidArgumentError: empty, or no such axis.
        NotFiniteError: NaN or infinity.
    """
    array = finite_array(weights, "weights").astype(np.float32)
    codes, scales = quantize(_channels(array, per_channel_axis), bits=1, scale="row")
    return pack(codes, "int1"), scales, _meta(array, per_channel_axis, "1bit")


def unpack_binarized(
    packed: Any, scales: npt.ArrayLike, shape: Sequence[int], per_channel_axis: int | None = 0
) -> Array:
    """Returns the weights that `binarize_weights` stands for, float32 of the shape.

    Raises:
        InvalidArgumentError: bytes, scales and shape do not fit each other.
        FileFormatError: bytes that no signs give.
    """
    layout = _channels(np.empty(tuple(shape), np.int8), per_channel_axis).shape
    codes = unpack(packed, layout, "int1")
    return _from_channels(dequantize(codes, scales), shape, per_channel_axis)


def ternary_quantize_weights(
    weights: Any, per_channel_axis: int | None = 0, threshold_factor: float = 0.5
) -> tuple[Array, Array, dict[str, Any]]:
    """Quantises to -1, 0 and 1 with a scale a channel: 0 up to a multiple of the channel's mean magnitude.

    The scale is the mean magnitude of what is kept, the best one in squares for these codes.
    `pyhybrid.quantize(bits=1.58, threshold="lloyd")` finds the best threshold as well.

    Args:
        weights: float, any shape, finite.
        per_channel_axis: axis along which each index has a scale; None: one scale.
        threshold_factor: by the mean magnitude, above 0.

    Returns:
        Codes int8 of the shape, not packed (`pack_bits` does that); scales float32 [channels]; 'shape',
        'per_channel_axis' and 'quantization' ('ternary_1.58bit').

    Raises:
        InvalidArgumentError: empty, no such axis, or a factor that is no number above 0.
        NotFiniteError: NaN or infinity.
    """
    if not (math.isfinite(threshold_factor) and threshold_factor > 0):
        raise InvalidArgumentError(f"threshold_factor is {threshold_factor!r}; give a number above 0")
    array = finite_array(weights, "weights").astype(np.float32)
    rows = _channels(array, per_channel_axis)
    magnitudes = np.abs(rows)
    thresholds = threshold_factor * magnitudes.mean(1, keepdims=True, dtype=np.float64)
    codes = np.where(magnitudes > thresholds, np.sign(rows), 0).astype(np.int8)
    kept = (codes != 0).sum(1)
    sums = np.where(codes != 0, magnitudes, 0).sum(1, dtype=np.float64)
    scales = (sums / np.maximum(kept, 1)).astype(np.float32)
    found = _from_channels(codes, array.shape, per_channel_axis)
    return found, scales, _meta(array, per_channel_axis, "ternary_1.58bit")


def unpack_ternary(
    arr: Any, scales: npt.ArrayLike, shape: Sequence[int], per_channel_axis: int | None = 0
) -> Array:
    """Returns the weights that `ternary_quantize_weights` stands for, float32 of the shape.

    Args:
        arr: codes int8.
        scales: float32 [channels].
        shape: of the weights.
        per_channel_axis: as given to `ternary_quantize_weights`.

    Raises:
        InvalidArgumentError: codes, scales and shape do not fit each other.
    """
    codes = as_array(arr)
    if codes.size != math.prod(shape):
        raise InvalidArgumentError(
            f"arr has {codes.size} codes; shape {list(shape)} takes {math.prod(shape)}"
        )
    rows = _channels(codes.reshape(tuple(shape)), per_channel_axis)
    return _from_channels(dequantize(rows, scales), shape, per_channel_axis)
