"""Gradients in 1.6 to 2.4 bits a value, with the error fed back: the C functions on NumPy arrays.

Place in the data flow: between a step's gradients and the optimiser (or another machine). What a step's codes
cannot say is kept in a residual by name and added to the next step's gradient, so that the sum over many
steps follows the true sum; a single step's direction does not: see `SignalTracker` for the true figures.
Sources: Seide et al. 2014, "1-Bit Stochastic Gradient Descent"; Karimireddy et al. 2019, "Error Feedback
Fixes SignSGD".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pyhybrid._buffers import Array, input_array, output_array, pointer
from pyhybrid._context import Context, default_context
from pyhybrid._errors import FileFormatError, InvalidArgumentError, NotFiniteError
from pyhybrid._native import ffi, lib

__all__ = [
    "CompressedGradient",
    "CompressionStatistics",
    "GradientCompressor",
    "SignalTracker",
    "message_layout",
]

Scheme = Literal["row", "block", "five"]
SCHEMES: dict[str, int] = {
    "row": lib.HYB_COMPRESSION_ROW,
    "block": lib.HYB_COMPRESSION_BLOCK,
    "five": lib.HYB_COMPRESSION_FIVE,
}
BLOCK_SIZES = (32, 64)


class CompressionStatistics(NamedTuple):
    """How well codes stand for a gradient.

    Args:
        gradient_squares: sum of the squares of the gradient, without a residual.
        compressed_squares: sum of the squares of the values that the codes give.
        product: sum of the products of both.
        bytes: of codes and scales.
        values: numbers in the gradient.
    """

    gradient_squares: float
    compressed_squares: float
    product: float
    bytes: int
    values: int

    @property
    def cosine(self) -> float:
        """Cosine of the compressed to the true gradient of this step; 1 if both are zero, 0 if one is."""
        return _cosine(self.gradient_squares, self.compressed_squares, self.product)

    @property
    def norm_ratio(self) -> float:
        """Norm of the compressed gradient by that of the true one; NaN if the latter is zero."""
        if self.gradient_squares == 0:
            return math.nan
        return math.sqrt(self.compressed_squares / self.gradient_squares)

    @property
    def bits_per_value(self) -> float:
        """Bits of a value, scales included."""
        return 8 * self.bytes / self.values if self.values else 0.0

    @classmethod
    def together(cls, parts: Iterable[CompressionStatistics]) -> CompressionStatistics:
        """Returns the statistics of several gradients taken as one vector."""
        each = list(parts)
        return cls(
            math.fsum(part.gradient_squares for part in each),
            math.fsum(part.compressed_squares for part in each),
            math.fsum(part.product for part in each),
            sum(part.bytes for part in each),
            sum(part.values for part in each),
        )


def _cosine(squares_a: float, squares_b: float, product: float) -> float:
    if squares_a == 0 or squares_b == 0:
        return 1.0 if squares_a == squares_b else 0.0
    return product / (math.sqrt(squares_a) * math.sqrt(squares_b))


@dataclass(frozen=True)
class CompressedGradient:
    """A gradient as bytes; they and the other fields are all that `GradientCompressor.decompress` needs.

    Args:
        data: codes, then bfloat16 scales; the layout is that of hybrid/compress.h.
        shape: of the gradient.
        scheme: 'row', 'block' or 'five'.
        block_size: values that share a scale with 'block'; 0 otherwise.
    """

    data: bytes
    shape: tuple[int, ...]
    scheme: Scheme
    block_size: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return len(self.data)

    @property
    def bits_per_value(self) -> float:
        """Bits of a value, scales included."""
        return 8 * len(self.data) / max(1, math.prod(self.shape))


def _struct(scheme: object, block_size: int) -> Any:
    """Returns the hyb_compressor of a scheme; block_size is 0 where the scheme has no blocks.

    Raises:
        InvalidArgumentError: an unknown scheme or block size.
    """
    if not isinstance(scheme, str) or scheme not in SCHEMES:
        raise InvalidArgumentError(f"scheme is {scheme!r}; choose one of {', '.join(map(repr, SCHEMES))}")
    if block_size not in (BLOCK_SIZES if scheme == "block" else (0,)):
        raise InvalidArgumentError(
            f"block_size is {block_size!r}; choose 32 or 64"
            if scheme == "block"
            else f"block_size is {block_size!r}; {scheme!r} has no blocks: give 0"
        )
    return ffi.new("hyb_compressor *", {"scheme": SCHEMES[scheme], "block_size": block_size})


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns that a gradient is taken as: a vector is one row, further dimensions are columns."""
    return (1, math.prod(shape)) if len(shape) < 2 else (shape[0], math.prod(shape[1:]))


def message_layout(shape: object, scheme: object, block_size: int) -> tuple[int, int, int]:
    """Returns the rows of a compressed gradient, and the bytes of its codes and of its scales.

    Args:
        shape: of the gradient.
        scheme: 'row', 'block' or 'five'.
        block_size: values that share a scale with 'block'; 0 otherwise.

    Raises:
        InvalidArgumentError: an unknown scheme or an impossible shape.
    """
    sizes = tuple(shape) if isinstance(shape, (tuple, list)) else ()
    if not sizes or any(not isinstance(size, int) or size < 1 for size in sizes) or math.prod(sizes) >= 2**60:
        raise InvalidArgumentError(f"shape is {shape!r}; give sizes of at least 1")
    rows, columns = _matrix(sizes)
    n_bytes = int(lib.hyb_compressed_bytes(_struct(scheme, block_size), rows, columns))
    n_scales = 2 * rows * (-(-columns // block_size) if block_size else 1)
    return rows, n_bytes - n_scales, n_scales


class GradientCompressor:
    """Compresses gradients; keeps the residual of each name.

    Args:
        scheme: 'row': ternary codes with the least-squares scale and threshold of each row; 'block': of every
            block_size columns; 'five': levels -2 ... +2 by the root mean square of each row.
        block_size: 32 or 64; used by 'block' only.
        error_feedback: keep what the codes lose and add it to the next gradient of the same name.
        context: threads and instruction sets; None for the default context. The result does not depend on it.

    Raises:
        InvalidArgumentError: an unknown scheme or block size.
    """

    def __init__(
        self,
        scheme: Scheme = "row",
        *,
        block_size: int = 64,
        error_feedback: bool = True,
        context: Context | None = None,
    ) -> None:
        self.scheme: Scheme = scheme
        self.block_size = block_size if scheme == "block" else 0
        self.error_feedback = error_feedback
        self.context = context or default_context()
        self._compressor = _struct(scheme, self.block_size)
        self._sums = ffi.new("hyb_compression_sums *")
        self._residuals: dict[str, Array] = {}
        self._statistics: dict[str, CompressionStatistics] = {}

    def __repr__(self) -> str:
        block = f", block_size={self.block_size}" if self.scheme == "block" else ""
        return f"GradientCompressor({self.scheme!r}{block}, error_feedback={self.error_feedback})"

    # ---- what is kept ----

    @property
    def residuals(self) -> Mapping[str, Array]:
        """The residual of each name, float32 of the gradient's shape: what is still to be sent."""
        return self._residuals

    @property
    def statistics(self) -> Mapping[str, CompressionStatistics]:
        """Statistics of the last compression of each name."""
        return self._statistics

    def total(self) -> CompressionStatistics:
        """Returns the statistics of all names' last compressions, taken together as one vector."""
        return CompressionStatistics.together(self._statistics.values())

    def reset(self, name: str | None = None) -> None:
        """Forgets the residual of a name.

        Args:
            name: None for all names.
        """
        if name is None:
            self._residuals.clear()
        else:
            self._residuals.pop(name, None)

    def state(self) -> dict[str, Array]:
        """Returns copies of the residuals, for a checkpoint."""
        return {name: residual.copy() for name, residual in self._residuals.items()}

    def restore(self, state: Mapping[str, npt.ArrayLike]) -> None:
        """Takes the residuals of a checkpoint in place of its own.

        Args:
            state: float32 residuals by name, as `state` gave them.

        Raises:
            InvalidArgumentError: an array of another type.
        """
        self._residuals = {
            str(name): input_array(values, np.float32, f"the residual of {name}").copy()
            for name, values in state.items()
        }

    def _residual(self, name: str, shape: tuple[int, ...]) -> Any:
        """Pointer to a name's residual, zeros at first; NULL without feedback."""
        if not self.error_feedback:
            return ffi.NULL
        residual = self._residuals.get(name)
        if residual is None:
            residual = self._residuals[name] = np.zeros(shape, np.float32)
        elif residual.shape != shape:
            raise InvalidArgumentError(
                f"{name!r} has shape {list(shape)}, its residual {list(residual.shape)}; call reset({name!r})"
            )
        return pointer(residual, write=True)

    # ---- work ----

    def _run(self, name: str, gradient: Array, data: Array | None, values: Array | None) -> None:
        rows, columns = _matrix(gradient.shape)
        try:
            with self.context.lock:
                self.context.check(
                    lib.hyb_compress(
                        self.context.handle,
                        self._compressor,
                        pointer(gradient),
                        rows,
                        columns,
                        self._residual(name, gradient.shape),
                        ffi.NULL if data is None else pointer(data, write=True),
                        ffi.NULL if values is None else pointer(values, write=True),
                        self._sums,
                    )
                )
                sums = self._sums
                self._statistics[name] = CompressionStatistics(
                    sums.gradient_squares,
                    sums.compressed_squares,
                    sums.product,
                    lib.hyb_compressed_bytes(self._compressor, rows, columns),
                    gradient.size,
                )
        except NotFiniteError as error:
            self.reset(name)  # part of it belongs to this step already
            raise NotFiniteError(f"{name}: {error.message}", error.status) from error

    def _gradient(self, name: str, gradient: npt.ArrayLike) -> Array:
        if not isinstance(name, str):
            raise InvalidArgumentError(f"name is {name!r}; give the tensor's name")
        array = input_array(gradient, np.float32, name)
        if array.size == 0:
            raise InvalidArgumentError(f"{name} has shape {list(array.shape)}; there is nothing to compress")
        return array

    def compress(self, name: str, gradient: npt.ArrayLike, *, out: Array | None = None) -> CompressedGradient:
        """Compresses a gradient; what is lost goes into the name's residual.

        Args:
            name: of the tensor: it has a residual of its own.
            gradient: float32 of any shape, magnitudes at most 1e16; the first dimension counts rows, a vector
                is one row.
            out: float32 of the same shape, receives the values that the codes give (it may be the gradient);
                None: not wanted.

        Raises:
            InvalidArgumentError: an empty gradient, or another dtype or shape than before.
            NotFiniteError: NaN, infinity or too large a value; the name's residual is forgotten.

        Source: Seide et al. 2014; Lloyd 1982.
        """
        array = self._gradient(name, gradient)
        values = None if out is None else output_array(out, np.float32, array.shape)
        data = np.empty(lib.hyb_compressed_bytes(self._compressor, *_matrix(array.shape)), np.uint8)
        self._run(name, array, data, values)
        return CompressedGradient(data.tobytes(), array.shape, self.scheme, self.block_size)

    def round_trip(self, name: str, gradient: npt.ArrayLike, *, out: Array | None = None) -> Array:
        """Returns the values that the compressed gradient gives, without making the bytes.

        Args:
            name: of the tensor: it has a residual of its own.
            gradient: float32 of any shape, magnitudes at most 1e16.
            out: float32 of the same shape to write to, also the gradient itself: then nothing is allocated
                but a residual once; None for a new array.

        Raises:
            InvalidArgumentError: an empty gradient, or another dtype or shape than before.
            NotFiniteError: NaN, infinity or too large a value; the name's residual is forgotten.
        """
        array = self._gradient(name, gradient)
        values = output_array(out, np.float32, array.shape)
        self._run(name, array, None, values)
        return values

    def decompress(self, compressed: CompressedGradient, *, out: Array | None = None) -> Array:
        """Returns the values of a compressed gradient; safe on bytes from anywhere.

        Args:
            compressed: of any compressor: it says its own scheme.
            out: float32 of its shape to write to; None for a new array.

        Returns:
            float32 of the gradient's shape.

        Raises:
            InvalidArgumentError: an unknown scheme or an impossible shape.
            FileFormatError: bytes that no gradient compresses to.
        """
        shape = tuple(compressed.shape)
        needed = sum(message_layout(shape, compressed.scheme, compressed.block_size)[1:])
        struct = _struct(compressed.scheme, compressed.block_size)
        data = np.frombuffer(compressed.data, np.uint8)
        if data.size != needed:
            raise FileFormatError(
                f"{data.size} bytes; shape {list(shape)} takes {needed} with {compressed.scheme!r}"
            )
        values = output_array(out, np.float32, shape)
        with self.context.lock:
            self.context.check(
                lib.hyb_decompress(
                    self.context.handle,
                    struct,
                    pointer(data),
                    data.size,
                    *_matrix(shape),
                    pointer(values, write=True),
                )
            )
        return values


class SignalTracker:
    """Compares the sum of what was sent with the sum of the gradients, over the steps so far.

    That a compression keeps a signal can only be said of such sums: the cosine of a single step is about 0.9
    for ternary codes, while with error feedback that of the sums goes to 1.
    """

    def __init__(self) -> None:
        self._sums: dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]] = {}
        self._steps: dict[str, int] = {}

    def add(self, name: str, gradient: npt.ArrayLike, compressed: npt.ArrayLike) -> None:
        """Adds a step.

        Args:
            name: of the tensor.
            gradient: the true gradient, any shape.
            compressed: the values that were sent for it, of the same shape.

        Raises:
            InvalidArgumentError: the shapes differ, from each other or from former steps.
        """
        true, sent = np.asarray(gradient, np.float64), np.asarray(compressed, np.float64)
        sums = self._sums.setdefault(name, (np.zeros(true.shape), np.zeros(true.shape)))
        if not true.shape == sent.shape == sums[0].shape:
            raise InvalidArgumentError(
                f"{name}: shapes {list(true.shape)} and {list(sent.shape)}; all must be {list(sums[0].shape)}"
            )
        np.add(sums[0], true, out=sums[0])
        np.add(sums[1], sent, out=sums[1])
        self._steps[name] = self._steps.get(name, 0) + 1

    @property
    def steps(self) -> int:
        """Steps that were added, of the name with most."""
        return max(self._steps.values(), default=0)

    def statistics(self) -> CompressionStatistics:
        """Returns cosine and norm ratio of the sums, over all names as one vector; it counts no bytes."""
        return CompressionStatistics.together(
            CompressionStatistics(
                float(np.vdot(true, true)),
                float(np.vdot(sent, sent)),
                float(np.vdot(true, sent)),
                0,
                true.size,
            )
            for true, sent in self._sums.values()
        )
