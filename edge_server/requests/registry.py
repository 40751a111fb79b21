"""Requests by id: each runs once, ends once, and is kept for a time."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Collection, Iterator
from copy import copy
from dataclasses import dataclass, field

from baton.common.errors import (
    BatonError,
    Cancelled,
    DeadlineExceeded,
    Draining,
    Overloaded,
)
from baton.edge_server.engine.engine import Engine
from baton.edge_server.engine.job import (
    Checkpointed,
    Denoised,
    Drained,
    Drawn,
    Dropped,
    Event,
    HandedOff,
    Job,
    Outcome,
    Progressed,
    Started,
    Work,
)
from baton.edge_server.engine.latency import RemainingWork
from baton.edge_server.engine.observer import Observer
from baton.edge_server.requests.admission import Admission
from baton.edge_server.requests.draining import Times, running, staying
from baton.edge_server.requests.entry import Entry, Key, key_of
from baton.edge_server.requests.lifecycle import State
from baton.edge_server.requests.result_cache import ResultCache, Retention

#: Ends that nobody asked for and that say nothing of the request: it may come again.
_ASKED_AGAIN = frozenset({State.ABANDONED, State.DISPLACED})


@dataclass(frozen=True)
class Bounds:
    """What a registry holds at most.

    capacity: requests that run or wait; listeners: of one request; linger: seconds for which a
    request goes on without any.
    """

    capacity: int
    linger: float = 10.0
    listeners: int = 16
    retention: Retention = field(default_factory=Retention)


@dataclass
class Counts:
    """How many requests ended in which way."""

    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    abandoned: int = 0
    expired: int = 0
    drained: int = 0
    displaced: int = 0

    def add(self, state: State) -> None:
        name = "completed" if state in (State.HANDED_OFF, State.DRAWN) else state.value
        setattr(self, name, getattr(self, name) + 1)


@dataclass(frozen=True)
class Occupancy:
    """Requests running, waiting, and how many fit in all."""

    active: int
    queued: int
    capacity: int


class Registry:
    """The one owner of every request's life, on the event loop; the engine works and tells.

    A request ends here, once, with whatever comes first: the engine's outcome, a cancel, its
    deadline, or the end of its lingering. What the engine tells of it later is not heard. Its place
    is free when the engine has let it go, at its next step.
    """

    def __init__(self, engine: Engine, bounds: Bounds, observer: Observer | None = None) -> None:
        self._engine = engine
        self._observer = observer or Observer()
        self._bounds = bounds
        self._open: dict[Key, Entry] = {}
        self._kept = ResultCache(bounds.retention)
        self._admission = Admission(bounds.capacity, self._open.values(), engine.forecast)
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed: BatonError | None = None
        self.counts = Counts()
        self.draining = False

    @property
    def unfinished(self) -> int:
        return len(self._open)

    @property
    def places(self) -> int:
        """Requests that the engine holds, those that it is about to let go included."""
        return self._admission.places

    @property
    def free_places(self) -> int:
        """Requests that would still be admitted, as far as their number decides."""
        shut = self.draining or self._closed is not None
        return 0 if shut else max(self._bounds.capacity - self.places, 0)

    def expected_wait(self, work: RemainingWork) -> float | None:
        """As `Admission.expected_wait`."""
        return self._admission.expected_wait(work)

    @property
    def kept(self) -> ResultCache:
        return self._kept

    def occupancy(self) -> Occupancy:
        active = sum(entry.state is State.RUNNING for entry in self._open.values())
        return Occupancy(active, self.unfinished - active, self._bounds.capacity)

    def admit(self, work: Work, deadline: float = math.inf) -> tuple[Entry, bool]:
        """The entry of this work, and whether it was there already.

        deadline: in the event loop's time; one that comes again with a later deadline gets that.
        Raises Overloaded, DeadlineExceeded, Draining, or as `Entry.check_claim`.
        """
        known = self._find(work)
        if known is not None:
            known.check_claim(work)
            if not known.state.ended:
                self._expire_at(known, max(deadline, known.deadline))
            return known, True
        try:
            entry = self._admitted(work, deadline)
        except BatonError:
            self._observer.refused()
            raise
        self._accept(entry)
        return entry, False

    def _admitted(self, work: Work, deadline: float) -> Entry:
        self._check_open()
        entry = Entry(work, lambda: self._position(entry), deadline)
        for other in self._admission.check(entry):
            self._displace(other)
        return entry

    def _accept(self, entry: Entry) -> None:
        self._open[entry.key] = entry
        entry.job = Job(entry.work, self._emitter(entry), entry.turn.key)
        self._idle.clear()
        self._admission.enter(entry)
        self._expire_at(entry, entry.deadline)
        self._let_linger(entry)
        self._observer.arrived()
        self._engine.submit(entry.job)

    @contextlib.contextmanager
    def listening(self, entry: Entry) -> Iterator[Entry]:
        """For as long as somebody follows the entry's events.

        Once the last listener left early, the request lingers, then ends. Raises Overloaded if it
        has too many listeners already.
        """
        if entry.listeners >= self._bounds.listeners:
            raise Overloaded(
                f"request {entry.work.request_id} has {entry.listeners} listeners already"
            )
        entry.listeners += 1
        if entry.lingering is not None:
            entry.lingering.cancel()
            entry.lingering = None
        try:
            yield entry
        finally:
            entry.listeners -= 1
            if entry.listeners == 0 and not entry.state.ended:
                self._let_linger(entry)

    def holds(self, work: Work) -> bool:
        """Whether this very work runs, waits or is kept here."""
        known = self._find(work)
        return known is not None and known.asks(work)

    def cancel(self, request_id: str, owner: str | None = None) -> bool:
        """End a request, in all its parts; False if there is nothing to end.

        ``owner``: whose it must be; another's is as good as unknown. None ends anybody's.
        """
        found = [
            entry
            for (name, _), entry in self._open.items()
            if name == request_id and owner in (None, entry.work.owner)
        ]
        for entry in found:
            error = Cancelled(f"request {request_id} was cancelled")
            self._withdraw(entry, State.CANCELLED, error)
        return bool(found)

    def close(self, error: BatonError) -> None:
        """End all there is with ``error``, and refuse everything new with it."""
        self._closed = error
        for entry in list(self._open.values()):
            self._withdraw(entry, State.FAILED, error)

    async def drain(self, grace: float) -> bool:
        """Let all go on elsewhere that do not end within ``grace`` seconds.

        They end at their next step, with their newest state: those that wait at once, those that
        will not make it when a small part of the grace has told so, the others at its end. False if
        something is still here.
        """
        begun, times = time.monotonic(), Times.of(grace)

        def left(seconds: float) -> float:
            return begun + seconds - time.monotonic()

        self._release(besides=running(self._open.values()))
        if await self.wait_idle(left(times.looking)):
            return True
        forecast, here = self._engine.forecast(), self._open.values()
        self._release(besides=staying(here, forecast, left(times.working)))
        if await self.wait_idle(left(times.working)):
            return True
        self._release()
        return await self.wait_idle(left(times.ending))

    def _release(self, besides: Collection[Entry] = ()) -> None:
        """Let the engine end them; until it has, they go on."""
        kept = set(besides)
        for entry in self._open.values():
            if entry not in kept and entry.job is not None:
                self._engine.release(entry.job)

    async def wait_idle(self, timeout: float) -> bool:
        """Wait until no request is unfinished; False if that took too long."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout)
        except TimeoutError:
            return False
        return True

    def _find(self, work: Work) -> Entry | None:
        key = key_of(work)
        return self._open.get(key) or self._kept.get(key)

    def _position(self, entry: Entry) -> int:
        """How many are queued whose turn is before its own."""
        queued = [other for other in self._open.values() if other.state is State.QUEUED]
        queued.sort(key=lambda other: other.turn.key)
        return queued.index(entry)

    def _check_open(self) -> None:
        if self._closed is not None:
            raise copy(self._closed)
        if self.draining:
            raise Draining("this edge is shutting down and takes no new requests; use another")

    def _expire_at(self, entry: Entry, deadline: float) -> None:
        if entry.expiring is not None:
            entry.expiring.cancel()
        entry.deadline = deadline
        if deadline < math.inf:
            loop = asyncio.get_running_loop()
            entry.expiring = loop.call_at(deadline, self._expire, entry)

    def _expire(self, entry: Entry) -> None:
        error = DeadlineExceeded(
            f"request {entry.work.request_id} did not end in the time that it was given"
        )
        self._withdraw(entry, State.EXPIRED, error)

    def _displace(self, entry: Entry) -> None:
        error = Overloaded(
            f"request {entry.work.request_id} made room for another caller, who has fewer here; try"
            " again later or elsewhere",
            retry_after=self._admission.seconds_until_room(),
        )
        self._withdraw(entry, State.DISPLACED, error)

    def _end_if_doomed(self) -> None:
        """Of those that run or wait, one that would only take others' time."""
        entry = self._admission.doomed()
        if entry is not None:
            error = DeadlineExceeded(
                f"request {entry.work.request_id} cannot end any more in the time that it was"
                f" given: {entry.remaining.calls} steps are left; allow more time or fewer steps"
            )
            self._withdraw(entry, State.EXPIRED, error)

    def _let_linger(self, entry: Entry) -> None:
        """End it, and it alone, unless a listener comes in time."""
        loop = asyncio.get_running_loop()
        entry.lingering = loop.call_later(self._bounds.linger, self._abandon, entry)

    def _abandon(self, entry: Entry) -> None:
        error = Cancelled(f"nobody listened to request {entry.work.request_id} any more")
        self._withdraw(entry, State.ABANDONED, error)

    def _withdraw(self, entry: Entry, state: State, error: BatonError) -> None:
        """End what the engine still works on."""
        self._end(entry, state, error)
        if entry.job is not None:
            self._engine.drop(entry.job)

    def _end(self, entry: Entry, state: State, outcome: Outcome) -> None:
        ran, seconds = entry.state is State.RUNNING, time.monotonic() - entry.since
        waited = entry.state is State.QUEUED
        entry.end(state, outcome)
        self.counts.add(state)
        self._observer.ended(state.word, ran, seconds, outcome)
        del self._open[entry.key]
        self._admission.end(entry, waited)
        if state not in _ASKED_AGAIN:
            self._kept.add(entry)
        if not self._open:
            self._idle.set()

    def _emitter(self, entry: Entry) -> Callable[[Event], None]:
        loop = asyncio.get_running_loop()

        def emit(event: Event) -> None:
            loop.call_soon_threadsafe(self._hear, entry, event)

        return emit

    def _hear(self, entry: Entry, event: Event) -> None:
        """What the engine tells; of a request that has ended, only that its place is free."""
        if not isinstance(event, Started | Progressed | Denoised | Checkpointed):
            self._admission.places -= 1
            entry.job = None
        if entry.state.ended or isinstance(event, Dropped):
            return
        if isinstance(event, Started):
            entry.start()
            self._admission.start(entry)
            self._observer.started(time.monotonic() - entry.since)
        elif isinstance(event, Progressed | Denoised | Checkpointed):
            entry.advance(event)
            self._end_if_doomed()
        else:
            self._end(entry, _state_after(event), event)


def _state_after(outcome: Outcome) -> State:
    if isinstance(outcome, HandedOff):
        return State.HANDED_OFF
    if isinstance(outcome, Drained):
        return State.DRAINED
    return State.DRAWN if isinstance(outcome, Drawn) else State.FAILED
