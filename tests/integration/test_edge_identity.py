"""Edges of one host at one coordinator: each its own node, whatever they are called."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest

from baton.common.families.loaded import LoadedFamily
from baton.common.node import Registration
from baton.common.rpc.access import OPEN
from baton.common.rpc.channel import bind, channel_to, make_server
from baton.common.rpc.edge_status import edge_status
from baton.coordinator.daemon import Node
from baton.edge_server.daemon import running
from baton.edge_server.membership import Link, Membership
from baton.edge_server.requests.registry import Occupancy
from baton.edge_server.settings import EdgeSettings
from baton.v1 import coordinator_pb2 as pb
from baton.v1.coordinator_pb2_grpc import (
    CoordinatorServicer,
    CoordinatorStub,
    add_CoordinatorServicer_to_server,
)
from tests.support.nodes import coordinator, edge, until


def addresses(brain: Node) -> dict[str, str]:
    """Of the living edges, by id."""
    return {
        node.registration.node_id: node.registration.address
        for node in brain.fleet.nodes()
        if node.state == "alive"
    }


def settings(brain: Node, **fields: object) -> EdgeSettings:
    return EdgeSettings.model_validate({"port": 0, "coordinator": brain.address} | fields)


async def test_two_edges_of_one_host_are_two_nodes(family: LoadedFamily) -> None:
    async with (
        coordinator() as brain,
        running(settings(brain), family) as one,
        running(settings(brain), family) as other,
    ):
        await until(lambda: len(addresses(brain)) == 2)
        told = [(await edge_status(node.address))["node_id"] for node in (one, other)]
        assert dict(zip(told, (one.address, other.address), strict=True)) == addresses(brain)


async def test_an_edge_that_starts_again_elsewhere_takes_its_id_along_at_once(
    family: LoadedFamily,
) -> None:
    """It did not say farewell, and its lease lives for a long time."""
    async with coordinator(lease_seconds=3600) as brain:
        async with running(settings(brain), family) as node:
            await until(lambda: addresses(brain))
            ((node_id, address),) = addresses(brain).items()
            assert address == node.address
        async with running(settings(brain), family) as node:
            await until(lambda: addresses(brain) == {node_id: node.address})


async def test_a_second_edge_of_one_id_waits_and_says_what_to_do(
    family: LoadedFamily, caplog: pytest.LogCaptureFixture
) -> None:
    async with coordinator(lease_seconds=3600) as brain:
        fields = {"node_id": "e", "coordinator": brain.address}
        async with edge(family, **fields) as one:
            await until(lambda: addresses(brain) == {"e": one.address})
            async with edge(family, **fields) as other:
                await until(lambda: "--node-id" in caplog.text)
                assert addresses(brain) == {"e": one.address}
                assert one.address in caplog.text
                assert other.address in caplog.text
                await one.node.drain()
                await until(lambda: addresses(brain) == {"e": other.address})


async def test_a_late_farewell_of_the_old_process_leaves_the_new_one(tmp_path: Path) -> None:
    async with coordinator(lease_seconds=3600) as brain, channel_to(brain.address) as channel:
        link = Link(brain.address, OPEN, lambda keys: None)
        old, new = [
            Membership(
                link,
                Registration("e", address, "scenes", ("large",), "f", secret="mine"),
                lambda: Occupancy(0, 0, 4),
            )
            for address in ("10.0.0.1:7701", "10.0.0.2:7701")
        ]
        for number, membership in enumerate((old, new), 1):
            running = asyncio.ensure_future(membership.run())
            await until(lambda n=number: addresses(brain) == {"e": f"10.0.0.{n}:7701"})
            running.cancel()
            await asyncio.wait([running])
        await old.leave()
        stub = CoordinatorStub(channel)
        await stub.Deregister(pb.DeregisterRequest(node_id="e"), timeout=60)
        beat = pb.HeartbeatRequest(node_id="e", load=pb.NodeLoad(active=4, capacity=4))
        assert not (await stub.Heartbeat(beat, timeout=60)).known
        assert addresses(brain) == {"e": "10.0.0.2:7701"}
        assert [node.load.active for node in brain.fleet.nodes()] == [0]
        await new.leave()
        assert addresses(brain) == {}


class Leasing(CoordinatorServicer):
    """Names one lease after the other."""

    def __init__(self, *leases: float) -> None:
        self.leases = list(leases)
        self.beats = 0

    async def Register(self, request: object, context: object) -> pb.RegisterResponse:
        return pb.RegisterResponse(lease_seconds=self.leases.pop(0))

    async def Heartbeat(self, request: object, context: object) -> pb.HeartbeatResponse:
        self.beats += 1
        return pb.HeartbeatResponse(known=True)


async def test_a_lease_that_cannot_be_is_not_taken(caplog: pytest.LogCaptureFixture) -> None:
    """One of no length would be renewed without a pause, one without an end never."""
    servicer, server = Leasing(0.0, math.nan, 3600.0), make_server()
    add_CoordinatorServicer_to_server(servicer, server)
    address = f"127.0.0.1:{bind(server, '127.0.0.1', 0)}"
    await server.start()
    about = Registration("e", "10.0.0.1:7701", "scenes", ("large",), "f", secret="mine")
    link = Link(address, OPEN, lambda keys: None)
    joining = asyncio.ensure_future(Membership(link, about, lambda: Occupancy(0, 0, 4)).run())
    try:
        await until(lambda: not servicer.leases)
        assert servicer.beats == 0
        assert "a lease of 0 s" in caplog.text
    finally:
        joining.cancel()
        await asyncio.wait([joining])
        await server.stop(0)
