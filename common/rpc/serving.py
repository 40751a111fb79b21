"""The life of a serving process: where it may listen, and its health."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from baton.common.errors import InvalidRequest, UnknownName
from baton.common.naming import is_loopback
from baton.common.rpc.access import UNGUARDED, Guard

_Context = grpc.aio.ServicerContext[Any, Any]
_TELLING_SECONDS = 0.2


def check_exposure(host: str, insecure: bool, guard: Guard = UNGUARDED) -> None:
    """Raises InvalidRequest for an unsafe bind beyond loopback that nobody asked for aloud."""
    if insecure or is_loopback(host):
        return
    if not guard.authenticates:
        raise InvalidRequest(
            f"refusing to listen on {host} without authentication; set tokens and tls_cert or"
            " tls_client_ca, use a loopback address, or say --insecure on a network that you trust"
        )
    if not guard.encrypted:
        raise InvalidRequest(
            f"refusing to listen on {host} with tokens in the clear; set tls_cert and tls_key, use"
            " a loopback address, or say --insecure on a network that you trust"
        )


class Health:
    """``grpc.health.v1`` for "" and the named services, which share one state."""

    def __init__(self, server: grpc.aio.Server, services: Sequence[str]) -> None:
        self._servicer = _HealthServicer(services)
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def serving(self) -> None:
        """SERVING, unless it drains already."""
        self._servicer.tell(health_pb2.HealthCheckResponse.SERVING)

    async def draining(self) -> None:
        """NOT_SERVING from now on, whatever is set later; those who watch hear of it if they read.

        The others are not waited for: their windows may be closed for ever.
        """
        self._servicer.tell(health_pb2.HealthCheckResponse.NOT_SERVING)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_TELLING_SECONDS):
                await self._servicer.all_told.wait()


class _HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # untyped
    """Changes its state without waiting for those who watch it.

    grpcio-health-checking's own holds a lock while it writes, so that one watcher whose window is
    closed keeps the node from draining.
    """

    def __init__(self, services: Sequence[str]) -> None:
        self._names = {"", *services}
        self._status = health_pb2.HealthCheckResponse.UNKNOWN
        self._changed = asyncio.Event()
        self._watching: set[object] = set()
        self._behind: set[object] = set()
        self.all_told = asyncio.Event()

    def tell(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        if self._status == health_pb2.HealthCheckResponse.NOT_SERVING:
            return
        self._status = status
        self._changed.set()
        self._changed = asyncio.Event()
        self._behind = set(self._watching)
        self.all_told.clear()
        self._told(None)

    def _told(self, watcher: object) -> None:
        self._behind.discard(watcher)
        if not self._behind:
            self.all_told.set()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: _Context
    ) -> health_pb2.HealthCheckResponse:
        if request.service not in self._names:
            raise UnknownName(f"no service {request.service[:64]!r} is here")
        return health_pb2.HealthCheckResponse(status=self._status)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: _Context
    ) -> AsyncGenerator[health_pb2.HealthCheckResponse, None]:
        known, watcher = request.service in self._names, object()
        self._watching.add(watcher)
        try:
            while True:
                changed, status = self._changed, self._status
                if not known:
                    status = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
                yield health_pb2.HealthCheckResponse(status=status)
                if changed is self._changed:
                    self._told(watcher)
                await (changed if known else asyncio.Event()).wait()
        finally:
            self._watching.discard(watcher)
            self._told(watcher)
