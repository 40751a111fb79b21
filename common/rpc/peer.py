"""Whom a node calls, and what a call that failed says of whoever is there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from baton.common.errors import BatonError, Incompatible, Unreachable
from baton.common.rpc.access import OPEN, Access
from baton.common.rpc.channel import channel_to
from baton.common.rpc.status import from_rpc_error, is_own
from baton.common.rpc.unanswered import stranger, unanswered

_PROBE_SECONDS = 1.0
_ROLES = {"an edge": "baton.v1.Edge", "a coordinator": "baton.v1.Coordinator"}


@dataclass(frozen=True)
class Peer:
    """A node at an address and how it is called. role: what it should be, with its article."""

    role: Literal["a coordinator", "an edge"]
    address: str
    access: Access = OPEN

    def __str__(self) -> str:
        """An edge's address alone: lines about edges say of themselves what it is."""
        return self.address if self.role == "an edge" else f"the coordinator at {self.address}"

    @asynccontextmanager
    async def channel(self, seconds: float | None = None) -> AsyncIterator[grpc.aio.Channel]:
        """A channel for a block of code, in which a call that fails raises what `failure` finds."""
        async with channel_to(self.address, self.access) as channel:
            try:
                yield channel
            except grpc.aio.AioRpcError as error:
                raise await self.failure(error, channel, seconds) from error

    async def failure(
        self, error: grpc.aio.AioRpcError, channel: grpc.aio.Channel, seconds: float | None = None
    ) -> BatonError:
        """The error that the peer raised, or what keeps it from answering.

        seconds: within which every node answers such a call; silence means that it is not there.
        """
        details, code = error.details() or "", error.code()
        if is_own(error):
            return from_rpc_error(error, str(self))
        if found := stranger(details):
            return self._other(found)
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return await self._misplaced(channel)
        if code is grpc.StatusCode.UNAVAILABLE:
            return unanswered(details, str(self), self.access)
        if code is grpc.StatusCode.DEADLINE_EXCEEDED and seconds is not None:
            return self.silent(seconds)
        return from_rpc_error(error, str(self))

    def silent(self, seconds: float) -> Unreachable:
        """The error for no answer at all."""
        return Unreachable(
            f"no answer from {self} within {seconds:g} s; is it running and is the address right?"
        )

    def _other(self, found: str) -> Unreachable:
        return Unreachable(f"{self.address} is not {self.role}; it looks like {found}")

    async def _misplaced(self, channel: grpc.aio.Channel) -> BatonError:
        """Of a peer that does not know the call: each node's health tells what it serves."""
        stub = health_pb2_grpc.HealthStub(channel)
        for role, service in _ROLES.items():
            try:
                await stub.Check(health_request(service), timeout=_PROBE_SECONDS)
            except grpc.aio.AioRpcError:
                continue
            if role == self.role:
                return Incompatible(f"{self} does not know this call; update the older side")
            return self._other(role)
        return self._other("another gRPC service")


def health_request(service: str = "") -> health_pb2.HealthCheckRequest:
    """Asks whether the whole node, or one of its services, is there."""
    return health_pb2.HealthCheckRequest(service=service)
