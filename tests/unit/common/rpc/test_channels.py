"""Channels that are kept: one to an address, until it fails."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest

from baton.common.errors import InvalidRequest, Unreachable
from baton.common.rpc.channels import Channels
from baton.v1 import edge_pb2, edge_pb2_grpc
from tests.support.servers import ActingEdge, serving


@pytest.fixture
async def address() -> AsyncIterator[str]:
    async with serving(ActingEdge(lambda context: None)) as made:
        yield made


@pytest.fixture
async def channels() -> AsyncIterator[Channels]:
    made = Channels()
    yield made
    await made.close()


async def call(channel: grpc.aio.Channel) -> str:
    stub = edge_pb2_grpc.EdgeStub(channel)
    return str((await stub.GetStatus(edge_pb2.GetStatusRequest(), timeout=60)).node_id)


async def test_a_channel_is_kept_and_stands_for_the_next_call(
    channels: Channels, address: str
) -> None:
    async with channels.to(address) as first:
        assert not first.stands
        await first.connect()
        assert first.stands
        assert first.round_trip > 0
    async with channels.to(address) as second:
        assert second is first
        assert await call(second.channel) == "fine"


async def test_larger_answers_get_a_channel_that_takes_them_and_smaller_ones_share_it(
    channels: Channels, address: str
) -> None:
    async with (
        channels.to(address, most_bytes=1000) as narrow,
        channels.to(address, most_bytes=100_000) as wide,
    ):
        assert wide is not narrow
        assert await call(narrow.channel) == await call(wide.channel) == "fine"
    assert narrow.channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN
    async with channels.to(address, most_bytes=1000) as after:
        assert after is wide


async def test_one_whose_peer_is_not_reached_is_left_though_not_under_those_who_use_it(
    channels: Channels, address: str
) -> None:
    async with channels.to(address) as used:
        with pytest.raises(Unreachable):
            async with channels.to(address) as left:
                raise Unreachable("gone")
        assert left is used
        assert await call(used.channel) == "fine"
        async with channels.to(address) as new:
            assert new is not used
    assert used.channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN


async def test_another_failure_leaves_nothing(channels: Channels, address: str) -> None:
    with pytest.raises(InvalidRequest):
        async with channels.to(address) as first:
            raise InvalidRequest("not so")
    async with channels.to(address) as second:
        assert second is first


async def test_the_round_trip_is_that_of_the_shortest_of_the_newest_exchanges(
    channels: Channels, address: str
) -> None:
    async with channels.to(address) as line:
        assert line.round_trip == 0.0
        for seconds in (0.01, *[0.05] * 7):
            line.took(seconds)
        assert line.round_trip == 0.01
        line.took(0.04)
        assert line.round_trip == 0.04
    with pytest.raises(Unreachable):
        async with channels.to(address):
            raise Unreachable("gone")
    async with channels.to(address) as again:
        assert again.round_trip == 0.04


async def test_connecting_to_nobody_ends_and_leaves_the_reason_to_the_call(
    channels: Channels,
) -> None:
    async with channels.to("127.0.0.1:1") as line:
        await line.connect()
        assert not line.stands
        with pytest.raises(grpc.aio.AioRpcError, match="refused"):
            await call(line.channel)
