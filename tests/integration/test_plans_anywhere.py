"""Plans that begin, go on and end wherever they say: lost edges, withdrawals, progress, many."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from baton.common.families.loaded import LoadedFamily
from baton.common.limits import ACCELS, DEVICE_NODE, Accel
from baton.common.request import GenerationRequest
from baton.common.rpc.channel import channel_to
from baton.coordinator.daemon import Node
from baton.device_client import Result, replay
from baton.device_client.cli.explaining import explain
from baton.device_client.cli.generating import Request, generate
from baton.device_client.events import Decided, Event, Finished
from baton.device_client.journal import JOURNAL_FILE, LAST, Entry, Journal
from baton.device_client.sdk import AsyncClient
from baton.device_client.settings import DeviceSettings
from baton.v1 import edge_pb2
from baton.v1.edge_pb2_grpc import EdgeStub
from tests.support.engines import Gate, WatchedFamily
from tests.support.nodes import Edge, check_executed, coordinator, device, edge, settled, until
from tests.support.relayed import PROMPT, Doomed, by_hand, check_kept, check_steps_told

DED = "device/small*4>edge/large*6>device/small*2"
DE = "device/small*4>edge/large*6"
EDE = "edge/large*3>device/small*2>edge/large*3"
#: By place, where each stretch ends.
STOPS = {
    DED: (("device", 4), ("edge", 10), ("device", 12)),
    DE: (("device", 4), ("edge", 10)),
    EDE: (("edge", 3), ("device", 5), ("edge", 8)),
}
#: By where the edge is lost: the step that was seen last, and the one that is gone on from. The
#: first is the device's own word: no checkpoint of the edge has come yet.
MOMENTS = {"at once": (5, 4), "midway": (9, 8)}


def places(arm: str) -> list[str]:
    """By step."""
    found: list[str] = []
    for place, stop in STOPS[arm]:
        found += [place] * (stop - len(found))
    return found


@pytest.mark.parametrize(
    ("arm", "at", "helped", "codec"),
    [
        (DED, "at once", True, "int8"),
        (DED, "at once", False, "fp32"),
        (DED, "midway", True, "fp32"),
        (DED, "midway", False, "fp16"),
        (DE, "at once", True, "fp32"),
        (DE, "at once", False, "int8"),
        (DE, "midway", True, "fp16"),
        (DE, "midway", False, "fp32"),
    ],
)
async def test_a_plan_that_begins_on_the_device_goes_on_where_its_edge_is_lost(
    family: LoadedFamily,
    family_folder: Path,
    tmp_path: Path,
    arm: str,
    at: str,
    helped: bool,
    codec: str,
) -> None:
    gate, (seen_last, kept), by_step = Gate(), MOMENTS[at], places(arm)
    async with edge(family, gate, node_id="doomed") as one, edge(family, node_id="second") as two:
        doomed = Doomed(one, gate, seen_last, {"arm": arm})
        with device(family_folder, codec=codec, checkpoint_every=2) as client:
            result = await doomed.draw(client, *([two.address] if helped else []))
    last = {"device": DEVICE_NODE, "edge": "second" if helped else DEVICE_NODE}
    first = {"device": DEVICE_NODE, "edge": "doomed"}
    expected = [first[place] for place in by_step[:kept]]
    expected += [last[place] for place in by_step[kept:]]
    assert [step.node_id for step in result.executed] == expected
    taken_over = {4, kept} | ({10} & set(range(len(by_step))) if helped else set())
    assert result.provenance.transfers == tuple(sorted(taken_over))
    assert any(f"lost at step {kept}: " in note for note in result.notes)
    told = {
        "at once": f"device/small*{len(by_step)}",
        "midway": f"device/small*4>edge/large*4>device/small*{len(by_step) - 8}",
    }
    assert result.arm_executed == (arm if helped else told[at])
    check_executed(result.executed, result.task.plan)
    check_steps_told(doomed.told, result)
    check_kept(family, result, tmp_path)
    if codec == "fp32":
        np.testing.assert_array_equal(result.picture, by_hand(family, result.task))


async def test_an_edge_that_stalls_and_recovers_takes_its_later_stretch(
    family: LoadedFamily, family_folder: Path, tmp_path: Path
) -> None:
    """What it still holds of the first one is in nobody's way."""
    gate = Gate()
    async with edge(family, gate, node_id="slow") as one, edge(family, node_id="second") as two:
        edges = f"{one.address},{two.address}"
        with device(family_folder, stall_timeout=0.3, edges=edges) as client:
            async for event in client.stream(PROMPT, arm=EDE):
                if getattr(event, "location", "") == "device":
                    gate.lift()
                if isinstance(event, Finished):
                    result = event.result
    assert [step.node_id for step in result.executed] == (
        ["second"] * 3 + [DEVICE_NODE] * 2 + ["slow"] * 3
    )
    assert [attempt.error for attempt in result.attempts] == ["UNAVAILABLE", "", ""]
    check_kept(family, result, tmp_path)


@dataclass
class Held:
    """A coordinator, an edge that joined it, and a device; one gate holds all their model calls."""

    gate: Gate
    brain: Node
    node: Edge
    client: AsyncClient
    state: Path

    async def drawing(self, arm: str, calls: int) -> asyncio.Task[Result]:
        """A picture that is in the model call after so many."""
        self.gate.allow(calls)
        task = asyncio.ensure_future(self.client.generate(PROMPT, arm=arm))
        await asyncio.to_thread(self.gate.wait_for_call, calls + 1)
        return task

    def journaled(self) -> Entry:
        return Journal(self.state / JOURNAL_FILE, 1).find(LAST)


@pytest.fixture
async def held(family: LoadedFamily, family_folder: Path, tmp_path: Path) -> AsyncIterator[Held]:
    gate, state = Gate(), tmp_path / "device"
    async with coordinator() as brain:
        fields = {"coordinator": brain.address, "state_folder": state, "checkpoint_every": 0}
        with device(family_folder, **fields) as client:
            watched = WatchedFamily(client._device.family, gate)
            client._device = replace(client._device, loaded=watched)
            joining = {"coordinator": brain.address, "tickets": "required", "node_id": "e1"}
            async with edge(family, gate, **joining) as node:
                await until(lambda: [n.state for n in brain.fleet.nodes()] == ["alive"])
                yield Held(gate, brain, node, client, state)


@pytest.mark.parametrize(
    ("arm", "calls"),
    [(DED, 1), (DED, 4), (DED, 11), (DE, 0), (DE, 9), (EDE, 2), (EDE, 4), (EDE, 5), (EDE, 7)],
)
async def test_a_plan_withdrawn_in_any_stretch_ends_there_and_is_told_so(
    held: Held, capsys: pytest.CaptureFixture[str], arm: str, calls: int
) -> None:
    task = await held.drawing(arm, calls)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await until(lambda: held.node.registry.unfinished == 0)
    held.gate.lift()
    await until(lambda: held.node.registry.places == 0)
    held.client.close()
    assert held.gate.arrived == calls + 1
    done = [(place, stop) for place, stop in STOPS[arm] if stop <= calls]
    counts = held.node.registry.counts
    assert counts.completed == sum(place == "edge" for place, _ in done)
    assert counts.cancelled == (places(arm)[calls] == "edge")
    entry = held.journaled()
    assert (entry.ending, entry.error) == ("cancelled", "")
    assert [(part.location, part.stop) for part in entry.executed] == done
    (record,) = await settled(held.brain)
    assert (record.state, record.reward) == ("withdrawn", None)
    await asyncio.to_thread(explain, DeviceSettings(state_folder=held.state), LAST, False)
    story = capsys.readouterr().out
    assert "withdrawn by its caller" in story
    assert ("ran steps" in story) == (counts.completed > 0)


async def cancel(node: Edge, request_id: str) -> bool:
    """The edge's own Cancel, as anybody may send it who may send the request."""
    async with channel_to(node.address) as channel:
        request = edge_pb2.CancelRequest(request_id=request_id)
        answer = await EdgeStub(channel).Cancel(request)
        return bool(answer.cancelled)


@pytest.mark.parametrize(
    ("arm", "calls", "helped"),
    [(DED, 3, True), (DE, 3, False), (EDE, 1, True), (EDE, 4, False), (EDE, 5, True)],
)
async def test_what_an_edge_is_told_to_cancel_is_drawn_elsewhere(
    family: LoadedFamily, family_folder: Path, tmp_path: Path, arm: str, calls: int, helped: bool
) -> None:
    """Only its caller withdraws a picture. calls: of the edge's model, before it is told."""
    gate, events = Gate(), list[Event]()
    async with edge(family, gate, node_id="told") as one, edge(family, node_id="second") as two:
        edges = ",".join([one.address, *([two.address] if helped else [])])
        with device(family_folder, checkpoint_every=0, codec="int8", edges=edges) as client:
            gate.allow(calls)

            async def draw() -> Result:
                async for event in client.stream(PROMPT, arm=arm):
                    events.append(event)
                    if isinstance(event, Finished):
                        return event.result
                raise AssertionError("no result")

            drawing = asyncio.ensure_future(draw())
            await asyncio.to_thread(gate.wait_for_call, calls + 1)
            assert await cancel(one, events[0].request_id)
            gate.lift()
            result = await drawing
    lost = [attempt for attempt in result.attempts if attempt.error]
    assert [(attempt.node_id, attempt.error) for attempt in lost] == [("told", "CANCELLED")]
    ran = {step.node_id for step in result.executed[lost[0].start :]}
    assert ("second" in ran) == helped
    check_executed(result.executed, result.task.plan)
    check_steps_told(events, result)
    check_kept(family, result, tmp_path)


async def test_an_edge_has_nothing_to_cancel_while_the_device_draws(held: Held) -> None:
    task = await held.drawing(EDE, 4)
    request_id = (await held.brain.decider.recent(1))[0].request_id
    assert not await cancel(held.node, request_id)
    held.gate.lift()
    result = await task
    assert (result.arm_executed, result.notes) == (EDE, ())


async def test_steps_are_told_in_order_over_the_whole_plan_however_cheap_they_are(
    family: LoadedFamily, family_folder: Path
) -> None:
    async with edge(family) as node:
        with device(family_folder, edges=node.address) as client:
            for arm in STOPS:
                for accel in ACCELS:
                    events = await drawn(client, arm, accel)
                    last = events[-1]
                    assert isinstance(events[0], Decided)
                    assert isinstance(last, Finished)
                    check_steps_told(events, last.result)


async def drawn(client: AsyncClient, arm: str, accel: Accel) -> list[Event]:
    return [event async for event in client.stream(PROMPT, arm=arm, accel=accel)]


async def test_many_pictures_of_a_plan_are_drawn_at_once_and_replay(
    family: LoadedFamily, family_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with edge(family) as node:
        settings = DeviceSettings(family=str(family_folder), edges=node.address, codec="int8")
        for number, arm in enumerate(STOPS):
            first = GenerationRequest(PROMPT, arm=arm, seed=number)
            asked = Request(first, 3, tmp_path / f"{number}.png", metadata=True)
            await asyncio.to_thread(generate, settings, asked, True)
            check_many(json.loads(capsys.readouterr().out), arm, family)


def check_many(told: Sequence[dict[str, object]], arm: str, family: LoadedFamily) -> None:
    here = places(arm)
    steps = {place: here.count(place) for place in ("edge", "device")}
    for index, one in enumerate(told):
        assert (one["arm"], one["arm_executed"], one["notes"]) == (arm, arm, [])
        assert one["steps"] == steps
        assert one["seed"] == list(STOPS).index(arm) + index
        assert replay(str(one["path"]), family).verdict == "identical"
    assert len(told) == 3
