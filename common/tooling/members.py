"""Which members of a family go through a whole trajectory."""

from __future__ import annotations

from baton.common.errors import InvalidRequest
from baton.common.families.spec import FamilySpec


def whole_member(spec: FamilySpec, name: str | None) -> str:
    """The member of that name, or the first. Raises UnknownName, and InvalidRequest for a part."""
    member = spec.check_member(name or next(iter(spec.members)))
    if levels := spec.members[member].levels:
        low, high = levels
        raise InvalidRequest(
            f"{member} takes steps at noise levels from {low:g} to {high:g}; name a member that"
            " goes through all of them"
        )
    return member
