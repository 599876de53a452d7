"""Tests of pyhybrid.tokenizer: round trips, agreement with the `tokenizers` library, what is refused."""

from __future__ import annotations

import json
import os
import pickle
import random
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyhybrid._errors import FileFormatError, InvalidArgumentError, TruncatedFileError, UnsupportedError
from pyhybrid.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
SHAKESPEARE = ROOT.parent / "shared" / "data" / "tinyshakespeare.txt"
SPECIALS = ["<|endoftext|>", "<|end", "<s>", "<s>x", "é•", "  "]
HARD_TEXTS = [
    "",
    " ",
    "     ",
    "\n",
    "\n\n \n",
    "a ",
    "a   ",
    "   a",
    "a \t b",
    "a\t\tb",
    "I'm, you're, he'll, we've, it's, can't, she'd, I'M, 'S, ''s, x's's, 'l, 'lx, 'r 'v",
    "naïve café Ærøskøbing Łódź İstanbul ß ﬁ ǅ ª º ʰ",
    "e\u0301 n\u0303 \u0301x",
    "中文字符，日本語のテキスト。한국어 텍스트 𠀀𠀁",
    "😀👨‍👩‍👧‍👦 🇩🇪 👍🏽 ❤️",
    "١٢٣ १२३ ๑๒๓ 一二三 ⅣⅧ ½ ² ₃ ① 𝟘𝟙 ೧",
    "a\u00a0b\u3000c\u2028d\u2029e\u0085f\u1680g\u200bh\u180ei\ufeffj\u202fk",
    "a \u00a0b  \u3000c \u2028 d\u0085\u0085e",
    "\x00\x01\x1c\x1d\x1e\x1f \x7f\x80\x9f",
    "1,234.56 + 7e-8 = x_1; f(x){return x**2;} // ok?!...",
    "नमस्ते दुनिया กรุงเทพ العَرَبِيَّة עִבְרִית ქართული ꯃꯅꯤꯄꯨꯔꯤ",
    "\U0010ffff\U000e0001\uffff\ue000",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "<|endoftext|>a<s>b<s>xc <|end <|endoftext|<|endoftext|>  <s><s>é•é•",
    "a  b   c    d",
]


def docs_text() -> str:
    """The Python documentation text that comes with CPython."""
    topics = pytest.importorskip("pydoc_data.topics", reason="this Python has no pydoc_data.topics").topics
    return "\n".join(topics[key] for key in sorted(topics))


@pytest.fixture(scope="module")
def library() -> Any:
    """The `tokenizers` library; without it the comparisons are skipped."""
    return pytest.importorskip("tokenizers", reason="the tokenizers library is not installed")


@pytest.fixture(scope="module")
def trained(library: Any) -> str:
    """tokenizer.json of a BPE that the library trained on the documentation text and the hard texts."""
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = library.trainers.BpeTrainer(
        vocab_size=3000,
        special_tokens=SPECIALS,
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([docs_text(), *(HARD_TEXTS * 3)], trainer=trainer)
    text: str = tokenizer.to_str()
    return text


@pytest.fixture(
    params=[(regex, prefix) for regex in (True, False) for prefix in (True, False)],
    ids=lambda p: ("gpt2" if p[0] else "none") + ("-prefix" if p[1] else ""),
    scope="module",
)
def pair(request: pytest.FixtureRequest, library: Any, trained: str) -> tuple[Any, Tokenizer]:
    """The library's tokenizer and ours, for each kind of splitting."""
    use_regex, add_prefix_space = request.param
    theirs = library.Tokenizer.from_str(trained)
    theirs.pre_tokenizer = library.pre_tokenizers.ByteLevel(
        add_prefix_space=add_prefix_space, use_regex=use_regex
    )
    return theirs, Tokenizer.from_tokenizers(theirs)


def assert_same(pair: tuple[Any, Tokenizer], text: str) -> None:
    """Both encode a text to the same ids."""
    theirs, ours = pair
    expected = theirs.encode(text, add_special_tokens=False).ids
    actual = ours.encode(text).tolist()
    if actual != expected:
        at = next((i for i, (a, b) in enumerate(zip(actual, expected, strict=False)) if a != b), len(actual))
        pytest.fail(
            f"{text[:200]!r}: differs from token {at}: {actual[at : at + 8]}, not {expected[at : at + 8]}"
        )


def random_texts(seed: int, n: int) -> Iterator[str]:
    """Strings that mix alphabets, odd white space, special tokens and any code points."""
    generator = random.Random(seed)
    pools: list[Callable[[], str]] = [
        lambda: generator.choice("abcdefghijklmnopqrstuvwxyz"),
        lambda: generator.choice(" \t\n\r\u00a0\u3000\u2028\u0085\u200b"),
        lambda: " ",
        lambda: generator.choice(["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'"]),
        lambda: generator.choice("0123456789٣५²Ⅷ"),
        lambda: generator.choice('!?.,;:-_()[]{}<>|/\\"#'),
        lambda: generator.choice(["the", " the", "ing", " python", "print(", "self."]),
        lambda: generator.choice(SPECIALS),
        lambda: chr(generator.randrange(0xC0, 0x3000)),
        lambda: chr(generator.randrange(0x3000, 0xD800)),
        lambda: chr(generator.randrange(0xE000, 0x110000)),
    ]
    for _ in range(n):
        chosen = generator.sample(pools, generator.randint(1, 4))
        yield "".join(generator.choice(chosen)() for _ in range(generator.randint(0, 60)))


# ---- agreement with the library ----


def test_encode_hard_texts(pair: tuple[Any, Tokenizer]) -> None:
    """Texts that probe each alternative of the splitting pattern are encoded as the library does."""
    for text in HARD_TEXTS:
        assert_same(pair, text)
    for text in HARD_TEXTS:
        for other in HARD_TEXTS:
            assert_same(pair, text + other)


def test_encode_random_texts(pair: tuple[Any, Tokenizer]) -> None:
    """Five thousand seeded random strings are encoded as the library does, and decoded to themselves."""
    prefix = json.loads(pair[0].to_str())["pre_tokenizer"]["add_prefix_space"]
    for text in random_texts(20, 5000):
        assert_same(pair, text)
        if not prefix:
            assert pair[1].decode(pair[1].encode(text)) == text


def test_encode_documentation(pair: tuple[Any, Tokenizer]) -> None:
    """The whole documentation text, with and without splitting, is encoded as the library does."""
    text = docs_text()
    assert_same(pair, text if json.loads(pair[0].to_str())["pre_tokenizer"]["use_regex"] else text[:100_000])


def test_encode_shakespeare(library: Any, tmp_path: Path) -> None:
    """A vocabulary trained on tinyshakespeare encodes it as the library does; so does train_bpe's."""
    if not SHAKESPEARE.is_file():
        pytest.skip("../shared/data/tinyshakespeare.txt is not there")
    text = SHAKESPEARE.read_text(encoding="utf-8")[:300_000]
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8")
    ours = Tokenizer.train_bpe(path, 1024, ["<|endoftext|>"])
    assert ours.vocab_size == 1024
    tokens = ours.encode(text)
    assert ours.decode(tokens) == text
    assert 2.2 < len(text) / len(tokens) < 3.5  # characters a token: far from bytes, and from whole words

    theirs = library.Tokenizer(library.models.BPE())
    theirs.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = library.trainers.BpeTrainer(
        vocab_size=1024,
        min_frequency=2,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    theirs.train_from_iterator([text], trainer=trainer)
    assert_same((theirs, Tokenizer.from_tokenizers(theirs)), text)


def probed_code_points() -> list[int]:
    """All code points with HYB_TEST_EXHAUSTIVE=1 (a minute); else first blocks, edges of runs and samples."""
    surrogates = range(0xD800, 0xE000)
    if os.environ.get("HYB_TEST_EXHAUSTIVE"):
        return [c for c in range(0x110000) if c not in surrogates]
    categories = [unicodedata.category(chr(c)) for c in range(0x110000)]
    chosen = []
    for c in range(0x110000):
        at_edge = categories[max(c - 1, 0)] != categories[min(c + 1, 0x10FFFF)]
        if c not in surrogates and (c < 0x3400 or at_edge or c % (7 if c < 0x20000 else 61) == 0):
            chosen.append(c)
    return chosen


def test_encode_code_points(library: Any) -> None:
    """Every probed code point has the class that the library's regular expression gives it.

    A letter, a digit and a mark each merge with the first byte of the character behind them; so the tokens
    tell with which of the three it shares a piece.
    """
    alphabet = sorted(library.pre_tokenizers.ByteLevel.alphabet())
    unsplit = library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    code_points = probed_code_points()
    leads = dict.fromkeys(unsplit.pre_tokenize_str(chr(c))[0][0][0] for c in code_points)
    merges = [(first, lead) for first in "a1!" for lead in leads]
    vocab = {token: i for i, token in enumerate([*alphabet, *(a + b for a, b in merges)])}
    theirs = library.Tokenizer(library.models.BPE(vocab, merges))
    theirs.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    ours = Tokenizer.from_tokenizers(theirs)
    for start in range(0, len(code_points), 64):  # the library is fastest with short texts
        block = map(chr, code_points[start : start + 64])
        assert_same((theirs, ours), "".join(f"\na{c}\n1{c}\n!{c}" for c in block))


def test_encode_merge_listed_twice(library: Any) -> None:
    """Of a pair that tokenizer.json lists twice the last one counts, as in the library."""
    alphabet = sorted(library.pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*alphabet, "ab", "bc"])}
    content = json.loads(library.Tokenizer(library.models.BPE(vocab, [("a", "b")])).to_str())
    content["model"]["merges"] = [["a", "b"], ["b", "c"], ["a", "b"]]
    content["pre_tokenizer"] = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    theirs = library.Tokenizer.from_str(json.dumps(content))
    assert_same((theirs, Tokenizer.from_tokenizers(theirs)), "abc")


def test_from_tokenizers_file(pair: tuple[Any, Tokenizer], tmp_path: Path) -> None:
    """A saved tokenizer.json gives the tokenizer that the object gives; old files list merges as strings."""
    path = tmp_path / "tokenizer.json"
    pair[0].save(str(path))
    assert Tokenizer.from_tokenizers(path) == Tokenizer.from_tokenizers(str(path)) == pair[1]
    content = json.loads(path.read_text(encoding="utf-8"))
    content["model"]["merges"] = [" ".join(merge) for merge in content["model"]["merges"]]
    path.write_text(json.dumps(content), encoding="utf-8")
    assert Tokenizer.from_tokenizers(path) == pair[1]


def test_from_tokenizers_added_tokens(library: Any, trained: str) -> None:
    """Tokens that were added later, normalized or not, are found as the library finds them."""
    theirs = library.Tokenizer.from_str(trained)
    theirs.add_tokens(
        [
            "wörd",
            library.AddedToken("two words", normalized=True),
            library.AddedToken("wör", normalized=False),
        ]
    )
    with pytest.raises(UnsupportedError, match="may overlap"):
        Tokenizer.from_tokenizers(theirs)
    theirs = library.Tokenizer.from_str(trained)
    theirs.add_tokens(["wörd", "two words", "wörds"])
    ours = Tokenizer.from_tokenizers(theirs)
    for text in ["wörds wörd wör two words<s>two wordswörd", "two  words", "xwördsx"]:
        assert_same((theirs, ours), text)


# ---- what cannot be taken over ----


def refused(trained: str, change: Callable[[dict[str, Any]], object]) -> pytest.ExceptionInfo[Exception]:
    """The error for a tokenizer.json with a change."""

    class Source:
        def to_str(self) -> str:
            content = json.loads(trained)
            change(content)
            return json.dumps(content)

    with pytest.raises((UnsupportedError, FileFormatError)) as info:
        Tokenizer.from_tokenizers(Source())
    return info


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(normalizer={"type": "NFC"}), "normalizer NFC"),
        (lambda c: c.update(pre_tokenizer=None), "pre-tokenizer is none"),
        (lambda c: c.update(pre_tokenizer={"type": "Whitespace"}), "pre-tokenizer is Whitespace"),
        (
            lambda c: c.update(
                pre_tokenizer={
                    "type": "Sequence",
                    "pretokenizers": [{"type": "Split"}, {"type": "ByteLevel"}],
                }
            ),
            "Split, ByteLevel",
        ),
        (lambda c: c["model"].update(type="Unigram"), "Unigram"),
        (lambda c: c["model"].update(dropout=0.1), "dropout"),
        (lambda c: c["model"].update(ignore_merges=True), "ignore_merges"),
        (lambda c: c["model"].update(end_of_word_suffix="</w>"), "end_of_word_suffix"),
        (lambda c: c["model"].update(vocab=[]), "model.vocab"),
        (lambda c: c["model"]["vocab"].update({"x y": 10**9}), "ids must be"),
        (lambda c: c["model"]["vocab"].pop("Ā"), "0x00"),
        (lambda c: c["model"]["merges"].append(["a", "nowhere"]), "nowhere"),
        (lambda c: c["model"].pop("merges"), "merges"),
        (lambda c: c["added_tokens"][0].update(lstrip=True), "lstrip"),
        (lambda c: c["added_tokens"][0].update(single_word=True), "single_word"),
        (lambda c: c["added_tokens"][0].update(id=c["model"]["vocab"]["a"]), "ambiguous"),
        (lambda c: c.pop("model"), "model"),
    ],
)
def test_from_tokenizers_refused(
    trained: str, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    """A feature that would encode differently is refused by its name."""
    assert words in str(refused(trained, change).value)


def test_from_tokenizers_decode_only(trained: str, tmp_path: Path) -> None:
    """A tokenizer with splitting that is not supported gives its vocabulary; encoding says why not."""
    full = tmp_path / "full.json"
    full.write_text(trained, encoding="utf-8")
    content = json.loads(trained)
    content["normalizer"] = {"type": "NFC"}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    ours = Tokenizer.from_tokenizers(path, decode_only=True)
    assert ours.kind == "decode_only"
    tokens = Tokenizer.from_tokenizers(full).encode(HARD_TEXTS[11])
    assert ours.decode(tokens) == HARD_TEXTS[11]
    assert Tokenizer.deserialize(ours.serialize()) == ours
    with pytest.raises(UnsupportedError, match="only decode"):
        ours.encode("a")


def test_from_tokenizers_wrong_source(tmp_path: Path) -> None:
    """Something that is no tokenizer is refused with what it is."""
    with pytest.raises(InvalidArgumentError, match="int"):
        Tokenizer.from_tokenizers(3)
    with pytest.raises(FileNotFoundError):
        Tokenizer.from_tokenizers(tmp_path / "none.json")
    path = tmp_path / "bad.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(FileFormatError, match="no JSON"):
        Tokenizer.from_tokenizers(path)


# ---- training ----


def test_train_bpe_sources(library: Any, tmp_path: Path) -> None:
    """The same text as str, bytes, list and file trains the same vocabulary; specials come first."""
    text = "low lower lowest newer wider\n" * 50
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8")
    made = [
        Tokenizer.train_bpe(source, 280, ["<s>"]) for source in (text, text.encode(), [text], path, [path])
    ]
    assert all(tokenizer == made[0] for tokenizer in made)
    assert made[0].kind == "bpe"
    assert made[0].vocab_size <= 280
    assert made[0].encode("<s> lower").tolist()[0] == 0
    assert len(made[0].encode(" lower")) < 3
    prefixed = Tokenizer.train_bpe(text, 280, add_prefix_space=True)
    assert prefixed.decode(prefixed.encode("lower")) == " lower"


def test_train_bpe_invalid() -> None:
    """Wrong sizes and special tokens are refused before anything is read."""
    for size in (255, 256.5, True, 1 << 25):
        with pytest.raises(InvalidArgumentError, match="vocab_size"):
            Tokenizer.train_bpe("text", size)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="from 257"):
        Tokenizer.train_bpe("text", 256, ["<s>"])
    for specials in ("<s>", ["a", "a"], [""], [3]):
        with pytest.raises(InvalidArgumentError, match="special_tokens"):
            Tokenizer.train_bpe("text", 300, specials)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="min_frequency"):
        Tokenizer.train_bpe("text", 300, min_frequency=-1)


def test_train_bpe_without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library the error says how to install it."""
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"pip install 'pyhybrid\[tokenizers\]'"):
        Tokenizer.train_bpe("text", 300)


# ---- the object ----


def test_bytes_round_trip() -> None:
    """A byte tokenizer's tokens are the bytes, and any bytes come back."""
    tokenizer = Tokenizer.bytes()
    assert (tokenizer.kind, tokenizer.vocab_size) == ("bytes", 256)
    data = bytes(range(256)) * 3
    tokens = tokenizer.encode(data)
    assert tokens.dtype == np.uint32
    assert tokens.tolist() == list(data)
    assert tokenizer.decode_bytes(tokens) == data
    assert tokenizer.encode("").tolist() == []
    assert tokenizer.decode([]) == ""
    assert tokenizer.decode([0xC3, 0xA9, 0xFF]) == "é\ufffd"


def test_encode_any_bytes(pair: tuple[Any, Tokenizer]) -> None:
    """Bytes that are not UTF-8 are kept: decoding gives them back, apart from prefix spaces."""
    prefix = json.loads(pair[0].to_str())["pre_tokenizer"]["add_prefix_space"]
    generator = random.Random(21)
    for _ in range(500):
        data = generator.randbytes(generator.randint(1, 80))
        if generator.random() < 0.5:
            data = bytes(b & 0x7F if generator.random() < 0.8 else b for b in data)
        back = pair[1].decode_bytes(pair[1].encode(data))
        if prefix:  # spaces are added, nothing is lost
            assert back.replace(b" ", b"") == data.replace(b" ", b"")
        else:
            assert back == data


def test_encode_wrong_values() -> None:
    """What is no text, and text that UTF-8 cannot hold, is refused with a way out."""
    tokenizer = Tokenizer.bytes()
    with pytest.raises(InvalidArgumentError, match="int"):
        tokenizer.encode(3)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="lone surrogate at character 1"):
        tokenizer.encode("a\ud800")
    assert tokenizer.encode(bytearray(b"ab")).tolist() == [97, 98]  # type: ignore[arg-type]


def test_decode_wrong_ids() -> None:
    """Ids outside the vocabulary are named with their place; other values are no ids."""
    tokenizer = Tokenizer.bytes()
    with pytest.raises(InvalidArgumentError, match=r"ids\[1\] is 256"):
        tokenizer.decode([1, 256])
    for ids in ([-1], [1.5], ["a"], [[1]], 1):
        with pytest.raises(InvalidArgumentError, match="ids"):
            tokenizer.decode(ids)


def test_serialize_round_trip(pair: tuple[Any, Tokenizer]) -> None:
    """A tokenizer survives serialising and pickling, is equal to its copy and encodes like it."""
    ours = pair[1]
    copies: list[Tokenizer] = [Tokenizer.deserialize(ours.serialize()), pickle.loads(pickle.dumps(ours))]
    for copy in copies:
        assert copy == ours
        assert hash(copy) == hash(ours)
        assert copy.encode(HARD_TEXTS[10]).tolist() == ours.encode(HARD_TEXTS[10]).tolist()
    assert ours != Tokenizer.bytes()


def test_deserialize_refused() -> None:
    """Cut or foreign bytes give an error that says what is wrong."""
    section = Tokenizer.bytes().serialize()
    with pytest.raises(TruncatedFileError):
        Tokenizer.deserialize(section[:-1])
    with pytest.raises(FileFormatError, match="kind 9"):
        Tokenizer.deserialize(b"\x09" + section[1:])
    with pytest.raises(InvalidArgumentError):
        Tokenizer.deserialize("text")  # type: ignore[arg-type]


def test_tokenizer_immutable() -> None:
    """Attributes cannot be set, and the constructor names the ways to make one."""
    tokenizer = Tokenizer.bytes()
    with pytest.raises(AttributeError):
        tokenizer.vocab_size = 3  # type: ignore[misc]
    with pytest.raises(TypeError, match="train_bpe"):
        Tokenizer()
    assert repr(tokenizer) == "Tokenizer(kind='bytes', vocab_size=256)"


def test_encode_threads(pair: tuple[Any, Tokenizer]) -> None:
    """Threads that share a tokenizer get what one thread gets."""
    texts = list(random_texts(22, 50))
    expected = [pair[1].encode(text).tolist() for text in texts]
    results: list[list[list[int]]] = []

    def work() -> None:
        results.append([pair[1].encode(text).tolist() for text in texts])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 4
