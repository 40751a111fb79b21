"""Listening: at every address of the host, or not at all and for the reason that is told."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from baton.common.errors import BatonError, InvalidRequest, Unreachable
from baton.common.rpc.channel import bind, make_server
from baton.common.rpc.tls import KeyPair, ServerTls
from tests.support.certificates import Issuer
from tests.support.nodes import closed_port

UNPRIVILEGED = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
NOBODY = 65534


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), held("::1"):
        return True
    return False


def first_port_for_all() -> int:
    return int(UNPRIVILEGED.read_text()) if UNPRIVILEGED.exists() else 1024


@contextlib.contextmanager
def held(address: str) -> Iterator[int]:
    """A port of that address at which another program listens."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as other:
        yield other.getsockname()[1]


def answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), 5).close()
    except OSError:
        return False
    return True


def refusal(kind: type[BatonError], host: str, port: int, tls: ServerTls | None = None) -> str:
    with pytest.raises(kind) as caught:
        bind(make_server(), host, port, tls)
    assert type(caught.value) is kind
    return str(caught.value)


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")


@needs_ipv6
@pytest.mark.parametrize("host", ["localhost", "LOCALHOST"])
@pytest.mark.parametrize("taken", ["127.0.0.1", "::1"])
async def test_a_name_of_which_one_address_is_taken_is_not_listened_on(
    taken: str, host: str
) -> None:
    with held(taken) as port:
        told = refusal(Unreachable, host, port)
    assert "in use" in told
    assert str(port) in told


@needs_ipv6
@pytest.mark.parametrize("chosen", [True, False])
async def test_every_address_of_a_name_is_listened_on_at_one_port(chosen: bool) -> None:
    port = int(closed_port().rpartition(":")[2]) if chosen else 0
    server = make_server()
    bound = bind(server, "localhost", port)
    await server.start()
    assert bound == (port or bound)
    assert answers("127.0.0.1", bound)
    assert answers("::1", bound)
    await server.stop(0)


@needs_ipv6
@pytest.mark.parametrize("host", ["::1", "[::1]", "[0:0:0:0:0:0:0:1]"])
async def test_an_ipv6_literal_is_listened_on_with_brackets_and_without(host: str) -> None:
    server = make_server()
    port = bind(server, host, 0)
    await server.start()
    assert answers("::1", port)
    assert not answers("127.0.0.1", port)
    await server.stop(0)
    with held("::1") as port:
        assert f"[::1]:{port}" in refusal(Unreachable, host, port)


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
async def test_a_port_in_use_is_told_and_another_asked_for(host: str) -> None:
    with held("127.0.0.1") as port:
        told = refusal(Unreachable, host, port)
    assert "in use" in told
    assert "--port" in told


@pytest.mark.parametrize("host", ["no-such-host.invalid", "", "a b", "[::1", "x" * 300, "a\0b"])
async def test_a_name_that_nobody_knows_is_input_and_not_the_ports_fault(host: str) -> None:
    told = refusal(InvalidRequest, host, 7701)
    assert "--host" in told
    assert "in use" not in told


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "[2001:db8::1]"])
async def test_an_address_of_another_machine_is_input(host: str) -> None:
    told = refusal(InvalidRequest, host, 0)
    assert "no address of this machine" in told
    assert "in use" not in told


async def test_a_port_that_only_root_may_have_is_input() -> None:
    first = first_port_for_all()
    if first <= 1:
        pytest.skip("on this machine everybody may have every port")
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        told = refusal(InvalidRequest, "127.0.0.1", first - 1)
    finally:
        if root:
            os.seteuid(0)
    assert "not allowed" in told
    assert "in use" not in told


async def test_a_certificate_that_tls_does_not_take_is_input_and_not_the_ports_fault() -> None:
    pair = Issuer.new(key=ec.generate_private_key(ec.SECP256K1())).pair
    told = refusal(InvalidRequest, "127.0.0.1", 0, ServerTls(pair))
    assert "tls_cert" in told
    assert "in use" not in told


async def test_with_a_good_certificate_a_port_in_use_is_still_told() -> None:
    pair: KeyPair = Issuer.new().pair
    with held("127.0.0.1") as port:
        assert "in use" in refusal(Unreachable, "127.0.0.1", port, ServerTls(pair))
