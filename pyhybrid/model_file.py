"""What a .hyb file holds, read from the file alone: sizes, formats, configuration, tokenizer, metadata; and
files to their compressed form and back.

Place in the data flow: behind `pyhybrid info`, `compress` and `expand`, and the report of `pyhybrid train`.
The byte layout: hybrid/file.h.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, NamedTuple

from pyhybrid._context import Context, default_context
from pyhybrid._model_config import config_from_struct, encode_path, name_of, parse_metadata
from pyhybrid._native import ffi, lib
from pyhybrid.config import ModelConfig, to_dict
from pyhybrid.quantization import FORMAT_NAMES, GRANULARITIES, PACKINGS, bits_to_format
from pyhybrid.tokenizer import Tokenizer

__all__ = [
    "FileSizes",
    "ModelInfo",
    "TensorCoding",
    "TensorInfo",
    "compress",
    "expand",
    "inspect",
    "requantize",
]

CODINGS = {
    "none": lib.HYB_CODING_NONE,
    "half": lib.HYB_CODING_HALF,
    "entropy": lib.HYB_CODING_ENTROPY,
}


@dataclass(frozen=True, kw_only=True)
class TensorCoding:
    """What compression makes of a tensor, or made of it.

    Args:
        kind: 'entropy': packed codes are entropy-coded; 'half': floats as binary16, which holds each exactly;
            'none': as they are.
        groups: of codes with their own probabilities; 0 unless 'entropy'.
        zeros: share of codes, or floats, that are 0.
        entropy: order-0 entropy in bits a code; None for f32.
        bits: that a code takes, probabilities included, scales not.
    """

    kind: str
    groups: int
    zeros: float
    entropy: float | None
    bits: float

    @property
    def overhead(self) -> float | None:
        """bits above the entropy, as a share of it; None where that is 0 or unknown. Below 0 with groups."""
        return self.bits / self.entropy - 1 if self.entropy else None


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """One tensor of a file.

    Args:
        name: of the tensor.
        format: 'f32', 'ternary', 'binary', 'int2', 'int4' or 'int8'.
        packing: how codes are stored; None for f32.
        scale: what one scale covers, 'tensor' or 'row'; None for f32.
        shape: (rows, columns).
        parameters: rows * columns.
        payload_bytes: packed codes or floats, without scales; before compression.
        total_bytes: payload, scales, directory entry, and the padding before the next tensor; likewise.
        coding: what compression makes of it; None if `inspect` was not asked for it.
    """

    name: str
    format: str
    packing: str | None
    scale: str | None
    shape: tuple[int, int]
    parameters: int
    payload_bytes: int
    total_bytes: int
    coding: TensorCoding | None = None


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A model file.

    Args:
        format_version: of the file; 3 if it is compressed.
        file_bytes: the whole file's length.
        expanded_bytes: that of its original, if it is compressed; else the same.
        parameters: all of them.
        ternary_parameters: those in ternary tensors.
        ternary_bits_per_weight: payload bits of the ternary tensors by their parameters; None without any.
            As coded, if the file is compressed.
        ternary_bits_per_weight_counted: the same with scales, directory entries and padding counted.
        compression_ratio_file: 4 bytes a parameter (fp32) by file_bytes.
        architecture: 'language model' or 'perceptron'.
        config: a language model's shape and formats; None for a perceptron.
        layers: a perceptron's sizes: features, hidden layers, outputs; () for a language model.
        tokenizer: its kind, vocab_size and bytes in the file.
        metadata: what was saved with the model.
        tensors: in the file's order.
    """

    format_version: int
    file_bytes: int
    expanded_bytes: int
    parameters: int
    ternary_parameters: int
    ternary_bits_per_weight: float | None
    ternary_bits_per_weight_counted: float | None
    compression_ratio_file: float
    architecture: str
    config: ModelConfig | None
    layers: tuple[int, ...]
    tokenizer: dict[str, Any]
    metadata: dict[str, Any]
    tensors: tuple[TensorInfo, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        plain = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        plain["config"] = None if self.config is None else to_dict(self.config)
        plain["layers"] = list(self.layers)
        plain["tensors"] = [
            dataclasses.asdict(tensor) | {"shape": list(tensor.shape)} for tensor in self.tensors
        ]
        return plain


def _coding(context: Context, file: Any, index: int, n: int, quantized: bool) -> TensorCoding:
    struct = ffi.new("hyb_file_coding *")
    context.check(lib.hyb_file_tensor_coding(file, index, struct))
    return TensorCoding(
        kind=name_of(CODINGS, struct.kind),
        groups=struct.n_groups,
        zeros=struct.n_zeros / n,
        entropy=struct.entropy_bits / n if quantized else None,
        bits=struct.coded_bits / n,
    )


def _tensors(context: Context, file: Any, coding: bool) -> tuple[TensorInfo, ...]:
    found = []
    struct = ffi.new("hyb_file_tensor *")
    for index in range(lib.hyb_file_tensor_count(file)):
        context.check(lib.hyb_file_tensor_at(file, index, struct))
        quantized, n = struct.format != lib.HYB_FORMAT_F32, struct.n_rows * struct.n_cols
        found.append(
            TensorInfo(
                name=ffi.string(struct.name).decode("ascii"),
                format=FORMAT_NAMES[struct.format],
                packing=name_of(PACKINGS, struct.packing) if quantized else None,
                scale=name_of(GRANULARITIES, struct.granularity) if quantized else None,
                shape=(struct.n_rows, struct.n_cols),
                parameters=n,
                payload_bytes=struct.payload_bytes,
                total_bytes=struct.total_bytes,
                coding=_coding(context, file, index, n, quantized) if coding else None,
            )
        )
    return tuple(found)


def _metadata(file: Any) -> dict[str, Any]:
    n_bytes = ffi.new("size_t *")
    text = lib.hyb_file_metadata(file, n_bytes)
    return parse_metadata(bytes(ffi.buffer(text, n_bytes[0])) if n_bytes[0] else b"")


def _tokenizer(file: Any, vocab_size: int) -> dict[str, Any]:
    n_bytes = ffi.new("size_t *")
    section = lib.hyb_file_tokenizer(file, n_bytes)
    if n_bytes[0] == 0:
        return {"kind": "bytes" if vocab_size >= 256 else "none", "vocab_size": 0, "bytes": 0}
    tokenizer = Tokenizer.deserialize(bytes(ffi.buffer(section, n_bytes[0])))
    return {"kind": tokenizer.kind, "vocab_size": tokenizer.vocab_size, "bytes": n_bytes[0]}


def requantize(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    embedding_bits: float | None = None,
    half_gains: bool = False,
    context: Context | None = None,
) -> None:
    """Writes a language model's file again with embedding, head and gains in other formats.

    Args:
        source: the .hyb file.
        target: of the new one, which is replaced at once; may be the source.
        embedding_bits: of embedding and head, 32, 8, 4, 2, 1.58 or 1, one scale a row; None: as they are.
        half_gains: round the norms' gains to binary16.
        context: None for the default context.

    Raises:
        FileIOError: the source cannot be read, or the target not be written.
        FileFormatError: the source is no language model's file, or damaged.
        InvalidArgumentError: embedding_bits is none of these.
    """
    context = context or default_context()
    options = ffi.new("hyb_requantize *")
    options.struct_size = ffi.sizeof("hyb_requantize")
    options.embedding_format = -1 if embedding_bits is None else bits_to_format(embedding_bits)
    options.half_vectors = int(half_gains)
    with context.lock:
        context.check(
            lib.hyb_file_requantize(context.handle, options, encode_path(source), encode_path(target))
        )


def _compressed_bits(tensors: tuple[TensorInfo, ...], file_bytes: int, sections: int) -> tuple[float, float]:
    """Bits of the ternary tensors in a compressed file: their codes alone, and all that is not others'."""
    payload, others, before = 0.0, 8.0 * sections, ""
    for tensor in tensors:
        assert tensor.coding is not None
        bits = tensor.coding.bits * tensor.parameters
        if tensor.format == "ternary":
            payload += bits
        else:
            scales = 0 if tensor.scale is None else tensor.shape[0] if tensor.scale == "row" else 1
            shared = takewhile(lambda pair: pair[0] == pair[1], zip(before, tensor.name, strict=False))
            rest = len(tensor.name) - len(list(shared))
            sizes = sum(-(-size.bit_length() // 7) for size in tensor.shape)
            others += bits + 16 * scales + 8 * (4 + rest + sizes)
        before = tensor.name
    return payload, 8 * file_bytes - others


def _ternary_bits(
    tensors: tuple[TensorInfo, ...], file_bytes: int, sections: int, compressed: bool
) -> tuple[float | None, float | None]:
    """Bits per ternary weight: payload alone, and everything counted; None without ternary weights."""
    ternary = [tensor for tensor in tensors if tensor.format == "ternary"]
    n = sum(tensor.parameters for tensor in ternary)
    if n == 0:
        return None, None
    if compressed:
        payload, counted = _compressed_bits(tensors, file_bytes, sections)
        return payload / n, counted / n
    return sum(t.payload_bytes for t in ternary) * 8 / n, sum(t.total_bytes for t in ternary) * 8 / n


def _layers(tensors: tuple[TensorInfo, ...]) -> tuple[int, ...]:
    """Sizes of a perceptron: columns of its first matrix, rows of each."""
    named = {tensor.name: tensor.shape for tensor in tensors}
    shapes: list[tuple[int, int]] = []
    while (name := f"layer.{len(shapes)}.weight") in named:
        shapes.append(named[name])
    return (shapes[0][1], *(rows for rows, _ in shapes)) if shapes else ()


def inspect(
    path: str | os.PathLike[str], *, coding: bool = False, context: Context | None = None
) -> ModelInfo:
    """Reads what a model file holds, without making a model; every checksum is checked.

    Args:
        path: the .hyb file, of any network, compressed or not.
        coding: find out, too, what compression makes of each tensor; always done for a compressed file.
        context: None for the default context.

    Raises:
        FileIOError: it cannot be read.
        FileFormatError: it is not a model file, or a damaged one.
    """
    context = context or default_context()
    out = ffi.new("hyb_file **")
    struct = ffi.new("hyb_language_model_config *")
    struct.struct_size = ffi.sizeof("hyb_language_model_config")
    with context.lock:
        context.check(lib.hyb_file_open(context.handle, encode_path(path), out))
        file = context.own(out[0], lib.hyb_file_close)
        is_model = lib.hyb_file_architecture(file) == lib.HYB_ARCHITECTURE_LANGUAGE_MODEL
        if is_model:
            context.check(lib.hyb_file_config(file, struct))
        compressed = lib.hyb_file_version(file) == 3
        tensors = _tensors(context, file, coding or compressed)
    config = config_from_struct(struct) if is_model else None
    parameters = sum(tensor.parameters for tensor in tensors)
    file_bytes = int(lib.hyb_file_bytes(file))
    lengths = ffi.new("size_t[2]")
    lib.hyb_file_tokenizer(file, lengths)
    lib.hyb_file_metadata(file, lengths + 1)
    payload, counted = _ternary_bits(tensors, file_bytes, 192 + lengths[0] + lengths[1], compressed)
    return ModelInfo(
        format_version=lib.hyb_file_version(file),
        file_bytes=file_bytes,
        expanded_bytes=int(lib.hyb_file_expanded_bytes(file)),
        parameters=parameters,
        ternary_parameters=sum(tensor.parameters for tensor in tensors if tensor.format == "ternary"),
        ternary_bits_per_weight=payload,
        ternary_bits_per_weight_counted=counted,
        compression_ratio_file=4 * parameters / file_bytes,
        architecture="language model" if is_model else "perceptron",
        config=config,
        layers=() if is_model else _layers(tensors),
        tokenizer=_tokenizer(file, config.vocab_size if config is not None else 0),
        metadata=_metadata(file),
        tensors=tensors,
    )


class FileSizes(NamedTuple):
    """Lengths of a file and of its compressed form.

    Args:
        expanded: bytes of the original.
        compressed: bytes of the compressed form.
    """

    expanded: int
    compressed: int


def _rewrite(function: Any, source: Any, target: Any, context: Context | None) -> FileSizes:
    context = context or default_context()
    sizes = ffi.new("hyb_file_sizes *")
    with context.lock:
        context.check(function(context.handle, encode_path(source), encode_path(target), sizes))
    return FileSizes(sizes.expanded_bytes, sizes.compressed_bytes)


def compress(
    source: str | os.PathLike[str], target: str | os.PathLike[str], *, context: Context | None = None
) -> FileSizes:
    """Writes the compressed form of a model file, that is opened like any other; `expand` gives the original.

    Args:
        source: a .hyb file.
        target: replaced at once, when all is written; may be the source.
        context: None for the default context. The bytes do not depend on it.

    Raises:
        FileIOError: a file cannot be read or written.
        FileFormatError: source is no model file, a damaged one, or compressed already.
    """
    return _rewrite(lib.hyb_file_compress, source, target, context)


def expand(
    source: str | os.PathLike[str], target: str | os.PathLike[str], *, context: Context | None = None
) -> FileSizes:
    """Writes the original of a compressed model file, bit for bit.

    Args:
        source: a .hyb file that is compressed.
        target: as for `compress`.
        context: None for the default context.

    Raises:
        FileIOError: a file cannot be read or written.
        FileFormatError: source is no model file, a damaged one, or not compressed.
    """
    return _rewrite(lib.hyb_file_expand, source, target, context)
