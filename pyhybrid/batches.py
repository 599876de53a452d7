"""Batches out: random windows of tokens for the trainer, contiguous ones for the validation.

Place in the data flow: between data.py's token arrays and the model. A batch is a function of (seed, step)
alone, so a resumed run needs no other cursor than the step number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyhybrid.text_sources import DataError

__all__ = ["Batches", "Tokens", "validation_batches", "windows_at"]

#: Tokens in a row; uint8, uint16 or uint32 [n].
Tokens = NDArray[np.unsignedinteger[Any]]

# Second word of Philox's key: keeps the batches apart from other uses of the same seed ("batch" in ASCII).
_BATCH_STREAM = 0x6261746368


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
        return windows_at(self.tokens, self.starts(step), self.context)


def windows_at(tokens: Tokens, starts: Sequence[int], context: int) -> NDArray[np.uint32]:
    """Returns uint32 [len(starts), context + 1], the windows that begin at places of a text.

    Args:
        tokens: uint8, uint16 or uint32 [n].
        starts: places, at most n - context - 1.
        context: tokens a window predicts.
    """
    rows = np.empty((len(starts), context + 1), np.uint32)
    for row, start in zip(rows, starts, strict=True):
        row[:] = tokens[start : start + context + 1]
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
