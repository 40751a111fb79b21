"""Channels and servers with the options that every node shares."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import grpc.aio

from common.errors import InvalidRequest, Unreachable
from common.rpc.access import OPEN, UNGUARDED, Access, Guard
from common.rpc.auth import AuthInterceptor
from common.rpc.bearer import bearer_interceptors
from common.rpc.forks import check_not_forked
from common.rpc.serving import is_loopback
from common.rpc.status import StatusInterceptor
from common.rpc.tls import ClientTls, ServerTls

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
#: Of a message without a latent or a picture. A message of nothing but empty parts takes thirty
#: times its bytes in memory when it is parsed, before any check of ours can see it.
CONTROL_BYTES = 256 * 1024


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
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            # nodes are reached directly, whatever proxy the environment names for the web
            ("grpc.enable_http_proxy", 0),
        ]


def open_channel(
    address: str,
    access: Access = OPEN,
    keepalive: Keepalive | None = None,
    most_bytes: int = MAX_MESSAGE_BYTES,
) -> grpc.aio.Channel:
    """A channel to ``host:port``; nothing is sent before the first call.

    ``most_bytes``: of an answer, or of one message of it; more fails the call.
    Raises InvalidRequest for a bad address, if a token would travel in the clear, or in a forked
    child.
    """
    check_not_forked()
    check_peer(address, access)
    options = [
        *(keepalive or Keepalive()).client_options(),
        _receive_limit(most_bytes),
        # another channel's failure to reach the address says nothing about now
        ("grpc.use_local_subchannel_pool", 1),
        # packed answers are refused: latents gain nothing by it, and a small one may swell
        ("grpc.compression_enabled_algorithms_bitset", 1),
    ]
    interceptors = bearer_interceptors(access.token) if access.token else None
    if access.tls is None:
        return grpc.aio.insecure_channel(address, options, interceptors=interceptors)
    credentials = _channel_credentials(access.tls)
    return grpc.aio.secure_channel(address, credentials, options, interceptors=interceptors)


def make_server(
    guard: Guard = UNGUARDED,
    keepalive: Keepalive | None = None,
    most_bytes: int = MAX_MESSAGE_BYTES,
    patience: float = 30.0,
) -> grpc.aio.Server:
    """A server that lets in whom the guard knows, and requests of at most so many bytes.

    It turns `BatonError` into a status and anything else into INTERNAL. Whoever takes nothing of a
    stream for ``patience`` seconds is left. Raises InvalidRequest in a forked child.
    """
    check_not_forked()
    options = [
        *(keepalive or Keepalive()).server_options(),
        _receive_limit(most_bytes),
        ("grpc.so_reuseport", 0),
    ]
    interceptors = [StatusInterceptor(patience), AuthInterceptor(guard)]
    return grpc.aio.server(interceptors=interceptors, options=options)


def _receive_limit(most_bytes: int) -> tuple[str, int]:
    return "grpc.max_receive_message_length", min(most_bytes, MAX_MESSAGE_BYTES)


def bind(server: grpc.aio.Server, host: str, port: int, tls: ServerTls | None = None) -> int:
    """Bind and return the port (0 picks a free one). Raises Unreachable if it is taken."""
    try:
        if tls is None:
            bound = server.add_insecure_port(f"{host}:{port}")
        else:
            bound = server.add_secure_port(f"{host}:{port}", _server_credentials(tls))
    except RuntimeError as error:
        raise _no_port(host, port) from error
    return int(bound)


def check_port(host: str, port: int) -> None:
    """Raises Unreachable if `bind` would find the port taken now, for whoever binds much later.

    ``host``: as in the settings, an IPv6 address without brackets.
    """
    if port == 0:
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise _no_port(f"[{host}]" if ":" in host else host, port) from error


def _no_port(host: str, port: int) -> Unreachable:
    return Unreachable(
        f"cannot listen on {host}:{port}: the port is in use or not allowed;"
        " choose another with --port"
    )


def check_address(address: str) -> str:
    """Raises InvalidRequest unless the address reads ``host:port``."""
    host, separator, port = address.rpartition(":")
    if not (host and separator and port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise InvalidRequest(f"{address!r} is not an address; expected HOST:PORT")
    return address


@contextlib.asynccontextmanager
async def channel_to(address: str, access: Access = OPEN) -> AsyncIterator[grpc.aio.Channel]:
    """`open_channel` for one block of code."""
    async with open_channel(address, access) as channel:
        yield channel


def check_peer(address: str, access: Access) -> None:
    """Raises InvalidRequest for a bad address, or if a token would travel in the clear."""
    check_address(address)
    clear = access.token and access.tls is None and not access.insecure
    if clear and not is_loopback(address.rpartition(":")[0]):
        raise InvalidRequest(
            f"refusing to send a token to {address} in the clear; set tls_ca, or insecure on a"
            " network that you trust"
        )


def _channel_credentials(tls: ClientTls) -> grpc.ChannelCredentials:
    if tls.pair is None:
        return grpc.ssl_channel_credentials(tls.ca)
    return grpc.ssl_channel_credentials(tls.ca, tls.pair.key, tls.pair.certificate)


def _server_credentials(tls: ServerTls) -> grpc.ServerCredentials:
    pairs = [(tls.pair.key, tls.pair.certificate)]
    return grpc.ssl_server_credentials(pairs, tls.client_ca, tls.client_ca is not None)
