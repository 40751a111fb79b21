"""Ids and addresses of nodes: what may be registered, and what reads as an address at all."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from baton.common.errors import InvalidRequest
from baton.common.naming import (
    MAX_ADDRESS_CHARS,
    bare,
    check_address,
    check_advertised,
    check_node_id,
    joined,
)
from baton.common.node import Registration
from baton.coordinator.fleet import Fleet

NOBODYS = ["0.0.0.0:7701", "[::]:7701", "[0:0::0]:7701", "[::ffff:0.0.0.0]:7701",
           "255.255.255.255:1", "224.0.0.1:1", "[ff02::1]:1"]  # fmt: skip
LOOPBACK = ["127.0.0.1:7701", "127.9.9.9:7701", "[::1]:7701", "[::ffff:127.0.0.1]:7701",
            "localhost:7701", "LocalHost:7701", "localhost.:7701", "edge.localhost:7701",
            "ip6-localhost:7701"]  # fmt: skip
REACHABLE = ["edge.example.org:7701", "edge-1:7701", "edge_1:80", "10.0.0.5:7701",
             "[2001:db8::5]:7701", "localhost.example.org:7701", "a1:1"]  # fmt: skip
MALFORMED = ["", "edge", "edge:", ":7701", "edge:0", "edge:65536", "http://edge:80", "edge/x:80",
             "unix:80:80", "dns:///edge:80", "::1:7701", "2001:db8::5:7701", "[::1:7701",
             "[edge]:7701", "[10.0.0.5]:7701", "a b:80", "a..b:80", "-a:80", "0:7701", "127.1:7701",
             "2130706433:7701", "0x7f000001:7701", "256.1.1.1:80", "1.2.3.4.5:80", "edge\n:80",
             "user@edge:80", "edge,other:80", "x" * 64 + ":80", "a." * 130 + "b:80"]  # fmt: skip


def refused(check: Callable[[], object]) -> str:
    with pytest.raises(InvalidRequest) as caught:
        check()
    return str(caught.value)


def register(address: str, local: bool) -> None:
    registration = Registration("e1", address, "scenes", ("large",), "f")
    Fleet(10.0, lambda: 0.0, local).register(registration)


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("address", REACHABLE)
def test_an_address_of_one_host_is_registered(address: str, local: bool) -> None:
    assert check_advertised(address, local) == address
    register(address, local)


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("address", NOBODYS)
def test_an_address_that_is_no_one_hosts_is_refused_and_the_way_out_told(
    address: str, local: bool
) -> None:
    assert "--advertise" in refused(lambda: check_advertised(address, local))
    refused(lambda: register(address, local))


@pytest.mark.parametrize("address", LOOPBACK)
def test_a_loopback_address_serves_devices_on_its_machine_alone(address: str) -> None:
    register(address, local=True)
    assert "--advertise" in refused(lambda: check_advertised(address, local=False))
    assert "loopback" in refused(lambda: register(address, local=False))


@pytest.mark.parametrize("address", MALFORMED)
def test_what_is_no_address_is_refused_and_shown(address: str) -> None:
    shown = repr(address[: MAX_ADDRESS_CHARS + 1])  # a long one is not repeated
    assert shown in refused(lambda: check_address(address))
    refused(lambda: register(address, local=True))


@pytest.mark.parametrize("name", ["", "two words", "größe", "a\nb", "x" * 129, "device"])
def test_an_id_that_is_none_is_refused_by_the_node_and_the_coordinator(name: str) -> None:
    refused(lambda: check_node_id(name))
    refused(lambda: Registration(name, "h:1", "scenes", ("large",), "f"))


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_ipv6_host_stands_in_one_pair_of_brackets(host: str) -> None:
    assert (bare(host), joined(host, 80)) == ("::1", "[::1]:80")
    assert joined("edge", 80) == "edge:80"
