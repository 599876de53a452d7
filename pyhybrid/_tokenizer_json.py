"""What a tokenizer is made of, and how a Hugging Face tokenizer.json becomes it.

Place in the data flow: tokenizer.json -> `read_json` -> `describe` -> `Description` -> tokenizer.py, which
passes it to the C library. Whatever would encode differently there is refused here, by its name.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pyhybrid._errors import FileFormatError, InvalidArgumentError, UnsupportedError
from pyhybrid._native import lib

__all__ = ["MAX_VOCAB", "Description", "describe", "read_json"]

#: The most tokens that a vocabulary may have.
MAX_VOCAB = 1 << 24


class Description(NamedTuple):
    """What hyb_tokenizer_description holds, of which this is the Python form.

    Args:
        kind: hyb_tokenizer_kind.
        pretokenizer: hyb_pretokenizer.
        add_prefix_space: whether a space is put before a text that does not begin with one.
        tokens: the bytes of each token.
        merges: pairs of ids, highest priority first.
        specials: ids of the tokens that are found in a text before anything else.
    """

    kind: int
    pretokenizer: int = lib.HYB_PRETOKENIZER_NONE
    add_prefix_space: bool = False
    tokens: Sequence[bytes] = ()
    merges: Sequence[tuple[int, int]] = ()
    specials: Sequence[int] = ()


def read_json(source: Any) -> Mapping[str, Any]:
    """Reads a tokenizer.json from a path, a tokenizers.Tokenizer, or what has one as `backend_tokenizer`.

    Raises:
        InvalidArgumentError: something else.
        FileFormatError: not a tokenizer.json.
        OSError: the file cannot be read.
    """
    if isinstance(source, str | os.PathLike):
        text, name = Path(source).read_text(encoding="utf-8"), str(source)
    else:
        backend = getattr(source, "backend_tokenizer", source)
        if not callable(getattr(backend, "to_str", None)):
            raise InvalidArgumentError(
                f"source is {type(source).__name__}; pass a tokenizer.json's path or a tokenizers.Tokenizer"
            )
        text, name = backend.to_str(), type(source).__name__
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{name} is no JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise FileFormatError(f"{name} is no tokenizer.json: it has no object 'model'")
    return content


@functools.cache
def _byte_of_char() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 characters stand for their byte, U+0100 ... for the rest in order.

    Source: Radford et al. 2019.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(rest)}


def _token_bytes(token: str) -> bytes:
    """The bytes of a vocabulary entry; one with characters outside GPT-2's alphabet is its own UTF-8."""
    alphabet = _byte_of_char()
    try:
        return bytes([alphabet[character] for character in token])
    except KeyError:
        return token.encode("utf-8", errors="surrogatepass")


def describe(content: Mapping[str, Any], decode_only: bool) -> Description:
    """Translates a tokenizer.json.

    Args:
        content: from `read_json`.
        decode_only: take the vocabulary alone.

    Raises:
        UnsupportedError: a feature that would encode differently in the C library.
        FileFormatError: fields that are missing or contradict each other.
    """
    model = content["model"]
    if model.get("type", "BPE") != "BPE":
        raise UnsupportedError(f"the model is {model.get('type')!r}; only byte-level BPE is supported")
    vocab, added = _vocabulary(model), _added_tokens(content)
    tokens = _tokens(vocab, added)
    if decode_only:
        if not any(
            part.get("type") == "ByteLevel"
            for key in ("decoder", "pre_tokenizer")
            for part in _parts(content, key)
        ):
            raise UnsupportedError("this tokenizer has no ByteLevel part; only byte-level BPE is supported")
        return Description(lib.HYB_TOKENIZER_DECODE_ONLY, tokens=tokens)
    _check_model(model)
    _check_added(content["added_tokens"] if added else ())
    if _parts(content, "normalizer"):
        names = ", ".join(str(part.get("type")) for part in _parts(content, "normalizer"))
        raise UnsupportedError(
            f"the normalizer {names} is not supported; decode_only=True takes the vocabulary alone"
        )
    pretokenizer, add_prefix_space = _pretokenizer(content)
    merges = _merges(model, vocab)
    _check_ids(vocab, added, tokens, merges)
    return Description(
        lib.HYB_TOKENIZER_BPE, pretokenizer, add_prefix_space, tokens, list(merges), list(added)
    )


def _parts(content: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """The steps of a normalizer, pre-tokenizer or decoder: a sequence is flattened."""
    part = content.get(key)
    if part is None:
        return []
    if not isinstance(part, dict):
        raise FileFormatError(f"{key} must be an object or null")
    if part.get("type") != "Sequence":
        return [part]
    steps = next((part[name] for name in ("normalizers", "pretokenizers", "decoders") if name in part), None)
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise FileFormatError(f"{key} is a Sequence without a list of objects")
    return [inner for step in steps for inner in _parts({key: step}, key)]


def _vocabulary(model: Mapping[str, Any]) -> dict[str, int]:
    vocab = model.get("vocab")
    if not isinstance(vocab, dict) or not all(
        type(token_id) is int and token_id >= 0 for token_id in vocab.values()
    ):
        raise FileFormatError("model.vocab must be an object of tokens and their ids")
    if len(set(vocab.values())) != len(vocab):
        raise FileFormatError("model.vocab has two tokens with the same id")
    return vocab


def _added_tokens(content: Mapping[str, Any]) -> dict[int, str]:
    """Added tokens by id, in their order; empty ones are ignored, as the library does."""
    given = content.get("added_tokens") or []
    if not isinstance(given, list) or not all(
        isinstance(token, dict) and type(token.get("id")) is int and isinstance(token.get("content"), str)
        for token in given
    ):
        raise FileFormatError("added_tokens must be a list of objects with 'id' and 'content'")
    return {token["id"]: token["content"] for token in given if token["content"]}


def _tokens(vocab: Mapping[str, int], added: Mapping[int, str]) -> list[bytes]:
    """The bytes of each id; an id that nobody has is an empty token."""
    largest = max((*vocab.values(), *added), default=-1)
    if not 0 <= largest < MAX_VOCAB or min(added, default=0) < 0:
        raise FileFormatError(f"the ids must be from 0 to {MAX_VOCAB - 1}, and at least one")
    tokens = [b""] * (largest + 1)
    for token, token_id in vocab.items():
        tokens[token_id] = _token_bytes(token)
    for token_id, text in added.items():
        tokens[token_id] = text.encode("utf-8", errors="surrogatepass")
    return tokens


def _check_model(model: Mapping[str, Any]) -> None:
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"):
        if model.get(option):
            raise UnsupportedError(
                f"model.{option} is {model[option]!r}, which is not supported; decode_only=True takes the "
                "vocabulary alone"
            )


def _check_added(added: Sequence[Mapping[str, Any]]) -> None:
    """Raises for added tokens that are found in another way than leftmost, longest, in one pass."""
    for token in added:
        for option in ("single_word", "lstrip", "rstrip"):
            if token.get(option):
                raise UnsupportedError(
                    f"added token {token['content']!r} has {option}, which is not supported; set it to "
                    "false, or take the vocabulary alone with decode_only=True"
                )
    # The library finds tokens with `normalized` in a second pass. One pass does the same, unless one of them
    # could begin before a token of the first pass and reach into it, or contain it.
    first = [token["content"] for token in added if token["content"] and not token.get("normalized")]
    second = [token["content"] for token in added if token["content"] and token.get("normalized")]
    for later in second:
        for sooner in first:
            if sooner in later or any(later.endswith(sooner[:n]) for n in range(1, len(sooner))):
                raise UnsupportedError(
                    f"the added tokens {sooner!r} and {later!r} (normalized) may overlap; set normalized to "
                    "false"
                )


def _pretokenizer(content: Mapping[str, Any]) -> tuple[int, bool]:
    parts = _parts(content, "pre_tokenizer")
    if len(parts) != 1 or parts[0].get("type") != "ByteLevel":
        names = ", ".join(str(part.get("type")) for part in parts) or "none"
        raise UnsupportedError(
            f"the pre-tokenizer is {names}; only a single ByteLevel is supported; decode_only=True takes the "
            "vocabulary alone"
        )
    split = lib.HYB_PRETOKENIZER_GPT2 if parts[0].get("use_regex", True) else lib.HYB_PRETOKENIZER_NONE
    return split, bool(parts[0].get("add_prefix_space", True))


def _merges(model: Mapping[str, Any], vocab: Mapping[str, int]) -> dict[tuple[int, int], int]:
    """The result of each pair, by falling priority; of a pair that is listed twice the last one counts."""
    given = model.get("merges")
    if not isinstance(given, list):
        raise FileFormatError("model.merges must be a list")
    merges: dict[tuple[int, int], int] = {}
    for i, merge in enumerate(given):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(token, str) for token in pair):
            raise FileFormatError(f"model.merges[{i}] must be two tokens")
        left, right, joined = vocab.get(pair[0]), vocab.get(pair[1]), vocab.get(pair[0] + pair[1])
        if left is None or right is None or joined is None:
            raise FileFormatError(
                f"model.merges[{i}], {pair!r}: the tokens or their result are not in the vocabulary"
            )
        merges.pop((left, right), None)
        merges[left, right] = joined
    return merges


def _check_ids(
    vocab: Mapping[str, int],
    added: Mapping[int, str],
    tokens: Sequence[bytes],
    merges: Mapping[tuple[int, int], int],
) -> None:
    """Raises unless the C library, which knows tokens by their bytes, finds the ids that the library uses."""
    found: dict[bytes, int] = {}
    for special in (False, True):
        for token_id, token in enumerate(tokens):
            if (token_id in added) == special:
                found.setdefault(token, token_id)
    for character, byte in _byte_of_char().items():
        if character not in vocab:
            raise UnsupportedError(
                f"the vocabulary lacks {character!r}, the byte 0x{byte:02x}; byte-level BPE has all 256"
            )
        if found.get(bytes([byte])) != vocab[character]:
            raise UnsupportedError(
                f"the byte 0x{byte:02x} is ambiguous: an added token has its id or its bytes"
            )
    for (left, right), joined in merges.items():
        if found.get(tokens[left] + tokens[right]) != joined:
            raise UnsupportedError(
                f"the merge of tokens {left} and {right} is ambiguous: token {joined} is an added token with "
                "another text, or a second one has the same bytes"
            )
