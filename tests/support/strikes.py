"""Requests whose edge is struck at a chosen step."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from baton.device_client.events import EdgeLost, Event, Finished, Reattached, Stepped
from baton.device_client.result import Result
from baton.device_client.sdk import AsyncClient
from tests.support.nodes import until
from tests.support.processes import Steppable
from tests.support.tasks import PROMPTS

STEPS = 20


@dataclass
class Struck:
    """A request whose edge is struck when it has done ``at`` steps and come to the next one.

    then: what follows on the strike; address: of the edge, if not its own; told: every event;
    struck, noticed: when, in monotonic time, the latter by the device.
    """

    edge: Steppable
    strike: Callable[[], None]
    at: int
    then: Callable[[], None] | None = None
    address: str = ""
    told: list[Event] = field(default_factory=list)
    struck: float = 0.0
    noticed: float = 0.0

    async def draw(self, client: AsyncClient, *others: str) -> Result:
        """Let the edge do a step whenever the device has heard of the last one, until struck."""
        edges = ",".join([self.address or self.edge.address, *others])
        # The first strike may come before the device has heard that the edge began.
        asked = {"edge": edges, "arm": "edge/large", "steps": STEPS, "seed": self.at}
        asked["fallback"] = True
        striking = [self._let_on(0)]
        async with contextlib.aclosing(client.stream(PROMPTS[3], **asked)) as events:
            async for event in events:
                self.told.append(event)
                if isinstance(event, EdgeLost | Reattached):
                    self.noticed = time.monotonic()
                if isinstance(event, Finished):
                    # Nothing is left to wait for: without a strike by now, there will be none.
                    assert self.struck, f"not struck at step {self.at}: {event.result.attempts}"
                    await asyncio.gather(*filter(None, striking))
                    return event.result
                if isinstance(event, Stepped) and event.step == len(striking) <= self.at:
                    striking.append(self._let_on(event.step))
        raise AssertionError("no result")

    def _let_on(self, done: int) -> asyncio.Task[None] | None:
        if done < self.at:
            self.edge.allow(1)
            return None
        return asyncio.ensure_future(self._strike())

    async def _strike(self) -> None:
        await until(lambda: self.edge.arrived > self.at)
        self.struck = time.monotonic()
        self.strike()
        if self.then is not None:
            self.then()

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.told if isinstance(event, kind)]
