"""Makes golden_*.npz: loss, logits and gradients of tiny models, computed by the PyTorch model in fp64.

When to use it: only when the definition of the model changes; needs the extra `peers`. Run it in the
repository root:

    python tests/data/make_goldens.py            writes the files
    python tests/data/make_goldens.py --check    computes them again and compares with the committed ones

Each file holds `config` (JSON), `tokens` uint32 [2, 6], `layout` (JSON: the C library's names and shapes),
`weights` and `gradients` (fp32, all tensors of the layout one behind the other), `logits` fp32 [5,
vocab_size] of the first sequence's inputs, `loss` (fp64, nats per token), and `activation_margin`: no value
lies closer to a rounding tie of its int8 code than this many steps. The seed of each case is the first one
whose margin is at least MARGIN. So a correct implementation in fp32 gets the very same integers, and what
remains are rounding errors of floats.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyhybrid.config import ModelConfig

FOLDER = Path(__file__).resolve().parent
# In steps of the int8 code. The fp32 error of an activation is below 2e-6 of the row's maximum in models of
# this size, which is 2.5e-4 of 127 steps.
MARGIN = 1e-3
# Weights are quantised from the same fp32 numbers on both sides; only the division w / s is rounded.
WEIGHT_MARGIN = 1e-5

_SHAPE: dict[str, Any] = {
    "vocab_size": 19,
    "dim": 12,
    "n_layers": 2,
    "n_heads": 2,
    "ffn_dim": 20,
    "max_context": 8,
}
_OTHER: dict[str, Any] = {**_SHAPE, "dim": 16, "n_heads": 4, "n_kv_heads": 2, "ffn_dim": 18}
_FULL: dict[str, Any] = {**_OTHER, "activation": "squared_relu", "sub_norms": True, "tied_embeddings": False}

CASES: dict[str, ModelConfig] = {
    "f32": ModelConfig(**_SHAPE, bits=32, embedding_bits=32),
    "f32_full": ModelConfig(**_FULL, bits=32, embedding_bits=32),
    "ternary": ModelConfig(**_SHAPE),
    "ternary_full": ModelConfig(**_FULL, scale="row", threshold="lloyd"),
    "int8": ModelConfig(**_SHAPE, bits=8, scale="row", embedding_bits=4),
    "int4": ModelConfig(**_OTHER, bits=4, embedding_bits=8),
    "int2": ModelConfig(**_OTHER, bits=2, scale="row", tied_embeddings=False),
    "binary": ModelConfig(**_SHAPE, bits=1, sub_norms=True),
}


def _draw(random: np.random.RandomState, shape: tuple[int, ...], width: float) -> NDArray[np.float32]:
    """Uniform in +-width, odd multiples of 2^-17: exact in fp32, never on a tie of a binary16 scale."""
    limit = int(width * 2**16)
    return ((2 * random.randint(-limit, limit, size=shape) + 1) / 2.0**17).astype(np.float32)


def draw_case(names: dict[str, tuple[int, ...]], config: ModelConfig, seed: int) -> tuple[Any, Any]:
    """Weights by name and tokens [2, 6] of a seed; RandomState's integers are the same in every NumPy."""
    random = np.random.RandomState(seed)
    weights = {}
    for name, shape in names.items():
        if len(shape) == 1:
            weights[name] = (1 + _draw(random, shape, 0.25)).reshape(1, -1)
        elif name.startswith("blk."):
            weights[name] = _draw(random, shape, float(np.sqrt(3 / shape[1])))
        else:
            weights[name] = _draw(random, shape, 0.25)
    return weights, random.randint(0, config.vocab_size, size=(2, 6)).astype(np.uint32)


def make_case(config: ModelConfig) -> dict[str, NDArray[Any]]:
    """The arrays of one golden file."""
    import torch

    from pyhybrid.benchmarks.torch_model import Decoder

    model = Decoder(config).double()
    names = {name: tuple(p.shape) for name, p in model.parameter_names().items()}
    for seed in range(100_000):
        weights, tokens = draw_case(names, config, seed)
        model.load(weights)
        windows = torch.from_numpy(tokens.astype(np.int64))
        activation_margin, weight_margin = model.margins(windows[:, :-1])
        if activation_margin >= MARGIN and weight_margin >= WEIGHT_MARGIN:
            break
    else:
        raise RuntimeError("no seed keeps the margins")
    loss = model.loss(windows)
    loss.backward()  # type: ignore[no-untyped-call]
    arrays: dict[str, NDArray[Any]] = {
        "config": np.array(json.dumps({name: getattr(config, name) for name in config.__dataclass_fields__})),
        "seed": np.array(seed),
        "tokens": tokens,
        "loss": np.array(loss.item()),
        "logits": model(windows[:1, :-1])[0].detach().numpy().astype(np.float32),
        "activation_margin": np.array(activation_margin),
    }
    gradients = model.gradients()
    arrays["layout"] = np.array(json.dumps({name: list(values.shape) for name, values in weights.items()}))
    arrays["weights"] = np.concatenate([values.ravel() for values in weights.values()])
    arrays["gradients"] = np.concatenate([gradients[name].ravel() for name in weights]).astype(np.float32)
    return arrays


def split(flat: NDArray[Any], layout: dict[str, list[int]]) -> dict[str, NDArray[Any]]:
    """The tensors of `weights` or `gradients` by name."""
    ends = np.cumsum([int(np.prod(shape)) for shape in layout.values()])
    parts = np.split(flat, ends[:-1])
    return {name: part.reshape(shape) for (name, shape), part in zip(layout.items(), parts, strict=True)}


def _check(path: Path, arrays: dict[str, NDArray[Any]]) -> bool:
    """Whether a committed file holds the same; floats to rounding, as PyTorch's sums may be reordered."""
    with np.load(path, allow_pickle=False) as stored:
        if set(stored.files) != set(arrays):
            return False
        for name, array in arrays.items():
            if array.dtype.kind != "f":
                if not np.array_equal(stored[name], array):
                    return False
            elif not np.allclose(stored[name], array, rtol=1e-6, atol=1e-9):
                return False
    return True


def main() -> int:
    """Writes or checks every case."""
    parser = argparse.ArgumentParser(description="Makes the golden files of the tests.")
    parser.add_argument(
        "--check", action="store_true", help="compare with the committed files, write nothing"
    )
    arguments = parser.parse_args()
    failed = 0
    for name, config in CASES.items():
        path = FOLDER / f"golden_{name}.npz"
        arrays = make_case(config)
        if arguments.check:
            good = path.exists() and _check(path, arrays)
            failed += not good
            print(f"{path.name}: {'as committed' if good else 'DIFFERS'}")
            continue
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        path.write_bytes(buffer.getvalue())
        size, seed, loss = path.stat().st_size, int(arrays["seed"]), float(arrays["loss"])
        print(f"{path.name}: {size} bytes, seed {seed}, loss {loss:.4f}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
