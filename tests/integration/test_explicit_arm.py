"""An arm that the caller named is kept or refused; lost on the way it is finished, and told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest

from baton.common.errors import (
    BatonError,
    Draining,
    ExecutionFailed,
    Incompatible,
    InvalidRequest,
    Overloaded,
    Unreachable,
)
from baton.common.families.loaded import LoadedFamily
from baton.device_client.cli.generating import describe, summary
from baton.device_client.events import Stepped
from baton.device_client.result import Result
from baton.device_client.sdk import AsyncClient
from tests.support.engines import Gate
from tests.support.nodes import (
    Edge,
    closed_port,
    coordinator,
    device,
    drawn_here,
    edge,
    settled,
    until,
)
from tests.support.servers import ActingEdge, raising, serving
from tests.support.tasks import PROMPTS, plan, task

PROMPT = PROMPTS[2]
STEPS, EVERY = 6, 2
REFUSALS: dict[str, tuple[BatonError, int]] = {
    "full": (Overloaded("no place is free"), 4),
    "leaving": (Draining("it shuts down"), 4),
    "of another family": (Incompatible("other weights"), 4),
    "not willing": (InvalidRequest("the plan is for another family"), 4),
    "broken": (ExecutionFailed("the model has crashed"), 4),
    "silent": (Unreachable("nobody is there"), 3),
}


@pytest.fixture
async def node(family: LoadedFamily) -> AsyncIterator[Edge]:
    async with edge(family) as running:
        yield running


@pytest.fixture(scope="module")
def client(family_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AsyncClient]:
    settings = {"checkpoint_every": EVERY, "state_folder": tmp_path_factory.mktemp("state")}
    with device(family_folder, reattach_timeout=0, **settings) as made:
        yield made


async def draw(client: AsyncClient, **options: object) -> Result:
    return await client.generate(PROMPT, **({"steps": STEPS} | options))


async def test_an_arm_whose_edge_is_dead_is_refused(client: AsyncClient) -> None:
    for arm in ("edge", "edge/large", "relay@0.5", "edge/small@0.2>device/large"):
        with pytest.raises(Unreachable, match=r"no answer from .*; --fallback") as caught:
            await draw(client, arm=arm, edge=closed_port())
        assert caught.value.exit_code == 3


async def test_an_arm_whose_edge_refuses_is_refused(client: AsyncClient) -> None:
    for error, code in REFUSALS.values():
        async with serving(ActingEdge(raising(error), told=0)) as address:
            with pytest.raises(BatonError, match=str(error)) as caught:
                await draw(client, arm="edge", edge=f"{closed_port()},{address}")
            assert caught.value.exit_code == code, error
            result = await draw(client, arm="edge", edge=address, fallback=True)
            left_open = await draw(client, edge=address)
        for found, arm in ((result, "edge/large"), (left_open, "edge/large@0.4>device/small")):
            assert (found.arm, found.arm_executed) == (arm, "device/small")
            assert any(str(error) in note for note in found.notes)


async def lost_midway(client: AsyncClient, node: Edge, gate: Gate, **options: object) -> Result:
    """Its edge vanishes after three steps, one checkpoint being there."""
    found = None
    gate.allow(1)
    async for event in client.stream(PROMPT, steps=STEPS, edge=node.address, **options):
        if isinstance(event, Stepped) and event.location == "edge":
            if event.step == EVERY + 1:
                node.cable.cut()
            gate.allow(1)
        found = getattr(event, "result", None)
    assert isinstance(found, Result)
    return found


@pytest.mark.parametrize(
    ("arm", "executed"),
    [
        ("edge/large", f"edge/large@{EVERY / STEPS!r}>device/small"),
        ("edge/large@0.8>device/small", f"edge/large@{EVERY / STEPS!r}>device/small"),
        ("edge/small", f"edge/small@{EVERY / STEPS!r}>device/small"),
    ],
)
async def test_an_arm_lost_midway_is_finished_and_says_what_ran(
    family: LoadedFamily, client: AsyncClient, arm: str, executed: str
) -> None:
    gate = Gate()
    async with edge(family, gate) as node:
        result = await lost_midway(client, node, gate, arm=arm)
    assert (result.arm, result.arm_executed) == (arm, executed)
    assert "drawn on the device with small" in result.notes[-1]
    ran = task(plan(executed, STEPS), PROMPT)
    np.testing.assert_array_equal(result.picture, drawn_here(family, ran))
    told = describe(result, Path("a.png"))
    assert (told["arm"], told["arm_executed"]) == (arm, executed)
    assert json.loads(json.dumps(told, default=str))
    assert f"  {executed} in place of {arm}  " in summary(result, Path("a.png"))


async def test_without_fallback_nothing_is_drawn_in_place_of_an_edge(
    family: LoadedFamily, client: AsyncClient
) -> None:
    for arm in ("edge/large", None):
        gate = Gate()
        async with edge(family, gate) as node:
            with pytest.raises(Unreachable, match=node.address):
                await lost_midway(client, node, gate, arm=arm or "relay@0.8", fallback=False)
    with pytest.raises(Unreachable):
        await draw(client, edge=closed_port(), fallback=False)


async def test_what_ran_as_asked_is_told_as_asked(node: Edge, client: AsyncClient) -> None:
    arms = (
        "device/small",
        "edge/large@0.4>device/small",
        "edge/large@0.01>device/small",
        "edge/large",
    )
    for arm, fallback in zip(arms, (None, True, False, None), strict=True):
        result = await draw(client, arm=arm, edge=node.address, fallback=fallback)
        assert (result.arm, result.arm_executed) == (arm, arm)
        assert f"  {arm}  " in summary(result, Path("a.png"))


async def test_the_coordinators_edges_are_held_to_it_too(
    family: LoadedFamily, family_folder: Path
) -> None:
    async with coordinator() as brain, edge(family, coordinator=brain.address) as node:
        await until(brain.fleet.nodes)
        node.cable.cut()
        with device(family_folder, coordinator=brain.address) as client:
            with pytest.raises(Unreachable):
                await client.generate(PROMPT, arm="edge", steps=2)
            (record,) = await settled(brain)
            assert (record.state, record.reward) == ("rewarded", 0.0)


async def test_with_fallback_the_device_draws_where_no_edge_is_known(
    client: AsyncClient, family_folder: Path
) -> None:
    async with coordinator() as brain:
        with device(family_folder, coordinator=brain.address) as asking:
            for asked in (client, asking):
                for arm in ("edge", "relay@0.5"):
                    result = await draw(asked, arm=arm, fallback=True)
                    assert result.arm_executed == "device/small"
                    assert "drawn on the device with small" in result.notes[-1]
                    for fallback in (None, False):
                        with pytest.raises(Incompatible, match="needs an edge"):
                            await draw(asked, arm=arm, fallback=fallback)


async def test_an_arm_without_a_name_is_refused_whoever_decides(
    client: AsyncClient, family_folder: Path
) -> None:
    async with coordinator() as brain:
        with device(family_folder, coordinator=brain.address) as asking:
            for asked in (client, asking):
                with pytest.raises(InvalidRequest, match="unknown arm"):
                    await draw(asked, arm="")


async def test_a_fallback_that_is_no_truth_is_refused(client: AsyncClient) -> None:
    for fallback in (1.5, "yes", 2, []):
        with pytest.raises(InvalidRequest, match="fallback"):
            await draw(client, arm="device", fallback=fallback)
