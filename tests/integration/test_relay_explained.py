"""A request that can be explained afterwards: by the device's journal, and by the coordinator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from baton.common.errors import BatonError, Cancelled, ExecutionFailed
from baton.common.explanation import DecisionRecord
from baton.common.families.loaded import LoadedFamily
from baton.common.rpc import PROTOCOL_VERSION
from baton.common.rpc.channel import channel_to
from baton.coordinator.daemon import Node
from baton.device_client.cli.explaining import explain
from baton.device_client.events import Stepped
from baton.device_client.journal import JOURNAL_FILE, LAST, Entry, Journal
from baton.device_client.sdk import AsyncClient
from baton.device_client.settings import DeviceSettings
from baton.v1 import coordinator_pb2 as pb
from baton.v1 import edge_pb2
from baton.v1.coordinator_pb2_grpc import CoordinatorStub
from baton.v1.edge_pb2_grpc import EdgeServicer
from tests.support.engines import Gate
from tests.support.nodes import coordinator, device, edge, settled, until
from tests.support.servers import ActingEdge, raising, serving
from tests.support.tasks import PROMPTS

PROMPT = PROMPTS[3]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "device-state"


@pytest.fixture
async def brain() -> AsyncIterator[Node]:
    async with coordinator() as node:
        yield node


@pytest.fixture
def fields(brain: Node, state: Path) -> dict[str, Any]:
    return {"members": "small", "coordinator": brain.address, "state_folder": state}


def journaled(state: Path) -> Entry:
    return Journal(state / JOURNAL_FILE, 500).find(LAST)


async def newest(brain: Node) -> DecisionRecord:
    (record,) = await settled(brain, 1)
    return record


async def joined(brain: Node, *names: str) -> None:
    def alive() -> set[str]:
        return {n.registration.node_id for n in brain.fleet.nodes() if n.state == "alive"}

    await until(lambda: alive() == set(names))


async def register(brain: Node, address: str, fingerprint: str) -> None:
    """An edge that joins by hand, to answer as a test says."""
    request = pb.RegisterRequest(
        protocol_version=PROTOCOL_VERSION,
        node_id="acting",
        address=address,
        family="tiny",
        members=["large"],
        fingerprint=fingerprint,
    )
    async with channel_to(brain.address) as channel:
        await CoordinatorStub(channel).Register(request)


async def told(state: Path, capsys: pytest.CaptureFixture[str], key: str = LAST) -> str:
    """What ``baton explain`` prints; it has an event loop of its own."""
    await asyncio.to_thread(explain, DeviceSettings(state_folder=state), key, False)
    return capsys.readouterr().out


async def draw_until(
    client: AsyncClient, wanted: Callable[[Stepped], bool], **options: Any
) -> None:
    """Draw, and close the stream at the first such step."""
    async with aclosing(client.stream(PROMPT, **options)) as events:
        async for event in events:
            if isinstance(event, Stepped) and wanted(event):
                return
    raise AssertionError("no such step")


async def test_a_relay_over_two_edges_is_explained_by_device_and_coordinator(
    brain: Node,
    family: LoadedFamily,
    family_folder: Path,
    fields: dict[str, Any],
    state: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with (
        edge(family, node_id="e1", coordinator=brain.address) as one,
        edge(family, node_id="e2", coordinator=brain.address) as two,
    ):
        await joined(brain, "e1", "e2")
        cables = {node.address: node.cable for node in (one, two)}
        with device(family_folder, **fields, checkpoint_every=1) as client:
            async for event in client.stream(PROMPT, arm="relay@0.8", steps=40):
                if isinstance(event, Stepped) and event.step == 4:
                    (drawn,) = await brain.decider.recent(1)
                    cables[drawn.edges[0].address].cut()
        entry, record = journaled(state), await newest(brain)
        text = await told(state, capsys, entry.request_id[:12])
    assert record.outcome is not None
    assert list(map(asdict, record.outcome.attempts)) == list(map(asdict, entry.attempts))
    failed, good = entry.attempts
    assert (failed.address, failed.start) == (record.edges[0].address, 0)
    assert (failed.error, good.error) == ("UNAVAILABLE", "")
    assert (good.start, good.stop) == (failed.stop, 32)
    assert text.startswith(f"request {entry.request_id}: a picture")
    assert f"decided by the coordinator at {brain.address}: asked for" in text
    assert f"failed (UNAVAILABLE), steps 0 to {failed.stop} kept" in text
    assert f"ran steps {failed.stop} to 32" in text
    assert "* edge/large@0.8>device/small" in text
    assert PROMPT not in text


async def test_without_its_coordinator_the_journal_tells_the_story(
    family_folder: Path, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with coordinator() as brain:
        fields = {"members": "small", "coordinator": brain.address, "state_folder": state}
        with device(family_folder, **fields) as client:
            result = await client.generate(PROMPT, steps=3)
    text = await told(state, capsys)
    assert text.startswith(f"request {result.request_id}: a picture")
    assert "steps 0 to 3: small on this device" in text
    silent = f"the coordinator adds nothing: no answer from the coordinator at {brain.address}"
    assert silent in text


@pytest.mark.parametrize("where", ["edge", "device"])
async def test_a_stream_closed_early_is_withdrawn_and_teaches_nothing(
    where: str,
    brain: Node,
    family: LoadedFamily,
    family_folder: Path,
    fields: dict[str, Any],
    state: Path,
) -> None:
    async with edge(family, node_id="e1", coordinator=brain.address):
        await joined(brain, "e1")
        with device(family_folder, **fields) as client:
            options: dict[str, Any] = {"arm": "relay@0.2", "steps": 40}
            await draw_until(client, lambda event: event.location == where, **options)
    record = await newest(brain)
    assert (record.state, record.reward) == ("withdrawn", None)
    assert record.outcome is not None
    assert (record.outcome.ok, record.outcome.error) == (False, "CANCELLED")
    assert brain.decider.arms() == []
    entry = journaled(state)
    assert (entry.ending, entry.error) == ("cancelled", "")
    assert entry.decision is not None
    assert entry.decision.decision_id == record.decision_id


async def test_a_cancelled_task_is_withdrawn_too(
    brain: Node, family: LoadedFamily, family_folder: Path, fields: dict[str, Any]
) -> None:
    gate = Gate()
    async with edge(family, gate, node_id="e1", coordinator=brain.address):
        await joined(brain, "e1")
        with device(family_folder, **fields) as client:
            task = asyncio.ensure_future(client.generate(PROMPT, arm="edge", steps=3))
            await asyncio.to_thread(gate.wait_for_call, 1)
            task.cancel()
            await asyncio.wait([task])
    assert task.cancelled()
    assert (await newest(brain)).state == "withdrawn"


async def test_an_edge_that_says_cancelled_withdraws_nothing(
    brain: Node, family: LoadedFamily, family_folder: Path, fields: dict[str, Any], state: Path
) -> None:
    """Only the caller withdraws: an edge could escape what its arm deserves."""
    async with serving(ActingEdge(raising(Cancelled("not today")), told=0)) as address:
        await register(brain, address, family.fingerprint)
        with (
            device(family_folder, **(fields | {"members": ""})) as client,
            pytest.raises(BatonError),
        ):
            await client.generate(PROMPT, arm="edge/large", steps=3)
    record = await newest(brain)
    assert (record.state, record.reward) == ("rewarded", 0.0)
    assert journaled(state).ending == "failed"


async def test_a_failed_request_is_explained_with_its_error(
    brain: Node,
    family: LoadedFamily,
    family_folder: Path,
    fields: dict[str, Any],
    state: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with edge(family, node_id="e1", coordinator=brain.address) as node:
        await joined(brain, "e1")
        node.cable.cut()
        with (
            device(family_folder, **(fields | {"members": ""})) as client,
            pytest.raises(BatonError) as caught,
        ):
            await client.generate(PROMPT, steps=3)
    text = await told(state, capsys)
    assert f": failed (UNAVAILABLE): {caught.value}\n" in text
    assert f"e1 at {node.address}" in text
    assert "failed (UNAVAILABLE), nothing kept" in text


async def test_a_request_refused_before_any_decision_is_journaled(
    family_folder: Path, state: Path
) -> None:
    with (
        device(family_folder, state_folder=state) as client,
        pytest.raises(BatonError),
    ):
        await client.generate(PROMPT, size=7, steps=3)
    entry = journaled(state)
    assert (entry.ending, entry.error, entry.decision) == ("failed", "INVALID_ARGUMENT", None)


async def test_a_prompt_that_an_edge_puts_into_its_error_goes_nowhere(
    brain: Node,
    family: LoadedFamily,
    family_folder: Path,
    fields: dict[str, Any],
    state: Path,
) -> None:
    secret = "a photo of three orange stars"
    assert secret == PROMPT
    echo = raising(ExecutionFailed(f"cannot draw {secret.upper()}: {secret}"))
    async with serving(ActingEdge(echo, told=0)) as address:
        await register(brain, address, family.fingerprint)
        with device(family_folder, **fields) as client:
            result = await client.generate(PROMPT, arm="edge/large", steps=3, fallback=True)
    record = await newest(brain)
    assert record.outcome is not None
    (attempt,) = record.outcome.attempts
    assert attempt.reason == "cannot draw (the prompt): (the prompt)"
    assert result.attempts[0].reason == attempt.reason
    everything = (state / JOURNAL_FILE).read_bytes() + repr(record).encode()
    assert secret.encode() not in everything.lower()


async def test_an_edge_cannot_spoil_a_report_with_its_name(
    brain: Node,
    family: LoadedFamily,
    family_folder: Path,
    fields: dict[str, Any],
    state: Path,
) -> None:
    async with serving(Posing(PROMPT)) as address:
        await register(brain, address, family.fingerprint)
        with device(family_folder, **fields) as client:
            await client.generate(PROMPT, arm="edge/large", steps=3, fallback=True)
    record = await newest(brain)
    assert record.state == "rewarded"
    assert record.outcome is not None
    assert {attempt.node_id for attempt in record.outcome.attempts} <= {"", "acting"}
    assert PROMPT.encode() not in (state / JOURNAL_FILE).read_bytes()


class Posing(EdgeServicer):
    """Accepts under any name, and ends."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def Denoise(
        self, request: edge_pb2.DenoiseRequest, context: object
    ) -> AsyncGenerator[edge_pb2.DenoiseEvent, None]:
        accepted = edge_pb2.Accepted(protocol_version=PROTOCOL_VERSION, node_id=self._name)
        yield edge_pb2.DenoiseEvent(accepted=accepted)

    async def Cancel(
        self, request: edge_pb2.CancelRequest, context: object
    ) -> edge_pb2.CancelResponse:
        return edge_pb2.CancelResponse()


async def test_a_journal_that_cannot_be_written_costs_no_picture(
    family_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with device(family_folder, state_folder=tmp_path / "file" / "state") as client:
        result = await client.generate(PROMPT, steps=2)
    assert result.steps_at("device") == 2


async def test_a_device_that_keeps_no_journal_leaves_none(family_folder: Path, state: Path) -> None:
    with device(family_folder, state_folder=state, journal_requests=0) as client:
        await client.generate(PROMPT, steps=2)
    assert not (state / JOURNAL_FILE).exists()
