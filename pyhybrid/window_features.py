"""What windows of tokens are about, as vectors for clustering, and which of them repeat others.

Place in the data flow: data.py's token arrays -> features or weights of windows -> clustering -> samplers.py.
Window w is the tokens [w * window, (w + 1) * window); what is left at the end of a text is not used.
Sources: Weinberger et al. 2009 (feature hashing); Broder 1997 (MinHash, shingles); Lee et al. 2022,
"Deduplicating Training Data Makes Language Models Better".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from pyhybrid._buffers import Array, input_array, output_array, pointer
from pyhybrid._context import Context, default_context
from pyhybrid._errors import InvalidArgumentError
from pyhybrid._native import ffi, lib

if TYPE_CHECKING:
    from pyhybrid.language_model import LanguageModel

__all__ = [
    "N_MINHASHES",
    "WindowFeatures",
    "group_weights",
    "near_duplicate_groups",
    "near_duplicate_weights",
    "repetition_weights",
    "window_embeddings",
    "window_signatures",
]

#: Numbers in a signature.
N_MINHASHES: int = lib.HYB_MINHASHES

#: Numbers of a signature that must agree to compare two windows at all: pairs of similarity s are missed with
#: probability (1 - s^2)^8, which is 10 % at 0.5 and 0.02 % at 0.8.
_BAND = 2


def _tokens(tokens: npt.ArrayLike) -> Array:
    """Tokens as C reads them: uint8, uint16 or uint32, without a copy where they are that."""
    array = np.asarray(tokens)
    if array.dtype.kind == "u" and array.dtype.itemsize in (1, 2, 4):
        checked = input_array(array, array.dtype, "tokens", (None,))
        return np.require(checked, requirements="A")  # a view into bytes may begin anywhere
    return input_array(tokens, np.uint32, "tokens", (None,))


def _size(value: object, name: str, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not least <= value < 2**32:
        raise InvalidArgumentError(f"{name} is {value!r}; give a whole number of at least {least}")
    return int(value)


def _seed(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 0 <= value < 2**64:
        raise InvalidArgumentError(f"seed is {value!r}; give a whole number from 0 to 2^64 - 1")
    return int(value)


def _memory(array: Array) -> Any:
    """Pointer to tokens of any width."""
    return ffi.from_buffer(array)


class WindowFeatures:
    """Hashed n-gram counts of windows: square roots, unit length, projected by hashed signs.

    The inner product of two rows estimates the Bhattacharyya coefficient of the windows' n-gram frequencies,
    0 (nothing in common) to 1, with a deviation of about 1 / sqrt(n_features); Euclidean distances are
    Hellinger distances.

    Args:
        window: tokens a window.
        n_features: length of a row.
        ngrams: lengths of the runs of tokens that are counted, from 1 to 3.
        seed: of the hashes.
        context: threads; None for the default context. The result does not depend on it.

    Raises:
        InvalidArgumentError: a value out of its range.

    Source: Weinberger et al. 2009.
    """

    def __init__(
        self,
        window: int,
        *,
        n_features: int = 64,
        ngrams: Sequence[int] = (1, 2, 3),
        seed: int = 0,
        context: Context | None = None,
    ) -> None:
        if not ngrams or any(n not in (1, 2, 3) for n in ngrams):
            raise InvalidArgumentError(f"ngrams is {tuple(ngrams)!r}; give some of 1, 2, 3")
        self.window = _size(window, "window")
        self.n_features = _size(n_features, "n_features")
        self.ngrams = tuple(sorted({int(n) for n in ngrams}))
        self.seed = _seed(seed)
        self.context = context or default_context()
        self._hashing = ffi.new("hyb_window_hashing *")
        self._hashing.window = self.window
        self._hashing.n_features = self.n_features
        self._hashing.ngrams = sum(1 << (n - 1) for n in self.ngrams)
        self._hashing.seed = self.seed

    def __repr__(self) -> str:
        return f"WindowFeatures({self.window}, n_features={self.n_features}, ngrams={self.ngrams})"

    def transform(self, tokens: npt.ArrayLike, *, out: Array | None = None) -> Array:
        """Returns the features of a text's windows.

        Args:
            tokens: uint8, uint16 or uint32 [n].
            out: float32 [n // window, n_features] to write to; None for a new array.

        Returns:
            float32 [n // window, n_features].

        Raises:
            InvalidArgumentError: a wrong dtype or shape, or a window too short for any n-gram.
        """
        array = _tokens(tokens)
        rows = output_array(out, np.float32, (array.size // self.window, self.n_features))
        with self.context.lock:
            self.context.check(
                lib.hyb_window_features(
                    self.context.handle,
                    self._hashing,
                    _memory(array),
                    array.itemsize,
                    array.size,
                    pointer(rows, write=True),
                )
            )
        return rows

    def stream(self, pieces: Iterable[npt.ArrayLike]) -> Iterator[Array]:
        """Goes through a text in pieces of any length; holds less than a window besides the piece.

        Args:
            pieces: consecutive parts of a text, uint8, uint16 or uint32 [any].

        Yields:
            float32 [windows, n_features] of the windows that a piece completes, if there are any; together
            the rows that `transform` gives for the whole text.
        """
        rest: Array | None = None
        for piece in pieces:
            array = _tokens(piece)
            joined = array if rest is None or not rest.size else np.concatenate((rest, array))
            n_used = joined.size // self.window * self.window
            if n_used:
                yield self.transform(joined[:n_used])
            rest = joined[n_used:].copy()


def window_embeddings(
    source: LanguageModel | npt.ArrayLike,
    tokens: npt.ArrayLike,
    window: int,
    *,
    context: Context | None = None,
) -> Array:
    """Returns the mean embedding of each window's tokens.

    Args:
        source: a model, whose embeddings in effect are used, or float32 [vocabulary, dim].
        tokens: uint8, uint16 or uint32 [n], below the size of the vocabulary.
        window: tokens a window.
        context: threads; None for the default context.

    Returns:
        float32 [n // window, dim].

    Raises:
        InvalidArgumentError: a wrong dtype or shape, or a token outside the vocabulary.
    """
    context = context or default_context()
    table: Any = source
    if hasattr(source, "effective") and hasattr(source, "parameters"):
        table = source.effective("embedding")
    embeddings = input_array(table, np.float32, "embeddings", (None, None))
    array, length = _tokens(tokens), _size(window, "window")
    rows = np.empty((array.size // length, embeddings.shape[1]), np.float32)
    with context.lock:
        context.check(
            lib.hyb_window_embeddings(
                context.handle,
                pointer(embeddings),
                *embeddings.shape,
                length,
                _memory(array),
                array.itemsize,
                array.size,
                pointer(rows, write=True),
            )
        )
    return rows


# ---- repeated text ----


def window_signatures(
    tokens: npt.ArrayLike, window: int, *, shingle: int = 8, seed: int = 0, context: Context | None = None
) -> Array:
    """Returns the MinHash signature of each window: 16 minima of its hashed shingles.

    Args:
        tokens: uint8, uint16 or uint32 [n].
        window: tokens a window.
        shingle: tokens of a shingle, at most window.
        seed: of the hashes.
        context: threads; None for the default context.

    Returns:
        uint32 [n // window, 16]; the share of equal numbers in two rows estimates the Jaccard similarity of
        the windows' sets of shingles, with a deviation of at most 1/8.

    Raises:
        InvalidArgumentError: a value out of its range, or a wrong dtype or shape.

    Source: Broder 1997.
    """
    context = context or default_context()
    array, length = _tokens(tokens), _size(window, "window")
    signatures = np.empty((array.size // length, N_MINHASHES), np.uint32)
    with context.lock:
        context.check(
            lib.hyb_window_minhash(
                context.handle,
                length,
                _size(shingle, "shingle"),
                _seed(seed),
                _memory(array),
                array.itemsize,
                array.size,
                pointer(signatures, write=True),
            )
        )
    return signatures


def _candidates(signatures: Array) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Pairs of windows that agree in a band: each with the first of its bucket, and with the one before."""
    for first in range(0, signatures.shape[1], _BAND):
        band = signatures[:, first : first + _BAND].astype(np.uint64)
        keys = band[:, 0] << np.uint64(32) | band[:, 1]
        order = np.argsort(keys, kind="stable")
        is_first = np.append(True, keys[order][1:] != keys[order][:-1])
        bucket_first = order[np.flatnonzero(is_first)[np.cumsum(is_first) - 1]]
        others = np.flatnonzero(~is_first)
        yield order[others], bucket_first[others]
        yield order[others], order[others - 1]


def near_duplicate_groups(signatures: npt.ArrayLike, *, similarity: float = 0.5) -> NDArray[np.int32]:
    """Groups windows whose signatures agree; a group is connected by pairs that do.

    It sees windows that begin at about the same place of the repeated text. Two texts cut at different places
    share less than a window: see `repetition_weights`.

    Args:
        signatures: uint32 [windows, 16] of `window_signatures`.
        similarity: least share of equal numbers, above 0 to 1.

    Returns:
        int32 [windows]: number of each window's group, from 0 in the order of their first windows.

    Raises:
        InvalidArgumentError: a wrong shape or dtype, or a similarity out of its range.
    """
    rows = input_array(signatures, np.uint32, "signatures", (None, N_MINHASHES))
    if not 0 < similarity <= 1:
        raise InvalidArgumentError(f"similarity is {similarity!r}; give a number above 0, at most 1")
    labels = np.arange(rows.shape[0])
    found = [np.empty((2, 0), np.intp)]
    for a, b in _candidates(rows) if rows.shape[0] else ():
        alike = (rows[a] == rows[b]).mean(axis=1) >= similarity
        found.append(np.stack((a[alike], b[alike])))
    a, b = np.concatenate(found, axis=1)
    while True:  # the smallest label wins, along pairs and then along labels of labels
        least = np.minimum(labels[a], labels[b])
        joined = labels.copy()
        np.minimum.at(joined, labels[a], least)
        np.minimum.at(joined, labels[b], least)
        joined = joined[joined]
        if np.array_equal(joined[labels], labels):
            break
        labels = joined[labels]
    return np.unique(labels, return_inverse=True)[1].astype(np.int32)


def group_weights(groups: npt.ArrayLike) -> NDArray[np.float64]:
    """Returns 1 / (size of its group) for each window.

    Args:
        groups: int [windows], at least 0.
    """
    labels = input_array(groups, np.int32, "groups", (None,))
    if labels.size and labels.min() < 0:
        raise InvalidArgumentError(f"groups holds {labels.min()}; groups are numbered from 0")
    weights: NDArray[np.float64] = 1.0 / np.bincount(labels)[labels] if labels.size else np.empty(0)
    return weights


def near_duplicate_weights(
    tokens: npt.ArrayLike,
    window: int,
    *,
    shingle: int = 8,
    similarity: float = 0.5,
    seed: int = 0,
    context: Context | None = None,
) -> NDArray[np.float64]:
    """Returns 1 / (size of its group of near-duplicates) for each window; see `near_duplicate_groups`."""
    signatures = window_signatures(tokens, window, shingle=shingle, seed=seed, context=context)
    return group_weights(near_duplicate_groups(signatures, similarity=similarity))


def repetition_weights(
    tokens: npt.ArrayLike, window: int, *, shingle: int = 16, context: Context | None = None
) -> NDArray[np.float64]:
    """Weighs each window by how new its shingles are: the mean of 1 / (its occurrences in the text).

    A passage that occurs m times gets weight 1/m in each of its places, wherever windows cut it, so that all
    of them together count once. Text that occurs once has weight 1, but for its common phrases.

    Args:
        tokens: uint8, uint16 or uint32 [n].
        window: tokens a window.
        shingle: tokens of a shingle; phrases as long are to be rare by chance: 16 bytes, 8 tokens of a larger
            vocabulary.
        context: threads; None for the default context.

    Returns:
        float64 [n // window], above 0, at most 1. Memory: about 40 bytes a token while it works.

    Raises:
        InvalidArgumentError: a value out of its range, or a wrong dtype or shape.
    """
    context = context or default_context()
    array, length, run = _tokens(tokens), _size(window, "window"), _size(shingle, "shingle")
    if not 1 <= run <= array.size:
        raise InvalidArgumentError(f"shingle is {shingle}; give 1 to {array.size}, the tokens of the text")
    hashes = np.empty(array.size - run + 1, np.uint64)
    with context.lock:
        context.check(
            lib.hyb_shingle_hashes(
                context.handle,
                run,
                0,
                _memory(array),
                array.itemsize,
                array.size,
                pointer(hashes, write=True),
            )
        )
    order = np.argsort(hashes)
    in_order = hashes[order]
    begins = np.flatnonzero(np.append(True, in_order[1:] != in_order[:-1]))
    sizes = np.diff(np.append(begins, hashes.size))
    share = np.empty(hashes.size)
    share[order] = np.repeat(1.0 / sizes, sizes)
    # In the last window fewer shingles may begin; if none does, the last one of all stands for it.
    n_windows = array.size // length
    first = np.minimum(np.arange(n_windows) * length, hashes.size - 1)
    last = np.minimum(first + length, hashes.size)
    total = np.append(0.0, np.cumsum(share))
    weights: NDArray[np.float64] = (total[last] - total[first]) / (last - first)
    return np.clip(weights, np.finfo(np.float64).tiny, 1.0)
