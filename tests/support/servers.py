"""A real server on a free port whose handlers do what a test says."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import grpc.aio

from baton.common.rpc.channel import bind, channel_to, make_server
from baton.v1 import edge_pb2, edge_pb2_grpc

Action = Callable[[grpc.aio.ServicerContext[Any, Any]], None]


class ActingEdge(edge_pb2_grpc.EdgeServicer):
    """GetStatus acts at once; Denoise tells ``told`` steps first, then acts."""

    def __init__(self, action: Action, told: int = 2) -> None:
        self._action = action
        self._told = told
        self.closed = 0

    async def GetStatus(
        self, request: edge_pb2.GetStatusRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> edge_pb2.GetStatusResponse:
        self._action(context)
        return edge_pb2.GetStatusResponse(node_id="fine")

    async def Denoise(
        self, request: edge_pb2.DenoiseRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[edge_pb2.DenoiseEvent, None]:
        try:
            for step in range(self._told):
                yield edge_pb2.DenoiseEvent(progress=edge_pb2.Progress(step=step))
            self._action(context)
        finally:
            self.closed += 1


@contextlib.asynccontextmanager
async def serving(servicer: edge_pb2_grpc.EdgeServicer, port: int = 0) -> AsyncIterator[str]:
    """Serve on a port of the loopback interface, 0 for a free one; yields ``host:port``."""
    server = make_server()
    edge_pb2_grpc.add_EdgeServicer_to_server(servicer, server)
    port = bind(server, "127.0.0.1", port)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@contextlib.asynccontextmanager
async def edge_stub(
    servicer: edge_pb2_grpc.EdgeServicer,
) -> AsyncIterator[edge_pb2_grpc.EdgeAsyncStub]:
    async with serving(servicer) as address, channel_to(address) as channel:
        yield edge_pb2_grpc.EdgeStub(channel)


def raising(error: BaseException) -> Action:
    def act(context: grpc.aio.ServicerContext[Any, Any]) -> None:
        raise error

    return act
