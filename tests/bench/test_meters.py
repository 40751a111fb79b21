"""A way that is as narrow as a real one."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.support.meters import Lane, Meter


def test_what_is_sent_waits_until_what_came_before_has_left() -> None:
    lane = Lane(delay=0.5, rate=100.0)
    assert lane.due(10.0, 200) == pytest.approx(12.5)
    assert lane.due(10.0, 100) == pytest.approx(13.5)
    assert lane.due(20.0, 100) == pytest.approx(21.5)


def test_without_a_limit_only_the_delay_counts() -> None:
    lane = Lane(delay=0.5)
    assert [lane.due(10.0, 1 << 20), lane.due(10.0, 1)] == [10.5, 10.5]


async def test_a_narrow_way_carries_everything_no_faster_than_it_can() -> None:
    payload, rate = bytes(range(256)) * 200, 1_000_000.0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(len(payload)))
        await reader.read()
        writer.close()

    async with (
        await asyncio.start_server(answer, "127.0.0.1", 0) as server,
        Meter(rate=rate) as meter,
    ):
        host, port = server.sockets[0].getsockname()
        meter.target = f"{host}:{port}"
        begun = time.perf_counter()
        reader, writer = await asyncio.open_connection(*meter.address.split(":"))
        writer.write(payload)
        assert await reader.readexactly(len(payload)) == payload
        assert time.perf_counter() - begun >= 2 * len(payload) / rate
        writer.close()
