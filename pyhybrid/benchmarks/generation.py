"""Generation speed: new tokens a second for one sequence, greedy, cached, beside PyTorch eager.

Both sides hold weights that were quantised once. The peer is torch_model.py: fake-quantised fp32, a cache of
its own. Weights are the initial ones: the speed does not depend on them. The limit is reading the packed
weights and the cache once for each token. The row of memory is the peak of a whole process that loads and
generates.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pyhybrid.benchmarks.operations import decode_bytes
from pyhybrid.benchmarks.registry import Answer, Goal, Limit, Options, Row, UnavailableError
from pyhybrid.config import PRESETS
from pyhybrid.language_model import LanguageModel

__all__ = ["Memory", "MemoryImports", "MemoryTorch", "Ours", "TorchEager", "rows"]

_PROMPT = [int(byte) for byte in b"The quick brown fox "]
# Logits of the two sides: an activation on the other side of a rounding tie moves them by about 1 / 127 of
# its share.
_LOGITS_BOUND = 2e-2


class Ours:
    """pyhybrid.LanguageModel, loaded from a file."""

    def __init__(self, *, preset: str, tokens: int, threads: int) -> None:
        from pyhybrid._context import Context

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


# What a process of its own runs: argv 1 is the file or the preset, 2 the number of tokens, 3 the threads.
_SCRIPTS = {
    "ours": """
import sys, numpy
from pyhybrid._context import Context
from pyhybrid.language_model import LanguageModel
model = LanguageModel.load(sys.argv[1], context=Context(threads=int(sys.argv[3])))
model.generate(numpy.array([1, 2, 3], numpy.uint32), tokens=int(sys.argv[2]), temperature=0.0)
""",
    "torch": """
import sys
from pyhybrid.benchmarks.generation import TorchEager
TorchEager(preset=sys.argv[1], tokens=int(sys.argv[2]), threads=int(sys.argv[3])).run(0)
""",
    "import": "import numpy, pyhybrid.language_model",
}
# The last line of each script: Linux says the peak in kB.
_PEAK = """
import re
print(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
"""


def _peak(script: str, *arguments: object) -> float:
    """MiB that a fresh process had resident at most."""
    if not Path("/proc/self/status").exists():
        raise UnavailableError("the peak of a process is read from /proc")
    command = [sys.executable, "-P", "-c", _SCRIPTS[script] + _PEAK, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) / 1024


class Memory:
    """A fresh process that loads a model file and generates; what its imports need is in it."""

    script = "ours"

    def __init__(self, *, preset: str, tokens: int, threads: int) -> None:
        self.preset, self.tokens, self.threads = preset, tokens, threads

    def answer(self) -> Answer:
        """Nothing: the rows of speed compare the logits."""
        return {"tokens": np.array(self.tokens)}

    def run(self, _: int) -> float:
        """Peak resident memory in MiB."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model.hyb"
            LanguageModel(PRESETS[self.preset].model, seed=1).save(path)
            return _peak("ours", path, self.tokens, self.threads)


class MemoryTorch(Memory):
    """The same with PyTorch: its fp32 weights come from our initial ones, made in the same process."""

    def run(self, _: int) -> float:
        """Peak resident memory in MiB."""
        import torch  # noqa: F401  skips the peer where it is missing

        return _peak("torch", self.preset, self.tokens, self.threads)


class MemoryImports(Memory):
    """The imports alone."""

    def run(self, _: int) -> float:
        """Peak resident memory in MiB."""
        return _peak("import")


def _speed_row(preset: str, threads: int) -> Row:
    here = "pyhybrid.benchmarks.generation"
    tokens = 100 if preset in ("tiny", "small") else 64
    text = f"Generation with `{preset}` on {threads} thread(s) is at least as fast as PyTorch eager's."
    config = PRESETS[preset].model
    weights = LanguageModel.memory_estimate(config).weight_bytes
    n_bytes = decode_bytes(weights, config, len(_PROMPT) + tokens / 2)
    return Row(
        name=f"generate/{preset}/{threads}-threads",
        section="generate",
        unit="tokens/s",
        better="higher",
        ours=f"{here}:Ours",
        peers={"PyTorch eager": f"{here}:TorchEager"},
        sizes={"preset": preset, "tokens": tokens},
        threads=threads,
        rounds=5,
        agreement={"logits": _LOGITS_BOUND},
        limits=(Limit(kind="read", per_unit=n_bytes, working_set=int(n_bytes)),),
        goal=Goal(text=text, kind="ratio", limit=1.0, peer="PyTorch eager"),
    )


def rows(options: Options) -> list[Row]:
    """Every chosen preset, and `large`, at every chosen number of threads; the memory of `large`."""
    here = "pyhybrid.benchmarks.generation"
    presets = dict.fromkeys((*options.presets, "large"))
    memory = Row(
        name="generate/large/peak-memory",
        section="generate",
        unit="MiB",
        better="lower",
        ours=f"{here}:Memory",
        peers={"PyTorch eager": f"{here}:MemoryTorch", "imports alone": f"{here}:MemoryImports"},
        sizes={"preset": "large", "tokens": 16},
        rounds=3,
        agreement={"tokens": 0.0},
        note="Peak memory: of a whole process, Python and its imports included.",
    )
    return [*(_speed_row(preset, threads) for preset in presets for threads in options.threads), memory]
