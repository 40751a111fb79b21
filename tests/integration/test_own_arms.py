"""A family's own arms: drawn for who names none, over its grid, each member within its range."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from baton.common.errors import Incompatible, InvalidRequest
from baton.common.families.loaded import LoadedFamily, load_family
from baton.common.plan import Guidance
from baton.common.request import Preference
from baton.device_client import AsyncClient, Result
from baton.device_client.settings import DeviceSettings
from tests.support.engines import Gate
from tests.support.finished import BALANCED, QUALITY, RATIOS, SPEED, finish
from tests.support.nodes import Edge, closed_port, coordinator, edge, until
from tests.support.relayed import PROMPT, Doomed, by_hand, check_kept

OWN: dict[Preference, str] = {"balanced": BALANCED, "quality": QUALITY, "speed": SPEED}


@pytest.fixture(scope="module")
def folder(family_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(family_folder, tmp_path_factory.mktemp("finished") / "family")


@pytest.fixture(scope="module")
def finished(folder: Path) -> LoadedFamily:
    return load_family(str(folder))


@pytest.fixture
async def node(finished: LoadedFamily) -> AsyncIterator[Edge]:
    async with edge(finished) as node:
        yield node


def device(folder: Path, **fields: object) -> AsyncClient:
    """With the members that the family has for devices."""
    return AsyncClient(DeviceSettings(family=str(folder), codec="fp32", **fields))


async def test_who_names_no_arm_gets_the_familys_own_for_the_preference(
    node: Edge, finished: LoadedFamily, folder: Path, tmp_path: Path
) -> None:
    async with device(folder, edges=node.address) as client:
        for preference, arm in OWN.items():
            result = await client.generate(PROMPT, preference=preference)
            assert (result.arm, result.notes) == (arm, ())
            assert [grid.name for grid in result.task.plan.grids] == ["seven"]
            np.testing.assert_array_equal(result.picture, by_hand(finished, result.task))
            check_kept(finished, result, tmp_path)


@pytest.mark.parametrize("preference", OWN)
async def test_a_fresh_coordinator_decides_for_the_familys_own_arm(
    finished: LoadedFamily, folder: Path, preference: Preference
) -> None:
    async with (
        coordinator() as brain,
        edge(finished, coordinator=brain.address, tickets="required"),
        device(folder, coordinator=brain.address) as client,
    ):
        await until(lambda: any(node.state == "alive" for node in brain.fleet.nodes()))
        own = await client.generate(PROMPT, preference=preference)
        assert (own.arm, own.arm_executed, own.notes) == (OWN[preference], own.arm, ())
        assert not own.decision_id.startswith("static-")
        general = await client.generate(PROMPT, steps=6, preference=preference)
        assert general.task.plan.steps == 6
        assert [grid.name for grid in general.task.plan.grids] == [""]
        assert {str(stats.arm) for stats in brain.decider.arms()} == {own.arm, general.arm}


@pytest.mark.parametrize(
    ("short", "arm"), [("device", SPEED), ("edge", QUALITY), ("relay", BALANCED)]
)
async def test_a_short_name_is_the_familys_own_arm_unless_steps_or_sampler_are_asked_for(
    node: Edge, folder: Path, short: str, arm: str
) -> None:
    async with device(folder, edges=node.address) as client:
        assert (await client.generate(PROMPT, arm=short)).arm == arm
        for asked in ({"steps": 4}, {"steps": 4, "sampler": "euler"}):
            result = await client.generate(PROMPT, arm=short, **asked)
            assert result.arm != arm
            assert result.task.plan.grids[0].name == ""


async def test_a_named_grid_runs_in_full_whatever_acceleration_is_asked_for(
    node: Edge, folder: Path
) -> None:
    async with device(folder, edges=node.address) as client:
        plain = await client.generate(PROMPT, arm=SPEED)
        asked = await client.generate(PROMPT, arm=SPEED, accel="propagate")
    np.testing.assert_array_equal(plain.picture, asked.picture)
    assert [note for note in asked.notes if "in full" in note and "seven" in note]


async def test_a_finisher_takes_one_branch(node: Edge, folder: Path) -> None:
    async with device(folder, edges=node.address) as client:
        result = await client.generate(PROMPT, arm=BALANCED)
    assert [step.branches for step in result.executed] == ["both"] * 3 + ["positive"] * 4
    assert result.task.plan.segments[-1].guidance == Guidance(3.0, "none")


@pytest.mark.parametrize(
    "arm", ["device/finisher", "edge/large*2>device/finisher*5", "edge/finisher*7"]
)
async def test_a_member_is_not_handed_a_level_that_it_does_not_know(
    node: Edge, folder: Path, arm: str
) -> None:
    async with device(folder, edges=node.address) as client:
        with pytest.raises(InvalidRequest, match=r"finisher .* levels from 0 to 1\.6; step") as one:
            await client.generate(PROMPT, arm=arm)
        assert "\n" not in str(one.value)
    assert node.registry.counts.completed == 0


async def test_an_edge_refuses_such_a_level_to_a_device_that_knows_no_levels(
    node: Edge, folder: Path
) -> None:
    async with device(folder, edges=node.address, members="") as client:
        with pytest.raises(Incompatible, match=r"finisher .* levels from 0 to 1\.6; step 0"):
            await client.generate(PROMPT, arm="edge/finisher*7")


async def lost(finished: LoadedFamily, folder: Path, arm: str, members: str | None) -> Result:
    """Of an edge that is gone with its third step, of which the client holds the second."""
    gate = Gate()
    async with edge(finished, gate, node_id="doomed") as one:
        doomed = Doomed(one, gate, 3, {"arm": arm})
        async with device(folder, checkpoint_every=2, members=members) as client:
            return await doomed.draw(client)


async def test_who_stands_in_for_a_lost_edge_keeps_within_its_range(
    finished: LoadedFamily, folder: Path
) -> None:
    relay = await lost(finished, folder, "edge/large*4>device/finisher^2*3", None)
    assert relay.arm_executed == (
        "edge/large^3*2>device/small^3*1>device/finisher^3*1>device/finisher^2*3"
    )
    assert any("drawn on the device with small and finisher from step 2" in n for n in relay.notes)
    assert [step.branches for step in relay.executed] == ["both"] * 3 + ["positive"] * 4
    np.testing.assert_array_equal(relay.picture, by_hand(finished, relay.task))
    alone = await lost(finished, folder, "edge/large*7", None)
    assert alone.arm_executed == "edge/large*2>device/small*1>device/finisher*4"
    assert RATIOS[2] < 1.6 < RATIOS[1]


async def test_a_device_whose_members_know_too_little_says_so(
    finished: LoadedFamily, folder: Path
) -> None:
    async with device(folder, members="finisher", edges=closed_port()) as client:
        with pytest.raises(Incompatible, match=r"holds no member for noise level 65\.9"):
            await client.generate(PROMPT, arm="edge/large*7", fallback=True)


async def test_guidance_of_a_stretch_is_its_own(
    node: Edge, finished: LoadedFamily, folder: Path, tmp_path: Path
) -> None:
    arm = "edge/large*2>edge/large^1*2>device/small^1.5*3"
    async with device(folder, edges=node.address) as client:
        result = await client.generate(PROMPT, arm=arm)
    assert result.arm_executed == arm
    assert [segment.guidance.scale for segment in result.task.plan.segments] == [3.0, 1.0, 1.5]
    assert [s.branches for s in result.executed] == ["both"] * 2 + ["positive"] * 2 + ["both"] * 3
    np.testing.assert_array_equal(result.picture, by_hand(finished, result.task))
    check_kept(finished, result, tmp_path)
    gone = await lost(finished, folder, arm, None)
    assert gone.arm_executed == (
        "edge/large^3*2>device/small^1*1>device/finisher^1*1>device/small^1.5*3"
    )
