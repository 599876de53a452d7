"""The command `pyhybrid`: parses into configurations and calls the library; it has no logic of its own.

Place in the data flow: in front of everything. Results go to standard output, progress and errors to standard
error. With --json standard output holds one JSON object and nothing else. Exit codes: `pyhybrid --help`.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyhybrid._cli_files import compress_file, expand_file, show_info
from pyhybrid._cli_output import (
    BAD_INPUT,
    FAILURE,
    INTERRUPTED,
    NOT_FINITE,
    OK,
    USAGE,
    figure,
    make_context,
    note,
    print_json,
    readable_bytes,
    say,
)
from pyhybrid._cli_parser import make_parser

if TYPE_CHECKING:
    from pyhybrid._context import Context
    from pyhybrid.config import RunConfig
    from pyhybrid.data import Dataset
    from pyhybrid.language_model import LanguageModel
    from pyhybrid.model_file import ModelInfo
    from pyhybrid.trainer import Trainer, TrainingResult

__all__ = ["main"]

# ---- train ----


def _run_config(arguments: argparse.Namespace, base: RunConfig | None = None) -> RunConfig:
    """The settings in the order of --help: preset, file, options, --set; on top of `base` if given."""
    from pyhybrid.config import apply_overrides, from_dict, load_config, preset_config

    config = base if arguments.preset is None else preset_config(arguments.preset)
    if arguments.config is not None:
        config = load_config(arguments.config, config)
    model: dict[str, Any] = {"bits": arguments.bits}
    training = {
        name: getattr(arguments, name)
        for name in ("steps", "minutes", "bits_target", "optimizer", "seed", "threads")
    }
    if arguments.bits_target is not None:  # gradual: sooner or at once costs loss
        training |= {"ramp_start": 0.3, "ramp_end": 0.7}
    if arguments.steps is not None and config is not None and config.training.minutes is not None:
        config = dataclasses.replace(config, training=dataclasses.replace(config.training, minutes=None))
    data: dict[str, Any] = {"paths": arguments.data, "tokenizer": arguments.tokenizer}
    kind, _, size = (arguments.tokenizer or "").partition(":")
    if kind == "bpe" and size:
        data["tokenizer"] = kind
        model["vocab_size"] = int(size) if size.isdigit() else size
    tables = {"model": model, "training": training, "data": data}
    given = {table: {k: v for k, v in values.items() if v is not None} for table, values in tables.items()}
    return apply_overrides(from_dict(given, config or preset_config("tiny")), arguments.overrides)


def _trainer(arguments: argparse.Namespace, context: Context) -> Trainer:
    """A new run, or the one to go on with."""
    from pyhybrid.trainer import Trainer

    if arguments.resume:
        return _resumed(arguments, arguments.out or Path("runs") / (arguments.preset or "tiny"), context)
    config = _run_config(arguments)
    out = arguments.out or Path("runs") / (config.preset or "tiny")
    return Trainer.from_config(config, out=out, context=context, overwrite=arguments.overwrite)


def _resumed(arguments: argparse.Namespace, out: Path, context: Context) -> Trainer:
    """Goes on with a run; options that are given again must agree with it (the trainer checks its own)."""
    from pyhybrid.config import ConfigError, differing_fields, load_config
    from pyhybrid.trainer import Trainer

    if not (out / "config.json").is_file():
        return Trainer.resume(out, context=context)  # says what is missing
    stored = load_config(out / "config.json")
    wanted = _run_config(arguments, stored)
    changed = differing_fields(stored.model, wanted.model)
    changed += differing_fields(stored.data.absolute(), wanted.data.absolute())
    if changed:
        raise ConfigError(
            f"{out} was begun with other settings: {'; '.join(changed)}; leave them out to resume"
        )
    training = None if wanted.training == stored.training else wanted.training
    return Trainer.resume(out, config=training, context=context)


def _announce(trainer: Trainer) -> None:
    data, config, shape, context = trainer.data, trainer.config, trainer.model.config, trainer.model.context
    count = trainer.model.count()
    estimate = trainer.model.memory_estimate(
        shape,
        config.batch_size,
        config.context,
        backward=config.backward,
        optimizer=config.model_optimizer,
        ternary_blend=config.initial_ternary_blend,
        state_bits=config.state_bits,
        context=context,
    )
    length = (
        f"about {config.minutes:g} minutes" if config.minutes is not None else f"{trainer.total_steps} steps"
    )
    say(
        f"text        {data.description}",
        f"            SHA-256 {data.sha256}",
        f"            {data.train.size:,} training and {data.validation.size:,} validation tokens",
        f"model       {count.total:,} parameters, {count.linear:,} in {shape.bits:g}-bit layers",
        f"memory      about {readable_bytes(estimate.total_bytes)}: "
        f"{readable_bytes(estimate.weight_bytes)} weights, "
        f"{readable_bytes(estimate.training_bytes)} training",
        f"run         {length} of {config.tokens_per_step:,} tokens, {context.threads} threads, "
        f"seed {config.seed}, to {trainer.out}",
    )


def _sample(model: LanguageModel, data: Dataset) -> tuple[str, str]:
    """A prompt from the text that was not trained on, and what the model makes of it."""
    source = data.validation if data.validation.size else data.train
    prompt = model.tokenizer.decode(source[: min(32, model.config.max_context // 2)]).lstrip()
    prompt = prompt[: prompt.rfind(" ") + 1] or prompt or " "
    text = model.generate(prompt, tokens=200, seed=0)
    return prompt, text if isinstance(text, str) else text[0]


def _bits_per_byte(loss: float | None, tokens: int, n_bytes: int | None) -> float | None:
    """Nats per token to bits per byte of the text behind the tokens."""
    return None if loss is None or not n_bytes else loss / math.log(2) * tokens / n_bytes


def _train_report(trainer: Trainer, result: TrainingResult, info: ModelInfo) -> dict[str, Any]:
    data = trainer.data
    return {
        **dataclasses.asdict(result),
        "training_bits_per_byte": _bits_per_byte(result.training_loss, data.train.size, data.train_bytes),
        "parameters": info.parameters,
        "ternary_parameters": info.ternary_parameters,
        "file_bytes": info.file_bytes,
        "ternary_bits_per_weight": info.ternary_bits_per_weight,
        "ternary_bits_per_weight_counted": info.ternary_bits_per_weight_counted,
        "compression_ratio_file": info.compression_ratio_file,
        "data": {"description": data.description, "sha256": data.sha256, "tokens": data.n_tokens},
    }


def _show_report(report: dict[str, Any], out: Path) -> None:
    payload, counted = report["ternary_bits_per_weight"], report["ternary_bits_per_weight_counted"]
    size = f"{report['file_bytes']:,} bytes, {report['compression_ratio_file']:.1f} times smaller than fp32"
    memory = readable_bytes(report["peak_rss_bytes"])
    say(
        "",
        f"steps       {report['steps']:,} of {report['total_steps']:,}, {report['tokens']:,} tokens "
        f"in {report['seconds']:.0f} s",
        f"speed       {report['tokens_per_second']:,.0f} tokens/s, peak memory {memory}",
        f"parameters  {report['parameters']:,}, {report['ternary_parameters']:,} of them ternary",
        f"file        {out / 'model.hyb'}: {size}",
        f"weights     {figure(payload)} bits a ternary weight (payload), "
        f"{figure(counted)} with everything counted",
        f"training    {figure(report['training_loss'])} nats a token, "
        f"{figure(report['training_bits_per_byte'])} bits a byte",
        f"validation  {figure(report['validation_loss'])} nats a token, "
        f"{figure(report['validation_bits_per_byte'])} bits a byte",
    )


def _train(arguments: argparse.Namespace) -> int:
    from pyhybrid._run_log import RunLog
    from pyhybrid.language_model import LanguageModel
    from pyhybrid.model_file import inspect

    context = make_context(arguments)
    trainer = _trainer(arguments, context)
    log = RunLog(lambda: trainer.total_steps, lambda: trainer.clusters)
    if not arguments.json:
        _announce(trainer)
        trainer.callbacks.append(log)
    result = trainer.train()
    out = Path(result.out or ".")
    report = _train_report(trainer, result, inspect(out / "model.hyb", context=context))
    if not result.interrupted:  # with the file, as a user will
        report["prompt"], report["sample"] = _sample(LanguageModel.load(out / "model.hyb"), trainer.data)
    if arguments.json:
        print_json(report)
    else:
        say(*log.summary())
        _show_report(report, out)
        if "sample" in report:
            say("", f"sample      {report['prompt']!r} goes on:", "", report["prompt"] + report["sample"])
    if result.interrupted:
        note(f"stopped and saved at step {result.steps}; go on with: pyhybrid train --out {out} --resume")
        return INTERRUPTED
    return OK


# ---- the other commands ----


def _eval(arguments: argparse.Namespace) -> int:
    from pyhybrid.data import load_dataset
    from pyhybrid.language_model import LanguageModel

    model = LanguageModel.load(arguments.model, context=make_context(arguments))
    split = arguments.split or ("all" if arguments.data else "validation")
    fraction = 0.0 if split == "all" else arguments.validation_fraction
    data = load_dataset(
        arguments.data, model.tokenizer, vocab_size=model.config.vocab_size, validation_fraction=fraction
    )
    tokens = data.validation if split == "validation" else data.train
    trained = model.metadata.get("training", {})
    length = arguments.context or (trained.get("context") if isinstance(trained, dict) else None)
    result = model.evaluate(tokens, context_length=length)
    report = {
        "loss_nats_per_token": result.loss,
        "bits_per_byte": result.bits_per_byte,
        "perplexity": result.perplexity,
        "tokens": result.tokens,
        "bytes": result.bytes,
        "context": length or model.config.max_context,
        "split": split,
        "data": {"description": data.description, "sha256": data.sha256},
    }
    if arguments.json:
        print_json(report)
        return OK
    say(
        f"text        {data.description} ({split}), SHA-256 {data.sha256}",
        f"loss        {result.loss:.4f} nats a token over {result.tokens:,} tokens, "
        f"windows of {report['context']}",
        f"perplexity  {result.perplexity:.4f} a token",
        f"bits        {figure(result.bits_per_byte, 4)} a byte",
    )
    return OK


def _read_prompts(arguments: argparse.Namespace) -> list[str]:
    from pyhybrid._errors import InvalidArgumentError

    if arguments.prompt:
        return list(arguments.prompt)
    if sys.stdin is None or sys.stdin.isatty():
        raise InvalidArgumentError("give a text with --prompt TEXT, or on standard input")
    return [sys.stdin.buffer.read().decode("utf-8", "surrogateescape")]


def _generate(arguments: argparse.Namespace) -> int:
    from pyhybrid.language_model import LanguageModel

    model = LanguageModel.load(arguments.model, context=make_context(arguments))
    prompts = _read_prompts(arguments)
    live = not arguments.json and len(prompts) == 1

    def show(text: str, _sequence: int = 0) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    if live:
        show(prompts[0])
    results = model.generate_all(
        [prompt.encode("utf-8", "surrogateescape") for prompt in prompts],
        tokens=arguments.tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        seed=arguments.seed,
        stop=arguments.stop,
        stream=show if live else None,
        cache=arguments.cache,
        device=arguments.device,
    )
    if live:
        say("")
    elif not arguments.json:
        say("\n\n".join(prompt + result.text for prompt, result in zip(prompts, results, strict=True)))
    if arguments.json:
        found = [
            {"prompt": prompt, "text": r.text, "tokens": r.tokens.tolist(), "stop_reason": r.stop_reason}
            for prompt, r in zip(prompts, results, strict=True)
        ]
        print_json({"seed": arguments.seed, **(found[0] if len(found) == 1 else {"results": found})})
    return OK


def _doctor(arguments: argparse.Namespace) -> int:
    from pyhybrid.doctor import diagnose

    found = diagnose(make_context(arguments))
    if arguments.json:
        print_json(found)
        return OK if found["ok"] else FAILURE
    tiers: dict[str, list[str]] = {}
    for kernel, tier in found["kernels"].items():
        tiers.setdefault(tier, []).append(kernel)
    gpu = found["gpu"]
    if gpu["available"]:
        total, free = gpu["total_bytes"] / 2**30, gpu["free_bytes"] / 2**30
        about = f"{gpu['name']}, {total:.0f} GiB, {free:.0f} GiB free"
    else:
        about = f"none: {gpu['reason']}"
    forced = ", ".join(f"{name}={value}" for name, value in found["environment"].items() if value)
    say(
        f"pyhybrid    {found['version']} (ABI {found['abi']}), {found['python']}, {found['platform']}",
        f"processor   {found['processor']}, {found['processors']} processors, "
        f"best tier {found['isa_detected']}",
        f"in use      tier {found['isa']}, {found['threads']} threads{f' ({forced})' if forced else ''}",
        *(f"kernels     {tier}: {', '.join(names)}" for tier, names in tiers.items()),
        f"GPU         {about}",
        *(
            f"optional    {part['name']} {part['version'] or 'missing'}: {part['purpose']}"
            + (f"; {part['install']}" if part["install"] else "")
            for part in found["optional"]
        ),
        f"self-test   {found['self_test']}",
    )
    return OK if found["ok"] else FAILURE


def _selftest(arguments: argparse.Namespace) -> int:  # noqa: ARG001 - as the others
    from pyhybrid import selftest

    return selftest.main()


def _backends(arguments: argparse.Namespace) -> int:
    from pyhybrid.dispatcher import describe_backends

    found = describe_backends(calibrate=arguments.calibrate)
    if arguments.json:
        print_json(found)
        return OK
    for backend in found["backends"]:
        about = f"{backend['isa']}, {backend['threads']} threads" if "isa" in backend else ""
        say(f"{backend['name']:<12}{'absent: ' + backend['reason'] if backend['reason'] else about}".rstrip())
    names = [backend["name"] for backend in found["backends"]]
    say(
        "",
        f"{'operation':<12}{'values':>12}  {'choice':<8}" + "".join(f"{name + ' ms':>12}" for name in names),
    )
    for choice in found["choices"]:
        times = "".join(f"{figure(choice['milliseconds'].get(name)):>12}" for name in names)
        say(f"{choice['operation']:<12}{choice['size']:>12,}  {choice['backend']:<8}{times}")
    say(
        "",
        f"calibration {found['cache']}",
        *([f"            {found['trouble']}"] if found["trouble"] else []),
    )
    return OK


# ---- errors ----


def _exit_code(error: BaseException, command: str) -> int:
    from pyhybrid._errors import FileFormatError, FileIOError, InvalidArgumentError, NotFiniteError
    from pyhybrid.checkpoint import CheckpointError
    from pyhybrid.config import ConfigError
    from pyhybrid.data import DataError

    if isinstance(error, NotFiniteError):
        return NOT_FINITE
    writes = isinstance(error, FileIOError) or (
        isinstance(error, CheckpointError) and error.__cause__ is not None
    )
    if command == "train" and writes and not isinstance(error, DataError):
        return FAILURE  # a run reads no model file: what failed is writing
    if isinstance(error, (DataError, FileFormatError, FileIOError, CheckpointError)):
        return BAD_INPUT
    if isinstance(error, (ConfigError, InvalidArgumentError)):
        return USAGE
    return FAILURE


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    note(f"warning: {' '.join(str(message).split())}")


def _quiet_exit() -> int:
    """The reader of our output went away (as `head` does): no more output, and no message at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return OK


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: without the program's name; None: those of the process.

    Returns:
        The exit code; see `pyhybrid --help`.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    runs = {"train": _train, "eval": _eval, "generate": _generate, "info": show_info}
    runs |= {"compress": compress_file, "expand": expand_file}
    runs |= {"backends": _backends, "doctor": _doctor, "selftest": _selftest}
    parser = make_parser(given, runs)
    parsed = parser.parse_args(given)
    if parsed.version:
        import pyhybrid

        print(f"pyhybrid {pyhybrid.__version__}")
        return OK
    if parsed.command is None:
        parser.print_help()
        return USAGE
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that lacks a character shows a question mark
            stream.reconfigure(errors="replace")
    warnings.showwarning = _show_warning
    try:
        return int(parsed.run(parsed))
    except KeyboardInterrupt:
        note("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        return _quiet_exit()
    except Exception as error:
        from pyhybrid._errors import HybridError
        from pyhybrid.config import ConfigError

        if getattr(parsed, "debug", False):
            raise
        text = " ".join(str(error).split())
        if not isinstance(error, (HybridError, ConfigError, ImportError, OSError)):
            text = f"{type(error).__name__}: {text} (--debug shows where)"
        note(f"error: {text}")
        return _exit_code(error, parsed.command)
