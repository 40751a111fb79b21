"""Whole nodes in this process, on free ports of the loopback interface, built by their daemons.

Between an edge and whoever uses it lies a `Cable`. Once it is cut, the edge is as gone as a dead
machine: connections break without a farewell, and new ones are refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from baton.common.errors import BatonError
from baton.common.explanation import DecisionRecord
from baton.common.families.loaded import LoadedFamily
from baton.common.plan import OpenPlan
from baton.common.record import ExecutedStep
from baton.common.request import Task
from baton.coordinator.daemon import Node as CoordinatorNode
from baton.coordinator.daemon import running as coordinator_running
from baton.coordinator.settings import Settings as CoordinatorSettings
from baton.coordinator.store.memory import MemoryStore
from baton.device_client.sdk import AsyncClient
from baton.edge_server.daemon import Node as EdgeNode
from baton.edge_server.daemon import running as edge_running
from baton.edge_server.requests.registry import Registry
from baton.edge_server.settings import EdgeSettings
from tests.support.engines import BeforeCall, Gate, WatchedFamily
from tests.support.tasks import run_alone

_PATIENCE = 60.0  # seconds until a test that waits gives up


class Cable:
    """Carries every connection to ``target`` (host:port, set before the first one) until cut.

    ``tap`` sees every piece on its way, and may alter it.
    """

    def __init__(self, tap: Callable[[bytes], bytes] = bytes) -> None:
        self._tap = tap
        self.target = ""
        self.address = ""
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._carrying: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Cable:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        return self

    async def __aexit__(self, *error: object) -> None:
        self.cut()
        if self._carrying:
            await asyncio.wait(self._carrying)

    def cut(self) -> None:
        if self._server is not None:
            self._server.close()
        self.drop()

    def drop(self) -> None:
        """Break the connections there are; new ones are carried."""
        for end in self._ends:
            end.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self.target.rpartition(":")
        if task := asyncio.current_task():
            self._carrying.add(task)
            task.add_done_callback(self._carrying.discard)
        self._ends.add(writer)
        with contextlib.suppress(ConnectionError):
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
            self._ends.add(far_writer)
            await asyncio.gather(
                _pump(reader, far_writer, self._tap), _pump(far_reader, writer, self._tap)
            )
        writer.transport.abort()


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tap: Callable[[bytes], bytes]
) -> None:
    """Forward until either side ends."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(tap(data))
            await writer.drain()
    writer.transport.abort()


@dataclass(frozen=True)
class Edge:
    """A running edge at the far end of a cable."""

    node: EdgeNode
    cable: Cable

    @property
    def address(self) -> str:
        return self.cable.address

    @property
    def registry(self) -> Registry:
        return self.node.registry


@contextlib.asynccontextmanager
async def edge(
    family: LoadedFamily, before: BeforeCall | None = None, **settings: object
) -> AsyncIterator[Edge]:
    """An edge; ``before`` sees its model calls, and a gate among them opens at the end."""
    watched = WatchedFamily(family, before) if before else family
    async with Cable() as cable:
        fields = {"port": 0, "node_id": "edge-test", "advertise": cable.address} | settings
        async with edge_running(EdgeSettings.model_validate(fields), watched) as node:
            cable.target = node.address
            try:
                yield Edge(node, cable)
            finally:
                if isinstance(before, Gate):
                    before.lift()


@contextlib.asynccontextmanager
async def coordinator(port: int = 0, **settings: object) -> AsyncIterator[CoordinatorNode]:
    """A coordinator that never explores and keeps what it learns in memory."""
    fields = {"port": port, "db": Path("unused"), "seed": 0, "exploration": 0.0, "grace_seconds": 0}
    made = CoordinatorSettings.model_validate(fields | settings)
    async with coordinator_running(made, MemoryStore()) as node:
        yield node


def client_with(folder: Path, **settings: object) -> AsyncClient:
    """A device with the family in ``folder``; relays arrive exact."""
    fields = {"family": str(folder), "members": "small,large", "codec": "fp32"} | settings
    return AsyncClient(**fields)


def device(folder: Path, **settings: object) -> contextlib.closing[AsyncClient]:
    """Such a device for a block of code, at whose end what it still has to tell is not awaited."""
    return contextlib.closing(client_with(folder, **settings))


def closed_port() -> str:
    """An address of this machine at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        return f"127.0.0.1:{unused.getsockname()[1]}"


async def settled(brain: CoordinatorNode, most: int = 10) -> list[DecisionRecord]:
    """The newest decisions, once what their devices tell of them has come: it follows a picture."""
    async with asyncio.timeout(_PATIENCE):
        while True:
            found = await brain.decider.recent(most)
            if all(record.state != "pending" for record in found):
                return found
            await asyncio.sleep(0.002)


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that another task or thread brings about."""
    async with asyncio.timeout(_PATIENCE):
        while not condition():  # noqa: ASYNC110 threads bring it about, too
            await asyncio.sleep(0.002)


def drawn_here(family: LoadedFamily, task: Task) -> npt.NDArray[np.uint8]:
    """The task's picture, every step run alone in this thread by the members of its plan."""
    return family.decode(run_alone(family, task, task.plan.steps).x)


def differ(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> int:
    """The largest difference between two pictures, in levels of 255."""
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def check_executed(executed: tuple[ExecutedStep, ...], plan: OpenPlan) -> None:
    """Every step ran once, in order, where and on what the plan says."""
    assert [step.step for step in executed] == list(range(plan.steps))
    for step in executed:
        segment = plan.segment_at(step.step)
        assert (step.member, step.location) == (segment.member, segment.location)


def one_line(error: BatonError) -> str:
    """The message of an error, which must be fit for a terminal."""
    text = str(error)
    assert text
    assert "\n" not in text
    return text
