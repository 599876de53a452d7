"""The batches of a run, as its configuration describes them: sampler, clusters, weights of windows.

Place in the data flow: the training split's tokens -> labels (_run_clusters.py) and weights of its windows
(window_features.py) -> a sampler (samplers.py) -> the batch of a step. The trainer and the benchmarks' runs
make their batches here. A batch is a function of the configuration, the text and the step, and, with
'loss_weighted', of the losses before it, which a checkpoint keeps.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyhybrid._context import Context
from pyhybrid._errors import InvalidArgumentError
from pyhybrid._run_clusters import N_FEATURES, WindowClusters, cluster_windows
from pyhybrid.batches import Tokens, windows_at
from pyhybrid.config import ConfigError, TrainingConfig
from pyhybrid.samplers import make_sampler
from pyhybrid.window_features import near_duplicate_weights

if TYPE_CHECKING:
    from pyhybrid.language_model import LanguageModel

__all__ = ["Batch", "RunBatches", "check_clusters"]

# Tokens of the runs by which windows are compared.
_SHINGLE = 8


class Batch(NamedTuple):
    """The sequences of a step.

    Args:
        tokens: uint32 [batch_size, context + 1]: inputs lack the last column, targets the first.
        windows: int64 [batch_size], the window of the text that each sequence is most of.
        cluster: the cluster of most of them; None without clusters.
        cluster_share: the same as a share of the number of clusters, 0.5 without clusters: what the
            auxiliary network is told.
    """

    tokens: NDArray[np.uint32]
    windows: NDArray[np.int64]
    cluster: int | None = None
    cluster_share: float = 0.5


def check_clusters(config: TrainingConfig, n_tokens: int) -> None:
    """Checks that a text has enough windows to be clustered.

    Args:
        config: the run.
        n_tokens: of the training split.

    Raises:
        ConfigError: more clusters than windows.
    """
    n_windows = n_tokens // config.context
    if config.data_clusters > n_windows:
        raise ConfigError(
            f"training.data_clusters = {config.data_clusters}: the training text has {n_windows} windows of "
            f"{config.context} tokens; give at most {n_windows} clusters, more text or a smaller "
            "training.context"
        )


class RunBatches:
    """Batches of a run.

    Args:
        tokens: uint8, uint16 or uint32 [n], the training split, n > config.context.
        config: the run.
        context: threads, on which nothing depends; None: the default context.
        state: of `state`, where a run goes on; None: it begins.
        progress: told how many windows have been clustered.

    Raises:
        ConfigError: more clusters than windows.
        DataError: the text is shorter than one window and a token.
        InvalidArgumentError: the state is not one of such a run.
    """

    def __init__(
        self,
        tokens: Tokens,
        config: TrainingConfig,
        *,
        context: Context | None = None,
        state: Mapping[str, Any] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        check_clusters(config, int(tokens.size))
        self._tokens, self._config = tokens, config
        #: What K-means found; None without clusters.
        self.clusters: WindowClusters | None = None
        if config.data_clusters:
            self.clusters = cluster_windows(
                tokens,
                config.context,
                config.data_clusters,
                seed=config.seed,
                context=context,
                centroids=_centroids(state, config.data_clusters) if state else None,
                progress=progress,
            )
        self.sampler = make_sampler(
            config.sampler,
            n_tokens=int(tokens.size),
            window=config.context,
            batch_size=config.batch_size,
            seed=config.seed,
            labels=None if self.clusters is None else self.clusters.labels,
            weights=self._weights(context),
        )
        if state:
            self.sampler.restore(state.get("sampler", {}))

    def _weights(self, context: Context | None) -> NDArray[np.float64] | None:
        """How often each window is to come; None: equally often."""
        config, weights = self._config, None
        if config.near_duplicates == "down_weight":
            weights = near_duplicate_weights(
                self._tokens, config.context, shingle=min(_SHINGLE, config.context), context=context
            )
        if self.clusters is not None and config.cluster_exponent != 1:
            labels = self.clusters.labels
            sizes = np.bincount(labels, weights)  # what duplicates count for
            wanted = np.where(sizes > 0, sizes, 1.0) ** (config.cluster_exponent - 1)
            weights = wanted[labels] * (1.0 if weights is None else weights)
        return weights

    def batch(self, step: int) -> Batch:
        """Returns the batch of a step; with 'loss_weighted' it depends on what was learned before.

        Args:
            step: at least 0.
        """
        plan = self.sampler.plan(step)
        tokens = windows_at(self._tokens, plan.starts, self._config.context)
        if self.clusters is None:
            return Batch(tokens, plan.windows)
        return Batch(tokens, plan.windows, plan.majority, plan.majority / self._config.data_clusters)

    def learn(self, batch: Batch, model: LanguageModel) -> None:
        """Tells the sampler the losses of a batch that was trained on.

        Args:
            batch: of `batch`.
            model: that was given the batch last.
        """
        self.sampler.update(batch.windows, model.sequence_losses(len(batch.windows)))

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint must keep, as JSON values."""
        kept: dict[str, Any] = {"sampler": self.sampler.state()}
        if self.clusters is not None:
            # Labels are a function of the centroids on every processor; where K-means ends is not.
            little = self.clusters.centroids.astype("<f4").tobytes()
            kept["centroids"] = base64.b64encode(little).decode("ascii")
        return kept


def _centroids(state: Mapping[str, Any], n_clusters: int) -> NDArray[np.float32]:
    try:
        raw = base64.b64decode(state["centroids"], validate=True)
        found = np.frombuffer(raw, "<f4").reshape(n_clusters, N_FEATURES).astype(np.float32)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise InvalidArgumentError(f"the state has no centroids of {n_clusters} clusters") from error
    return found
