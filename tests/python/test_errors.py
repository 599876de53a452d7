"""The exception tree, the step from a status to an exception, and the package's surface."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import pyhybrid as ph
from pyhybrid import _errors
from pyhybrid._native import ffi, lib

STATUSES = [name for name in dir(lib) if name.startswith("HYB_ERROR_")]


@pytest.mark.parametrize("name", STATUSES)
def test_every_status_has_its_own_exception(name: str) -> None:
    """No status of the C library falls back to the base class, and the code is kept."""
    status = getattr(lib, name)
    with pytest.raises(ph.HybridError) as caught:
        _errors.check(status)
    assert type(caught.value) is not ph.HybridError
    assert caught.value.status == status
    assert str(caught.value) == ffi.string(lib.hyb_status_string(status)).decode()


def test_ok_raises_nothing_and_unknown_the_base_class() -> None:
    """HYB_OK passes; a status of a later library is still a HybridError."""
    _errors.check(lib.HYB_OK)
    with pytest.raises(ph.HybridError):
        _errors.check(-12345)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (ph.InvalidArgumentError, ValueError),
        (ph.OutOfMemoryError, MemoryError),
        (ph.NotFiniteError, ArithmeticError),
        (ph.FileIOError, OSError),
        (ph.FileFormatError, ValueError),
        (ph.ChecksumError, ph.FileFormatError),
        (ph.TruncatedFileError, ph.FileFormatError),
        (ph.VersionError, ph.FileFormatError),
        (ph.StateError, RuntimeError),
        (ph.UnsupportedError, NotImplementedError),
    ],
)
def test_exceptions_derive_from_builtin_ones(
    error: type[ph.HybridError], builtin: type[BaseException]
) -> None:
    """Each can be caught as a HybridError and as its built-in kind, and survives pickling."""
    raised = error("the message", -1)
    assert isinstance(raised, ph.HybridError)
    assert isinstance(raised, builtin)
    assert str(raised) == raised.message == "the message"
    assert str(pickle.loads(pickle.dumps(raised))) == "the message"


def test_message_holds_the_detail_of_the_context() -> None:
    """The C library's detail follows the phrase."""
    with pytest.raises(ph.InvalidArgumentError, match="matrix of 0 x 3"):
        ph.quantize(np.zeros((0, 3), np.float32))


def test_public_names_exist_and_unknown_ones_do_not() -> None:
    """Every name in __all__ can be loaded; a wrong name is an AttributeError."""
    for name in ph.__all__:
        assert getattr(ph, name) is not None
    assert set(ph.__all__) <= set(dir(ph))
    assert ph.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="nothing_like_this"):
        _ = ph.nothing_like_this
