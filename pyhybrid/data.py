"""Tokens of a run: a text or token arrays, split in two contiguous blocks.

Place in the data flow: text_sources.py gives the bytes, or files give token arrays -> a training and a
validation split, encoded and memory-mapped where possible -> batches.py cuts windows of them. The names of
both neighbours can be imported from here, too.
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from pyhybrid.batches import Batches, Tokens, validation_batches
from pyhybrid.config import DataConfig
from pyhybrid.text_sources import (
    CACHE_NAME,
    DataError,
    EmbeddedText,
    Text,
    embedded_text,
    missing_file,
    read_text,
    text_pieces,
)

__all__ = [
    "CACHE_NAME",
    "Batches",
    "DataError",
    "Dataset",
    "EmbeddedText",
    "Text",
    "Tokens",
    "embedded_text",
    "load_dataset",
    "read_text",
    "text_pieces",
    "validation_batches",
]


class Encoder(Protocol):
    """What the data loader needs of a tokenizer."""

    @property
    def vocab_size(self) -> int: ...

    def encode(self, text: Any) -> Any: ...


@dataclass(frozen=True)
class Dataset:
    """Tokens of a run, split in two contiguous blocks.

    Args:
        train: uint8, uint16 or uint32 [n_train].
        validation: the same [n_validation]; may be empty.
        train_bytes: bytes of text behind `train`; None if that is not known.
        validation_bytes: bytes of text behind `validation`.
        sha256: of the text, or of the token array's bytes; hexadecimal.
        description: where the text came from, for people.
    """

    train: Tokens
    validation: Tokens
    train_bytes: int | None
    validation_bytes: int | None
    sha256: str
    description: str

    @property
    def n_tokens(self) -> int:
        """Tokens in both splits."""
        return int(self.train.size + self.validation.size)

    @property
    def validation_bytes_per_token(self) -> float | None:
        """Bytes of text behind one validation token; None if that is not known."""
        if self.validation_bytes is None or self.validation.size == 0:
            return None
        return self.validation_bytes / self.validation.size

    def check_window(self, context: int) -> None:
        """Checks that a training window and a validation window fit.

        Args:
            context: tokens a window predicts.

        Raises:
            DataError: a split is too short; the message names the minimum.
        """
        needed = context + 1
        if self.train.size < needed:
            share = self.train.size / self.n_tokens
            total = int(np.ceil(needed / share)) if share else needed
            smaller = (
                f", or set training.context to at most {self.train.size - 1}" if self.train.size > 1 else ""
            )
            raise DataError(
                f"{self.description}: the training split has {self.train.size} tokens, and a window of "
                f"{context} needs {needed}; give at least {total} tokens of text{smaller}"
            )
        if self.validation.size == 1:
            raise DataError(
                f"{self.description}: the validation split has a single token, and a prediction needs 2; "
                "give more text or another data.validation_fraction (0 for no validation)"
            )

    @classmethod
    def from_tokens(
        cls,
        tokens: Any,
        *,
        vocab_size: int,
        validation_fraction: float = 0.1,
        description: str = "token array",
    ) -> Dataset:
        """Splits an array of tokens.

        Args:
            tokens: uint8, uint16 or uint32 [n]; not copied.
            vocab_size: every token must be below it.
            validation_fraction: share of the tokens, from the end, that is not trained on.
            description: for messages.

        Raises:
            DataError: another dtype or shape, empty, or a token outside the vocabulary.
        """
        array = np.asanyarray(tokens)
        if array.dtype.kind != "u" or array.dtype.itemsize > 4:
            raise DataError(
                f"{description}: tokens have dtype {array.dtype}; store uint8, uint16 or uint32, "
                "as in tokens.astype(numpy.uint16)"
            )
        if array.ndim != 1:
            raise DataError(
                f"{description}: tokens have shape {array.shape}; store one dimension, tokens.reshape(-1)"
            )
        if array.size == 0:
            raise DataError(f"{description} is empty; give tokens")
        _check_vocabulary(array, vocab_size, description)
        cut = int(array.size * (1 - validation_fraction))
        known = vocab_size == 256 and array.dtype.itemsize == 1  # then a token is a byte
        return cls(
            train=array[:cut],
            validation=array[cut:],
            train_bytes=cut if known else None,
            validation_bytes=array.size - cut if known else None,
            sha256=hashlib.sha256(np.ascontiguousarray(array).data).hexdigest(),
            description=description,
        )

    @classmethod
    def from_text(
        cls,
        text: Text,
        tokenizer: Encoder | None = None,
        *,
        vocab_size: int = 256,
        validation_fraction: float = 0.1,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> Dataset:
        """Splits a text, then encodes both parts.

        Args:
            text: what to learn.
            tokenizer: None or a byte tokenizer: the bytes are the tokens, without a copy.
            vocab_size: every token must be below it.
            validation_fraction: share of the bytes, from the end, that is not trained on.
            cache_dir: folder in which encoded tokens are kept for the next time; None: in memory.

        Raises:
            DataError: a token outside the vocabulary.
        """
        plain = _is_bytes(tokenizer)
        cut = text.boundary(validation_fraction, at_character=not plain)
        parts: list[Tokens] = []
        for name, part in (("train", text.data[:cut]), ("validation", text.data[cut:])):
            if plain or tokenizer is None:
                parts.append(part)
            else:
                parts.append(_encode_cached(part, tokenizer, name, cache_dir))
            _check_vocabulary(parts[-1], vocab_size, text.description)
        return cls(
            train=parts[0],
            validation=parts[1],
            train_bytes=cut,
            validation_bytes=text.data.size - cut,
            sha256=text.sha256,
            description=text.description,
        )


def _is_bytes(tokenizer: Encoder | None) -> bool:
    return tokenizer is None or getattr(tokenizer, "kind", None) == "bytes"


def _check_vocabulary(tokens: Tokens, vocab_size: int, description: str) -> None:
    """Raises if a token is not below vocab_size; looks at the values only where the dtype allows it."""
    if tokens.size == 0 or vocab_size > np.iinfo(tokens.dtype).max:
        return
    largest = int(tokens.max())
    if largest >= vocab_size:
        place = int(np.argmax(tokens >= vocab_size))
        raise DataError(
            f"{description}: token {int(tokens[place])} at position {place} is outside the vocabulary of "
            f"{vocab_size}; set model.vocab_size to at least {largest + 1}"
        )


def _encode(data: NDArray[np.uint8], tokenizer: Encoder) -> Tokens:
    dtype = np.uint16 if tokenizer.vocab_size <= 65536 else np.uint32
    encoded = [np.asarray(tokenizer.encode(piece), dtype) for piece in text_pieces(data)]
    return np.concatenate(encoded) if encoded else np.empty(0, dtype)


def _encode_cached(
    data: NDArray[np.uint8], tokenizer: Encoder, split: str, cache_dir: str | os.PathLike[str] | None
) -> Tokens:
    """Encodes, or maps what was encoded before: the file's name holds a hash of text and tokenizer."""
    serialize = getattr(tokenizer, "serialize", None)
    if cache_dir is None or serialize is None:
        return _encode(data, tokenizer)
    key = hashlib.sha256(hashlib.sha256(data.data).digest() + bytes(serialize())).hexdigest()[:16]
    path = Path(cache_dir) / f"tokens-{split}-{key}.npy"
    try:
        cached = np.load(path, mmap_mode="r", allow_pickle=False)
        if cached.ndim == 1 and cached.dtype in (np.uint16, np.uint32):
            return np.asarray(cached)
    except (OSError, ValueError, EOFError):
        pass  # not there, or cut by a crash: written again below
    tokens = _encode(data, tokenizer)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            np.save(file, tokens, allow_pickle=False)
        os.replace(temporary, path)
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except OSError:
        return tokens  # a cache is a convenience


def load_dataset(
    source: DataConfig
    | str
    | os.PathLike[str]
    | Sequence[str | os.PathLike[str]]
    | bytes
    | NDArray[Any]
    | None = None,
    tokenizer: Encoder | None = None,
    *,
    vocab_size: int | None = None,
    validation_fraction: float | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    stdin: BinaryIO | None = None,
) -> Dataset:
    """Loads whatever was given as data.

    Args:
        source: a DataConfig; a path, or several (file, folder, glob, '-', .npy token array); bytes: the text
            itself; an array of tokens; None: the embedded text.
        tokenizer: encodes text; None: bytes are the tokens.
        vocab_size: every token must be below it; None: the tokenizer's, or 256.
        validation_fraction: share from the end that is not trained on; None: the DataConfig's, or 0.1.
        cache_dir: the run's output folder, for what cannot be mapped.
        stdin: read for '-' instead of the process's standard input.

    Returns:
        Both splits.

    Raises:
        DataError: the data is missing, empty, of the wrong dtype, or has tokens outside the vocabulary.
    """
    size = vocab_size if vocab_size is not None else 256 if tokenizer is None else tokenizer.vocab_size
    if isinstance(source, DataConfig):
        fraction = source.validation_fraction if validation_fraction is None else validation_fraction
        source = source.paths
    else:
        fraction = DataConfig().validation_fraction if validation_fraction is None else validation_fraction
    DataConfig(validation_fraction=fraction)  # checks the range
    if isinstance(source, np.ndarray):
        return Dataset.from_tokens(source, vocab_size=size, validation_fraction=fraction)
    if isinstance(source, bytes):
        if not source:
            raise DataError("the text is empty; give a text")
        text = Text(np.frombuffer(source, np.uint8), hashlib.sha256(source).hexdigest(), "text in memory")
    else:
        paths = [source] if isinstance(source, (str, os.PathLike)) else list(source or ())
        arrays = _token_files(paths)
        if arrays:
            return _load_arrays(arrays, size, fraction)
        text = read_text(paths, cache_dir=cache_dir, stdin=stdin)
    return Dataset.from_text(
        text, tokenizer, vocab_size=size, validation_fraction=fraction, cache_dir=cache_dir
    )


def _token_files(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The .npy files among the paths, globs expanded; all of them or none."""
    found: list[Path] = []
    n_other = 0
    for path in [os.fspath(path) for path in paths]:
        if not path.endswith(".npy"):
            n_other += 1
        elif glob.has_magic(path) and not os.path.exists(path):
            found.extend(Path(match) for match in sorted(glob.glob(path, recursive=True)))
        else:
            found.append(Path(path).expanduser())
    if found and n_other:
        raise DataError("token arrays (.npy) and text cannot be mixed in one run; give one kind")
    return found


def _load_arrays(paths: Sequence[Path], vocab_size: int, fraction: float) -> Dataset:
    arrays: list[NDArray[Any]] = []
    for path in paths:
        try:
            arrays.append(np.load(path, mmap_mode="r", allow_pickle=False))
        except FileNotFoundError:
            raise missing_file(str(path)) from None
        except (OSError, ValueError, EOFError) as error:
            raise DataError(
                f"{path}: not a NumPy array of tokens ({error}); write it with numpy.save"
            ) from error
    description = str(paths[0]) if len(paths) == 1 else f"{len(paths)} arrays, from {paths[0]}"
    for path, array in zip(paths, arrays, strict=True):  # each alone, so that a message names the file
        Dataset.from_tokens(array[:1] if array.ndim == 1 else array, vocab_size=2**32, description=str(path))
    joined = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    return Dataset.from_tokens(
        joined, vocab_size=vocab_size, validation_fraction=fraction, description=description
    )
