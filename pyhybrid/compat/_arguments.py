"""Arguments as the documents spell them: two names for one thing, and tensors where arrays are meant.

Place in the data flow: below the facades of this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pyhybrid._buffers import Array, float_array
from pyhybrid._errors import InvalidArgumentError, NotFiniteError
from pyhybrid.config import ConfigError

__all__ = ["as_array", "finite_array", "one_value"]


def one_value(given: Mapping[str, Any], default: Any) -> Any:
    """Returns the value of a thing that has several names.

    Args:
        given: values by name; None: not given.
        default: if none is given.

    Raises:
        ConfigError: two names have different values.
    """
    found = {name: value for name, value in given.items() if value is not None}
    values = list(found.values())
    if any(value != values[0] for value in values[1:]):
        words = " and ".join(f"{name}={value!r}" for name, value in found.items())
        raise ConfigError(f"{words} are two names of one thing with different values; give one of them")
    return values[0] if values else default


def as_array(values: Any) -> Array:
    """Returns an array of anything that is like one, a PyTorch tensor included (its values on the CPU)."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    return np.asarray(values)


def finite_array(values: Any, name: str) -> Array:
    """Returns a float32 or float64 array with at least one value, all finite.

    Args:
        values: as for `as_array`; converted as `float_array` does it.
        name: for messages.

    Raises:
        InvalidArgumentError: empty, or no numbers.
        NotFiniteError: NaN or infinity.
    """
    array = float_array(as_array(values), name)
    if array.size == 0:
        raise InvalidArgumentError(f"{name} is empty; give at least one value")
    if not np.isfinite(array).all():
        raise NotFiniteError(f"{name} holds a NaN or an infinity")
    return array
