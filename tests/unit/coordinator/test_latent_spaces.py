"""Arms of two latent spaces are learned apart, and what was learned before spaces had ids stays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from baton.common.arm import Arm
from baton.common.explanation import DecisionRecord
from baton.common.node import Registration
from baton.common.query import DecideQuery
from baton.coordinator.bandit.context import DIMENSION, FEATURES
from baton.coordinator.learner import Restored
from baton.coordinator.store.base import NewDecision, Resolution
from tests.unit.coordinator.test_decider import GAVE_UP, OK, SETTINGS, SMALL, World, query


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    for thread in made.threads:
        await thread.close()


def join(world: World, *spaces: str) -> None:
    for space in spaces:
        about = Registration(f"e-{space}", "h:1", "scenes", ("large",), "f", latent_space=space)
        world.fleet.register(about)


def learned(world: World) -> dict[tuple[str, str], int]:
    """Rewards by arm and latent space."""
    return {(str(item.arm), item.latent_space): item.rewards for item in world.decider.arms()}


def alone(request_id: str, latent_space: str = "", **fields: object) -> DecideQuery:
    return query(request_id, requested_arm=SMALL, latent_space=latent_space, **fields)


async def learn(world: World, asked: DecideQuery) -> DecisionRecord:
    answer = await world.decider.decide(asked)
    assert await world.decider.report(answer.decision_id, OK)
    return answer


async def reboot(world: World) -> Restored:
    world.boot(SETTINGS)
    return await world.decider.restore()


async def test_the_same_arm_of_two_latent_spaces_is_two_arms(world: World) -> None:
    join(world, "one", "two")
    for number, space in enumerate(("one", "two", "two")):
        await learn(world, alone(f"r{number}", space))
    expected = {("device/small", "one"): 1, ("device/small", "two"): 2}
    assert learned(world) == expected
    assert await reboot(world) == Restored(3)
    assert learned(world) == expected


async def test_other_files_of_one_latent_space_teach_one_arm(world: World) -> None:
    join(world, "one")
    for number, files in enumerate(("fp32", "fp16")):
        answer = await learn(world, alone(f"r{number}", "one", fingerprint=files))
        assert answer.latent_space == "one"
    assert learned(world) == {("device/small", "one"): 2}


async def test_what_was_learned_before_spaces_had_ids_is_the_first_ones(world: World) -> None:
    await learn(world, alone("old"))
    out = await world.decider.decide(alone("out"))
    join(world, "one", "two")
    await learn(world, alone("new", "two"))
    await learn(world, alone("newer", "one"))
    assert await world.decider.report(out.decision_id, OK)
    await learn(world, alone("still-unnamed"))
    expected = {("device/small", "one"): 1, ("device/small", "two"): 4}
    assert learned(world) == expected
    assert await reboot(world) == Restored(5)
    assert learned(world) == expected


async def test_it_counts_in_the_first_decision_that_names_a_space_already(world: World) -> None:
    join(world, "one")
    for number in range(20):
        await learn(world, alone(f"r{number}"))
    estimates = []
    for asked in (query("unnamed"), query("named", latent_space="one")):
        record = await world.decider.find((await world.decider.decide(asked)).decision_id)
        estimates.append([score.estimate for score in record.scores if score.feasible])
        await world.decider.report(record.decision_id, GAVE_UP)
    assert estimates[0] == pytest.approx(estimates[1])


async def test_a_space_that_no_edge_names_is_none(world: World) -> None:
    join(world, "one")
    for number in range(100):
        answer = await learn(world, alone(f"r{number}", f"invented-{number}"))
        assert answer.latent_space == ""
    assert learned(world) == {("device/small", ""): 100}


async def test_a_space_is_known_while_its_edges_are_away(world: World) -> None:
    join(world, "one")
    await learn(world, alone("r1", "one"))
    world.fleet.deregister("e-one")
    assert (await learn(world, alone("r2", "one"))).latent_space == "one"
    assert await reboot(world) == Restored(2)
    assert (await learn(world, alone("r3", "one"))).latent_space == "one"
    assert learned(world) == {("device/small", "one"): 3}


async def test_decisions_of_another_context_are_counted_by_its_names(world: World) -> None:
    kept = DecisionRecord(
        "d", "r", 0.0, "scenes", "balanced", SMALL, 1.0, False, (0.5,) * DIMENSION,
        features=FEATURES,
    )  # fmt: skip
    other = (*FEATURES[:-1], "moon_phase")
    records = {
        "ours": kept,
        "another": replace(kept, features=other),
        "shorter": replace(kept, features=("bias", "words"), context=(1.0, 0.5)),
        "unnamed": replace(kept, features=(), context=(1.0, 0.5, 0.5)),
    }
    for name, record in records.items():
        for state in ("ended", "pending"):
            made = replace(record, decision_id=f"{name}-{state}")
            world.store.write([NewDecision(made)])
        world.store.write([Resolution(f"{name}-ended", "rewarded", 0.5, 1.0)])
    restored = await reboot(world)
    assert restored == Restored(1, {other: 2, ("bias", "words"): 2, (): 2})
    assert restored.complaint == (
        "decisions of another context than this version's, which teach nothing:"
        f" 2 of {', '.join(other)}; 2 of bias, words; 2 of entries without names"
    )
    (stats,) = world.decider.arms()
    assert (stats.arm, stats.rewards, stats.pending) == (SMALL, 1, 1)


async def test_where_all_contexts_are_ours_there_is_no_complaint(world: World) -> None:
    await learn(world, alone("r1"))
    assert (await reboot(world)).complaint == ""


async def test_an_arm_with_steps_of_its_own_is_kept_to_and_not_learned(world: World) -> None:
    join(world, "one")
    arm = Arm.parse("edge/large*3>device/small*4")
    assert (await learn(world, query("r1", requested_arm=arm))).arm == arm
    assert learned(world) == {}
