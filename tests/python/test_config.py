"""Tests of pyhybrid.config: checks, presets, TOML files, overrides."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from pyhybrid.config import (
    BITS,
    PRESETS,
    ConfigError,
    DataConfig,
    ModelConfig,
    RunConfig,
    TrainingConfig,
    apply_overrides,
    differing_fields,
    from_dict,
    load_config,
    preset_config,
    to_dict,
)


def count_parameters(model: ModelConfig) -> int:
    """Parameters of a Llama-shaped model, from the shapes in include/hybrid/language_model.h."""
    kv_dim = model.dim // model.n_heads * model.kv_heads
    layer = 2 * model.dim**2 + 2 * model.dim * kv_dim + 3 * model.dim * model.ffn_dim + 2 * model.dim
    embeddings = model.vocab_size * model.dim * (1 if model.tied_embeddings else 2)
    return model.n_layers * layer + embeddings + model.dim


@pytest.mark.parametrize(
    ("name", "low", "high", "multiple"),
    [
        ("tiny", 0.5e6, 0.8e6, 64),
        ("small", 1.0e6, 1.2e6, 64),
        ("base", 22e6, 27e6, 256),
        ("large", 105e6, 118e6, 256),
    ],
)
def test_presets_have_the_documented_sizes(name: str, low: float, high: float, multiple: int) -> None:
    """Each preset has about the parameters that its description says, and dims that the kernels like."""
    model = PRESETS[name].model
    assert low < count_parameters(model) < high
    assert model.dim % multiple == 0
    assert model.ffn_dim % 64 == 0
    assert PRESETS[name].training.context <= model.max_context
    stated = float(PRESETS[name].description.split(" million")[0])
    assert count_parameters(model) / 1e6 == pytest.approx(stated, rel=0.03)


@pytest.mark.parametrize(
    ("field", "value", "hint"),
    [
        ("dim", 100, "96"),
        ("dim", 0, "from 2"),
        ("dim", 128.5, "whole number"),
        ("dim", True, "whole number"),
        ("n_heads", 0, "from 1"),
        ("n_kv_heads", 3, "[1, 2, 4]"),
        ("n_layers", 2000, "1024"),
        ("vocab_size", 2**24 + 1, "16777216"),
        ("rope_theta", 1, "above 1"),
        ("norm_epsilon", 0, "above 0"),
        ("norm_epsilon", float("nan"), "above 0"),
        ("activation", "silo", "did you mean 'silu'"),
        ("sub_norms", 1, "true or false"),
        ("bits", 3, "32, 8, 4, 2, 1.58, 1"),
        ("bits", "1.58", "32, 8, 4, 2, 1.58, 1"),
        ("scale", "group", "'tensor', 'row'"),
        ("threshold", "loyd", "did you mean 'lloyd'"),
    ],
)
def test_model_config_names_field_value_and_remedy(field: str, value: object, hint: str) -> None:
    """A wrong value raises an error that holds the field, the value and what would be right."""
    with pytest.raises(ConfigError) as caught:
        ModelConfig(**{field: value})  # type: ignore[arg-type]
    assert f"model.{field}" in str(caught.value)
    assert repr(value) in str(caught.value)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("minutes", 0),
        ("minutes", 0.001),
        ("batch_size", -1),
        ("context", "128"),
        ("learning_rate", -1e-3),
        ("learning_rate", float("inf")),
        ("beta1", 1.0),
        ("epsilon", 0.0),
        ("clip_norm", -1),
        ("schedule", "line"),
        ("warmup_fraction", 1.5),
        ("optimizer", "sgd"),
        ("trust_norm", "nuclear"),
        ("trust_radius", 0.0),
        ("trust_radius", 1.0),
        ("radius_rule", "guess"),
        ("radius_form", "cubed"),
        ("auxiliary_hidden_size", -1),
        ("hypergradient_weight", -0.5),
        ("momentum", 1.0),
        ("row_beta", -0.1),
        ("vector_ratio", float("nan")),
        ("backward", "int4"),
        ("seed", -1),
        ("threads", 0),
        ("threads", 257),
        ("log_interval", 0),
        ("evaluation_interval", -1),
    ],
)
def test_training_config_refuses_values_out_of_range(field: str, value: object) -> None:
    """Each field of a run is checked."""
    with pytest.raises(ConfigError, match=rf"training\.{field}"):
        TrainingConfig(**{field: value})  # type: ignore[arg-type]


def test_training_config_refuses_a_decay_longer_than_the_run() -> None:
    """Warm-up and decay of 'wsd' must fit into one run."""
    with pytest.raises(ConfigError, match="at most 0"):
        TrainingConfig(schedule="wsd", warmup_fraction=0.5, decay_fraction=0.6)


def test_defaults_depend_on_optimizer_and_width() -> None:
    """Rates of Adam's directions fall with the width, the spectral norm's do not; given values stay."""
    wide = ModelConfig(dim=512, n_heads=8)
    assert TrainingConfig(optimizer="adamw").for_model(ModelConfig()) == (2e-3, 0.3, 0.07)
    assert TrainingConfig(optimizer="adamw").for_model(wide).learning_rate == pytest.approx(5e-4)
    assert TrainingConfig().for_model(wide) == TrainingConfig().for_model(ModelConfig())
    assert TrainingConfig(trust_norm="rms").for_model(wide).learning_rate == pytest.approx(5e-4)
    given = TrainingConfig(learning_rate=0.3, weight_decay=0.2, trust_radius=0.1)
    assert given.for_model(wide) == (0.3, 0.2, 0.1)


def test_configs_take_keywords_only_and_are_frozen() -> None:
    """Positional arguments and assignments are refused."""
    with pytest.raises(TypeError):
        ModelConfig(256)  # type: ignore[call-arg]
    with pytest.raises(dataclasses.FrozenInstanceError):
        ModelConfig().dim = 64  # type: ignore[misc]


def test_n_kv_heads_defaults_to_n_heads() -> None:
    """Without grouped queries there are as many key heads as query heads, also after a change of n_heads."""
    assert ModelConfig(n_heads=8).n_kv_heads == 8
    assert ModelConfig(n_heads=8, n_kv_heads=2).kv_heads == 2
    assert apply_overrides(preset_config("tiny"), ["model.n_heads=8"]).model.n_kv_heads == 8
    grouped = apply_overrides(preset_config("tiny"), ["model.n_kv_heads=2"])
    assert apply_overrides(grouped, ["model.n_heads=8"]).model.n_kv_heads == 2


@pytest.mark.parametrize("bits", BITS)
def test_bits_are_kept_as_written(bits: float) -> None:
    """Every number format can be chosen, also through an override's text."""
    assert ModelConfig(bits=bits).bits == bits
    assert apply_overrides(RunConfig(), [f"model.bits={bits}"]).model.bits == bits


def test_context_beyond_the_model_is_refused() -> None:
    """A run cannot use more positions than the model has."""
    with pytest.raises(ConfigError, match=r"model\.max_context=512"):
        apply_overrides(preset_config("tiny"), ["training.context=512"])
    fitting = apply_overrides(preset_config("tiny"), ["training.context=512", "model.max_context=512"])
    assert fitting.training.context == 512


def test_overrides_parse_by_the_type_of_the_field() -> None:
    """Texts become numbers, flags, nothing, names and lists."""
    config = apply_overrides(
        preset_config("small"),
        [
            "training.steps=1e3",
            "training.minutes=2.5",
            "training.threads=2",
            "model.tied_embeddings=false",
            "scale=row",
            "data.paths=['a.txt', \"b c.txt\"]",
            "data.validation_fraction=.2",
        ],
    )
    assert config.training.steps == 1000
    assert config.training.minutes == 2.5
    assert config.training.threads == 2
    assert config.model.tied_embeddings is False
    assert config.model.scale == "row"
    assert config.data.paths == ("a.txt", "b c.txt")
    assert config.data.validation_fraction == 0.2
    assert config.preset == "small"
    assert apply_overrides(config, ["training.minutes=none"]).training.minutes is None
    assert apply_overrides(config, ["data.paths=x,y.txt"]).data.paths == ("x,y.txt",)


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("model.bit=4", "did you mean 'bits'"),
        ("modle.bits=4", "did you mean 'model'"),
        ("learning_rte=1", "did you mean 'learning_rate'"),
        ("training.steps", "table.field=value"),
        ("=3", "table.field=value"),
        ("training.steps=many", "whole number"),
        ("training.steps=1.5", "whole number"),
        ("training.learning_rate=fast", "a number"),
        ("model.sub_norms=maybe", "true or false"),
        ("data.paths=[1", "give a list"),
        ("model.bits=3", "choose one of"),
    ],
)
def test_overrides_refuse_what_they_do_not_know(override: str, hint: str) -> None:
    """An unknown name suggests the nearest, a wrong value says what is wanted."""
    with pytest.raises(ConfigError) as caught:
        apply_overrides(preset_config("tiny"), [override])
    assert hint in str(caught.value)


def test_toml_file_is_laid_over_its_preset(tmp_path: Path) -> None:
    """A file names a preset and changes some fields; the others stay the preset's."""
    path = tmp_path / "run.toml"
    path.write_text('preset = "small"\n[model]\nbits = 4\n[training]\nsteps = 7\n[data]\npaths = ["x.txt"]\n')
    config = load_config(path)
    assert (config.preset, config.model.bits, config.training.steps) == ("small", 4, 7)
    assert config.model.n_layers == PRESETS["small"].model.n_layers
    assert config.data.paths == ("x.txt",)
    assert load_config(path, preset_config("base")).model.n_layers == PRESETS["small"].model.n_layers


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[modell]\n", "did you mean 'model'"),
        ("[training]\nstep = 3\n", "did you mean 'steps'"),
        ("model = 3\n", "table of fields"),
        ("preset = 3\n", "name in quotes"),
        ('preset = "huge"\n', "unknown"),
        ("[training\n", "run.toml"),
        ("[model]\ndim = 'x'\n", "whole number"),
    ],
)
def test_toml_file_with_a_mistake_is_refused(tmp_path: Path, text: str, hint: str) -> None:
    """The message names the file, and the nearest known name."""
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert hint in str(caught.value)
    assert "run.toml" in str(caught.value)


def test_missing_config_file_is_a_clear_error(tmp_path: Path) -> None:
    """The path is in the message."""
    with pytest.raises(ConfigError, match=r"none\.toml"):
        load_config(tmp_path / "none.toml")


def test_round_trip_through_json(tmp_path: Path) -> None:
    """What to_dict writes, from_dict and load_config read back equal."""
    config = apply_overrides(preset_config("base"), ["bits=4", 'paths=["a", "b"]', "threads=2", "minutes=3"])
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"version": "0", **to_dict(config)}))
    assert load_config(path) == config
    assert from_dict(to_dict(RunConfig())) == RunConfig()


def test_later_steps_replace_an_earlier_time_budget() -> None:
    """The last of steps and minutes wins."""
    timed = apply_overrides(preset_config("tiny"), ["training.minutes=5"])
    assert apply_overrides(timed, ["training.steps=7"]).training.minutes is None
    assert from_dict({"training": {"steps": 7}}, timed).training.minutes is None
    assert apply_overrides(timed, ["training.batch_size=7"]).training.minutes == 5


def test_paths_take_one_or_many() -> None:
    """A single path is a list of one; numbers are not paths."""
    assert DataConfig(paths="a.txt").paths == ("a.txt",)  # type: ignore[arg-type]
    assert DataConfig(paths=[Path("a"), "b"]).paths == ("a", "b")  # type: ignore[arg-type]
    for wrong in (3, [3], [""]):
        with pytest.raises(ConfigError, match="list of paths"):
            DataConfig(paths=wrong)  # type: ignore[arg-type]


def test_absolute_paths_name_the_same_files_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths, patterns and '~' are laid down from the root; '-' and the built-in tokenizers are no paths."""
    import glob

    folder = tmp_path / "odd [name]"
    folder.mkdir()
    (folder / "a.txt").touch()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", "/home/someone")
    config = DataConfig(paths=("a.txt", "*.txt", "-", "/b/c", "~/d.txt")).absolute()
    plain, pattern, *rest = config.paths
    assert Path(plain) == folder / "a.txt"
    assert glob.glob(pattern) == [plain]
    assert rest == ["-", "/b/c", "/home/someone/d.txt"]
    assert config.tokenizer == "bytes"
    assert config.absolute() == config
    assert DataConfig(tokenizer="t.json").absolute().tokenizer == str(folder / "t.json")


def test_differing_fields_names_both_values() -> None:
    """Two configurations are compared field by field, but for those that do not matter."""
    first, second = TrainingConfig(), TrainingConfig(steps=7, threads=2)
    assert differing_fields(first, second) == ["training.steps: 400 and 7", "training.threads: None and 2"]
    assert differing_fields(first, second, ["threads"]) == ["training.steps: 400 and 7"]
    assert differing_fields(first, first) == []
