"""Requests by id: each runs once, has any number of listeners, and is kept for a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace

from common.errors import BatonError, Cancelled, Draining, InvalidRequest, Overloaded
from edge_server.engine.engine import Engine
from edge_server.engine.job import Checkpointed, Event, Job, Outcome, Progressed, Work


@dataclass(eq=False)
class Entry:
    """One request: what it asks, how far it is, how it ended.

    Only the newest progress and checkpoint are kept, so a slow listener costs no memory.
    """

    work: Work
    progress: Progressed | None = None
    checkpoint: Checkpointed | None = None
    outcome: Outcome | None = None
    listeners: int = 0
    lingering: asyncio.TimerHandle | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def publish(self, event: Event) -> None:
        if isinstance(event, Progressed):
            self.progress = event
        elif isinstance(event, Checkpointed):
            self.checkpoint = event
        else:
            self.outcome = event
        self._changed.set()
        self._changed = asyncio.Event()

    async def events(self) -> AsyncGenerator[Event, None]:
        """Whatever is new, until the outcome; a BatonError outcome is raised."""
        progress: Progressed | None = None
        checkpoint: Checkpointed | None = None
        while True:
            changed = self._changed
            if self.progress is not progress and self.progress is not None:
                progress = self.progress
                yield progress
            if self.checkpoint is not checkpoint and self.checkpoint is not None:
                checkpoint = self.checkpoint
                yield checkpoint
            if isinstance(self.outcome, BatonError):
                raise self.outcome.with_traceback(None)
            if self.outcome is not None:
                yield self.outcome
                return
            if changed is self._changed:
                await changed.wait()


@dataclass
class Counts:
    completed: int = 0
    failed: int = 0
    cancelled: int = 0


@dataclass(frozen=True)
class Occupancy:
    """Requests running, waiting, and how many fit in all."""

    active: int
    queued: int
    capacity: int


class Registry:
    """Admission and bookkeeping on the asyncio loop; the engine does the work on its thread."""

    def __init__(self, engine: Engine, capacity: int, result_ttl: float, linger: float) -> None:
        self._engine = engine
        self._capacity = capacity
        self._result_ttl = result_ttl
        self._linger = linger
        self._entries: dict[tuple[str, int], Entry] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self.counts = Counts()
        self.draining = False

    @property
    def unfinished(self) -> int:
        return sum(entry.outcome is None for entry in self._entries.values())

    def occupancy(self, max_active: int) -> Occupancy:
        """How many requests run, wait, and fit, if ``max_active`` run at a time."""
        active = min(self.unfinished, max_active)
        return Occupancy(active, self.unfinished - active, self._capacity)

    def admit(self, work: Work) -> tuple[Entry, bool]:
        """The entry of this work, and whether it was there already.

        Raises Overloaded, Draining, or InvalidRequest if the id was used for something else.
        """
        key = (work.request_id, work.first_step)
        known = self._entries.get(key)
        if known is not None:
            if not _same(known.work, work):
                raise InvalidRequest(
                    f"request id {work.request_id} was used before for something else;"
                    " choose a new one"
                )
            return known, True
        if self.draining:
            raise Draining("this edge is shutting down and takes no new requests; use another")
        if self.unfinished >= self._capacity:
            raise Overloaded(
                f"all {self._capacity} places of this edge are taken; try again later or elsewhere",
                retry_after=1.0,
            )
        entry = self._entries[key] = Entry(work)
        self._idle.clear()
        loop = asyncio.get_running_loop()
        self._engine.submit(Job(work, emit=self._emitter(loop, key, entry)))
        self._let_linger(entry)
        return entry, False

    async def follow(self, entry: Entry) -> AsyncGenerator[Event, None]:
        """The entry's events. Once the last listener left early, the request lingers, then ends."""
        entry.listeners += 1
        if entry.lingering is not None:
            entry.lingering.cancel()
            entry.lingering = None
        try:
            async for event in entry.events():
                yield event
        finally:
            entry.listeners -= 1
            if entry.listeners == 0 and entry.outcome is None:
                self._let_linger(entry)

    def _let_linger(self, entry: Entry) -> None:
        """End it, and it alone, unless a listener comes in time."""
        work, loop = entry.work, asyncio.get_running_loop()
        entry.lingering = loop.call_later(
            self._linger, self._engine.cancel, work.request_id, work.first_step
        )

    def cancel(self, request_id: str) -> bool:
        """Ask for a request's end at its next step; False if there is nothing to end."""
        running = [
            entry
            for (name, _), entry in self._entries.items()
            if name == request_id and entry.outcome is None
        ]
        if running:
            self._engine.cancel(request_id)
        return bool(running)

    async def wait_idle(self, timeout: float) -> bool:
        """Wait until no request is unfinished; False if that took too long."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout)
        except TimeoutError:
            return False
        return True

    def _emitter(
        self, loop: asyncio.AbstractEventLoop, key: tuple[str, int], entry: Entry
    ) -> Callable[[Event], None]:
        def emit(event: Event) -> None:
            loop.call_soon_threadsafe(self._publish, key, entry, event)

        return emit

    def _publish(self, key: tuple[str, int], entry: Entry, event: Event) -> None:
        entry.publish(event)
        if entry.outcome is None:
            return
        self._count(entry.outcome)
        if entry.lingering is not None:
            entry.lingering.cancel()
        if not self.unfinished:
            self._idle.set()
        loop = asyncio.get_running_loop()
        loop.call_later(self._result_ttl, self._entries.pop, key, None)

    def _count(self, outcome: Outcome) -> None:
        if isinstance(outcome, Cancelled):
            self.counts.cancelled += 1
        elif isinstance(outcome, BatonError):
            self.counts.failed += 1
        else:
            self.counts.completed += 1


def _same(known: Work, asked: Work) -> bool:
    """Whether two requests ask for the same; the latent they go on from is named by their key."""
    return replace(known, resume=None) == replace(asked, resume=None)
