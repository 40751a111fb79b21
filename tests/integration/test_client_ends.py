"""A client that can draw no more says so: after a fork, once closed, with a model that hangs."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.errors import DeadlineExceeded, InvalidRequest
from common.families.loader import Family
from device_client import AsyncClient, Client
from tests.support.commands import clean_environment

_FORKING = """
import asyncio, json, os, sys
from common.errors import BatonError
from device_client import AsyncClient, Client

fields = {"family": sys.argv[1], "members": "small", "threads": 2}
client = Client(**fields, coordinator="127.0.0.1:1")
client.generate("a red cat", steps=1)  # both torch and gRPC have threads now
sole = AsyncClient(**fields)

def forked(work):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            told = [work() or "nothing", ""]
        except BaseException as error:
            told = [type(error).__name__, str(error)]
        os.write(writer, json.dumps(told).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as file:
        told = json.loads(file.read())
    os.waitpid(child, 0)
    return told

def anew(**more):
    with Client(**fields | more) as own:
        drawn = own.generate("a red cat", steps=1, timeout=30)
        return drawn.arm + " " + " ".join(drawn.notes)

def ended():
    with client:
        pass
    client.close()

async def several():
    await asyncio.gather(*(sole.generate("a red cat", steps=1) for _ in range(2)))

ways = {
    "draws": lambda: client.generate("a red cat", steps=1),
    "draws in time": lambda: client.generate("a red cat", steps=1, timeout=1),
    "draws many": lambda: client.generate_many("a red cat", 3, steps=1),
    "draws none": lambda: client.generate_many("a red cat", 0),
    "draws on a loop": lambda: asyncio.run(several()),
    "ends": ended,
    "begins anew": lambda: anew(threads=1),
    "begins anew with a coordinator": lambda: anew(threads=1, coordinator="127.0.0.1:1"),
    "begins anew with an edge": lambda: anew(threads=1, edges="127.0.0.1:1"),
}
print(json.dumps({name: forked(work) for name, work in ways.items()}))
client.generate("a red cat", steps=1)
"""
#: What a child may do, and what it is told.
SAID = {
    "draws": ["InvalidRequest", "forked: make the client in the child"],
    "draws in time": ["InvalidRequest", "forked: make the client in the child"],
    "draws many": ["InvalidRequest", "forked: make the client in the child"],
    "draws none": ["InvalidRequest", "forked: make the client in the child"],
    "draws on a loop": ["InvalidRequest", "forked: make the client in the child"],
    "ends": ["nothing", ""],
    "begins anew": ["device:small", ""],
    "begins anew with a coordinator": ["InvalidRequest", "which has used gRPC"],
    "begins anew with an edge": ["used gRPC", ""],  # lost, as its note says, and drawn here
}


@pytest.fixture(scope="module")
def told(family_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FORKING, str(family_folder)],
        env=clean_environment(tmp_path_factory.mktemp("forking")),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("way", SAID)
def test_a_forked_child_is_told_what_it_cannot_do(way: str, told: dict[str, list[str]]) -> None:
    name, words = SAID[way]
    assert name in told[way][0]
    assert words in told[way][1]


@pytest.fixture
def fields(family_folder: Path, tmp_path: Path) -> dict[str, Any]:
    return {"family": str(family_folder), "members": "small", "state_folder": tmp_path}


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

    def __init__(self, family: Family) -> None:
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
        client._async._device = replace(device, family=hanging)
        with pytest.raises(DeadlineExceeded):
            client.generate("a red cat", steps=1, timeout=0.2)
        assert hanging.hung.is_set()
        hanging.release.set()
        client.generate("a red cat", steps=1)
