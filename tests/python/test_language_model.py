"""The model through Python: bits against the reference, training, files, generation, views, bad inputs."""

from __future__ import annotations

import gc
import json
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from conftest import TEXT, TIERS, small_config, tier_available

import pyhybrid as ph
from pyhybrid import Context, LanguageModel, ModelConfig
from pyhybrid import _reference as reference

CONFIGS = {
    "ternary": {},
    "rows-lloyd": {"scale": "row", "threshold": "lloyd"},
    "sub-norms-relu2": {"sub_norms": True, "activation": "squared_relu"},
    "untied": {"tied_embeddings": False, "n_kv_heads": 4},
    "one-head": {"n_heads": 1, "n_kv_heads": 1, "dim": 34, "ffn_dim": 50, "vocab_size": 61},
    "fp32": {"bits": 32, "embedding_bits": 32},
    "fp32-sub-norms": {"bits": 32, "sub_norms": True},
    "ternary-embedding": {"embedding_bits": 1.58},
    "int8": {"bits": 8},
    "int4-rows": {"bits": 4, "scale": "row"},
    "int2": {"bits": 2},
    "binary": {"bits": 1, "embedding_bits": 4},
}


def decoder(model: LanguageModel, **options: Any) -> reference.Decoder:
    """The reference of a trainable model."""
    weights = {name: parameter.values for name, parameter in model.parameters().items()}
    return reference.Decoder(model.config, weights, **options)


def batch_of(
    config: ModelConfig, rng: np.random.Generator, n: int = 3, length: int = 12
) -> np.ndarray[Any, Any]:
    """Random tokens uint32 [n, length + 1]."""
    return rng.integers(0, config.vocab_size, (n, length + 1)).astype(np.uint32)


def successor_model(cycle: bytes, context: Context | None = None) -> LanguageModel:
    """A model whose most likely next token is the next byte of a cycle of distinct bytes."""
    config = ModelConfig(
        dim=256,
        n_layers=1,
        n_heads=1,
        ffn_dim=16,
        max_context=64,
        tied_embeddings=False,
        bits=32,
        embedding_bits=32,
    )
    model = LanguageModel(config, context=context)
    parameters = model.parameters()
    for name, parameter in parameters.items():
        if parameter.shape[0] > 1 and parameter.values is not None:
            parameter.values[...] = np.eye(256) if name == "embedding" else 0
    head = parameters["head"].values
    assert head is not None
    for here, following in zip(cycle, cycle[1:] + cycle[:1], strict=True):
        head[following, here] = 10
    model.touch()
    return model


# ---- arithmetic ----


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_reference_bit_for_bit(name: str, rng: np.random.Generator) -> None:
    """Every float between tokens and logits has the bits that the NumPy reference gives."""
    model = LanguageModel(small_config(**CONFIGS[name]), seed=5)
    for parameter in model.parameters().values():
        if parameter.shape[0] == 1 and parameter.values is not None:  # gains that do something
            parameter.values[...] = rng.uniform(0.5, 1.5, parameter.shape)
    model.touch()
    tokens = rng.integers(0, model.config.vocab_size, 23)
    got, expected = model.logits(tokens), decoder(model).logits(tokens)
    assert np.array_equal(got.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("name", CONFIGS)
def test_loss_equals_reference(name: str, rng: np.random.Generator) -> None:
    """The summed cross-entropy is the reference's, to the accuracy of the library's exp."""
    model = LanguageModel(small_config(**CONFIGS[name]), seed=6)
    rows = batch_of(model.config, rng)
    expected = sum(float(reference.cross_entropy(decoder(model).logits(r[:-1]), r[1:]).sum()) for r in rows)
    assert model.loss_sum(rows) == pytest.approx(expected, rel=1e-6)


def test_effective_weights_equal_reference(model: LanguageModel) -> None:
    """`effective` gives scale * code of the reference's quantiser, and gains as they are."""
    for name, parameter in model.parameters().items():
        expected = parameter.values
        assert expected is not None
        if parameter.format != "f32":
            bits = 1.58 if parameter.format == "ternary" else 8
            expected = reference.dequantize(*reference.quantize(expected, bits, parameter.scale))
        assert np.array_equal(model.effective(name), expected), name


def test_initial_weights_depend_on_seed_alone(config: ModelConfig) -> None:
    """The same seed gives the same weights in any context, another seed others, of the documented spread."""
    first = LanguageModel(config, seed=9, context=Context(threads=1)).parameters()
    again = LanguageModel(config, seed=9, context=Context(threads=2, isa="scalar")).parameters()
    other = LanguageModel(config, seed=10).parameters()
    for name, parameter in first.items():
        assert np.array_equal(parameter.values, again[name].values)  # type: ignore[arg-type]
    weights = first["blk.0.ffn_gate"].values
    assert weights is not None
    assert not np.array_equal(weights, other["blk.0.ffn_gate"].values)
    assert weights.std() == pytest.approx(config.dim**-0.5, rel=0.05)


def test_gradient_is_the_derivative_of_the_loss(rng: np.random.Generator) -> None:
    """In fp32, moving against the gradient changes the loss by its norm (central difference)."""
    model = LanguageModel(small_config(bits=32, embedding_bits=32, sub_norms=True), seed=2)
    rows = batch_of(model.config, rng)
    model.prepare(*rows[:, 1:].shape)
    statistics = model.gradients(rows)
    n = rows[:, 1:].size
    assert statistics.loss == pytest.approx(model.loss_sum(rows) / n, rel=1e-5)
    parameters = list(model.parameters().values())
    gradients = [p.gradient.copy() for p in parameters if p.gradient is not None]
    losses = []
    for step in (1e-2, -1e-2):
        saved = [p.values.copy() for p in parameters if p.values is not None]
        for p, g, w in zip(parameters, gradients, saved, strict=True):
            p.values[...] = w + step * g / statistics.gradient_norm  # type: ignore[index]
        model.touch()
        losses.append(model.loss_sum(rows) / n)
        for p, w in zip(parameters, saved, strict=True):
            p.values[...] = w  # type: ignore[index]
    assert (losses[0] - losses[1]) / 2e-2 == pytest.approx(statistics.gradient_norm, rel=0.02)


def test_apply_equals_reference_adamw(model: LanguageModel, rng: np.random.Generator) -> None:
    """Two clipped updates give the reference's weights and moments; decay spares gains and embedding."""
    rows = batch_of(model.config, rng)
    model.prepare(*rows[:, 1:].shape)
    options = {"learning_rate": 1e-2, "beta1": 0.8, "beta2": 0.99, "epsilon": 1e-8}
    for step in (1, 2):
        norm = model.gradients(rows).gradient_norm
        before = {
            name: [np.array(a) for a in (p.values, p.gradient, p.first_moment, p.second_moment)]
            for name, p in model.parameters().items()
        }
        update = model.apply(step=step, weight_decay=0.5, clip_norm=0.7, **options)
        assert 0 <= update.flipped_share < 1
        assert 0 < update.zero_share < 1
        for name, p in model.parameters().items():
            w, g, m, v = before[name]
            decay = 0.5 if p.format == "ternary" else 0.0
            expected = reference.adamw(
                w, g * min(1.0, 0.7 / norm), m, v, step=step, weight_decay=decay, **options
            )
            for got, wanted in zip((p.values, p.first_moment, p.second_moment), expected, strict=True):
                np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=1e-8, err_msg=name)  # type: ignore[arg-type]


def test_training_learns_and_does_not_depend_on_threads() -> None:
    """The loss falls, and one and two threads give the same weights bit for bit."""
    tokens = np.frombuffer(TEXT.encode(), np.uint8)
    rows = np.stack([tokens[i : i + 33] for i in range(0, 160, 20)])
    weights = []
    for threads in (1, 2):
        model = LanguageModel(small_config(), seed=4, context=Context(threads=threads))
        model.prepare(len(rows), 32)
        losses = []
        for step in range(1, 31):
            losses.append(model.gradients(rows).loss)
            model.apply(learning_rate=5e-3, step=step, clip_norm=1.0, weight_decay=0.1)
        assert losses[-1] < 0.6 * losses[0]
        weights.append(
            {name: p.values.copy() for name, p in model.parameters().items() if p.values is not None}
        )
    for name, values in weights[0].items():
        assert np.array_equal(values, weights[1][name]), name


# ---- evaluation ----


def test_evaluate_predicts_every_token_but_the_first_once(model: LanguageModel) -> None:
    """The figures agree with the sums over the windows, the short last one included."""
    text = TEXT[:131]
    result = model.evaluate(text, context_length=20)
    tokens = np.frombuffer(text.encode(), np.uint8)
    windows = [tokens[i : i + 21][None] for i in range(0, 130, 20)]
    total = sum(model.loss_sum(window) for window in windows)
    assert result.tokens == result.bytes == 130
    assert result.loss == pytest.approx(total / 130, rel=1e-12)
    assert result.perplexity == pytest.approx(np.exp(result.loss))
    assert result.bits_per_byte == pytest.approx(result.loss / np.log(2))
    full = model.evaluate(text)
    assert (model.loss(text), model.perplexity(text), model.bits_per_byte(text)) == (
        full.loss,
        full.perplexity,
        full.bits_per_byte,
    )
    assert model.loss(text.encode()) == model.loss(tokens) == full.loss


def test_evaluate_reports_progress(model: LanguageModel) -> None:
    """The progress callback ends with all tokens done."""
    seen: list[tuple[int, int]] = []
    model.evaluate(TEXT[:100], progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (99, 99)


# ---- generation ----

SCRIPT = """
import hashlib, json, sys
import numpy as np
import pyhybrid as ph
model = ph.LanguageModel.load(sys.argv[1])
options = [{"temperature": t, "cache": c} for t in (0, 0.9) for c in ("f32", "int8")]
texts = [model.generate("The quick", tokens=30, seed=7, **o) for o in options]
logits = model.logits(b"The quick brown fox jumps over")
print(json.dumps([texts, hashlib.sha256(logits.tobytes()).hexdigest()]))
"""


def test_generation_is_the_same_on_every_tier_and_thread_count(
    trained: str, python: Callable[..., CompletedProcess[str]]
) -> None:
    """Logits have the same bits, and texts are equal, for every HYB_ISA and HYB_NUM_THREADS."""
    answers = {}
    for tier in filter(tier_available, TIERS):
        for threads in ("1", "2"):
            result = python("-c", SCRIPT, trained, HYB_ISA=tier, HYB_NUM_THREADS=threads)
            assert result.returncode == 0, result.stderr
            answers[tier, threads] = json.loads(result.stdout)
    assert len(answers) >= 2
    assert all(answer == answers["scalar", "1"] for answer in answers.values())


@pytest.mark.parametrize("cache", ["f32", "int8"])
def test_cached_generation_equals_full_recomputation(cache: Any) -> None:
    """The most likely tokens are those of logits that the reference computes from the start each time."""
    model = LanguageModel(small_config(), seed=3)
    oracle = decoder(model, int8_cache=cache == "int8")
    sequence = list(b"over the l")
    for token in model.generate_all([sequence], tokens=12, temperature=0, cache=cache)[0].tokens.tolist():
        logits = oracle.logits(sequence)
        assert token == int(logits[-1].argmax())
        if cache == "f32":
            assert np.array_equal(model.logits(sequence).view(np.uint32), logits.view(np.uint32))
        sequence.append(token)


def test_batch_gives_each_prompt_what_it_gets_alone(trained: str) -> None:
    """Prompts of different lengths do not disturb each other."""
    model = LanguageModel.load(trained)
    prompts = ["The", "quick brown fox jumps", "l", "dog. The"]
    together = model.generate(prompts, tokens=20, temperature=0)
    assert together == [model.generate(prompt, tokens=20, temperature=0) for prompt in prompts]
    drawn = model.generate(prompts, tokens=20, temperature=1.0, seed=5)
    assert drawn[0] == model.generate(prompts[0], tokens=20, temperature=1.0, seed=5)
    assert model.generate([], tokens=5) == []


def test_seeds_select_texts(trained: str) -> None:
    """The same seed repeats a text, another seed gives another one, temperature 0 needs none."""
    model = LanguageModel.load(trained)
    texts = [model.generate("The ", tokens=30, temperature=1.5, seed=seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert model.generate("The ", temperature=0, seed=1) == model.generate("The ", temperature=0, seed=2)
    greedy = model.generate("The ", tokens=20, temperature=0)
    assert greedy == model.generate("The ", tokens=20, temperature=1.0, top_k=1)
    assert greedy == model.generate("The ", tokens=20, temperature=1.0, top_p=1e-6)


def test_stop_strings_end_the_text_before_them() -> None:
    """The text ends before the first stop string, and pieces never show a part of it."""
    model = successor_model(b"abcdefgh")
    pieces: list[str] = []
    result = model.generate_all(
        ["a"], tokens=30, temperature=0, stop=["zz", "gha"], stream=lambda text, _: pieces.append(text)
    )[0]
    assert (result.text, result.stop_reason) == ("bcdef", "stop")
    assert "".join(pieces) == "bcdef"
    assert model.generate("a", tokens=3, temperature=0, stop="ghb") == "bcd"
    assert model.generate("a", tokens=7, temperature=0, stop="ghb") == "bcdefgh"


def test_streaming_joins_characters_that_tokens_split() -> None:
    """Pieces are whole characters although each token is a byte."""
    text = "a\u00e9\u20ac\U0001f600"
    model = successor_model(text.encode())
    pieces: list[str] = []
    result = model.generate("a", tokens=19, temperature=0, stream=lambda piece, _: pieces.append(piece))
    assert result == (text * 2)[1:8]
    assert "".join(pieces) == result
    assert pieces[:3] == ["\u00e9", "\u20ac", "\U0001f600"]
    assert model.generate("a", tokens=1, temperature=0) == "\ufffd"  # half a character at the very end


def test_streaming_callback_can_stop_one_sequence() -> None:
    """A true result ends its own sequence only."""
    model = successor_model(b"abcdefgh")
    results = model.generate_all(
        ["a", "e"], tokens=10, temperature=0, stream=lambda text, sequence: sequence == 0 and "d" in text
    )
    assert (results[0].text, results[0].stop_reason) == ("bcd", "callback")
    assert (results[1].text, results[1].stop_reason) == ("fghabcdefg", "length")


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_streaming_callback_errors_come_through(kind: type[BaseException]) -> None:
    """An exception in the callback ends generation at once and is raised; the model goes on working."""
    model = successor_model(b"abcdefgh")
    calls = 0

    def fail(_text: str, _sequence: int) -> None:
        nonlocal calls
        calls += 1
        raise kind("from the callback")

    with pytest.raises(kind, match="from the callback"):
        model.generate(["a", "b"], tokens=10, temperature=0, stream=fail)
    assert calls == 1
    assert model.generate("a", tokens=2, temperature=0) == "bc"


def test_interrupt_ends_generation() -> None:
    """Ctrl-C during generation raises KeyboardInterrupt, without a streaming callback of the user's, too."""
    model = successor_model(b"abcdefgh")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job begins without one
    try:
        with pytest.raises(KeyboardInterrupt):
            model.generate("a", tokens=10, stream=lambda *_: signal.raise_signal(signal.SIGINT))
    finally:
        signal.signal(signal.SIGINT, before)
    assert model.generate("a", tokens=2, temperature=0) == "bc"


def test_streaming_callback_must_not_use_the_model() -> None:
    """A call into the context that is generating is refused instead of corrupting it."""
    model = successor_model(b"abcdefgh")
    with pytest.raises(ph.StateError, match="callback"):
        model.generate("a", tokens=3, stream=lambda *_: model.logits(b"a"))


def test_generation_goes_on_past_the_context(trained: str) -> None:
    """Where the context (48) is full its newer half is kept; a prompt beyond it is refused."""
    model = LanguageModel.load(trained)
    result = model.generate_all(["x" * 40], tokens=100, temperature=0)[0]
    assert (result.tokens.size, result.stop_reason) == (100, "length")
    with pytest.raises(ph.InvalidArgumentError, match="49 tokens; give 1 to 48"):
        model.generate("x" * 49)
    with pytest.raises(ph.InvalidArgumentError, match="give 1 to 16777216"):
        model.generate("x", tokens=10**9)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"prompt": ""}, "empty"),
        ({"prompt": ["a", ""]}, "prompt 1 is empty"),
        ({"tokens": 0}, "tokens"),
        ({"tokens": 2.5}, "tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 1.5}, "top_p"),
        ({"seed": -1}, "seed"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["a\0b"]}, "stop"),
        ({"cache": "f16"}, "cache"),
        ({"prompt": np.array([256])}, "256"),
        ({"prompt": np.array([1.5])}, "dtype"),
    ],
)
def test_generation_refuses_bad_options(trained: str, options: dict[str, Any], word: str) -> None:
    """The message of a bad option names it."""
    with pytest.raises(ph.InvalidArgumentError, match=word):
        LanguageModel.load(trained).generate(**({"prompt": "a", "tokens": 2} | options))


# ---- files ----


@pytest.mark.parametrize("name", CONFIGS)
def test_saved_and_loaded_model_has_the_same_logits(
    name: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    """A file gives back the configuration and the same bits of every logit, from a path and from bytes."""
    model = LanguageModel(small_config(**CONFIGS[name]), seed=5)
    tokens = rng.integers(0, model.config.vocab_size, 17)
    path = tmp_path / "model.hyb"
    model.save(path)
    for loaded in (LanguageModel.load(path), LanguageModel.load(path.read_bytes())):
        assert loaded.config == model.config
        assert np.array_equal(loaded.logits(tokens).view(np.uint32), model.logits(tokens).view(np.uint32))
    loaded.save(tmp_path / "again.hyb")
    assert (tmp_path / "again.hyb").read_bytes() == path.read_bytes()


def test_metadata_is_kept(model: LanguageModel, tmp_path: Path) -> None:
    """Metadata comes back, survives a second save, and must be JSON."""
    model.save(tmp_path / "a.hyb", {"name": "m\u00fcller", "steps": 3, "nested": {"x": [1, None]}})
    loaded = LanguageModel.load(tmp_path / "a.hyb")
    assert loaded.metadata == {"name": "m\u00fcller", "steps": 3, "nested": {"x": [1, None]}}
    loaded.save(tmp_path / "b.hyb")
    assert LanguageModel.load(tmp_path / "b.hyb").metadata == loaded.metadata
    with pytest.raises(ph.InvalidArgumentError, match="JSON"):
        model.save(tmp_path / "c.hyb", {"bad": object()})


def test_inspect_counts_everything(tmp_path: Path) -> None:
    """`inspect` reads sizes from the file, and they add up."""
    model = LanguageModel(small_config())
    path = tmp_path / "model.hyb"
    model.save(path, {"a": 1})
    info = ph.inspect(path)
    ternary = [p for p in model.parameters().values() if p.format == "ternary"]
    n_ternary = sum(p.shape[0] * p.shape[1] for p in ternary)
    assert (
        (info.parameters, info.ternary_parameters)
        == (model.count().total, n_ternary)
        == (
            sum(t.parameters for t in info.tensors),
            model.count().linear,
        )
    )
    assert info.file_bytes == path.stat().st_size
    payload = sum(-(-p.shape[0] * p.shape[1] // 5) for p in ternary)
    assert info.ternary_bits_per_weight == pytest.approx(8 * payload / n_ternary)
    assert info.ternary_bits_per_weight_counted is not None
    assert 1.6 <= info.ternary_bits_per_weight < info.ternary_bits_per_weight_counted
    assert info.compression_ratio_file == 4 * info.parameters / info.file_bytes
    assert info.config == model.config
    assert info.metadata == {"a": 1}
    assert info.tokenizer["kind"] == "bytes"
    assert sum(t.total_bytes for t in info.tensors) < info.file_bytes
    assert json.loads(json.dumps(info.to_dict()))["tensors"][0]["name"] == "embedding"


def test_loaded_model_cannot_train(trained: str) -> None:
    """Training calls on a loaded model say what to do instead."""
    model = LanguageModel.load(trained)
    assert not model.trainable
    assert LanguageModel(small_config()).trainable
    for call in (model.touch, lambda: model.prepare(1, 8)):
        with pytest.raises(ph.StateError, match="loaded"):
            call()
    assert model.parameters()["blk.0.attn_q"].values is None


def test_damaged_files_are_refused(trained: str, tmp_path: Path) -> None:
    """Missing, foreign, empty, cut and changed files each have their error."""
    data = Path(trained).read_bytes()
    with pytest.raises(ph.FileIOError) as caught:
        LanguageModel.load(tmp_path / "missing.hyb")
    assert isinstance(caught.value, OSError)
    assert "missing.hyb" in str(caught.value)
    with pytest.raises(ph.FileIOError):
        LanguageModel.load(tmp_path)
    with pytest.raises(ph.InvalidArgumentError):
        LanguageModel.load("")
    for bad in (b"", b"not a model at all" * 20, data[:4]):
        with pytest.raises(ph.FileFormatError):
            LanguageModel.load(bad)
    for size in range(0, len(data), 501):
        with pytest.raises(ph.FileFormatError):
            LanguageModel.load(data[:size])
    for place in range(128, len(data), 997):
        changed = bytearray(data)
        changed[place] ^= 1
        with pytest.raises(ph.ChecksumError):
            LanguageModel.load(bytes(changed))
    newer = bytearray(data)
    newer[8] = 200
    with pytest.raises((ph.VersionError, ph.ChecksumError)):
        LanguageModel.load(bytes(newer))


def test_save_to_a_missing_folder_is_an_error(model: LanguageModel, tmp_path: Path) -> None:
    """A path that cannot be written is named."""
    with pytest.raises(ph.FileIOError, match="nowhere"):
        model.save(tmp_path / "nowhere" / "model.hyb")


# ---- views, memory, contexts ----


def test_parameters_are_views_without_copies(model: LanguageModel) -> None:
    """Writing to a view changes the model, and a second call gives the same memory."""
    model.prepare(2, 8)
    first, second = model.parameters(), model.parameters()
    for name, parameter in first.items():
        for field in ("values", "gradient", "first_moment", "second_moment"):
            array = getattr(parameter, field)
            assert array.dtype == np.float32
            assert array.shape == parameter.shape
            assert array.flags.writeable
            assert np.shares_memory(array, getattr(second[name], field))
    before = model.logits(b"abc")
    values = first["final_norm"].values
    assert values is not None
    values *= 2
    model.touch()
    assert not np.array_equal(model.logits(b"abc"), before)
    embedding = first["embedding"].values
    assert embedding is not None
    embedding[...] = 0
    model.touch()
    assert not model.logits(b"abc").any()


def test_views_keep_the_model_alive() -> None:
    """A view is valid after every other reference to model and context is gone."""
    model = LanguageModel(small_config(), seed=1, context=Context(threads=1))
    values = model.parameters()["blk.1.ffn_up"].values
    assert values is not None
    expected = values.copy()
    del model
    gc.collect()
    filler = [LanguageModel(small_config(), seed=2) for _ in range(4)]
    assert np.array_equal(values, expected)
    del filler


def test_gradients_exist_after_prepare_only(model: LanguageModel, rng: np.random.Generator) -> None:
    """Calls in the wrong order name the call that is missing."""
    assert model.parameters()["embedding"].gradient is None
    rows = batch_of(model.config, rng)
    with pytest.raises(ph.StateError, match="prepare"):
        model.gradients(rows)
    model.prepare(3, 12)
    with pytest.raises(ph.StateError, match="gradients"):
        model.apply(learning_rate=1e-3, step=1)
    with pytest.raises(ph.InvalidArgumentError, match="prepared"):
        model.gradients(np.concatenate([rows, rows]))


def test_count_and_memory_estimate(config: ModelConfig) -> None:
    """Counts are those of the tensors; the estimate grows with the batch and counts gradients and moments."""
    model = LanguageModel(config)
    total = sum(p.shape[0] * p.shape[1] for p in model.parameters().values())
    assert model.count().total == total == LanguageModel.count_of(config).total
    small, large = (LanguageModel.memory_estimate(config, n, 32) for n in (1, 8))
    assert small.weight_bytes >= 4 * total
    assert small.training_bytes >= 12 * total
    assert large.training_bytes > small.training_bytes
    assert LanguageModel.memory_estimate(config).training_bytes == 0
    assert LanguageModel.memory_estimate(config).weight_bytes < small.weight_bytes


@pytest.mark.parametrize("name", ["blk.0.attn_q", "blk.1.ffn_down", "embedding"])
def test_not_finite_weights_are_named(model: LanguageModel, name: str, tmp_path: Path) -> None:
    """A NaN in the master weights stops logits, gradients and saving, with the tensor's name."""
    values = model.parameters()[name].values
    assert values is not None
    values[1, 2] = np.nan
    model.touch()
    model.prepare(1, 4)
    calls: list[Callable[[], object]] = [
        lambda: model.logits(b"abc"),
        lambda: model.gradients(np.zeros((1, 5), np.uint32)),
        lambda: model.generate("a", tokens=2),
        lambda: model.save(tmp_path / "model.hyb"),
    ]
    for call in calls:
        with pytest.raises(ph.NotFiniteError, match=name):
            call()
    assert not (tmp_path / "model.hyb").exists()


def test_not_finite_weights_of_fp32_models(rng: np.random.Generator, tmp_path: Path) -> None:
    """Without a quantiser to notice it, a NaN is found in the loss, in the draw, and when saving."""
    model = LanguageModel(small_config(bits=32, embedding_bits=32))
    values = model.parameters()["blk.0.attn_q"].values
    assert values is not None
    values[...] = np.inf
    model.touch()
    model.prepare(3, 12)
    rows = batch_of(model.config, rng)
    calls: list[Callable[[], object]] = [
        lambda: model.gradients(rows),
        lambda: model.loss_sum(rows),
        lambda: model.generate("ab", tokens=2),
        lambda: model.save(tmp_path / "model.hyb"),
    ]
    for call in calls:
        with pytest.raises(ph.NotFiniteError):
            call()


def test_absurd_sizes_are_refused(model: LanguageModel) -> None:
    """A model or batch beyond this machine's memory is an error, not a crash."""
    huge = ModelConfig(dim=65536, n_layers=1024, n_heads=256, ffn_dim=65536, max_context=2**20)
    with pytest.raises(ph.OutOfMemoryError, match="GiB"):
        LanguageModel(huge)
    for batch, context in ((2**40, 32), (0, 32), (1, 49), (-1, 3)):
        with pytest.raises(ph.HybridError):
            model.prepare(batch, context)
    with pytest.raises(ph.InvalidArgumentError):
        LanguageModel(model.config, seed=-1)
    with pytest.raises(ph.InvalidArgumentError, match="ModelConfig"):
        LanguageModel({"dim": 64})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tokens", "word"),
    [
        (np.zeros((2, 1), np.uint32), "at least"),
        (np.zeros(5, np.uint32), "dimension"),
        (np.zeros((1, 5), np.float32), "dtype"),
        (np.full((1, 5), -1), "-1"),
        (np.full((1, 5), 256), "256"),
        (np.zeros((1, 60), np.uint32), "context"),
    ],
)
def test_bad_tokens_are_refused(model: LanguageModel, tokens: Any, word: str) -> None:
    """Tokens of a wrong shape, type or value are refused, and the model stays usable."""
    with pytest.raises(ph.InvalidArgumentError, match=word):
        model.loss_sum(tokens)
    assert model.loss_sum(np.zeros((1, 5), np.uint8)) > 0


def test_context_says_what_it_uses(tier: str) -> None:
    """Threads, tier and kernels are as asked for, and the known-answer test passes."""
    context = Context(threads=2, isa=tier)  # type: ignore[arg-type]
    assert context.threads == 2
    assert context.isa.startswith(tier)
    assert {"matmul_ternary", "dot_f32", "gemm"} <= set(context.kernels())
    if tier == "scalar":
        assert set(context.kernels().values()) == {"scalar"}
    assert context.self_test() is None
    context.threads = 1
    assert context.threads == 1
    for wrong in (0, 257, 1.5, True):
        with pytest.raises(ph.InvalidArgumentError, match="threads"):
            Context(threads=wrong)  # type: ignore[arg-type]
    with pytest.raises(ph.InvalidArgumentError, match="isa"):
        Context(isa="sse2")  # type: ignore[arg-type]


def test_closed_context_is_refused_and_outlives_its_models() -> None:
    """After `close` calls are refused; models that still exist are freed safely."""
    with Context(threads=1) as context:
        model = LanguageModel(small_config(), context=context)
    with pytest.raises(ph.StateError, match="closed"):
        model.logits(b"a")
    values = model.parameters()["embedding"].values
    del model, context
    gc.collect()
    assert values is not None
    assert np.isfinite(values).all()


def test_threads_share_a_model(trained: str) -> None:
    """Calls from several Python threads take turns and give what they give alone."""
    model = LanguageModel.load(trained)
    expected = {seed: model.generate("The ", tokens=20, seed=seed) for seed in range(6)}
    got: dict[int, Any] = {}

    def work(seed: int) -> None:
        got[seed] = model.generate("The ", tokens=20, seed=seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == expected


def test_tokenizer_comes_with_the_model(tmp_path: Path) -> None:
    """The default tokenizer is bytes; one that is set is saved, loaded and used, and must fit."""
    model = LanguageModel(small_config(vocab_size=257))
    assert model.tokenizer.kind == "bytes"
    assert model.tokenizer.decode(model.tokenizer.encode("h\u00e9")) == "h\u00e9"
    with pytest.raises(ph.InvalidArgumentError, match="Tokenizer"):
        model.tokenizer = "bytes"  # type: ignore[assignment]
    tokens = [bytes([value]) for value in range(256)] + [b"th"]
    section = np.array([1, 0, 0, 257, 1, 0, 257 + 1, 0], np.uint32).tobytes()  # layout: file.h
    section += np.cumsum([0, *map(len, tokens)]).astype(np.uint32).tobytes()
    section += np.array([ord("t"), ord("h")], np.uint32).tobytes() + b"".join(tokens)
    bpe = ph.Tokenizer.deserialize(section)
    model.tokenizer = bpe
    model.save(tmp_path / "model.hyb")
    loaded = LanguageModel.load(tmp_path / "model.hyb")
    assert loaded.tokenizer == bpe
    assert loaded.tokenizer.encode("the").tolist() == [256, ord("e")]
    assert np.array_equal(loaded.logits("the"), model.logits([256, ord("e")]))
    assert loaded.evaluate("the the").bytes == 5
    with pytest.raises(ph.InvalidArgumentError, match="257"):
        LanguageModel(small_config()).tokenizer = bpe


def test_context_outlives_what_was_made_with_it() -> None:
    """The C context is destroyed by the last of its owners, once, whoever that is."""
    from pyhybrid._context import Life

    destroyed: list[str] = []
    life = Life("context", destroyed.append)
    for _ in range(3):
        life.hold()
    for _ in range(4):
        assert not destroyed
        life.release()
    assert destroyed == ["context"]


def test_three_of_four_takes_less_than_a_bit_and_a_third(tmp_path: Path) -> None:
    """The file packs such matrices by fours; the loaded model computes the same."""
    config = ph.ModelConfig(dim=64, n_layers=2, n_heads=2, ffn_dim=128, threshold="three_of_four")
    model = ph.LanguageModel(config, seed=1)
    tokens = np.random.default_rng(1).integers(0, 256, (2, 33)).astype(np.uint32)
    model.save(tmp_path / "model.hyb")
    info = ph.inspect(tmp_path / "model.hyb")
    assert {t.packing for t in info.tensors if t.format == "ternary"} == {"ternary3of4"}
    assert info.ternary_bits_per_weight is not None
    assert 1.25 <= info.ternary_bits_per_weight < 1.26  # with a scale a matrix
    loaded = ph.LanguageModel.load(tmp_path / "model.hyb")
    assert loaded.config == config
    assert loaded.loss_sum(tokens) == model.loss_sum(tokens)
    with pytest.raises(ph.ConfigError, match="multiples of 4"):
        ph.ModelConfig(ffn_dim=126, threshold="three_of_four")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bits", [32, 8, 4, 2, 1.58, 1, None])
def test_requantize_changes_embeddings_and_gains_only(bits: Any, tied: bool, tmp_path: Path) -> None:
    """The new file is a model's; layers, tokenizer and metadata are those of the old one."""
    source, target = tmp_path / "source.hyb", tmp_path / "target.hyb"
    model = ph.LanguageModel(small_config(tied_embeddings=tied), seed=1)
    for name, parameter in model.parameters().items():
        if "norm" in name:
            parameter.values[:] = np.linspace(0.5, 1.5, parameter.values.size).reshape(parameter.values.shape)
    model.save(source, metadata={"note": "kept"})
    ph.requantize(source, target, embedding_bits=bits, half_gains=True)
    old, new = LanguageModel.load(source), LanguageModel.load(target)
    assert new.config.embedding_bits == (8 if bits is None else bits)
    assert ph.inspect(target).metadata == ph.inspect(source).metadata
    for name, parameter in model.parameters().items():
        before, after = np.asarray(old.effective(name)), np.asarray(new.effective(name))
        if "norm" in name:
            assert np.array_equal(after, before.astype(np.float16).astype(np.float32))
            assert not np.array_equal(after, before)
        elif parameter.format == "ternary" or bits in (8, 32, None):
            assert np.array_equal(after, before), name
        else:
            error = np.linalg.norm(after - before) / np.linalg.norm(before)
            assert error < {4: 0.15, 2: 0.4, 1.58: 0.5, 1: 0.7}[bits], name
    ph.requantize(target, target)  # in place
    assert LanguageModel.load(target).config == new.config


def test_requantize_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    """Nothing is written then."""
    source, target = tmp_path / "source.hyb", tmp_path / "target.hyb"
    with pytest.raises(ph.FileIOError):
        ph.requantize(source, target)
    source.write_bytes(b"no model")
    with pytest.raises(ph.FileFormatError):
        ph.requantize(source, target)
    ph.TernaryMLP([4, 3, 2]).save(source)
    with pytest.raises(ph.FileFormatError, match="perceptron"):
        ph.requantize(source, target, embedding_bits=4)
    ph.LanguageModel(small_config()).save(source)
    with pytest.raises(ph.InvalidArgumentError, match="bits"):
        ph.requantize(source, target, embedding_bits=3)
    assert not target.exists()
