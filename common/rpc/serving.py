"""The life of a serving process: health, signals, drain, stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from common.errors import InvalidRequest

_LOOPBACK = ("127.", "localhost", "::1", "[::1]")


def check_exposure(host: str, insecure: bool) -> None:
    """Raises InvalidRequest for a bind beyond loopback that nobody asked for aloud."""
    if not host.startswith(_LOOPBACK) and not insecure:
        raise InvalidRequest(
            f"refusing to listen on {host} without authentication; use a loopback address,"
            " or say --insecure on a network that you trust"
        )


class Health:
    """``grpc.health.v1`` for "" and the named services."""

    def __init__(self, server: grpc.aio.Server, services: Sequence[str]) -> None:
        self._servicer = health.aio.HealthServicer()
        self._names = ["", *services]
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def set_serving(self, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse
        for name in self._names:
            await self._servicer.set(name, status.SERVING if serving else status.NOT_SERVING)


async def serve_until_signal(
    server: grpc.aio.Server,
    health_service: Health,
    announcement: str,
    drain: Callable[[], Awaitable[None]],
    grace: float = 5.0,
) -> None:
    """Start, print one line, and serve until SIGTERM or SIGINT; then drain and stop.

    A second signal cuts the drain short.
    """
    first, second = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        (second if first.is_set() else first).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    await server.start()
    await health_service.set_serving(True)
    sys.stdout.write(announcement + "\n")
    sys.stdout.flush()
    await first.wait()
    await health_service.set_serving(False)
    draining = asyncio.ensure_future(drain())
    hurry = asyncio.ensure_future(second.wait())
    await asyncio.wait([draining, hurry], return_when=asyncio.FIRST_COMPLETED)
    for task in (draining, hurry):
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    await server.stop(0 if second.is_set() else grace)
