"""The command line from end to end: files, JSON, text, exit codes, interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from conftest import TEXT

import pyhybrid as ph
from pyhybrid import cli

#: A model and run that take a second.
SMALL = [
    "--set",
    "model.dim=32",
    "--set",
    "model.n_layers=1",
    "--set",
    "model.n_heads=2",
    "--set",
    "model.ffn_dim=48",
    "--set",
    "model.max_context=32",
    "--set",
    "training.context=16",
    "--set",
    "training.batch_size=4",
]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process; gives exit code, standard output and standard error."""

    def call(*arguments: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as exited:
            code = int(exited.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    """A file with the tests' text."""
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def trained_run(run: Run, text_file: Path, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A finished run's folder and its JSON report."""
    out = tmp_path / "run"
    code, stdout, stderr = run(
        "train", "--data", text_file, "--out", out, "--steps", 4, "--threads", 1, "--json", *SMALL
    )
    assert code == 0, stderr
    return out, json.loads(stdout)


def test_train_writes_the_folder_and_reports(trained_run: tuple[Path, dict[str, Any]]) -> None:
    """All files are there, and the report agrees with them."""
    out, report = trained_run
    names = {path.name for path in out.iterdir()}
    assert {"model.hyb", "checkpoint", "metrics.jsonl", "config.json"} <= names
    info = ph.inspect(out / "model.hyb")
    assert report["file_bytes"] == (out / "model.hyb").stat().st_size
    for name in ("parameters", "ternary_parameters", "ternary_bits_per_weight", "compression_ratio_file"):
        assert report[name] == getattr(info, name)
    assert report["steps"] == 4
    assert report["tokens"] == 4 * 4 * 16
    assert not report["interrupted"]
    assert report["validation_bits_per_byte"] == pytest.approx(report["validation_loss"] / np.log(2))
    assert report["training_bits_per_byte"] == pytest.approx(report["training_loss"] / np.log(2))
    assert report["tokens_per_second"] > 0
    assert report["peak_rss_bytes"] > 0
    assert isinstance(report["sample"], str)
    assert report["prompt"]
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]
    assert json.loads((out / "config.json").read_text())["model"]["dim"] == 32


def test_train_text_report_names_every_figure(run: Run, text_file: Path, tmp_path: Path) -> None:
    """Without --json the same figures are there for people, and the text's hash."""
    code, stdout, _ = run("train", "--data", text_file, "--out", tmp_path / "run", "--steps", 1, *SMALL)
    assert code == 0
    for word in (
        "SHA-256",
        "parameters",
        "bits a ternary weight",
        "counted",
        "smaller than fp32",
        "nats a token",
        "bits a byte",
        "tokens/s",
        "peak memory",
        "sample",
    ):
        assert word in stdout, word


def test_train_prints_the_documented_lines(run: Run, text_file: Path, tmp_path: Path) -> None:
    """Step lines, evaluations and the optimiser's summary have the documented form; AdamW has no summary."""
    import re

    arguments = ("--data", text_file, "--out", tmp_path / "run", "--steps", 4, "--overwrite", *SMALL)
    code, stdout, _ = run("train", *arguments)
    assert code == 0
    number = r"[-+]?\d+\.\d+"
    step = rf"Step 1/4 \| Loss: {number} \| dLoss: {number} \| \|grad\|: {number} \| \|Delta\|: {number} "
    assert re.search(step + r"\| Constraint: [01]\n", stdout), stdout
    assert re.search(rf"Step 4/4 .*\n  -> Evaluation loss: {number}\n", stdout)
    summary = stdout[stdout.index("HYBRID OPTIMIZATION SUMMARY") :].splitlines()
    assert summary[1] == "=" * 60
    patterns = (
        r"Total Steps: 4", rf"Final Loss: {number}", r"Avg Learning Rate Multiplier: \d+\.\d\dx",
        r"Constraint Activation Rate: \d+\.\d%", r"Final Trust Radius: \d\.\d{6}",
    )  # fmt: skip
    for line, pattern in zip(summary[2:7], patterns, strict=True):
        assert re.fullmatch(pattern, line), line
    code, stdout, _ = run("train", *arguments, "--optimizer", "adamw")
    assert code == 0
    assert "SUMMARY" not in stdout


def test_train_is_reproducible(run: Run, text_file: Path, tmp_path: Path) -> None:
    """The same seed gives the same file for one and two threads; another seed gives another."""
    files = []
    for name, seed, threads in (("a", 1, 1), ("b", 1, 2), ("c", 2, 1)):
        arguments = (
            "--data",
            text_file,
            "--out",
            tmp_path / name,
            "--steps",
            3,
            "--seed",
            seed,
            "--threads",
            threads,
        )
        assert run("train", *arguments, *SMALL)[0] == 0
        files.append((tmp_path / name / "model.hyb").read_bytes())
    assert files[0] == files[1] != files[2]


def test_train_default_is_the_embedded_text(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --data and --out it learns the embedded text into runs/PRESET, and says which text that is."""
    monkeypatch.chdir(tmp_path)
    code, stdout, _ = run("train", "--steps", 1, "--set", "training.evaluation_tokens=64", *SMALL)
    assert code == 0
    assert ph.embedded_text().sha256 in stdout
    assert (tmp_path / "runs" / "tiny" / "model.hyb").is_file()


def test_train_options_reach_the_configuration(run: Run, text_file: Path, tmp_path: Path) -> None:
    """Preset, TOML file, options and --set are applied in this order."""
    settings = tmp_path / "run.toml"
    settings.write_text("[model]\ndim = 48\nffn_dim = 64\n[training]\nsteps = 9\nlearning_rate = 0.5\n")
    code, _, stderr = run(
        "train",
        "--data",
        text_file,
        "--out",
        tmp_path / "run",
        "--preset",
        "small",
        "--config",
        settings,
        "--steps",
        1,
        "--bits",
        4,
        "--seed",
        5,
        "--optimizer",
        "adamw",
        *SMALL,
        "--set",
        "learning_rate=0.001",
    )
    assert code == 0, stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["preset"] == "small"
    assert (config["model"]["dim"], config["model"]["ffn_dim"], config["model"]["bits"]) == (32, 48, 4)
    training = config["training"]
    assert (training["steps"], training["seed"], training["learning_rate"]) == (1, 5, 0.001)


def test_train_minutes(run: Run, text_file: Path, tmp_path: Path) -> None:
    """--minutes bounds the time of a run."""
    begun = time.monotonic()
    code, stdout, stderr = run(
        "train",
        "--data",
        text_file,
        "--out",
        tmp_path / "run",
        "--minutes",
        0.05,
        "--json",
        *SMALL,
        "--set",
        "training.evaluation_interval=0",
        "--set",
        "training.evaluation_tokens=64",
    )
    assert code == 0, stderr
    assert json.loads(stdout)["steps"] >= 1
    assert time.monotonic() - begun < 60


def test_train_bpe(run: Run, text_file: Path, tmp_path: Path) -> None:
    """--tokenizer bpe:VOCAB trains a vocabulary, and the model file brings it along."""
    pytest.importorskip("tokenizers", reason="training BPE needs the tokenizers package")
    code, _, stderr = run(
        "train",
        "--data",
        text_file,
        "--out",
        tmp_path / "run",
        "--steps",
        1,
        "--tokenizer",
        "bpe:270",
        *SMALL,
    )
    assert code == 0, stderr
    model = ph.LanguageModel.load(tmp_path / "run" / "model.hyb")
    assert model.tokenizer.kind == "bpe"
    assert model.config.vocab_size == 270
    assert model.tokenizer.decode(model.tokenizer.encode("The lazy fox")) == "The lazy fox"


def test_resume_continues_bit_for_bit(run: Run, text_file: Path, tmp_path: Path) -> None:
    """A run that SIGTERM stopped exits with 130, and ends after --resume with an undisturbed run's bytes."""
    common = ["--data", str(text_file), "--steps", "60", "--seed", "3", "--threads", "1", *SMALL]
    out = tmp_path / "stopped"
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "pyhybrid", "train", "--out", str(out), *common],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = out / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (metrics.is_file() and metrics.stat().st_size > 0):
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode in (0, 130), stderr  # 0: it was done before the signal came
    if process.returncode == 130:
        assert "--resume" in stderr
        assert run("train", "--out", out, "--data", text_file, "--steps", 60, "--json")[0] == cli.BAD_INPUT
        assert run("train", "--out", out, "--resume", "--set", "model.dim=64")[0] == cli.USAGE
    assert run("train", "--out", out, "--resume", "--threads", 1)[0] == 0
    assert run("train", "--out", tmp_path / "whole", *common)[0] == 0
    assert (out / "model.hyb").read_bytes() == (tmp_path / "whole" / "model.hyb").read_bytes()


def test_resume_compares_files_not_spellings(
    run: Run, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text that is named by a relative path is found from another folder, under any of its names."""
    monkeypatch.chdir(text_file.parent)
    assert run("train", "--data", text_file.name, "--out", tmp_path / "run", "--steps", 2, *SMALL)[0] == 0
    assert run("train", "--out", tmp_path / "run", "--resume", "--data", text_file.name)[0] == 0
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    assert run("train", "--out", tmp_path / "run", "--resume")[0] == 0
    assert run("train", "--out", tmp_path / "run", "--resume", "--data", text_file.name)[0] == cli.USAGE


def test_eval_equals_the_library(trained_run: tuple[Path, dict[str, Any]], run: Run, text_file: Path) -> None:
    """The validation split gives the run's own figure; all of a text gives LanguageModel.evaluate's."""
    out, report = trained_run
    path = out / "model.hyb"
    code, stdout, _ = run("eval", path, "--data", text_file, "--split", "validation", "--json")
    found = json.loads(stdout)
    assert code == 0
    assert found["context"] == 16
    assert found["loss_nats_per_token"] == pytest.approx(report["validation_loss"], rel=1e-12)
    code, stdout, _ = run("eval", path, "--data", text_file, "--context", 32, "--json")
    expected = ph.LanguageModel.load(path).evaluate(TEXT)
    found = json.loads(stdout)
    assert (found["loss_nats_per_token"], found["bits_per_byte"], found["perplexity"], found["tokens"]) == (
        pytest.approx(expected.loss),
        pytest.approx(expected.bits_per_byte),
        pytest.approx(expected.perplexity),
        len(TEXT) - 1,
    )
    code, stdout, _ = run("eval", path, "--data", text_file)
    assert code == 0
    assert "nats a token" in stdout
    assert "bits" in stdout


def test_generate_equals_the_library(trained: str, run: Run) -> None:
    """The text on standard output is the prompt and what the library generates; JSON holds the same."""
    options = (
        "--tokens",
        20,
        "--seed",
        4,
        "--temperature",
        0.7,
        "--top-k",
        20,
        "--top-p",
        0.9,
        "--cache",
        "int8",
    )
    expected = ph.LanguageModel.load(trained).generate(
        "The ", tokens=20, seed=4, temperature=0.7, top_k=20, top_p=0.9, cache="int8"
    )
    assert run("generate", trained, "--prompt", "The ", *options) == (0, f"The {expected}\n", "")
    code, stdout, _ = run("generate", trained, "--prompt", "The ", *options, "--json")
    found = json.loads(stdout)
    assert code == 0
    assert found["text"] == expected
    assert len(found["tokens"]) == 20
    assert found["stop_reason"] == "length"
    code, stdout, _ = run(
        "generate", trained, "--prompt", "The ", "--prompt", "lazy", "--json", "--temperature", 0
    )
    assert [result["prompt"] for result in json.loads(stdout)["results"]] == ["The ", "lazy"]


def test_generate_reads_standard_input_and_stops(
    trained: str, python: Callable[..., CompletedProcess[str]]
) -> None:
    """Without --prompt the text comes from standard input; --stop ends it."""
    greedy = ("-m", "pyhybrid", "generate", trained, "--tokens", "20", "--temperature", "0")
    whole = python(*greedy, stdin="The qu")
    assert whole.returncode == 0, whole.stderr
    assert whole.stdout.startswith("The qu")
    new = whole.stdout[len("The qu") : -1]
    stopped = python(*greedy, "--stop", new[5:7], stdin="The qu")
    assert stopped.stdout == "The qu" + new[: new.find(new[5:7])] + "\n"
    assert python(*greedy, stdin="").returncode == cli.USAGE
    assert (
        python(*greedy, stdin="\udcff".encode("utf-8", "surrogateescape").decode("latin-1")).returncode == 0
    )


def test_generate_goes_on_past_the_context(trained: str, run: Run) -> None:
    """More tokens than the model's 48 positions are all written."""
    code, stdout, _ = run("generate", trained, "--prompt", "The ", "--tokens", 100, "--json")
    assert code == 0
    assert len(json.loads(stdout)["tokens"]) == 100


def test_info_reads_the_file(trained: str, run: Run) -> None:
    """The JSON has at least the promised fields, for people the same figures are there."""
    code, stdout, _ = run("info", trained, "--json")
    found = json.loads(stdout)
    assert code == 0
    for name in (
        "parameters",
        "ternary_parameters",
        "file_bytes",
        "ternary_bits_per_weight",
        "ternary_bits_per_weight_counted",
        "compression_ratio_file",
        "config",
        "tensors",
    ):
        assert name in found
    assert found["metadata"]["note"] == "for tests"
    assert found["file_bytes"] == Path(trained).stat().st_size
    code, stdout, _ = run("info", trained)
    assert code == 0
    assert "blk.1.ffn_down" in stdout
    assert f"{found['file_bytes']:,} bytes" in stdout


def test_compress_with_smaller_embeddings_and_gains(trained: str, run: Run, tmp_path: Path) -> None:
    """Fewer bytes than without; nothing else is left behind; wrong bits write nothing."""
    sizes = {}
    for name, options in {
        "plain": [], "gains": ["--half-gains"], "4": ["--embedding-bits", "4"],
    }.items():  # fmt: skip
        code, out, _ = run("compress", trained, "-o", tmp_path / f"{name}.hyb", "--json", *options)
        assert code == 0
        sizes[name] = json.loads(out)["compressed_bytes"]
        assert sizes[name] == (tmp_path / f"{name}.hyb").stat().st_size
    assert sizes["4"] < sizes["gains"] < sizes["plain"]
    assert ph.LanguageModel.load(tmp_path / "4.hyb").config.embedding_bits == 4
    code, _, err = run("compress", trained, "-o", tmp_path / "3.hyb", "--embedding-bits", "3")
    assert code == 2
    assert "bits is 3" in err
    assert sorted(path.name for path in tmp_path.glob("*.hyb*")) == ["4.hyb", "gains.hyb", "plain.hyb"]


def test_info_clusters_rows(trained: str, run: Run) -> None:
    """With --clusters there is a table, and an entry a matrix in the JSON; too many say so."""
    code, stdout, _ = run("info", trained, "--clusters", "3", "--json")
    clusters = json.loads(stdout)["clusters"]
    assert code == 0
    assert {len(layer["clusters"]) for layer in clusters} == {3}
    assert "cohesion" in run("info", trained, "--clusters", "3")[1]
    code, _, stderr = run("info", trained, "--clusters", "5000")
    assert code == cli.USAGE
    assert "rows" in stderr


def test_doctor(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows kernels and passes; a failing known-answer test gives exit code 1."""
    code, stdout, _ = run("doctor", "--json", "--threads", 1)
    found = json.loads(stdout)
    assert (code, found["ok"], found["self_test"], found["threads"]) == (0, True, "passed", 1)
    assert found["kernels"]
    assert found["version"] == ph.__version__
    assert all(part["version"] or part["install"].startswith("pip install") for part in found["optional"])
    assert "self-test   passed" in run("doctor")[1]
    monkeypatch.setattr(ph.Context, "self_test", lambda _: "unsupported: rounding")
    code, stdout, _ = run("doctor")
    assert code == cli.FAILURE
    assert "rounding" in stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        ([], cli.USAGE),
        (["nonsense"], cli.USAGE),
        (["train", "--steps", "0"], cli.USAGE),
        (["train", "--steps", "1", "--minutes", "1"], cli.USAGE),
        (["train", "--preset", "tinny"], cli.USAGE),
        (["train", "--bits", "3"], cli.USAGE),
        (["train", "--set", "training.stepz=1"], cli.USAGE),
        (["train", "--config", "missing.toml"], cli.USAGE),
        (["train", "--optimizer", "sgd"], cli.USAGE),
        (["train", "--tokenizer", "bpe:many"], cli.USAGE),
        (["train", "--data", "missing.txt"], cli.BAD_INPUT),
        (["train", "--data", "empty.txt"], cli.BAD_INPUT),
        (["train", "--out", "nothing", "--resume"], cli.BAD_INPUT),
        (["eval", "missing.hyb"], cli.BAD_INPUT),
        (["eval", "empty.txt"], cli.BAD_INPUT),
        (["info", "missing.hyb"], cli.BAD_INPUT),
        (["generate", "garbage.hyb", "--prompt", "a"], cli.BAD_INPUT),
        (["generate", "MODEL", "--prompt", ""], cli.USAGE),
        (["generate", "MODEL", "--prompt", "a", "--temperature", "-1"], cli.USAGE),
        (["eval", "MODEL", "--data", "missing.txt"], cli.BAD_INPUT),
        (
            [
                "train",
                "--data",
                "text.txt",
                "--set",
                "training.learning_rate=1e6",
                "--optimizer",
                "adamw",
                "--bits",
                "32",
                "--steps",
                "30",
                "--set",
                "training.clip_norm=0",
                "--set",
                "training.warmup_fraction=0",
                *SMALL,
            ],
            cli.NOT_FINITE,
        ),
    ],
)
def test_exit_codes_and_messages(
    arguments: list[str], code: int, run: Run, trained: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind of failure has its exit code, and one line on standard error."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "garbage.hyb").write_bytes(os.urandom(3000))
    got, stdout, stderr = run(*(trained if argument == "MODEL" else argument for argument in arguments))
    assert got == code, stderr
    if code not in (0, cli.USAGE):
        assert "Traceback" not in stderr
        assert not stdout or arguments[0] == "train"  # which says first what it is going to do
        assert stderr.startswith("pyhybrid: error: ")
        assert stderr.count("\n") == 1


def test_debug_shows_the_traceback(run: Run) -> None:
    """With --debug the exception itself comes through."""
    with pytest.raises(ph.FileIOError):
        run("info", "missing.hyb", "--debug")


@pytest.mark.parametrize("command", ["train", "eval", "generate", "info", "doctor", "bench"])
def test_help_teaches(command: str, run: Run) -> None:
    """Each command explains itself; those that take files show examples and exit codes."""
    code, stdout, _ = run(command, "--help")
    assert code == 0
    if command in ("train", "eval", "generate"):
        assert "examples:" in stdout
        assert "exit codes:" in stdout


def test_output_that_nobody_reads_is_no_error(trained: str) -> None:
    """`pyhybrid info ... | head -1` ends quietly."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "pyhybrid", "generate", trained, "--prompt", "a", "--tokens", "40"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    assert process.wait(timeout=60) == 0
