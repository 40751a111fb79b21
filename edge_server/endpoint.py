"""Where Prometheus reads an edge's metrics: HTTP on threads of its own, which end with it."""

from __future__ import annotations

import contextlib
import socket
import threading
from socketserver import ThreadingTCPServer
from typing import Any

from prometheus_client import CollectorRegistry, MetricsHandler

from baton.common.naming import joined
from baton.common.rpc.ports import claim, not_bound

#: For a request's line and headers, and for taking the answer.
_READER_SECONDS = 5.0
_POLL_SECONDS = 0.05
_PREFIX = "metrics-"


class Endpoint:
    """Listens from the beginning, answers once started. ``address``: where, ``host:port``.

    Raises InvalidRequest or Unreachable if the port cannot be had at every address of the host.
    """

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        addresses, port = claim(host, port, _PREFIX)
        self._servers: list[_Server] = []
        for address in addresses:
            try:
                self._servers.append(_Server(address, port, registry))
            except OSError as error:
                self.close()
                raise not_bound(error, joined(address, port), _PREFIX) from error
            port = self._servers[-1].server_address[1]
        self.address = joined(host, port)

    def start(self) -> None:
        for server in self._servers:
            server.start()

    def close(self) -> None:
        """Also the connections of those who are being answered; waits for its threads."""
        for server in self._servers:
            server.close()


class _Server(ThreadingTCPServer):
    """At one address. Its threads are waited for: none is a daemon, and none can hold it up."""

    allow_reuse_address = True

    def __init__(self, address: str, port: int, registry: CollectorRegistry) -> None:
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._connections: set[Any] = set()
        self._thread = threading.Thread(
            target=self.serve_forever, args=[_POLL_SECONDS], name="baton-metrics", daemon=True
        )
        handler = MetricsHandler.factory(registry)
        super().__init__((address, port), type("Handler", (handler,), {"timeout": _READER_SECONDS}))

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        if self._thread.ident is not None:
            self.shutdown()
            self._thread.join()
        for connection in tuple(self._connections):
            with contextlib.suppress(OSError):  # its reader has been faster
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        super().server_bind()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that went away, or took too long, is nobody's fault."""
