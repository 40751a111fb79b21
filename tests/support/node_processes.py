"""A coordinator and an edge as processes of their own, with a link of one's choice before both."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from baton.coordinator import admin
from baton.device_client.cli.node_process import announced_process
from tests.support.meters import Meter
from tests.support.nodes import closed_port

_PATIENCE = 120.0
_COORDINATOR = ("baton.coordinator.cli", "serve", "--port", "0", "--exploration", "0")
_EDGE = ("baton.edge_server.cli", "serve", "--node-id", "bench")


@dataclass(frozen=True)
class Link:
    """A way to a node. round_trip: seconds that it adds; rate: bytes per second each way."""

    round_trip: float = 0.0
    rate: float | None = None


@dataclass(frozen=True)
class Nodes:
    """coordinator: its own address; known: at which a device reaches it, over the link.

    meters: before the coordinator and the edge, where there is a link.
    """

    coordinator: str
    known: str
    meters: tuple[Connection, ...] = ()

    def trips(self) -> int:
        """Handshakes and answered calls so far, those of both nodes."""
        total = 0
        for meter in self.meters:
            meter.send("count")
            total += sum(meter.recv())
        return total


@contextlib.contextmanager
def nodes(link: Link | None = None, family: str = "scenes") -> Iterator[Nodes]:
    """Both, the edge with all members of a family, ready to draw; link: None for loopback alone."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        brain = stack.enter_context(_node(folder, *_COORDINATOR, "--db", f"{folder}/brain.db"))
        where = closed_port()
        told = Nodes(brain, brain)
        port = where.rpartition(":")[2]
        edge = [*_EDGE, "--family", family, "--coordinator", brain, "--port", port]
        if link is not None:
            advertised, counted = stack.enter_context(metered(where, link))
            known, asked = stack.enter_context(metered(brain, link))
            told = Nodes(brain, known, (asked, counted))
            edge += ["--advertise", advertised]
        stack.enter_context(_node(folder, *edge))
        while not admin.nodes(brain):
            time.sleep(0.1)
        yield told


@contextlib.contextmanager
def _node(folder: str, *arguments: str) -> Iterator[str]:
    """A node as a process that keeps its state in a folder; yields its address."""
    own = f"XDG_STATE_HOME={Path(folder) / 'state'}"  # nobody else's edge is called as this one
    command = ["env", own, sys.executable, "-m", *arguments]
    with (
        tempfile.TemporaryFile("w+") as log,
        announced_process(command, log, _PATIENCE) as address,
    ):
        yield address


@contextlib.contextmanager
def metered(target: str, link: Link) -> Iterator[tuple[str, Connection]]:
    """The address of a meter before ``target``, and what answers with its counts."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_carry, args=(target, link, there))
    process.start()
    try:
        yield here.recv(), here
    finally:
        here.send(None)
        process.join()


def _carry(target: str, link: Link, told: Connection) -> None:
    """A meter as a process; it answers whatever it is sent with what it has counted."""

    async def carry() -> None:
        async with Meter(link.round_trip / 2, link.rate) as meter:
            meter.target = target
            told.send(meter.address)
            while await asyncio.to_thread(told.recv):
                told.send((meter.connections, meter.trips))

    asyncio.run(carry())
