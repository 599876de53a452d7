"""Generation speed: new tokens a second for one sequence, greedy, cached, beside PyTorch eager.

Both sides hold weights that were quantised once. The peer is torch_model.py: fake-quantised fp32, a cache of
its own. Weights are the initial ones: the speed does not depend on them.
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pyhybrid.benchmarks.registry import Answer, Options, Row
from pyhybrid.config import PRESETS

__all__ = ["Ours", "TorchEager", "rows"]

_PROMPT = [int(byte) for byte in b"The quick brown fox "]
# Logits of the two sides: an activation on the other side of a rounding tie moves them by about 1 / 127 of
# its share.
_LOGITS_BOUND = 2e-2


class Ours:
    """pyhybrid.LanguageModel, loaded from a file."""

    def __init__(self, *, preset: str, tokens: int, threads: int) -> None:
        from pyhybrid._context import Context
        from pyhybrid.language_model import LanguageModel

        context = Context(threads=threads)
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model.hyb"
            LanguageModel(PRESETS[preset].model, seed=1, context=context).save(path)
            self.model = LanguageModel.load(path, context=context)
        self.tokens = tokens

    def answer(self) -> Answer:
        """Logits of the prompt."""
        return {"logits": np.array(self.model.logits(np.array(_PROMPT, np.uint32)))}

    def run(self, _: int) -> float:
        """New tokens a second, the prompt's time included."""
        start = time.perf_counter()
        self.model.generate(np.array(_PROMPT, np.uint32), tokens=self.tokens, temperature=0.0)
        return self.tokens / (time.perf_counter() - start)


class TorchEager:
    """torch_model.Decoder with folded weights."""

    def __init__(self, *, preset: str, tokens: int, threads: int) -> None:
        import torch

        from pyhybrid.benchmarks.torch_model import Decoder
        from pyhybrid.benchmarks.training import initial_weights

        torch.set_num_threads(threads)
        config = PRESETS[preset].model
        self.model = Decoder(config)
        self.model.load(initial_weights(config, 1))
        self.model.fold()
        self.tokens = tokens

    def answer(self) -> Answer:
        """Logits of the prompt."""
        import torch

        with torch.no_grad():
            return {"logits": self.model(torch.tensor([_PROMPT]))[0].numpy()}

    def run(self, _: int) -> float:
        """New tokens a second, the prompt's time included."""
        from pyhybrid.benchmarks.torch_model import generate

        start = time.perf_counter()
        generate(self.model, _PROMPT, self.tokens)
        return self.tokens / (time.perf_counter() - start)


def rows(options: Options) -> list[Row]:
    """Every chosen preset at every chosen number of threads."""
    here = "pyhybrid.benchmarks.generation"
    return [
        Row(
            name=f"generate/{preset}/{threads}-threads",
            section="generate",
            unit="tokens/s",
            better="higher",
            ours=f"{here}:Ours",
            peers={"PyTorch eager": f"{here}:TorchEager"},
            sizes={"preset": preset, "tokens": 128 if preset in ("tiny", "small") else 64},
            threads=threads,
            rounds=5,
            agreement={"logits": _LOGITS_BOUND},
        )
        for preset in options.presets
        for threads in options.threads
    ]
