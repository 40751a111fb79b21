"""The order in which requests that wait get their places: fair to callers, not to requests.

Start-time fair queueing (Goyal, Vin and Cheng, 1996): a request begins, in units of work, where
the one before it of the same caller ends, or now, whichever is later; "now" is the turn of the last
one that got a place. Whoever asks for little thus goes before whoever has asked for much, and
callers who always wait get equal work. A level of priority puts a request `LEVEL` units forward.

Nobody starves: from the arrival of a request to its place, each other caller gets at most
``Turn.behind + (MAX_PRIORITY - priority) * LEVEL`` units of work, and one request more.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_PRIORITY = 3
#: Units of work, rows of steps that run all blocks: sixteen guided pictures of twenty steps.
LEVEL = 640.0


@dataclass(frozen=True)
class Turn:
    """Of one request. key: the lowest goes first; of equal ones, who came first.

    start, end: between which its work lies in its caller's; behind: units by which its caller is
    ahead of everybody, for all that it has asked for before.
    """

    caller: str = ""
    start: float = 0.0
    end: float = 0.0
    behind: float = 0.0
    key: float = 0.0


class Turns:
    """Gives turns. While nobody waits, what callers had before is forgotten."""

    def __init__(self) -> None:
        self._now = 0.0
        self._waiting = 0
        self._ends: dict[str, float] = {}

    def next(self, caller: str, work: float, priority: int = 0) -> Turn:
        """The turn of a request that comes now; nothing is changed.

        work: in rows of steps that run all blocks.
        """
        start = max(self._now, self._ends.get(caller, self._now))
        key = start - priority * LEVEL
        return Turn(caller, start, start + work, start - self._now, key)

    def wait(self, turn: Turn) -> None:
        """Its request is in line."""
        self._ends[turn.caller] = turn.end
        self._waiting += 1

    def place(self, turn: Turn) -> None:
        """Its request has got a place."""
        self._now = max(self._now, turn.key)
        self._leave()

    def withdraw(self, turn: Turn) -> None:
        """Its request has left without one; if it was its caller's newest, nothing is owed."""
        if self._ends.get(turn.caller) == turn.end:
            self._ends[turn.caller] = turn.start
        self._leave()

    def _leave(self) -> None:
        self._waiting -= 1
        if not self._waiting:
            self._ends.clear()
