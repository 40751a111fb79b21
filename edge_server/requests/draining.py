"""Which requests an edge that leaves still ends itself."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Collection

from baton.edge_server.engine.latency import Forecast
from baton.edge_server.requests.entry import Entry
from baton.edge_server.requests.lifecycle import State

#: Seconds that the steps under way get to end, also beside a shorter grace.
STEP_SECONDS = 5.0
#: Of a grace: for the steps under way at its end.
_STEP_SHARE = 0.1


def working_seconds(grace: float) -> float:
    """Of the seconds of a grace those in which the edge works on."""
    return max(grace - min(_STEP_SHARE * grace, STEP_SECONDS), 0.0)


def staying(entries: Collection[Entry], forecast: Forecast, seconds: float) -> list[Entry]:
    """Those that run and end within so many seconds, as far as the measured pace tells.

    Those nearest to their end come first, since each that stays slows the others down. If the pace
    is not known, all of them: whoever has not ended by then goes on elsewhere anyway.
    """
    if seconds <= 0.0:
        return []
    running = [entry for entry in entries if entry.state is State.RUNNING]
    running.sort(key=lambda entry: entry.remaining.steps)
    works = [entry.remaining for entry in running]
    if not forecast.knows(works, time.monotonic()):
        return running

    def needed(count: int) -> float:
        return forecast.seconds(works[:count], seconds)

    return running[: bisect_right(range(1, len(running) + 1), seconds, key=needed)]
