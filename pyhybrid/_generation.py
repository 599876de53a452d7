"""Generation: prompts to the C library, text back as it comes.

Place in the data flow: behind LanguageModel.generate. The C library draws tokens and looks for stop strings;
here bytes become characters, and exceptions of the user's callback find their way through C.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pyhybrid._buffers import Array, pointer
from pyhybrid._context import Context
from pyhybrid._errors import InvalidArgumentError
from pyhybrid._model_config import check_seed, check_size
from pyhybrid._model_types import Generation
from pyhybrid._native import ffi, lib
from pyhybrid.quantization import choose

if TYPE_CHECKING:
    from pyhybrid.cuda import Device

__all__ = ["CacheFormat", "Sampling", "StreamCallback", "run_generation"]

StreamCallback = Callable[[str, int], object]
CacheFormat = Literal["f32", "int8"]

_CACHES = {"f32": lib.HYB_CACHE_F32, "int8": lib.HYB_CACHE_INT8}
_STOP_REASONS = {
    lib.HYB_STOP_LENGTH: "length",
    lib.HYB_STOP_STRING: "stop",
    lib.HYB_STOP_TOKEN: "token",
    lib.HYB_STOP_CALLBACK: "callback",
}


_MAX_TOKENS = 2**24  # new tokens of one call: days of work, and 64 MiB for their ids


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The options of LanguageModel.generate, which documents them."""

    tokens: int
    temperature: float
    top_k: int
    top_p: float
    seed: int
    stop: str | Iterable[str]
    cache: CacheFormat

    def __post_init__(self) -> None:
        if not 1 <= check_size(self.tokens, "tokens") <= _MAX_TOKENS:
            raise InvalidArgumentError(f"tokens is {self.tokens}; give 1 to {_MAX_TOKENS}")
        for name in ("temperature", "top_p"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
                raise InvalidArgumentError(f"{name} is {value!r}; give a number")
        if check_size(self.top_k, "top_k") >= 2**32:
            raise InvalidArgumentError(f"top_k is {self.top_k}; give 0 (all) or less than 2^32")
        check_seed(self.seed)
        choose(_CACHES, self.cache, "cache")

    def stop_strings(self) -> list[bytes]:
        """The stop strings as C takes them."""
        texts = [self.stop] if isinstance(self.stop, str) else list(self.stop)
        for text in texts:
            if not isinstance(text, str) or not text or "\0" in text:
                raise InvalidArgumentError(f"stop holds {text!r}; give texts, not empty and without NUL")
        return [text.encode("utf-8", "surrogateescape") for text in texts]


class _Stream:
    """Collects the text of each sequence, and passes whole characters on to the user's callback."""

    def __init__(self, n: int, callback: StreamCallback | None) -> None:
        self.pieces: list[list[str]] = [[] for _ in range(n)]
        self.reasons = ["callback"] * n
        self.error: BaseException | None = None
        self._callback = callback
        # A character may be split over tokens; what never becomes one is shown as U+FFFD.
        decoder = codecs.getincrementaldecoder("utf-8")
        self._decoders = [decoder(errors="replace") for _ in range(n)]

    def receive(self, sequence: int, data: bytes, final: bool) -> bool:
        """Takes bytes of a sequence; True asks to end it."""
        text = self._decoders[sequence].decode(data, final)
        if not text:
            return False
        self.pieces[sequence].append(text)
        return bool(self._callback is not None and self._callback(text, sequence))

    def finish(self) -> None:
        """Passes on what the decoders of sequences that the callback ended still hold."""
        for sequence, reason in enumerate(self.reasons):
            if reason == "callback":
                self.receive(sequence, b"", True)


def _on_error(_kind: Any, error: BaseException, trace: Any) -> int:
    """An exception in the callback, Ctrl-C included: keep it for `generate`, and end every sequence."""
    if trace is not None and "user" in trace.tb_frame.f_locals:
        ffi.from_handle(trace.tb_frame.f_locals["user"]).error = error
    return 1


@ffi.def_extern(error=1, onerror=_on_error)  # type: ignore[untyped-decorator]
def pyhybrid_on_text(
    user: Any, sequence: int, text: Any, n_bytes: int, _token: int, finished: int, stop_reason: int
) -> int:
    """Receives text from the C library (hyb_text_callback)."""
    stream: _Stream = ffi.from_handle(user)
    if stream.error is not None:
        return 1
    if finished:
        stream.reasons[sequence] = _STOP_REASONS.get(stop_reason, str(stop_reason))
    data = bytes(ffi.buffer(text, n_bytes)) if n_bytes else b""
    return int(stream.receive(sequence, data, bool(finished)))


def _options(sampling: Sampling, max_tokens: int, user: Any) -> tuple[Any, list[Any]]:
    """The C options, and what must stay alive with them."""
    strings = [ffi.new("char[]", text) for text in sampling.stop_strings()]
    stop = ffi.new("char *[]", strings)
    options = ffi.new("hyb_generate_options *")
    options.struct_size = ffi.sizeof("hyb_generate_options")
    options.sampler.struct_size = ffi.sizeof("hyb_sampler")
    options.sampler.temperature = sampling.temperature
    options.sampler.top_k = sampling.top_k
    options.sampler.top_p = sampling.top_p
    options.sampler.seed = sampling.seed
    options.max_tokens = max_tokens
    options.stop = stop if strings else ffi.NULL
    options.n_stop = len(strings)
    options.stop_token = -1
    options.shift_context = 1
    options.callback = lib.pyhybrid_on_text
    options.user = user
    return options, [strings, stop, user]


def _session(
    context: Context, model: Any, device: Device | None, sizes: Sequence[int]
) -> tuple[Any, Any, Any]:
    """A session of the processor or of a device, what destroys it, and what generates with it."""
    if device is None:
        out = ffi.new("hyb_session **")
        context.check(lib.hyb_session_create(model, *sizes, out))
        return out[0], lib.hyb_session_destroy, lib.hyb_generate
    out, handle = ffi.new("hyb_cuda_session **"), device.open_in(context)
    context.check(lib.hyb_cuda_session_create(handle, model, *sizes, out))

    def destroy(session: Any) -> None:
        lib.hyb_cuda_session_destroy(session)
        ffi.release(handle)

    return out[0], destroy, lib.hyb_cuda_generate


def run_generation(
    context: Context,
    model: Any,
    prompts: Sequence[Array],
    max_context: int,
    sampling: Sampling,
    stream: StreamCallback | None,
    device: Device | None = None,
) -> list[Generation]:
    """Generates from prompts.

    Args:
        context: of the model.
        model: hyb_language_model pointer.
        prompts: uint32 [n] each, 1 to max_context tokens.
        max_context: positions of the model.
        sampling: checked options.
        stream: receives text, or None.
        device: that computes; None for the processor. The tokens are the same.

    Raises:
        HybridError: what the C library refuses.
        BaseException: whatever the callback raised.
    """
    n = len(prompts)
    state = _Stream(n, stream)
    user = ffi.new_handle(state)
    n_new = sampling.tokens
    n_context = min(max_context, max(prompt.size for prompt in prompts) + n_new)
    options, keep = _options(sampling, n_new, user)
    pointers = ffi.new("uint32_t *[]", [pointer(prompt) for prompt in prompts])
    sizes = ffi.new("size_t[]", [prompt.size for prompt in prompts])
    tokens, n_tokens = np.empty((n, n_new), np.uint32), ffi.new("size_t[]", n)
    with context.lock:
        made, destroy, generate = _session(
            context, model, device, (n, n_context, _CACHES[sampling.cache])
        )
        session = ffi.gc(made, destroy)
        try:
            status = generate(session, pointers, sizes, n, options, pointer(tokens, write=True), n_tokens)
            if state.error is None:
                context.check(status)
        finally:
            ffi.release(session)
    del keep
    if state.error is not None:
        raise state.error
    state.finish()
    return [
        Generation("".join(state.pieces[i]), tokens[i, : n_tokens[i]].copy(), state.reasons[i])
        for i in range(n)
    ]
