"""Configurations from and to text: TOML and JSON files, overrides of single fields, plain dictionaries.

Place in the data flow: the command line and `load_config` lay a file and overrides such as
``training.steps=100`` over a preset; config.json and the checkpoints hold what `to_dict` gives. The rest of
the package imports these names from config.py.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pyhybrid._config_tables import (
    CheckedTable,
    ConfigError,
    DataConfig,
    ModelConfig,
    TrainingConfig,
    unknown_name,
)
from pyhybrid.presets import PRESETS, RunConfig, preset_config

__all__ = ["apply_overrides", "differing_fields", "from_dict", "load_config", "to_dict"]

_Table = TypeVar("_Table", bound="CheckedTable")

_TABLES: dict[str, type[CheckedTable]] = {
    "model": ModelConfig,
    "training": TrainingConfig,
    "data": DataConfig,
}


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
            raise ConfigError(f"{name!r}: {unknown_name(name, (*_TABLES, 'preset'))}")
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
            raise ConfigError(f"{name}.{key}: {unknown_name(key, known)}")
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
    for note in ("version", "clusters"):  # config.json says which library wrote it, and what K-means found
        values.pop(note, None)
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
        raise ConfigError(f"{key}: {unknown_name(key, fields)}")
    if table not in _TABLES:
        raise ConfigError(f"{key}: table {table!r} is {unknown_name(table, _TABLES)}")
    if name not in _hints(table):
        raise ConfigError(f"{key}: {unknown_name(name, _hints(table))}")
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
