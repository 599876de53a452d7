"""The library's operations in plain NumPy, written from the headers: the oracle of the tests.

Place in the data flow: beside it. Nothing here is fast and nothing here is shared with the C code, so an
error would have to be made twice to go unseen. Integers are exact. Floats follow the numerics contract, every
product and sum rounded to binary32 by itself and sums taken in 16 lanes, so that they can be compared bit for
bit, too.

Sources: those of include/hybrid/quantize.h and language_model.h; exp: Cephes expf (Moshier).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pyhybrid.config import ModelConfig

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int8]

LANES = 16
F32 = np.float32

# ---- sums in the contract's order ----


def lane_sum(values: Floats) -> Floats:
    """Sums the last axis: element i into lane i % 16 in ascending order, then lanes l + 8, 4, 2, 1.

    Args:
        values: float32 [..., n].

    Returns:
        float32 [...].
    """
    n = values.shape[-1]
    padded = np.zeros((*values.shape[:-1], -(-n // LANES) * LANES), F32)
    padded[..., :n] = values
    lanes = np.zeros((*values.shape[:-1], LANES), F32)
    for start in range(0, n, LANES):
        lanes = lanes + padded[..., start : start + LANES]
    width = LANES // 2
    while width:
        lanes = lanes[..., :width] + lanes[..., width : 2 * width]
        width //= 2
    return np.asarray(lanes[..., 0], F32)


def dot(a: Floats, b: Floats) -> Floats:
    """Dot product over the last axis; float32 [..., n] each, broadcast."""
    return lane_sum(np.asarray(a * b, F32))


def exp(x: Floats) -> Floats:
    """The library's exp for binary32, any shape."""
    x = np.clip(np.asarray(x, F32), F32(-87.33654), F32(88.72283))
    magic = F32(12582912.0)  # 1.5 * 2^23: adding and subtracting it rounds to an integer
    n = (x * F32(1.44269504) + magic) - magic
    r = (x - n * F32(0.693359375)) - n * F32(-2.12194440e-4)
    p = np.full_like(x, F32(1.9875691500e-4))
    for coefficient in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = p * r + F32(coefficient)
    t = p * (r * r)
    t = t + r
    t = t + F32(1)
    whole = n.astype(np.int32)
    top = whole == 128
    power = (((np.where(top, 127, whole) + 127) << 23).astype(np.uint32)).view(F32)
    result = t * power
    return np.asarray(result * np.where(top, F32(2), F32(1)), F32)


def to_half(value: npt.ArrayLike) -> Floats:
    """Rounds binary32 to the nearest binary16 number, kept as binary32."""
    with np.errstate(over="ignore"):
        return np.asarray(value, F32).astype(np.float16).astype(F32)


# ---- quantisers ----

#: Steps of the optimal uniform quantisers of a unit Gaussian with 4 and 16 levels (Max 1960).
GAUSS_STEP = {2: 0.996, 4: 0.335}
SIGMA_BY_MEAN = 1.2533141  # sqrt(pi / 2), as the C source has it


def _mean_magnitude(weights: Floats, above: float = -1.0) -> np.float32:
    """Mean of |w| over |w| > above: rows in 16 lanes of binary32, the rows' sums in binary64."""
    magnitude = np.abs(weights)
    chosen = magnitude > F32(above)
    sums = lane_sum(np.where(chosen, magnitude, F32(0)).astype(F32))
    total = 0.0
    for row in sums:
        total += float(row)
    count = int(chosen.sum())
    return F32(total / count) if count else F32(0)


def _scale_of(weights: Floats, bits: float, threshold: str) -> np.float32:
    if bits == 8:
        return F32(to_half(np.abs(weights).max() / F32(127)))
    mean = _mean_magnitude(weights)
    if threshold == "three_of_four":
        mean = _mean_magnitude(weights, 0.0)
    if bits in GAUSS_STEP:
        mean = F32(GAUSS_STEP[int(bits)] * SIGMA_BY_MEAN / 2 * float(mean))
    scale = F32(to_half(mean))
    if bits == 1.58 and threshold == "lloyd":
        for _ in range(64):
            following = F32(to_half(_mean_magnitude(weights, float(scale * F32(0.5)))))
            if following in (0, scale):
                break
            scale = following
    return scale


def _codes_of(weights: Floats, scale: np.float32, bits: float, dead_zone: float) -> Codes:
    if bits == 1 or (scale == 0 and bits in GAUSS_STEP):
        return np.where(weights >= 0, 1, -1).astype(np.int8)
    if scale == 0:
        return np.zeros(weights.shape, np.int8)
    if bits == 1.58:
        return (np.sign(weights) * (np.abs(weights) > scale * F32(dead_zone))).astype(np.int8)
    if bits == 8:
        return np.asarray(np.clip(np.rint(weights / scale), -127, 127), np.int8)
    levels = 2 ** int(bits) // 2
    steps = np.clip(np.floor(weights / (F32(2) * scale)), -levels, levels - 1)
    return np.asarray(2 * steps + 1, np.int8)


def quantize(
    weights: Floats,
    bits: float = 1.58,
    scale: str = "tensor",
    threshold: str = "absmean",
    dead_zone: float = 0.5,
) -> tuple[Codes, Floats]:
    """Quantises a matrix.

    Args:
        weights: float32 [rows, columns].
        bits: 8, 4, 2, 1.58 or 1.
        scale: 'tensor' or 'row'.
        threshold: 'absmean', 'lloyd' or 'three_of_four'.
        dead_zone: of ternary codes, by the scale.

    Returns:
        Codes int8 [rows, columns], scales float32 [1] or [rows].
    """
    if threshold == "three_of_four":
        fours = weights.reshape(len(weights), -1, 4)
        is_kept = np.arange(4) != np.abs(fours).argmin(axis=2)[..., None]
        kept = np.where(is_kept, np.where(fours == 0, np.finfo(F32).tiny, fours), 0).astype(F32)
        weights, dead_zone = kept.reshape(weights.shape), 0.0
    scopes = [weights[r : r + 1] for r in range(len(weights))] if scale == "row" else [weights]
    scales = [_scale_of(scope, bits, threshold) for scope in scopes]
    codes = [_codes_of(scope, s, bits, dead_zone) for scope, s in zip(scopes, scales, strict=True)]
    return np.concatenate(codes), np.asarray(scales, F32)


def dequantize(codes: Codes, scales: Floats) -> Floats:
    """Returns scale * code; codes int8 [rows, columns], scales float32 [1] or [rows]."""
    return codes.astype(F32) * scales.reshape(-1, 1)


def quantize_activations(x: Floats) -> tuple[Codes, Floats]:
    """Quantises float32 [..., n] to int8 by the largest magnitude of the last axis; scales float32 [...]."""
    largest = np.abs(x).max(axis=-1)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.asarray(F32(127) / largest, F32)
    dead = ~np.isfinite(inverse)  # all zero, or too small to be inverted
    inverse = np.where(dead, F32(0), inverse).astype(F32)
    codes = np.clip(np.rint(x * inverse[..., None]), -127, 127).astype(np.int8)
    return codes, np.where(dead, F32(0), largest / F32(127)).astype(F32)


# ---- packing ----

#: Codes a byte, and (code + offset) / divisor = digit, base of the digits.
_PACKINGS = {
    "ternary2": (4, 1, 1, 4),
    "base3": (5, 1, 1, 3),
    "int1": (8, 1, 2, 2),
    "int2": (4, 3, 2, 4),
    "int4": (2, 15, 2, 16),
}


def pack(codes: Codes, packing: str) -> bytes:
    """Packs codes; a tail of ternary codes is filled with code 0, of the others with digit 0."""
    flat = [int(code) for code in codes.reshape(-1)]
    if packing == "int8":
        return bytes(code & 255 for code in flat)
    per_byte, offset, divisor, base = _PACKINGS[packing]
    digits = [(code + offset) // divisor for code in flat]
    fill = 1 if packing in ("ternary2", "base3") else 0
    digits += [fill] * (-len(digits) % per_byte)
    groups = [digits[i : i + per_byte] for i in range(0, len(digits), per_byte)]
    return bytes(sum(digit * base**i for i, digit in enumerate(group)) for group in groups)


def unpack(packed: bytes, n_codes: int, packing: str) -> Codes:
    """Unpacks what `pack` gives."""
    if packing == "int8":
        return np.frombuffer(packed, np.int8)[:n_codes]
    per_byte, offset, divisor, base = _PACKINGS[packing]
    digits = [byte // base**i % base for byte in packed for i in range(per_byte)]
    return np.asarray([digit * divisor - offset for digit in digits[:n_codes]], np.int8)


# ---- layers ----


def matmul(codes: Codes, scales: Floats, x: Codes, x_scales: Floats) -> Floats:
    """Integer product with two roundings: float32(sum) * (x_scale * row_scale).

    Args:
        codes: int8 [rows, columns].
        scales: float32 [1] or [rows].
        x: int8 [tokens, columns].
        x_scales: float32 [tokens].

    Returns:
        float32 [tokens, rows].
    """
    sums = x.astype(np.int64) @ codes.astype(np.int64).T
    return sums.astype(F32) * (x_scales[:, None] * scales[None, :])


def rms_norm(x: Floats, gain: Floats, epsilon: float) -> Floats:
    """Root-mean-square norm of the last axis, times gain; float32 [..., n]."""
    mean = dot(x, x) / F32(x.shape[-1])
    r = np.asarray(F32(1) / np.sqrt(mean + F32(epsilon)), F32)
    return (x * r[..., None]) * gain


def rotary_tables(head_dim: int, n_positions: int, theta: float) -> tuple[Floats, Floats]:
    """Cosines and sines, float32 [positions, head_dim / 2], computed in binary64."""
    half = np.arange(head_dim // 2, dtype=np.float64)
    frequency = np.exp(-(2 * half) / head_dim * math.log(float(F32(theta))))
    angle = np.arange(n_positions, dtype=np.float64)[:, None] * frequency
    return np.cos(angle).astype(F32), np.sin(angle).astype(F32)


def rotate(x: Floats, cosines: Floats, sines: Floats) -> Floats:
    """Rotates the halves of each head; x float32 [tokens, heads, head_dim], tables [tokens, head_dim / 2]."""
    half = x.shape[-1] // 2
    a, b, c, s = x[..., :half], x[..., half:], cosines[:, None], sines[:, None]
    return np.concatenate([a * c - b * s, a * s + b * c], axis=-1)


def attention(q: Floats, k: Floats, v: Floats) -> Floats:
    """Causal attention with grouped queries.

    Args:
        q: float32 [tokens, heads, head_dim].
        k: float32 [tokens, kv_heads, head_dim].
        v: float32 [tokens, kv_heads, head_dim].

    Returns:
        float32 [tokens, heads, head_dim].
    """
    n_tokens, n_heads, head_dim = q.shape
    scale = F32(1.0 / math.sqrt(head_dim))
    group = n_heads // k.shape[1]
    out = np.zeros_like(q)
    for t in range(n_tokens):
        for h in range(n_heads):
            keys, values = k[: t + 1, h // group], v[: t + 1, h // group]
            scores = dot(q[t, h][None], keys) * scale
            p = exp(scores - scores.max())
            r = F32(1) / F32(lane_sum(p))
            total = np.zeros(head_dim, F32)
            for weight, value in zip(p, values, strict=True):
                total = total + weight * value
            out[t, h] = total * r
    return out


def gate(g: Floats, up: Floats, activation: str) -> Floats:
    """act(g) * up for 'silu' or 'squared_relu'."""
    if activation == "silu":
        return (g / (F32(1) + exp(-g))) * up
    positive = np.maximum(g, F32(0))
    return (positive * positive) * up


def linear(weights: Floats, x: Floats, config: ModelConfig, *, embedding: bool = False) -> Floats:
    """A linear layer: quantises weights and inputs by the configuration.

    Args:
        weights: float32 [rows, columns], master weights.
        x: float32 [tokens, columns].
        config: formats.
        embedding: use the embedding's format, one scale a row.

    Returns:
        float32 [tokens, rows].
    """
    bits = config.embedding_bits if embedding else config.bits
    if bits == 32:
        return np.stack([dot(row[None], weights) for row in x])
    if embedding:
        codes, scales = quantize(weights, bits, "row")
    else:
        codes, scales = quantize(weights, bits, config.scale, config.threshold)
    return matmul(codes, scales, *quantize_activations(x))


# ---- the model ----


@dataclass
class Decoder:
    """The whole model from its master weights.

    Args:
        config: shape and formats.
        parameters: float32 master weights by name, [rows, columns]; norm gains [1, dim] or [dim].
        int8_cache: keys and values go through int8, one scale per position and head.
    """

    config: ModelConfig
    parameters: Mapping[str, Any]
    int8_cache: bool = False

    def _gain(self, name: str) -> Floats:
        return np.asarray(self.parameters[name], F32).reshape(-1)

    def _layer(self, h: Floats, layer: int, cosines: Floats, sines: Floats) -> Floats:
        c = self.config
        head_dim = c.dim // c.n_heads

        def weight(name: str) -> Floats:
            return np.asarray(self.parameters[f"blk.{layer}.{name}"], F32)

        def norm(x: Floats, name: str) -> Floats:
            return rms_norm(x, self._gain(f"blk.{layer}.{name}"), c.norm_epsilon)

        x = norm(h, "attn_norm")
        q = rotate(linear(weight("attn_q"), x, c).reshape(len(x), -1, head_dim), cosines, sines)
        k = rotate(linear(weight("attn_k"), x, c).reshape(len(x), -1, head_dim), cosines, sines)
        v = linear(weight("attn_v"), x, c).reshape(len(x), -1, head_dim)
        if self.int8_cache:
            k, v = (codes.astype(F32) * s[..., None] for codes, s in map(quantize_activations, (k, v)))
        a = attention(q, k, v).reshape(len(x), -1)
        if c.sub_norms:
            a = norm(a, "attn_sub_norm")
        h = h + linear(weight("attn_output"), a, c)
        x = norm(h, "ffn_norm")
        u = gate(linear(weight("ffn_gate"), x, c), linear(weight("ffn_up"), x, c), c.activation)
        if c.sub_norms:
            u = norm(u, "ffn_sub_norm")
        return h + linear(weight("ffn_down"), u, c)

    def logits(self, tokens: npt.ArrayLike) -> Floats:
        """Logits float32 [tokens, vocab_size] of one sequence from position 0."""
        c = self.config
        ids = np.asarray(tokens, np.int64)
        table = np.asarray(self.parameters["embedding"], F32)
        if c.embedding_bits != 32:
            table = dequantize(*quantize(table, c.embedding_bits, "row"))
        cosines, sines = rotary_tables(c.dim // c.n_heads, len(ids), c.rope_theta)
        h = table[ids]
        for layer in range(c.n_layers):
            h = self._layer(h, layer, cosines, sines)
        head = np.asarray(self.parameters["embedding" if c.tied_embeddings else "head"], F32)
        return linear(head, rms_norm(h, self._gain("final_norm"), c.norm_epsilon), c, embedding=True)


def cross_entropy(logits: Floats, targets: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Cross-entropy in nats of each row; logits float32 [tokens, vocab_size], targets [tokens]."""
    wide = logits.astype(np.float64)
    largest = wide.max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(wide, np.asarray(targets, np.int64)[:, None], axis=-1)
    total = np.log(np.exp(wide - largest).sum(axis=-1, keepdims=True)) + largest
    return np.asarray((total - chosen)[:, 0], np.float64)


def adamw(
    weights: Floats,
    gradient: Floats,
    first: Floats,
    second: Floats,
    *,
    learning_rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    step: int,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """One AdamW update in binary64; returns the weights and both moments.

    Source: Loshchilov & Hutter 2019.
    """
    w, g, m, v = (np.asarray(a, np.float64) for a in (weights, gradient, first, second))
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    update = (m / (1 - beta1**step)) / (np.sqrt(v / (1 - beta2**step)) + epsilon)
    return w - learning_rate * (update + weight_decay * w), m, v


#: Coefficients of the Newton-Schulz steps that orthogonalise a momentum: lib/orthogonalize.c.
ORTHOGONAL_STEPS = (
    (5.7281, -16.2972, 11.9651),
    (3.9382, -5.0150, 1.8211),
    (1.5, -0.5, 0.0),
)


def spectral_change(
    gradient: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
    first_moment: npt.NDArray[np.float64],
    row_moment: npt.NDArray[np.float64] | None,
    *,
    learning_rate: float,
    momentum: float,
    row_beta: float,
    weight_decay: float,
) -> tuple[Any, Any, Any]:
    """The change of a matrix by a trust-region step with the spectral norm that the radius does not shorten.

    Args:
        gradient, weights, first_moment: float64 [n_rows, n_cols].
        row_moment: float64 [n_rows, 1]; None in the first step.

    Returns:
        The change, the new first moment and the new row moment.

    Source: include/hybrid/optimize.h.
    """
    first_moment = momentum * first_moment + (1 - momentum) * gradient
    u = momentum * first_moment + (1 - momentum) * gradient
    x = u / (1.0001 * np.sum(np.linalg.svd(u, compute_uv=False) ** 8) ** 0.125)
    for linear, cubic, quintic in ORTHOGONAL_STEPS:
        gram = x @ x.T
        x = linear * x + (cubic * gram + quintic * gram @ gram) @ x
    if row_beta > 0:
        means = np.mean(x**2, axis=1, keepdims=True)
        row_moment = means if row_moment is None else row_beta * row_moment + (1 - row_beta) * means
        factors = 1 / (np.sqrt(row_moment) + 1e-8)
        x = x * np.minimum(factors * (np.linalg.norm(x) / np.linalg.norm(x * factors)), 1.6)
        x = 1.5 * x - 0.5 * x @ (x.T @ x)
    shape = max(1.0, gradient.shape[0] / gradient.shape[1]) ** 0.5
    return -learning_rate * (shape * x + weight_decay * weights), first_moment, row_moment
