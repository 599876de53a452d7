"""A run's tokenizer and data: made for a new run, found again for a resumed one.

Place in the data flow: the trainer's constructors call these; data.py and tokenizer.py do the work.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pyhybrid.checkpoint import CheckpointError
from pyhybrid.config import ConfigError, DataConfig, RunConfig
from pyhybrid.data import CACHE_NAME, DataError, Dataset, load_dataset, read_text, text_pieces

if TYPE_CHECKING:
    from pyhybrid.language_model import LanguageModel
    from pyhybrid.tokenizer import Tokenizer

__all__ = ["data_again", "tokenizer_and_data"]


def tokenizer_and_data(
    config: RunConfig, out: str | os.PathLike[str] | None, stdin: BinaryIO | None
) -> tuple[Tokenizer | None, Dataset]:
    """Makes the tokenizer that a run names (None: bytes), and its data.

    Args:
        config: the run; with tokenizer 'bpe' one is trained on the training split.
        out: the run's output folder, for what cannot be mapped; None: that stays in memory.
        stdin: read for the path '-' instead of the process's standard input.

    Raises:
        ConfigError: the vocabulary is smaller than the tokenizer's.
        DataError: the data or the tokenizer's file cannot be read.
    """
    from pyhybrid.tokenizer import Tokenizer

    data, vocab_size = config.data, config.model.vocab_size
    options: dict[str, Any] = {"vocab_size": vocab_size, "cache_dir": out}
    if data.tokenizer == "bytes":
        return None, load_dataset(data, stdin=stdin, **options)
    if data.tokenizer != "bpe":
        try:
            tokenizer = Tokenizer.from_tokenizers(data.tokenizer)
        except OSError as error:
            raise DataError(
                f"{data.tokenizer}: cannot be read ({error.strerror}); check data.tokenizer"
            ) from error
        if tokenizer.vocab_size > vocab_size:
            raise ConfigError(
                f"model.vocab_size = {vocab_size}: {data.tokenizer} has {tokenizer.vocab_size} tokens; set "
                f"model.vocab_size={tokenizer.vocab_size}"
            )
        return tokenizer, load_dataset(data, tokenizer, stdin=stdin, **options)
    text = read_text(data.paths, cache_dir=out, stdin=stdin)
    cut = text.boundary(data.validation_fraction, at_character=True)
    tokenizer = Tokenizer.train_bpe(text_pieces(text.data[:cut]), vocab_size)
    return tokenizer, Dataset.from_text(
        text, tokenizer, vocab_size=vocab_size, validation_fraction=data.validation_fraction, cache_dir=out
    )


def data_again(out: Path, data_config: DataConfig, model: LanguageModel, sha256: str) -> Dataset:
    """Loads a run's data from where it was found; what came through a pipe is in the output folder.

    Args:
        out: the run's output folder.
        data_config: where the data came from.
        model: gives tokenizer and vocabulary.
        sha256: of the text; the copy in the output folder is used if it agrees.

    Raises:
        CheckpointError: the text came from standard input, and its copy is gone.
        DataError: the data cannot be read.
    """
    options: dict[str, Any] = {
        "vocab_size": model.config.vocab_size,
        "validation_fraction": data_config.validation_fraction,
        "cache_dir": out,
    }
    cache = out / CACHE_NAME
    if cache.is_file():
        dataset = load_dataset(cache, model.tokenizer, **options)
        if dataset.sha256 == sha256:
            return dataset
    if "-" in data_config.paths:
        raise CheckpointError(
            f"{out}: the text came from standard input, and its copy {cache} is gone or changed"
        )
    return load_dataset(data_config, model.tokenizer, **options)
