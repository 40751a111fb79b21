"""One request on an edge: what it asks, how far it is, how it ended."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable
from copy import copy
from dataclasses import dataclass, field, replace

from baton.common.errors import BatonError, InvalidRequest, PermissionDenied
from baton.edge_server.engine.job import (
    Checkpointed,
    Denoised,
    Drained,
    Drawn,
    HandedOff,
    Job,
    Outcome,
    Progressed,
    Queued,
    Work,
)
from baton.edge_server.engine.latency import RemainingWork
from baton.edge_server.requests.lifecycle import State, check_transition
from baton.edge_server.requests.turns import Turn

Key = tuple[str, int]
News = Queued | Progressed | Checkpointed | Outcome
_POSITION_SECONDS = 1.0


def key_of(work: Work) -> Key:
    """What names it: a request may come in again under its id, from a later step."""
    return work.request_id, work.first_step


@dataclass(eq=False)
class Entry:
    """Changed by the registry alone, on the event loop.

    Only the newest progress and checkpoint are kept, so a slow listener costs no memory.
    position: how many wait before it, while it is queued itself; deadline: in the event loop's
    time; since: when it came, monotonic; turn: among those that wait; job: the engine's side of it;
    remaining: what it still asks of the model.
    """

    work: Work
    position: Callable[[], int] = field(default=int, repr=False)
    deadline: float = math.inf
    state: State = State.QUEUED
    since: float = field(default_factory=time.monotonic)
    turn: Turn = field(default_factory=Turn)
    job: Job | None = None
    progress: Progressed | None = None
    checkpoint: Checkpointed | None = None
    outcome: Outcome | None = None
    listeners: int = 0
    lingering: asyncio.TimerHandle | None = None
    expiring: asyncio.TimerHandle | None = None
    remaining: RemainingWork = field(init=False)
    _course: tuple[RemainingWork, ...] = field(init=False, repr=False)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        work = self.work
        self._course = RemainingWork.course(work)
        self.remaining = self._course[0]

    @property
    def key(self) -> Key:
        return key_of(self.work)

    def asks(self, work: Work) -> bool:
        """Whether that is the same work; the latent that it goes on from is named by its key."""
        return replace(self.work, resume=None) == replace(work, resume=None)

    def check_claim(self, work: Work) -> None:
        """Raises PermissionDenied for another's, InvalidRequest for other work under its key."""
        name = self.work.request_id
        if self.work.owner != work.owner:
            raise PermissionDenied(
                f"request id {name} is taken; choose a new one", "foreign_request"
            )
        if not self.asks(work):
            raise InvalidRequest(
                f"request id {name} was used before for something else; choose a new one"
            )

    def start(self) -> None:
        self.state = check_transition(self.state, State.RUNNING)

    def advance(self, news: Progressed | Checkpointed | Denoised) -> None:
        if isinstance(news, Denoised):
            self.remaining = self._course[-1]
            return
        if isinstance(news, Progressed):
            self.progress = news
            self.remaining = self._course[news.step - self.work.first_step]
        else:
            self.checkpoint = news
        self._wake()

    def end(self, state: State, outcome: Outcome) -> None:
        """Raises IllegalTransition if it has ended already."""
        self.state = check_transition(self.state, state)
        self.outcome = outcome
        for timer in (self.lingering, self.expiring):
            if timer is not None:
                timer.cancel()
        self._wake()

    @property
    def size(self) -> int:
        """Bytes that keeping it costs, as far as they grow with the request."""
        resume = self.work.resume
        size = 0 if resume is None else resume.x.nbytes * (1 + len(resume.history))
        last = self.outcome.checkpoint if isinstance(self.outcome, Drained) else self.outcome
        for part in (self.checkpoint, last):
            if isinstance(part, Checkpointed | HandedOff):
                size += len(part.envelope)
            elif isinstance(part, Drawn):
                size += part.picture.nbytes
        return size

    async def events(self) -> AsyncGenerator[News, None]:
        """Whatever is new, until the outcome; a BatonError outcome is raised.

        While it is queued its position is told every second, also if it is the same.
        """
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
                raise copy(self.outcome)  # raised itself, it would keep its listener's frames
            if self.outcome is not None:
                yield self.outcome
                return
            if changed is not self._changed:
                continue
            if self.state is not State.QUEUED:
                await changed.wait()
            elif not await _within(_POSITION_SECONDS, changed) and self.state is State.QUEUED:
                yield Queued(self.position())

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


async def _within(seconds: float, event: asyncio.Event) -> bool:
    """Whether the event came in time."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
