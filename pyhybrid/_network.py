"""What every network has: its file, parameters as arrays, and updates from its gradients.

Place in the data flow: language_model.py and mlp.py derive from `Network`; the C functions of both differ in
their names only.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

import numpy as np

from pyhybrid._buffers import Array, output_array, pointer, view
from pyhybrid._context import Context, default_context
from pyhybrid._errors import InvalidArgumentError
from pyhybrid._model_config import check_size, encode_path, name_of, parse_metadata
from pyhybrid._model_types import Parameter, TrustStatistics, UpdateStatistics
from pyhybrid._native import ffi, lib
from pyhybrid.quantization import FORMAT_NAMES, GRANULARITIES

__all__ = ["OPTIMIZERS", "Network"]

#: Names of the optimisers that `prepare` takes.
OPTIMIZERS: dict[str, int] = {
    "adamw": lib.HYB_OPTIMIZER_ADAMW,
    "spectral": lib.HYB_OPTIMIZER_SPECTRAL,
    "rms": lib.HYB_OPTIMIZER_RMS,
    "l2": lib.HYB_OPTIMIZER_L2,
}


class Network:
    """File, parameters and updates of a network."""

    #: Of the C functions' names: hyb_<noun>_apply and so on.
    _NOUN: ClassVar[str]
    context: Context
    #: Anything worth keeping with the network, as JSON values; saved with it.
    metadata: dict[str, Any]
    _handle: Any
    _trainable: bool

    @classmethod
    def _c(cls, verb: str) -> Any:
        return getattr(lib, f"hyb_{cls._NOUN}_{verb}")

    def _adopt(self, context: Context, pointer_: Any, *, trainable: bool) -> None:
        """Takes a C handle over and fills in what the class keeps of it."""
        raise NotImplementedError

    def _read_metadata(self) -> dict[str, Any]:
        n_bytes = ffi.new("size_t *")
        text = self._c("metadata")(self._handle, n_bytes)
        return parse_metadata(bytes(ffi.buffer(text, n_bytes[0])) if n_bytes[0] else b"")

    @classmethod
    def load(cls, source: str | os.PathLike[str] | bytes, *, context: Context | None = None) -> Self:
        """Loads a .hyb file for inference.

        Args:
            source: path of the file, or its content as bytes.
            context: None for the default context.

        Raises:
            FileIOError: it cannot be read.
            FileFormatError: it is not a model file, or a damaged one (TruncatedFileError, ChecksumError,
                VersionError).
        """
        context = context or default_context()
        out = ffi.new(f"hyb_{cls._NOUN} **")
        with context.lock:
            if isinstance(source, (bytes, bytearray, memoryview)):
                data = ffi.from_buffer(source)
                status = cls._c("load_memory")(context.handle, data, len(data), out)
            else:
                status = cls._c("load")(context.handle, encode_path(source), out)
            context.check(status)
        model = cls.__new__(cls)
        model._adopt(context, out[0], trainable=False)
        return model

    def save(self, path: str | os.PathLike[str], metadata: Mapping[str, Any] | None = None) -> None:
        """Writes a .hyb file at once: a crash leaves the old file or the new one.

        Args:
            path: the file.
            metadata: JSON values to keep with the model; None: `self.metadata`.

        Raises:
            InvalidArgumentError: metadata cannot be written as JSON.
            NotFiniteError: a weight is NaN or infinite; the message names the tensor.
            FileIOError: it cannot be written.
        """
        values = dict(self.metadata if metadata is None else metadata)
        try:
            text = json.dumps(values, allow_nan=False, ensure_ascii=False).encode() if values else b""
        except (TypeError, ValueError) as error:
            raise InvalidArgumentError(f"metadata cannot be written as JSON: {error}") from error
        with self.context.lock:
            self.context.check(
                self._c("save")(self.handle, encode_path(path), text or ffi.NULL, len(text))
            )
        self.metadata = values

    @property
    def trainable(self) -> bool:
        """True if the model was made, not loaded: it has master weights."""
        return self._trainable

    @property
    def handle(self) -> Any:
        """The C pointer.

        Raises:
            StateError: the model's context was closed.
        """
        _ = self.context.handle
        return self._handle

    def _each(self) -> Iterable[Parameter]:
        struct = ffi.new("hyb_parameter *")
        for index in range(self._c("parameter_count")(self._handle)):
            self.context.check(self._c("parameter")(self._handle, index, struct))
            shape = (struct.n_rows, struct.n_cols)
            names = "values", "gradient", "first_moment", "second_moment", "last_change"
            arrays = {name: view(getattr(struct, name), np.float32, shape, self._handle) for name in names}
            arrays["row_moment"] = view(struct.row_moment, np.float32, (1, struct.n_rows), self._handle)
            arrays["spectral_bound"] = view(struct.spectral_bound, np.float32, (1, 1), self._handle)
            yield Parameter(
                ffi.string(struct.name).decode("ascii"),
                index,
                FORMAT_NAMES[struct.format],
                name_of(GRANULARITIES, struct.granularity),
                shape,
                **arrays,
                state_8bit=self._state_8bit(index, shape),
            )

    def _state_8bit(self, index: int, shape: tuple[int, int]) -> dict[str, Array]:  # noqa: ARG002
        """What `Parameter.state_8bit` shows; networks without such a state have none."""
        return {}

    def parameters(self) -> dict[str, Parameter]:
        """Returns the model's tensors by name, in the file's order, as views without copies."""
        return {parameter.name: parameter for parameter in self._each()}

    @functools.cached_property
    def _places(self) -> dict[str, tuple[int, tuple[int, int]]]:
        """Index and shape of each parameter."""
        return {parameter.name: (parameter.index, parameter.shape) for parameter in self._each()}

    def effective(self, name: str, *, out: Array | None = None) -> Array:
        """Returns the weights that the forward pass uses: scale * code, or the float32 values.

        Args:
            name: of the parameter.
            out: float32 [rows, columns] to write to; None for a new array.

        Raises:
            InvalidArgumentError: no parameter has this name.
            NotFiniteError: a master weight is NaN or infinite.
        """
        if name not in self._places:
            raise InvalidArgumentError(f"no parameter is called {name!r}; see parameters()")
        index, shape = self._places[name]
        values = output_array(out, np.float32, shape)
        with self.context.lock:
            self.context.check(self._c("effective")(self.handle, index, pointer(values, write=True)))
        return values

    def touch(self) -> None:
        """Says that master weights were written: they are quantised again before the next use.

        Raises:
            StateError: a loaded model has none.
        """
        with self.context.lock:
            self.context.check(self._c("touch")(self.handle))

    def apply(
        self,
        *,
        learning_rate: float,
        step: int,
        beta1: float = 0.9,
        beta2: float = 0.95,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        clip_norm: float = 0.0,
    ) -> UpdateStatistics:
        """Makes one AdamW update from the current gradients.

        Args:
            learning_rate: of this step.
            step: 1 for the first update; used by the bias correction.
            beta1: decay of the first moment.
            beta2: decay of the second moment.
            epsilon: added to the root of the second moment.
            weight_decay: decoupled, on the layers' matrices only.
            clip_norm: gradients are scaled down to this norm; 0 for no clipping.

        Raises:
            InvalidArgumentError: a value out of its range.
            StateError: `gradients` was not called since the last update.
            NotFiniteError: a weight became NaN or infinite.

        Source: Loshchilov & Hutter 2019.
        """
        adamw = ffi.new("hyb_adamw *")
        values = {"learning_rate": learning_rate, "beta1": beta1, "beta2": beta2, "epsilon": epsilon}
        _set_floats(adamw, values | {"weight_decay": weight_decay})
        adamw.gradient_scale = 1.0
        adamw.step = check_size(step, "step")
        statistics = ffi.new("hyb_update_statistics *")
        with self.context.lock:
            self.context.check(self._c("apply")(self.handle, adamw, clip_norm, statistics))
        return UpdateStatistics(statistics.flipped_share, statistics.zero_share)

    def apply_trust_region(
        self,
        *,
        learning_rate: float,
        radius: float,
        step: int,
        momentum: float = 0.8,
        row_beta: float = 0.0,
        weight_decay: float = 0.03,
        vector_ratio: float = 0.32,
        gain_rate: float = 0.02,
        beta1: float = 0.8,
        beta2: float = 0.99,
        epsilon: float = 1e-8,
    ) -> TrustStatistics:
        """Makes one trust-region step from the current gradients, in the norm that `prepare` was given.

        Args:
            learning_rate: length of the step before it is shortened, in the unit of the norm.
            radius: that no change exceeds, in the unit of the norm.
            step: 1 for the first update; used by the bias correction.
            momentum: decay of the matrices' momentum ('spectral').
            row_beta: decay of the running mean squares of rows ('spectral'); 0: rows are not normalised.
            weight_decay: decoupled, on the layers' matrices only.
            vector_ratio: rate and largest change of embedding and head, as a multiple of the matrices'
                ('spectral').
            gain_rate: largest rate of the norm gains ('spectral').
            beta1: decay of Adam's first moment.
            beta2: decay of Adam's second moment.
            epsilon: added to the root of the second moment.

        Raises:
            InvalidArgumentError: a value out of its range.
            StateError: `gradients` was not called since the last update, or the optimiser is 'adamw'.
            NotFiniteError: a weight became NaN or infinite.

        Source: hybrid/optimize.h.
        """
        options = ffi.new("hyb_trust_region *")
        options.struct_size = ffi.sizeof("hyb_trust_region")
        values = {
            "learning_rate": learning_rate,
            "radius": radius,
            "momentum": momentum,
            "row_beta": row_beta,
            "weight_decay": weight_decay,
            "vector_ratio": vector_ratio,
            "gain_rate": gain_rate,
            "beta1": beta1,
            "beta2": beta2,
            "epsilon": epsilon,
        }
        _set_floats(options, values)
        options.step = check_size(step, "step")
        found = ffi.new("hyb_trust_statistics *")
        with self.context.lock:
            self.context.check(self._c("apply_trust_region")(self.handle, options, found))
        return TrustStatistics(
            found.flipped_share, found.zero_share, found.change_norm, found.shortened_share
        )

    def alignment(self) -> float:
        """Returns the cosine between the current gradient and the last trust-region step, over the layers'
        matrices.

        Above 0 the last step went too far, for the loss now rises along it; 0 before the first step.

        Raises:
            StateError: `gradients` was not called since the last update, or the optimiser is 'adamw'.
        """
        cosine = ffi.new("double *")
        with self.context.lock:
            self.context.check(self._c("alignment")(self.handle, cosine))
        return float(cosine[0])


def _set_floats(struct: Any, values: Mapping[str, Any]) -> None:
    """Writes numbers into a struct's fields."""
    for name, value in values.items():
        try:
            setattr(struct, name, value)
        except (TypeError, OverflowError) as error:
            raise InvalidArgumentError(f"{name} is {value!r}; give a number") from error
