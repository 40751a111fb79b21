"""Sends a load to a system and notes what came back, and when."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice

from tests.bench.serving.process import Running
from tests.bench.serving.systems import Answer
from tests.bench.serving.trace import Arrival, Request

#: Between two looks at the gauges.
_GAUGE_SECONDS = 0.25
#: In which what is under way ends when the rest is cancelled.
_END_SECONDS = 120.0


@dataclass
class Outcome:
    """due: when it was to come; finished: when it came back, None if it never did. Seconds.

    error: what came back instead of an answer.
    """

    request: Request
    due: float
    finished: float | None = None
    answer: Answer | None = None
    error: str = ""


@dataclass
class Measured:
    """One load on one system.

    seconds: of the load itself, without its end; waited: until it was given up, or all was done.
    series: gauges with ``t``, seconds since the beginning.
    """

    outcomes: list[Outcome]
    seconds: float
    waited: float
    cpu_seconds: float
    series: list[dict[str, float]] = field(default_factory=list)
    calls: dict[str, list[float]] = field(default_factory=dict)


class _Session:
    """What is under way at one system."""

    def __init__(self, remote: Running) -> None:
        self.remote = remote
        self.begun = time.monotonic()
        self.open: dict[int, Outcome] = {}
        self.all: list[Outcome] = []
        self.series: list[dict[str, float]] = []
        self.newest = 0.0  # when the last answer came
        self._looked = -_GAUGE_SECONDS
        self._asked = False

    @property
    def now(self) -> float:
        return time.monotonic() - self.begun

    def send(self, request: Request, due: float) -> None:
        outcome = Outcome(request, due)
        self.open[request.index] = outcome
        self.all.append(outcome)
        self.remote.send(request)

    def hear(self, until: float) -> None:
        """What comes next, if it comes by then."""
        if self.now >= self._looked + _GAUGE_SECONDS and not self._asked:
            self.remote.post("gauges")
            self._looked, self._asked = self.now, True
        message = self.remote.hear(min(until - self.now, _GAUGE_SECONDS))
        if message is None:
            return
        what, told = message
        if what == "gauges":
            self.series.append({"t": self.now, **told})
            self._asked = False
        elif isinstance(what, int):
            self._settle(self.open.pop(what), told)

    def _settle(self, outcome: Outcome, told: Answer | str) -> None:
        if isinstance(told, Answer):
            outcome.answer, outcome.finished = told, self.now
            self.newest = self.now
        else:
            outcome.error = told

    def end(self) -> None:
        """Nothing is under way afterwards. Raises RuntimeError if that takes too long."""
        self.remote.post("clear")
        until = self.now + _END_SECONDS
        given_up = list(self.open.values())
        while self.open or self._asked:
            if self.now > until:
                raise RuntimeError(f"{self.remote.spec.name} does not end {len(self.open)}")
            self.hear(until)
        for outcome in given_up:  # what came after the end of the time is not counted
            outcome.finished, outcome.answer, outcome.error = None, None, ""


def open_loop(
    remote: Running, arrivals: Sequence[Arrival], seconds: float, grace: float
) -> Measured:
    """Requests at their times, whatever became of the last ones.

    What is not done ``grace`` seconds after the last of them is given up.
    """
    cpu, session = _cpu_before(remote), _Session(remote)
    for arrival in arrivals:
        while session.now < arrival.seconds:
            session.hear(arrival.seconds)
        session.send(arrival.request, arrival.seconds)
    while session.now < seconds or (session.open and session.now < seconds + grace):
        session.hear(seconds if session.now < seconds else seconds + grace)
    return _measured(session, seconds, cpu)


def closed_loop(
    remote: Running, requests: Sequence[Request], clients: int, seconds: float
) -> Measured:
    """So many clients, each with its next request as soon as the last one is done.

    It ends after so many seconds, but not before something came after the first half of them.
    """
    cpu, session = _cpu_before(remote), _Session(remote)
    more = enumerate(islice(cycle(requests), 1_000_000))
    while session.now < seconds or session.newest < seconds / 2:
        while len(session.open) < clients:
            index, request = next(more)
            session.send(_renumbered(request, index), session.now)
        session.hear(max(seconds, session.now + _GAUGE_SECONDS))
    return _measured(session, session.now, cpu)


def _renumbered(request: Request, index: int) -> Request:
    """The trace once more from its beginning has other numbers."""
    return Request(index, *(getattr(request, name) for name in Request.__slots__[1:]))


def _cpu_before(remote: Running) -> float:
    remote.ask("calls")  # those of before
    return remote.cpu_seconds()


def _measured(session: _Session, seconds: float, cpu: float) -> Measured:
    waited = session.now
    used = session.remote.cpu_seconds() - cpu
    calls, series = dict(session.remote.ask("calls")), list(session.series)
    session.end()  # what is looked at meanwhile is of no load
    return Measured(session.all, seconds, waited, used, series, calls)
