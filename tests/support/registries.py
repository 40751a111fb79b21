"""A registry over an engine whose model calls wait, and short ways to ask it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass

from baton.common.families.loaded import LoadedFamily
from baton.edge_server.engine.job import (
    Event,
    Outcome,
    Work,
)
from baton.edge_server.requests.entry import Entry
from baton.edge_server.requests.registry import Bounds, Registry
from baton.edge_server.requests.result_cache import Retention
from tests.support.engines import Gate, WatchedFamily, started_engine
from tests.support.tasks import plan, task

FOREVER = 3600.0
KEEP = Retention(FOREVER)
LONG = task(plan("edge/small", 200, guidance=1.0))


@dataclass
class Edge:
    """A registry over an engine whose model calls wait at a gate."""

    registry: Registry
    gate: Gate

    def admit(self, item: Work) -> Entry:
        return self.registry.admit(item)[0]

    async def outcome(self, entry: Entry) -> Outcome:
        return (await self.events(entry))[-1]  # type: ignore[return-value]

    async def events(self, entry: Entry) -> list[Event]:
        return [event async for event in self.follow(entry)]

    async def follow(self, entry: Entry) -> AsyncGenerator[Event, None]:
        with self.registry.listening(entry):
            async for event in entry.events():
                yield event

    async def step_until_ended(self, entry: Entry) -> None:
        """Let one model call through every millisecond, so that timers fall between them."""
        while entry.outcome is None:
            self.gate.allow(1)
            await asyncio.sleep(0.001)


@contextlib.contextmanager
def edge_of(
    family: LoadedFamily,
    capacity: int = 10,
    linger: float = FOREVER,
    retention: Retention = KEEP,
    active: int = 16,
) -> Iterator[Edge]:
    gate = Gate()
    with started_engine(WatchedFamily(family, gate), active) as engine:
        try:
            yield Edge(Registry(engine, Bounds(capacity, linger, retention=retention)), gate)
        finally:
            gate.lift()


async def until_told(edge: Edge, entry: Entry) -> None:
    """One listener comes, hears of one step, and leaves."""
    async with contextlib.aclosing(edge.follow(entry)) as events:
        edge.gate.allow(1)
        await anext(events)
