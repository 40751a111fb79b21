"""Device, edge and coordinator together, each a real node."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from baton.common.errors import BatonError, Incompatible
from baton.common.explanation import DecisionRecord
from baton.common.families.loaded import LoadedFamily
from baton.coordinator.daemon import Node
from baton.device_client.result import Result
from baton.device_client.sdk import AsyncClient
from tests.support.nodes import (
    Edge,
    check_executed,
    closed_port,
    coordinator,
    device,
    drawn_here,
    edge,
    one_line,
    settled,
    until,
)
from tests.support.tasks import PROMPTS

PROMPT = PROMPTS[3]


@pytest.fixture
async def brain() -> AsyncIterator[Node]:
    async with coordinator() as node:
        yield node


@pytest.fixture
async def joined(brain: Node, family: LoadedFamily) -> AsyncIterator[Edge]:
    """An edge that has joined the coordinator."""
    async with edge(family, node_id="e1", coordinator=brain.address) as node:
        await until(lambda: alive(brain))
        yield node


@pytest.fixture
def client(brain: Node, family_folder: Path) -> Iterator[AsyncClient]:
    with device(family_folder, members="small", coordinator=brain.address) as made:
        yield made


def alive(brain: Node) -> list[str]:
    return [node.registration.node_id for node in brain.fleet.nodes() if node.state == "alive"]


async def decision_of(brain: Node, result: Result) -> DecisionRecord:
    await settled(brain)
    record = await brain.decider.find(result.decision_id)
    assert record.request_id == result.request_id
    return record


async def test_a_decision_is_carried_out_and_rewarded(
    brain: Node, joined: Edge, client: AsyncClient, family: LoadedFamily
) -> None:
    result = await client.generate(PROMPT, steps=5)
    record = await decision_of(brain, result)
    assert (str(record.arm), record.state) == (result.arm, "rewarded")
    assert record.reward is not None
    assert 0.0 < record.reward <= 1.0
    check_executed(result.executed, result.task.plan)
    assert (drawn_here(family, result.task) == result.picture).all()
    assert result.notes == ()


async def test_the_report_tells_times_bytes_and_the_arm(
    brain: Node, joined: Edge, client: AsyncClient
) -> None:
    result = await client.generate(PROMPT, arm="relay@0.4", steps=5)
    assert (result.steps_at("edge"), result.steps_at("device")) == (2, 3)
    outcome = (await decision_of(brain, result)).outcome
    assert outcome is not None
    assert outcome.ok
    assert str(outcome.arm) == result.arm == "edge/large@0.4>device/small"
    assert outcome.total_seconds == result.seconds.total
    assert outcome.edge_seconds + outcome.device_seconds <= outcome.total_seconds
    assert 0 < outcome.edge_compute_seconds <= outcome.edge_seconds
    assert 0 <= outcome.edge_queue_seconds <= outcome.edge_seconds
    assert outcome.device_seconds > 0
    assert outcome.bytes_sent == result.traffic.sent
    assert outcome.bytes_received == result.traffic.received


@pytest.mark.parametrize("preference", ["quality", "balanced", "speed"])
async def test_the_preference_is_passed_on(
    brain: Node, joined: Edge, client: AsyncClient, preference: str
) -> None:
    result = await client.generate(PROMPT, preference=preference, steps=5)
    assert (await decision_of(brain, result)).preference == preference


@pytest.mark.parametrize("arm", ["device", "edge", "relay@0.6", "edge/small"])
async def test_a_wish_is_kept(brain: Node, joined: Edge, client: AsyncClient, arm: str) -> None:
    result = await client.generate(PROMPT, arm=arm, steps=5)
    record = await decision_of(brain, result)
    assert str(record.arm) == result.arm
    assert record.reason == "asked for"
    assert record.state == "rewarded"


async def test_a_named_edge_needs_no_coordinator(
    brain: Node, joined: Edge, client: AsyncClient
) -> None:
    result = await client.generate(PROMPT, arm="edge", edge=joined.address, steps=2)
    assert result.decision_id.startswith("static-")
    assert await brain.decider.recent(10) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"size": 7},
        {"seed": -1},
        {"steps": 0},
        {"arm": "nonsense"},
        {"arm": "device/large"},
        {"preference": "cheap"},
    ],
)
async def test_a_wish_that_cannot_work_costs_no_arm_its_name(
    brain: Node, joined: Edge, client: AsyncClient, fields: dict[str, object]
) -> None:
    """A decision that is never reported counts as the worst of its arm."""
    with pytest.raises(BatonError):
        await client.generate(PROMPT, **({"steps": 5} | fields))
    assert [item.state for item in await settled(brain)] in ([], ["rewarded"])


async def test_a_lost_edge_is_reported_with_the_arm_that_ran(
    brain: Node, joined: Edge, client: AsyncClient
) -> None:
    joined.cable.cut()
    result = await client.generate(PROMPT, arm="edge", steps=5, fallback=True)
    assert result.steps_at("device") == 5
    record = await decision_of(brain, result)
    assert (str(record.arm), record.state) == ("edge/large", "rewarded")
    assert record.outcome is not None
    assert str(record.outcome.arm) == "device/small"


async def test_a_failure_is_reported_as_one(brain: Node, joined: Edge, family_folder: Path) -> None:
    joined.cable.cut()
    with (
        device(family_folder, members="", coordinator=brain.address) as client,
        pytest.raises(BatonError),
    ):
        await client.generate(PROMPT, steps=5)
    (record,) = await settled(brain)
    assert (record.state, record.reward) == ("rewarded", 0.0)
    assert record.outcome is not None
    assert (record.outcome.ok, record.outcome.error) == (False, "UNAVAILABLE")


async def test_an_arm_that_is_not_to_be_had_says_why(
    brain: Node, joined: Edge, client: AsyncClient
) -> None:
    with pytest.raises(Incompatible, match="the device does not hold large") as caught:
        await client.generate(PROMPT, arm="edge/small@0.4>device/large", steps=5)
    one_line(caught.value)
    assert await brain.decider.recent(10) == []


@contextmanager
def silent() -> Iterator[str]:
    """An address that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


async def test_without_its_coordinator_the_device_decides_alone_and_notes_it(
    family_folder: Path, family: LoadedFamily
) -> None:
    async with edge(family) as node:
        with silent() as hung:
            for address, timeout in ((closed_port(), 5.0), (hung, 0.3)):
                settings = {"coordinator": address, "coordinator_timeout": timeout}
                with device(family_folder, edges=node.address, **settings) as client:
                    result = await client.generate(PROMPT, steps=5)
                assert result.arm == "edge/large@0.4>device/small"
                assert result.decision_id.startswith("static-")
                assert len(result.notes) == 1
                assert result.notes[0].startswith("decided alone: ")


async def test_a_coordinator_that_dies_while_drawing_costs_nothing_but_its_reward(
    family: LoadedFamily, family_folder: Path
) -> None:
    async with coordinator() as brain, edge(family, coordinator=brain.address):
        await until(lambda: alive(brain))
        with device(family_folder, members="small", coordinator=brain.address) as client:
            stream = client.stream(PROMPT, arm="relay@0.4", steps=5)
            decided = await anext(stream)
            await brain.drain()
            *_, finished = [event async for event in stream]
    assert decided.decision.decision_id
    assert finished.result.steps_at("edge") == 2


async def test_an_edge_comes_back_after_its_coordinator_was_started_anew(
    family: LoadedFamily,
) -> None:
    lease = {"lease_seconds": 0.6}
    async with coordinator(**lease) as first:
        address = first.address
        async with edge(family, node_id="e1", coordinator=address):
            await until(lambda: alive(first) == ["e1"])
            await first.drain()
            async with coordinator(int(address.rpartition(":")[2]), **lease) as second:
                assert alive(second) == []
                await until(lambda: alive(second) == ["e1"])


async def test_an_edge_that_starts_first_joins_when_its_coordinator_is_there(
    family: LoadedFamily,
) -> None:
    address = closed_port()
    async with (
        edge(family, node_id="e1", coordinator=address),
        coordinator(int(address.rpartition(":")[2])) as late,
    ):
        await until(lambda: alive(late) == ["e1"])


async def test_an_edge_that_drains_leaves_at_once(brain: Node, joined: Edge) -> None:
    await joined.node.drain()
    assert alive(brain) == []


async def test_an_edge_that_dies_is_lost_when_its_lease_ends(family: LoadedFamily) -> None:
    async with coordinator(lease_seconds=0.3) as brain:
        async with edge(family, node_id="e1", coordinator=brain.address):
            await until(lambda: alive(brain) == ["e1"])
        await until(lambda: not alive(brain))
