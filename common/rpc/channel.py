"""Channels and servers with the options that every node shares."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import grpc.aio

from common.errors import InvalidRequest, Unreachable
from common.rpc.status import StatusInterceptor

MAX_MESSAGE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Keepalive:
    """How soon a silent peer is noticed, seconds.

    The ping timeout must be set together with the keepalive timeout: the latter alone leaves a hung
    peer unnoticed for a minute.
    """

    time: float = 20.0
    timeout: float = 5.0
    min_ping_interval: float = 10.0

    def client_options(self) -> list[tuple[str, int]]:
        return [*self._common(), ("grpc.http2.max_pings_without_data", 0)]

    def server_options(self) -> list[tuple[str, int]]:
        interval = int(self.min_ping_interval * 1000)
        return [*self._common(), ("grpc.http2.min_ping_interval_without_data_ms", interval)]

    def _common(self) -> list[tuple[str, int]]:
        return [
            ("grpc.keepalive_time_ms", int(self.time * 1000)),
            ("grpc.keepalive_timeout_ms", int(self.timeout * 1000)),
            ("grpc.http2.ping_timeout_ms", int(self.timeout * 1000)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            # nodes are reached directly, whatever proxy the environment names for the web
            ("grpc.enable_http_proxy", 0),
        ]


def open_channel(address: str, keepalive: Keepalive | None = None) -> grpc.aio.Channel:
    """A channel to ``host:port``; nothing is sent before the first call."""
    check_address(address)
    return grpc.aio.insecure_channel(address, options=(keepalive or Keepalive()).client_options())


def make_server(keepalive: Keepalive | None = None) -> grpc.aio.Server:
    """A server that turns `BatonError` into a status and anything else into INTERNAL."""
    options = [*(keepalive or Keepalive()).server_options(), ("grpc.so_reuseport", 0)]
    return grpc.aio.server(interceptors=[StatusInterceptor()], options=options)


def bind(server: grpc.aio.Server, host: str, port: int) -> int:
    """Bind and return the port (0 picks a free one). Raises Unreachable if it is taken."""
    try:
        bound = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        raise Unreachable(
            f"cannot listen on {host}:{port}: the port is in use or not allowed;"
            " choose another with --port"
        ) from error
    return int(bound)


def check_address(address: str) -> str:
    """Raises InvalidRequest unless the address reads ``host:port``."""
    host, separator, port = address.rpartition(":")
    if not (host and separator and port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise InvalidRequest(f"{address!r} is not an address; expected HOST:PORT")
    return address


@contextlib.asynccontextmanager
async def channel_to(address: str) -> AsyncIterator[grpc.aio.Channel]:
    """`open_channel` for one block of code."""
    async with open_channel(address) as channel:
        yield channel
