"""Limits on what nodes tell one another. Every check raises InvalidRequest and names the field."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from baton.common.arm import check_member_name
from baton.common.errors import MAX_REASON_CHARS, InvalidRequest
from baton.common.limits import MAX_NAME_CHARS
from baton.common.naming import check_id

MAX_MEMBERS = 8
MAX_FAMILY_MEMBERS = 64
MAX_PROBES = 64
#: Of what a device reports about the edges that it tried.
MAX_ATTEMPTS = 64
MAX_SECONDS = 86_400.0
MAX_BYTES = 1 << 40

_STATUS_NAME = re.compile(r"[A-Z][A-Z_]{0,63}")


def check_optional_id(value: str, what: str) -> str:
    """An id, or nothing."""
    return check_id(value, what) if value else value


def check_members(members: Sequence[str], what: str, most: int = MAX_MEMBERS) -> tuple[str, ...]:
    """Member names in order, each once; an arm can hold them."""
    if len(members) > most:
        raise InvalidRequest(f"{what}: {len(members)} members; at most {most} are allowed")
    for member in members:
        check_member_name(check_id(member, what, MAX_NAME_CHARS))
    return tuple(dict.fromkeys(members))


def check_range(value: float, low: float, high: float, what: str) -> float:
    """A finite number in ``[low, high]``."""
    if not (math.isfinite(value) and low <= value <= high):
        raise InvalidRequest(f"{what} must be from {low:g} to {high:g}, got {value}")
    return value


def check_seconds(value: float, what: str) -> float:
    """A duration of 0 to a day."""
    return check_range(value, 0.0, MAX_SECONDS, what)


def check_reason(value: str) -> str:
    """At most one printable line."""
    if len(value) > MAX_REASON_CHARS or not value.isprintable():
        raise InvalidRequest(
            f"a reason is one printable line of at most {MAX_REASON_CHARS} characters"
        )
    return value


def check_status_name(value: str) -> str:
    """Empty, or the name of a status such as UNAVAILABLE: never free text."""
    if value and not _STATUS_NAME.fullmatch(value):
        raise InvalidRequest("error must be a status name such as UNAVAILABLE")
    return value
