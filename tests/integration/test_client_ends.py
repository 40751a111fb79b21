"""A client that can draw no more says so: after a fork, once closed, with a model that hangs."""

from __future__ import annotations

import asyncio
import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from baton.common.errors import DeadlineExceeded, InvalidRequest
from baton.common.families.loaded import LoadedFamily
from baton.device_client import AsyncClient, Client
from tests.support.forked_clients import (
    alone,
    check_that_one_made_before_says_so,
    check_that_one_made_there_draws_alone,
)


@pytest.fixture
def fields(family_folder: Path, tmp_path: Path) -> dict[str, Any]:
    return {"family": str(family_folder), "members": "small", "state_folder": tmp_path}


def test_a_client_says_in_a_forked_child_that_it_cannot_draw_there(fields: dict[str, Any]) -> None:
    alone(check_that_one_made_before_says_so, fields)


def test_a_client_made_in_a_forked_child_draws_there_alone(fields: dict[str, Any]) -> None:
    alone(check_that_one_made_there_draws_alone, fields)


def test_a_closed_client_says_so(fields: dict[str, Any]) -> None:
    with Client(**fields) as client:
        client.generate("a red cat", steps=1)
    client.close()
    for draw in (
        lambda: client.generate("a red cat", steps=1),
        lambda: client.generate("a red cat", steps=1, timeout=1),
        lambda: client.generate_many("a red cat", 2),
        lambda: client.generate_many("a red cat", 0),
    ):
        with pytest.raises(InvalidRequest, match="closed"):
            draw()


async def test_a_closed_client_says_so_on_a_loop_too(fields: dict[str, Any]) -> None:
    client = AsyncClient(**fields)
    client.close()
    with pytest.raises(InvalidRequest, match="closed"):
        await client.generate("a red cat", steps=1)
    with pytest.raises(InvalidRequest, match="closed"):
        await anext(client.stream("a red cat"))


async def test_one_that_is_closed_while_it_decides_says_so(fields: dict[str, Any]) -> None:
    """A coordinator that does not answer gives the time."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        client = AsyncClient(**fields, coordinator=address, coordinator_timeout=0.2)
        drawing = asyncio.create_task(client.generate("a red cat", steps=4))
        await asyncio.sleep(0)
        heard, _ = await asyncio.to_thread(silent.accept)
        client.close()
        with heard, pytest.raises(InvalidRequest, match="closed"):
            await drawing


class _Hanging:
    """A member whose call waits for ever, as in a thread of OpenMP that is gone."""

    def __init__(self, family: LoadedFamily) -> None:
        self._family = family
        self.hung, self.release = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._family, name)

    def denoiser(self, member: str) -> Any:
        if threading.current_thread().name.startswith("baton-model"):
            self.hung.set()
            self.release.wait()
        return self._family.denoiser(member)


def test_the_time_limit_holds_where_the_model_hangs(fields: dict[str, Any]) -> None:
    with Client(**fields) as client:
        device = client._async._device
        hanging = _Hanging(device.family)
        client._async._device = replace(device, loaded=hanging)
        with pytest.raises(DeadlineExceeded):
            client.generate("a red cat", steps=1, timeout=0.2)
        assert hanging.hung.is_set()
        hanging.release.set()
        client.generate("a red cat", steps=1)
