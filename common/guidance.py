"""What guidance a caller lets an edge leave out: values only."""

from __future__ import annotations

import re
from dataclasses import dataclass

from baton.common.errors import InvalidRequest
from baton.common.given import text
from baton.common.limits import BRANCHES, MAX_STEPS, Branches

NO_BUDGET = "none"
_FORM = re.compile(r"(\d*\.?\d+)(?::(\d{1,4}))?(?::([a-z]+))?")


@dataclass(frozen=True, slots=True)
class GuidanceBudget:
    """What guidance an edge may leave out under load (SynerDiff).

    after: from this share of the steps on; in_a_row: at most; branches: what runs instead.
    """

    after: float
    in_a_row: int
    branches: Branches = "reuse"

    def __post_init__(self) -> None:
        if not 0.0 <= self.after <= 1.0:
            raise InvalidRequest("a guidance budget begins at a share of the steps, from 0 to 1")
        if not 0 <= self.in_a_row <= MAX_STEPS:
            raise InvalidRequest(f"a guidance budget is of 0 to {MAX_STEPS} steps in a row")
        if self.branches not in BRANCHES[1:]:
            raise InvalidRequest(f"{self.branches!r} is no cheaper guidance")

    def __str__(self) -> str:
        return f"{self.after:g}:{self.in_a_row}:{self.branches}"


def parse_budget(asked: str, own: GuidanceBudget | None = None) -> GuidanceBudget | None:
    """Of ``SHARE[:IN_A_ROW[:BRANCHES]]``; None of ``none``.

    own: as what the text leaves open is, the family's. Raises InvalidRequest.
    """
    if text("a guidance budget", asked) == NO_BUDGET:
        return None
    found = _FORM.fullmatch(asked)
    if found is None:
        raise InvalidRequest(
            f"a guidance budget is {NO_BUDGET}, or from which share of the steps on guidance may be"
            f" left out, and at how many in a row, as 0.6 or 0.6:1, got {asked[:32]!r}"
        )
    usual = own or GuidanceBudget(0.0, 1)
    after, count, branches = found.groups()
    return GuidanceBudget(
        float(after),
        usual.in_a_row if count is None else int(count),
        _variant(branches) if branches else usual.branches,
    )


def check_budget(asked: str) -> str:
    """Raises InvalidRequest."""
    parse_budget(asked)
    return str.__str__(asked)


def _variant(name: str) -> Branches:
    for branches in BRANCHES[1:]:
        if branches == name:
            return branches
    raise InvalidRequest(f"{name!r} is no cheaper guidance; there are {', '.join(BRANCHES[1:])}")
