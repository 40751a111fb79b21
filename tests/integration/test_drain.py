"""Edges that leave while they draw: the device goes on from their newest step, there or here."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from baton.common.families.loaded import LoadedFamily
from baton.common.rpc.channel import channel_to
from baton.common.rpc.edge_status import edge_status
from baton.device_client.cli.explaining import explain
from baton.device_client.events import EdgeLost, Finished, Stepped
from baton.device_client.journal import LAST
from baton.device_client.settings import DeviceSettings
from baton.edge_server.requests.registry import Counts
from baton.v1 import edge_pb2
from baton.v1.edge_pb2_grpc import EdgeStub
from tests.support.engines import Gate
from tests.support.lying import Liar, Scripted, accepted, stretch
from tests.support.nodes import (
    Edge,
    check_executed,
    coordinator,
    device,
    drawn_here,
    edge,
    settled,
    until,
)
from tests.support.processes import EdgeProcess, Forker, forker
from tests.support.relayed import check_kept
from tests.support.servers import serving
from tests.support.strikes import STEPS, Struck
from tests.support.tasks import PROMPTS, plan, task

PROMPT = PROMPTS[3]
#: Long enough for an edge that merely gets no processor.
PATIENT = {"connect_timeout": 60.0}


@dataclass
class Leaving:
    """An edge of this process that leaves when a test strikes it, amid the call at its gate."""

    node: Edge
    gate: Gate
    leaves: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return self.node.address

    @property
    def arrived(self) -> int:
        return self.gate.arrived

    def allow(self, calls: int) -> None:
        self.gate.allow(calls)

    def leave(self) -> None:
        self.leaves.append(asyncio.ensure_future(self._leave()))

    async def _leave(self) -> None:
        draining = asyncio.ensure_future(self.node.node.drain())
        await until(lambda: self.node.registry.draining)
        self.gate.allow(1)
        await draining


@contextlib.asynccontextmanager
async def leaving(family: LoadedFamily, **settings: object) -> AsyncIterator[Leaving]:
    gate, fields = Gate(), {"node_id": "leaving", "drain_grace": 0.0} | settings
    async with edge(family, gate, **fields) as node:
        made = Leaving(node, gate)
        yield made
        await asyncio.gather(*made.leaves)


@pytest.fixture
async def second(family: LoadedFamily) -> AsyncIterator[Edge]:
    async with edge(family, node_id="second") as node:
        yield node


def places(result: Any) -> list[str]:
    return [step.node_id for step in result.executed]


@pytest.mark.parametrize("at", [0, 7, STEPS - 2])
async def test_the_next_edge_goes_on_from_the_step_that_the_drained_one_had(
    family: LoadedFamily, family_folder: Path, tmp_path: Path, second: Edge, at: int
) -> None:
    """To the very picture that one edge draws, without a checkpoint on the way."""
    async with leaving(family) as one:
        struck = Struck(one, one.leave, at)
        with device(family_folder, checkpoint_every=0) as client:
            result = await struck.draw(client, second.address)
    done = at + 1
    assert places(result) == ["leaving"] * done + ["second"] * (STEPS - done)
    check_executed(result.executed, result.task.plan)
    unbroken = task(plan("edge/large", STEPS), PROMPT, seed=at)
    np.testing.assert_array_equal(result.picture, drawn_here(family, unbroken))
    check_kept(family, result, tmp_path)
    first, last = result.attempts
    assert (first.node_id, first.start, first.stop) == ("leaving", 0, done)
    assert (first.error, first.drained) == ("", True)
    assert (last.start, last.stop, last.did_its_part) == (done, STEPS, True)
    assert result.notes == (f"edge {one.address} left at step {done}: the edge is shutting down",)
    assert [event.resume_step for event in struck.told if isinstance(event, EdgeLost)] == [done]
    assert one.node.registry.counts == Counts(drained=1)
    assert second.registry.counts == Counts(completed=1)


async def test_a_picture_at_its_last_step_ends_where_it_is(
    family: LoadedFamily, family_folder: Path
) -> None:
    async with leaving(family) as one:
        struck = Struck(one, one.leave, STEPS - 1)
        with device(family_folder) as client:
            result = await struck.draw(client)
    assert places(result) == ["leaving"] * STEPS
    assert result.notes == ()
    assert one.node.registry.counts == Counts(completed=1)


async def test_steps_that_were_decoded_together_leave_together(
    family: LoadedFamily, family_folder: Path, tmp_path: Path, second: Edge
) -> None:
    """What went on in full elsewhere is on record, so that the picture can be drawn again."""
    async with leaving(family) as one:
        asked = {"arm": "edge/large", "steps": 10, "accel": "propagate", "seed": 1}
        with device(family_folder, checkpoint_every=0) as client:
            drawing = asyncio.ensure_future(
                client.generate(PROMPT, edge=f"{one.address},{second.address}", **asked)
            )
            one.allow(3)
            await asyncio.to_thread(one.gate.wait_for_call, 4)
            one.leave()
            result = await drawing
    assert places(result) == ["leaving"] * 5 + ["second"] * 5
    assert result.executed[3].ahead == 1
    assert result.executed[5].blocks in (None, family.blocks("large").all)
    check_kept(family, result, tmp_path)


async def test_without_another_edge_the_device_goes_on_alone_from_there(
    family: LoadedFamily, family_folder: Path
) -> None:
    async with leaving(family) as one:
        with device(family_folder) as client:
            result = await Struck(one, one.leave, 7).draw(client)
    assert places(result) == ["leaving"] * 8 + ["device"] * (STEPS - 8)
    relay = task(plan("edge/large@0.4>device/small", STEPS), PROMPT, seed=7)
    np.testing.assert_array_equal(result.picture, drawn_here(family, relay))
    assert result.arm_executed == "edge/large@0.4>device/small"


async def test_who_waits_goes_to_the_next_edge_while_those_before_it_still_end(
    family: LoadedFamily, family_folder: Path, second: Edge
) -> None:
    async with leaving(family, drain_grace=60.0, max_active=1) as one:
        asked = {"arm": "edge/large", "steps": 3, "edge": f"{one.address},{second.address}"}
        with device(family_folder) as client:
            first = asyncio.ensure_future(client.generate(PROMPT, **asked))
            await asyncio.to_thread(one.gate.wait_for_call, 1)
            later = asyncio.ensure_future(client.generate(PROMPT, **asked))
            await until(lambda: one.node.registry.unfinished == 2)
            one.leave()
            result = await later
            assert not first.done()
            one.gate.lift()
            assert places(await first) == ["leaving"] * 3
    assert places(result) == ["second"] * 3
    (told, _) = result.attempts
    assert (told.start, told.stop, told.error, told.drained) == (0, 0, "", True)
    assert one.node.registry.counts == Counts(completed=1, drained=1)


async def test_a_stream_that_comes_back_to_a_drained_request_is_told_the_same(
    family: LoadedFamily, family_folder: Path
) -> None:
    asked: list[edge_pb2.DenoiseRequest] = []

    def note(request: edge_pb2.DenoiseRequest) -> list[edge_pb2.DenoiseEvent]:
        asked.append(request)
        return []

    async with serving(Scripted(note)) as address:
        with device(family_folder) as client:
            await client.generate(PROMPT, edge=address, arm="edge/large", steps=6, fallback=True)
    async with leaving(family) as one, channel_to(one.address) as channel:
        stub = EdgeStub(channel)

        async def last() -> edge_pb2.DenoiseEvent:
            *_, event = [event async for event in stub.Denoise(asked[0], timeout=60)]
            return event

        listening = asyncio.ensure_future(last())
        one.allow(2)
        await asyncio.to_thread(one.gate.wait_for_call, 3)
        one.leave()
        told = await listening
        assert told.drained.checkpoint.executed[0].stop == 3
        assert told.drained.times.model_seconds > 0
        assert await last() == told
        status = await edge_status(one.address)
    assert (status["drained"], status["failed"], status["draining"]) == ("1", "0", True)


async def test_an_edge_that_has_let_go_is_not_told_to(
    family: LoadedFamily, family_folder: Path, second: Edge
) -> None:
    liar = Liar(family)

    def leave(request: edge_pb2.DenoiseRequest) -> list[edge_pb2.DenoiseEvent]:
        checkpoint = edge_pb2.Checkpoint(
            envelope=liar.envelope(request), executed=[stretch(stop=liar.state().step)]
        )
        drained = edge_pb2.Drained(checkpoint=checkpoint)
        return [accepted(), edge_pb2.DenoiseEvent(drained=drained)]

    script = Scripted(leave)
    async with serving(script) as address:
        with device(family_folder) as client:
            asked = {"arm": "edge/large", "steps": 4}
            result = await client.generate(PROMPTS[2], edge=f"{address},{second.address}", **asked)
    assert places(result) == ["liar"] * 2 + ["second"] * 2
    assert script.cancelled == 0


async def test_a_drained_edge_is_no_failure_to_its_coordinator_and_is_explained(
    family: LoadedFamily,
    family_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = tmp_path / "device-state"
    async with (
        coordinator() as brain,
        leaving(family, node_id="e1", coordinator=brain.address) as one,
    ):
        await until(brain.fleet.nodes)
        fields = {"members": "small", "coordinator": brain.address, "state_folder": state}
        with device(family_folder, **fields) as client:
            one.allow(3)
            async for event in client.stream(PROMPT, arm="edge/large", steps=10, fallback=True):
                if isinstance(event, Stepped) and event.step == 3:
                    await asyncio.to_thread(one.gate.wait_for_call, 4)
                    one.leave()
                if isinstance(event, Finished):
                    result = event.result
            (record,) = await settled(brain, 1)
            await asyncio.to_thread(explain, DeviceSettings(state_folder=state), LAST, False)
    assert record.outcome is not None
    assert record.outcome.ok
    assert record.outcome.attempts == result.attempts
    assert [(a.drained, a.error, a.stop) for a in result.attempts] == [(True, "", 4)]
    text = capsys.readouterr().out
    assert "left, steps 0 to 4 kept: the edge is shutting down" in text
    assert "failed" not in text


@pytest.fixture(scope="module")
def processes(family_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forker]:
    with forker(family_folder, tmp_path_factory.mktemp("edges")) as made:
        yield made


@dataclass
class Signalled:
    """A process that gets a signal amid a call, and comes to the call's end once it drains."""

    process: EdgeProcess
    more: Callable[[], None] | None = None
    leaves: list[asyncio.Task[None]] = field(default_factory=list)

    def leave(self) -> None:
        self.process.terminate()
        self.leaves.append(asyncio.ensure_future(self._go_on()))

    async def _go_on(self) -> None:
        while not (await edge_status(self.process.address, timeout=60.0))["draining"]:
            pass
        (self.more or (lambda: self.process.allow(1)))()

    async def ended(self) -> None:
        """Wait for the process, which nobody else does."""
        await asyncio.gather(*self.leaves)
        await until(lambda: not _lives(self.process.pid))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("alone", [False, True])
async def test_a_signal_sends_the_picture_of_a_process_on_from_where_it_was(
    processes: Forker, family: LoadedFamily, family_folder: Path, alone: bool
) -> None:
    leaves = Signalled(processes.edge(drain_grace=0.0))
    others = [] if alone else [processes.edge(held=False).address]
    struck = Struck(leaves.process, leaves.leave, 7)
    with device(family_folder, **PATIENT) as client:
        result = await struck.draw(client, *others)
        await leaves.ended()
    assert (result.attempts[0].drained, result.attempts[0].stop) == (True, 8)
    assert (result.executed[8].location == "device") == alone
    check_executed(result.executed, result.task.plan)
    np.testing.assert_array_equal(result.picture, drawn_here(family, result.task))


async def test_a_second_signal_does_not_wait_and_costs_no_picture(
    processes: Forker, family: LoadedFamily, family_folder: Path
) -> None:
    """The grace would let it end, but for the call that never does."""
    held = processes.edge(drain_grace=600.0)
    leaves = Signalled(held, more=held.terminate)
    other = processes.edge(held=False).address
    with device(family_folder, **PATIENT, checkpoint_every=5) as client:
        result = await Struck(held, leaves.leave, 7).draw(client, other)
        held.allow(1)
        await leaves.ended()
    assert [attempt.did_its_part for attempt in result.attempts] == [False, True]
    assert result.attempts[0].stop == 5
    np.testing.assert_array_equal(result.picture, drawn_here(family, result.task))
