"""The presets, defined here once, and the whole run that starts from one.

Place in the data flow: between the tables of _config_tables.py and config_file.py, which lays a file and
overrides over a preset; the rest of the package imports these names from config.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pyhybrid._config_tables import (
    ConfigError,
    DataConfig,
    ModelConfig,
    TrainingConfig,
    check_table,
    unknown_name,
)

__all__ = ["PRESETS", "Preset", "RunConfig", "preset_config"]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that `pyhybrid train` needs.

    Args:
        preset: name of the preset that the values started from, a note only; None: none.
        model: shape and formats.
        training: the run.
        data: the text.

    Raises:
        ConfigError: the tables contradict each other, or `training` is the class of another kind of run.
    """

    preset: str | None = None
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    data: DataConfig = field(default_factory=DataConfig)

    def __post_init__(self) -> None:
        if self.preset is not None and self.preset not in PRESETS:
            raise ConfigError(f"preset = {self.preset!r}: {unknown_name(self.preset, PRESETS)}")
        check_table(self.training, TrainingConfig, "training")
        if self.training.context > self.model.max_context:
            raise ConfigError(
                f"training.context = {self.training.context}: the model has {self.model.max_context} "
                f"positions; give at most that, or set model.max_context={self.training.context}"
            )
        for name in ("dead_zone", "bits_target"):
            value = getattr(self.training, name)
            ternary = self.model.bits == 1.58 and self.model.threshold == "absmean"
            if value not in (None, 0.5) and not ternary:
                raise ConfigError(
                    f"training.{name} = {value:g}: it is of ternary weights; it needs model.bits=1.58 and "
                    f"model.threshold=absmean"
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


#: The presets, defined here once. Rates and radii are the optimiser's defaults, which were tuned for `small`.
PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="tiny",
            description="0.67 million parameters: the default run, minutes on two cores",
            model=ModelConfig(dim=128, n_layers=3, n_heads=4, ffn_dim=384, max_context=128),
            training=TrainingConfig(steps=400, batch_size=16, context=128),
        ),
        Preset(
            name="small",
            description="1.1 million parameters: small texts and experiments",
            model=ModelConfig(dim=128, n_layers=5, n_heads=4, ffn_dim=384, max_context=128),
            training=TrainingConfig(steps=600, batch_size=16, context=128),
        ),
        Preset(
            name="base",
            description="24 million parameters: books, hours on a desktop processor",
            model=ModelConfig(dim=512, n_layers=8, n_heads=8, ffn_dim=1280, max_context=512),
            training=TrainingConfig(steps=4000, batch_size=16, context=512),
        ),
        Preset(
            name="large",
            description="113 million parameters: a big text and a big machine",
            model=ModelConfig(dim=768, n_layers=16, n_heads=12, ffn_dim=2048, max_context=1024),
            training=TrainingConfig(
                steps=20000,
                batch_size=16,
                context=512,
                evaluation_interval=250,
                checkpoint_interval=250,
            ),
        ),
    )
}


def preset_config(name: str) -> RunConfig:
    """Returns the run of a preset by its name.

    Args:
        name: one of PRESETS.

    Raises:
        ConfigError: no preset has this name.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset = {name!r}: {unknown_name(name, PRESETS)}")
    return PRESETS[name].config
