"""Values that callers give, taken by what they are: a whole number, a number, a text.

Callers bring numpy's numbers and enumerations, and mistakes; what comes out is Python's own, so
that it can be stored, sent and compared. What is no such value raises InvalidRequest.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from numbers import Complex, Real
from typing import SupportsFloat, SupportsIndex, TypeVar

from baton.common.errors import InvalidRequest

N = TypeVar("N", bound=str)
T = TypeVar("T")
#: Above those of any value; a number of very many digits could not even be told.
_MOST_BITS = 128


def whole(what: str, value: object) -> int:
    """By ``operator.index``, so numpy's whole numbers are taken, 3.0 and "3" are not, nor True."""
    number = None
    if isinstance(value, SupportsIndex) and not _is_truth(value):
        number = _tried(operator.index, value)
    if number is None:
        raise InvalidRequest(f"{what} must be a whole number, got {_kind(value)}")
    if number.bit_length() > _MOST_BITS:
        raise InvalidRequest(f"{what} is a number of {number.bit_length()} bits, beyond all limits")
    return number


def real(what: str, value: object) -> float:
    """By ``float``, but no text and no truth value; it may be infinite or not a number."""
    number = None
    if isinstance(value, SupportsFloat | SupportsIndex) and not _is_no_real(value):
        number = _tried(float, value)
    if number is None:
        raise InvalidRequest(f"{what} must be a number, got {_kind(value)}")
    return number


def text(what: str, value: object) -> str:
    """A string that UTF-8 can hold; of an enumeration's member, the one that it stands for."""
    if not isinstance(value, str):
        raise InvalidRequest(f"{what} must be a text, got {_kind(value)}")
    plain = str.__str__(value)
    try:
        plain.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{what} is not valid text; write it in UTF-8") from error
    return plain


def one_of(what: str, value: object, names: Sequence[N]) -> N:
    """The one among ``names`` that it is."""
    told = text(what, value)
    for name in names:
        if told == name:
            return name
    raise InvalidRequest(f"{what} is one of {', '.join(names)}, got {told[:32]!r}")


def _tried(convert: Callable[..., T], value: object) -> T | None:
    """None if it cannot be done: arrays of many have the methods, too, and raise what they like."""
    try:
        return convert(value)
    except Exception:
        return None


def _is_truth(value: object) -> bool:
    """Python's, numpy's and torch's truth values, which all pass for 0 and 1."""
    dtype = str(getattr(value, "dtype", ""))
    return isinstance(value, bool) or dtype.rpartition(".")[2] == "bool"


def _is_no_real(value: object) -> bool:
    """What numpy turns into a number nevertheless."""
    is_complex = isinstance(value, Complex) and not isinstance(value, Real)
    return is_complex or isinstance(value, str | bytes) or _is_truth(value)


def _kind(value: object) -> str:
    """Not the value itself, which may be long, or a prompt."""
    return "nothing" if value is None else f"a value of type {type(value).__name__[:64]}"
