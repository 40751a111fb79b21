"""Which requests an edge that leaves still ends itself, and until when."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Collection
from typing import NamedTuple

from baton.edge_server.engine.latency import Forecast
from baton.edge_server.requests.entry import Entry
from baton.edge_server.requests.lifecycle import State

_STEP_SECONDS = 5.0
_STEP_SHARE = 0.1
_LOOKING_SHARE = 0.1


class Times(NamedTuple):
    """Of a drain, seconds from its beginning.

    looking: until then all that runs goes on, so that the pace is known; working: until then
    whoever can end goes on; ending: until then the steps under way have ended.
    """

    looking: float
    working: float
    ending: float

    @classmethod
    def of(cls, grace: float) -> Times:
        """A grace that is too short for a step is no reason to lose it."""
        grace = max(grace, 0.0)
        working = grace - min(_STEP_SHARE * grace, _STEP_SECONDS)
        return cls(_LOOKING_SHARE * grace, working, max(grace, working + _STEP_SECONDS))


def running(entries: Collection[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry.state is State.RUNNING]


def staying(entries: Collection[Entry], forecast: Forecast, seconds: float) -> list[Entry]:
    """Those that run and end within so many seconds, as far as the measured pace tells.

    Those nearest to their end come first, since each that stays slows the others down. If the pace
    is not known, all of them: whoever has not ended by then goes on elsewhere anyway.
    """
    found = sorted(running(entries), key=lambda entry: entry.remaining.steps)
    works = [entry.remaining for entry in found]
    if not forecast.knows(works, time.monotonic()):
        return found

    def needed(count: int) -> float:
        return forecast.seconds(works[:count], seconds)

    return found[: bisect_right(range(1, len(found) + 1), seconds, key=needed)]
