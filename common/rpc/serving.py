"""The life of a serving process: where it may listen, its health, and when to stop."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
from collections.abc import Sequence

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from common.errors import InvalidRequest
from common.rpc.access import UNGUARDED, Guard

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


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


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host; other names than localhost count as open."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Health:
    """``grpc.health.v1`` for "" and the named services."""

    def __init__(self, server: grpc.aio.Server, services: Sequence[str]) -> None:
        self._servicer = health.aio.HealthServicer()
        self._names = ["", *services]
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def serving(self) -> None:
        for name in self._names:
            await self._servicer.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def draining(self) -> None:
        """NOT_SERVING from now on, whatever is set later."""
        await self._servicer.enter_graceful_shutdown()


async def until_signal() -> None:
    """Wait for SIGTERM or SIGINT; a second one acts as if nobody had waited, so it ends a drain."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stopped.set)
    try:
        await stopped.wait()
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
