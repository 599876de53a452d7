"""A ternary language model: make, train, evaluate, save, load and generate with it.

Place in the data flow: config.py -> `LanguageModel` -> the C library, which owns all arithmetic. The trainer
calls `gradients` and `apply`; the command line and users call the rest. Architecture and sources:
hybrid/language_model.h.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Union

import numpy as np
import numpy.typing as npt

from pyhybrid._buffers import Array, input_array, output_array, pointer, view
from pyhybrid._context import Context, default_context
from pyhybrid._errors import InvalidArgumentError, OutOfMemoryError
from pyhybrid._generation import CacheFormat, Sampling, StreamCallback, run_generation
from pyhybrid._model_config import (
    check_seed,
    check_size,
    config_from_struct,
    config_to_struct,
    physical_memory,
)
from pyhybrid._model_types import (
    Evaluation,
    Generation,
    GradientStatistics,
    MemoryEstimate,
    Parameter,
    ParameterCount,
    TrustStatistics,
    UpdateStatistics,
)
from pyhybrid._native import ffi, lib
from pyhybrid._network import OPTIMIZERS, Network
from pyhybrid._state_8bit import BLOCK
from pyhybrid._state_8bit import state_bits as check_state_bits
from pyhybrid.config import ModelConfig
from pyhybrid.data import validation_batches
from pyhybrid.quantization import choose
from pyhybrid.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pyhybrid.cuda import Device

__all__ = [
    "Evaluation",
    "Generation",
    "GradientStatistics",
    "LanguageModel",
    "MemoryEstimate",
    "Parameter",
    "ParameterCount",
    "TrustStatistics",
    "UpdateStatistics",
]

#: A text as str or UTF-8 bytes, or token ids.
TextOrTokens = str | bytes | npt.NDArray[Any] | Sequence[int]
#: Where to compute: None or 'cpu' for the processor.
DeviceChoice = Union["Device", Literal["cpu", "cuda"], None]

# Arithmetic of the backward pass.
_BACKWARDS: dict[str, int] = {"int8": lib.HYB_BACKWARD_INT8, "fp32": lib.HYB_BACKWARD_F32}

# Tokens that one C call evaluates: Ctrl-C is noticed between two calls.
_EVALUATION_TOKENS = 8192


def _device(choice: DeviceChoice) -> Device | None:
    """The device of a choice; None for the processor."""
    if choice is None or choice == "cpu":
        return None
    from pyhybrid.cuda import Device, default_device

    if isinstance(choice, Device):
        return choice
    if choice != "cuda":
        raise InvalidArgumentError(f"device is {choice!r}; give 'cpu', 'cuda' or a pyhybrid.cuda.Device")
    return default_device()


class LanguageModel(Network):
    """A Llama-shaped decoder with ternary linear layers.

    A model that is made has float32 master weights and can be trained; a model that is loaded holds packed
    weights only. Calls from several threads take turns.

    Args:
        config: shape and formats.
        seed: of the initial weights; the same seed gives the same weights everywhere.
        context: threads and instruction sets; None for the default context.

    Raises:
        InvalidArgumentError: a value out of its range.
        OutOfMemoryError: the model does not fit in this machine's memory.
    """

    _NOUN = "language_model"

    def __init__(self, config: ModelConfig, *, seed: int = 0, context: Context | None = None) -> None:
        context = context or default_context()
        struct = config_to_struct(config)
        needed = self.memory_estimate(config, 1, 1, context=context).total_bytes
        memory = physical_memory()
        if memory is not None and needed > memory:
            # Asking for it could succeed, and the first touch of the pages would then end the process.
            raise OutOfMemoryError(
                f"this model needs {needed / 2**30:.1f} GiB to be made, the machine has "
                f"{memory / 2**30:.1f} GiB; choose a smaller preset or shape"
            )
        out = ffi.new("hyb_language_model **")
        with context.lock:
            context.check(lib.hyb_language_model_create(context.handle, struct, check_seed(seed), out))
        self._adopt(context, out[0], trainable=True)

    def _adopt(self, context: Context, pointer_: Any, *, trainable: bool) -> None:
        self.context = context
        self._trainable = trainable
        self._handle = context.own(pointer_, lib.hyb_language_model_destroy)
        struct = ffi.new("hyb_language_model_config *")
        struct.struct_size = ffi.sizeof("hyb_language_model_config")
        context.check(lib.hyb_language_model_get_config(self._handle, struct))
        self._config = config_from_struct(struct)
        self._tokenizer: Tokenizer | None = None
        self.metadata = self._read_metadata()

    @property
    def config(self) -> ModelConfig:
        """Shape and formats."""
        return self._config

    def __repr__(self) -> str:
        c = self._config
        total = self.count_of(c).total
        return f"LanguageModel({total:,} parameters, {c.n_layers} layers of {c.dim}, {c.bits:g} bits)"

    # ---- tokenizer ----

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer: bytes unless another one was set or loaded."""
        if self._tokenizer is None:
            n_bytes = ffi.new("size_t *")
            tokenizer = lib.hyb_language_model_tokenizer(self._handle)
            lib.hyb_tokenizer_serialize(tokenizer, ffi.NULL, 0, n_bytes)  # says TOO_SMALL, and the size
            section = ffi.new("uint8_t[]", n_bytes[0])
            self.context.check(lib.hyb_tokenizer_serialize(tokenizer, section, n_bytes[0], n_bytes))
            self._tokenizer = Tokenizer.deserialize(bytes(ffi.buffer(section, n_bytes[0])))
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Tokenizer) -> None:
        if not isinstance(tokenizer, Tokenizer):
            raise InvalidArgumentError(f"tokenizer is {type(tokenizer).__name__}; give a Tokenizer")
        with self.context.lock:
            self.context.check(lib.hyb_language_model_set_tokenizer(self.handle, tokenizer.handle))
        self._tokenizer = tokenizer

    def _tokens(self, source: TextOrTokens, name: str) -> Array:
        if isinstance(source, (str, bytes)):
            return input_array(self.tokenizer.encode(source), np.uint32, name, (None,))
        return input_array(source, np.uint32, name, (None,))

    # ---- parameters ----

    @classmethod
    def memory_estimate(
        cls,
        config: ModelConfig,
        batch: int = 0,
        context_length: int = 0,
        *,
        backward: str = "int8",
        optimizer: str = "adamw",
        ternary_blend: float = 1.0,
        state_bits: int = 32,
        context: Context | None = None,
    ) -> MemoryEstimate:
        """Returns the bytes that a model takes, from the formulas that the allocations use.

        Args:
            config: shape and formats.
            batch: sequences a step; 0 without training.
            context_length: tokens a sequence; 0 without training.
            backward: as in `prepare`.
            optimizer: as in `prepare`.
            ternary_blend: as in `prepare`.
            state_bits: as in `prepare`.
            context: its number of threads matters; None for the default context.

        Raises:
            InvalidArgumentError: a value out of its range.
        """
        context = context or default_context()
        weights, training = ffi.new("uint64_t *"), ffi.new("uint64_t *")
        sizes = [check_size(batch, "batch"), check_size(context_length, "context_length")]
        kind = ffi.new("hyb_training_kind *")
        kind.struct_size = ffi.sizeof("hyb_training_kind")
        kind.backward = choose(_BACKWARDS, backward, "backward")
        kind.optimizer = choose(OPTIMIZERS, optimizer, "optimizer")
        kind.blends = int(ternary_blend < 1)
        kind.state_bits = check_state_bits(state_bits)
        with context.lock:
            context.check(
                lib.hyb_language_model_memory_for(
                    context.handle,
                    config_to_struct(config),
                    kind,
                    *sizes,
                    weights,
                    training,
                )
            )
        return MemoryEstimate(weights[0], training[0])

    @classmethod
    def count_of(cls, config: ModelConfig, *, context: Context | None = None) -> ParameterCount:
        """Returns the numbers of parameters of a configuration, without making the model."""
        context = context or default_context()
        total, linear = ffi.new("uint64_t *"), ffi.new("uint64_t *")
        with context.lock:
            context.check(
                lib.hyb_language_model_count(context.handle, config_to_struct(config), total, linear)
            )
        return ParameterCount(total[0], linear[0])

    def count(self) -> ParameterCount:
        """Returns the numbers of parameters."""
        return self.count_of(self._config, context=self.context)

    def _state_8bit(self, index: int, shape: tuple[int, int]) -> dict[str, Array]:
        state = ffi.new("hyb_state_8bit *")
        self.context.check(lib.hyb_language_model_parameter_state(self._handle, index, state))
        found: dict[str, Array] = {}
        for name in ("first", "second"):
            codes = view(getattr(state, f"{name}_codes"), np.uint8, shape, self._handle)
            blocks = shape[0], -(-shape[1] // BLOCK)
            scales = view(getattr(state, f"{name}_scales"), np.float32, blocks, self._handle)
            if codes is not None and scales is not None:
                found |= {f"{name}_codes": codes, f"{name}_scales": scales}
        return found

    # ---- training ----

    def prepare(
        self,
        batch: int,
        context_length: int,
        *,
        backward: str = "int8",
        optimizer: str = "adamw",
        ternary_blend: float = 1.0,
        state_bits: int = 32,
    ) -> None:
        """Allocates what training needs; a step allocates nothing after it. The optimiser's state is kept
        when called again with the same optimiser and bits.

        Args:
            batch: most sequences a step.
            context_length: most tokens a sequence.
            backward: 'int8' for integer gradient products of the quantised layers, or 'fp32'.
            optimizer: 'adamw', which `apply` is for, or the norm of `apply_trust_region`: 'spectral', 'rms'
                or 'l2'.
            ternary_blend: of the first steps, see `set_ternary_blend`; below 1, later steps may have any.
            state_bits: of each moment that the optimiser keeps of a parameter: 32, or 8 with a scale for each
                256 of a row, a quarter of the memory (`Parameter.state_8bit`).

        Raises:
            InvalidArgumentError: a size out of its range, or an unknown name.
            StateError: a loaded model cannot be trained.
            OutOfMemoryError: it does not fit.
        """
        sizes = check_size(batch, "batch"), check_size(context_length, "context_length")
        kind = choose(_BACKWARDS, backward, "backward")
        update = choose(OPTIMIZERS, optimizer, "optimizer")
        bits = check_state_bits(state_bits)
        self.set_ternary_blend(ternary_blend)
        with self.context.lock:
            self.context.check(lib.hyb_language_model_set_backward(self.handle, kind))
            self.context.check(lib.hyb_language_model_set_optimizer(self.handle, update))
            self.context.check(lib.hyb_language_model_set_state_bits(self.handle, bits))
            self.context.check(lib.hyb_language_model_prepare(self.handle, *sizes))

    def set_ternary_blend(self, blend: float) -> None:
        """Sets the share that quantisation has in the training steps that follow.

        The layers' quantised matrices act as W + blend (Q(W) - W) in `gradients`, W the master and Q(W) the
        quantised weights. Evaluation, generation and files always have the quantised ones.

        Args:
            blend: 0 (fp32 weights) to 1 (quantised weights); below 1 a step computes in fp32, and `prepare`
                must have been given a value below 1.

        Raises:
            InvalidArgumentError: not a number from 0 to 1.
        """
        try:
            value = float(blend)
        except (TypeError, ValueError) as error:
            raise InvalidArgumentError(
                f"the ternary blend is {blend!r}; give a number from 0 to 1"
            ) from error
        with self.context.lock:
            self.context.check(lib.hyb_language_model_set_ternary_blend(self.handle, value))

    def set_dead_zone(self, dead_zone: float) -> None:
        """Sets from which magnitude on a layer's ternary weight is no zero, as a share of the mean magnitude.

        It holds from the next `gradients`, update, evaluation or save on: called between `gradients` and the
        update it costs nothing. It belongs to the run; a file keeps the codes.

        Args:
            dead_zone: above 0, at most 4; 0.5 is BitNet b1.58's rounding.

        Raises:
            InvalidArgumentError: out of range; or the matrices are not ternary with the 'absmean' scale.
            StateError: the model was loaded and has no master weights.
        """
        try:
            value = float(dead_zone)
        except (TypeError, ValueError) as error:
            message = f"the dead zone is {dead_zone!r}; give a number above 0, at most 4"
            raise InvalidArgumentError(message) from error
        with self.context.lock:
            self.context.check(lib.hyb_language_model_set_dead_zone(self.handle, value))

    def set_row_multipliers(self, multipliers: Mapping[str, npt.ArrayLike]) -> None:
        """Multiplies the learning rate of the rows of the layers' matrices from the next update on.

        Args:
            multipliers: float32 [rows] by the parameter's name, 0 to 10, which are copied; a matrix that is
                not named has 1 in each row again, as all have after the first `prepare` or with another
                optimiser. With 'spectral' a radius that binds shortens rows of smaller multipliers, and
                lengthens none.

        Raises:
            InvalidArgumentError: no layer's matrix has this name, a wrong shape, or a multiplier out of its
                range.
            StateError: `prepare` was not called.
        """
        matrices = {name: p for name, p in self.parameters().items() if p.is_layer_matrix}
        for name in multipliers:
            if name not in matrices:
                choices = ", ".join(matrices)
                raise InvalidArgumentError(f"{name!r} is no layer's matrix; choose one of {choices}")
        arrays = {
            name: input_array(values, np.float32, f"multipliers of {name}", matrices[name].shape[:1])
            for name, values in multipliers.items()
        }
        with self.context.lock:
            for name, p in matrices.items():
                rows = pointer(arrays[name]) if name in arrays else ffi.NULL
                self.context.check(lib.hyb_language_model_set_row_multipliers(self.handle, p.index, rows))

    def gradients(self, tokens: npt.ArrayLike) -> GradientStatistics:
        """Runs forward and backward over a batch; the gradients replace those before.

        Args:
            tokens: uint32 [sequences, context + 1]; position t predicts token t + 1.

        Raises:
            InvalidArgumentError: a token outside the vocabulary, or a batch larger than prepared.
            StateError: `prepare` was not called, or not for a ternary blend below 1.
            NotFiniteError: loss or gradient is NaN or infinite; the weights are unchanged.
        """
        rows = self._rows(tokens)
        statistics = ffi.new("hyb_gradient_statistics *")
        with self.context.lock:
            self.context.check(
                lib.hyb_language_model_gradients(
                    self.handle, pointer(rows), rows.shape[0], rows.shape[1] - 1, statistics
                )
            )
        return GradientStatistics(statistics.loss, statistics.gradient_norm)

    def sequence_losses(self, n_sequences: int) -> Array:
        """Returns float64 [n_sequences], the loss of each sequence of the last `gradients`, nats per token.

        Args:
            n_sequences: of that batch.

        Raises:
            StateError: `gradients` was not called.
            InvalidArgumentError: the batch had another number of sequences.
        """
        losses = np.empty(n_sequences, np.float64)
        with self.context.lock:
            self.context.check(
                lib.hyb_language_model_sequence_losses(self.handle, n_sequences, pointer(losses, write=True))
            )
        return losses

    # ---- evaluation ----

    def _rows(self, tokens: npt.ArrayLike) -> Array:
        rows = input_array(tokens, np.uint32, "tokens", (None, None))
        if rows.shape[0] < 1 or rows.shape[1] < 2:
            raise InvalidArgumentError(
                f"tokens has shape {list(rows.shape)}; give [sequences, context + 1], at least 1 x 2"
            )
        return rows

    def loss_sum(self, tokens: npt.ArrayLike) -> float:
        """Returns the sum of the cross-entropy in nats, with the inference path.

        Args:
            tokens: uint32 [sequences, context + 1]; position t predicts token t + 1.

        Raises:
            InvalidArgumentError: a token outside the vocabulary, or more than max_context positions.
            NotFiniteError: the loss is NaN or infinite.
        """
        rows = self._rows(tokens)
        total = ffi.new("double *")
        with self.context.lock:
            self.context.check(
                lib.hyb_language_model_loss(
                    self.handle, pointer(rows), rows.shape[0], rows.shape[1] - 1, total
                )
            )
        return float(total[0])

    def logits(self, tokens: TextOrTokens, *, out: Array | None = None) -> Array:
        """Returns the logits of every position of one sequence, the same bits on every processor.

        Args:
            tokens: uint32 [n], or a text; at most max_context tokens.
            out: float32 [n, vocab_size] to write to; None for a new array.

        Raises:
            InvalidArgumentError: empty, a token outside the vocabulary, or too many tokens.
        """
        ids = self._tokens(tokens, "tokens")
        self._check_length(ids.size, "tokens")
        result = output_array(out, np.float32, (ids.size, self._config.vocab_size))
        with self.context.lock:
            self.context.check(
                lib.hyb_language_model_logits(
                    self.handle, pointer(ids), ids.size, pointer(result, write=True)
                )
            )
        return result

    def _check_length(self, n: int, name: str) -> None:
        if not 1 <= n <= self._config.max_context:
            raise InvalidArgumentError(
                f"{name} has {n} tokens; give 1 to {self._config.max_context}, the model's positions"
            )

    def evaluate(
        self,
        source: TextOrTokens,
        *,
        context_length: int | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> Evaluation:
        """Measures how well the model predicts a text.

        The tokens are cut into windows of context_length without overlap; each token but the first is
        predicted once.

        Args:
            source: a text, or tokens (any unsigned integers) [n].
            context_length: tokens a window; None: max_context.
            progress: called with the tokens done and those in all.

        Raises:
            InvalidArgumentError: fewer than two tokens, or a token outside the vocabulary.
        """
        ids = (
            source
            if isinstance(source, np.ndarray) and source.dtype.kind == "u"
            else self._tokens(source, "source")
        )
        length = (
            self._config.max_context
            if context_length is None
            else check_size(context_length, "context_length")
        )
        if not 1 <= length <= self._config.max_context:
            raise InvalidArgumentError(f"context_length is {length}; give 1 to {self._config.max_context}")
        if ids.ndim != 1 or ids.size < 2:
            raise InvalidArgumentError(f"source has {ids.size} tokens; a prediction needs at least 2")
        total, done = 0.0, 0
        batch_size = max(1, _EVALUATION_TOKENS // length)
        for rows in validation_batches(ids, batch_size=batch_size, context=length):
            total += self.loss_sum(rows)
            done += rows.shape[0] * (rows.shape[1] - 1)
            if progress is not None:
                progress(done, ids.size - 1)
        n_bytes = len(self.tokenizer.decode_bytes(ids[1:]))
        loss = total / done
        return Evaluation(
            loss=loss,
            perplexity=math.exp(min(loss, 700.0)),
            bits_per_byte=total / math.log(2) / n_bytes if n_bytes else math.nan,
            tokens=done,
            bytes=n_bytes,
        )

    def loss(self, source: TextOrTokens) -> float:
        """Returns the mean cross-entropy in nats per token; see `evaluate`."""
        return self.evaluate(source).loss

    def perplexity(self, source: TextOrTokens) -> float:
        """Returns exp(loss) per token; see `evaluate`."""
        return self.evaluate(source).perplexity

    def bits_per_byte(self, source: TextOrTokens) -> float:
        """Returns the bits that the model needs for a byte of the text; see `evaluate`."""
        return self.evaluate(source).bits_per_byte

    # ---- generation ----

    def generate(
        self,
        prompt: TextOrTokens | list[str] | list[bytes],
        *,
        tokens: int = 200,
        temperature: float = 0.8,
        top_k: int = 0,
        top_p: float = 0.0,
        seed: int = 0,
        stop: str | Iterable[str] = (),
        stream: StreamCallback | None = None,
        cache: CacheFormat = "f32",
        device: DeviceChoice = None,
    ) -> str | list[str]:
        """Continues a prompt, or several at once.

        Args:
            prompt: a text, or its tokens; a list of texts gives a list of results.
            tokens: most new tokens; past the model's context its newer half is kept and text goes on.
            temperature: 0 takes the most likely token; higher is more varied.
            top_k: draw from the k most likely tokens; 0: from all.
            top_p: draw from the smallest set whose probability reaches this; 0 or 1: from all.
            seed: the same seed gives the same text on every machine; sequence i draws from stream i of it.
            stop: texts that end a sequence; they are not part of it.
            stream: called as stream(text, sequence) as soon as text is certain; a true result ends the
                sequence. It must not use this model's context.
            cache: number format of keys and values: 'f32', or 'int8' for a quarter of the memory.
            device: 'cuda' or a `pyhybrid.cuda.Device` to compute on; the text is the same.

        Returns:
            The new text without the prompt; a list of them for a list of prompts.

        Raises:
            InvalidArgumentError: an empty prompt, a prompt beyond max_context, or a value out of its range.
            NotFiniteError: the model gives NaN.
            UnsupportedError: there is no device, or no module for it.
        """
        several = isinstance(prompt, list) and all(isinstance(item, (str, bytes)) for item in prompt)
        prompts: Any = prompt if several else [prompt]
        results = self.generate_all(
            prompts,
            tokens=tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            stop=stop,
            stream=stream,
            cache=cache,
            device=device,
        )
        return [result.text for result in results] if several else results[0].text

    def generate_all(
        self,
        prompts: Sequence[TextOrTokens],
        *,
        tokens: int = 200,
        temperature: float = 0.8,
        top_k: int = 0,
        top_p: float = 0.0,
        seed: int = 0,
        stop: str | Iterable[str] = (),
        stream: StreamCallback | None = None,
        cache: CacheFormat = "f32",
        device: DeviceChoice = None,
    ) -> list[Generation]:
        """Continues prompts and says more about each than `generate`: its tokens and why it ended.

        Args: those of `generate`; prompts may be texts or arrays of tokens.

        Raises: those of `generate`.
        """
        sampling = Sampling(
            tokens=tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            stop=stop,
            cache=cache,
        )
        ids = [self._tokens(prompt, f"prompt {i}") for i, prompt in enumerate(prompts)]
        for i, prompt in enumerate(ids):
            if prompt.size == 0:
                raise InvalidArgumentError(f"prompt {i} is empty: give at least one character to continue")
            self._check_length(prompt.size, f"prompt {i}")
        if not ids:
            return []
        chosen = _device(device)
        return run_generation(
            self.context, self.handle, ids, self._config.max_context, sampling, stream, chosen
        )
