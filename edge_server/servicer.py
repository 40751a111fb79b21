"""The edge's service: checks, hands over, and tells; nothing else."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import grpc.aio

from baton.common.rpc.auth import caller
from baton.common.rpc.convert import check_protocol
from baton.edge_server import wire
from baton.edge_server.requests.registry import Registry
from baton.edge_server.tickets import TicketGate
from baton.v1 import edge_pb2, edge_pb2_grpc

_Context = grpc.aio.ServicerContext[Any, Any]


class EdgeServicer(edge_pb2_grpc.EdgeServicer):
    """`BatonError`s raised here become statuses in `baton.common.rpc.status`."""

    def __init__(self, about: wire.About, registry: Registry, gate: TicketGate) -> None:
        self._about = about
        self._registry = registry
        self._gate = gate

    async def Denoise(
        self, request: edge_pb2.DenoiseRequest, context: _Context
    ) -> AsyncGenerator[edge_pb2.DenoiseEvent, None]:
        check_protocol(request.protocol_version, "the client")
        who = caller()
        ticket = self._gate.check(request, who.name)
        priority = wire.priority_of(request, who.role)
        work = wire.work_from_proto(request, self._about.family, who.name)
        work = replace(work, caller=who.name or _address(context), priority=priority)
        with self._gate.entering(ticket, work, self._registry.holds(work)):
            entry, attached = self._registry.admit(work, _deadline(context))
        with self._registry.listening(entry):
            yield wire.accepted(work, self._about.family, self._about.node_id, attached)
            async with aclosing(entry.events()) as events:
                async for event in events:
                    yield wire.event_to_proto(event)

    async def GetStatus(
        self, request: edge_pb2.GetStatusRequest, context: _Context
    ) -> edge_pb2.GetStatusResponse:
        check_protocol(request.protocol_version, "the client")
        return wire.status(self._about, self._registry)

    async def Cancel(
        self, request: edge_pb2.CancelRequest, context: _Context
    ) -> edge_pb2.CancelResponse:
        who = caller()
        owner = None if who.role == "admin" else who.name
        return wire.cancelled(self._registry.cancel(request.request_id, owner))


def _address(context: _Context) -> str:
    """Of the peer, without its port: all connections of a machine are one caller."""
    return context.peer().rpartition(":")[0]


def _deadline(context: _Context) -> float:
    """The call's deadline in the event loop's time; infinite if it has none."""
    left = context.time_remaining()
    return math.inf if left is None else asyncio.get_running_loop().time() + left
