"""Optimiser steps on a device's arrays, in place.

Place in the data flow: the updates of hybrid/optimize.h for parameters that live on a device.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pyhybrid._native import ffi, lib
from pyhybrid.cuda._arrays import current_stream, make_like, view
from pyhybrid.cuda._device import Device, device_or_default

__all__ = ["Constrained", "adamw_update", "constrain_norm", "orthogonalize", "sum_squares"]


class Constrained(NamedTuple):
    """A vector in the ball; everything on the device.

    Args:
        values: no longer than the radius.
        norm: float64 [1]: of what was given.
        is_active: int32 [1]: 1 if it was shortened.
    """

    values: Any
    norm: Any
    is_active: Any


def adamw_update(
    weights: Any,
    gradient: Any,
    first_moment: Any,
    second_moment: Any,
    *,
    step: int,
    learning_rate: float,
    beta1: float = 0.9,
    beta2: float = 0.95,
    epsilon: float = 1e-8,
    weight_decay: float = 0.0,
    gradient_scale: float = 1.0,
    device: Device | None = None,
) -> None:
    """One AdamW update of float32 arrays of one shape, in place.

    Args:
        weights: change.
        gradient: of the loss.
        first_moment: changes; zeros before the first step.
        second_moment: changes; zeros before the first step.
        step: 1 for the first one.
        learning_rate: of the step.
        beta1: of the first moment.
        beta2: of the second.
        epsilon: in the denominator.
        weight_decay: decoupled.
        gradient_scale: multiplies every gradient first.
        device: that all are on; None for the first one.
    """
    gpu, stream = device_or_default(device), current_stream(weights)
    target = view(weights, np.float32, "weights", stream=stream)
    others = [
        view(value, np.float32, name, target.shape, stream=stream).address
        for name, value in (
            ("gradient", gradient),
            ("first_moment", first_moment),
            ("second_moment", second_moment),
        )
    ]
    options = ffi.new("hyb_adamw *")
    options.learning_rate, options.beta1, options.beta2 = learning_rate, beta1, beta2
    options.epsilon, options.weight_decay = epsilon, weight_decay
    options.gradient_scale, options.step = gradient_scale, step
    given = options, target.size, others[0], target.address, others[1], others[2]
    gpu.call(lib.hyb_cuda_adamw_update, *given, stream)


def orthogonalize(x: Any, *, device: Device | None = None) -> Any:
    """Returns a float32 matrix with its singular values pushed towards 1 (Newton-Schulz)."""
    gpu, stream = device_or_default(device), current_stream(x)
    found = view(x, np.float32, "x", (None, None), stream=stream)
    out = make_like(x, gpu, found.shape, np.float32)
    given = *found.shape, found.address, view(out, np.float32, "out").address
    gpu.call(lib.hyb_cuda_orthogonalize, *given, stream)
    return out


def sum_squares(values: Any, *, device: Device | None = None) -> Any:
    """Returns the sum of squares of float32 values, float64 [1] on the device."""
    gpu, stream = device_or_default(device), current_stream(values)
    found = view(values, np.float32, "values", stream=stream)
    out = make_like(values, gpu, (1,), np.float64)
    target = view(out, np.float64, "out").address
    gpu.call(lib.hyb_cuda_sum_squares, found.address, found.size, target, stream)
    return out


def constrain_norm(values: Any, radius: float, *, device: Device | None = None) -> Constrained:
    """Shortens float32 or float64 values to a ball; `pyhybrid.constrain_norm` documents it."""
    gpu, stream = device_or_default(device), current_stream(values)
    single = "float32" in str(values.dtype)
    dtype = np.float32 if single else np.float64
    found = view(values, dtype, "values", stream=stream)
    out = make_like(values, gpu, found.shape, dtype)
    norm, active = make_like(values, gpu, (1,), np.float64), make_like(values, gpu, (1,), np.int32)
    targets = (
        view(out, dtype, "out").address,
        view(norm, np.float64, "norm").address,
        view(active, np.int32, "is_active").address,
    )
    function = lib.hyb_cuda_constrain_norm_f32 if single else lib.hyb_cuda_constrain_norm_f64
    gpu.call(function, radius, found.size, found.address, *targets, stream)
    return Constrained(out, norm, active)
