"""Arms of any number of stretches, over real edges: drawn, saved, read, replayed, explained."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
import pytest

from baton.common.errors import Incompatible, InvalidRequest, Unreachable
from baton.common.families.loaded import LoadedFamily
from baton.common.limits import SAMPLERS, SamplerName
from baton.coordinator.daemon import Node
from baton.device_client import Result
from baton.device_client.cli.explaining import explain
from baton.device_client.events import Finished, HandedOver, Stepped
from baton.device_client.journal import JOURNAL_FILE, LAST, Entry, Journal
from baton.device_client.settings import DeviceSettings
from tests.support.engines import Counter, Gate
from tests.support.nodes import (
    Edge,
    check_executed,
    closed_port,
    coordinator,
    device,
    edge,
    one_line,
    settled,
    until,
)
from tests.support.relayed import PROMPT, Doomed, Meant, by_hand, check_kept, steps_of
from tests.support.tasks import task

CODECS = ("fp32", "fp16", "int8")

ARMS: dict[str, Meant] = {
    "edge/large*5": Meant(None, (("edge", "large", 5, None),)),
    "edge/large*3@s2.2>device/small*4": Meant(
        None, (("edge", "large", 3, 2.2), ("device", "small", 7, None))
    ),
    "device/small*1>edge/large*2>device/small*4": Meant(
        None,
        (("device", "small", 1, None), ("edge", "large", 3, None), ("device", "small", 7, None)),
    ),
    "device/small*2>edge/large*3": Meant(
        None, (("device", "small", 2, None), ("edge", "large", 5, None))
    ),
    "edge/large@0.3>device/small@0.7>edge/large": Meant(
        10,
        (("edge", "large", 3, None), ("device", "small", 7, None), ("edge", "large", 10, None)),
    ),
    # the fifth of these eight steps ends at 1.31, the fourth at 2.21
    "edge/large@s1.5>device/small": Meant(
        8, (("edge", "large", 5, None), ("device", "small", 8, None))
    ),
    # two members and two grids within one edge's part
    "edge/large*2@s4.0>edge/small*2>device/small*3": Meant(
        None, (("edge", "large", 2, 4.0), ("edge", "small", 4, None), ("device", "small", 7, None))
    ),
    # and within the device's own
    "device/large*2@s1.5>device/small*3": Meant(
        None, (("device", "large", 2, 1.5), ("device", "small", 5, None))
    ),
}


@pytest.fixture
async def node(family: LoadedFamily) -> AsyncIterator[Edge]:
    async with edge(family) as node:
        yield node


@pytest.mark.parametrize("codec", CODECS)
async def test_arms_run_as_they_say_and_their_pictures_replay(
    node: Edge, family: LoadedFamily, family_folder: Path, tmp_path: Path, codec: str
) -> None:
    with device(family_folder, codec=codec, checkpoint_every=1, edges=node.address) as client:
        for arm, meant in ARMS.items():
            result = await client.generate(PROMPT, arm=arm, seed=5, **meant.options)
            assert (result.arm, result.arm_executed, result.notes) == (arm, arm, ())
            assert result.planned == result.task.plan == meant.plan()
            check_executed(result.executed, meant.plan())
            places = [place for place, _ in steps_of(meant.plan())]
            moves = [step for step in range(1, len(places)) if places[step] != places[step - 1]]
            assert result.provenance.transfers == tuple(moves)
            for place in ("edge", "device"):
                assert result.steps_at(place) == places.count(place)
            check_kept(family, result, tmp_path)


@pytest.mark.parametrize("sampler", SAMPLERS)
async def test_an_arm_draws_what_its_steps_by_hand_draw_bit_for_bit(
    node: Edge, family: LoadedFamily, family_folder: Path, sampler: SamplerName
) -> None:
    with device(family_folder, edges=node.address) as client:
        for arm, meant in ARMS.items():
            asked = {"arm": arm, "sampler": sampler, "seed": 6, **meant.options}
            result = await client.generate(PROMPT, negative_prompt="blue", **asked)
            expected = task(meant.plan(sampler), PROMPT, "blue", seed=6)
            np.testing.assert_array_equal(result.picture, by_hand(family, expected))
            assert result.task == expected


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_grid_of_its_own_begins_at_the_level_of_the_cut(
    family: LoadedFamily, sampler: SamplerName
) -> None:
    whole = family.ratios(sampler, 7)
    course = family.course(ARMS["edge/large*3@s2.2>device/small*4"].plan(sampler))
    levels = [level.b / level.a for level in course.levels]
    assert levels[0] == pytest.approx(whole[0])
    assert levels[3] == pytest.approx(2.2)
    assert levels[-1] == 0
    assert levels == sorted(levels, reverse=True)
    assert len(set(levels)) == 8
    assert (course.steps, {one.sampler for one in course.schedules}) == (7, {sampler})


@pytest.mark.parametrize("codec", CODECS)
async def test_the_older_spelling_of_a_relay_draws_the_identical_picture(
    node: Edge, family_folder: Path, codec: str
) -> None:
    with device(family_folder, codec=codec) as client:
        drawn = [
            await client.generate(PROMPT, arm=arm, edge=node.address, steps=7, seed=2)
            for arm in ("relay:large>small@0.35", "edge/large@0.35>device/small")
        ]
        alone = await client.generate(PROMPT, arm="device:small", steps=7, seed=2)
    np.testing.assert_array_equal(drawn[0].picture, drawn[1].picture)
    assert [result.arm for result in drawn] == ["edge/large@0.35>device/small"] * 2
    assert drawn[0].task == drawn[1].task
    assert [result.steps_at("edge") for result in drawn] == [2, 2]
    assert alone.arm == "device/small"


async def test_each_change_of_place_is_told_as_it_happens(node: Edge, family_folder: Path) -> None:
    arm, where = "edge/large@0.3>device/small@0.7>edge/large", []
    with device(family_folder) as client:
        async for event in client.stream(PROMPT, arm=arm, edge=node.address, steps=10):
            if isinstance(event, Stepped):
                where.append((event.location, event.step))
            elif isinstance(event, HandedOver):
                where.append(("handed over", event.step))
    places = [place for place, _ in groupby(where, itemgetter(0))]
    assert places == ["edge", "handed over", "device", "edge"]
    assert [step for place, step in where if place == "device"] == [4, 5, 6, 7]
    assert where[-1] == ("edge", 10)


STEPS, EVERY = 20, 2
#: By where the edge is lost: the step that was seen last, and the one that is gone on from.
MOMENTS = {"first": (3, 2), "last": (17, 16)}
SHARES = "edge/large@0.3>device/small@0.7>edge/large"
COUNTED = "edge/large*6@s2.2>device/small*8>edge/large*6"
#: What is told to have run when the device goes on from there.
ALONE = {
    SHARES: {
        "first": "edge/large@0.1>device/small",
        "last": "edge/large@0.3>device/small@0.7>edge/large@0.8>device/small",
    },
    COUNTED: {
        "first": "edge/large*2>device/small*4@s2.2>device/small*14",
        "last": "edge/large*6@s2.2>device/small*8>edge/large*2>device/small*4",
    },
}


@pytest.mark.parametrize(
    ("arm", "at", "helped", "codec"),
    [
        (SHARES, "first", True, "int8"),
        (SHARES, "last", True, "fp32"),
        (SHARES, "first", False, "fp16"),
        (SHARES, "last", False, "int8"),
        (COUNTED, "first", True, "fp32"),
        (COUNTED, "last", True, "fp16"),
        (COUNTED, "first", False, "fp32"),
        (COUNTED, "last", False, "fp16"),
    ],
)
async def test_an_arm_goes_on_where_an_edge_is_lost(
    family: LoadedFamily,
    family_folder: Path,
    tmp_path: Path,
    arm: str,
    at: str,
    helped: bool,
    codec: str,
) -> None:
    gate, (seen_last, kept) = Gate(), MOMENTS[at]
    async with edge(family, gate, node_id="doomed") as one, edge(family, node_id="second") as two:
        doomed = Doomed(
            one, gate, seen_last, {"arm": arm} | ({"steps": STEPS} if arm == SHARES else {})
        )
        with device(family_folder, codec=codec, checkpoint_every=EVERY) as client:
            result = await doomed.draw(client, *([two.address] if helped else []))
    nodes = [step.node_id for step in result.executed]
    stands_in = "second" if helped else "device"
    if at == "last":
        assert nodes == ["doomed"] * 6 + ["device"] * 8 + ["doomed"] * 2 + [stands_in] * 4
        assert result.provenance.transfers == (6, 14, 16)
    elif helped:
        assert nodes == ["doomed"] * 2 + ["second"] * 4 + ["device"] * 8 + ["second"] * 6
        assert result.provenance.transfers == (2, 6, 14)
    else:
        assert nodes == ["doomed"] * 2 + ["device"] * 18
        assert result.provenance.transfers == (2,)
    assert result.arm == arm
    assert result.arm_executed == (arm if helped else ALONE[arm][at])
    assert any(f"lost at step {kept}: " in note for note in result.notes)
    check_executed(result.executed, result.task.plan)
    check_kept(family, result, tmp_path)
    if codec == "fp32":
        np.testing.assert_array_equal(result.picture, by_hand(family, result.task))


@pytest.mark.parametrize("codec", CODECS)
async def test_a_device_that_went_first_goes_on_alone_where_no_edge_is_reached(
    family: LoadedFamily, family_folder: Path, tmp_path: Path, codec: str
) -> None:
    arm = "device/small*1>edge/large*2>device/small*4"
    with device(family_folder, codec=codec, edges=closed_port()) as client:
        with pytest.raises(Unreachable, match="--fallback"):
            await client.generate(PROMPT, arm=arm)
        result = await client.generate(PROMPT, arm=arm, fallback=True)
    assert [step.node_id for step in result.executed] == ["device"] * 7
    assert result.arm_executed == "device/small*7"
    check_kept(family, result, tmp_path)
    if codec == "fp32":
        np.testing.assert_array_equal(result.picture, by_hand(family, result.task))


async def test_an_edge_that_cannot_take_the_last_stretch_leaves_it_to_the_next(
    family: LoadedFamily, family_folder: Path, tmp_path: Path
) -> None:
    """It draws its first stretch, and is gone when the device hands over to it."""
    counter, arm = Counter(), "edge/large*2>device/small*2>edge/large*2"
    async with edge(family, counter, node_id="one") as one, edge(family, node_id="two") as two:
        with device(family_folder, codec="int8", edges=f"{one.address},{two.address}") as client:
            async for event in client.stream(PROMPT, arm=arm):
                if isinstance(event, Stepped) and event.location == "device":
                    one.cable.cut()
                if isinstance(event, Finished):
                    result = event.result
    assert counter.calls == 2
    nodes = [step.node_id for step in result.executed]
    assert nodes == ["one"] * 2 + ["device"] * 2 + ["two"] * 2
    assert result.arm_executed == arm
    check_kept(family, result, tmp_path)


async def test_an_arm_and_its_caller_do_not_both_say_the_steps(
    node: Edge, family_folder: Path
) -> None:
    with device(family_folder, edges=node.address) as client:
        for arm in ("edge/large*5", "edge/large*3@s2.2>device/small*4", "device/small*5"):
            with pytest.raises(InvalidRequest, match="--steps"):
                await client.generate(PROMPT, arm=arm, steps=5)
    assert node.registry.counts.completed == 0


@pytest.mark.parametrize("arm", ["edge/large@s99>device/small", "device/small@s99.0>edge/large"])
async def test_a_stretch_that_would_end_above_the_familys_levels_is_refused(
    node: Edge, family: LoadedFamily, family_folder: Path, arm: str
) -> None:
    first = family.ratios("ddim", 8)[0]
    with (
        device(family_folder, edges=node.address) as client,
        pytest.raises(Incompatible, match=f"@s99.0 .* fall from {first:.3g} to ") as caught,
    ):
        await client.generate(PROMPT, arm=arm, steps=8)
    one_line(caught.value)
    assert node.registry.counts.completed == 0


async def test_arms_are_decided_reported_and_explained(
    family: LoadedFamily, family_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "device"
    async with (
        coordinator() as brain,
        edge(family, node_id="e1", coordinator=brain.address, tickets="required") as node,
    ):
        await until(lambda: [n.state for n in brain.fleet.nodes()] == ["alive"])
        with device(family_folder, coordinator=brain.address, state_folder=state) as client:
            for arm, meant in ARMS.items():
                result = await client.generate(PROMPT, arm=arm, **meant.options)
                assert result.notes == ()
                await check_reported(brain, result)
                await asyncio.to_thread(explain, DeviceSettings(state_folder=state), LAST, False)
                story = capsys.readouterr().out
                assert f"arm {arm}, decided by the coordinator at {brain.address}" in story
                check_told(Journal(state / JOURNAL_FILE, 1).find(LAST), story, arm)
    assert node.registry.counts.failed == 0


async def check_reported(brain: Node, result: Result) -> None:
    await settled(brain)
    record = await brain.decider.find(result.decision_id)
    assert (str(record.arm), record.state) == (result.arm, "rewarded")
    assert record.outcome is not None
    assert (record.outcome.ok, str(record.outcome.arm)) == (True, result.arm)


def check_told(entry: Entry, story: str, arm: str) -> None:
    """What was planned and what ran, stretch by stretch, and no word of the prompt."""
    ran = ARMS[arm].ran
    stops = [(place, member, stop) for place, member, stop, _ in ran]
    for told in (entry.planned, entry.executed):
        assert [(part.location, part.member, part.stop) for part in told] == stops
    assert entry.decision is not None
    assert (entry.decision.arm, entry.steps) == (arm, ran[-1][2])
    for start, (place, member, stop) in zip([0, *(s for *_, s in stops)], stops, strict=False):
        where = "this device" if place == "device" else "e1"
        assert f"steps {start} to {stop}: {member} on {where}" in story
    assert PROMPT not in story
