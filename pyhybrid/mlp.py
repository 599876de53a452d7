"""A ternary multilayer perceptron over rows of features: make, train, predict, save, load.

    >>> mlp = pyhybrid.TernaryMLP([64, 128, 10], loss="cross_entropy")
    >>> mlp.fit(pixels, digits, epochs=20)                                    # doctest: +SKIP
    >>> mlp.predict(pixels).argmax(axis=1)                                    # doctest: +SKIP

Place in the data flow: arrays -> `TernaryMLP` -> the C library, which owns all arithmetic; `fit` is the loop
around a step, with the optimisers of the language model's training. Architecture, losses and sources:
hybrid/mlp.h.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pyhybrid._buffers import Array, input_array, output_array, pointer
from pyhybrid._config_tables import FilledTraining
from pyhybrid._context import Context, default_context
from pyhybrid._errors import HybridError, InvalidArgumentError
from pyhybrid._model_config import check_seed, check_size
from pyhybrid._model_types import GradientStatistics
from pyhybrid._native import ffi, lib
from pyhybrid._network import OPTIMIZERS, Network
from pyhybrid._run_update import AdamWUpdate, TrustRegionUpdate
from pyhybrid.config import TrainingConfig
from pyhybrid.quantization import FORMAT_BITS, GRANULARITIES, THRESHOLDS, bits_to_format, choose
from pyhybrid.schedule import LearningRateSchedule

__all__ = ["FIT_DEFAULTS", "FitResult", "LossFunction", "TernaryMLP"]

_LOSSES: dict[str, int] = {"mse": lib.HYB_LOSS_MSE, "cross_entropy": lib.HYB_LOSS_CROSS_ENTROPY}
_ACTIVATIONS: dict[str, int] = {
    "relu": lib.HYB_ACTIVATION_RELU,
    "squared_relu": lib.HYB_ACTIVATION_SQUARED_RELU,
    "silu": lib.HYB_ACTIVATION_SILU,
}
_NORMS: dict[str, int] = {
    "residual": lib.HYB_MLP_NORM_RESIDUAL,
    "hidden": lib.HYB_MLP_NORM_HIDDEN,
    "none": lib.HYB_MLP_NORM_NONE,
}

#: From outputs float32 [rows, outputs], which it may keep: the loss, and its derivative by each output.
LossFunction = Callable[[Array], tuple[float, npt.ArrayLike]]


class FitResult(NamedTuple):
    """What `TernaryMLP.fit` saw.

    Args:
        losses: float64 [steps], of each batch before its update.
        validation_losses: float64 [epochs], behind each epoch; empty without validation rows.
    """

    losses: Array
    validation_losses: Array


class _Loss:
    """A loss function while C calls it, and the exception that it raised."""

    def __init__(self, function: LossFunction) -> None:
        self.function = function
        self.error: BaseException | None = None

    def __call__(self, outputs: Array, gradient: Array) -> float:
        loss, derivative = self.function(outputs.copy())
        gradient[:] = input_array(_rounded(derivative), np.float32, "the loss's gradient", gradient.shape)
        return float(loss)


def _on_error(_kind: Any, error: BaseException, trace: Any) -> int:
    """An exception in the loss function, Ctrl-C included: keep it for `gradients_with`."""
    if trace is not None and "user" in trace.tb_frame.f_locals:
        ffi.from_handle(trace.tb_frame.f_locals["user"]).error = error
    return 1


@ffi.def_extern(error=1, onerror=_on_error)  # type: ignore[untyped-decorator]
def pyhybrid_on_loss(user: Any, outputs: Any, n_rows: int, n_outputs: int, gradient: Any, loss: Any) -> int:
    """Computes a loss for the C library (hyb_mlp_loss_callback)."""
    n_bytes, shape = n_rows * n_outputs * 4, (n_rows, n_outputs)
    found, wanted = (
        np.frombuffer(ffi.buffer(memory, n_bytes), np.float32).reshape(shape)
        for memory in (outputs, gradient)
    )
    loss[0] = ffi.from_handle(user)(found, wanted)
    return 0


def _rounded(values: Any) -> Any:
    """float64 arrays as float32: features and targets are measurements, unlike weights."""
    if isinstance(values, np.ndarray) and values.dtype == np.float64:
        with np.errstate(over="ignore"):  # an infinity is reported by the library
            return values.astype(np.float32)
    return values


class TernaryMLP(Network):
    """Linear layers of ternary weights with an activation between them, over rows of float features.

    A network that is made has float32 master weights and can be trained; one that is loaded holds packed
    weights only. Every row's features are quantised with one scale: standardise columns of unlike sizes.
    Where float32 arrays are asked for, float64 ones are rounded. Calls from several threads take turns.

    Args:
        sizes: features, hidden layers, outputs; 2 to 33 numbers of 1 to 65536.
        loss: 'mse' (mean over all elements) or 'cross_entropy' (nats, over classes or soft targets).
        activation: 'relu', 'squared_relu' or 'silu'.
        norm: which layers' inputs are normalised: 'residual' (those of residual layers), 'hidden' (all but
            the first: a row's size is lost) or 'none'.
        residual: hidden layers with as many inputs as outputs add their input to their output.
        bits: of the weights: 1.58, 1, 2, 4, 8, or 32 for float32 weights and activations.
        first_bits: of the first layer's; None: as the others.
        last_bits: of the last layer's; None: as the others.
        scale: what one weight scale covers, 'tensor' or 'row'.
        threshold: of the ternary codes, 'absmean' or 'lloyd'.
        seed: of the initial weights; the same seed gives the same weights everywhere.
        context: threads and instruction sets; None for the default context.

    Raises:
        InvalidArgumentError: a value out of its range.
        OutOfMemoryError: the network does not fit in memory.
    """

    _NOUN = "mlp"

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        loss: Literal["mse", "cross_entropy"] = "mse",
        activation: Literal["relu", "squared_relu", "silu"] = "relu",
        norm: Literal["residual", "hidden", "none"] = "residual",
        residual: bool = True,
        bits: float = 1.58,
        first_bits: float | None = None,
        last_bits: float | None = None,
        scale: Literal["tensor", "row"] = "tensor",
        threshold: Literal["absmean", "lloyd"] = "absmean",
        seed: int = 0,
        context: Context | None = None,
    ) -> None:
        context = context or default_context()
        struct = ffi.new("hyb_mlp_config *")
        struct.struct_size = ffi.sizeof("hyb_mlp_config")
        widths = input_array(sizes, np.uint32, "sizes", (None,))
        if not 2 <= widths.size <= len(struct.sizes):
            raise InvalidArgumentError(
                f"sizes has {widths.size} numbers; give 2 to {len(struct.sizes)}: features, hidden layers, "
                "outputs"
            )
        struct.n_layers = widths.size - 1
        struct.sizes[0 : widths.size] = widths.tolist()
        struct.loss = choose(_LOSSES, loss, "loss")
        struct.activation = choose(_ACTIVATIONS, activation, "activation")
        struct.norm = choose(_NORMS, norm, "norm")
        struct.residual = bool(residual)
        struct.norm_epsilon = 1e-5
        struct.format = bits_to_format(bits)
        struct.first_format = -1 if first_bits is None else bits_to_format(first_bits)
        struct.last_format = -1 if last_bits is None else bits_to_format(last_bits)
        struct.granularity = choose(GRANULARITIES, scale, "scale")
        struct.threshold = choose(THRESHOLDS, threshold, "threshold")
        out = ffi.new("hyb_mlp **")
        with context.lock:
            context.check(lib.hyb_mlp_create(context.handle, struct, check_seed(seed), out))
        self._adopt(context, out[0], trainable=True)

    def _adopt(self, context: Context, pointer_: Any, *, trainable: bool) -> None:
        self.context = context
        self._trainable = trainable
        self._handle = context.own(pointer_, lib.hyb_mlp_destroy)
        struct = ffi.new("hyb_mlp_config *")
        struct.struct_size = ffi.sizeof("hyb_mlp_config")
        context.check(lib.hyb_mlp_get_config(self._handle, struct))
        #: Features, hidden layers, outputs.
        self.sizes: tuple[int, ...] = tuple(struct.sizes[0 : struct.n_layers + 1])
        #: 'mse' or 'cross_entropy'.
        self.loss: str = next(name for name, value in _LOSSES.items() if value == struct.loss)
        #: Of the weights.
        self.bits: float = FORMAT_BITS[struct.format]
        self.metadata = self._read_metadata()

    def __repr__(self) -> str:
        return f"TernaryMLP({list(self.sizes)}, loss={self.loss!r}, bits={self.bits:g})"

    # ---- arrays ----

    def _features(self, x: Any) -> Array:
        return input_array(_rounded(x), np.float32, "x", (None, self.sizes[0]))

    def _targets(self, y: Any, n: int) -> tuple[Array | None, Array | None]:
        """Values and classes; at most one of them."""
        if y is None:
            return None, None
        array = np.asarray(y)
        if self.loss == "cross_entropy" and array.dtype.kind in "bui":
            return None, input_array(array, np.uint32, "y", (n,))
        if array.ndim == 1 and self.sizes[-1] == 1:
            array = array[:, None]
        return input_array(_rounded(array), np.float32, "y", (n, self.sizes[-1])), None

    def _arguments(self, x: Any, y: Any) -> tuple[list[Any], list[Array | None]]:
        """x, values, classes and number of rows for C, and the arrays that must live as long."""
        rows = self._features(x)
        arrays = [rows, *self._targets(y, rows.shape[0])]
        return [*(ffi.NULL if a is None else pointer(a) for a in arrays), rows.shape[0]], arrays

    # ---- training ----

    def prepare(self, batch: int, *, optimizer: str = "adamw") -> None:
        """Allocates what training needs; a step allocates nothing after it. The optimiser's state is kept
        when called again with the same optimiser.

        Args:
            batch: most rows a step.
            optimizer: 'adamw', which `apply` is for, or the norm of `apply_trust_region`: 'spectral', 'rms'
                or 'l2'.

        Raises:
            InvalidArgumentError: a size out of its range, or an unknown name.
            StateError: a loaded network cannot be trained.
            OutOfMemoryError: it does not fit.
        """
        size, kind = check_size(batch, "batch"), choose(OPTIMIZERS, optimizer, "optimizer")
        with self.context.lock:
            self.context.check(lib.hyb_mlp_set_optimizer(self.handle, kind))
            self.context.check(lib.hyb_mlp_prepare(self.handle, size))

    def gradients(self, x: npt.ArrayLike, y: npt.ArrayLike | None = None) -> GradientStatistics:
        """Computes loss and gradients of a batch; the gradients replace those before.

        Args:
            x: float32 [rows, features].
            y: float32 [rows, outputs] ([rows] with one output), or with 'cross_entropy' integers [rows], the
                classes; None: x itself.

        Returns:
            The loss, and the Euclidean norm of the gradients.

        Raises:
            InvalidArgumentError: a wrong shape or class, no rows, or more than prepared.
            StateError: `prepare` was not called.
            NotFiniteError: a NaN or an infinity in x, y, loss or gradients; the weights are unchanged.
        """
        arguments, keep = self._arguments(x, y)
        statistics = ffi.new("hyb_gradient_statistics *")
        with self.context.lock:
            self.context.check(lib.hyb_mlp_gradients(self.handle, *arguments, statistics))
        del keep
        return GradientStatistics(statistics.loss, statistics.gradient_norm)

    def gradients_with(self, x: npt.ArrayLike, loss: LossFunction) -> GradientStatistics:
        """Computes gradients of a loss of your own.

        Args:
            x: float32 [rows, features].
            loss: called with the outputs, float32 [rows, outputs]; returns the loss and its derivative by
                each output. It must not use this network's context.

        Raises: those of `gradients`, and what the function raised.
        """
        rows = self._features(x)
        state = _Loss(loss)
        user = ffi.new_handle(state)
        statistics = ffi.new("hyb_gradient_statistics *")
        with self.context.lock:
            status = lib.hyb_mlp_gradients_with(
                self.handle, pointer(rows), rows.shape[0], lib.pyhybrid_on_loss, user, statistics
            )
            if state.error is None:
                self.context.check(status)
        if state.error is not None:
            raise state.error
        return GradientStatistics(statistics.loss, statistics.gradient_norm)

    def fit(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike | None = None,
        *,
        epochs: int = 20,
        steps: int | None = None,
        batch_size: int = 64,
        optimizer: Literal["hybrid", "adamw"] = "hybrid",
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        trust_radius: float | None = None,
        schedule: Literal["linear", "cosine", "constant", "wsd"] = "linear",
        seed: int = 0,
        validation: tuple[npt.ArrayLike, npt.ArrayLike | None] | None = None,
        progress: Callable[[int, int, float], object] | None = None,
    ) -> FitResult:
        """Trains on rows, in random order without replacement; an optimiser's state starts anew.

        Args:
            x: float32 [rows, features].
            y: targets as in `gradients`; None: x itself.
            epochs: times that every row is seen.
            steps: updates, instead of epochs.
            batch_size: rows of an update; at most the number of rows are used.
            optimizer: 'hybrid' (trust-region steps in the spectral norm, rate and radius under the feedback
                of the auxiliary network) or 'adamw'.
            learning_rate: peak of the schedule, in the optimiser's unit; None: its default.
            weight_decay: decoupled, on the matrices only; None: the optimiser's default.
            trust_radius: that 'hybrid' is pulled to; None: its default.
            schedule: of the learning rate, behind a warm-up over 5 % of the steps.
            seed: of the order of rows and of the auxiliary network.
            validation: rows and targets to evaluate behind each epoch.
            progress: called with the updates done, those in all, and the last loss.

        Raises:
            InvalidArgumentError: a value out of its range, or arrays that do not fit.
            StateError: a loaded network cannot be trained.
            NotFiniteError: see `gradients`; the message names the step.
        """
        rows = self._features(x)
        values, classes = self._targets(y, rows.shape[0])
        targets = values if values is not None else classes
        if rows.shape[0] == 0:
            raise InvalidArgumentError("x has no rows: there is nothing to learn from")
        size = min(check_size(batch_size, "batch_size"), rows.shape[0])
        per_epoch = -(-rows.shape[0] // max(size, 1))
        config = TrainingConfig(
            steps=check_size(epochs, "epochs") * per_epoch if steps is None else steps,
            batch_size=batch_size,
            optimizer=optimizer,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            trust_radius=trust_radius,
            schedule=schedule,
            seed=seed,
        )
        update = _make_update(config)
        self.prepare(size, optimizer=update.kind)
        for parameter in self.parameters().values():
            for array in parameter.optimizer_state.values():
                array[:] = 0.0
        rates = LearningRateSchedule(config, config.steps)
        losses, found = np.empty(config.steps), []
        for number, chosen in enumerate(_batches(rows.shape[0], size, config.steps, seed), 1):
            try:
                statistics = self.gradients(rows[chosen], None if targets is None else targets[chosen])
                update.apply(self, statistics, multiplier=rates.multiplier(number), number=number)
            except HybridError as error:
                raise type(error)(f"step {number}: {error}", error.status) from error
            losses[number - 1] = statistics.loss
            if validation is not None and (number % per_epoch == 0 or number == config.steps):
                found.append(self.evaluate(*validation))
            if progress is not None:
                progress(number, config.steps, statistics.loss)
        return FitResult(losses, np.array(found))

    # ---- inference ----

    def predict(self, x: npt.ArrayLike, *, out: Array | None = None) -> Array:
        """Returns the outputs, with 'cross_entropy' the logits: float32 [rows, outputs]; the same bits on
        every processor, whatever rows are given together.

        Args:
            x: float32 [rows, features].
            out: array to write to; None for a new one.

        Raises:
            InvalidArgumentError: a wrong shape.
            NotFiniteError: x holds a NaN or an infinity.
        """
        rows = self._features(x)
        outputs = output_array(out, np.float32, (rows.shape[0], self.sizes[-1]))
        with self.context.lock:
            self.context.check(
                lib.hyb_mlp_predict(self.handle, pointer(rows), rows.shape[0], pointer(outputs, write=True))
            )
        return outputs

    def evaluate(self, x: npt.ArrayLike, y: npt.ArrayLike | None = None) -> float:
        """Returns the loss over rows, with the inference path; arguments and errors as in `gradients`."""
        arguments, keep = self._arguments(x, y)
        loss = ffi.new("double *")
        with self.context.lock:
            self.context.check(lib.hyb_mlp_evaluate(self.handle, *arguments, loss))
        del keep
        return float(loss[0])


#: Defaults of `TernaryMLP.fit` by optimiser, chosen on scikit-learn's digits and a linear target with noise.
FIT_DEFAULTS: dict[str, FilledTraining] = {
    "hybrid": FilledTraining(learning_rate=0.2, weight_decay=0.03, trust_radius=0.2),
    "adamw": FilledTraining(learning_rate=5e-3, weight_decay=0.1, trust_radius=0.2),
}


def _make_update(config: TrainingConfig) -> AdamWUpdate | TrustRegionUpdate:
    given = {
        name: getattr(config, name) for name in FilledTraining._fields if getattr(config, name) is not None
    }
    filled = FIT_DEFAULTS[config.optimizer]._replace(**given)
    return (AdamWUpdate if config.optimizer == "adamw" else TrustRegionUpdate)(config, filled)


def _batches(n_rows: int, size: int, steps: int, seed: int) -> Iterator[Array]:
    """Indices of each step's rows: permutations of all rows, one behind the other, cut into batches."""
    generator = np.random.default_rng(seed)
    waiting = np.empty(0, np.int64)
    for _ in range(steps):
        while waiting.size < size:
            waiting = np.concatenate([waiting, generator.permutation(n_rows)])
        yield waiting[:size]
        waiting = waiting[size:]
