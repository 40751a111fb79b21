"""Which addresses a host to listen on stands for, and whether a port is free at each of them.

gRPC is content with one of a name's addresses and tells nobody why it did not get the others.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from contextlib import ExitStack

from baton.common.errors import BatonError, InvalidRequest, Unreachable
from baton.common.naming import bare, joined

#: What clients take it for, whatever the name service says here.
_LOCALHOST = ("127.0.0.1", "::1")
_NOT_OURS = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
_NOT_ALLOWED = {errno.EACCES, errno.EPERM}
_TRIES = 16


def claim(host: str, port: int, prefix: str = "") -> tuple[tuple[str, ...], int]:
    """The host's addresses on this machine and a port that is free at each of them.

    Port 0 stays as it is for one address, where whoever binds it may choose. prefix: of the flags
    that set host and port. Raises InvalidRequest for a name that is unknown, a foreign address, or
    a port that this user may not have, and Unreachable for one that is in use.
    """
    addresses = _resolved(host, prefix)
    for _ in range(_TRIES - 1):
        try:
            return _claimed(addresses, port, prefix)
        except Unreachable:
            if port:
                raise
    return _claimed(addresses, port, prefix)


def _resolved(host: str, prefix: str) -> tuple[str, ...]:
    if host.casefold() == "localhost":
        return _LOCALHOST
    try:
        found = socket.getaddrinfo(
            bare(host), None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "not a host name"
        raise InvalidRequest(
            f"cannot listen on {host!r}: {why}; set --{prefix}host to a name or an address of this"
            " machine"
        ) from error
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))


def _claimed(addresses: Sequence[str], port: int, prefix: str) -> tuple[tuple[str, ...], int]:
    """Binds all at once and lets go. Of several, those that this machine lacks are left out."""
    own: list[str] = []
    chosen = port
    with ExitStack() as stack:
        for address in addresses:
            try:
                chosen = _bound(stack, address, chosen)
            except OSError as error:
                if error.errno not in _NOT_OURS:
                    raise not_bound(error, joined(address, chosen), prefix) from error
            else:
                own.append(address)
    if not own:
        raise InvalidRequest(
            f"cannot listen on {', '.join(addresses)}: no address of this machine; set"
            f" --{prefix}host to one that is"
        )
    return tuple(own), port if len(own) == 1 else chosen


def _bound(stack: ExitStack, address: str, port: int) -> int:
    """The port of a socket that is bound as gRPC would, until the stack ends."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if address != "::" and family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    (*_, where), *_ = socket.getaddrinfo(address, port, family, socket.SOCK_STREAM)
    made.bind(where)
    return int(made.getsockname()[1])


def not_bound(error: OSError, where: str, prefix: str = "") -> BatonError:
    """Why a socket could not be bound there; prefix: of the flag that sets its port."""
    remedy = f"choose another with --{prefix}port"
    if error.errno == errno.EADDRINUSE:
        return Unreachable(f"cannot listen on {where}: the port is in use; {remedy}")
    if error.errno in _NOT_ALLOWED:
        return InvalidRequest(
            f"cannot listen on {where}: the port is not allowed to this user; {remedy}"
        )
    return Unreachable(f"cannot listen on {where}: {error.strerror}")
