"""Clients that open a call and read nothing keep no node from ending, and no place taken."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc.aio
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from baton.common.errors import UnknownName
from baton.common.families.loaded import LoadedFamily
from baton.common.rpc import PROTOCOL_VERSION
from baton.common.rpc.channel import bind, channel_to, make_server
from baton.common.rpc.convert import plan_to_proto
from baton.common.rpc.status import from_rpc_error
from baton.coordinator.daemon import Node as CoordinatorNode
from baton.edge_server.daemon import Node as EdgeNode
from baton.v1 import coordinator_pb2, coordinator_pb2_grpc, edge_pb2
from tests.support.engines import Gate
from tests.support.nodes import coordinator, edge, until
from tests.support.stubborn import unread
from tests.support.tasks import plan

#: Far more than any grace here, far less than for ever.
PATIENCE = 20.0
HEALTH = "/grpc.health.v1.Health/"
DENOISE = "/baton.v1.Edge/Denoise"


def picture(request_id: str = "r") -> edge_pb2.DenoiseRequest:
    return edge_pb2.DenoiseRequest(
        protocol_version=PROTOCOL_VERSION,
        request_id=request_id,
        prompt="x",
        plan=plan_to_proto(plan("edge/large", 4)),
        width=16,
        height=16,
    )


CALLS: dict[str, tuple[str, Message]] = {
    "watching the node": (f"{HEALTH}Watch", health_pb2.HealthCheckRequest()),
    "checking": (f"{HEALTH}Check", health_pb2.HealthCheckRequest()),
    "denoising": (DENOISE, picture()),
    "asking for a status": (
        "/baton.v1.Edge/GetStatus",
        edge_pb2.GetStatusRequest(protocol_version=PROTOCOL_VERSION),
    ),
}


async def ends(node: CoordinatorNode | EdgeNode) -> None:
    async with asyncio.timeout(PATIENCE):
        await node.drain()
        if isinstance(node, EdgeNode):  # whose drain is not the end of its server
            await node.stop()


@pytest.mark.parametrize("call", ["watching the node", "denoising", "asking for a status"])
async def test_an_edge_ends_although_a_call_is_not_read(call: str, family: LoadedFamily) -> None:
    async with (
        edge(family, drain_grace=0.2) as node,
        unread(node.node.address, *CALLS[call]),
        unread(node.node.address, *CALLS[call]),
    ):
        await ends(node.node)


@pytest.mark.parametrize("call", ["watching the node", "checking"])
async def test_a_coordinator_ends_although_a_call_is_not_read(call: str) -> None:
    async with coordinator(grace_seconds=0.1) as node, unread(node.address, *CALLS[call]):
        await ends(node)


class Witness(coordinator_pb2_grpc.CoordinatorServicer):
    """A coordinator that looks at an edge at the moment when this leaves."""

    def __init__(self) -> None:
        self.joined = False
        self.refused_before: bool | None = None
        self.refuses: Callable[[], bool] = bool

    async def Register(self, request: Any, context: Any) -> coordinator_pb2.RegisterResponse:
        self.joined = True
        return coordinator_pb2.RegisterResponse(lease_seconds=60.0)

    async def Deregister(self, request: Any, context: Any) -> coordinator_pb2.DeregisterResponse:
        self.refused_before = self.refuses()
        return coordinator_pb2.DeregisterResponse()


@contextlib.asynccontextmanager
async def witness() -> AsyncIterator[tuple[Witness, str]]:
    server, servicer = make_server(), Witness()
    coordinator_pb2_grpc.add_CoordinatorServicer_to_server(servicer, server)
    address = f"127.0.0.1:{bind(server, '127.0.0.1', 0)}"
    await server.start()
    try:
        yield servicer, address
    finally:
        await server.stop(0)


async def test_an_edge_leaves_its_coordinator_before_it_refuses_work(family: LoadedFamily) -> None:
    watch = CALLS["watching the node"]
    async with witness() as (servicer, address), edge(family, coordinator=address) as node:
        servicer.refuses = lambda: node.registry.draining
        await until(lambda: servicer.joined)
        async with unread(node.node.address, *watch):
            await ends(node.node)
    assert servicer.refused_before is False


async def test_a_stream_of_which_nothing_is_ever_read_holds_no_place(family: LoadedFamily) -> None:
    gate, settings = Gate(), {"reader_patience": 0.2, "linger": 0.0}
    async with (
        edge(family, gate, **settings) as node,
        unread(node.node.address, DENOISE, picture()),
        asyncio.timeout(PATIENCE),
    ):
        await asyncio.to_thread(gate.wait_for_call, 1)
        await until(lambda: node.registry.counts.abandoned)
        gate.lift()
        await until(lambda: not node.registry.places)


async def test_those_who_watch_hear_of_the_drain_beside_one_who_does_not_read() -> None:
    watch = CALLS["watching the node"]
    async with coordinator() as node, unread(node.address, *watch), channel_to(node.address) as to:
        stub = health_pb2_grpc.HealthStub(to)
        states = stub.Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        unknown = stub.Watch(health_pb2.HealthCheckRequest(service="nobody's"), timeout=PATIENCE)
        assert (await states.read()).status == health_pb2.HealthCheckResponse.SERVING
        assert (await unknown.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        draining = asyncio.ensure_future(ends(node))
        assert (await states.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await draining


async def test_an_unknown_service_has_no_health() -> None:
    async with coordinator() as node, channel_to(node.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(health_pb2.HealthCheckRequest(service="nobody's"), timeout=PATIENCE)
        assert isinstance(from_rpc_error(caught.value, "it"), UnknownName)
