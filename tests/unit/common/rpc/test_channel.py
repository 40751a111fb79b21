"""Addresses and ports."""

from __future__ import annotations

import grpc.aio
import pytest

from baton.common.errors import InvalidRequest, Unreachable
from baton.common.naming import check_address
from baton.common.rpc.channel import (
    Keepalive,
    bind,
    channel_to,
    make_server,
    open_channel,
)
from baton.common.rpc.serving import check_exposure
from baton.v1 import edge_pb2
from baton.v1.edge_pb2_grpc import EdgeStub
from tests.support.nodes import closed_port
from tests.support.servers import ActingEdge, serving

STATUS = edge_pb2.GetStatusRequest()


@pytest.mark.parametrize("address", ["localhost:1", "127.0.0.1:7701", "[::1]:65535", "a.b-c:80"])
def test_a_host_and_a_port_are_an_address(address: str) -> None:
    assert check_address(address) == address


@pytest.mark.parametrize(
    "address",
    ["", "localhost", ":80", "host:", "host:0", "host:65536", "host:-1", "host:8o", "host:80 ",
     "host: 80", "host:+80", "host:٨٠", "host:8_0", "http://host:80/",
     "a b:80", "a\0b:80", "hÿst:80", "\udcff:80", "host:000080"],
)  # fmt: skip
def test_anything_else_is_refused_and_shown(address: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_address(address)
    assert repr(address) in str(caught.value)


def test_a_long_address_is_not_repeated() -> None:
    for address in ("host:" + "9" * 5000, "h" * 5000):
        with pytest.raises(InvalidRequest) as caught:
            check_address(address)
        assert len(str(caught.value)) < 400


async def test_opening_a_channel_checks_the_address_and_sends_nothing() -> None:
    with pytest.raises(InvalidRequest):
        open_channel("nowhere")
    async with open_channel("127.0.0.1:1") as channel:
        assert channel.get_state() == grpc.ChannelConnectivity.IDLE


async def test_what_failed_on_one_channel_is_not_held_against_the_next() -> None:
    """GRPC shares failed connections between channels, as long as anybody has hold of one."""
    address = closed_port()
    async with channel_to(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as held:
            await EdgeStub(channel).GetStatus(STATUS, timeout=20)
    async with (
        serving(ActingEdge(lambda context: None), int(address.rpartition(":")[2])),
        channel_to(address) as channel,
    ):
        assert (await EdgeStub(channel).GetStatus(STATUS, timeout=20)).node_id == "fine"
    assert held.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_a_port_that_is_taken_is_unreachable_and_named() -> None:
    first, second = make_server(), make_server()
    port = bind(first, "127.0.0.1", 0)
    await first.start()
    try:
        assert 0 < port < 65536
        with pytest.raises(Unreachable, match=str(port)):
            bind(second, "127.0.0.1", port)
    finally:
        await first.stop(0)


async def test_an_address_that_is_not_ours_cannot_be_bound() -> None:
    with pytest.raises(InvalidRequest):
        bind(make_server(), "192.0.2.1", 0)


def test_keepalive_sets_the_ping_timeout_with_the_keepalive_timeout() -> None:
    for options in (Keepalive(timeout=3).client_options(), Keepalive(timeout=3).server_options()):
        values = dict(options)
        assert values["grpc.keepalive_timeout_ms"] == values["grpc.http2.ping_timeout_ms"] == 3000


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]"])
def test_loopback_needs_no_leave(host: str) -> None:
    check_exposure(host, insecure=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "[::]", "10.0.0.1", "localhost.evil.example"])
def test_other_interfaces_need_to_be_asked_for_aloud(host: str) -> None:
    with pytest.raises(InvalidRequest, match="--insecure"):
        check_exposure(host, insecure=False)
    check_exposure(host, insecure=True)
