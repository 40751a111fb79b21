"""Something else at a node's address, or nobody: who it looks like is told, and work goes on."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from baton.common.errors import BatonError, Incompatible, Unreachable
from baton.common.families.loaded import LoadedFamily
from baton.common.rpc.access import OPEN
from baton.common.rpc.edge_status import edge_status
from baton.coordinator import admin
from baton.device_client.cli.diagnosing import doctor
from baton.device_client.coordination import Link, check_health
from baton.device_client.settings import DeviceSettings
from baton.edge_server.daemon import running
from baton.edge_server.settings import EdgeSettings
from tests.support.nodes import coordinator, device, edge, one_line, until
from tests.support.strangers import hanging_up, listening, saying, silent, web_server
from tests.support.tasks import PROMPTS

HTTP_1 = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
WEB = "a web server"
STRANGERS = {
    "HTTP/1": (saying(HTTP_1), WEB),
    "a page alone": (saying(b"<!DOCTYPE html><html></html>"), WEB),
    "HTTP/2, 200": (web_server(200), WEB),
    "HTTP/2, 400": (web_server(400), WEB),
    "HTTP/2, 404": (web_server(404), WEB),
    "HTTP/2, 500": (web_server(500), WEB),
    "another program": (saying(b"SSH-2.0-OpenSSH_9.2\r\n"), "something that does not speak gRPC"),
}


async def as_edge(address: str, timeout: float = 3.0) -> BatonError:
    with pytest.raises(BatonError) as caught:
        await edge_status(address, timeout=timeout)
    one_line(caught.value)
    return caught.value


async def as_coordinator(address: str, timeout: float = 3.0) -> BatonError:
    with pytest.raises(BatonError) as caught:
        await check_health(Link(address, OPEN, timeout))
    one_line(caught.value)
    return caught.value


async def as_operators_coordinator(address: str) -> BatonError:
    with pytest.raises(BatonError) as caught:
        await asyncio.to_thread(admin.nodes, address)
    return caught.value


def check(error: BatonError, text: str) -> None:
    assert type(error) is Unreachable
    assert (str(error), error.exit_code) == (text, 3)


@contextlib.asynccontextmanager
async def foreign_grpc() -> AsyncIterator[str]:
    """A server of gRPC that has nothing to do with Baton, not even health."""
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(0)


@pytest.mark.parametrize("kind", STRANGERS)
async def test_what_is_there_instead_of_a_node_is_told(kind: str) -> None:
    handler, looks = STRANGERS[kind]
    async with listening(handler) as address:
        edge_text = f"{address} is not an edge; it looks like {looks}"
        check(await as_edge(address), edge_text)
        text = f"{address} is not a coordinator; it looks like {looks}"
        check(await as_coordinator(address), text)
        check(await as_operators_coordinator(address), text)


async def test_an_edge_and_a_coordinator_are_told_from_one_another(family: LoadedFamily) -> None:
    async with coordinator() as brain, edge(family) as node:
        check(
            await as_edge(brain.address),
            f"{brain.address} is not an edge; it looks like a coordinator",
        )
        text = f"{node.address} is not a coordinator; it looks like an edge"
        check(await as_coordinator(node.address), text)
        check(await as_operators_coordinator(node.address), text)


async def test_another_server_of_grpc_is_told() -> None:
    async with foreign_grpc() as address:
        check(
            await as_edge(address), f"{address} is not an edge; it looks like another gRPC service"
        )
        check(
            await as_operators_coordinator(address),
            f"{address} is not a coordinator; it looks like another gRPC service",
        )


async def test_a_node_that_hangs_is_not_reachable_and_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as stopped:  # takes connections, reads nothing
        frozen = f"127.0.0.1:{stopped.getsockname()[1]}"
        async with listening(silent) as address:
            for where in (address, frozen):
                error = await as_edge(where, 0.2)
                assert str(error).startswith(f"no answer from {where} within 0.2 s")
                assert error.exit_code == 3
                error = await as_coordinator(where, 0.2)
                assert str(error).startswith(f"no answer from the coordinator at {where} within")
                assert error.exit_code == 3


async def test_who_hangs_up_is_named() -> None:
    async with listening(hanging_up) as address:
        error = await as_edge(address)
    assert address in str(error)
    assert error.exit_code == 3


async def test_a_picture_comes_also_if_the_coordinators_address_is_anothers(
    family: LoadedFamily, family_folder: Path
) -> None:
    """The sentence is its note."""
    async with edge(family) as node, listening(web_server(404)) as web, foreign_grpc() as foreign:
        for address, looks in (
            (node.address, "an edge"),
            (web, "a web server"),
            (foreign, "another gRPC service"),
        ):
            with device(family_folder, coordinator=address) as client:
                result = await client.generate(PROMPTS[0], steps=2)
            (note,) = result.notes
            assert note == f"decided alone: {address} is not a coordinator; it looks like {looks}"


async def test_a_picture_comes_also_if_the_coordinator_hangs(family_folder: Path) -> None:
    async with listening(silent) as address:
        with device(family_folder, coordinator=address, coordinator_timeout=0.2) as client:
            result = await client.generate(PROMPTS[0], steps=2)
    (note,) = result.notes
    assert note.startswith(f"decided alone: no answer from the coordinator at {address} within")


async def test_a_picture_comes_also_if_an_edges_address_is_anothers(family_folder: Path) -> None:
    async with coordinator() as brain, listening(web_server(404)) as web:
        with device(family_folder, edges=f"{brain.address},{web}") as client:
            result = await client.generate(PROMPTS[0], steps=2, arm="relay@0.5", fallback=True)
    notes = " ".join(result.notes)
    assert f"{brain.address} is not an edge; it looks like a coordinator" in notes
    assert f"{web} is not an edge; it looks like a web server" in notes
    assert result.steps_at("device") == 2


async def test_the_doctor_tells_who_is_there(
    family: LoadedFamily, family_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with coordinator() as brain, edge(family) as node:
        settings = DeviceSettings(family=str(family_folder), coordinator=node.address)
        code = await asyncio.to_thread(doctor, settings, brain.address, False)
    assert code == 3
    told = capsys.readouterr().out
    assert f"FAIL edge: {brain.address} is not an edge; it looks like a coordinator\n" in told
    assert f"FAIL coordinator: {node.address} is not a coordinator; it looks like an edge\n" in told


async def test_an_edge_says_that_its_coordinator_is_none_and_tries_on(
    family: LoadedFamily, caplog: pytest.LogCaptureFixture
) -> None:
    async with edge(family, node_id="other") as other:
        settings = EdgeSettings(port=0, coordinator=other.address)
        async with running(settings, family):
            text = f"{other.address} is not a coordinator; it looks like an edge; trying on"
            await until(lambda: text in caplog.text)


async def test_why_nobody_could_be_asked_is_told_where_no_edge_is_known_either(
    family_folder: Path,
) -> None:
    async with listening(web_server(404)) as web:
        with (
            device(family_folder, coordinator=web) as client,
            pytest.raises(Incompatible) as caught,
        ):
            await client.generate(PROMPTS[0], steps=2, arm="relay@0.5")
    assert "needs an edge" in one_line(caught.value)
    assert f"{web} is not a coordinator; it looks like a web server" in str(caught.value)
