"""The commands about model files: info, compress, expand."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyhybrid._cli_output import OK, figure, make_context, print_json, say

if TYPE_CHECKING:
    from pyhybrid._context import Context
    from pyhybrid.model_file import FileSizes, ModelInfo
    from pyhybrid.parameter_clusters import LayerClusters

__all__ = ["compress_file", "expand_file", "show_info"]


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
            figures = f"{100 * coding.zeros:.1f} %", figure(coding.entropy, 4), figure(coding.bits, 4), over
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


def compress_file(arguments: argparse.Namespace) -> int:
    """`pyhybrid compress`."""
    context, source = make_context(arguments), Path(arguments.model)
    target = arguments.out or source.with_name(f"{source.stem}.compressed{source.suffix}")
    report = _sized(target, source, _compressed(arguments, source, target, context), context)
    if arguments.json:
        print_json(report)
        return OK
    before, after = report["expanded_bytes"], report["compressed_bytes"]
    say(
        f"file        {target}: {after:,} bytes, {100 * after / before:.2f} % of {before:,}",
        f"weights     {report['bits_per_weight']:.3f} bits a parameter; a ternary one "
        f"{figure(report['ternary_bits_per_weight_counted'])} with everything counted",
        f"size        {report['compression_ratio_file']:.2f} times smaller than fp32",
    )
    return OK


def expand_file(arguments: argparse.Namespace) -> int:
    """`pyhybrid expand`."""
    from pyhybrid.model_file import expand

    context, source = make_context(arguments), Path(arguments.model)
    report = _sized(arguments.out, source, expand(source, arguments.out, context=context), context)
    if arguments.json:
        print_json(report)
        return OK
    say(
        f"file        {arguments.out}: {report['expanded_bytes']:,} bytes, "
        f"from {report['compressed_bytes']:,}",
        f"weights     {report['bits_per_weight']:.3f} bits a parameter",
    )
    return OK


def show_info(arguments: argparse.Namespace) -> int:
    """`pyhybrid info`."""
    from pyhybrid.model_file import inspect

    context = make_context(arguments)
    info = inspect(arguments.model, coding=True, context=context)
    layers = _clusters(arguments, context)
    if arguments.json:
        found = {} if layers is None else {"clusters": [layer.to_dict() for layer in layers.values()]}
        print_json(info.to_dict() | found)
        return OK
    version = f"format version {info.format_version}"
    if info.expanded_bytes != info.file_bytes:
        version += f", compressed from {info.expanded_bytes:,}"
    say(
        f"file        {arguments.model}: {info.file_bytes:,} bytes, {version}",
        f"parameters  {info.parameters:,}, {info.ternary_parameters:,} of them ternary",
        f"weights     {figure(info.ternary_bits_per_weight)} bits a ternary weight (payload), "
        f"{figure(info.ternary_bits_per_weight_counted)} with everything counted",
        f"size        {info.compression_ratio_file:.2f} times smaller than fp32",
        *_shape_lines(info),
        f"metadata    {json.dumps(info.metadata, ensure_ascii=False)}",
        "",
        *_tensor_lines(info),
    )
    if layers is not None:
        from pyhybrid.parameter_clusters import cluster_table

        say("", cluster_table(layers))
    return OK


def _clusters(arguments: argparse.Namespace, context: Context) -> dict[str, LayerClusters] | None:
    if arguments.clusters is None:
        return None
    from pyhybrid.language_model import LanguageModel
    from pyhybrid.parameter_clusters import cluster_rows

    return cluster_rows(LanguageModel.load(arguments.model, context=context), arguments.clusters)
