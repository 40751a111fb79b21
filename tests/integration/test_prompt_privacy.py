"""A prompt goes to the edge that draws it, and nowhere else, not even into a log."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Iterator
from pathlib import Path

import grpc.aio
import pytest
from torch import Tensor

from baton.common.errors import BatonError
from baton.common.families.loaded import LoadedFamily
from baton.coordinator.daemon import Node, running
from baton.coordinator.settings import Settings
from baton.device_client.sdk import AsyncClient
from tests.support.nodes import device, edge, until
from tests.support.servers import ActingEdge, raising, serving

MARKER = "xyzzyquux"
PROMPT = f"a red cat and a {MARKER}"
NEGATIVE = f"no {MARKER}"
FREEING = "grpc._cython.cygrpc"
RELAY = "edge/large@0.5>device/small"


class Logs(logging.Handler):
    """Every record of every logger, formatted in full, and each argument for itself."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(logging.Formatter("%(name)s %(message)s"))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{self.format(record)} {record.args!r}")


@pytest.fixture
def logs() -> Iterator[Logs]:
    """The three nodes share a process, so these are the logs of all of them."""
    handler, root = Logs(), logging.getLogger()
    names = [*logging.root.manager.loggerDict, FREEING]
    levels = {name: logging.getLogger(name).level for name in names}
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    for name in names:
        logging.getLogger(name).setLevel(logging.DEBUG)
    # gRPC's deallocator logs the server that it frees, and pytest keeps the record: a later crash
    logging.getLogger(FREEING).setLevel(logging.INFO)
    yield handler
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    root.setLevel(before)
    root.removeHandler(handler)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(port=0, db=tmp_path / "c.db", seed=0, exploration=0.0, grace_seconds=0.0)


def check_nowhere(
    logs: Logs, folder: Path, capfd: pytest.CaptureFixture[str], told: str = ""
) -> None:
    """Neither in a log, nor on the terminal, nor in any file of the coordinator or the state."""
    out, err = capfd.readouterr()
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".db" for path in files)
    for text in (*logs.lines, out, err, told):
        assert MARKER not in text
    for path in files:
        assert MARKER.encode() not in path.read_bytes(), path


async def joined(brain: Node) -> None:
    await until(brain.fleet.nodes)


async def failure(client: AsyncClient, **options: object) -> str:
    with pytest.raises(BatonError) as caught:
        await client.generate(PROMPT, negative_prompt=NEGATIVE, **options)
    return str(caught.value)


class Breaking:
    """Fails in the middle, with the prompt in the message of the error, as a library might."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, member: str, x: Tensor) -> None:
        self.calls += 1
        if self.calls == 3:
            raise RuntimeError(f"cannot draw {PROMPT}")


async def test_a_relay_leaves_no_trace_of_the_prompt(
    logs: Logs, settings: Settings, family: LoadedFamily, family_folder: Path, tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    async with running(settings) as brain:
        async with edge(family, coordinator=brain.address):
            await joined(brain)
            with device(family_folder, coordinator=brain.address) as client:
                result = await client.generate(PROMPT, negative_prompt=NEGATIVE, arm=RELAY, steps=4)
            record = await brain.decider.find(result.decision_id)
        check_nowhere(logs, tmp_path, capfd, repr(record))  # with the write-ahead log
        assert (tmp_path / "c.db-wal").stat().st_size > 0
    assert result.steps_at("edge") == 2
    assert any("registered" in line for line in logs.lines)
    check_nowhere(logs, tmp_path, capfd)


async def test_a_model_that_fails_leaves_no_trace_of_the_prompt(
    logs: Logs, settings: Settings, family: LoadedFamily, family_folder: Path, tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    async with running(settings) as brain:
        async with edge(family, Breaking(), coordinator=brain.address):
            await joined(brain)
            with device(family_folder, coordinator=brain.address) as client:
                result = await client.generate(
                    PROMPT, negative_prompt=NEGATIVE, arm="edge", steps=4
                )
            record = await brain.decider.find(result.decision_id)
        check_nowhere(logs, tmp_path, capfd, f"{record!r} {result.notes}")
    assert any("failed" in line for line in logs.lines)


async def test_refusals_and_dead_ends_leave_no_trace_of_the_prompt(
    logs: Logs, settings: Settings, family: LoadedFamily, family_folder: Path, tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    async with running(settings) as brain:
        async with edge(family, coordinator=brain.address, tickets="required") as node:
            await joined(brain)
            with device(family_folder, coordinator=brain.address) as client:
                told = [
                    await failure(client, arm="edge", size=17),
                    await failure(client, arm="edge:giant"),
                    await failure(client, sampler="magic"),
                ]
            with device(family_folder, members="", edges=node.address) as client:
                told.append(await failure(client, arm="edge", steps=4))
                node.cable.cut()
                told.append(await failure(client, arm="edge", steps=4))
        check_nowhere(logs, tmp_path, capfd, " ".join(told))


async def test_an_edge_that_gossips_reaches_neither_coordinator_nor_logs(
    logs: Logs, settings: Settings, family: LoadedFamily, family_folder: Path, tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """An edge knows the prompt, and may put it into its error; the device must not pass it on."""
    gossip = ActingEdge(raising(BatonError(PROMPT)), told=0)
    async with running(settings) as brain, serving(gossip) as far:
        async with edge(family, coordinator=brain.address, advertise=far):
            await joined(brain)
            with device(family_folder, coordinator=brain.address) as client:
                asked = {"arm": RELAY, "steps": 4, "fallback": True}
                result = await client.generate(PROMPT, negative_prompt=NEGATIVE, **asked)
            record = await brain.decider.find(result.decision_id)
        check_nowhere(logs, tmp_path, capfd, repr(record))
    assert result.steps_at("edge") == 0


def test_no_record_keeps_a_server_that_is_freed(logs: Logs) -> None:
    async def abandon() -> None:
        server = grpc.aio.server()
        server.add_insecure_port("127.0.0.1:0")
        await server.start()

    asyncio.run(abandon())
    gc.collect()
    assert not any("AioServer" in line for line in logs.lines)
