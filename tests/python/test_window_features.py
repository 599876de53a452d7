"""Features of windows against a NumPy reference, streaming, embeddings, signatures and repeated text."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from pyhybrid import Context, InvalidArgumentError, LanguageModel, embedded_text
from pyhybrid.window_features import (
    WindowFeatures,
    group_weights,
    near_duplicate_groups,
    near_duplicate_weights,
    repetition_weights,
    window_embeddings,
    window_signatures,
)

WORD = 2**64


def mix(z: int) -> int:
    """The finaliser of splitmix64."""
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ z >> 27) * 0x94D049BB133111EB % WORD
    return z ^ z >> 31


def run_hash(run: tuple[int, ...], seed: int) -> int:
    """The hash of a run of tokens, as hybrid/features.h says it."""
    polynomial = 0
    for token in run:
        polynomial = (polynomial * 0x9E3779B97F4A7C15 + mix((seed + token) % WORD)) % WORD
    return mix((polynomial + len(run)) % WORD)


def runs_of(window: np.ndarray, n: int) -> list[tuple[int, ...]]:
    return [tuple(window[i : i + n].tolist()) for i in range(window.size - n + 1)]


def reference_features(
    tokens: np.ndarray, window: int, n_features: int, ngrams: tuple[int, ...], seed: int
) -> np.ndarray:
    rows = np.zeros((tokens.size // window, n_features))
    for w, row in enumerate(rows):
        counts = Counter(run for n in ngrams for run in runs_of(tokens[w * window : (w + 1) * window], n))
        for run, count in counts.items():
            hashed = run_hash(run, seed)
            row[(hashed >> 32) * n_features >> 32] += (-1) ** (hashed & 1) * math.sqrt(count)
        row[:] /= math.sqrt(counts.total())
    return rows


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
@pytest.mark.parametrize("ngrams", [(1,), (2,), (1, 3), (1, 2, 3)])
def test_features_equal_the_reference(
    dtype: type[np.unsignedinteger], ngrams: tuple[int, ...], rng: np.random.Generator
) -> None:
    """Rows are those of the definition, up to rounding, for any width of a token."""
    tokens = rng.integers(0, 12, 333).astype(dtype)
    features = WindowFeatures(40, n_features=19, ngrams=ngrams, seed=2**64 - 3)
    rows = features.transform(tokens)
    assert rows.shape == (8, 19)
    assert rows.dtype == np.float32
    assert np.allclose(rows, reference_features(tokens, 40, 19, ngrams, 2**64 - 3), atol=2e-6)


def test_features_do_not_depend_on_threads_or_pieces(rng: np.random.Generator) -> None:
    """Any number of threads, and any cutting of the text, gives the same rows."""
    tokens = rng.integers(0, 300, 50_007).astype(np.uint16)
    expected = WindowFeatures(64, context=Context(threads=1)).transform(tokens)
    features = WindowFeatures(64, context=Context(threads=2))
    assert np.array_equal(features.transform(tokens), expected)
    cuts = np.sort(rng.integers(0, tokens.size, 40))
    streamed = list(features.stream(np.split(tokens, cuts)))
    assert np.array_equal(np.concatenate(streamed), expected)
    unaligned = np.frombuffer(b"x" + tokens.tobytes(), np.uint16, offset=1)
    assert np.array_equal(features.transform(unaligned), expected)
    assert list(features.stream([])) == []
    assert list(features.stream([tokens[:63]])) == []


def test_features_estimate_similarity() -> None:
    """Inner products are near the Bhattacharyya coefficients: within 5 deviations of 1/64."""
    text = np.frombuffer(embedded_text().text[:12_800], np.uint8)
    rows = WindowFeatures(256, n_features=4096).transform(text).astype(np.float64)
    counts = [
        Counter(run for n in (1, 2, 3) for run in runs_of(text[first : first + 256], n))
        for first in range(0, text.size, 256)
    ]
    exact = np.array(
        [[sum(math.sqrt(a[run] * b[run]) for run in a) / a.total() for b in counts] for a in counts]
    )
    assert np.abs(rows @ rows.T - exact).max() < 5 / 64


def test_features_tell_kinds_of_text_apart() -> None:
    """Windows of two kinds of text lie nearer to the mean of their own kind: 64 features are enough."""
    prose = embedded_text().text[:40_000]
    numbers = " ".join(str(i * i % 9973) for i in range(8000)).encode()[:40_000]
    rows = WindowFeatures(128).transform(np.frombuffer(prose + numbers, np.uint8))
    kinds = np.arange(len(rows)) * 128 < len(prose)
    means = np.stack([rows[~kinds].mean(axis=0), rows[kinds].mean(axis=0)])
    nearest = ((rows[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == kinds).mean() > 0.97


def test_features_refuse_bad_input() -> None:
    """Each refused value is named."""
    for arguments, words in (
        ({"window": 0}, "window"),
        ({"window": 2.5}, "window"),
        ({"window": 8, "n_features": 0}, "n_features"),
        ({"window": 8, "ngrams": ()}, "ngrams"),
        ({"window": 8, "ngrams": (4,)}, "ngrams"),
        ({"window": 8, "seed": -1}, "seed"),
    ):
        with pytest.raises(InvalidArgumentError, match=words):
            WindowFeatures(**arguments)  # type: ignore[arg-type]
    features = WindowFeatures(8)
    with pytest.raises(InvalidArgumentError, match="tokens"):
        features.transform(np.zeros(20))
    with pytest.raises(InvalidArgumentError, match="-1"):
        features.transform([3, -1])
    with pytest.raises(InvalidArgumentError, match="out"):
        features.transform(np.zeros(20, np.uint8), out=np.zeros((3, 64), np.float32))
    with pytest.raises(InvalidArgumentError, match="no n-gram"):
        WindowFeatures(1, ngrams=(2,)).transform(np.zeros(20, np.uint8))
    assert features.transform(np.zeros(7, np.uint8)).shape == (0, 64)


def test_embeddings_are_means(model: LanguageModel, rng: np.random.Generator) -> None:
    """A window's row is the mean of its tokens' embeddings in effect."""
    tokens = rng.integers(0, 256, 1000).astype(np.uint8)
    table = model.effective("embedding")
    expected = table[tokens[: 1000 // 48 * 48]].reshape(-1, 48, table.shape[1]).mean(axis=1)
    for source in (model, table):
        assert np.allclose(window_embeddings(source, tokens, 48), expected, atol=1e-6)
    with pytest.raises(InvalidArgumentError, match="token 255 at place"):
        window_embeddings(table[:255], np.full(48, 255, np.uint8), 48)


# ---- repeated text ----


def shingle_sets(tokens: np.ndarray, window: int, shingle: int) -> list[set[tuple[int, ...]]]:
    return [set(runs_of(tokens[i : i + window], shingle)) for i in range(0, tokens.size - window + 1, window)]


def test_signatures_estimate_similarity(rng: np.random.Generator) -> None:
    """The share of equal minima is the Jaccard similarity of the windows, on average."""
    window, pairs = 100, 150
    first = rng.integers(0, 256, (pairs, window)).astype(np.uint8)
    second = first.copy()
    for row, n_edits in zip(second, rng.integers(0, 12, pairs), strict=True):
        row[rng.integers(0, window, n_edits)] = rng.integers(0, 256, n_edits)
    tokens = np.stack((first, second), axis=1).ravel()
    signatures = window_signatures(tokens, window, shingle=5, seed=4)
    assert signatures.shape == (2 * pairs, 16)
    estimated = (signatures[::2] == signatures[1::2]).mean(axis=1)
    sets = shingle_sets(tokens, window, 5)
    exact = np.array([len(a & b) / len(a | b) for a, b in zip(sets[::2], sets[1::2], strict=True)])
    assert 0.3 < exact.mean() < 0.9
    inner = (exact > 0.05) & (exact < 0.95)
    deviations = ((estimated - exact) / np.sqrt(np.maximum(exact * (1 - exact), 1e-9) / 16))[inner]
    # Sampling errors, as 16 independent trials have.
    assert abs(deviations.mean()) < 5 / math.sqrt(inner.sum())
    assert 0.7 < deviations.std() < 1.3


def edited(passage: np.ndarray, rng: np.random.Generator, every: int) -> np.ndarray:
    """A copy with a changed, a missing or an additional token about every so many."""
    copy = passage.tolist()
    for place in sorted(rng.choice(len(copy), len(copy) // every, replace=False).tolist(), reverse=True):
        token = int(rng.integers(97, 123))
        copy[place : place + 1] = [[token], [], [copy[place], token]][int(rng.integers(3))]
    return np.array(copy, np.uint8)


@pytest.fixture
def repeated(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A text of which 30 % is repeated with small edits at any place, and a mask of such tokens."""
    text = np.frombuffer(embedded_text().text[:140_000], np.uint8)
    parts, masks = [], []
    for first in range(0, text.size, 7000):
        passage = text[first : first + 7000]
        parts.append(passage)
        is_original = np.arange(7000) < 3000
        copy = edited(passage[:3000], rng, 150)
        parts.append(copy)
        masks.extend((is_original[: passage.size], np.full(copy.size, True)))
    return np.concatenate(parts), np.concatenate(masks)


def window_share(mask: np.ndarray, window: int) -> np.ndarray:
    return mask[: mask.size // window * window].reshape(-1, window).mean(axis=1)


def test_repeated_text_counts_once(repeated: tuple[np.ndarray, np.ndarray]) -> None:
    """Repeated passages weigh about half as much in each of their two places, the rest about 1."""
    tokens, mask = repeated
    share = window_share(mask, 128)
    weights = repetition_weights(tokens, 128, shingle=16)
    assert weights.shape == share.shape
    assert (weights > 0).all()
    assert (weights <= 1).all()
    text = tokens[~mask]  # what the same text weighs that is not repeated: common phrases alone
    alone = repetition_weights(text, 128, shingle=16).mean()
    assert alone > 0.75
    assert abs(weights[share == 0].mean() - alone) < 0.1
    assert 0.5 * alone - 0.05 < weights[share == 1].mean() < 0.5 * alone + 0.12


def test_duplicates_at_window_borders_are_grouped(rng: np.random.Generator) -> None:
    """Windows that repeat others with small edits share a group; others stay alone; weights are 1/size."""
    window, n = 128, 700
    rows = np.frombuffer(embedded_text().text[: window * n], np.uint8).reshape(n, window)
    rows = rows[np.array([len(set(runs_of(row, 8))) > 100 for row in rows])]
    n = len(rows)
    n_copies = n * 3 // 7
    copies = rows[:n_copies].copy()
    for row in copies:
        row[rng.integers(0, window)] = 35
    tokens = np.concatenate((rows, copies)).ravel()
    groups = near_duplicate_groups(window_signatures(tokens, window))
    assert groups.dtype == np.int32
    assert (groups[n:] == groups[:n_copies]).mean() > 0.97
    weights = near_duplicate_weights(tokens, window)
    assert np.array_equal(weights, group_weights(groups))
    assert (weights[n_copies:n] == 1).mean() > 0.9  # documentation repeats itself as well
    assert abs(weights.sum() / n - 1) < 0.1  # as much as without the copies


def test_groups_are_connected_and_numbered() -> None:
    """a ~ b and b ~ c make one group; equal windows of any number too; groups are numbered as they come."""
    base = np.arange(16, dtype=np.uint32)
    b, c = base.copy(), base.copy()
    b[10:] += 100
    c[:] = b
    c[:4] += 100
    other = base + np.uint32(1000)
    signatures = np.stack([other, base, other, b, c, other])
    assert near_duplicate_groups(signatures).tolist() == [0, 1, 0, 1, 1, 0]
    assert near_duplicate_groups(signatures, similarity=0.9).tolist() == [0, 1, 0, 2, 3, 0]
    assert group_weights([0, 1, 0, 1, 1, 0]).tolist() == pytest.approx([1 / 3] * 6)
    assert near_duplicate_groups(np.tile(base, (5000, 1))).max() == 0
    assert near_duplicate_groups(np.empty((0, 16), np.uint32)).shape == (0,)
    assert group_weights(np.empty(0, np.int32)).shape == (0,)
    for similarity in (0, 1.1, math.nan):
        with pytest.raises(InvalidArgumentError, match="similarity"):
            near_duplicate_groups(signatures, similarity=similarity)
    with pytest.raises(InvalidArgumentError, match="groups"):
        group_weights([-1])


def test_repetition_weights_by_hand() -> None:
    """Runs that occur twice weigh a half; a window with no beginning of a shingle has the last one's."""
    tokens = np.array([1, 2, 3, 4, 1, 2, 9, 8, 7], np.uint8)
    assert repetition_weights(tokens, 4, shingle=2).tolist() == [(0.5 + 3) / 4, (0.5 + 3) / 4]
    assert repetition_weights(tokens[:8], 4, shingle=6).tolist() == [1.0, 1.0]
    for shingle in (0, 10):
        with pytest.raises(InvalidArgumentError, match="shingle"):
            repetition_weights(tokens, 4, shingle=shingle)
    with pytest.raises(InvalidArgumentError, match="shingle is 5"):
        window_signatures(tokens, 4, shingle=5)
