"""The command `pyhybrid`: parses into configurations and calls the library; it has no logic of its own.

Place in the data flow: in front of everything. Results go to standard output, progress and errors to standard
error. With --json standard output holds one JSON object and nothing else. Exit codes: `pyhybrid --help`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyhybrid._cli_parser import make_parser

if TYPE_CHECKING:
    from pyhybrid._context import Context
    from pyhybrid.config import RunConfig
    from pyhybrid.data import Dataset
    from pyhybrid.language_model import LanguageModel
    from pyhybrid.model_file import FileSizes, ModelInfo
    from pyhybrid.parameter_clusters import LayerClusters
    from pyhybrid.trainer import Trainer, TrainingResult

__all__ = ["main"]

OK, FAILURE, USAGE, BAD_INPUT, NOT_FINITE, INTERRUPTED = 0, 1, 2, 3, 4, 130


# ---- output ----


def _say(*lines: str) -> None:
    """Prints for people, on standard output."""
    print(*lines, sep="\n", flush=True)


def _note(text: str) -> None:
    print(f"pyhybrid: {text}", file=sys.stderr, flush=True)


def _finite(value: Any) -> Any:
    """JSON has no NaN: null stands for it."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, os.PathLike) else value


def _print_json(values: dict[str, Any]) -> None:
    print(json.dumps(_finite(values), allow_nan=False, ensure_ascii=False), flush=True)


def _bytes(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} GiB"


def _figure(value: float | None, digits: int = 3) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _context(arguments: argparse.Namespace) -> Context:
    from pyhybrid._context import Context

    return Context(threads=arguments.threads)


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
    _say(
        f"text        {data.description}",
        f"            SHA-256 {data.sha256}",
        f"            {data.train.size:,} training and {data.validation.size:,} validation tokens",
        f"model       {count.total:,} parameters, {count.linear:,} in {shape.bits:g}-bit layers",
        f"memory      about {_bytes(estimate.total_bytes)}: {_bytes(estimate.weight_bytes)} weights, "
        f"{_bytes(estimate.training_bytes)} training",
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
    memory = _bytes(report["peak_rss_bytes"])
    _say(
        "",
        f"steps       {report['steps']:,} of {report['total_steps']:,}, {report['tokens']:,} tokens "
        f"in {report['seconds']:.0f} s",
        f"speed       {report['tokens_per_second']:,.0f} tokens/s, peak memory {memory}",
        f"parameters  {report['parameters']:,}, {report['ternary_parameters']:,} of them ternary",
        f"file        {out / 'model.hyb'}: {size}",
        f"weights     {_figure(payload)} bits a ternary weight (payload), "
        f"{_figure(counted)} with everything counted",
        f"training    {_figure(report['training_loss'])} nats a token, "
        f"{_figure(report['training_bits_per_byte'])} bits a byte",
        f"validation  {_figure(report['validation_loss'])} nats a token, "
        f"{_figure(report['validation_bits_per_byte'])} bits a byte",
    )


def _train(arguments: argparse.Namespace) -> int:
    from pyhybrid._run_log import RunLog
    from pyhybrid.language_model import LanguageModel
    from pyhybrid.model_file import inspect

    context = _context(arguments)
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
        _print_json(report)
    else:
        _say(*log.summary())
        _show_report(report, out)
        if "sample" in report:
            _say("", f"sample      {report['prompt']!r} goes on:", "", report["prompt"] + report["sample"])
    if result.interrupted:
        _note(f"stopped and saved at step {result.steps}; go on with: pyhybrid train --out {out} --resume")
        return INTERRUPTED
    return OK


# ---- the other commands ----


def _eval(arguments: argparse.Namespace) -> int:
    from pyhybrid.data import load_dataset
    from pyhybrid.language_model import LanguageModel

    model = LanguageModel.load(arguments.model, context=_context(arguments))
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
        _print_json(report)
        return OK
    _say(
        f"text        {data.description} ({split}), SHA-256 {data.sha256}",
        f"loss        {result.loss:.4f} nats a token over {result.tokens:,} tokens, "
        f"windows of {report['context']}",
        f"perplexity  {result.perplexity:.4f} a token",
        f"bits        {_figure(result.bits_per_byte, 4)} a byte",
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

    model = LanguageModel.load(arguments.model, context=_context(arguments))
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
    )
    if live:
        _say("")
    elif not arguments.json:
        _say("\n\n".join(prompt + result.text for prompt, result in zip(prompts, results, strict=True)))
    if arguments.json:
        found = [
            {"prompt": prompt, "text": r.text, "tokens": r.tokens.tolist(), "stop_reason": r.stop_reason}
            for prompt, r in zip(prompts, results, strict=True)
        ]
        _print_json({"seed": arguments.seed, **(found[0] if len(found) == 1 else {"results": found})})
    return OK


def _shape_lines(info: ModelInfo) -> list[str]:
    c = info.config
    if c is None:
        return [f"shape       {info.architecture}, {' - '.join(map(str, info.layers))}"]
    return [
        f"shape       {c.n_layers} layers of {c.dim}, {c.n_heads} heads ({c.kv_heads} of keys and values), "
        f"feed-forward {c.ffn_dim}, context {c.max_context}",
        f"formats     layers {c.bits:g} bits, embedding {c.embedding_bits:g} bits, {c.activation}",
        f"tokenizer   {info.tokenizer['kind']}, {info.tokenizer['vocab_size']} of {c.vocab_size} tokens",
    ]


def _tensor_lines(info: ModelInfo) -> list[str]:
    """A table: `coded` is the bits a code takes compressed, `over` how far above the entropy that is."""
    lines = [
        f"{'tensor':<24} {'shape':>14} {'format':>8} {'packing':>9} {'scale':>7} {'bytes':>12} "
        f"{'zeros':>7} {'entropy':>8} {'coded':>8} {'over':>8}"
    ]
    for t in info.tensors:
        coding = t.coding
        figures = "-", "-", "-", "-"
        if coding is not None:
            over = "-" if coding.overhead is None else f"{100 * coding.overhead:+.2f} %"
            figures = f"{100 * coding.zeros:.1f} %", _figure(coding.entropy, 4), _figure(coding.bits, 4), over
        lines.append(
            f"{t.name:<24} {'x'.join(map(str, t.shape)):>14} {t.format:>8} {t.packing or '-':>9} "
            f"{t.scale or '-':>7} {t.total_bytes:>12,} "
            f"{figures[0]:>7} {figures[1]:>8} {figures[2]:>8} {figures[3]:>8}"
        )
    return lines


def _sized(path: Path, source: Path, sizes: FileSizes, context: Context) -> dict[str, Any]:
    from pyhybrid.model_file import inspect

    info = inspect(path, context=context)
    return {
        "source": source,
        "target": path,
        "expanded_bytes": sizes.expanded,
        "compressed_bytes": sizes.compressed,
        "parameters": info.parameters,
        "bits_per_weight": 8 * info.file_bytes / info.parameters,
        "ternary_bits_per_weight_counted": info.ternary_bits_per_weight_counted,
        "compression_ratio_file": info.compression_ratio_file,
    }


def _compressed(arguments: argparse.Namespace, source: Path, target: Path, context: Context) -> FileSizes:
    """Writes the target; by way of a requantised file beside it, where that is asked for."""
    from pyhybrid.model_file import compress, requantize

    if arguments.embedding_bits is None and not arguments.half_gains:
        return compress(source, target, context=context)
    between = target.with_name(f"{target.name}.requantized.{os.getpid()}")
    try:
        requantize(
            source,
            between,
            embedding_bits=arguments.embedding_bits,
            half_gains=arguments.half_gains,
            context=context,
        )
        return compress(between, target, context=context)
    finally:
        between.unlink(missing_ok=True)


def _compress(arguments: argparse.Namespace) -> int:
    context, source = _context(arguments), Path(arguments.model)
    target = arguments.out or source.with_name(f"{source.stem}.compressed{source.suffix}")
    report = _sized(target, source, _compressed(arguments, source, target, context), context)
    if arguments.json:
        _print_json(report)
        return OK
    before, after = report["expanded_bytes"], report["compressed_bytes"]
    _say(
        f"file        {target}: {after:,} bytes, {100 * after / before:.2f} % of {before:,}",
        f"weights     {report['bits_per_weight']:.3f} bits a parameter; a ternary one "
        f"{_figure(report['ternary_bits_per_weight_counted'])} with everything counted",
        f"size        {report['compression_ratio_file']:.2f} times smaller than fp32",
    )
    return OK


def _expand(arguments: argparse.Namespace) -> int:
    from pyhybrid.model_file import expand

    context, source = _context(arguments), Path(arguments.model)
    report = _sized(arguments.out, source, expand(source, arguments.out, context=context), context)
    if arguments.json:
        _print_json(report)
        return OK
    _say(
        f"file        {arguments.out}: {report['expanded_bytes']:,} bytes, "
        f"from {report['compressed_bytes']:,}",
        f"weights     {report['bits_per_weight']:.3f} bits a parameter",
    )
    return OK


def _info(arguments: argparse.Namespace) -> int:
    from pyhybrid.model_file import inspect

    context = _context(arguments)
    info = inspect(arguments.model, coding=True, context=context)
    layers = _clusters(arguments, context)
    if arguments.json:
        found = {} if layers is None else {"clusters": [layer.to_dict() for layer in layers.values()]}
        _print_json(info.to_dict() | found)
        return OK
    version = f"format version {info.format_version}"
    if info.expanded_bytes != info.file_bytes:
        version += f", compressed from {info.expanded_bytes:,}"
    _say(
        f"file        {arguments.model}: {info.file_bytes:,} bytes, {version}",
        f"parameters  {info.parameters:,}, {info.ternary_parameters:,} of them ternary",
        f"weights     {_figure(info.ternary_bits_per_weight)} bits a ternary weight (payload), "
        f"{_figure(info.ternary_bits_per_weight_counted)} with everything counted",
        f"size        {info.compression_ratio_file:.2f} times smaller than fp32",
        *_shape_lines(info),
        f"metadata    {json.dumps(info.metadata, ensure_ascii=False)}",
        "",
        *_tensor_lines(info),
    )
    if layers is not None:
        from pyhybrid.parameter_clusters import cluster_table

        _say("", cluster_table(layers))
    return OK


def _clusters(arguments: argparse.Namespace, context: Context) -> dict[str, LayerClusters] | None:
    if arguments.clusters is None:
        return None
    from pyhybrid.language_model import LanguageModel
    from pyhybrid.parameter_clusters import cluster_rows

    return cluster_rows(LanguageModel.load(arguments.model, context=context), arguments.clusters)


def _doctor(arguments: argparse.Namespace) -> int:
    from pyhybrid.doctor import diagnose

    found = diagnose(_context(arguments))
    if arguments.json:
        _print_json(found)
        return OK if found["ok"] else FAILURE
    tiers: dict[str, list[str]] = {}
    for kernel, tier in found["kernels"].items():
        tiers.setdefault(tier, []).append(kernel)
    forced = ", ".join(f"{name}={value}" for name, value in found["environment"].items() if value)
    _say(
        f"pyhybrid    {found['version']} (ABI {found['abi']}), {found['python']}, {found['platform']}",
        f"processor   {found['processor']}, {found['processors']} processors, "
        f"best tier {found['isa_detected']}",
        f"in use      tier {found['isa']}, {found['threads']} threads{f' ({forced})' if forced else ''}",
        *(f"kernels     {tier}: {', '.join(names)}" for tier, names in tiers.items()),
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
        _print_json(found)
        return OK
    for backend in found["backends"]:
        about = f"{backend['isa']}, {backend['threads']} threads" if "isa" in backend else ""
        _say(
            f"{backend['name']:<12}{'absent: ' + backend['reason'] if backend['reason'] else about}".rstrip()
        )
    names = [backend["name"] for backend in found["backends"]]
    _say(
        "",
        f"{'operation':<12}{'values':>12}  {'choice':<8}" + "".join(f"{name + ' ms':>12}" for name in names),
    )
    for choice in found["choices"]:
        times = "".join(f"{_figure(choice['milliseconds'].get(name)):>12}" for name in names)
        _say(f"{choice['operation']:<12}{choice['size']:>12,}  {choice['backend']:<8}{times}")
    _say(
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
    _note(f"warning: {' '.join(str(message).split())}")


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
    runs = {"train": _train, "eval": _eval, "generate": _generate, "info": _info}
    runs |= {"compress": _compress, "expand": _expand}
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
        _note("interrupted")
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
        _note(f"error: {text}")
        return _exit_code(error, parsed.command)
