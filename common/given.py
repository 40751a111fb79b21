"""Values that callers give, taken by what they are: a whole number, a number, a text.

Callers bring numpy's numbers and enumerations, and mistakes; what comes out is Python's own, so
that it can be stored, sent and compared. What is no such value raises InvalidRequest.
"""

from __future__ import annotations

import operator
from typing import SupportsFloat, SupportsIndex

from common.errors import InvalidRequest


def whole(what: str, value: object) -> int:
    """By ``operator.index``, so numpy's whole numbers are taken, 3.0 and "3" are not, nor True."""
    if isinstance(value, SupportsIndex) and not isinstance(value, bool):
        try:
            return operator.index(value)
        except (TypeError, ValueError, OverflowError):  # an array of many has the method, too
            pass
    raise InvalidRequest(f"{what} must be a whole number, got {_kind(value)}")


def real(what: str, value: object) -> float:
    """By ``float``, but no text and no truth value; it may be infinite or not a number."""
    if isinstance(value, SupportsFloat | SupportsIndex) and not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            pass
    raise InvalidRequest(f"{what} must be a number, got {_kind(value)}")


def text(what: str, value: object) -> str:
    """A string; of an enumeration's member, the string that it stands for."""
    if isinstance(value, str):
        return str.__str__(value)
    raise InvalidRequest(f"{what} must be a text, got {_kind(value)}")


def _kind(value: object) -> str:
    """Not the value itself, which may be long, or a prompt."""
    return "nothing" if value is None else f"a value of type {type(value).__name__[:64]}"
