"""Channels and servers with the options that every node shares."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import grpc.aio

from baton.common.errors import InvalidRequest, Unreachable
from baton.common.naming import check_address, is_loopback, joined
from baton.common.rpc.access import OPEN, UNGUARDED, Access, Guard
from baton.common.rpc.auth import AuthInterceptor
from baton.common.rpc.bearer import bearer_interceptors
from baton.common.rpc.forks import check_not_forked
from baton.common.rpc.ports import claim
from baton.common.rpc.status import StatusInterceptor
from baton.common.rpc.tls import ClientTls, ServerTls

#: Between two tries of a channel that stays open to reach its peer, at most.
RECONNECT_SECONDS = 5.0
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
        return [
            *self._common(),
            ("grpc.http2.max_pings_without_data", 0),
            # gRPC's own two minutes would keep a node out long after its peer is back
            ("grpc.max_reconnect_backoff_ms", int(RECONNECT_SECONDS * 1000)),
        ]

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
    check_peer(address, access)
    check_not_forked()
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
    """Bind every address of the host and return the port (0 picks a free one).

    Raises as `claim` does, and InvalidRequest for a certificate that TLS does not take.
    """
    addresses, port = claim(host, port)
    try:
        for address in addresses:
            port = _add_port(server, joined(address, port), tls)
    except RuntimeError as error:
        where = joined(host, port)
        claim(host, port)  # unless somebody else has been faster, it is not for the port
        if tls is None:
            raise Unreachable(f"cannot listen on {where}: gRPC does not say why") from error
        raise InvalidRequest(
            f"cannot listen on {where}: TLS does not take tls_cert and tls_key; make a pair of a"
            " common kind, for instance by deploy/certificates.py"
        ) from error
    return port


def _add_port(server: grpc.aio.Server, address: str, tls: ServerTls | None) -> int:
    if tls is None:
        return int(server.add_insecure_port(address))
    return int(server.add_secure_port(address, _server_credentials(tls)))


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
