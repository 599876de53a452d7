"""Tests of pyhybrid.data: sources, splits, errors, batches."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyhybrid.text_sources as text_module
from pyhybrid.config import DataConfig
from pyhybrid.data import (
    CACHE_NAME,
    Batches,
    DataError,
    Dataset,
    Text,
    embedded_text,
    load_dataset,
    read_text,
    text_pieces,
    validation_batches,
)


class Pairs:
    """A toy tokenizer: a token is two bytes, the last one may be padded; counts how often it is asked."""

    vocab_size = 65536
    kind = "pairs"

    def __init__(self) -> None:
        self.calls = 0

    def encode(self, text: bytes) -> Any:
        self.calls += 1
        return np.frombuffer(text + b"\0" * (len(text) % 2), "<u2")

    def serialize(self) -> bytes:
        return b"pairs"


def write(folder: Path, name: str, text: str | bytes) -> Path:
    """A file with this content, its folders included."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def joined(dataset: Dataset) -> bytes:
    """All bytes of a byte-level data set in order."""
    return bytes(np.concatenate([dataset.train, dataset.validation]).tobytes())


# ---- sources ----


def test_embedded_text_is_the_same_at_every_call() -> None:
    """The default text is long, valid UTF-8, and has the hash that is reported."""
    first, second = embedded_text(), embedded_text()
    assert first == second
    assert len(first.text) > 100_000
    first.text.decode("utf-8")
    assert hashlib.sha256(first.text).hexdigest() == first.sha256
    assert load_dataset().sha256 == first.sha256


def test_embedded_text_falls_back_to_docstrings(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without pydoc's topics still has a text."""
    import sys

    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    text = embedded_text()
    assert "docstrings" in text.origin
    assert len(text.text) > 100_000


def test_one_file_is_mapped_not_copied(tmp_path: Path) -> None:
    """The tokens of a single file are a view of the mapped file."""
    path = write(tmp_path, "a.txt", "hello world, " * 20)
    dataset = load_dataset(path)
    base: Any = dataset.train
    while not isinstance(base, np.memmap) and getattr(base, "base", None) is not None:
        base = base.base
    assert isinstance(base, np.memmap)
    assert dataset.train.dtype == np.uint8
    assert joined(dataset) == path.read_bytes()


def test_binary_garbage_is_a_text_for_bytes(tmp_path: Path) -> None:
    """Any byte is a token, valid UTF-8 or not."""
    garbage = bytes(range(256)) * 4
    assert joined(load_dataset(write(tmp_path, "noise.bin", garbage))) == garbage


def test_folder_is_read_in_sorted_order_without_hidden_and_binary_files(tmp_path: Path) -> None:
    """Text files at any depth are joined by line feeds."""
    write(tmp_path, "b.txt", "BB")
    write(tmp_path, "a/z.md", "ZZ")
    write(tmp_path, "a/deep/x.py", "XX")
    write(tmp_path, ".hidden", "no")
    write(tmp_path, ".git/config", "no")
    write(tmp_path, "picture.png", b"\x89PNG\0\0")
    write(tmp_path, "empty.txt", "")
    assert bytes(read_text([tmp_path]).data) == b"BB\nZZ\nXX"


def test_output_folder_is_not_read_as_data(tmp_path: Path) -> None:
    """A run that writes into its data's folder does not learn its own files."""
    write(tmp_path, "a.txt", "text")
    write(tmp_path, "out/metrics.jsonl", "no")
    assert bytes(read_text([tmp_path], cache_dir=tmp_path / "out").data) == b"text"


def test_globs_and_several_paths_keep_their_order(tmp_path: Path) -> None:
    """A pattern is expanded in sorted order; paths stay in the given order."""
    for name in ("c.txt", "a.txt", "sub/b.txt"):
        write(tmp_path, name, name)
    pattern = str(tmp_path / "**" / "*.txt")
    assert bytes(read_text([pattern]).data) == b"a.txt\nc.txt\nsub/b.txt"
    assert bytes(read_text([tmp_path / "c.txt", tmp_path / "a.txt"]).data) == b"c.txt\na.txt"


def test_standard_input_is_kept_in_the_output_folder(tmp_path: Path) -> None:
    """What can be read only once is stored, so that a run can be resumed."""
    text = b"from a pipe " * 10
    dataset = load_dataset("-", stdin=io.BytesIO(text), cache_dir=tmp_path / "out")
    assert joined(dataset) == text
    assert (tmp_path / "out" / CACHE_NAME).read_bytes() == text
    assert joined(load_dataset(["-"], stdin=io.BytesIO(text))) == text


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are a POSIX thing")
def test_named_pipe_is_read_like_standard_input(tmp_path: Path) -> None:
    """The shell's <(command) gives such a path."""
    import threading

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(b"through a pipe"))
    writer.start()
    assert bytes(read_text([pipe]).data) == b"through a pipe"
    writer.join()


def test_many_big_files_are_joined_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the memory limit the joined text is mapped from the output folder."""
    monkeypatch.setattr(text_module, "_MEMORY_LIMIT_BYTES", 10)
    paths = [write(tmp_path, f"{i}.txt", f"file {i}") for i in range(3)]
    in_memory = bytes(read_text(paths).data)
    text = read_text(paths, cache_dir=tmp_path / "out")
    assert bytes(text.data) == in_memory == (tmp_path / "out" / CACHE_NAME).read_bytes()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_token_array_file_is_mapped(tmp_path: Path, dtype: type) -> None:
    """Arrays of the three dtypes are used as they are."""
    tokens: Any = np.arange(200).astype(dtype)
    np.save(tmp_path / "tokens.npy", tokens)
    dataset = load_dataset(tmp_path / "tokens.npy", vocab_size=256)
    assert dataset.train.dtype == dtype
    assert np.array_equal(np.concatenate([dataset.train, dataset.validation]), tokens)
    assert load_dataset(tokens, vocab_size=256).sha256 == dataset.sha256


def test_several_token_arrays_are_joined(tmp_path: Path) -> None:
    """A pattern may name several arrays."""
    np.save(tmp_path / "1.npy", np.arange(10, dtype=np.uint8))
    np.save(tmp_path / "2.npy", np.arange(10, 30, dtype=np.uint16))
    dataset = load_dataset(str(tmp_path / "*.npy"), vocab_size=256)
    assert np.concatenate([dataset.train, dataset.validation]).tolist() == list(range(30))


# ---- errors ----


def test_missing_file_suggests_a_near_name(tmp_path: Path) -> None:
    """The message names the path, and a file with a similar name."""
    write(tmp_path, "shakespeare.txt", "x")
    with pytest.raises(DataError, match=r"did you mean .*shakespeare\.txt"):
        load_dataset(tmp_path / "shakespear.txt")
    with pytest.raises(DataError, match="does not exist either"):
        load_dataset(tmp_path / "nowhere" / "x.txt")


def test_nothing_to_read_is_a_clear_error(tmp_path: Path) -> None:
    """Empty files, empty folders, patterns without a match and empty pipes are told apart."""
    with pytest.raises(DataError, match="is empty"):
        load_dataset(write(tmp_path, "empty.txt", ""))
    (tmp_path / "folder").mkdir()
    write(tmp_path, "folder/x.bin", b"\0\0")
    with pytest.raises(DataError, match="holds no text"):
        load_dataset(tmp_path / "folder")
    with pytest.raises(DataError, match="no file matches"):
        load_dataset(str(tmp_path / "*.none"))
    with pytest.raises(DataError, match="standard input is empty"):
        load_dataset("-", stdin=io.BytesIO(b""))
    with pytest.raises(DataError, match="is empty"):
        load_dataset(b"")


def test_unreadable_file_is_a_clear_error(tmp_path: Path) -> None:
    """The system's reason is passed on."""
    path = write(tmp_path, "secret.txt", "x")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(DataError, match=r"secret\.txt: cannot be read"):
        load_dataset(path)


def test_text_shorter_than_a_window_names_the_minimum() -> None:
    """The number that the message gives is enough, and one less is not."""
    with pytest.raises(DataError, match="at least 144 tokens") as caught:
        load_dataset(b"x" * 100).check_window(128)
    assert "at most 89" in str(caught.value)
    load_dataset(b"x" * 144).check_window(128)
    with pytest.raises(DataError):
        load_dataset(b"x" * 143).check_window(128)


def test_validation_split_of_one_token_is_refused() -> None:
    """A single token cannot be predicted."""
    with pytest.raises(DataError, match="needs 2"):
        load_dataset(b"x" * 200, validation_fraction=0.001).check_window(8)


@pytest.mark.parametrize(
    ("array", "hint"),
    [
        (np.arange(10), "int64"),
        (np.ones(10), "float64"),
        (np.ones((2, 5), np.uint8), "reshape"),
        (np.empty(0, np.uint8), "empty"),
        (np.array([1, 300, 2], np.uint16), "token 300 at position 1"),
    ],
)
def test_wrong_token_arrays_are_refused(tmp_path: Path, array: Any, hint: str) -> None:
    """Dtype, shape and values are checked, in memory and in a file; the message says what is wrong."""
    np.save(tmp_path / "tokens.npy", array)
    for source in (array, tmp_path / "tokens.npy"):
        with pytest.raises(DataError) as caught:
            load_dataset(source, vocab_size=256)
        assert hint in str(caught.value)


def test_damaged_or_pickled_arrays_are_refused(tmp_path: Path) -> None:
    """A file that is no array, a cut one, and one that would need unpickling raise an error that names it."""
    write(tmp_path, "text.npy", "not an array")
    np.save(tmp_path / "cut.npy", np.arange(1000, dtype=np.uint8))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:500])
    np.save(tmp_path / "objects.npy", np.array([{}, None], object), allow_pickle=True)
    for name in ("text.npy", "cut.npy", "objects.npy"):
        with pytest.raises(DataError, match=name):
            load_dataset(tmp_path / name)
    with pytest.raises(DataError, match="cannot be mixed"):
        load_dataset([tmp_path / "cut.npy", tmp_path / "text.txt"])


def test_bytes_outside_the_vocabulary_are_refused() -> None:
    """A model with fewer than 256 tokens cannot learn every byte."""
    assert load_dataset(b"\1\2" * 10, vocab_size=128).n_tokens == 20
    with pytest.raises(DataError, match="token 200 at position 2"):
        load_dataset(b"\1\2\xc8" * 10, vocab_size=128)


# ---- splits ----


def test_split_is_contiguous_and_complete() -> None:
    """The first part trains, the last validates, nothing is lost."""
    text = bytes(np.random.default_rng(0).integers(0, 256, 1001, np.uint8))
    dataset = load_dataset(text, validation_fraction=0.25)
    assert bytes(dataset.train) == text[:750]
    assert bytes(dataset.validation) == text[750:]
    assert (dataset.train_bytes, dataset.validation_bytes) == (750, 251)
    assert dataset.validation_bytes_per_token == 1
    assert load_dataset(text, validation_fraction=0).validation.size == 0


def test_data_config_gives_paths_and_fraction(tmp_path: Path) -> None:
    """The configuration's fields are used."""
    config = DataConfig(paths=(str(write(tmp_path, "a.txt", "0123456789")),), validation_fraction=0.5)
    assert bytes(load_dataset(config).validation) == b"56789"


def test_encoded_text_is_split_at_a_character() -> None:
    """With a tokenizer the boundary never cuts a UTF-8 character, and bytes are counted exactly."""
    raw = ("é" * 101).encode()
    text = Text(np.frombuffer(raw, np.uint8), "", "test")
    dataset = Dataset.from_text(text, Pairs(), vocab_size=65536, validation_fraction=0.5)
    assert dataset.train_bytes == 102
    assert dataset.validation_bytes == 100
    assert dataset.train.dtype == np.uint16
    assert dataset.validation_bytes_per_token == 2


def test_encoded_tokens_are_cached(tmp_path: Path) -> None:
    """A second load maps what the first encoded; another text or a damaged file is encoded again."""
    tokenizer = Pairs()
    options: dict[str, Any] = {"vocab_size": 65536, "cache_dir": tmp_path}
    first = load_dataset(b"abcd" * 100, tokenizer, **options).train.copy()
    calls = tokenizer.calls
    again = load_dataset(b"abcd" * 100, tokenizer, **options).train.copy()
    assert tokenizer.calls == calls
    assert np.array_equal(first, again)
    load_dataset(b"abce" * 100, tokenizer, **options)
    assert tokenizer.calls > calls
    for path in tmp_path.glob("tokens-*.npy"):
        path.write_bytes(b"damaged")
    assert np.array_equal(load_dataset(b"abcd" * 100, tokenizer, **options).train, first)


def test_long_text_is_encoded_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces end behind a line feed, or at a character where there is none, and lose nothing."""
    monkeypatch.setattr(text_module, "_ENCODE_BYTES", 64)
    lines = b"".join(b"line %d\n" % i for i in range(100))
    pieces = list(text_pieces(np.frombuffer(lines, np.uint8)))
    assert b"".join(pieces) == lines
    assert len(pieces) > 5
    assert all(piece.endswith(b"\n") for piece in pieces)
    unbroken = ("é" * 101).encode()
    pieces = list(text_pieces(np.frombuffer(b"x" + unbroken, np.uint8)))
    assert b"".join(pieces) == b"x" + unbroken
    for piece in pieces:
        piece.decode("utf-8")


# ---- batches ----


def test_batch_depends_on_seed_and_step_alone() -> None:
    """The same step gives the same windows, in any order of asking; other steps and seeds give others."""
    tokens = np.random.default_rng(0).integers(0, 256, 5000).astype(np.uint8)
    batches = Batches(tokens, batch_size=4, context=16, seed=3)
    fifth = batches.batch(5)
    batches.batch(1)
    assert np.array_equal(Batches(tokens, batch_size=4, context=16, seed=3).batch(5), fifth)
    assert fifth.dtype == np.uint32
    assert fifth.shape == (4, 17)
    assert not np.array_equal(batches.batch(6), fifth)
    assert not np.array_equal(Batches(tokens, batch_size=4, context=16, seed=4).batch(5), fifth)


def philox(counter: list[int], key: list[int]) -> list[int]:
    """One block of Philox4x64-10 in plain integers (Salmon et al. 2011, figure 4 and section 3.3)."""
    mask = 2**64 - 1
    c, k = list(counter), list(key)
    for _ in range(10):
        product0, product1 = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [(product1 >> 64) ^ c[1] ^ k[0], product1 & mask, (product0 >> 64) ^ c[3] ^ k[1], product0 & mask]
        k = [(k[0] + 0x9E3779B97F4A7C15) & mask, (k[1] + 0xBB67AE8584CAA73B) & mask]
    return c


def test_places_are_philox_words_scaled_to_the_text() -> None:
    """Places equal those of an independent Philox: no version of NumPy may change them."""
    n_places, seed, step = 1_000_000, 42, 7
    key = [seed, int.from_bytes(b"batch", "big")]
    raw = [word for block in (1, 2) for word in philox([block, step, 0, 0], key)][:6]
    batches = Batches(np.zeros(n_places + 128, np.uint8), batch_size=6, context=128, seed=seed)
    assert batches.starts(step) == [word * n_places >> 64 for word in raw]


def test_rows_are_contiguous_windows_of_the_text() -> None:
    """Each row is found in the text at its place."""
    tokens = np.random.default_rng(1).integers(0, 60000, 999).astype(np.uint16)
    batches = Batches(tokens, batch_size=32, context=10, seed=0)
    for row, start in zip(batches.batch(1), batches.starts(1), strict=True):
        assert np.array_equal(row, tokens[start : start + 11])


def test_every_place_is_reached_about_equally_often() -> None:
    """Places are uniform from the first window to the last (chi-square, 20 places, 8,000 draws)."""
    batches = Batches(np.zeros(29, np.uint8), batch_size=80, context=9, seed=0)
    counts = np.bincount([start for step in range(100) for start in batches.starts(step)], minlength=20)
    assert counts.size == 20
    assert ((counts - 400) ** 2 / 400).sum() < 60  # 19 degrees of freedom: beyond it at 4e-6


def test_smallest_text_has_one_window() -> None:
    """context + 1 tokens are enough, one fewer is an error."""
    assert np.array_equal(
        Batches(np.arange(9, dtype=np.uint8), batch_size=2, context=8).batch(0), [range(9), range(9)]
    )
    with pytest.raises(DataError, match="needs 9"):
        Batches(np.arange(8, dtype=np.uint8), batch_size=2, context=8)


@pytest.mark.parametrize("n_tokens", [2, 5, 16, 17, 18, 33, 100, 129])
def test_validation_predicts_every_token_once(n_tokens: int) -> None:
    """Targets of all windows, put together, are the text without its first token."""
    tokens = np.arange(n_tokens, dtype=np.uint8)
    targets = []
    for batch in validation_batches(tokens, batch_size=3, context=8):
        assert batch.dtype == np.uint32
        assert batch.shape[0] <= 3
        assert batch.shape[1] <= 9
        assert np.array_equal(batch[:, 1:], batch[:, :-1] + 1)
        targets.extend(batch[:, 1:].reshape(-1).tolist())
    assert targets == list(range(1, n_tokens))


def test_capped_validation_is_spread_over_the_split() -> None:
    """With a cap, whole windows from everywhere are taken, not more than the cap."""
    tokens = np.arange(250, dtype=np.uint8)
    batches = list(validation_batches(tokens, batch_size=2, context=8, max_tokens=40))
    starts = np.concatenate([batch[:, 0] for batch in batches])
    assert sum(batch.shape[0] * (batch.shape[1] - 1) for batch in batches) == 40
    assert starts[0] == 0
    assert starts[-1] >= 180
    short = list(validation_batches(tokens[:6], batch_size=2, context=8, max_tokens=3))
    assert [batch.shape for batch in short] == [(1, 4)]
