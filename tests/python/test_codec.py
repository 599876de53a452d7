"""The entropy coder and compressed files: codes come back, sizes are near the entropy, bad input is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import pyhybrid as ph
from pyhybrid import cli, codec, model_file
from pyhybrid.quantization import unpack

DATA = Path(__file__).resolve().parent.parent / "data"


def _codes(n: int, share: float, largest: int = 1, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    codes = random.integers(1, largest + 1, n) * random.choice([-1, 1], n)
    codes[random.random(n) < share] = 0
    return codes.astype(np.int8)


def _model(path: Path, **changes: object) -> Path:
    shape = ph.ModelConfig(
        vocab_size=256, dim=128, n_layers=2, n_heads=4, ffn_dim=256, max_context=32, **changes
    )
    ph.LanguageModel(shape, seed=3).save(path)
    return path


@pytest.mark.parametrize("n", [0, 1, 4, 5, 63, 64 * 5, 64 * 5 + 1, 100_003])
@pytest.mark.parametrize("largest", [1, 2, 127])
@pytest.mark.parametrize("share", [0.0, 1 / 3, 0.9, 1.0])
def test_codes_come_back(n: int, largest: int, share: float) -> None:
    """Every length, alphabet and skew, with the alphabet found or given."""
    codes = _codes(n, share, largest)
    name = {1: "ternary", 2: "five", 127: "int8"}[largest]
    for data in (codec.encode(codes), codec.encode(codes, name)):
        found = codec.decode(data)
        assert found.dtype == np.int8
        np.testing.assert_array_equal(found, codes)
    assert codec.encode(codes, context=ph.Context(threads=3)) == codec.encode(codes)


def test_entropy_is_the_bound() -> None:
    """Coded bits are within 0.1 % of the order-0 entropy, which NumPy confirms; alike codes take bytes."""
    for share in (0.31, 0.46, 0.59):
        codes = _codes(1_000_000, share)
        counts = np.unique(codes, return_counts=True)[1] / codes.size
        assert codec.entropy(codes) == pytest.approx(-(counts * np.log2(counts)).sum(), rel=1e-12)
        assert 8 * len(codec.encode(codes)) / codes.size < 1.001 * codec.entropy(codes)
    assert len(codec.encode(np.zeros(1_000_000, np.int8))) < 20
    assert codec.entropy(np.zeros(5, np.int8)) == codec.entropy([]) == 0


def test_any_whole_numbers_are_taken() -> None:
    """Lists, other integers and shapes are converted where nothing is lost."""
    np.testing.assert_array_equal(codec.decode(codec.encode([[1, -1], [0, 2]])), [1, -1, 0, 2])
    np.testing.assert_array_equal(codec.decode(bytearray(codec.encode(np.array([5, -7])))), [5, -7])
    strided = _codes(1000, 0.5)[::3]
    np.testing.assert_array_equal(codec.decode(codec.encode(strided)), strided)


@pytest.mark.parametrize(
    ("codes", "alphabet", "words"),
    [
        ([0, 2], "ternary", "code 2 at index 1"),
        ([0, -3], "five", "code -3 at index 1"),
        ([0], "bits", "alphabet is 'bits'"),
        ([300], None, "300"),
        ([0.5], None, "float64"),
        ("text", None, "codes"),
    ],
)
def test_bad_codes_are_refused(codes: object, alphabet: str | None, words: str) -> None:
    """The message names what is wrong."""
    with pytest.raises(ph.InvalidArgumentError, match=words):
        codec.encode(codes, alphabet)  # type: ignore[arg-type]


def test_damaged_data_are_refused() -> None:
    """Cut anywhere or with any bit flipped; what is no buffer; claims beyond the limit."""
    data = codec.encode(_codes(400, 0.6))
    for cut in range(len(data)):
        with pytest.raises(ph.FileFormatError):
            codec.decode(data[:cut])
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ph.FileFormatError):
            codec.decode(bytes(changed))
    for nothing in (None, 7, "text"):
        with pytest.raises(ph.InvalidArgumentError):
            codec.decode(nothing)
    with pytest.raises(ph.FileFormatError, match="max_codes"):
        codec.decode(codec.encode(np.zeros(1001, np.int8)), max_codes=1000)


def test_symbols_are_packed_codes() -> None:
    """The fast way gives the bytes of the canonical packing."""
    from pyhybrid._buffers import pointer
    from pyhybrid._native import lib

    codes = _codes(12_345, 0.5)
    data, packed = np.frombuffer(codec.encode(codes), np.uint8), np.empty(2469, np.uint8)
    context = ph.default_context()
    status = lib.hyb_symbols_decode(
        context.handle, pointer(data), data.size, pointer(packed, write=True), packed.size
    )
    assert status == 0
    np.testing.assert_array_equal(unpack(packed, codes.size, packing="base3"), codes)


# ---- files ----


def test_compressed_files_are_like_any_other(tmp_path: Path) -> None:
    """A compressed model loads, gives the same text, and expands to the very bytes; in place, too."""
    source, target = _model(tmp_path / "a.hyb", threshold="lloyd"), tmp_path / "b.hyb"
    before = source.read_bytes()
    sizes = model_file.compress(source, target)
    assert sizes.expanded == len(before)
    assert sizes.compressed == target.stat().st_size < 0.98 * len(before)
    text = [ph.LanguageModel.load(path).generate(b"The ", tokens=20, seed=1) for path in (source, target)]
    assert text[0] == text[1]
    assert model_file.expand(target, target) == sizes
    assert target.read_bytes() == before
    model_file.compress(source, source)
    assert source.stat().st_size == sizes.compressed
    assert {path.name for path in tmp_path.iterdir()} == {"a.hyb", "b.hyb"}


def test_inspect_counts_every_byte(tmp_path: Path) -> None:
    """A compressed file's figures are its own; what coding would give is the same before and behind it."""
    source, target = _model(tmp_path / "a.hyb", threshold="lloyd"), tmp_path / "b.hyb"
    model_file.compress(source, target)
    before, after = ph.inspect(source, coding=True), ph.inspect(target)
    assert ph.inspect(source).tensors[0].coding is None
    assert (before.format_version, after.format_version) == (1, 3)
    assert after.expanded_bytes == before.file_bytes == before.expanded_bytes
    assert [tensor.coding for tensor in before.tensors] == [tensor.coding for tensor in after.tensors]
    assert before.config == after.config
    assert before.metadata == after.metadata
    assert before.ternary_bits_per_weight_counted > 1.6 > after.ternary_bits_per_weight_counted
    assert after.ternary_bits_per_weight_counted >= after.ternary_bits_per_weight > 1.5
    for tensor in before.tensors:
        coding = tensor.coding
        assert coding is not None
        if tensor.format == "ternary":
            assert coding.kind == "entropy"
            assert 0.4 < coding.zeros < 0.52
            assert coding.overhead is not None
            assert -0.001 < coding.overhead < 0.02
        if tensor.format == "f32":
            assert (coding.entropy, coding.overhead, coding.kind) == (None, None, "half")
    # Sections, other tensors and this sum are the file.
    assert after.file_bytes * 8 > after.ternary_bits_per_weight_counted * after.ternary_parameters


def test_perceptrons_are_inspected_and_compressed(tmp_path: Path) -> None:
    """`inspect` knows the other network, whose file is compressed as well."""
    network = ph.TernaryMLP([20, 64, 64, 3], loss="cross_entropy", seed=1)
    network.save(tmp_path / "a.hyb")
    model_file.compress(tmp_path / "a.hyb", tmp_path / "b.hyb")
    for name in ("a.hyb", "b.hyb"):
        info = ph.inspect(tmp_path / name)
        assert (info.architecture, info.layers, info.config) == ("perceptron", (20, 64, 64, 3), None)
        assert json.dumps(info.to_dict())
    x = np.random.default_rng(0).standard_normal((5, 20)).astype(np.float32)
    outputs = [ph.TernaryMLP.load(tmp_path / name).predict(x) for name in ("a.hyb", "b.hyb")]
    np.testing.assert_array_equal(outputs[0], outputs[1])


def test_golden_file_is_read() -> None:
    """The golden file of format version 3 opens with its shape."""
    info = ph.inspect(DATA / "golden_v3.hyb")
    assert (info.format_version, info.file_bytes, info.expanded_bytes) == (3, 1578, 1985)
    assert len(info.tensors) == 8


# ---- the command line ----


def test_cli_compress_and_expand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both commands write what the functions do, and say sizes."""
    source = _model(tmp_path / "model.hyb")
    before = source.read_bytes()
    assert cli.main(["compress", str(source), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    target = tmp_path / "model.compressed.hyb"
    assert report["target"] == str(target)
    assert report["expanded_bytes"] == len(before)
    assert report["compressed_bytes"] == target.stat().st_size
    assert cli.main(["compress", str(source), "-o", str(source)]) == 0
    assert "bits a parameter" in capsys.readouterr().out
    assert source.read_bytes() == target.read_bytes()
    assert cli.main(["info", str(source)]) == 0
    shown = capsys.readouterr().out
    assert f"format version 3, compressed from {len(before):,}" in shown
    assert "entropy" in shown
    assert cli.main(["expand", str(source), str(tmp_path / "back.hyb")]) == 0
    assert (tmp_path / "back.hyb").read_bytes() == before
    assert f"{len(before):,} bytes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["compress", "missing.hyb"], cli.BAD_INPUT, "cannot open"),
        (["compress", "text.hyb"], cli.BAD_INPUT, "not a .hyb file"),
        (["compress", "v3.hyb"], cli.BAD_INPUT, "compressed already"),
        (["expand", "v1.hyb", "out.hyb"], cli.BAD_INPUT, "not compressed"),
        (["compress", "v1.hyb", "-o", "no/folder.hyb"], cli.BAD_INPUT, "no/folder.hyb"),
        (["expand", "v3.hyb", "."], cli.BAD_INPUT, "."),
    ],
)
def test_cli_says_what_is_wrong(
    words: list[str],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line on standard error, exit code 3, and nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    Path("text.hyb").write_text("Hello, world", encoding="ascii")
    for version in (1, 3):
        Path(f"v{version}.hyb").write_bytes((DATA / f"golden_v{version}.hyb").read_bytes())
    assert cli.main(words) == code
    assert said in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"text.hyb", "v1.hyb", "v3.hyb"}


def test_cli_info_shows_perceptrons(capsys: pytest.CaptureFixture[str]) -> None:
    """A file of the other network is shown, not refused."""
    assert cli.main(["info", str(DATA / "golden_v2.hyb")]) == 0
    shown = capsys.readouterr().out
    assert "perceptron, 9 - 7 - 7 - 4" in shown
    assert "layer.1.weight" in shown
    assert cli.main(["info", str(DATA / "golden_v2.hyb"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["layers"] == [9, 7, 7, 4]
