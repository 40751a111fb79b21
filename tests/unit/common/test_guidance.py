"""What guidance may be left out, as people write it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.common.errors import InvalidRequest
from baton.common.guidance import GuidanceBudget, parse_budget
from baton.common.limits import BRANCHES

OWN = GuidanceBudget(0.7, 2, "positive")


@pytest.mark.parametrize(
    ("text", "alone", "of_a_family"),
    [
        ("none", None, None),
        ("0.6", GuidanceBudget(0.6, 1, "reuse"), GuidanceBudget(0.6, 2, "positive")),
        ("0.6:3", GuidanceBudget(0.6, 3, "reuse"), GuidanceBudget(0.6, 3, "positive")),
        ("1:0", GuidanceBudget(1.0, 0, "reuse"), GuidanceBudget(1.0, 0, "positive")),
        (".5:1:reuse", GuidanceBudget(0.5, 1, "reuse"), GuidanceBudget(0.5, 1, "reuse")),
    ],
)
def test_what_a_text_leaves_open_is_as_the_family_has_it(
    text: str, alone: GuidanceBudget | None, of_a_family: GuidanceBudget | None
) -> None:
    assert parse_budget(text) == alone
    assert parse_budget(text, OWN) == of_a_family


@given(st.integers(0, 100), st.integers(0, 200), st.sampled_from(BRANCHES[1:]))
def test_a_budget_is_read_as_it_is_written(percent: int, in_a_row: int, branches: str) -> None:
    budget = GuidanceBudget(percent / 100, in_a_row, branches)  # type: ignore[arg-type]
    assert parse_budget(str(budget), OWN) == budget


@pytest.mark.parametrize(
    "text", ["", "None", "1.5", "-0.5", "0.5:", "0.5:x", "0.5:201", "0.5:1:both", "0.5:1:x", "nan"]
)
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_budget(text)
