"""Edges that vanish, refuse or dawdle: the request goes on from its newest checkpoint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from baton.common.errors import Incompatible, Unreachable
from baton.common.families.loaded import LoadedFamily, load_family
from baton.common.limits import SAMPLERS, SamplerName
from baton.device_client.events import EdgeLost, Finished, Stepped
from baton.device_client.result import Result
from tests.support.engines import Gate
from tests.support.families import copy_family, edit_json
from tests.support.nodes import (
    Edge,
    check_executed,
    closed_port,
    device,
    drawn_here,
    edge,
    one_line,
    until,
)
from tests.support.tasks import PROMPTS, plan, task

PROMPT = PROMPTS[3]
STEPS, EVERY, LAST_SEEN = 8, 3, 5


@dataclass
class Doomed:
    """An edge that vanishes when its client has seen ``LAST_SEEN`` steps.

    Its steps are let through one by one, so the checkpoint two steps earlier has been sent: an edge
    sends it at the latest behind the progress of the step after it.
    """

    node: Edge
    gate: Gate
    lost: list[EdgeLost] = field(default_factory=list)

    async def draw(self, folder: Path, *others: str, **options: object) -> Result:
        """Draw on this edge, then on ``others``; keeps what was told about lost edges."""
        settings = {"checkpoint_every": options.pop("checkpoint_every", EVERY)}
        edges = ",".join([self.node.address, *others])
        asked = {"steps": STEPS, "seed": 1} | options
        with device(folder, members=str(asked.pop("members", "small,large")), **settings) as client:
            self.gate.allow(1)
            async for event in client.stream(PROMPT, edge=edges, **asked):
                self._follow(event)
                if isinstance(event, Finished):
                    return event.result
        raise AssertionError("no result")

    def _follow(self, event: object) -> None:
        if isinstance(event, EdgeLost):
            self.lost.append(event)
        elif isinstance(event, Stepped) and not self.lost:
            if event.step == LAST_SEEN:
                self.node.cable.cut()
            else:
                self.gate.allow(1)


@pytest.fixture
async def doomed(family: LoadedFamily) -> AsyncIterator[Doomed]:
    gate = Gate()
    async with edge(family, gate, node_id="doomed") as node:
        yield Doomed(node, gate)


@pytest.fixture
async def second(family: LoadedFamily) -> AsyncIterator[Edge]:
    async with edge(family, node_id="second") as node:
        yield node


def nodes(result: Result) -> list[str]:
    return [step.node_id for step in result.executed]


@pytest.mark.parametrize("sampler", SAMPLERS)
async def test_the_next_edge_goes_on_from_the_checkpoint_to_the_same_picture(
    doomed: Doomed, second: Edge, family: LoadedFamily, family_folder: Path, sampler: SamplerName
) -> None:
    result = await doomed.draw(family_folder, second.address, arm="edge/large", sampler=sampler)
    assert nodes(result) == ["doomed"] * EVERY + ["second"] * (STEPS - EVERY)
    check_executed(result.executed, result.task.plan)
    unbroken = task(plan("edge/large", STEPS, sampler), PROMPT, seed=1)
    np.testing.assert_array_equal(result.picture, drawn_here(family, unbroken))


async def test_a_lost_edge_costs_at_most_one_interval_and_is_told(
    doomed: Doomed, second: Edge, family_folder: Path
) -> None:
    await_result = doomed.draw(family_folder, second.address, arm="edge/large@0.75>device/small")
    result = await await_result
    (lost,) = doomed.lost
    assert lost.address == doomed.node.address
    assert 0 <= LAST_SEEN - lost.resume_step <= EVERY
    assert nodes(result) == ["doomed"] * 3 + ["second"] * 3 + ["device"] * 2
    (note,) = result.notes
    assert note.startswith(f"edge {doomed.node.address} lost at step 3: the connection to ")
    assert second.registry.counts.completed == 1


@pytest.mark.parametrize("sampler", SAMPLERS)
async def test_without_another_edge_the_device_goes_on_from_the_checkpoint(
    doomed: Doomed, family: LoadedFamily, family_folder: Path, sampler: SamplerName
) -> None:
    result = await doomed.draw(family_folder, arm="edge/small", sampler=sampler)
    assert nodes(result) == ["doomed"] * EVERY + ["device"] * (STEPS - EVERY)
    check_executed(result.executed, result.task.plan)
    assert result.task.plan.segment_at(EVERY).location == "device"
    assert result.notes[-1] == f"drawn on the device with small from step {EVERY}"
    unbroken = task(plan("edge/small", STEPS, sampler), PROMPT, seed=1)
    np.testing.assert_array_equal(result.picture, drawn_here(family, unbroken))


async def test_the_other_member_goes_on_as_in_a_relay_at_that_step(
    doomed: Doomed, family: LoadedFamily, family_folder: Path
) -> None:
    result = await doomed.draw(family_folder, arm="edge/large")
    relay = task(plan("edge/large@0.375>device/small", STEPS), PROMPT, seed=1)
    np.testing.assert_array_equal(result.picture, drawn_here(family, relay))


async def test_without_checkpoints_everything_is_drawn_anew(
    doomed: Doomed, family: LoadedFamily, family_folder: Path
) -> None:
    result = await doomed.draw(family_folder, arm="edge/small", checkpoint_every=0)
    assert nodes(result) == ["device"] * STEPS
    whole = task(plan("device/small", STEPS), PROMPT, seed=1)
    np.testing.assert_array_equal(result.picture, drawn_here(family, whole))


async def test_a_device_without_a_member_says_that_the_edge_was_lost(
    doomed: Doomed, family_folder: Path
) -> None:
    with pytest.raises(Unreachable, match=doomed.node.address):
        await doomed.draw(family_folder, arm="edge/large", members="")


async def test_with_no_edge_in_reach_the_device_draws_alone_and_says_so(
    family: LoadedFamily, family_folder: Path
) -> None:
    edges = [closed_port(), closed_port()]
    with device(family_folder, edges=",".join(edges)) as client:
        result = await client.generate(PROMPT, arm="relay@0.5", steps=3, seed=1, fallback=True)
    assert [step.location for step in result.executed] == ["device"] * 3
    for note, address in zip(result.notes, edges, strict=False):
        assert note.startswith(f"edge {address} lost at step 0: no answer from {address}")
    assert result.notes[2:] == ("drawn on the device with small from step 0",)
    whole = task(plan("device/small", 3), PROMPT, seed=1)
    np.testing.assert_array_equal(result.picture, drawn_here(family, whole))


async def test_with_neither_edge_nor_member_there_is_an_error_with_an_exit_code(
    family_folder: Path,
) -> None:
    with device(family_folder, members="") as client:
        with pytest.raises(Unreachable) as caught:
            await client.generate(PROMPT, arm="edge", edge=closed_port(), steps=3)
        assert caught.value.exit_code == 3
        one_line(caught.value)
        with pytest.raises(Incompatible) as refused:
            await client.generate(PROMPT, arm="edge", steps=3)
        assert refused.value.exit_code == 4
        one_line(refused.value)


async def test_an_edge_out_of_reach_is_passed_over(second: Edge, family_folder: Path) -> None:
    with device(family_folder, edges=f"{closed_port()},{second.address}") as client:
        result = await client.generate(PROMPT, arm="edge", steps=3)
    assert nodes(result) == ["second"] * 3
    assert len(result.notes) == 1


async def test_a_full_edge_and_one_that_drains_are_passed_over(
    family: LoadedFamily, second: Edge, family_folder: Path
) -> None:
    gate = Gate()
    async with (
        edge(family, gate, max_active=1, max_queue=0) as full,
        edge(family) as leaving,
    ):
        leaving.registry.draining = True
        with device(family_folder) as client:
            held = asyncio.ensure_future(
                client.generate(PROMPT, arm="edge", edge=full.address, steps=2)
            )
            await asyncio.to_thread(gate.wait_for_call, 1)
            edges = ",".join([full.address, leaving.address, second.address])
            result = await client.generate(PROMPT, arm="edge", edge=edges, steps=3)
            gate.lift()
            assert nodes(await held) == ["edge-test"] * 2
    assert nodes(result) == ["second"] * 3
    assert "places of this edge are taken" in result.notes[0]
    assert "shutting down" in result.notes[1]


async def test_a_slow_edge_is_left_and_stops_by_itself(
    family: LoadedFamily, family_folder: Path
) -> None:
    gate = Gate()
    async with edge(family, gate) as slow:
        with device(family_folder, edge_timeout=0.3) as client:
            result = await client.generate(PROMPT, arm="edge", edge=slow.address, steps=3)
        gate.lift()
        await until(lambda: not slow.registry.places)
        assert slow.registry.counts.expired == 1
        assert gate.arrived == 1
    assert nodes(result) == ["device"] * 3
    assert slow.address in result.notes[0]


async def test_an_edge_with_another_noise_schedule_is_passed_over(
    second: Edge, family_folder: Path, tmp_path: Path
) -> None:
    other = copy_family(family_folder, tmp_path / "other")
    scheduler = other / "shared/scheduler/scheduler_config.json"
    edit_json(scheduler, lambda config: config.update(beta_end=0.5 * config["beta_end"]))
    async with edge(load_family(str(other))) as stranger:
        with device(family_folder, edges=f"{stranger.address},{second.address}") as client:
            result = await client.generate(PROMPT, arm="relay@0.5", steps=4)
    assert nodes(result) == ["second"] * 2 + ["device"] * 2
    assert "noise level" in result.notes[0]


async def test_an_edge_without_the_member_is_passed_over(second: Edge, family_folder: Path) -> None:
    async with edge(load_family(str(family_folder), ["small"])) as lesser:
        with device(family_folder, edges=f"{lesser.address},{second.address}") as client:
            result = await client.generate(PROMPT, arm="edge/large", steps=3)
    assert nodes(result) == ["second"] * 3
