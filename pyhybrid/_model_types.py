"""What a language model's methods return: small immutable records.

Place in the data flow: language_model.py makes them; users, the trainer and the command line read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pyhybrid._buffers import Array
from pyhybrid._state_8bit import decode_moment

__all__ = [
    "Evaluation",
    "Generation",
    "GradientStatistics",
    "MemoryEstimate",
    "Parameter",
    "ParameterCount",
    "TrustStatistics",
    "UpdateStatistics",
]


class GradientStatistics(NamedTuple):
    """What a forward and backward pass saw.

    Args:
        loss: mean cross-entropy, nats per token.
        gradient_norm: Euclidean norm over all parameters, before clipping.
    """

    loss: float
    gradient_norm: float


class UpdateStatistics(NamedTuple):
    """What an update changed, over the layers' quantised matrices.

    Args:
        flipped_share: share of codes that differ from those before.
        zero_share: share of codes that are 0.
    """

    flipped_share: float
    zero_share: float


class ParameterCount(NamedTuple):
    """Numbers of parameters.

    Args:
        total: all of them.
        linear: those in the layers' matrices.
    """

    total: int
    linear: int


class TrustStatistics(NamedTuple):
    """What a trust-region step did.

    Args:
        flipped_share: share of the layers' codes that changed.
        zero_share: share of the layers' codes that are 0.
        change_norm: Euclidean norm of the change of the layers' matrices.
        shortened_share: share of the balls (a matrix's or tensor's own, or the one around everything) whose
            radius shortened the step.
    """

    flipped_share: float
    zero_share: float
    change_norm: float
    shortened_share: float


class MemoryEstimate(NamedTuple):
    """Bytes that a model takes.

    Args:
        weight_bytes: parameters, codes and packed weights.
        training_bytes: gradients, moments and activations.
    """

    weight_bytes: int
    training_bytes: int

    @property
    def total_bytes(self) -> int:
        """Both together."""
        return self.weight_bytes + self.training_bytes


class Evaluation(NamedTuple):
    """How well a model predicts a text.

    Args:
        loss: nats per predicted token.
        perplexity: exp(loss).
        bits_per_byte: bits per byte of the predicted text; NaN if the tokens have no text.
        tokens: number of predicted tokens.
        bytes: bytes of text that they stand for.
    """

    loss: float
    perplexity: float
    bits_per_byte: float
    tokens: int
    bytes: int


@dataclass(frozen=True)
class Parameter:
    """One tensor of a model; the arrays are views of the model's memory, which they keep alive.

    Args:
        name: 'embedding', 'blk.0.attn_q', ...
        index: place in the file's order.
        format: 'f32', 'ternary', 'binary', 'int2', 'int4' or 'int8'.
        scale: what one weight scale covers, 'tensor' or 'row'.
        shape: (rows, columns); a norm gain has one row.
        values: float32 master weights; None in a loaded model. Call `LanguageModel.touch` after writing.
        gradient: float32, of the last `gradients`; None before `prepare`.
        first_moment: float32, the optimiser's; None before `prepare`, and with 8 bits.
        second_moment: as first_moment; None where the optimiser has none, too.
        last_change: float32, of the last trust-region step; None where the optimiser has none.
        row_moment: float32 [1, rows], running mean squares of the directions' rows; as last_change.
        spectral_bound: float32 [1, 1], of the values' largest singular value; as last_change.
        state_8bit: the moments in 8 bits: uint8 'first_codes' and 'second_codes' [rows, columns], float32
            'first_scales' and 'second_scales' [rows, blocks of 256 columns], those that there are; their
            meaning is in hybrid/optimize.h.
    """

    name: str
    index: int
    format: str
    scale: str
    shape: tuple[int, int]
    values: Array | None
    gradient: Array | None
    first_moment: Array | None
    second_moment: Array | None
    last_change: Array | None = None
    row_moment: Array | None = None
    spectral_bound: Array | None = None
    state_8bit: Mapping[str, Array] = field(default_factory=dict)

    @property
    def is_layer_matrix(self) -> bool:
        """True for a layer's matrix; False for embedding, head, norm gains and biases."""
        return self.name.startswith(("blk.", "layer.")) and not self.name.endswith(("_norm", ".bias"))

    @property
    def optimizer_state(self) -> dict[str, Array]:
        """The arrays that the optimiser keeps, by name."""
        arrays = {
            "first_moment": self.first_moment,
            "second_moment": self.second_moment,
            "last_change": self.last_change,
            "row_moment": self.row_moment,
            "spectral_bound": self.spectral_bound,
        }
        return {name: array for name, array in arrays.items() if array is not None} | dict(self.state_8bit)

    def moments(self) -> dict[str, Array]:
        """Returns copies of the optimiser's moments, by name, as float32 whatever they are kept in."""
        found = {"first_moment": self.first_moment, "second_moment": self.second_moment}
        copies = {name: array.copy() for name, array in found.items() if array is not None}
        for kind in ("first", "second"):
            if f"{kind}_codes" in self.state_8bit:
                codes, scales = self.state_8bit[f"{kind}_codes"], self.state_8bit[f"{kind}_scales"]
                copies[f"{kind}_moment"] = decode_moment(kind, codes, scales)
        return copies


@dataclass(frozen=True)
class Generation:
    """What was generated from one prompt.

    Args:
        text: the new text, without the prompt and without a stop string.
        tokens: uint32 [n], all new tokens.
        stop_reason: 'length' (tokens or context used up), 'stop' (a stop string) or 'callback'.
    """

    text: str
    tokens: Array
    stop_reason: str
