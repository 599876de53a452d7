"""The tables of a run's configuration: the model's shape, the training, the data; each checks itself.

Place in the data flow: below presets.py, which gives them values, and config_file.py, which reads them; the
rest of the package imports them from config.py. An error says how to mend the value.
"""

from __future__ import annotations

import dataclasses
import difflib
import glob
import math
import operator
import os
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pyhybrid._errors import InvalidArgumentError

__all__ = [
    "BITS",
    "CheckedTable",
    "ConfigError",
    "DataConfig",
    "ModelConfig",
    "TrainingConfig",
    "check_table",
    "unknown_name",
]


#: Bits of a matrix: 32 is fp32, 1.58 is ternary (log2 3), 1 is binary, the others are symmetric integers.
BITS: tuple[float, ...] = (32, 8, 4, 2, 1.58, 1)

Activation = Literal["silu", "squared_relu"]
Scale = Literal["tensor", "row"]
Threshold = Literal["absmean", "lloyd", "three_of_four"]
Schedule = Literal["linear", "cosine", "wsd", "constant"]
Optimizer = Literal["hybrid", "adamw"]
TrustNorm = Literal["spectral", "rms", "l2"]
RadiusRule = Literal["network", "adaptive", "fixed"]
RadiusForm = Literal["norm", "squared"]
Backward = Literal["int8", "fp32"]
ClusterRates = Literal["inverse_importance", "importance", "none"]
GradientCompression = Literal["none", "row", "block", "five_level"]
SamplerName = Literal["uniform", "stratified", "single", "loss_weighted", "epoch"]
NearDuplicates = Literal["keep", "down_weight"]
#: Bits of an optimiser's moment.
STATE_BITS = (32, 8)
#: Samplers that draw by cluster.
CLUSTER_SAMPLERS = ("stratified", "single", "loss_weighted")
#: Names that `DataConfig.tokenizer` may have; anything else is a path.
TOKENIZERS = ("bytes", "bpe")


class ConfigError(InvalidArgumentError):
    """A configuration value is unknown or out of its range; the message says how to mend it."""


def unknown_name(name: str, known: Iterable[str]) -> str:
    """The hint of an unknown name: the nearest known one, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"unknown; did you mean {close[0]!r}?" if close else f"unknown; choose one of {', '.join(known)}"


def check_table(value: object, table: type, name: str) -> None:
    """Refuses what is no table of a class; the documents' TrainingConfig has the same name as one here.

    Args:
        value: that was given.
        table: its class should be.
        name: of the argument.

    Raises:
        ConfigError: it is of another class.
    """
    if not isinstance(value, table):
        kind = type(value)
        raise ConfigError(
            f"{name} is a {kind.__module__}.{kind.__qualname__}; a language model takes a "
            f"pyhybrid.config.{table.__name__}"
        )


class CheckedTable:
    """Checks of one field each; the message starts with ``table.field = value``."""

    #: Name of the table in a file.
    _table = ""

    def _fail(self, name: str, rule: str) -> typing.NoReturn:
        raise ConfigError(f"{self._table}.{name} = {getattr(self, name)!r}: {rule}")

    def _integer(self, name: str, low: int, high: int) -> int:
        value = getattr(self, name)
        try:
            number = operator.index(value)
        except TypeError:
            self._fail(name, f"give a whole number from {low} to {high}")
        if isinstance(value, bool) or not low <= number <= high:
            self._fail(name, f"give a whole number from {low} to {high}")
        object.__setattr__(self, name, number)
        return number

    def _number(
        self, name: str, low: float, high: float, *, above_low: bool = False, below_high: bool = False
    ) -> float:
        value = getattr(self, name)
        left = f"above {low:g}" if above_low else f"from {low:g}"
        right = f"below {high:g}" if below_high else f"to {high:g}"
        rule = f"give a number {left} {right}" if math.isfinite(high) else f"give a number {left} up"
        if isinstance(value, (bool, str)):
            self._fail(name, rule)
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            self._fail(name, rule)
        if not math.isfinite(number) or number < low or number > high:
            self._fail(name, rule)
        if (above_low and number == low) or (below_high and number == high):
            self._fail(name, rule)
        object.__setattr__(self, name, number)
        return number

    def _flag(self, name: str) -> None:
        if not isinstance(getattr(self, name), bool):
            self._fail(name, "give true or false")

    def _choice(self, name: str, choices: Sequence[str]) -> None:
        value = getattr(self, name)
        if value not in choices:
            close = difflib.get_close_matches(str(value), choices, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            self._fail(name, f"choose one of {', '.join(map(repr, choices))}{hint}")

    def _bits(self, name: str) -> None:
        value = getattr(self, name)
        for bits in BITS:
            if not isinstance(value, (bool, str)) and value == bits:
                object.__setattr__(self, name, bits)
                return
        self._fail(name, f"choose one of {', '.join(f'{bits:g}' for bits in BITS)}; ternary weights are 1.58")


@dataclass(frozen=True, kw_only=True)
class ModelConfig(CheckedTable):
    """Shape and number formats of a Llama-shaped language model.

    Args:
        vocab_size: tokens in the vocabulary; 256 for bytes.
        dim: width of the residual stream; a multiple of n_heads.
        n_layers: decoder layers.
        n_heads: query heads; dim / n_heads must be even and at most 256.
        n_kv_heads: key and value heads, a divisor of n_heads; None becomes n_heads (no grouped queries). When
            n_heads is changed with dataclasses.replace, give this one too.
        ffn_dim: inner width of the gated feed-forward network.
        max_context: positions that the model can be run with.
        rope_theta: base of the rotary frequencies.
        norm_epsilon: added to the mean square in RMSNorm.
        activation: of the feed-forward gate; 'silu' makes it SwiGLU.
        sub_norms: RMSNorm before the attention output and the down projection, as BitNet b1.58 2B4T has them.
        tied_embeddings: the head is the embedding matrix.
        bits: of the layers' matrices, one of BITS.
        scale: what one weight scale covers, the whole 'tensor' or one output 'row'.
        threshold: how the ternary scale is found, 'absmean' (BitNet b1.58) or 'lloyd' (least squares); or
            'three_of_four': one zero in each four neighbours, stored in 1.25 bits a weight.
        embedding_bits: of embedding and head, one of BITS; one scale a row.

    Raises:
        ConfigError: a value is out of its range.
    """

    vocab_size: int = 256
    dim: int = 128
    n_layers: int = 4
    n_heads: int = 4
    n_kv_heads: int | None = None
    ffn_dim: int = 384
    max_context: int = 256
    rope_theta: float = 10000.0
    norm_epsilon: float = 1e-5
    activation: Activation = "silu"
    sub_norms: bool = False
    tied_embeddings: bool = True
    bits: float = 1.58
    scale: Scale = "tensor"
    threshold: Threshold = "absmean"
    embedding_bits: float = 8

    _table = "model"

    def __post_init__(self) -> None:
        self._integer("vocab_size", 1, 2**24)
        dim = self._integer("dim", 2, 65536)
        self._integer("n_layers", 1, 1024)
        n_heads = self._integer("n_heads", 1, 65536)
        if self.n_kv_heads is None:
            object.__setattr__(self, "n_kv_heads", n_heads)
        n_kv_heads = self._integer("n_kv_heads", 1, n_heads)
        self._integer("ffn_dim", 1, 65536)
        self._integer("max_context", 1, 2**20)
        self._number("rope_theta", 1, math.inf, above_low=True)
        self._number("norm_epsilon", 0, 1, above_low=True)
        self._choice("activation", typing.get_args(Activation))
        self._flag("sub_norms")
        self._flag("tied_embeddings")
        self._bits("bits")
        self._choice("scale", typing.get_args(Scale))
        self._choice("threshold", typing.get_args(Threshold))
        self._bits("embedding_bits")
        if self.threshold == "three_of_four" and (dim % 4 or self.ffn_dim % 4):
            self._fail("threshold", "'three_of_four' needs dim and ffn_dim to be multiples of 4")
        self._check_heads(dim, n_heads, n_kv_heads)

    def _check_heads(self, dim: int, n_heads: int, n_kv_heads: int) -> None:
        # A head must be even, because the rotation pairs its halves.
        unit = 2 * n_heads
        if dim % unit:
            nearest = max(unit, round(dim / unit) * unit)
            self._fail("dim", f"must be a multiple of 2 x n_heads ({unit}); the nearest is {nearest}")
        if dim // n_heads > 256:
            self._fail("n_heads", f"a head may be at most 256 wide; give at least {-(-dim // 256)} heads")
        if n_heads % n_kv_heads:
            divisors = [d for d in range(1, n_heads + 1) if n_heads % d == 0]
            self._fail("n_kv_heads", f"must divide n_heads ({n_heads}): one of {divisors}")

    @property
    def kv_heads(self) -> int:
        """Number of key and value heads, never None."""
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads


class FilledTraining(typing.NamedTuple):
    """Values of a TrainingConfig whose defaults depend on optimiser and model.

    Args:
        learning_rate: peak of the schedule.
        weight_decay: decoupled.
        trust_radius: at the start.
    """

    learning_rate: float
    weight_decay: float
    trust_radius: float


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(CheckedTable):
    """One training run: length, batch, optimiser, schedule, and what is written when.

    The defaults were chosen by validation loss on the preset `small`, 600 steps. Values of None
    depend on the optimiser and on the model's width: `for_model` fills them in.

    Args:
        steps: updates; each sees batch_size x context tokens.
        minutes: instead of steps: aim at this wall-clock time. The speed is measured before the first step,
            the number of steps is fixed then, and a resumed run keeps it. A run that takes more than 10 %
            longer all the same ends where it is, with a checkpoint and a note.
        batch_size: sequences a step.
        context: tokens a sequence; at most the model's max_context.
        learning_rate: peak of the schedule. None: 0.07 in the unit of the spectral norm, chosen at a
            width of 128; for AdamW and Adam's directions 2e-3 up to a width of 128, less in proportion
            above.
        beta1: decay of Adam's first moment.
        beta2: decay of Adam's second moment.
        epsilon: added to the root of the second moment.
        weight_decay: decoupled, multiplied by the learning rate, on the layers' matrices only. None: 0.03
            with the spectral norm, else 0.3.
        clip_norm: AdamW's gradients are scaled down to this Euclidean norm; 0 for no clipping.
        schedule: shape after warm-up: 'linear' or 'cosine' to final_ratio, 'constant', or 'wsd' (constant,
            then linear).
        warmup_fraction: share of the steps in which the rate rises from 0.
        final_ratio: rate at the end, as a share of learning_rate.
        decay_fraction: share of the steps in which 'wsd' decays.
        ramp_start: gradual ternarising, with ramp_end: the layers' matrices are trained as fp32 weights on
            int8 activations for this share of the steps; then their quantisation sets in linearly.
        ramp_end: share of the steps from which on they are trained fully quantised, as evaluations, model
            files and generation have them all the time. 0.5 and 0.9 are good values; both 0: quantised from
            the first step on. A step before ramp_end takes about 1.6 times as long (preset `small`).
        dead_zone: a layer's ternary weight is 0 up to this multiple of the mean magnitude; more of it makes
            more zeros, and fewer bits of entropy a weight. 0.5 is BitNet b1.58's rounding.
        bits_target: entropy in bits a ternary weight, above 0 and below 1.585, that the dead zone is
            regulated to in each update, beginning at dead_zone; None: it stays. Costs least with a ramp.
        optimizer: 'hybrid' (steps in a trust region whose rate and radius are under feedback) or 'adamw'.
        trust_norm: of the hybrid optimiser's region: 'spectral' (each matrix's largest singular value;
            steps along orthogonalised momentum), 'rms' (each tensor, relative to its own) or 'l2' (all
            parameters together); the last two with Adam's directions.
        trust_radius: that a run starts with and, with 'network', is pulled to. None: 0.07 with 'spectral',
            0.05 with 'rms', 1 with 'l2'.
        radius_rule: 'network' (the auxiliary network sets radius and rate), 'adaptive' (the radius grows by
            1 % where it did not shorten the step, and shrinks by 5 % where it did), or 'fixed'.
        radius_form: 'norm' bounds the norm of a change by the radius, 'squared' by its square.
        auxiliary_hidden_size: hidden units of the auxiliary network; 0: its answers follow the feedback
            alone, whatever the run's state.
        hypergradient_weight: of the cosine between gradient and last change in that feedback, against the
            pull to trust_radius; 0: it is not measured.
        momentum: decay of the matrices' momentum with the spectral norm.
        row_beta: decay of the mean squares by which a direction's rows are made equal with the spectral
            norm; 0: rows stay as they are.
        vector_ratio: rate of embedding and head as a multiple of the matrices' with the spectral norm.
        parameter_clusters: groups into which the rows of each of the layers' matrices are clustered, each
            with a learning rate of its own; 0: no clusters.
        cluster_rates: how that rate follows from the importance |w dL/dw| of a cluster's rows, by the root of
            its ratio to the matrix's: 'inverse_importance', 'importance', or 'none' (clusters are measured
            only).
        cluster_rate_interval: steps after which clusters and rates are made anew.
        gradient_compression: the layers' matrices are updated from compressed gradients with error feedback,
            as machines that train together would exchange them: ternary codes with a scale a 'row' or a
            'block' of 64, or 'five_level' codes; 'none': as they are.
        backward: arithmetic of the quantised layers' gradient products: 'int8' (integer products of
            quantised gradients), or 'fp32' (slower).
        state_bits: of each moment that the optimiser keeps of a parameter: 32, or 8 with a scale for each 256
            values, which takes a quarter of the memory.
        sampler: which windows of the text make up a batch: 'epoch' (each window once before any comes again,
            in a new order and from new places each time), 'uniform' (any place), and by cluster:
            'stratified' (each batch covers the clusters in proportion), 'single' (a batch is of one cluster)
            or 'loss_weighted' (clusters with more than the average loss come more often).
        data_clusters: clusters of the training text's windows, found by K-means when a run begins; 0: none.
            The three samplers by cluster need at least 2; with any sampler the auxiliary network is told
            which cluster most of a batch is of.
        cluster_exponent: a cluster of n windows comes in proportion to n to this power: 1: as often as it is
            in the text; 0: each cluster equally often.
        near_duplicates: 'keep', or 'down_weight': windows that share half of their runs of eight tokens, and
            windows that do so with one of these, together come as often as one window.
        seed: of the initial weights, of the batches and of K-means.
        threads: that compute; None: what the model's context has. The result does not depend on it.
        evaluation_interval: steps between validations; 0: only at the end.
        evaluation_tokens: most validation tokens a validation; 0: all of them.
        checkpoint_interval: steps between checkpoints; 0: only at the end and on a signal.
        log_interval: steps between lines of the metrics file.

    Raises:
        ConfigError: a value is out of its range.
    """

    steps: int = 400
    minutes: float | None = None
    batch_size: int = 16
    context: int = 128
    learning_rate: float | None = None
    beta1: float = 0.8
    beta2: float = 0.99
    epsilon: float = 1e-8
    weight_decay: float | None = None
    clip_norm: float = 1.0
    schedule: Schedule = "linear"
    warmup_fraction: float = 0.05
    final_ratio: float = 0.0
    decay_fraction: float = 0.2
    ramp_start: float = 0.0
    ramp_end: float = 0.0
    dead_zone: float = 0.5
    bits_target: float | None = None
    optimizer: Optimizer = "hybrid"
    trust_norm: TrustNorm = "spectral"
    trust_radius: float | None = None
    radius_rule: RadiusRule = "network"
    radius_form: RadiusForm = "norm"
    auxiliary_hidden_size: int = 16
    hypergradient_weight: float = 0.0
    momentum: float = 0.8
    row_beta: float = 0.0
    vector_ratio: float = 0.32
    parameter_clusters: int = 0
    cluster_rates: ClusterRates = "inverse_importance"
    cluster_rate_interval: int = 50
    gradient_compression: GradientCompression = "none"
    backward: Backward = "int8"
    state_bits: int = 32
    sampler: SamplerName = "epoch"
    data_clusters: int = 0
    cluster_exponent: float = 1.0
    near_duplicates: NearDuplicates = "keep"
    seed: int = 0
    threads: int | None = None
    evaluation_interval: int = 100
    evaluation_tokens: int = 65536
    checkpoint_interval: int = 100
    log_interval: int = 1

    _table = "training"

    def __post_init__(self) -> None:
        self._integer("steps", 1, 2**53)
        if self.minutes is not None:
            self._number("minutes", 0, math.inf, above_low=True)
        self._integer("batch_size", 1, 2**20)
        self._integer("context", 1, 2**20)
        if self.learning_rate is not None:
            self._number("learning_rate", 0, 1e6)
        self._number("beta1", 0, 1, below_high=True)
        self._number("beta2", 0, 1, below_high=True)
        self._number("epsilon", 0, 1, above_low=True)
        if self.weight_decay is not None:
            self._number("weight_decay", 0, 1e6)
        self._number("clip_norm", 0, math.inf)
        self._choice("schedule", typing.get_args(Schedule))
        warmup = self._number("warmup_fraction", 0, 1)
        self._number("final_ratio", 0, 1)
        decay = self._number("decay_fraction", 0, 1)
        self._check_ramp()
        self._choice("optimizer", typing.get_args(Optimizer))
        self._check_trust_region()
        self._integer("parameter_clusters", 0, 65536)
        self._choice("cluster_rates", typing.get_args(ClusterRates))
        self._integer("cluster_rate_interval", 1, 2**53)
        self._choice("gradient_compression", typing.get_args(GradientCompression))
        self._choice("backward", typing.get_args(Backward))
        if isinstance(self.state_bits, bool) or self.state_bits not in STATE_BITS:
            self._fail("state_bits", "give 32 or 8")
        self._integer("state_bits", 8, 32)
        self._check_sampler()
        self._integer("seed", 0, 2**64 - 1)
        if self.threads is not None:
            self._integer("threads", 1, 256)
        for name in ("evaluation_interval", "evaluation_tokens", "checkpoint_interval"):
            self._integer(name, 0, 2**53)
        self._integer("log_interval", 1, 2**53)
        if self.schedule == "wsd" and warmup + decay > 1:
            rule = f"with warmup_fraction = {warmup:g} it must be at most {1 - warmup:g}"
            self._fail("decay_fraction", rule)
        if self.minutes is not None and self.minutes * 60 < 1:
            self._fail("minutes", "give at least one second (0.02), or use steps")

    def _check_ramp(self) -> None:
        start = self._number("ramp_start", 0, 1, below_high=True)
        end = self._number("ramp_end", 0, 1)
        if end <= start and (start, end) != (0, 0):
            self._fail("ramp_end", f"must be above ramp_start = {start:g}, or both 0 for no ramp")
        self._number("dead_zone", 0, 4, above_low=True)
        if self.bits_target is not None:
            self._number("bits_target", 0, math.log2(3), above_low=True, below_high=True)

    def _check_trust_region(self) -> None:
        self._choice("trust_norm", typing.get_args(TrustNorm))
        self._choice("radius_rule", typing.get_args(RadiusRule))
        self._choice("radius_form", typing.get_args(RadiusForm))
        if self.trust_radius is not None:
            # The auxiliary network's answers lie between these.
            low, high = (0.001, 1.0) if self.radius_rule == "network" else (0.0, 1e6)
            self._number("trust_radius", low, high, above_low=True, below_high=True)
        self._integer("auxiliary_hidden_size", 0, 4096)
        self._number("hypergradient_weight", 0, 1e3)
        self._number("momentum", 0, 1, below_high=True)
        self._number("row_beta", 0, 1, below_high=True)
        self._number("vector_ratio", 0, 1e6)

    def _check_sampler(self) -> None:
        self._choice("sampler", typing.get_args(SamplerName))
        clusters = self._integer("data_clusters", 0, 2**24)
        if clusters == 1:
            self._fail("data_clusters", "one cluster is the whole text; give 0 for none, or at least 2")
        if clusters == 0 and self.sampler in CLUSTER_SAMPLERS:
            self._fail("sampler", "it draws by cluster; set training.data_clusters, to 8 for example")
        if self._number("cluster_exponent", 0, 1) != 1 and clusters == 0:
            self._fail("cluster_exponent", "there are no clusters; set training.data_clusters, or leave it 1")
        self._choice("near_duplicates", typing.get_args(NearDuplicates))

    def for_model(self, model: ModelConfig) -> FilledTraining:
        """Returns the values that depend on optimiser and width, with defaults filled in.

        Args:
            model: gives the width.
        """
        spectral = self.optimizer == "hybrid" and self.trust_norm == "spectral"
        rate = 0.07 if spectral else 2e-3 * min(1.0, 128 / model.dim)
        radius = {"spectral": 0.07, "rms": 0.05, "l2": 1.0}[self.trust_norm]
        if self.radius_rule == "network":
            radius = min(radius, 0.5)
        return FilledTraining(
            learning_rate=rate if self.learning_rate is None else self.learning_rate,
            weight_decay=(0.03 if spectral else 0.3) if self.weight_decay is None else self.weight_decay,
            trust_radius=radius if self.trust_radius is None else self.trust_radius,
        )

    @property
    def model_optimizer(self) -> str:
        """`LanguageModel.prepare`'s name of the optimiser."""
        return "adamw" if self.optimizer == "adamw" else self.trust_norm

    @property
    def initial_ternary_blend(self) -> float:
        """`LanguageModel.prepare`'s ternary blend: 0 with a ramp, 1 without."""
        return 0.0 if self.ramp_end > 0 else 1.0

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one update sees."""
        return self.batch_size * self.context


@dataclass(frozen=True, kw_only=True)
class DataConfig(CheckedTable):
    """Where the text comes from and how it is split.

    Args:
        paths: files, folders, glob patterns, '-' for standard input, or .npy token arrays; none: the Python
            documentation text that comes with CPython. A run stores them as absolute paths.
        validation_fraction: the last share of the text, which is not trained on; 0 for none.
        tokenizer: 'bytes', 'bpe' (trained on the training text, model.vocab_size tokens; needs the
            `tokenizers` package), or the path of a tokenizer.json.

    Raises:
        ConfigError: a value is out of its range.
    """

    paths: tuple[str, ...] = ()
    validation_fraction: float = 0.1
    tokenizer: str = "bytes"

    _table = "data"

    def __post_init__(self) -> None:
        value: Any = self.paths
        if isinstance(value, (str, os.PathLike)):
            value = (value,)
        if not isinstance(value, Sequence) or not all(
            isinstance(p, (str, os.PathLike)) and str(p) for p in value
        ):
            self._fail("paths", 'give a list of paths, as in ["book.txt", "notes/"]')
        object.__setattr__(self, "paths", tuple(os.fspath(path) for path in value))
        self._number("validation_fraction", 0, 1, below_high=True)
        if not isinstance(self.tokenizer, str) or not self.tokenizer:
            self._fail("tokenizer", "give 'bytes', 'bpe' or the path of a tokenizer.json")

    def absolute(self) -> DataConfig:
        """Returns the same with absolute paths, which name the same files from any working folder.

        '-' and the tokenizers 'bytes' and 'bpe' stay as they are; '~' is replaced.
        """
        tokenizer = self.tokenizer if self.tokenizer in TOKENIZERS else _absolute_path(self.tokenizer)
        paths = tuple(path if path == "-" else _absolute_path(path) for path in self.paths)
        return dataclasses.replace(self, paths=paths, tokenizer=tokenizer)


def _absolute_path(path: str) -> str:
    """The path or glob pattern from the root; the working folder's name is no part of the pattern."""
    path = os.path.expanduser(path)
    folder = os.getcwd()
    if glob.has_magic(path) and not os.path.exists(path):
        folder = glob.escape(folder)
    return str(Path(folder, path))  # keeps '..', which may stand behind a link
