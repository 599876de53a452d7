"""An independent PyTorch model of the same architecture: peer of the benchmarks, oracle of the tests.

Place in the data flow: the parity tests compare loss and gradients with it, tests/data/make_goldens.py draws
the committed goldens from it, and the benchmarks train it on the same weights and batches. It is written for
eager mode in the usual way: `torch.nn` modules, autograd, fake quantisation with a straight-through
estimator. It shares no code with the C library, only the definitions in include/hybrid/language_model.h and
quantize.h.

Sources: Touvron et al. 2023 (Llama); Ma et al. 2024 (BitNet b1.58); Su et al. 2021 (rotary embedding); Bengio
et al. 2013 (straight-through estimator); Max 1960 (2- and 4-bit steps for Gaussian values).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from pyhybrid.benchmarks.adamw import AdamW
from pyhybrid.config import ModelConfig

__all__ = [
    "BitLinear",
    "Decoder",
    "KeyValueCache",
    "make_optimizer",
    "quantize_activations",
    "quantize_weights",
    "to_half",
]

# Half the step of the optimal uniform quantiser of a Gaussian (Max 1960: 0.996 sigma for 4 levels, 0.335 for
# 16), as a multiple of the mean magnitude; sigma is sqrt(pi / 2) times that mean. Codes are odd numbers,
# hence the half.
_SCALE_BY_MEAN = {2: 0.996 * math.sqrt(math.pi / 2) / 2, 4: 0.335 * math.sqrt(math.pi / 2) / 2}
_LLOYD_MAX_ROUNDS = 64


def to_half(x: Tensor) -> Tensor:
    """Rounds to the nearest binary16 value and keeps the dtype: scales are stored in 16 bits."""
    return x.to(torch.float16).to(x.dtype)


def _straight_through(x: Tensor, quantized: Tensor) -> Tensor:
    return x + (quantized - x).detach()


def _mean_magnitude(w: Tensor, above: Tensor | None = None) -> Tensor:
    """Mean of |w|, or of those above a threshold, over the last dimension: [n, 1]; 0 where there is none."""
    if above is None:
        return w.abs().mean(dim=1, keepdim=True)
    chosen = w.abs() > above
    return (w.abs() * chosen).sum(dim=1, keepdim=True) / chosen.sum(dim=1, keepdim=True).clamp(min=1)


def _ternary_scale(w: Tensor, threshold: str) -> Tensor:
    scale = to_half(_mean_magnitude(w))
    if threshold == "lloyd":
        for _ in range(_LLOYD_MAX_ROUNDS):
            refined = to_half(_mean_magnitude(w, scale / 2))
            refined = torch.where(refined == 0, scale, refined)
            if torch.equal(refined, scale):
                break
            scale = refined
    return scale


@torch.no_grad()
def quantize_weights(
    weight: Tensor, bits: float, scale: str = "tensor", threshold: str = "absmean"
) -> tuple[Tensor, Tensor]:
    """Quantises a matrix.

    Args:
        weight: [rows, columns], float.
        bits: 8, 4, 2, 1.58 or 1.
        scale: one scale a 'tensor' or a 'row'.
        threshold: of the ternary quantiser, 'absmean' or 'lloyd'.

    Returns:
        Codes [rows, columns] and scales [1, 1] or [rows, 1], both of the weight's dtype.

    Source: include/hybrid/quantize.h.
    """
    w = weight if scale == "row" else weight.reshape(1, -1)
    if bits == 1.58:
        s = _ternary_scale(w, threshold)
        codes = w.sign() * (w.abs() > s / 2)
    elif bits == 1:
        s = to_half(_mean_magnitude(w))
        codes = torch.where(w >= 0, 1.0, -1.0).to(w.dtype)
    elif bits == 8:
        s = to_half(w.abs().amax(dim=1, keepdim=True) / 127)
        codes = torch.where(s > 0, w / s, torch.zeros_like(w)).round().clamp(-127, 127)
    else:
        levels = 2 ** int(bits) // 2
        s = to_half(_mean_magnitude(w) * _SCALE_BY_MEAN[int(bits)])
        position = torch.where(s > 0, w / (2 * s), torch.zeros_like(w))
        codes = 2 * position.floor().clamp(-levels, levels - 1) + 1
    return codes.reshape(weight.shape), s


def fake_quantize_weights(weight: Tensor, bits: float, scale: str, threshold: str) -> Tensor:
    """Scale times code forward, the identity backward; with bits 32 the weight itself."""
    if bits == 32:
        return weight
    codes, s = quantize_weights(weight, bits, scale, threshold)
    return _straight_through(weight, codes * s)


@torch.no_grad()
def quantize_activations(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantises to int8 with one absmax scale a token.

    Args:
        x: [..., columns], float.

    Returns:
        Codes [..., columns] and scales [..., 1], both of x's dtype.
    """
    absmax = x.abs().amax(dim=-1, keepdim=True)
    inverse = torch.where(absmax > 0, 127 / absmax, torch.zeros_like(absmax))
    return (x * inverse).round().clamp(-127, 127), absmax / 127


def fake_quantize_activations(x: Tensor) -> Tensor:
    """Scale times code in the forward pass, the identity in the backward pass."""
    codes, s = quantize_activations(x)
    return _straight_through(x, codes * s)


class BitLinear(nn.Linear):
    """A linear layer without bias on quantised weights and int8 activations; with bits 32 a plain one.

    Args:
        n_in: columns of the weight.
        n_out: rows of the weight.
        config: formats of the model.
    """

    def __init__(self, n_in: int, n_out: int, config: ModelConfig) -> None:
        super().__init__(n_in, n_out, bias=False)
        self.bits, self.scale, self.threshold = config.bits, config.scale, config.threshold
        self.folded: Tensor | None = None

    def fold(self) -> None:
        """Quantises the weight once, for generation."""
        with torch.no_grad():
            self.folded = fake_quantize_weights(self.weight, self.bits, self.scale, self.threshold)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., n_in] to [..., n_out]."""
        if self.bits == 32:
            return functional.linear(x, self.weight)
        weight = self.folded
        if weight is None:
            weight = fake_quantize_weights(self.weight, self.bits, self.scale, self.threshold)
        return functional.linear(fake_quantize_activations(x), weight)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + epsilon) * gain (Zhang & Sennrich 2019)."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """x [..., size], normalised over the last dimension."""
        return functional.rms_norm(x, (x.shape[-1],), self.weight, self.epsilon)


class KeyValueCache:
    """Keys and values of one layer, for generation: each [n_sequences, n_kv_heads, n_context, head_dim]."""

    def __init__(self, config: ModelConfig, n_sequences: int, n_context: int) -> None:
        shape = (n_sequences, config.kv_heads, n_context, config.dim // config.n_heads)
        self.keys = torch.zeros(shape)
        self.values = torch.zeros(shape)
        self.length = 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Stores new positions and returns all of them."""
        end = self.length + k.shape[2]
        self.keys[:, :, self.length : end] = k
        self.values[:, :, self.length : end] = v
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


def _rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotates the halves of each head, x [B, heads, T, head_dim], by angles [T, head_dim / 2]."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1)


class Layer(nn.Module):
    """One decoder layer; the names of its parts are those of the C library's parameters."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        head_dim = config.dim // config.n_heads
        self.n_heads, self.n_kv_heads, self.head_dim = config.n_heads, config.kv_heads, head_dim
        self.squared_relu = config.activation == "squared_relu"
        self.qk_norm = False  # the library has no such norm: for comparison only
        self.attn_norm = RMSNorm(config.dim, config.norm_epsilon)
        self.attn_q = BitLinear(config.dim, config.dim, config)
        self.attn_k = BitLinear(config.dim, config.kv_heads * head_dim, config)
        self.attn_v = BitLinear(config.dim, config.kv_heads * head_dim, config)
        self.attn_output = BitLinear(config.dim, config.dim, config)
        self.ffn_norm = RMSNorm(config.dim, config.norm_epsilon)
        self.ffn_gate = BitLinear(config.dim, config.ffn_dim, config)
        self.ffn_up = BitLinear(config.dim, config.ffn_dim, config)
        self.ffn_down = BitLinear(config.ffn_dim, config.dim, config)
        self.attn_sub_norm = RMSNorm(config.dim, config.norm_epsilon) if config.sub_norms else None
        self.ffn_sub_norm = RMSNorm(config.ffn_dim, config.norm_epsilon) if config.sub_norms else None

    def _heads(self, x: Tensor, n_heads: int) -> Tensor:
        return x.view(x.shape[0], x.shape[1], n_heads, self.head_dim).transpose(1, 2)

    def attention(self, n: Tensor, cosines: Tensor, sines: Tensor, cache: KeyValueCache | None) -> Tensor:
        """Grouped-query causal attention over normalised rows n [B, T, dim], before the sub-norm."""
        q = _rotate(self._heads(self.attn_q(n), self.n_heads), cosines, sines)
        k = _rotate(self._heads(self.attn_k(n), self.n_kv_heads), cosines, sines)
        v = self._heads(self.attn_v(n), self.n_kv_heads)
        if self.qk_norm:  # rotation changes no length: before or behind it is the same
            q, k = (functional.rms_norm(x, (self.head_dim,)) for x in (q, k))
        causal = True
        if cache is not None:
            causal = cache.length == 0  # later calls feed one token, which may see everything
            k, v = cache.append(k, v)
        grouped = self.n_kv_heads != self.n_heads
        a = functional.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=grouped)
        return a.transpose(1, 2).reshape(n.shape)

    def forward(
        self, h: Tensor, cosines: Tensor, sines: Tensor, cache: KeyValueCache | None = None
    ) -> Tensor:
        """h [B, T, dim] to the residual stream after this layer."""
        a = self.attention(self.attn_norm(h), cosines, sines, cache)
        if self.attn_sub_norm is not None:
            a = self.attn_sub_norm(a)
        h = h + self.attn_output(a)
        n = self.ffn_norm(h)
        gate = self.ffn_gate(n)
        u = (functional.relu(gate).square() if self.squared_relu else functional.silu(gate)) * self.ffn_up(n)
        if self.ffn_sub_norm is not None:
            u = self.ffn_sub_norm(u)
        return cast(Tensor, h + self.ffn_down(u))


class Decoder(nn.Module):
    """The language model.

    Args:
        config: the same configuration that pyhybrid.LanguageModel takes.
    """

    cosines: Tensor
    sines: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Parameter(torch.randn(config.vocab_size, config.dim) * 0.02)
        self.head: nn.Parameter | None = None
        if not config.tied_embeddings:
            self.head = nn.Parameter(torch.randn(config.vocab_size, config.dim) * 0.02)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.n_layers))
        self.final_norm = RMSNorm(config.dim, config.norm_epsilon)
        half = config.dim // config.n_heads // 2
        frequencies = config.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)
        angles = torch.arange(config.max_context, dtype=torch.float64)[:, None] * frequencies
        self.register_buffer("cosines", angles.cos().float(), persistent=False)
        self.register_buffer("sines", angles.sin().float(), persistent=False)
        self._folded: tuple[Tensor, Tensor] | None = None

    def fold(self) -> None:
        """Quantises every weight once: for generation, where weights do not change."""
        for module in self.modules():
            if isinstance(module, BitLinear):
                module.fold()
        with torch.no_grad():
            self._folded = self._tables()

    def _tables(self) -> tuple[Tensor, Tensor]:
        """Effective embedding and head."""
        bits = self.config.embedding_bits
        embedding = fake_quantize_weights(self.embedding, bits, "row", "absmean")
        head = embedding if self.head is None else fake_quantize_weights(self.head, bits, "row", "absmean")
        return embedding, head

    def forward(self, tokens: Tensor, caches: list[KeyValueCache] | None = None) -> Tensor:
        """Returns logits.

        Args:
            tokens: int64 [B, T].
            caches: one a layer, for generation; None: positions begin at 0.

        Returns:
            float [B, T, vocab_size].
        """
        embedding, head = self._folded or self._tables()
        start = caches[0].length if caches else 0
        cosines = self.cosines[start : start + tokens.shape[1]]
        sines = self.sines[start : start + tokens.shape[1]]
        h = functional.embedding(tokens, embedding)
        for index, layer in enumerate(self.layers):
            h = layer(h, cosines, sines, caches[index] if caches else None)
        n = self.final_norm(h)
        if self.config.embedding_bits != 32:
            n = fake_quantize_activations(n)
        return functional.linear(n, head)

    def loss(self, windows: Tensor, reduction: str = "mean") -> Tensor:
        """Cross-entropy in nats of windows int64 [B, T + 1]: position t predicts token t + 1."""
        logits = self(windows[:, :-1])
        return functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten(), reduction=reduction)

    # ---- exchange with the C library ----

    def parameter_names(self) -> dict[str, nn.Parameter]:
        """Returns the parameters by the C library's names: embedding, head, final_norm, blk.N.attn_q, ..."""
        named: dict[str, nn.Parameter] = {}
        for name, parameter in self.named_parameters():
            named[name.replace("layers.", "blk.").removesuffix(".weight")] = parameter
        return named

    @torch.no_grad()
    def load(self, values: Mapping[str, NDArray[np.float32]]) -> None:
        """Copies weights, given by the C library's names; norm gains may be [n] or [1, n].

        Raises:
            KeyError: the names are not those of this configuration.
        """
        named = self.parameter_names()
        if set(named) != set(values):
            raise KeyError(f"parameters differ: {sorted(set(named) ^ set(values))}")
        for name, parameter in named.items():
            parameter.copy_(torch.from_numpy(np.array(values[name])).reshape(parameter.shape))

    def gradients(self) -> dict[str, NDArray[np.float64]]:
        """Returns the gradients of the last backward pass by the C library's names, fp64."""
        found: dict[str, NDArray[np.float64]] = {}
        for name, parameter in self.parameter_names().items():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            found[name] = gradient.detach().double().numpy()
        return found

    def double(self) -> Decoder:
        """This model in fp64, rotary tables kept at the fp32 values that every implementation uses."""
        super().double()
        return self

    # ---- how far the integers are from changing ----

    @torch.no_grad()
    def margins(self, tokens: Tensor) -> tuple[float, float]:
        """Returns how far quantised values are from a rounding tie on this input.

        Where every value is farther from a tie than the arithmetic's error, two correct implementations give
        the same integers, and what is left between them is rounding of floats.

        Args:
            tokens: int64 [B, T].

        Returns:
            The least distance of an activation from a tie, in steps of the int8 code (1 if nothing is
            quantised), and the least relative distance of a weight from a threshold.
        """
        distances = [1.0]

        def observe(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            distances.append(_tie_distance(inputs[0]))

        def observe_output(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
            distances.append(_tie_distance(output))

        handles = []
        if self.config.bits != 32:
            linear = [module for module in self.modules() if isinstance(module, BitLinear)]
            handles += [module.register_forward_pre_hook(observe) for module in linear]
        if self.config.embedding_bits != 32:
            handles.append(self.final_norm.register_forward_hook(observe_output))
        self(tokens)
        for handle in handles:
            handle.remove()
        return min(distances), min(self._weight_margins(), default=1.0)

    def _weight_margins(self) -> list[float]:
        config, found = self.config, []
        for name, parameter in self.parameter_names().items():
            if parameter.ndim != 2:
                continue
            linear = name.startswith("blk.")
            bits = config.bits if linear else config.embedding_bits
            scale = config.scale if linear else "row"
            if bits != 32:
                found.append(
                    _weight_margin(parameter, bits, scale, config.threshold if linear else "absmean")
                )
        return found


def _tie_distance(x: Tensor) -> float:
    """Least distance of x / scale from a half-integer, in steps of the code."""
    absmax = x.abs().amax(dim=-1, keepdim=True)
    position = x * torch.where(absmax > 0, 127 / absmax, torch.zeros_like(absmax))
    return float(((position - position.floor()) - 0.5).abs().min())


def _weight_margin(weight: Tensor, bits: float, scale: str, threshold: str) -> float:
    """Least distance of a weight from a threshold, relative to the distance between two thresholds."""
    _, s = quantize_weights(weight, bits, scale, threshold)
    step = torch.where(s > 0, s, torch.ones_like(s))
    w = weight.detach()
    if bits == 1.58:
        return float(((w.abs() - step / 2) / step).abs().min())
    if bits == 1:
        return float((w / step).abs().min())
    position = w / step - 0.5 if bits == 8 else w / (2 * step)
    return float((position - position.round()).abs().min())


def make_optimizer(model: Decoder, config: AdamW, *, fused: bool = True) -> torch.optim.AdamW:
    """Returns PyTorch's AdamW with decay on the layers' matrices only, as hyb_language_model_apply has it.

    Args:
        model: its parameters.
        config: betas, epsilon, weight decay; the learning rate is set before each step.
        fused: use the fused CPU kernel, the fastest that PyTorch has.
    """
    named = model.parameter_names()
    matrices = [p for name, p in named.items() if name.startswith("blk.") and p.ndim == 2]
    rest = [p for name, p in named.items() if not (name.startswith("blk.") and p.ndim == 2)]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=config.epsilon, fused=fused)


def train_step(
    model: Decoder,
    optimizer: torch.optim.AdamW,
    windows: Tensor,
    learning_rate: float,
    clip_norm: float,
    loss_function: Callable[[Tensor], Tensor] | None = None,
) -> tuple[float, float]:
    """One update.

    Args:
        model: to be trained.
        optimizer: of make_optimizer.
        windows: int64 [B, T + 1].
        learning_rate: of this step.
        clip_norm: gradients are scaled down to this norm; 0 for no clipping.
        loss_function: windows to mean loss, for a compiled model; None: model.loss.

    Returns:
        Mean loss in nats, and the gradients' Euclidean norm before clipping.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.zero_grad(set_to_none=True)
    loss = (loss_function or model.loss)(windows)
    loss.backward()  # type: ignore[no-untyped-call]
    limit = clip_norm if clip_norm > 0 else math.inf
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
    optimizer.step()
    return float(loss.detach()), float(norm)


@torch.no_grad()
def generate(model: Decoder, prompt: list[int], n_tokens: int) -> list[int]:
    """Returns the n_tokens most likely next tokens, one by one, with a key-value cache."""
    caches = [KeyValueCache(model.config, 1, len(prompt) + n_tokens) for _ in model.layers]
    logits = model(torch.tensor([prompt]), caches)[0, -1]
    tokens: list[int] = []
    while True:
        tokens.append(int(logits.argmax()))
        if len(tokens) == n_tokens:
            return tokens
        logits = model(torch.tensor([tokens[-1:]]), caches)[0, -1]
