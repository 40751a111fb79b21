"""Clients in forked children, in a process of its own: gRPC may not survive one in the parent."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from typing import Any

import grpc.aio
import pytest

from baton.common.rpc.channel import make_server, open_channel
from baton.device_client import AsyncClient, Client
from tests.support.forks import forked

MADE_BEFORE = "forked: make the client in the child"
USED_BEFORE = "which has used gRPC"


def alone(check: Callable[[dict[str, Any]], None], fields: dict[str, Any]) -> None:
    """Do a check in a fresh process; what it raises is raised here."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        process.submit(check, fields).result()


def check_that_one_made_before_says_so(fields: dict[str, Any]) -> None:
    """A client made in the parent refuses in the child, and goes on in the parent."""
    one = {"prompt": "a red cat", "steps": 1}
    with Client(**fields) as client, closing(AsyncClient(**fields)) as on_loop:
        client.generate(**one)
        for draw in (
            lambda: client.generate(**one),
            lambda: client.generate(**one, timeout=1),
            lambda: client.generate_many(count=3, **one),
            lambda: client.generate_many(count=0, **one),
            lambda: asyncio.run(on_loop.generate(**one, timeout=1)),
        ):
            name, message = forked(draw)
            assert (name, MADE_BEFORE in message) == ("InvalidRequest", True), message
        assert forked(lambda: (client.close(), on_loop.close())) == ("(None, None)", "")
        assert client.generate(**one).arm == "device/small"


def check_that_one_made_there_draws_alone(fields: dict[str, Any]) -> None:
    """A client made in the child draws there; one that needs gRPC refuses."""

    def draw(**more: str) -> str:
        with Client(**fields, **more) as own:
            return own.generate("a red cat", steps=1, timeout=30).arm

    asyncio.run(_call())  # so that gRPC has threads here
    assert forked(draw) == ("device/small", "")
    for use in (
        lambda: draw(coordinator="127.0.0.1:1"),
        lambda: open_channel("127.0.0.1:1"),
        make_server,
    ):
        name, message = forked(use)
        assert (name, USED_BEFORE in message) == ("InvalidRequest", True), message


async def _call() -> None:
    async with open_channel("127.0.0.1:1") as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary("/none")(b"", timeout=1)
