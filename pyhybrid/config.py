"""Every value that a user can set: the model's shape, the training run, the data; and the presets.

Place in the data flow: the command line and the caller build these objects; the model, the data loader and
the trainer read them. Each class checks itself when it is made, and an error says how to mend the value.
Values come from a preset, a TOML file with the tables [model], [training] and [data], and overrides such as
``training.steps=100``, in this order.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import operator
import os
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pyhybrid._errors import InvalidArgumentError

__all__ = [
    "BITS",
    "PRESETS",
    "ConfigError",
    "DataConfig",
    "ModelConfig",
    "Preset",
    "RunConfig",
    "TrainingConfig",
    "apply_overrides",
    "differing_fields",
    "from_dict",
    "load_config",
    "preset_config",
    "to_dict",
]

#: Bits of a matrix: 32 is fp32, 1.58 is ternary (log2 3), 1 is binary, the others are symmetric integers.
BITS: tuple[float, ...] = (32, 8, 4, 2, 1.58, 1)

Activation = Literal["silu", "squared_relu"]
Scale = Literal["tensor", "row"]
Threshold = Literal["absmean", "lloyd"]
Schedule = Literal["linear", "cosine", "wsd", "constant"]
Optimizer = Literal["adamw"]

_Table = TypeVar("_Table", bound="_Checked")


class ConfigError(InvalidArgumentError):
    """A configuration value is unknown or out of its range; the message says how to mend it."""


class _Checked:
    """Checks of one field each; the message starts with ``table.field = value``."""

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
class ModelConfig(_Checked):
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
        threshold: how the ternary scale is found, 'absmean' (BitNet b1.58) or 'lloyd' (least squares).
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


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(_Checked):
    """One training run: length, batch, optimiser, schedule, and what is written when.

    The defaults are AdamW's best of about 20 configurations for a byte-level ternary model at 400 steps of
    2,048 tokens; at 2,000 steps 4e-3 was the better rate.

    Args:
        steps: updates; each sees batch_size x context tokens.
        minutes: instead of steps: aim at this wall-clock time. The speed is measured before the first step,
            the number of steps is fixed then, and a resumed run keeps it.
        batch_size: sequences a step.
        context: tokens a sequence; at most the model's max_context.
        learning_rate: peak of the schedule.
        beta1: decay of AdamW's first moment.
        beta2: decay of AdamW's second moment.
        epsilon: added to the root of the second moment.
        weight_decay: decoupled, multiplied by the learning rate, on the layers' matrices only.
        clip_norm: gradients are scaled down to this Euclidean norm; 0 for no clipping.
        schedule: shape after warm-up: 'linear' or 'cosine' to final_ratio, 'constant', or 'wsd' (constant,
            then linear).
        warmup_fraction: share of the steps in which the rate rises from 0.
        final_ratio: rate at the end, as a share of learning_rate.
        decay_fraction: share of the steps in which 'wsd' decays.
        optimizer: 'adamw'.
        seed: of the initial weights and of the batches.
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
    learning_rate: float = 8e-3
    beta1: float = 0.8
    beta2: float = 0.99
    epsilon: float = 1e-8
    weight_decay: float = 1.0
    clip_norm: float = 1.0
    schedule: Schedule = "linear"
    warmup_fraction: float = 0.05
    final_ratio: float = 0.0
    decay_fraction: float = 0.2
    optimizer: Optimizer = "adamw"
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
        self._number("learning_rate", 0, 1e6)
        self._number("beta1", 0, 1, below_high=True)
        self._number("beta2", 0, 1, below_high=True)
        self._number("epsilon", 0, 1, above_low=True)
        self._number("weight_decay", 0, 1e6)
        self._number("clip_norm", 0, math.inf)
        self._choice("schedule", typing.get_args(Schedule))
        warmup = self._number("warmup_fraction", 0, 1)
        self._number("final_ratio", 0, 1)
        decay = self._number("decay_fraction", 0, 1)
        self._choice("optimizer", typing.get_args(Optimizer))
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

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one update sees."""
        return self.batch_size * self.context


@dataclass(frozen=True, kw_only=True)
class DataConfig(_Checked):
    """Where the text comes from and how it is split.

    Args:
        paths: files, folders, glob patterns, '-' for standard input, or .npy token arrays; none: the Python
            documentation text that comes with CPython.
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


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that `pyhybrid train` needs.

    Args:
        preset: name of the preset that the values started from, a note only; None: none.
        model: shape and formats.
        training: the run.
        data: the text.

    Raises:
        ConfigError: the tables contradict each other.
    """

    preset: str | None = None
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    data: DataConfig = field(default_factory=DataConfig)

    def __post_init__(self) -> None:
        if self.preset is not None and self.preset not in PRESETS:
            raise ConfigError(f"preset = {self.preset!r}: {_unknown(self.preset, PRESETS)}")
        if self.training.context > self.model.max_context:
            raise ConfigError(
                f"training.context = {self.training.context}: the model has {self.model.max_context} "
                f"positions; give at most that, or set model.max_context={self.training.context}"
            )


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A named model with the training run that suits it.

    Args:
        name: as given to --preset.
        description: one sentence.
        model: shape and formats.
        training: defaults of the run.
    """

    name: str
    description: str
    model: ModelConfig
    training: TrainingConfig

    @property
    def config(self) -> RunConfig:
        """The preset as a whole run on the embedded text."""
        return RunConfig(preset=self.name, model=self.model, training=self.training)


#: The presets, defined here once. The rate of `tiny` and `small` was tuned; those of the larger ones follow
#: the usual decrease with width.
PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="tiny",
            description="0.67 million parameters: the default run, minutes on two cores",
            model=ModelConfig(dim=128, n_layers=3, n_heads=4, ffn_dim=384, max_context=256),
            training=TrainingConfig(steps=400, batch_size=16, context=128),
        ),
        Preset(
            name="small",
            description="1.1 million parameters: small texts and experiments",
            model=ModelConfig(dim=128, n_layers=5, n_heads=4, ffn_dim=384, max_context=256),
            training=TrainingConfig(steps=600, batch_size=16, context=128),
        ),
        Preset(
            name="base",
            description="24 million parameters: books, hours on a desktop processor",
            model=ModelConfig(dim=512, n_layers=8, n_heads=8, ffn_dim=1280, max_context=512),
            training=TrainingConfig(steps=4000, batch_size=16, context=512, learning_rate=2e-3),
        ),
        Preset(
            name="large",
            description="113 million parameters: a big text and a big machine",
            model=ModelConfig(dim=768, n_layers=16, n_heads=12, ffn_dim=2048, max_context=1024),
            training=TrainingConfig(
                steps=20000,
                batch_size=16,
                context=512,
                learning_rate=1e-3,
                evaluation_interval=250,
                checkpoint_interval=250,
            ),
        ),
    )
}

_TABLES: dict[str, type[_Checked]] = {"model": ModelConfig, "training": TrainingConfig, "data": DataConfig}


def _unknown(name: str, known: Iterable[str]) -> str:
    """The hint of an unknown name: the nearest known one, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"unknown; did you mean {close[0]!r}?" if close else f"unknown; choose one of {', '.join(known)}"


def preset_config(name: str) -> RunConfig:
    """Returns the run of a preset by its name.

    Args:
        name: one of PRESETS.

    Raises:
        ConfigError: no preset has this name.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset = {name!r}: {_unknown(name, PRESETS)}")
    return PRESETS[name].config


def to_dict(config: Any) -> dict[str, Any]:
    """Turns a configuration (a RunConfig, or one of its tables) into plain values for JSON.

    Args:
        config: RunConfig, ModelConfig, TrainingConfig or DataConfig.

    Returns:
        Nested dictionaries; tuples become lists.
    """
    plain: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            value = to_dict(value)
        plain[item.name] = list(value) if isinstance(value, tuple) else value
    return plain


def from_dict(values: Mapping[str, Any], base: RunConfig | None = None) -> RunConfig:
    """Builds a run from plain values, as `to_dict` and TOML give them.

    Args:
        values: the tables 'model', 'training' and 'data', each with some or all of its fields, and 'preset'.
        base: gives the fields that are missing; None: the preset that `values` names, or 'tiny'.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: an unknown table or field, or a value out of its range.
    """
    for name in values:
        if name not in (*_TABLES, "preset"):
            raise ConfigError(f"{name!r}: {_unknown(name, (*_TABLES, 'preset'))}")
    preset = values.get("preset")
    if preset is not None and not isinstance(preset, str):
        raise ConfigError(f"preset = {preset!r}: give a name in quotes, one of {', '.join(PRESETS)}")
    if preset is not None and (base is None or preset != base.preset):
        base = preset_config(preset)
    elif base is None:
        base = preset_config("tiny")
    tables = {name: _merge(getattr(base, name), values.get(name, {})) for name in _TABLES}
    return RunConfig(preset=values.get("preset", base.preset), **tables)


def _merge(table: _Table, values: Any) -> _Table:
    """The table with some fields replaced, unknown ones refused."""
    name = table._table
    if not isinstance(values, Mapping):
        raise ConfigError(f"{name} = {values!r}: give a table of fields, as in [{name}]")
    known = [item.name for item in dataclasses.fields(table)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ConfigError(f"{name}.{key}: {_unknown(key, known)}")
    merged = {key: getattr(table, key) for key in known} | dict(values)
    if isinstance(table, ModelConfig) and "n_kv_heads" not in values and table.n_kv_heads == table.n_heads:
        merged["n_kv_heads"] = None  # "as many as n_heads" follows a change of n_heads
    if isinstance(table, TrainingConfig) and "steps" in values and "minutes" not in values:
        merged["minutes"] = None  # a number of steps replaces a time budget that came before
    return type(table)(**merged)


def load_config(path: str | os.PathLike[str], base: RunConfig | None = None) -> RunConfig:
    """Reads a TOML file with the tables [model], [training] and [data], and `preset = "name"` above them.

    Every table, field and the preset may be missing. A .json file as written beside a model (config.json) is
    read too.

    Args:
        path: the file.
        base: gives the fields that are missing; None: the file's preset, or 'tiny'.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or has an unknown or wrong value.
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{os.fspath(path)}: cannot be read ({error.strerror}); check the path") from error
    try:
        text = raw.decode("utf-8")
        values = json.loads(text) if Path(path).suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        raise ConfigError(f"{os.fspath(path)}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{os.fspath(path)}: give tables such as [model]")
    values.pop("version", None)  # config.json names the library that wrote it
    try:
        return from_dict(values, base)
    except ConfigError as error:
        raise ConfigError(f"{os.fspath(path)}: {error}") from error


def apply_overrides(config: RunConfig, overrides: Iterable[str]) -> RunConfig:
    """Replaces single fields, all at once, so that fields that belong together can be given in any order.

    Args:
        config: where the other fields come from.
        overrides: texts such as 'model.bits=4', 'training.minutes=none' or 'data.paths=["a.txt", "b.txt"]'; a
            field name that only one table has may stand alone ('bits=4').

    Returns:
        The checked configuration.

    Raises:
        ConfigError: a text without '=', an unknown field, or a value that is not of the field's type.
    """
    values: dict[str, dict[str, Any]] = {}
    for override in overrides:
        key, separator, text = override.partition("=")
        key = key.strip()
        if not separator or not key:
            raise ConfigError(f"{override!r}: write table.field=value, as in training.steps=100")
        table, name = _locate(key)
        values.setdefault(table, {})[name] = _parse(f"{table}.{name}", _hints(table)[name], text.strip())
    return from_dict(values, config)


def _hints(table: str) -> dict[str, Any]:
    """Types of a table's fields by name."""
    hints = typing.get_type_hints(_TABLES[table])
    return {item.name: hints[item.name] for item in dataclasses.fields(_TABLES[table])}  # type: ignore[arg-type]


def _locate(key: str) -> tuple[str, str]:
    """Splits 'table.field'; finds the table of a field that stands alone."""
    table, dot, name = key.partition(".")
    if not dot:
        tables = [known for known in _TABLES if key in _hints(known)]
        if len(tables) == 1:
            return tables[0], key
        fields = [item for known in _TABLES for item in _hints(known)]
        raise ConfigError(f"{key}: {_unknown(key, fields)}")
    if table not in _TABLES:
        raise ConfigError(f"{key}: table {table!r} is {_unknown(table, _TABLES)}")
    if name not in _hints(table):
        raise ConfigError(f"{key}: {_unknown(name, _hints(table))}")
    return table, name


def _parse(key: str, hint: Any, text: str) -> Any:
    """A value from its text by the field's type."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        if text.lower() in ("none", "null", ""):
            return None
        hint = next(option for option in typing.get_args(hint) if option is not type(None))
    if hint is bool:
        if text.lower() in ("true", "yes", "on", "1"):
            return True
        if text.lower() in ("false", "no", "off", "0"):
            return False
        raise ConfigError(f"{key} = {text!r}: give true or false")
    if hint is int:
        try:
            return int(text)
        except ValueError:
            pass
        try:
            number = float(text)  # 1e4 is a whole number, too
        except ValueError:
            number = math.nan
        if not math.isfinite(number) or number != int(number):
            raise ConfigError(f"{key} = {text!r}: give a whole number")
        return int(number)
    if hint is float:
        try:
            return float(text)
        except ValueError:
            raise ConfigError(f"{key} = {text!r}: give a number") from None
    if typing.get_origin(hint) is tuple:
        if not text.startswith("["):
            return (text,) if text else ()
        try:
            return tuple(tomllib.loads(f"value = {text}")["value"])
        except tomllib.TOMLDecodeError:
            raise ConfigError(f'{key} = {text!r}: give a list, as in ["a.txt", "b.txt"]') from None
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    return text


def differing_fields(first: Any, second: Any, ignore: Sequence[str] = ()) -> list[str]:
    """Names the fields in which two configurations of one class differ, with both values.

    Args:
        first: any configuration table.
        second: another one of the same class.
        ignore: field names that may differ.

    Returns:
        Texts such as 'model.dim: 128 and 256'; empty if they agree.
    """
    table = getattr(first, "_table", type(first).__name__)
    return [
        f"{table}.{item.name}: {getattr(first, item.name)!r} and {getattr(second, item.name)!r}"
        for item in dataclasses.fields(first)
        if item.name not in ignore and getattr(first, item.name) != getattr(second, item.name)
    ]
