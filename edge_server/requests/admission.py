"""Whether an edge takes one request more: is there room for it, and time?"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Collection
from itertools import islice

from baton.common.errors import DeadlineExceeded, Overloaded
from baton.edge_server.engine.latency import Forecast, RemainingWork
from baton.edge_server.requests.entry import Entry

_MAX_RETRY_SECONDS = 30.0


class Admission:
    """Refuses a request for which there is no room or no time, and says when to try again."""

    def __init__(
        self, capacity: int, ahead: Collection[Entry], forecast: Callable[[], Forecast]
    ) -> None:
        """ahead: those that run or wait, as they are now, in the order in which they came."""
        self._capacity = capacity
        #: Requests that the engine holds, those that it is about to let go included.
        self.places = 0
        self._ahead = ahead
        self._forecast = forecast

    def check_room(self) -> None:
        """Raises Overloaded if every place is taken."""
        if self.places >= self._capacity:
            raise Overloaded(
                f"all {self._capacity} places of this edge are taken; try again later or elsewhere",
                retry_after=self._seconds_until_room(),
            )

    def check_time(self, work: RemainingWork, deadline: float) -> None:
        """Refuse what cannot end in time, as far as the measured pace tells.

        deadline: in the event loop's time. Raises DeadlineExceeded if it could not even alone,
        Overloaded if it could not behind those that are here.
        """
        left = deadline - asyncio.get_running_loop().time()
        if left == math.inf:
            return
        forecast = self._forecast()
        works = [*(entry.remaining for entry in self._ahead), work]
        if left > 0 and not forecast.knows(works, time.monotonic()):
            return
        alone = forecast.seconds([work]) if left > 0 else 0.0
        if alone >= left:
            raise DeadlineExceeded(
                f"{work.steps} steps take about {alone:.3g} s here and {max(left, 0):.3g} s are"
                " left; allow more time or fewer steps"
            )
        if forecast.seconds(works, left) > left:
            raise Overloaded(
                f"with {len(works) - 1} requests ahead, {work.steps} steps would not end within the"
                f" {left:.3g} s that are left; try again later or elsewhere",
                retry_after=self._seconds_until_room(),
            )

    def expected_wait(self, work: RemainingWork) -> float | None:
        """Seconds by which those that are here would delay such work; None: not known."""
        forecast, ahead = self._forecast(), [entry.remaining for entry in self._ahead]
        if not forecast.knows([*ahead, work], time.monotonic()):
            return None
        return max(forecast.seconds([*ahead, work]) - forecast.seconds([work]), 0.0)

    def _seconds_until_room(self) -> float:
        """When the first of those that run ends, as far as one knows."""
        forecast = self._forecast()
        running = [entry.remaining for entry in islice(self._ahead, forecast.active)]
        if not running or not forecast.knows(running, time.monotonic()):
            return 1.0
        running.sort(key=lambda work: work.steps, reverse=True)  # it is asked of the last one
        return min(forecast.seconds(running), _MAX_RETRY_SECONDS)
