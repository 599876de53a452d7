"""Which windows of a text make up a batch: uniform, by cluster, by loss, or each once an epoch.

Place in the data flow: labels of windows (any clustering), weights of windows (window_features.py) -> a
sampler -> starts of the windows of batch number `step` -> batches.py. A plan is a function of (seed, step)
alone, so that a resumed run needs no other cursor; only 'loss_weighted' has a state, a few numbers.
Window w is the tokens [w * window, (w + 1) * window); a sample of it is shifted by up to half a window, so
that text at its edges is learned in context as well.
Sources: Philox4x64-10, Salmon et al. 2011 (its raw output is fixed by the algorithm, while NumPy's derived
distributions may change between versions); Luby & Rackoff 1988 (permutations from keyed functions); Cochran
1977, "Sampling Techniques" (stratified and systematic sampling).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from pyhybrid._buffers import input_array
from pyhybrid._errors import InvalidArgumentError
from pyhybrid.text_sources import DataError

__all__ = [
    "SAMPLERS",
    "BatchPlan",
    "EpochSampler",
    "LossWeightedSampler",
    "Sampler",
    "SingleClusterSampler",
    "StratifiedSampler",
    "UniformSampler",
    "make_sampler",
]

# Second words of Philox's keys: they keep uses of the same seed apart (ASCII).
_BATCH_STREAM = 0x6261746368  # "batch": that of pyhybrid.batches
_SAMPLE_STREAM = 0x73616D706C65  # "sample"
_EPOCH_STREAM = 0x65706F6368  # "epoch"

_FEISTEL_ROUNDS = 6


def _raw(seed: int, stream: int, number: int, n: int) -> NDArray[np.uint64]:
    """n random 64-bit words of step or epoch `number`."""
    counter = np.array([0, number, 0, 0], np.uint64)  # the first word counts within a step
    key = np.array([seed, stream], np.uint64)
    return np.asarray(np.random.Philox(key=key, counter=counter).random_raw(n), np.uint64)


def _fractions(raw: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Words as numbers in [0, 1), multiples of 2^-53."""
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _below(raw: NDArray[np.uint64], n: int) -> NDArray[np.int64]:
    """Words as whole numbers below n, which is below 2^32."""
    return ((raw >> np.uint64(32)) * np.uint64(n) >> np.uint64(32)).astype(np.int64)


def _permute(places: NDArray[np.int64], n: int, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Images of places below n under a permutation of 0 .. n - 1: a Feistel network on the next power of
    four, applied again where it leads out of the range."""
    bits = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << bits) - np.uint64(1)
    x = places.astype(np.uint64)
    outside = np.arange(x.size)
    while outside.size:
        left, right = x[outside] >> bits, x[outside] & mask
        for key in keys:
            mixed = (right + key) * np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ mixed >> np.uint64(29)) * np.uint64(0xBF58476D1CE4E5B9)
            left, right = right, left ^ (mixed >> np.uint64(32) & mask)
        x[outside] = left << bits | right
        outside = outside[x[outside] >= n]
    return x.astype(np.int64)


class BatchPlan(NamedTuple):
    """The windows of a batch.

    Args:
        starts: place of each window's first token.
        clusters: int32 [batch_size], the cluster of each; -1 without labels.
        windows: int64 [batch_size], the number of the window that each is most of.
    """

    starts: list[int]
    clusters: NDArray[np.int32]
    windows: NDArray[np.int64]

    @property
    def majority(self) -> int:
        """The cluster with most windows, the smallest of several; -1 without labels."""
        return int(np.bincount(self.clusters).argmax()) if self.clusters[0] >= 0 else -1


class Sampler:
    """Base of the samplers: checks, and what they share.

    Args:
        n_tokens: length of the text, more than a window.
        window: tokens that a sequence predicts; a batch reads one token more of each.
        batch_size: sequences a batch.
        seed: of everything that is drawn.
        labels: int [n_tokens // window], the cluster of each window, from 0; None: no clusters.
        weights: float [n_tokens // window], how often each window is to occur by comparison, at least 0 and
            not all 0; None: equally often.
        jitter: shift windows by up to half their length; a uniform sampler without weights has no windows and
            takes any place.

    Raises:
        DataError: the text is shorter than one window and a token.
        InvalidArgumentError: a value out of its range or of the wrong shape.
    """

    #: Name in SAMPLERS.
    name: ClassVar[str] = ""
    _needs_labels: ClassVar[bool] = False

    def __init__(
        self,
        *,
        n_tokens: int,
        window: int,
        batch_size: int,
        seed: int = 0,
        labels: npt.ArrayLike | None = None,
        weights: npt.ArrayLike | None = None,
        jitter: bool = True,
    ) -> None:
        for value, what in ((window, "window"), (batch_size, "batch_size")):
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
                raise InvalidArgumentError(f"{what} is {value!r}; give a whole number of at least 1")
        if not isinstance(seed, int) or not 0 <= seed < 2**64:
            raise InvalidArgumentError(f"seed is {seed!r}; give a whole number from 0 to 2^64 - 1")
        if n_tokens < window + 1:
            raise DataError(f"{n_tokens} tokens are too few: a window of {window} needs {window + 1}")
        self.n_tokens, self.window, self.batch_size = n_tokens, window, batch_size
        self.seed, self.jitter = seed, jitter
        self.n_windows = n_tokens // window
        self.labels = self._check_labels(labels)
        self.weights = self._check_weights(weights)

    def _check_labels(self, labels: npt.ArrayLike | None) -> NDArray[np.int32] | None:
        if labels is None:
            if self._needs_labels:
                raise InvalidArgumentError(f"sampler {self.name!r} needs labels: the cluster of each window")
            return None
        array = input_array(labels, np.int32, "labels", (self.n_windows,))
        if array.min() < 0:
            raise InvalidArgumentError(f"labels holds {array.min()}; clusters are numbered from 0")
        return array

    def _check_weights(self, weights: npt.ArrayLike | None) -> NDArray[np.float64] | None:
        if weights is None:
            return None
        array = input_array(weights, np.float64, "weights", (self.n_windows,))
        if not np.isfinite(array).all() or array.min() < 0 or array.max() == 0:
            raise InvalidArgumentError("weights must be finite, at least 0, and not all 0")
        return array

    # ---- what a sampler offers ----

    def plan(self, step: int) -> BatchPlan:
        """Returns the windows of a batch and their clusters; the same whenever it is asked for.

        Args:
            step: number of the batch, at least 0.
        """
        windows = self._windows(step)
        return self._plan(windows, self._shifts(step))

    def starts(self, step: int) -> list[int]:
        """Returns the first token's place of each window of a batch, as `Batches.starts` does."""
        return self.plan(step).starts

    def update(self, windows: npt.ArrayLike, losses: npt.ArrayLike) -> None:
        """Tells the losses of windows that were trained on; most samplers do not look at them.

        Args:
            windows: int [n], of a plan.
            losses: float [n] or one for all, nats per token.
        """

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint must keep, as JSON values."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes the state of a checkpoint.

        Raises:
            InvalidArgumentError: the state of another sampler.
        """
        if state:
            raise InvalidArgumentError(f"sampler {self.name!r} has no state; got {sorted(state)}")

    # ---- what they share ----

    def _windows(self, step: int) -> NDArray[np.int64]:
        """Numbers of a batch's windows."""
        raise NotImplementedError

    def _shifts(self, step: int) -> NDArray[np.int64]:
        """Shift of each of a batch's windows, from -window // 2."""
        raw = self._words(step)[1 + self.batch_size :]
        return _below(raw, self.window) - self.window // 2 if self.jitter else np.zeros(raw.size, np.int64)

    def _words(self, step: int) -> NDArray[np.uint64]:
        """Random words of a batch: one for all, then one a window to choose it, and one to shift it."""
        return _raw(self.seed, _SAMPLE_STREAM, step, 1 + 2 * self.batch_size)

    def _choices(self, step: int) -> NDArray[np.float64]:
        return _fractions(self._words(step)[1 : 1 + self.batch_size])

    def _plan(self, windows: NDArray[np.int64], shifts: NDArray[np.int64]) -> BatchPlan:
        starts = np.clip(windows * self.window + shifts, 0, self.n_tokens - self.window - 1)
        return BatchPlan(starts.tolist(), self._clusters_of(windows), windows)

    def _clusters_of(self, windows: NDArray[np.int64]) -> NDArray[np.int32]:
        if self.labels is None:
            return np.full(windows.size, -1, np.int32)
        return self.labels[windows]


class _Cumulative:
    """Weighted windows in an order, as a line of which each takes a part of its weight's length."""

    def __init__(self, weights: NDArray[np.float64] | None, order: NDArray[np.int64]) -> None:
        self.order = order
        parts = np.ones(order.size) if weights is None else weights[order]
        self.ends = np.cumsum(parts)
        self.total = float(self.ends[-1])
        self._last = int(np.flatnonzero(parts)[-1])

    def at(self, places: NDArray[np.float64]) -> NDArray[np.int64]:
        """Windows at places from 0 to total."""
        found = np.searchsorted(self.ends, places, side="right")
        return self.order[np.minimum(found, self._last)]


class UniformSampler(Sampler):
    """Any place of the text with equal probability: what `Batches` does, bit for bit.

    With weights, windows with probabilities in proportion.
    """

    name = "uniform"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._line = None if self.weights is None else _Cumulative(self.weights, np.arange(self.n_windows))

    def _windows(self, step: int) -> NDArray[np.int64]:
        assert self._line is not None
        return self._line.at(self._choices(step) * self._line.total)

    def plan(self, step: int) -> BatchPlan:
        if self._line is not None:
            return super().plan(step)
        n_places = self.n_tokens - self.window
        raw = _raw(self.seed, _BATCH_STREAM, step, self.batch_size)
        # The high word of a 64 x 64 bit product is uniform over the places up to n_places / 2^64.
        starts = [(int(value) * n_places) >> 64 for value in raw]
        middles = np.array(starts, np.int64) + self.window // 2
        windows = np.minimum(middles // self.window, self.n_windows - 1)
        return BatchPlan(starts, self._clusters_of(windows), windows)


class _ClusterSampler(Sampler):
    """A sampler that draws by cluster: windows in the order of (cluster, key, place)."""

    _needs_labels = True

    def __init__(self, *, keys: npt.ArrayLike | None = None, **options: Any) -> None:
        super().__init__(**options)
        assert self.labels is not None
        order_keys: tuple[NDArray[Any], ...] = (self.labels,)
        if keys is not None:
            array = input_array(keys, np.float64, "keys", (self.n_windows,))
            if np.isnan(array).any():
                raise InvalidArgumentError("keys holds NaN, which has no place in an order")
            order_keys = (array, self.labels)
        self._line = _Cumulative(self.weights, np.lexsort(order_keys))
        n_clusters = int(self.labels.max()) + 1
        ends = np.append(0.0, self._line.ends)
        last = np.cumsum(np.bincount(self.labels, minlength=n_clusters))
        self._cluster_ends = ends[last]
        self._cluster_begins = np.append(0.0, self._cluster_ends[:-1])
        self._cluster_sizes = self._cluster_ends - self._cluster_begins

    def _within(self, clusters: Any, fractions: NDArray[np.float64]) -> NDArray[np.int64]:
        """Windows of clusters, by weight; rounding must not lead into the next cluster."""
        places = self._cluster_begins[clusters] + fractions * self._cluster_sizes[clusters]
        return self._line.at(np.minimum(places, np.nextafter(self._cluster_ends[clusters], 0.0)))


class StratifiedSampler(_ClusterSampler):
    """Each batch covers the clusters in proportion: one window from each of batch_size equal parts of all
    windows, ordered by cluster and then by a key.

    Args:
        keys: float [n_tokens // window], order within a cluster, for example a coordinate of the features;
            None: place in the text.
        options: those of `Sampler`.
    """

    name = "stratified"

    def _windows(self, step: int) -> NDArray[np.int64]:
        parts = (np.arange(self.batch_size) + self._choices(step)) / self.batch_size
        return self._line.at(parts * self._line.total)


class SingleClusterSampler(_ClusterSampler):
    """All windows of a batch come from one cluster, which is drawn by its size (weights included)."""

    name = "single"

    def _windows(self, step: int) -> NDArray[np.int64]:
        words = self._words(step)
        place = _fractions(words[:1])[0] * self._line.total
        cluster = min(
            int(np.searchsorted(self._cluster_ends, place, side="right")),
            int(np.flatnonzero(self._cluster_sizes)[-1]),
        )
        return self._within(np.full(self.batch_size, cluster), self._choices(step))


class LossWeightedSampler(_ClusterSampler):
    """Clusters whose loss is above the average are drawn more often, within bounds.

    A cluster's share is its size times exp(clip(sharpness (e - mean e), +-bound)) with e the exponential
    moving average of its losses. What is learned most of changes: an unweighted loss need not improve.

    Args:
        decay: of the moving averages, from 0 to below 1.
        sharpness: per nat.
        bound: of the exponent; 1: shares change by at most a factor of e either way.
        options: those of `Sampler` and `keys`.
    """

    name = "loss_weighted"

    def __init__(
        self, *, decay: float = 0.9, sharpness: float = 3.0, bound: float = 1.0, **options: Any
    ) -> None:
        super().__init__(**options)
        if not 0 <= decay < 1:
            raise InvalidArgumentError(f"decay is {decay!r}; give 0 to below 1")
        if not (0 <= sharpness < np.inf and 0 <= bound <= 10):
            raise InvalidArgumentError(
                f"sharpness is {sharpness!r}, bound {bound!r}; give 0 or more, and a bound of at most 10"
            )
        self.decay, self.sharpness, self.bound = decay, sharpness, bound
        self._losses = np.zeros(self._cluster_sizes.size)
        self._seen = np.zeros(self._cluster_sizes.size, np.int64)

    def factors(self) -> NDArray[np.float64]:
        """Returns the factor of each cluster's share; 1 while nothing is known about it."""
        seen = self._seen > 0
        if not seen.any():
            return np.ones(seen.size)
        excess = np.where(seen, self._losses - self._losses[seen].mean(), 0.0)
        return np.exp(np.clip(self.sharpness * excess, -self.bound, self.bound))

    def _windows(self, step: int) -> NDArray[np.int64]:
        ends = np.cumsum(self._cluster_sizes * self.factors())
        words = self._words(step)[1 : 1 + self.batch_size]
        # The word's upper half chooses the cluster, the lower half the window.
        upper, lower = words >> np.uint64(32), words & np.uint64(0xFFFFFFFF)
        found = np.searchsorted(ends, upper.astype(np.float64) * 2.0**-32 * ends[-1], side="right")
        clusters = np.minimum(found, np.flatnonzero(self._cluster_sizes)[-1])
        return self._within(clusters, lower.astype(np.float64) * 2.0**-32)

    def update(self, windows: npt.ArrayLike, losses: npt.ArrayLike) -> None:
        assert self.labels is not None
        numbers = input_array(windows, np.int64, "windows", (None,))
        values = np.asarray(losses, np.float64)
        if values.ndim > 1 or values.size not in (1, numbers.size) or not np.isfinite(values).all():
            raise InvalidArgumentError(
                f"losses has shape {list(values.shape)}; give a finite one for {numbers.size} windows"
            )
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < self.n_windows:
            raise InvalidArgumentError(f"windows are numbered from 0 to {self.n_windows - 1}")
        for cluster, value in zip(
            self.labels[numbers].tolist(), np.broadcast_to(values, numbers.shape).tolist(), strict=True
        ):
            old = self._losses[cluster] if self._seen[cluster] else value
            self._losses[cluster] = self.decay * old + (1 - self.decay) * value
            self._seen[cluster] += 1

    def state(self) -> dict[str, Any]:
        return {"losses": self._losses.tolist(), "seen": self._seen.tolist()}

    def restore(self, state: Mapping[str, Any]) -> None:
        try:
            losses, seen = np.array(state["losses"], np.float64), np.array(state["seen"], np.int64)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidArgumentError("the state is not one of a 'loss_weighted' sampler") from error
        if not losses.shape == seen.shape == self._losses.shape or not np.isfinite(losses).all():
            raise InvalidArgumentError(
                f"the state is of {losses.size} clusters; this sampler has {self._losses.size}"
            )
        self._losses, self._seen = losses, seen


class EpochSampler(Sampler):
    """Each window once an epoch, in an order that differs by epoch; all are shifted alike within an epoch.

    With weights an epoch has sum(weights) / max(weights) windows, and a window comes at most once an epoch,
    with probability weight / max(weights) (systematic sampling).
    """

    name = "epoch"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._line = _Cumulative(self.weights, np.arange(self.n_windows))
        #: Windows of an epoch.
        self.epoch_windows = self.n_windows
        if self.weights is not None:
            # Rounded down, so that the steps are no shorter than the largest weight.
            self.epoch_windows = max(1, int(self._line.total / float(self.weights.max()) + 1e-9))

    def epoch_of(self, step: int) -> int:
        """Returns the epoch of a batch's first window, from 0."""
        return step * self.batch_size // self.epoch_windows

    def plan(self, step: int) -> BatchPlan:
        if step < 0:
            raise InvalidArgumentError(f"step is {step}; give at least 0")
        numbers = step * self.batch_size + np.arange(self.batch_size, dtype=np.int64)
        windows, shifts = np.empty_like(numbers), np.zeros_like(numbers)
        epochs = numbers // self.epoch_windows
        for epoch in np.unique(epochs):
            here = epochs == epoch
            words = _raw(self.seed, _EPOCH_STREAM, int(epoch), 2 + _FEISTEL_ROUNDS)
            picks = _permute(numbers[here] - epoch * self.epoch_windows, self.epoch_windows, words[2:])
            windows[here] = picks
            if self.weights is not None:
                step_length = self._line.total / self.epoch_windows
                windows[here] = self._line.at((picks + _fractions(words[:1])) * step_length)
            if self.jitter:
                shifts[here] = _below(words[1:2], self.window) - self.window // 2
        return self._plan(windows, shifts)


#: The samplers by name.
SAMPLERS: dict[str, type[Sampler]] = {
    kind.name: kind
    for kind in (UniformSampler, StratifiedSampler, SingleClusterSampler, LossWeightedSampler, EpochSampler)
}


def make_sampler(name: str, **options: Any) -> Sampler:
    """Makes a sampler.

    Args:
        name: 'uniform', 'stratified', 'single', 'loss_weighted' or 'epoch'.
        options: arguments of its class; labels are ignored by samplers that need none, but for telling the
            clusters of a plan.

    Raises:
        InvalidArgumentError: an unknown name, or a value out of its range.
        DataError: the text is too short.
    """
    if name not in SAMPLERS:
        raise InvalidArgumentError(f"sampler is {name!r}; choose one of {', '.join(map(repr, SAMPLERS))}")
    try:
        return SAMPLERS[name](**options)
    except TypeError as error:
        raise InvalidArgumentError(f"sampler {name!r}: {error}") from error
