"""Loss and gradients of a training step in plain NumPy and binary64: an oracle of the tests.

Place in the data flow: beside it, as _reference.py, whose quantisers it uses. A step is recorded operator by
operator and walked backwards. The quantisers are passed straight through: an effective weight's gradient is
its master weight's, a quantised activation's is that of the value before.

Sources: those of include/hybrid/language_model.h.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pyhybrid._reference import dequantize, quantize, rotary_tables
from pyhybrid.config import ModelConfig

__all__ = ["Step", "training_step"]

Doubles = npt.NDArray[np.float64]


class Step(NamedTuple):
    """What a training step computes.

    Args:
        loss: mean cross-entropy, nats per token.
        gradients: float64 by the parameter's name, of its shape.
        margin: how far the nearest activation was from a rounding tie, in steps of its int8 code. Where it is
            larger than another implementation's rounding errors, both have the same codes.
    """

    loss: float
    gradients: dict[str, Doubles]
    margin: float


class _Value:
    """A tensor on the tape, and the loss's derivative by it."""

    def __init__(self, value: Doubles) -> None:
        self.value = value
        self.gradient = np.zeros_like(value)


class _Tape:
    """The operators of a decoder; `backward` walks what was recorded.

    Args:
        config: shape and formats.
        parameters: float32 master weights by name.
        ternary_blend: share of the quantised weights in the layers' matrices.
    """

    def __init__(self, config: ModelConfig, parameters: Mapping[str, Any], ternary_blend: float) -> None:
        self._config, self._steps = config, list[Callable[[], None]]()
        self.masters = {name: _Value(np.asarray(v, np.float64)) for name, v in parameters.items()}
        self.margin = 0.5
        self._effective = {
            name: self._quantized(name, np.asarray(v, np.float32), ternary_blend)
            for name, v in parameters.items()
        }

    def _quantized(self, name: str, weights: npt.NDArray[np.float32], blend: float) -> Doubles:
        c, master = self._config, weights.astype(np.float64)
        if name in ("embedding", "head"):
            bits = c.embedding_bits
            return master if bits == 32 else dequantize(*quantize(weights, bits, "row")).astype(np.float64)
        if name.endswith("norm") or c.bits == 32:
            return master
        codes, scales = quantize(weights, c.bits, c.scale, c.threshold)
        return master + blend * (dequantize(codes, scales) - master)

    def _record(self, value: Doubles, backward: Callable[[Doubles], None]) -> _Value:
        out = _Value(value)
        self._steps.append(lambda: backward(out.gradient))
        return out

    def backward(self) -> None:
        """Fills every gradient."""
        for step in reversed(self._steps):
            step()

    def _activations(self, x: Doubles, bits: float) -> Doubles:
        """What a layer of these bits sees of its input."""
        if bits == 32:
            return x
        largest = np.abs(x).max(axis=-1, keepdims=True)
        steps = x * (127 / largest)
        self.margin = min(self.margin, float(np.abs(np.abs(steps - np.floor(steps)) - 0.5).min()))
        return np.asarray(np.rint(steps) * (largest / 127), np.float64)

    def rows(self, ids: npt.NDArray[np.int64]) -> _Value:
        table = self.masters["embedding"]

        def backward(d: Doubles) -> None:
            np.add.at(table.gradient, ids, d)

        return self._record(self._effective["embedding"][ids], backward)

    def linear(self, x: _Value, name: str, bits: float) -> _Value:
        seen, weights, master = self._activations(x.value, bits), self._effective[name], self.masters[name]

        def backward(d: Doubles) -> None:
            x.gradient += d @ weights
            master.gradient += d.T @ seen

        return self._record(seen @ weights.T, backward)

    def norm(self, x: _Value, name: str) -> _Value:
        gain, n = self.masters[name], x.value.shape[-1]
        r = 1 / np.sqrt((x.value**2).mean(axis=-1, keepdims=True) + self._config.norm_epsilon)

        def backward(d: Doubles) -> None:
            g = d * gain.value.reshape(-1)
            x.gradient += r * g - x.value * r**3 * (g * x.value).sum(axis=-1, keepdims=True) / n
            gain.gradient += (d * x.value * r).sum(axis=0).reshape(gain.gradient.shape)

        return self._record(x.value * r * gain.value.reshape(-1), backward)

    def rotate(self, x: _Value, n_heads: int) -> _Value:
        n_tokens, width = x.value.shape
        head_dim = width // n_heads
        tables = rotary_tables(head_dim, n_tokens, self._config.rope_theta)
        cosines, sines = (table.astype(np.float64)[:, None] for table in tables)

        def turn(values: Doubles, sign: int) -> Doubles:
            heads = values.reshape(n_tokens, n_heads, head_dim)
            a, b = heads[..., : head_dim // 2], heads[..., head_dim // 2 :]
            turned = [a * cosines - sign * b * sines, sign * a * sines + b * cosines]
            return np.concatenate(turned, axis=-1).reshape(n_tokens, width)

        def backward(d: Doubles) -> None:
            x.gradient += turn(d, -1)

        return self._record(turn(x.value, 1), backward)

    def attention(self, q: _Value, k: _Value, v: _Value) -> _Value:
        c = self._config
        n_tokens, head_dim, group = len(q.value), c.dim // c.n_heads, c.n_heads // c.kv_heads
        scale, masked = 1 / math.sqrt(head_dim), ~np.tri(n_tokens, dtype=bool)
        out, shares = np.zeros_like(q.value), []
        places = [
            (
                slice(h * head_dim, (h + 1) * head_dim),
                slice(h // group * head_dim, (h // group + 1) * head_dim),
            )
            for h in range(c.n_heads)
        ]
        for own, shared in places:
            scores = q.value[:, own] @ k.value[:, shared].T * scale
            scores[masked] = -np.inf
            p = np.exp(scores - scores.max(axis=-1, keepdims=True))
            p /= p.sum(axis=-1, keepdims=True)
            shares.append(p)
            out[:, own] = p @ v.value[:, shared]

        def backward(d: Doubles) -> None:
            for (own, shared), p in zip(places, shares, strict=True):
                d_p = d[:, own] @ v.value[:, shared].T
                d_scores = p * (d_p - (d_p * p).sum(axis=-1, keepdims=True)) * scale
                q.gradient[:, own] += d_scores @ k.value[:, shared]
                k.gradient[:, shared] += d_scores.T @ q.value[:, own]
                v.gradient[:, shared] += p.T @ d[:, own]

        return self._record(out, backward)

    def gate(self, g: _Value, up: _Value) -> _Value:
        if self._config.activation == "silu":
            sigmoid = 1 / (1 + np.exp(-g.value))
            active, slope = g.value * sigmoid, sigmoid * (1 + g.value * (1 - sigmoid))
        else:
            positive = np.maximum(g.value, 0)
            active, slope = positive**2, 2 * positive

        def backward(d: Doubles) -> None:
            g.gradient += d * up.value * slope
            up.gradient += d * active

        return self._record(active * up.value, backward)

    def add(self, a: _Value, b: _Value) -> _Value:
        def backward(d: Doubles) -> None:
            a.gradient += d
            b.gradient += d

        return self._record(a.value + b.value, backward)

    def layer(self, h: _Value, layer: int) -> _Value:
        c, at = self._config, f"blk.{layer}."
        x = self.norm(h, f"{at}attn_norm")
        q, k, v = (self.linear(x, f"{at}attn_{name}", c.bits) for name in "qkv")
        a = self.attention(self.rotate(q, c.n_heads), self.rotate(k, c.kv_heads), v)
        if c.sub_norms:
            a = self.norm(a, f"{at}attn_sub_norm")
        h = self.add(h, self.linear(a, f"{at}attn_output", c.bits))
        x = self.norm(h, f"{at}ffn_norm")
        u = self.gate(*(self.linear(x, f"{at}ffn_{name}", c.bits) for name in ("gate", "up")))
        if c.sub_norms:
            u = self.norm(u, f"{at}ffn_sub_norm")
        return self.add(h, self.linear(u, f"{at}ffn_down", c.bits))

    def losses(self, tokens: npt.NDArray[np.int64], n_all: int) -> Doubles:
        """Cross-entropies in nats of one sequence [context + 1]; their sum / n_all is what is derived."""
        c, targets = self._config, tokens[1:]
        h = self.rows(tokens[:-1])
        for layer in range(c.n_layers):
            h = self.layer(h, layer)
        x = self.norm(h, "final_norm")
        logits = self.linear(x, "embedding" if c.tied_embeddings else "head", c.embedding_bits)
        shifted = logits.value - logits.value.max(axis=-1, keepdims=True)
        logarithms = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        every = np.arange(len(targets))
        logits.gradient += np.exp(logarithms) / n_all
        logits.gradient[every, targets] -= 1 / n_all
        return np.asarray(-logarithms[every, targets], np.float64)


def training_step(
    config: ModelConfig, parameters: Mapping[str, Any], tokens: npt.ArrayLike, *, ternary_blend: float = 1.0
) -> Step:
    """Computes the loss of a batch and its gradient by every parameter.

    Args:
        config: shape and formats.
        parameters: float32 master weights by name, [rows, columns].
        tokens: [sequences, context + 1]; position t predicts token t + 1.
        ternary_blend: share of the quantised weights in the layers' matrices, 0 to 1.

    Returns:
        Loss, gradients, and the margin that decides how they may be compared.
    """
    windows = np.asarray(tokens, np.int64)
    n_all = windows.shape[0] * (windows.shape[1] - 1)
    tape = _Tape(config, parameters, ternary_blend)
    loss = sum(float(tape.losses(window, n_all).sum()) for window in windows) / n_all
    tape.backward()
    return Step(loss, {name: master.gradient for name, master in tape.masters.items()}, tape.margin)
