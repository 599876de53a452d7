"""Texts on which clustering may pay: unequal shares of three kinds, and a text with near-copies in it.

Made in memory from what every CPython carries, the same in each process of an installation; another version
of Python has other documentation, which is why a run's record holds the text's hash. Validation is on text
that is not trained on, and does not have the training text's shares.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable

import numpy as np

from pyhybrid.data import Dataset
from pyhybrid.text_sources import embedded_text, standard_docstrings

__all__ = ["CORPORA"]

# Texts are shuffled in pieces of at most this many bytes, which end with a line.
_PIECE = 4096
# 'mixed': bytes to train on of each kind (70, 25 and 5 %), and to validate on.
_MIXED = {"prose": 1_050_000, "code": 375_000, "markup": 75_000}
_MIXED_VALIDATION = 32_768
# 'duplicated': bytes that occur once; near-copies beside them, 30 % of the text; bytes to validate on.
_ONCE, _COPIES = 980_000, 420_000
_DUPLICATED_VALIDATION = 65_536
_N_PASSAGES, _PASSAGE = 4, 2048
# Share of a copy's words that are replaced by others of its passage.
_REPLACED = 0.02
_CODE_PACKAGES = "asyncio concurrent ctypes email http importlib json logging multiprocessing unittest urllib"
# Modules whose pages have nothing that differs between two processes, but for addresses and paths. What a
# process has imported does show in a page, so that one of its own writes them.
_PAGES = "argparse calendar csv textwrap string"
_WRITE_PAGES = "import importlib, pydoc, sys\nfor name in sys.argv[1:]:\n    " + (
    "sys.stdout.buffer.write(pydoc.html.docmodule(importlib.import_module(name)).encode('utf-8'))"
)


def _prose() -> bytes:
    """Documentation topics and docstrings; where there are no topics, the embedded text is the docstrings."""
    docstrings = ("\n\n".join(standard_docstrings()) + "\n").encode("utf-8")
    return b"\n".join(dict.fromkeys((embedded_text().text, docstrings)))


def _code() -> bytes:
    """Sources of the standard library's packages; the docstrings above are of its modules."""
    folder = sysconfig.get_path("stdlib")
    found: list[bytes] = []
    for package in _CODE_PACKAGES.split():
        for path in sorted(glob.glob(os.path.join(folder, package, "**", "*.py"), recursive=True)):
            with open(path, "rb") as file:
                found.append(file.read())
    return b"\n".join(found)


def _markup() -> bytes:
    """pydoc's HTML pages, without addresses and the links to source files."""
    command = [sys.executable, "-I", "-c", _WRITE_PAGES, *_PAGES.split()]
    pages = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    pages = re.sub(rb'<a href="file:/[^"]*">[^<]*</a>', b"", pages)
    return re.sub(rb"0x[0-9a-fA-F]{6,}", b"0x0", pages)


def _words(seed: int, n: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """Random 64-bit words that no version of NumPy changes."""
    return np.asarray(np.random.Philox(key=seed).random_raw(n), np.uint64)


def _shuffled(pieces: list[bytes], seed: int) -> list[bytes]:
    return [pieces[i] for i in np.argsort(_words(seed, len(pieces)), kind="stable")]


def _pieces(text: bytes) -> list[bytes]:
    """A text cut behind line feeds."""
    found, start = [], 0
    while start < len(text):
        stop = min(start + _PIECE, len(text))
        stop = text.rfind(b"\n", start, stop) + 1 or stop if stop < len(text) else stop
        found.append(text[start:stop])
        start = stop
    return found


def _split(text: bytes, n_train: int, n_validation: int, seed: int) -> tuple[list[bytes], bytes]:
    """Shuffled pieces to train on, and a text to validate on, of whole pieces that are not among them."""
    pieces = _shuffled(_pieces(text), seed)
    held, n_held = 0, 0
    while n_held < n_validation and held < len(pieces):
        n_held += len(pieces[held])
        held += 1
    validation, train = b"".join(pieces[:held])[:n_validation], b"".join(pieces[held:])[:n_train]
    return _pieces(train), validation


def _dataset(train: Iterable[bytes], validation: Iterable[bytes], name: str) -> Dataset:
    both = b"".join(train), b"".join(validation)
    arrays = [np.frombuffer(part, np.uint8) for part in both]
    return Dataset(
        train=arrays[0],
        validation=arrays[1],
        train_bytes=len(both[0]),
        validation_bytes=len(both[1]),
        sha256=hashlib.sha256(both[0] + both[1]).hexdigest(),
        description=f"{name}, of Python {sys.version_info.major}.{sys.version_info.minor}",
    )


@functools.cache
def mixed() -> Dataset:
    """Returns prose, code and markup, 70, 25 and 5 % of the training text, a third each of the validation."""
    makers: dict[str, Callable[[], bytes]] = {"prose": _prose, "code": _code, "markup": _markup}
    train: list[bytes] = []
    validation: list[bytes] = []
    for seed, (kind, make) in enumerate(makers.items()):
        pieces, held = _split(make(), _MIXED[kind], _MIXED_VALIDATION, seed)
        train += pieces
        validation.append(held)
    return _dataset(_shuffled(train, 3), validation, "prose, code and markup")


def _near_copy(passage: bytes, seed: int) -> bytes:
    """A passage with some of its words replaced by others of it."""
    words = re.findall(rb"\s+|\S+", passage)
    places = [i for i, word in enumerate(words) if not word.isspace()]
    raw = (_words(seed, 2 * len(places)) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    source = list(words)
    for place, chance, other in zip(places, raw[::2], raw[1::2], strict=True):
        if chance < _REPLACED:
            words[place] = source[places[int(other * len(places))]]
    return b"".join(words)


@functools.cache
def duplicated() -> Dataset:
    """Returns prose of which 30 % are near-copies of four passages of 2 KiB; clean prose to validate on."""
    once, validation = _split(_prose(), _ONCE, _DUPLICATED_VALIDATION, 0)
    clean = b"".join(once)
    passages = [clean[i * _PIECE : i * _PIECE + _PASSAGE] for i in range(_N_PASSAGES)]
    copies = [_near_copy(passages[i % _N_PASSAGES], 100 + i) + b"\n" for i in range(_COPIES // _PASSAGE)]
    return _dataset(_shuffled(once + copies, 4), [validation], "prose with near-copies")


#: Datasets by name.
CORPORA: dict[str, Callable[[], Dataset]] = {"mixed": mixed, "duplicated": duplicated}
