"""The states of a request, and the ways between them."""

from __future__ import annotations

from itertools import product

import pytest

from baton.edge_server.requests.lifecycle import (
    TRANSITIONS,
    IllegalTransition,
    State,
    check_transition,
)

ENDS = set(State) - {State.QUEUED, State.RUNNING}
RESULTS = {State.HANDED_OFF, State.DRAWN}


def test_a_request_waits_runs_and_ends() -> None:
    assert TRANSITIONS[State.QUEUED] == {State.RUNNING} | (ENDS - RESULTS)
    assert TRANSITIONS[State.RUNNING] == ENDS


def test_from_an_end_no_way_leads_on() -> None:
    for state in State:
        assert state.ended == (state in ENDS)
        assert bool(TRANSITIONS[state]) != state.ended


@pytest.mark.parametrize(("before", "after"), list(product(State, State)))
def test_only_what_the_table_says_is_possible(before: State, after: State) -> None:
    if after in TRANSITIONS[before]:
        assert check_transition(before, after) is after
        return
    with pytest.raises(IllegalTransition, match=before.value):
        check_transition(before, after)
