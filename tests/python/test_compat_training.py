"""The documents' TrainingConfig and TrainingMetrics: both sets of fields, and no mixing up of two classes."""

from __future__ import annotations

import dataclasses
import inspect

import numpy as np
import pytest

import pyhybrid
from pyhybrid import InvalidArgumentError, LanguageModel, RunConfig, Trainer, TrainingConfig, TrainingMetrics
from pyhybrid import config as canonical

DEFAULTS = {
    "use_quantization": True,
    "quantize_weights": True,
    "quantize_gradients": True,
    "quantizer_scale": 1.0,
    "target_bits": 1.58,
    "use_clustering": True,
    "data_clusters": 8,
    "parameter_clusters": 4,
    "base_learning_rate": 0.001,
    "max_steps": 1000,
    "max_epochs": None,
    "batch_size": 32,
    "use_adaptive_lr": True,
    "use_auxiliary_nn": True,
    "auxiliary_nn_hidden_size": 16,
    "use_trust_region": True,
    "initial_trust_radius": 0.01,
    "log_interval": 10,
    "eval_interval": 50,
    "checkpoint_dir": None,
}
ALIASES = {"learning_rate": "base_learning_rate", "n_clusters": "data_clusters", "precision": "target_bits"}


def test_compat_config_has_the_documented_defaults():
    """Every field of both documents with its default, readable under both names, and described."""
    config = TrainingConfig()
    assert {f.name: getattr(config, f.name) for f in dataclasses.fields(config)} == DEFAULTS
    for alias, name in ALIASES.items():
        assert getattr(config, alias) == DEFAULTS[name]
    described = inspect.getdoc(TrainingConfig)
    for name in (*DEFAULTS, *ALIASES):
        assert f"    {name}: " in described


def test_compat_config_takes_both_sets_of_fields():
    """The blocks of the documents; equal values under two names; copies; equality."""
    config = TrainingConfig(
        batch_size=32, learning_rate=0.01, max_epochs=10, n_clusters=10, quantize_weights=True,
        quantize_gradients=True, use_adaptive_lr=True, checkpoint_dir="ckpt",
    )  # fmt: skip
    assert config.base_learning_rate == config.learning_rate == 0.01
    assert config.data_clusters == config.n_clusters == 10
    assert TrainingConfig(precision=4).target_bits == 4
    assert TrainingConfig(learning_rate=0.1, base_learning_rate=0.1) == TrainingConfig(learning_rate=0.1)
    assert dataclasses.replace(config, batch_size=4).learning_rate == 0.01
    assert repr(config).startswith("TrainingConfig(use_quantization=True")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.batch_size = 3


@pytest.mark.parametrize(
    ("given", "steps", "epochs"),
    [({}, 1000, None), ({"max_epochs": 5}, None, 5), ({"max_steps": 7}, 7, None),
     ({"max_steps": 7, "max_epochs": 5}, 7, 5)],
)  # fmt: skip
def test_compat_config_length_is_what_was_given(given, steps, epochs):
    """1000 steps by default; epochs alone set no limit of steps; both stand together."""
    config = TrainingConfig(**given)
    assert (config.max_steps, config.max_epochs) == (steps, epochs)


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_compat_config_refuses_contradictions(alias, name):
    """Two names of one field with different values: an error with both; also a ValueError."""
    values = {alias: 4, name: 2}
    with pytest.raises(ValueError, match=f"{alias}=4 and {name}=2"):
        TrainingConfig(**values)


def test_compat_config_refuses_unknown_names():
    """A TypeError with the nearest name, or with the class that has the field."""
    with pytest.raises(TypeError, match=r"no field 'learnin_rate': unknown; did you mean 'learning_rate'\?"):
        TrainingConfig(learnin_rate=0.1)
    with pytest.raises(TypeError, match=r"'warmup_fraction' is a field of pyhybrid.config.TrainingConfig"):
        TrainingConfig(warmup_fraction=0.1)
    with pytest.raises(TypeError):
        TrainingConfig(0.1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "yes") for name, value in DEFAULTS.items() if isinstance(value, bool)),
        *((name, 0) for name in ("max_steps", "max_epochs", "batch_size", "data_clusters", "log_interval")),
        *((name, 1.5) for name in ("max_steps", "eval_interval", "parameter_clusters")),
        *((name, float("nan")) for name in ("base_learning_rate", "quantizer_scale", "initial_trust_radius")),
        ("learning_rate", -1),
        ("initial_trust_radius", 1.0),
        ("initial_trust_radius", 0.0001),
        ("target_bits", 3),
        ("auxiliary_nn_hidden_size", 0),
        ("checkpoint_dir", 5),
    ],
)
def test_compat_config_refuses_values(name, value):
    """A value out of its range is an error that names the field."""
    with pytest.raises(canonical.ConfigError, match=f"TrainingConfig.{ALIASES.get(name, name)} = "):
        TrainingConfig(**{name: value})


# ---- two classes of one name ----


def test_compat_config_is_not_a_language_models(model: LanguageModel):
    """A language model's run refuses the documents' class, and the other way round, by name."""
    assert pyhybrid.TrainingConfig is TrainingConfig
    assert canonical.TrainingConfig is not TrainingConfig
    for call in (
        lambda: RunConfig(training=TrainingConfig()),
        lambda: Trainer(model, b"some text " * 100, TrainingConfig()),
    ):
        with pytest.raises(canonical.ConfigError, match=r"takes a pyhybrid.config.TrainingConfig"):
            call()
    with pytest.raises(canonical.ConfigError, match=r"give a pyhybrid.TrainingConfig"):
        TrainingConfig.of(canonical.TrainingConfig())
    with pytest.raises(canonical.ConfigError, match="config is dict"):
        TrainingConfig.of({})
    given = TrainingConfig(batch_size=3)
    assert TrainingConfig.of(given) is given
    assert TrainingConfig.of(None) == TrainingConfig()


def test_compat_config_does_not_resume_a_language_models_run(model: LanguageModel, tmp_path):
    """Resuming with the documents' class is refused as well."""
    run = canonical.TrainingConfig(steps=1, batch_size=2, context=16)
    Trainer(model, b"some text " * 100, run, out=tmp_path, progress=False).train()
    with pytest.raises(canonical.ConfigError, match=r"takes a pyhybrid.config.TrainingConfig"):
        Trainer.resume(tmp_path, b"some text " * 100, TrainingConfig())


# ---- metrics ----


def test_compat_metrics_have_nine_figures():
    """All zero at first; to_dict gives the nine, without the history."""
    metrics = TrainingMetrics()
    assert metrics.to_dict() == {
        "step": 0,
        "loss": 0.0,
        "loss_reduction": 0.0,
        "gradient_magnitude": 0.0,
        "update_magnitude": 0.0,
        "quantization_error": 0.0,
        "constraint_active": False,
        "learning_rate": 0.0,
        "time_elapsed": 0.0,
    }
    assert metrics.metrics_history == {}
    assert TrainingMetrics(3, 0.5).loss == 0.5


def test_compat_metrics_record():
    """Values go to the history; a known figure becomes the current one; anything but numbers is refused."""
    metrics = TrainingMetrics()
    for loss in (2.0, np.float32(1.5)):
        metrics.record("loss", loss)
    metrics.record("constraint_active", np.True_)
    metrics.record("mine", 3)
    assert metrics.metrics_history == {"loss": [2.0, 1.5], "constraint_active": [True], "mine": [3]}
    assert (metrics.loss, metrics.constraint_active) == (1.5, True)
    assert "mine" not in metrics.to_dict()
    assert TrainingMetrics().metrics_history == {}
    for bad in ("1", None, [1.0], 1j):
        with pytest.raises(InvalidArgumentError, match="record numbers"):
            metrics.record("loss", bad)
