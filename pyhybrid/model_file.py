"""What a .hyb file holds, read from the file alone: sizes, formats, configuration, tokenizer, metadata.

Place in the data flow: behind `pyhybrid info` and the report of `pyhybrid train`. The byte layout:
hybrid/file.h.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import Any

from pyhybrid._context import Context, default_context
from pyhybrid._model_config import config_from_struct, encode_path, name_of, parse_metadata
from pyhybrid._native import ffi, lib
from pyhybrid.config import ModelConfig, to_dict
from pyhybrid.quantization import FORMAT_NAMES, GRANULARITIES, PACKINGS, bits_to_format
from pyhybrid.tokenizer import Tokenizer

__all__ = ["ModelInfo", "TensorInfo", "inspect", "requantize"]


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
        payload_bytes: packed codes or floats, without scales.
        total_bytes: payload, scales, directory entry, and the padding before the next tensor.
    """

    name: str
    format: str
    packing: str | None
    scale: str | None
    shape: tuple[int, int]
    parameters: int
    payload_bytes: int
    total_bytes: int


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A model file.

    Args:
        format_version: of the file.
        file_bytes: the whole file's length.
        parameters: all of them.
        ternary_parameters: those in ternary tensors.
        ternary_bits_per_weight: payload bits of the ternary tensors by their parameters; None without any.
        ternary_bits_per_weight_counted: the same with scales, directory entries and padding counted.
        compression_ratio_file: 4 bytes a parameter (fp32) by file_bytes.
        config: the model's shape and formats.
        tokenizer: its kind, vocab_size and bytes in the file.
        metadata: what was saved with the model.
        tensors: in the file's order.
    """

    format_version: int
    file_bytes: int
    parameters: int
    ternary_parameters: int
    ternary_bits_per_weight: float | None
    ternary_bits_per_weight_counted: float | None
    compression_ratio_file: float
    config: ModelConfig
    tokenizer: dict[str, Any]
    metadata: dict[str, Any]
    tensors: tuple[TensorInfo, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        plain = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        plain["config"] = to_dict(self.config)
        plain["tensors"] = [
            dataclasses.asdict(tensor) | {"shape": list(tensor.shape)} for tensor in self.tensors
        ]
        return plain


def _tensors(context: Context, file: Any) -> tuple[TensorInfo, ...]:
    found = []
    struct = ffi.new("hyb_file_tensor *")
    for index in range(lib.hyb_file_tensor_count(file)):
        context.check(lib.hyb_file_tensor_at(file, index, struct))
        quantized = struct.format != lib.HYB_FORMAT_F32
        found.append(
            TensorInfo(
                name=ffi.string(struct.name).decode("ascii"),
                format=FORMAT_NAMES[struct.format],
                packing=name_of(PACKINGS, struct.packing) if quantized else None,
                scale=name_of(GRANULARITIES, struct.granularity) if quantized else None,
                shape=(struct.n_rows, struct.n_cols),
                parameters=struct.n_rows * struct.n_cols,
                payload_bytes=struct.payload_bytes,
                total_bytes=struct.total_bytes,
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


def inspect(path: str | os.PathLike[str], *, context: Context | None = None) -> ModelInfo:
    """Reads what a model file holds, without making a model; every checksum is checked.

    Args:
        path: the .hyb file.
        context: None for the default context.

    Raises:
        FileIOError: it cannot be read.
        FileFormatError: it is not a model file, or a damaged one.
    """
    context = context or default_context()
    out = ffi.new("hyb_file **")
    with context.lock:
        context.check(lib.hyb_file_open(context.handle, encode_path(path), out))
        file = context.own(out[0], lib.hyb_file_close)
        struct = ffi.new("hyb_language_model_config *")
        struct.struct_size = ffi.sizeof("hyb_language_model_config")
        context.check(lib.hyb_file_config(file, struct))
        tensors = _tensors(context, file)
    config = config_from_struct(struct)
    ternary = [tensor for tensor in tensors if tensor.format == "ternary"]
    parameters = sum(tensor.parameters for tensor in tensors)
    n_ternary = sum(tensor.parameters for tensor in ternary)
    file_bytes = int(lib.hyb_file_bytes(file))
    return ModelInfo(
        format_version=lib.hyb_file_version(file),
        file_bytes=file_bytes,
        parameters=parameters,
        ternary_parameters=n_ternary,
        ternary_bits_per_weight=sum(t.payload_bytes for t in ternary) * 8 / n_ternary if n_ternary else None,
        ternary_bits_per_weight_counted=sum(t.total_bytes for t in ternary) * 8 / n_ternary
        if n_ternary
        else None,
        compression_ratio_file=4 * parameters / file_bytes,
        config=config,
        tokenizer=_tokenizer(file, config.vocab_size),
        metadata=_metadata(file),
        tensors=tensors,
    )
