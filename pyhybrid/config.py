"""Every value that a user can set: the public home of the configuration's names.

    _config_tables.py   ModelConfig, TrainingConfig, DataConfig: the fields, and the checks of their values
    presets.py          PRESETS, and RunConfig, the whole run that starts from one
    config_file.py      TOML and JSON files, overrides such as ``training.steps=100``, plain dictionaries

Values come from a preset, a TOML file with the tables [model], [training] and [data], and overrides, in this
order. Place in the data flow: the command line and the caller build these objects; the model, the data loader
and the trainer read them.
"""

from __future__ import annotations

from pyhybrid._config_tables import BITS, ConfigError, DataConfig, ModelConfig, TrainingConfig
from pyhybrid.config_file import apply_overrides, differing_fields, from_dict, load_config, to_dict
from pyhybrid.presets import PRESETS, Preset, RunConfig, preset_config

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
