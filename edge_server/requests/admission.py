"""Whether an edge takes one request more: is there room for it, and time, and at whose cost?"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from itertools import islice

from baton.common.errors import DeadlineExceeded, Overloaded
from baton.edge_server.engine.latency import Forecast, Pace, RemainingWork
from baton.edge_server.requests.entry import Entry
from baton.edge_server.requests.lifecycle import State
from baton.edge_server.requests.turns import Turns
from baton.edge_server.requests.wishes import Wishes

_MAX_RETRY_SECONDS = 30.0
_LEAST_MARGIN, _MOST_MARGIN = 1.1, 1.6
_MISSED, _KEPT = 0.05, 0.005  # what a promise, by how it ended, adds to the margin or takes off
_SURE = 1.25  # times what is left: who would need more ends early
_REVIEW_SECONDS = 0.1
_PROBE_SECONDS = 1.0
_MOST_DISPLACED = 3  # by one newcomer


class Admission:
    """Refuses a request for which there is no room or no time, and says when to try again.

    No time: it would not end by its deadline, or somebody who was admitted before would not any
    more. To a request of a caller who has at least two fewer here than another one, that other
    one's newest that still waits gives way (it is *displaced*); and for what was lately refused to
    a caller, time is kept free of those who have more here. So callers who together want more than
    there is get equally much, and a caller alone may have all of it.
    """

    def __init__(
        self, capacity: int, ahead: Collection[Entry], forecast: Callable[[], Forecast]
    ) -> None:
        """ahead: those that run or wait, as they are now, in the order in which they came."""
        self._capacity = capacity
        #: Requests that the engine holds, those that it is about to let go included.
        self.places = 0
        self._ahead = ahead
        self._forecast = forecast
        self._turns = Turns()
        self._held = Counter[str]()  # requests by caller
        self._wishes = Wishes()
        #: Times what is forecast, for what nobody can foresee: less while promises are kept.
        self._margin = _LEAST_MARGIN
        self._probed: dict[Pace, float] = {}
        self._reviewed = -math.inf

    def check(self, entry: Entry) -> Sequence[Entry]:
        """Give the entry its turn; returns those that it displaces.

        Raises Overloaded, or DeadlineExceeded for what could not end in time even alone.
        """
        displaced = self.check_room(entry)
        work = entry.work
        entry.turn = self._turns.next(work.caller, entry.remaining.load, work.priority)
        return self.check_time(entry, displaced)

    def check_room(self, entry: Entry) -> Sequence[Entry]:
        """Who gives way if every place is taken. Raises Overloaded if nobody does."""
        kept = self._wishes.of_smaller(entry.work.caller, self._held)
        if self.places + len(kept) < self._capacity:
            return []
        if (victim := self._newest_of_the_largest(entry.work.caller)) is None:
            self._wish(entry)
            raise Overloaded(
                f"all {self._capacity} places of this edge are taken; try again later or elsewhere",
                retry_after=self.seconds_until_room(),
            )
        return [victim]

    def check_time(self, entry: Entry, displaced: Sequence[Entry] = ()) -> Sequence[Entry]:
        """Who gives way so that all others end in time, as far as the measured pace tells.

        Raises DeadlineExceeded if the newcomer could not even alone, Overloaded if it could not
        among those that are here, or they not with it.
        """
        forecast, gone = self._forecast(), list(displaced)
        alone, left = forecast.seconds([entry.remaining]), self._left(entry)
        probes = left > 0 and alone > left and self._probes(forecast, entry)
        if left <= 0 or (alone > left and not probes):
            raise DeadlineExceeded(
                f"{entry.remaining.calls} steps take about {alone:.3g} s here and"
                f" {max(left, 0):.3g} s are left; allow more time or fewer steps"
            )
        while late := self._made_late(forecast, entry, gone):
            probes = probes or (entry in late and self._probes(forecast, entry))
            others = [other for other in late if not (probes and other is entry)]
            if not others:
                break
            if not self._gives_way(others[-1], entry, gone):
                self._wish(entry)
                raise Overloaded(
                    f"with {len(self._ahead)} requests ahead, {entry.remaining.calls} steps would"
                    f" not end within the {left:.3g} s that are left, or keep others from their"
                    " end; try again later or elsewhere",
                    retry_after=self.seconds_until_room(),
                )
            gone.append(others[-1])
        return gone

    def doomed(self) -> Entry | None:
        """One that cannot end in time any more; asked again within a tenth of a second, None.

        It would need at least a quarter more than it has left, at a pace measured lately and if
        nobody else came. Of several, the one with the most to do: without it the others may.
        """
        now = time.monotonic()
        if now - self._reviewed < _REVIEW_SECONDS:
            return None
        self._reviewed = now
        forecast, line = self._forecast(), self._line()
        under_way = forecast.cycle([entry.remaining for entry in line])
        ends = self._ends(forecast, line, under_way)
        lost = [
            entry
            for entry, end in zip(line, ends, strict=True)
            if end > _SURE * self._left(entry) + under_way
            and forecast.knows([entry.remaining], now)
        ]
        return max(lost, key=lambda entry: entry.remaining.load, default=None)

    def expected_wait(self, work: RemainingWork) -> float | None:
        """Seconds by which those that are here would delay such work; None: not known."""
        forecast, ahead = self._forecast(), [entry.remaining for entry in self._line()]
        if not forecast.knows([*ahead, work], time.monotonic()):
            return None
        return max(forecast.seconds([*ahead, work]) - forecast.seconds([work]), 0.0)

    def enter(self, entry: Entry) -> None:
        self.places += 1
        self._held[entry.work.caller] += 1
        self._turns.wait(entry.turn)

    def start(self, entry: Entry) -> None:
        """It has got its place in the engine."""
        self._turns.place(entry.turn)

    def end(self, entry: Entry, waited: bool) -> None:
        """waited: it never got a place. The engine may hold it yet."""
        self._held -= Counter([entry.work.caller])
        if entry.deadline < math.inf:
            self._learn(entry.state)
        if waited:
            self._turns.withdraw(entry.turn)

    def _learn(self, state: State) -> None:
        """How one that had a deadline ended."""
        if state is State.EXPIRED:
            self._margin = min(self._margin + _MISSED, _MOST_MARGIN)
        elif state in (State.HANDED_OFF, State.DRAWN):
            self._margin = max(self._margin - _KEPT, _LEAST_MARGIN)

    def _left(self, entry: Entry) -> float:
        """Seconds until its deadline."""
        if entry.deadline == math.inf:
            return math.inf
        return entry.deadline - asyncio.get_running_loop().time()

    def _line(self, gone: Collection[Entry] = (), more: Sequence[Entry] = ()) -> list[Entry]:
        """Those that run, then those that wait, in the order in which they get their places."""
        here = [entry for entry in self._ahead if entry not in gone]
        running = [entry for entry in here if entry.state is State.RUNNING]
        waiting = [entry for entry in here if entry.state is not State.RUNNING]
        return running + sorted([*waiting, *more], key=lambda entry: entry.turn.key)

    def _ends(self, forecast: Forecast, line: Sequence[Entry], grace: float = 0.0) -> list[float]:
        """Seconds; infinite for those that are sure to miss every deadline, and if there is none.

        grace: seconds by which one may miss it.
        """
        lefts = [self._left(entry) for entry in line if entry.deadline < math.inf]
        if not lefts:
            return [math.inf] * len(line)
        return forecast.ends([entry.remaining for entry in line], _SURE * max(lefts) + grace)

    def _made_late(
        self, forecast: Forecast, newcomer: Entry, gone: Collection[Entry]
    ) -> list[Entry]:
        """In line, those that would end late, or too nearly so, because of the newcomer."""
        kept = self._wishes.of_smaller(newcomer.work.caller, self._held)
        line = self._line(gone, [*kept, newcomer])
        ends = self._ends(forecast, line)
        late = {
            entry: end
            for entry, end in zip(line, ends, strict=True)
            if self._margin * end > self._left(entry)
        }
        if not late.keys() - {newcomer}:
            return list(late)
        before = self._line(gone, kept)
        without = dict(zip(before, self._ends(forecast, before), strict=True))
        return [
            entry
            for entry, end in late.items()
            if entry is newcomer or without[entry] < min(end, self._left(entry))
        ]

    def _wish(self, entry: Entry) -> None:
        """Of one who has fewer here than somebody else, keep in mind what was refused."""
        if self._held[entry.work.caller] < max(self._held.values(), default=0):
            self._wishes.add(entry, self._left(entry))

    def _gives_way(self, entry: Entry, newcomer: Entry, gone: Collection[Entry]) -> bool:
        caller, other = newcomer.work.caller, entry.work.caller
        fewer = self._held[caller] + 2 <= self._held[other] - sum(
            former.work.caller == other for former in gone
        )
        waits = entry.state is State.QUEUED and entry in self._ahead
        return waits and fewer and len(gone) < _MOST_DISPLACED

    def _newest_of_the_largest(self, caller: str) -> Entry | None:
        """Of another caller, with two requests more; None if there is none that waits."""
        largest = max(self._held, key=self._held.__getitem__, default=caller)
        if self._held[largest] < self._held[caller] + 2:
            return None
        return next(
            (
                entry
                for entry in reversed(list(self._ahead))
                if entry.work.caller == largest and entry.state is State.QUEUED
            ),
            None,
        )

    def _probes(self, forecast: Forecast, entry: Entry) -> bool:
        """Whether it may run in spite of what was measured, since that is old.

        What is refused is not measured again: now and then one has to show how fast it is now.
        """
        now = time.monotonic()
        old = forecast.old(entry.remaining, now)
        asked = (other.remaining.paces() for other in self._ahead)
        if not old or any(old & paces for paces in asked):
            return False
        if any(now - self._probed.get(pace, -math.inf) < _PROBE_SECONDS for pace in old):
            return False
        self._probed |= dict.fromkeys(old, now)
        return True

    def seconds_until_room(self) -> float:
        """When the first of those that run ends, as far as one knows."""
        forecast = self._forecast()
        running = [entry.remaining for entry in islice(self._ahead, forecast.active)]
        if not running or not forecast.knows(running, time.monotonic()):
            return 1.0
        return min(*forecast.ends(running), _MAX_RETRY_SECONDS)
