"""The life of a request on an edge: its states, and the only ways between them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class State(Enum):
    """QUEUED waits for a place, RUNNING has one; every other state is an end.

    CANCELLED was asked for; ABANDONED had no listener for longer than it lingers; EXPIRED passed
    its deadline, or could not end by it any more; DISPLACED made room for another caller's; DRAINED
    is to go on elsewhere, for the edge leaves; FAILED ended with any other error.
    """

    QUEUED = "queued"
    RUNNING = "running"
    HANDED_OFF = "handed off"
    DRAWN = "drawn"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ABANDONED = "abandoned"
    EXPIRED = "expired"
    DRAINED = "drained"
    DISPLACED = "displaced"

    @property
    def ended(self) -> bool:
        return not TRANSITIONS[self]

    @property
    def word(self) -> str:
        return self.value.replace(" ", "_")


_STOPPED = frozenset(
    {
        State.FAILED,
        State.CANCELLED,
        State.ABANDONED,
        State.EXPIRED,
        State.DRAINED,
        State.DISPLACED,
    }
)
TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.QUEUED: _STOPPED | {State.RUNNING},
    State.RUNNING: _STOPPED | {State.HANDED_OFF, State.DRAWN},
    State.HANDED_OFF: frozenset(),
    State.DRAWN: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
    State.ABANDONED: frozenset(),
    State.EXPIRED: frozenset(),
    State.DRAINED: frozenset(),
    State.DISPLACED: frozenset(),
}


class IllegalTransition(RuntimeError):
    """A request was to go where its state does not lead: a fault of the program."""


def check_transition(before: State, after: State) -> State:
    """``after``. Raises IllegalTransition if no way leads there."""
    if after not in TRANSITIONS[before]:
        raise IllegalTransition(f"a {before.value} request cannot become {after.value}")
    return after
