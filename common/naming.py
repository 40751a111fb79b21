"""Names and addresses of nodes: the rules that every node keeps and a coordinator insists on.

gRPC is not imported, so that settings are checked without it.
"""

from __future__ import annotations

import ipaddress
import re

from baton.common.errors import InvalidRequest
from baton.common.limits import DEVICE_NODE

MAX_ID_CHARS = 128
MAX_ADDRESS_CHARS = 255

_IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_PORT = re.compile(r"[0-9]{1,5}")
#: Resolvers read these as an address, each in its own way: 0, 127.1, 0x7f000001.
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_REMEDY = "say with --advertise HOST:PORT where devices reach the edge"
_LOCAL_NAMES = {"localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"}


def check_id(value: str, what: str, limit: int = MAX_ID_CHARS) -> str:
    """Printable ASCII without spaces: an id cannot carry a prompt or break a log line.

    Raises InvalidRequest, naming ``what``.
    """
    if not 0 < len(value) <= limit:
        raise InvalidRequest(f"{what} must have 1 to {limit} characters, got {len(value)}")
    if not all("!" <= character <= "~" for character in value):
        raise InvalidRequest(f"{what} may hold only printable ASCII characters without spaces")
    return value


def check_node_id(value: str) -> str:
    """Raises InvalidRequest for what is no id, or that of every device."""
    if value == DEVICE_NODE:
        raise InvalidRequest(f"no edge may be called {DEVICE_NODE!r}")
    return check_id(value, "node_id")


def check_address(address: str) -> str:
    """Raises InvalidRequest unless the address reads ``host:port``.

    The host is a name, an IPv4 address, or an IPv6 address in brackets.
    """
    host, separator, port = address.rpartition(":")
    numbered = _PORT.fullmatch(port) is not None and 0 < int(port) < 65536
    if not (separator and numbered and len(address) <= MAX_ADDRESS_CHARS and _is_host(host)):
        raise InvalidRequest(
            f"{address[: MAX_ADDRESS_CHARS + 1]!r} is not an address; expected HOST:PORT, an IPv6"
            " HOST in brackets"
        )
    return address


def check_advertised(address: str, local: bool) -> str:
    """An address at which devices can reach an edge.

    local: they are on the edge's own machine, so that its loopback addresses will do. Raises
    InvalidRequest for others than those of one host, as ``0.0.0.0``, which is nobody's.
    """
    host = check_address(address).rpartition(":")[0]
    ip = _ip(host)
    if ip is not None and (ip.is_unspecified or ip.is_multicast or _is_broadcast(ip)):
        raise InvalidRequest(f"{address} is not the address of any one host; {_REMEDY}")
    if not local and (is_loopback(host) or _is_local_name(host)):
        raise InvalidRequest(
            f"at {address}, a loopback address, devices on other machines would call themselves;"
            f" {_REMEDY}"
        )
    return address


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host; other names than localhost count as open."""
    ip = _ip(host)
    return host == "localhost" if ip is None else ip.is_loopback


def bare(host: str) -> str:
    """A host without the brackets of an IPv6 literal."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def joined(host: str, port: int) -> str:
    """``host:port``, an IPv6 address in brackets."""
    host = bare(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_host(host: str) -> bool:
    if _ip(host) is not None:
        return host.startswith("[") == (":" in host)
    last = host.rstrip(".").rpartition(".")[2]
    return _HOST_NAME.fullmatch(host) is not None and not _NUMBER.fullmatch(last)


def _ip(host: str) -> _IPAddress | None:
    """The address that the host is; an IPv4 address within an IPv6 one counts as itself."""
    try:
        ip = ipaddress.ip_address(bare(host))
    except ValueError:
        return None
    inner = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return inner or ip


def _is_broadcast(ip: _IPAddress) -> bool:
    return ip == ipaddress.IPv4Address("255.255.255.255")


def _is_local_name(host: str) -> bool:
    name = host.rstrip(".").casefold()
    return name in _LOCAL_NAMES or name.endswith(".localhost")
