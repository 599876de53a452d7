"""Text to token ids and back: bytes, and byte-level BPE that agrees with the `tokenizers` library.

Place in the data flow: text -> `Tokenizer.encode` -> data.py; ids -> `Tokenizer.decode` -> text. All work on
text is the C library's; this module describes vocabularies to it: of bytes, of a trained BPE, or of a Hugging
Face tokenizer.json.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pyhybrid._buffers import input_array
from pyhybrid._context import Context
from pyhybrid._errors import InvalidArgumentError, UnsupportedError, check
from pyhybrid._native import ffi, lib
from pyhybrid._tokenizer_json import MAX_VOCAB, Description, describe, read_json

__all__ = ["Tokenizer"]

Kind = Literal["bytes", "bpe", "decode_only"]
#: A text (str or UTF-8 bytes), or the path of a text file.
TextOrFile = str | bytes | Path

_Bytes = bytes  # the class has a method of this name
_KINDS: dict[int, Kind] = {
    lib.HYB_TOKENIZER_BYTES: "bytes",
    lib.HYB_TOKENIZER_BPE: "bpe",
    lib.HYB_TOKENIZER_DECODE_ONLY: "decode_only",
}
# Characters of a file that are trained on at once.
_CHUNK = 1 << 20


@functools.cache
def _context() -> Context:
    """A context of the tokenizers' own: making one never waits for a model that computes."""
    return Context(threads=1)


class Tokenizer:
    """An immutable vocabulary with its encoder; threads may share it.

    Make one with `Tokenizer.bytes`, `Tokenizer.train_bpe`, `Tokenizer.from_tokenizers` or
    `Tokenizer.deserialize`.
    Two tokenizers are equal if their serialised forms are.
    """

    __slots__ = ("__weakref__", "_handle", "_kind", "_vocab_size")

    _handle: Any
    _kind: Kind
    _vocab_size: int

    def __init__(self) -> None:
        raise TypeError(
            "make a tokenizer with Tokenizer.bytes(), Tokenizer.train_bpe(...), "
            "Tokenizer.from_tokenizers(...) or Tokenizer.deserialize(...)"
        )

    @classmethod
    def bytes(cls) -> Tokenizer:
        """Makes the tokenizer whose tokens are the 256 bytes."""
        return cls._create(Description(lib.HYB_TOKENIZER_BYTES))

    @classmethod
    def from_tokenizers(cls, source: Any, *, decode_only: bool = False) -> Tokenizer:
        """Takes over a byte-level BPE of the `tokenizers` library, which is not needed for a file.

        The result encodes as the library does with add_special_tokens=False: added tokens are found in the
        text, but post-processor, truncation and padding are not taken over.

        Args:
            source: path of a tokenizer.json, a tokenizers.Tokenizer, or an object with one as
                `backend_tokenizer`.
            decode_only: take the vocabulary alone; for a tokenizer whose splitting or normalising is not
                supported.

        Returns:
            A tokenizer of kind "bpe", or "decode_only".

        Raises:
            UnsupportedError: a feature that would encode differently here; the message names it.
            FileFormatError: not a tokenizer.json.
            OSError: the file cannot be read.
        """
        return cls._create(describe(read_json(source), decode_only))

    @classmethod
    def train_bpe(
        cls,
        texts_or_files: TextOrFile | Iterable[TextOrFile],
        vocab_size: int,
        special_tokens: Sequence[str] = (),
        *,
        min_frequency: int = 2,
        add_prefix_space: bool = False,
    ) -> Tokenizer:
        """Trains a byte-level BPE with GPT-2's splitting pattern; needs the `tokenizers` library.

        Args:
            texts_or_files: texts (str, or bytes as UTF-8) and paths (pathlib.Path) of UTF-8 text files, or
                one of them.
            vocab_size: tokens in all, at least 256 + len(special_tokens); the result has fewer if the text
                has no more pairs that occur often enough.
            special_tokens: strings that become tokens 0, 1, ... and are found in a text before anything else.
            min_frequency: how often a pair must occur to be merged.
            add_prefix_space: put a space before a text that does not begin with one.

        Returns:
            A tokenizer of kind "bpe".

        Raises:
            ImportError: the `tokenizers` library is missing.
            InvalidArgumentError: a value out of its range.
            OSError: a file cannot be read.

        Source: Sennrich et al. 2016; Radford et al. 2019.
        """
        specials = _check_specials(special_tokens)
        least = 256 + len(specials)
        if (
            isinstance(vocab_size, bool)
            or not isinstance(vocab_size, int)
            or not least <= vocab_size <= MAX_VOCAB
        ):
            raise InvalidArgumentError(
                f"vocab_size is {vocab_size!r}; give a whole number from {least} (256 bytes and the special "
                f"tokens) to {MAX_VOCAB}"
            )
        if isinstance(min_frequency, bool) or not isinstance(min_frequency, int) or min_frequency < 0:
            raise InvalidArgumentError(f"min_frequency is {min_frequency!r}; give a whole number from 0")
        given = [texts_or_files] if isinstance(texts_or_files, str | bytes | Path) else texts_or_files
        try:
            import tokenizers
        except ImportError as error:
            raise ImportError(
                "training a BPE vocabulary needs the tokenizers library: pip install 'pyhybrid[tokenizers]'"
            ) from error
        splitter = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
        trained = tokenizers.Tokenizer(tokenizers.models.BPE())
        trained.pre_tokenizer = splitter
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=min_frequency,
            special_tokens=specials,
            initial_alphabet=sorted(splitter.alphabet()),
            show_progress=False,
        )
        trained.train_from_iterator(_training_texts(given), trainer=trainer)
        return cls.from_tokenizers(trained)

    @classmethod
    def deserialize(cls, section: _Bytes) -> Tokenizer:
        """Reads what `serialize` wrote, or a .hyb file holds; safe on untrusted bytes.

        Raises:
            FileFormatError: these bytes are no tokenizer section, or are cut (TruncatedFileError).
        """
        if not isinstance(section, bytes | bytearray | memoryview):
            raise InvalidArgumentError(f"section is {type(section).__name__}; give bytes")
        context, out = _context(), ffi.new("hyb_tokenizer **")
        data = ffi.from_buffer("uint8_t[]", section)
        with context.lock:
            context.check(lib.hyb_tokenizer_deserialize(context.handle, data, len(data), out))
        return cls._of(context.own(out[0], lib.hyb_tokenizer_destroy))

    @classmethod
    def _create(cls, description: Description) -> Tokenizer:
        context, out = _context(), ffi.new("hyb_tokenizer **")
        d = ffi.new("hyb_tokenizer_description *")
        d.struct_size = ffi.sizeof("hyb_tokenizer_description")
        d.kind, d.pretokenizer = description.kind, description.pretokenizer
        d.add_prefix_space = description.add_prefix_space
        arrays = _arrays(description)  # alive until the call is over
        if description.kind == lib.HYB_TOKENIZER_BYTES:
            d.vocab_size = 256
        else:
            d.vocab_size, d.n_merges = len(description.tokens), len(description.merges)
            d.n_specials = len(description.specials)
            d.bytes = ffi.from_buffer("uint8_t[]", arrays[0])
            d.offsets, d.merges, d.specials = (ffi.from_buffer("uint32_t[]", array) for array in arrays[1:])
        with context.lock:
            context.check(lib.hyb_tokenizer_create(context.handle, d, out))
        return cls._of(context.own(out[0], lib.hyb_tokenizer_destroy))

    @classmethod
    def _of(cls, handle: Any) -> Tokenizer:
        self = object.__new__(cls)
        object.__setattr__(self, "_handle", handle)
        object.__setattr__(self, "_kind", _KINDS[lib.hyb_tokenizer_kind_of(handle)])
        object.__setattr__(self, "_vocab_size", int(lib.hyb_tokenizer_vocab_size(handle)))
        return self

    # ---- use ----

    def encode(self, text: str | _Bytes) -> npt.NDArray[np.uint32]:
        """Encodes a text.

        Args:
            text: str, or bytes, which need not be valid UTF-8: invalid bytes are kept.

        Returns:
            Token ids, uint32 [n_tokens].

        Raises:
            InvalidArgumentError: not a text, or a str with lone surrogates.
            UnsupportedError: this vocabulary can only decode.
        """
        if self._kind == "decode_only":
            raise UnsupportedError("this tokenizer holds a vocabulary without an encoder: it can only decode")
        data = ffi.from_buffer("char[]", _text_bytes(text))
        n_tokens = ffi.new("size_t *")
        capacity = (
            len(data) + 64
        )  # enough, except for many short texts between special tokens with prefix spaces
        while True:
            tokens = np.empty(capacity, np.uint32)
            target = ffi.from_buffer("uint32_t[]", tokens)
            status = lib.hyb_tokenizer_encode(self._handle, data, len(data), target, capacity, n_tokens)
            if status != lib.HYB_ERROR_TOO_SMALL:
                break
            capacity = n_tokens[0]
        check(status)
        return tokens[: n_tokens[0]].copy()

    def decode_bytes(self, ids: npt.ArrayLike) -> _Bytes:
        """Decodes token ids to the bytes that they stand for.

        Args:
            ids: whole numbers [n_tokens], each below `vocab_size`.

        Returns:
            The bytes; a list of ids that ends inside a character gives a part of it.

        Raises:
            InvalidArgumentError: an id outside the vocabulary, or not a list of whole numbers.
        """
        tokens = input_array(ids, np.uint32, "ids", (None,))
        if tokens.size and int(tokens.max()) >= self._vocab_size:
            at = int(np.argmax(tokens >= self._vocab_size))
            raise InvalidArgumentError(
                f"ids[{at}] is {int(tokens[at])}; the vocabulary has {self._vocab_size} tokens"
            )
        source, n_bytes = ffi.from_buffer("uint32_t[]", tokens), ffi.new("size_t *")
        lib.hyb_tokenizer_decode(self._handle, source, tokens.size, ffi.NULL, 0, n_bytes)  # the size alone
        text = bytearray(n_bytes[0])
        target = ffi.from_buffer("char[]", text)
        check(lib.hyb_tokenizer_decode(self._handle, source, tokens.size, target, len(text), n_bytes))
        return bytes(text)

    def decode(self, ids: npt.ArrayLike) -> str:
        """Decodes token ids to text; bytes that are not UTF-8 become U+FFFD. Otherwise as `decode_bytes`."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return self._vocab_size

    @property
    def kind(self) -> Kind:
        """What encodes: 'bytes', 'bpe', or 'decode_only' for nothing."""
        return self._kind

    @property
    def handle(self) -> Any:
        """The hyb_tokenizer pointer, valid as long as this object."""
        return self._handle

    def serialize(self) -> _Bytes:
        """Returns the tokenizer as the bytes of a .hyb file's tokenizer section (layout: hybrid/file.h)."""
        n_bytes = ffi.new("size_t *")
        lib.hyb_tokenizer_serialize(self._handle, ffi.NULL, 0, n_bytes)  # the size alone
        section = bytearray(n_bytes[0])
        check(lib.hyb_tokenizer_serialize(self._handle, ffi.from_buffer(section), len(section), n_bytes))
        return bytes(section)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a tokenizer is immutable: {name!r} cannot be set")

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Tokenizer) and self.serialize() == other.serialize())

    def __hash__(self) -> int:
        return hash(self.serialize())

    def __reduce__(self) -> tuple[Callable[[_Bytes], Tokenizer], tuple[_Bytes]]:
        return Tokenizer.deserialize, (self.serialize(),)

    def __repr__(self) -> str:
        return f"Tokenizer(kind={self._kind!r}, vocab_size={self._vocab_size})"


# ---- small helpers ----


def _arrays(description: Description) -> tuple[bytes, Any, Any, Any]:
    """bytes, offsets, merges and specials of a description; never empty, so that their pointers are valid."""
    lengths = np.fromiter(map(len, description.tokens), np.uint64, len(description.tokens))
    if int(lengths.sum()) >= 1 << 32:
        raise UnsupportedError("the tokens of this vocabulary take 4 GiB or more")
    offsets = np.zeros(len(lengths) + 1, np.uint32)
    np.cumsum(lengths, out=offsets[1:], dtype=np.uint32)
    merges = np.array(description.merges or [(0, 0)], np.uint32)
    return (
        b"".join(description.tokens) or b"\0",
        offsets,
        merges,
        np.array(description.specials or [0], np.uint32),
    )


def _text_bytes(text: str | bytes) -> bytes:
    if isinstance(text, str):
        try:
            return text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidArgumentError(
                f"text holds a lone surrogate at character {error.start}, which no UTF-8 can hold; pass "
                "bytes, such as text.encode('utf-8', 'surrogateescape')"
            ) from error
    if isinstance(text, bytes | bytearray | memoryview):
        return bytes(text)
    raise InvalidArgumentError(f"text is {type(text).__name__}; give str or bytes")


def _check_specials(special_tokens: Sequence[str]) -> list[str]:
    if isinstance(special_tokens, str) or not all(
        isinstance(token, str) and token for token in special_tokens
    ):
        raise InvalidArgumentError(
            f"special_tokens is {special_tokens!r}; give a list of strings, none of them empty"
        )
    if len(set(special_tokens)) != len(special_tokens):
        raise InvalidArgumentError(f"special_tokens is {list(special_tokens)!r}; list each string once")
    return list(special_tokens)


def _training_texts(given: Iterable[TextOrFile]) -> Iterator[str]:
    """The texts, those of files in pieces that end behind a line feed."""
    for item in given:
        if isinstance(item, Path):
            with open(item, encoding="utf-8", errors="replace", newline="") as file:
                while text := file.read(_CHUNK):
                    yield text + file.readline()
        elif isinstance(item, str):
            yield item
        elif isinstance(item, bytes):
            yield item.decode("utf-8", errors="replace")
        else:
            raise InvalidArgumentError(
                f"texts_or_files holds {type(item).__name__}; give str, bytes or pathlib.Path"
            )
