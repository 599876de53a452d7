"""Generation on a device: the processor's text, the command line, what goes wrong. Emulated on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from pyhybrid import (
    Context,
    InvalidArgumentError,
    LanguageModel,
    NotFiniteError,
    OutOfMemoryError,
    StateError,
)
from pyhybrid.cuda import Device


@pytest.mark.parametrize("cache", ["f32", "int8"])
def test_generation_is_the_processors(device: Device, trained: str, cache: Any) -> None:
    """The same tokens at temperature 0 and drawn, from all and from the best, of several prompts."""
    model = LanguageModel.load(trained, context=Context(threads=1))
    for options in ({"temperature": 0.0}, {"temperature": 0.9}, {"top_k": 5, "top_p": 0.9}):
        given: dict[str, Any] = {"tokens": 8, "seed": 5, "cache": cache} | options
        prompts = [b"The quick", b"dog. "]
        ours = model.generate_all(prompts, device=device, **given)
        theirs = model.generate_all(prompts, **given)
        assert [r.tokens.tolist() for r in ours] == [r.tokens.tolist() for r in theirs]
        assert [(r.text, r.stop_reason) for r in ours] == [(r.text, r.stop_reason) for r in theirs]


def test_generation_streams_and_shifts(device: Device, trained: str) -> None:
    """Text past the model's context, a stop string, and a callback that ends or raises."""
    model = LanguageModel.load(trained, context=Context(threads=1))
    prompt = "The quick brown fox jumps over the lazy dog. "  # 45 of 48 positions
    given: dict[str, Any] = {"tokens": 6, "temperature": 0.0}
    pieces: list[str] = []
    text = model.generate(prompt, device=device, stream=lambda t, _: pieces.append(t), **given)
    assert text == "".join(pieces) == model.generate(prompt, **given)
    stop = text[2]
    assert model.generate(prompt, device=device, stop=stop, **given) == text[: text.index(stop)]

    def broken(_text: str, _sequence: int) -> None:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        model.generate(prompt, device=device, stream=broken, **given)
    assert model.generate(prompt, device=device, **given) == text


def test_generation_refuses(device: Device, trained: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No such device, a closed one, and one without room: errors with words; the model works on."""
    model = LanguageModel.load(trained, context=Context(threads=1))
    with pytest.raises(InvalidArgumentError, match="device is 'tpu'"):
        model.generate("The", device="tpu")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="empty"):
        model.generate("", device=device)
    if device.info.is_emulated:
        monkeypatch.setenv("HYB_EMULATION_BYTES", "4096")
        with pytest.raises(OutOfMemoryError):
            model.generate("The", tokens=2, device=device)
        monkeypatch.delenv("HYB_EMULATION_BYTES")
    assert model.generate("The", tokens=2, device=device) == model.generate("The", tokens=2)
    device.close()
    with pytest.raises(StateError, match="closed"):
        model.generate("The", tokens=2, device=device)


def test_generation_reports_what_is_not_finite(device: Device, model: LanguageModel, tmp_path: Path) -> None:
    """A model whose gain is not finite is refused as on the processor."""
    gain = model.parameters()["final_norm"].values
    assert gain is not None
    gain[...] = 3e38
    for chosen in (None, device):
        with pytest.raises(NotFiniteError):
            model.generate("The", tokens=2, device=chosen)


def test_generation_command(
    emulated_module: Path, trained: str, python: Callable[..., CompletedProcess[str]]
) -> None:
    """`pyhybrid generate --device cuda` prints the processor's text; without a module it says why not."""
    command = ["-m", "pyhybrid", "generate", trained, "--prompt", "The ", "--tokens", "5", "--json"]
    theirs = python(*command)
    ours = python(*command, "--device", "cuda", HYB_CUDA_LIBRARY=str(emulated_module))
    assert (ours.returncode, ours.stdout) == (theirs.returncode, theirs.stdout) == (0, theirs.stdout)
    absent = python(*command, "--device", "cuda", HYB_CUDA_LIBRARY="/no/such/module.so")
    assert absent.returncode == 1
    assert "no CUDA module" in absent.stderr
