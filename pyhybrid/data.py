"""Text in, batches of token windows out.

Place in the data flow: files, folders, globs, standard input or token arrays -> one run of tokens,
memory-mapped where possible -> a training and a validation split in contiguous blocks -> random windows for
the trainer, and contiguous ones for the validation. A batch is a function of (seed, step) alone, so a
resumed run needs no other cursor than the step number.
"""

from __future__ import annotations

import ast
import difflib
import glob
import hashlib
import os
import stat
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pyhybrid._errors import InvalidArgumentError
from pyhybrid.config import DataConfig

__all__ = [
    "Batches",
    "DataError",
    "Dataset",
    "EmbeddedText",
    "Text",
    "embedded_text",
    "load_dataset",
    "read_text",
    "text_pieces",
    "validation_batches",
]

Tokens = NDArray[np.unsignedinteger[Any]]

# Several files are joined in memory up to this size; above it, in a file of the output folder, which is
# mapped.
_MEMORY_LIMIT_BYTES = 256 << 20
# Text is given to a tokenizer in pieces of about this size, cut at a line feed, so that its working memory
# is bounded.
_ENCODE_BYTES = 16 << 20
# Enough docstrings: about as long as the documentation that they stand in for.
_DOCSTRING_CHARACTERS = 700_000
# Bytes of a folder's file that are searched for a NUL, the mark of a binary file (as grep and git do).
_SNIFF_BYTES = 8192
# Second word of Philox's key: keeps the batches apart from other uses of the same seed ("batch" in ASCII).
_BATCH_STREAM = 0x6261746368
# Text of standard input, or of many files, in the output folder.
CACHE_NAME = "data-cache.bin"


class DataError(InvalidArgumentError):
    """The text cannot be read or does not fit; the message says which and how to mend it."""


class Encoder(Protocol):
    """What the data loader needs of a tokenizer."""

    @property
    def vocab_size(self) -> int: ...

    def encode(self, text: Any) -> Any: ...


class EmbeddedText(NamedTuple):
    """The text that every CPython carries, its SHA-256 in hexadecimal, and where it came from."""

    text: bytes
    sha256: str
    origin: str


def embedded_text() -> EmbeddedText:
    """Returns the documentation text that comes with this Python.

    The topics of `pydoc_data.topics` in the order of their sorted names, joined by blank lines; where an
    installation lacks that module, the docstrings of the standard library's modules. The text differs
    between Python versions, which is why its hash is printed.

    Raises:
        DataError: this Python carries neither.
    """
    try:
        from pydoc_data.topics import topics

        parts = [str(topics[name]).strip("\n") for name in sorted(topics)]
        origin = f"pydoc_data.topics of Python {sys.version_info.major}.{sys.version_info.minor}"
    except ImportError:
        parts = _standard_docstrings()
        origin = (
            f"the standard library's docstrings of Python {sys.version_info.major}.{sys.version_info.minor}"
        )
    text = ("\n\n".join(parts) + "\n").encode("utf-8")
    if not any(parts):
        raise DataError("this Python carries no documentation text; give a text with --data")
    return EmbeddedText(text, hashlib.sha256(text).hexdigest(), origin)


def _standard_docstrings() -> list[str]:
    """Docstrings of the standard library's source files, without importing them."""
    parts: list[str] = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        try:
            tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError):
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        parts.extend(ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds))
        if sum(map(len, parts)) >= _DOCSTRING_CHARACTERS:
            break
    return [part for part in parts if part]


@dataclass(frozen=True)
class Text:
    """All the text of a run.

    Args:
        data: uint8 [n_bytes], mapped from a file where possible.
        sha256: of the bytes, hexadecimal.
        description: where it came from, for people.
    """

    data: NDArray[np.uint8]
    sha256: str
    description: str

    def boundary(self, validation_fraction: float, *, at_character: bool = False) -> int:
        """Returns the byte at which the validation split begins.

        Args:
            validation_fraction: share of the bytes behind the boundary.
            at_character: move on to the next beginning of a UTF-8 character.
        """
        cut = int(self.data.size * (1 - validation_fraction))
        while at_character and cut < self.data.size and (int(self.data[cut]) & 0xC0) == 0x80:
            cut += 1
        return cut


# ---- sources ----


class _Source(NamedTuple):
    """One thing to read: a path, or None for a stream whose bytes are here already."""

    name: str
    path: Path | None
    stream: bytes | None = None


def _missing(path: str) -> DataError:
    parent = Path(path).parent
    try:
        close = difflib.get_close_matches(Path(path).name, os.listdir(parent), n=1)
    except OSError:
        return DataError(f"no such file: {path!r}; the folder {str(parent)!r} does not exist either")
    hint = f"; did you mean {str(parent / close[0])!r}?" if close else "; check the path"
    return DataError(f"no such file: {path!r}{hint}")


def _folder(path: Path, exclude: Path | None) -> list[_Source]:
    """The text files of a folder and its folders, sorted by path; hidden and binary ones are left out."""
    sources: list[_Source] = []
    n_seen = 0
    for root, folders, files in os.walk(path):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and (exclude is None or Path(root, name).resolve() != exclude)
        )
        for name in sorted(files):
            file = Path(root, name)
            n_seen += 1
            if name.startswith(".") or not file.is_file():
                continue
            with file.open("rb") as opened:
                head = opened.read(_SNIFF_BYTES)
            if head and b"\0" not in head:
                sources.append(_Source(str(file), file))
    if not sources:
        raise DataError(
            f"{str(path)!r} holds no text ({n_seen} files were looked at; hidden, empty and binary ones do "
            "not count)"
        )
    return sources


def _resolve(paths: Sequence[str], stdin: BinaryIO | None, exclude: Path | None) -> list[_Source]:
    """Turns what the user wrote into readable sources, in this order."""
    sources: list[_Source] = []
    for text in paths:
        if text == "-":
            stream = (stdin or sys.stdin.buffer).read()
            sources.append(_Source("standard input", None, stream))
            continue
        path = Path(text).expanduser()
        if path.exists():
            found = [path]
        elif glob.has_magic(text):
            found = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
            if not found:
                raise DataError(f"no file matches {text!r}; check the pattern, and quote it in a shell")
        else:
            raise _missing(text)
        for one in found:
            if one.is_dir():
                sources.extend(_folder(one, exclude))
            elif stat.S_ISREG(one.stat().st_mode):
                sources.append(_Source(str(one), one))
            else:  # a pipe or a device can be read once
                sources.append(_Source(str(one), None, one.read_bytes()))
    return sources


def _map_bytes(path: Path) -> NDArray[np.uint8]:
    """A file's bytes, mapped; an empty file gives an empty array, which cannot be mapped."""
    if path.stat().st_size == 0:
        return np.empty(0, np.uint8)
    return np.asarray(np.memmap(path, np.uint8, "r"))


def _join(sources: Sequence[_Source], cache_dir: Path | None) -> NDArray[np.uint8]:
    """The bytes of all sources, a line feed between two; streams and big texts go to the output folder."""
    if len(sources) == 1 and sources[0].path is not None:
        return _map_bytes(sources[0].path)
    sizes = [len(s.stream or b"") if s.path is None else s.path.stat().st_size for s in sources]
    total = sum(sizes) + len(sources) - 1
    streamed = any(source.path is None for source in sources)
    if cache_dir is not None and (streamed or total > _MEMORY_LIMIT_BYTES):
        cache_dir.mkdir(parents=True, exist_ok=True)
        temporary = cache_dir / (CACHE_NAME + ".tmp")
        with temporary.open("wb") as file:
            for number, source in enumerate(sources):
                file.write(b"\n" if number else b"")
                file.write(_map_bytes(source.path).data if source.path is not None else source.stream or b"")
        os.replace(temporary, cache_dir / CACHE_NAME)
        return _map_bytes(cache_dir / CACHE_NAME)
    pieces: list[NDArray[np.uint8]] = []
    for number, source in enumerate(sources):
        if number:
            pieces.append(np.frombuffer(b"\n", np.uint8))
        pieces.append(
            _map_bytes(source.path)
            if source.path is not None
            else np.frombuffer(source.stream or b"", np.uint8)
        )
    return np.concatenate(pieces)


def _describe(sources: Sequence[_Source]) -> str:
    return sources[0].name if len(sources) == 1 else f"{len(sources)} files, from {sources[0].name}"


def read_text(
    paths: Sequence[str | os.PathLike[str]] = (),
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    stdin: BinaryIO | None = None,
) -> Text:
    """Reads text sources; their bytes are taken as they are, valid UTF-8 or not.

    Args:
        paths: files, folders (text files at any depth, sorted), glob patterns, '-' for standard input; none:
            the embedded text. Several are joined with a line feed between two.
        cache_dir: folder in which the text of a stream, or of many big files, is kept; None: in memory.
        stdin: read for '-' instead of the process's standard input.

    Returns:
        The text; one regular file is mapped, not read.

    Raises:
        DataError: nothing there, empty, or not readable.
    """
    if not paths:
        text, sha256, origin = embedded_text()
        return Text(np.frombuffer(text, np.uint8), sha256, origin)
    cache = None if cache_dir is None else Path(cache_dir).resolve()
    try:
        sources = _resolve([os.fspath(path) for path in paths], stdin, cache)
        data = _join(sources, cache)
    except OSError as error:
        raise DataError(f"{error.filename or 'data'}: cannot be read ({error.strerror or error})") from error
    if data.size == 0 or (len(sources) > 1 and data.size < len(sources)):
        raise DataError(f"{_describe(sources)} is empty; give a text")
    return Text(data, hashlib.sha256(data.data).hexdigest(), _describe(sources))


# ---- tokens ----


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


def text_pieces(data: NDArray[np.uint8]) -> Iterator[bytes]:
    """Cuts a text into pieces of bounded size that end behind a line feed, or, without any, at a character.

    Args:
        data: uint8 [n_bytes].

    Yields:
        The bytes, in order.
    """
    start = 0
    while start < data.size:
        stop = min(start + _ENCODE_BYTES, data.size)
        if stop < data.size:
            window = data[start:stop].tobytes()
            cut = window.rfind(b"\n") + 1
            while cut == 0 and stop < data.size and (int(data[stop]) & 0xC0) == 0x80:
                stop += 1
            stop = start + cut if cut else stop
        yield data[start:stop].tobytes()
        start = stop


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
            raise _missing(str(path)) from None
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


# ---- batches ----


class Batches:
    """Random windows of a token array; batch number `step` is the same whenever it is asked for.

    Args:
        tokens: uint8, uint16 or uint32 [n], n > context.
        batch_size: windows a batch.
        context: tokens a window predicts.
        seed: of the windows' places.

    Raises:
        DataError: the array is shorter than one window.
    """

    def __init__(self, tokens: Tokens, *, batch_size: int, context: int, seed: int = 0) -> None:
        if tokens.size < context + 1:
            raise DataError(f"{tokens.size} tokens are too few: a window of {context} needs {context + 1}")
        self.tokens = tokens
        self.batch_size = batch_size
        self.context = context
        self.seed = seed

    def starts(self, step: int) -> list[int]:
        """Returns the first token's place of each window of a batch, uniform over all places.

        Args:
            step: number of the batch, at least 0.

        Source: Philox4x64-10, Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3". Its raw
        output is fixed by the algorithm, while NumPy's derived distributions may change between versions.
        """
        key = np.array([self.seed, _BATCH_STREAM], np.uint64)
        counter = np.array([0, step, 0, 0], np.uint64)  # the first word counts within a step
        raw = np.random.Philox(key=key, counter=counter).random_raw(self.batch_size)
        n_places = int(self.tokens.size) - self.context
        # The high word of a 64 x 64 bit product is uniform over the places up to n_places / 2^64.
        return [(int(value) * n_places) >> 64 for value in raw]

    def batch(self, step: int) -> NDArray[np.uint32]:
        """Returns uint32 [batch_size, context + 1]: inputs lack the last column, targets the first.

        Args:
            step: number of the batch, at least 0.
        """
        rows = np.empty((self.batch_size, self.context + 1), np.uint32)
        for row, start in zip(rows, self.starts(step), strict=True):
            row[:] = self.tokens[start : start + self.context + 1]
        return rows


def validation_batches(
    tokens: Tokens, *, batch_size: int, context: int, max_tokens: int = 0
) -> Iterator[NDArray[np.uint32]]:
    """Cuts a split into contiguous windows so that every token but the first is predicted once.

    Args:
        tokens: uint8, uint16 or uint32 [n].
        batch_size: most windows a batch.
        context: tokens a window predicts; what is left at the end makes one shorter window.
        max_tokens: most predictions in total; then whole windows spread evenly over the split are taken. 0:
            all.

    Yields:
        uint32 [at most batch_size, at most context + 1].
    """
    n_predicted = int(tokens.size) - 1
    if n_predicted < 1:
        return
    n_windows = n_predicted // context
    chosen = list(range(n_windows))
    whole = max_tokens <= 0 or n_predicted <= max_tokens
    if not whole:
        n_chosen = min(n_windows, max(1, max_tokens // context))
        chosen = [index * n_windows // n_chosen for index in range(n_chosen)]
    for first in range(0, len(chosen), batch_size):
        group = chosen[first : first + batch_size]
        rows = np.empty((len(group), context + 1), np.uint32)
        for row, index in zip(rows, group, strict=True):
            row[:] = tokens[index * context : index * context + context + 1]
        yield rows
    rest = n_predicted % context
    if rest and (whole or not chosen):
        if not whole:
            rest = min(rest, max_tokens)
        start = n_windows * context
        yield np.asarray(tokens[start : start + rest + 1], np.uint32).reshape(1, -1)
