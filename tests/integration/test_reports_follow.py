"""A report follows its picture: nobody waits for it, and none is lost at a normal end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from baton.common.rpc import PROTOCOL_VERSION
from baton.common.rpc.channel import make_server
from baton.device_client import Client
from baton.v1 import coordinator_pb2 as pb
from baton.v1 import coordinator_pb2_grpc
from tests.support.commands import clean_environment
from tests.support.nodes import client_with, closed_port, device, until
from tests.support.strangers import listening, silent
from tests.support.tasks import PROMPTS

PROMPT = PROMPTS[1]


class Slow(coordinator_pb2_grpc.CoordinatorServicer):
    """Decides as ``decision`` says, and takes reports when it may. It has no health to ask for."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.decided: list[pb.DecideRequest] = []
        self.begun: list[str] = []
        self.reported: list[str] = []
        self.errors: list[str] = []
        self.decision: dict[str, Any] = {"arm": "device/small"}

    async def Decide(self, request: pb.DecideRequest, context: Any) -> pb.DecideResponse:
        self.decided.append(request)
        fields = {"decision_id": f"d{len(self.decided)}"} | self.decision
        return pb.DecideResponse(protocol_version=PROTOCOL_VERSION, **fields)

    async def Report(self, request: pb.ReportRequest, context: Any) -> pb.ReportResponse:
        self.begun.append(request.decision_id)
        await self.open.wait()
        self.reported.append(request.decision_id)
        self.errors.append(request.error)
        return pb.ReportResponse(applied=True)


@contextlib.asynccontextmanager
async def serving(servicer: Slow) -> AsyncIterator[str]:
    server = make_server()
    coordinator_pb2_grpc.add_CoordinatorServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        servicer.open.set()
        await server.stop(None)


@pytest.fixture
async def slow() -> AsyncIterator[tuple[Slow, str]]:
    servicer = Slow()
    async with serving(servicer) as address:
        yield servicer, address


async def test_a_picture_is_there_before_its_report_and_reports_keep_their_order(
    slow: tuple[Slow, str], family_folder: Path
) -> None:
    servicer, address = slow
    async with client_with(family_folder, coordinator=address, coordinator_timeout=60) as client:
        for _ in range(3):
            result = await client.generate(PROMPT, steps=1)
        assert (result.decision_id, servicer.reported) == ("d3", [])
        await until(lambda: servicer.begun)
        assert servicer.begun == ["d1"]
        servicer.open.set()
    assert servicer.reported == ["d1", "d2", "d3"]


async def test_the_round_trip_is_told_from_what_was_exchanged(
    slow: tuple[Slow, str], family_folder: Path
) -> None:
    servicer, address = slow
    servicer.open.set()
    async with client_with(family_folder, coordinator=address) as client:
        for _ in range(2):
            await client.generate(PROMPT, steps=1)
    handshake, exchanged = (request.rtt_seconds for request in servicer.decided)
    assert 0 < exchanged <= handshake


async def test_closing_waits_for_the_reports(slow: tuple[Slow, str], family_folder: Path) -> None:
    servicer, address = slow

    def draw() -> None:
        with Client(family=str(family_folder), coordinator=address) as client:
            client.generate_many(PROMPT, 3, steps=1)

    drawing = asyncio.create_task(asyncio.to_thread(draw))
    await until(lambda: servicer.begun)
    assert not drawing.done()
    servicer.open.set()
    await drawing
    assert sorted(servicer.reported) == ["d1", "d2", "d3"]


async def test_a_report_that_nobody_takes_costs_a_warning_and_a_bounded_time(
    slow: tuple[Slow, str], family_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, address = slow
    async with client_with(family_folder, coordinator=address, coordinator_timeout=0.2) as client:
        await client.generate(PROMPT, steps=1)
    (record,) = [line for line in caplog.records if line.name.startswith("baton")]
    assert record.getMessage().startswith("the coordinator was not told: no answer from")


async def test_what_is_closed_on_a_loop_tells_the_rest_by_itself(
    slow: tuple[Slow, str], family_folder: Path
) -> None:
    servicer, address = slow
    with device(family_folder, coordinator=address) as client:
        await client.generate(PROMPT, steps=1)
    servicer.open.set()
    await until(lambda: servicer.reported == ["d1"])


UNCLOSED = """
import asyncio, sys
from baton import AsyncClient

async def main(client):
    try:
        await client.generate("a red cat", timeout=60, fallback=False)
    except Exception as error:
        print(type(error).__name__)

asyncio.run(main(AsyncClient(family=sys.argv[1], members="", coordinator=sys.argv[2])))
"""


async def test_a_program_that_ends_without_closing_has_told_all(
    slow: tuple[Slow, str], family_folder: Path, tmp_path: Path
) -> None:
    servicer, address = slow

    edges = [pb.EdgeCandidate(node_id="e", address=closed_port())]
    servicer.decision = {"arm": "edge/large", "edges": edges}
    command = [sys.executable, "-c", UNCLOSED, str(family_folder), address]
    running = asyncio.create_task(
        asyncio.to_thread(
            subprocess.run, command, env=clean_environment(tmp_path), capture_output=True, text=True
        )
    )
    await until(lambda: servicer.begun)
    servicer.open.set()
    done = await running
    assert (done.returncode, done.stdout, done.stderr) == (0, "Unreachable\n", "")
    assert servicer.reported == ["d1"]


async def test_a_command_that_is_ended_tells_that_its_picture_is_withdrawn(
    slow: tuple[Slow, str], family_folder: Path, tmp_path: Path
) -> None:
    servicer, address = slow
    servicer.open.set()
    reached = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        await silent(reader, writer)

    async with listening(hang) as edge:
        candidate = pb.EdgeCandidate(node_id="e", address=edge)
        servicer.decision = {"arm": "edge/large", "edges": [candidate]}
        command = [sys.executable, "-m", "baton.device_client.cli.main", "generate", PROMPT]
        more = ["--family", str(family_folder), "--members", "", "--coordinator", address]
        running = await asyncio.create_subprocess_exec(
            *command, *more, env=clean_environment(tmp_path), cwd=tmp_path
        )
        await reached.wait()
        running.send_signal(signal.SIGTERM)
        assert await running.wait() == 128 + signal.SIGTERM
    assert (servicer.reported, servicer.errors) == (["d1"], ["CANCELLED"])
