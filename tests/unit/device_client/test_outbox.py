from __future__ import annotations

import asyncio

import pytest

from baton.device_client.outbox import Outbox, Sending


def noting(name: str, into: list[str], gate: asyncio.Event | None = None) -> Sending:
    async def send() -> None:
        if gate is not None:
            await gate.wait()
        into.append(name)

    return send


async def test_what_is_posted_is_sent_in_order_and_flushing_waits_for_it() -> None:
    sent: list[str] = []
    gate, outbox = asyncio.Event(), Outbox()
    await outbox.flush(60)
    outbox.post(noting("a", sent, gate))
    outbox.post(noting("b", sent))
    await asyncio.sleep(0)
    assert sent == []
    gate.set()
    await outbox.flush(60)
    assert sent == ["a", "b"]
    outbox.post(noting("c", sent))
    await outbox.flush(60)
    assert sent == ["a", "b", "c"]


async def test_what_takes_too_long_is_let_go_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sent: list[str] = []
    outbox = Outbox()
    outbox.post(noting("a", sent, asyncio.Event()))
    outbox.post(noting("b", sent))
    await outbox.flush(0.01)
    assert sent == []
    assert "was not told of 2 requests" in caplog.text
