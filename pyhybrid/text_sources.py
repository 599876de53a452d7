"""Text in: files, folders, globs, standard input, or the text that Python carries.

Place in the data flow: the paths that a user gives -> the bytes of a run with their hash, memory-mapped where
possible -> data.py makes tokens of them.
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
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyhybrid._errors import InvalidArgumentError

__all__ = [
    "CACHE_NAME",
    "DataError",
    "EmbeddedText",
    "Text",
    "embedded_text",
    "missing_file",
    "read_text",
    "standard_docstrings",
    "text_pieces",
]

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
#: Text of standard input, or of many files, in the output folder.
CACHE_NAME = "data-cache.bin"


class DataError(InvalidArgumentError):
    """The text cannot be read or does not fit; the message says which and how to mend it."""


# ---- the text that Python carries ----


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
        parts = standard_docstrings()
        origin = (
            f"the standard library's docstrings of Python {sys.version_info.major}.{sys.version_info.minor}"
        )
    text = ("\n\n".join(parts) + "\n").encode("utf-8")
    if not any(parts):
        raise DataError("this Python carries no documentation text; give a text with --data")
    return EmbeddedText(text, hashlib.sha256(text).hexdigest(), origin)


def standard_docstrings() -> list[str]:
    """Returns docstrings of the standard library's source files, without importing them."""
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


# ---- a run's text ----


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


# ---- sources ----


class _Source(NamedTuple):
    """One thing to read: a path, or None for a stream whose bytes are here already."""

    name: str
    path: Path | None
    stream: bytes | None = None


def missing_file(path: str) -> DataError:
    """Returns the error about a path that is not there, with the nearest name that is.

    Args:
        path: as the user wrote it.
    """
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
            raise missing_file(text)
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
