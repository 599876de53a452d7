"""A loss as users of the documents' trainer pass it, as the loss with a derivative that a network needs.

Place in the data flow: between the trainer's loss_fn and `TernaryMLP.gradients_with`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pyhybrid._buffers import Array
from pyhybrid._errors import InvalidArgumentError, NotFiniteError
from pyhybrid.mlp import LossFunction

__all__ = ["UserLoss", "with_derivative"]

#: From predictions and targets: the loss, or the loss and its derivative by each prediction.
UserLoss = Callable[[Array, Array], Any]

# Most predictions whose derivative is found by differences: two calls each.
_MOST_DIFFERENCES = 4096
# The cube root of float64's resolution: where rounding and curvature of a central difference are alike.
_STEP = 6e-6


def with_derivative(loss: UserLoss, targets: Array) -> LossFunction:
    """Returns the loss and its derivative, found by central differences if the user gives none.

    Args:
        loss: called with predictions float64 [rows, outputs] and the targets.
        targets: of the batch.

    Raises (when called):
        InvalidArgumentError: no number comes back, or a derivative of another shape; or there are too many
            predictions for differences.
        NotFiniteError: the loss is NaN or infinite.
    """

    def evaluate(outputs: Array) -> tuple[float, Array]:
        predictions = outputs.astype(np.float64)
        found = loss(predictions, targets)
        if isinstance(found, tuple):
            value, derivative = found
            gradient = np.asarray(derivative)
            if gradient.shape != predictions.shape:
                raise InvalidArgumentError(
                    f"loss_fn gave a derivative of shape {list(gradient.shape)} for predictions of shape "
                    f"{list(predictions.shape)}"
                )
            return _number(value), gradient
        return _number(found), _differences(loss, predictions, targets)

    return evaluate


def _number(value: Any) -> float:
    array = np.asarray(value.detach() if hasattr(value, "detach") else value)
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise InvalidArgumentError(f"loss_fn gave {value!r}; return a number, or a number and a derivative")
    number = float(array.reshape(()))
    if not np.isfinite(number):
        raise NotFiniteError(f"loss_fn gave {number}")
    return number


def _differences(loss: UserLoss, predictions: Array, targets: Array) -> Array:
    """Central differences by each prediction, float64."""
    if predictions.size > _MOST_DIFFERENCES:
        raise InvalidArgumentError(
            f"loss_fn gives no derivative, and {predictions.size} predictions are too many for differences "
            f"(at most {_MOST_DIFFERENCES}): return (loss, d loss / d predictions), or make batches smaller"
        )
    gradient = np.empty_like(predictions)
    at, found = predictions.reshape(-1), gradient.reshape(-1)
    for i, value in enumerate(at.tolist()):
        step = _STEP * max(1.0, abs(value))
        sides = []
        for moved in (value + step, value - step):
            at[i] = moved
            sides.append(_number(loss(predictions, targets)))
        at[i] = value
        found[i] = (sides[0] - sides[1]) / (2.0 * step)
    return gradient
