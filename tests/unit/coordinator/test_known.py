"""Arms are kept, and learned, of nothing but what edges and built-in families name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
import pytest

from baton.common.arm import Arm
from baton.common.errors import UnknownName
from baton.common.explanation import DecisionRecord
from baton.common.node import Registration
from baton.common.query import DecideQuery
from baton.common.request import Preference
from baton.coordinator.bandit.arms import RELAY_FRACTIONS
from baton.coordinator.bandit.context import DIMENSION, FEATURES
from baton.coordinator.bandit.linucb import MAX_ARMS, LinUCB
from baton.coordinator.bandit.prior import static_prior
from baton.coordinator.bandit.reward import RewardModel
from baton.coordinator.decider import Clocks, Decider, Policy
from baton.coordinator.known import Family, built_in_families
from baton.coordinator.learner import Restored
from baton.coordinator.store.base import NewDecision, Resolution
from tests.unit.coordinator.test_decider import OK, SETTINGS, SMALL, World, query


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    for thread in made.threads:
        await thread.close()


def learned(world: World) -> set[tuple[str, str]]:
    return {(stats.family, str(stats.arm)) for stats in world.decider.arms()}


async def learn(world: World, request_id: str, **fields: object) -> str:
    """Ask and report; the arm."""
    answer = await world.decider.decide(query(request_id, **fields))  # type: ignore[arg-type]
    assert await world.decider.report(answer.decision_id, OK)
    return str(answer.arm)


def stored(number: int, family: str) -> DecisionRecord:
    return DecisionRecord(
        decision_id=f"d{number}",
        request_id=f"r{number}",
        created_unix=0.0,
        family=family,
        preference="balanced",
        arm=SMALL,
        propensity=1.0,
        explored=False,
        context=(0.5,) * DIMENSION,
        features=FEATURES,
    )


async def test_invented_families_leave_no_trace_and_lock_nobody_out(world: World) -> None:
    for number in range(MAX_ARMS + 1):
        invented = replace(query(f"r{number}"), family=f"invented-{number}")
        answer = await world.decider.decide(invented)
        assert answer.arm == SMALL
        assert answer.reason.endswith("not learned from: no edge names its members")
        assert not await world.decider.report(answer.decision_id, OK)
    assert (learned(world), world.store.recent(1)) == (set(), [])
    assert await world.decider.expire() == 0
    assert await learn(world, "honest") == "device/small"
    assert learned(world) == {("scenes", "device/small")}


async def test_invented_members_are_no_arms(world: World) -> None:
    world.join()
    for number in range(200):
        members = (f"invented-{number}", f"other-{number}", "small")
        answer = await world.decider.decide(query(f"r{number}", "speed", members=members))
        record = await world.decider.find(answer.decision_id)
        assert not any("-" in str(score.arm) for score in record.scores)
        for requested_arm in (
            Arm.relay("large", members[0], 0.4),
            Arm.device(members[0]),
        ):
            asked = query("requested_arm", members=members, requested_arm=requested_arm)
            answer = await world.decider.decide(asked)
            assert answer.arm == requested_arm
            assert await world.decider.decide(asked) == answer
            assert not await world.decider.report(answer.decision_id, OK)
            with pytest.raises(UnknownName, match="nothing is kept"):
                await world.decider.find(answer.decision_id)
    assert len(world.store.recent(1000)) == 200
    relays = {f"edge/large@{fraction}>device/small" for fraction in RELAY_FRACTIONS}
    assert {arm for _, arm in learned(world)} <= {"device/small", "edge/large", *relays}


async def test_a_cut_of_the_users_own_is_kept_to_and_not_learned(world: World) -> None:
    world.join()
    for number in range(1, 100):
        requested_arm = Arm.relay("large", "small", number / 101)
        assert await learn(world, f"r{number}", requested_arm=requested_arm) == str(requested_arm)
    pending = await world.decider.decide(query("out", requested_arm=requested_arm))
    assert learned(world) == set()
    told = await world.decider.find("r1")
    assert (told.state, told.reward) == ("rewarded", pytest.approx(0.8 * 0.9 + 0.2 * 5 / 6))
    world.boot(SETTINGS)
    assert await world.decider.restore() == Restored(0)
    assert await world.decider.report(pending.decision_id, OK)
    assert learned(world) == set()


async def test_a_database_full_of_foreign_arms_leaves_room_for_others(world: World) -> None:
    records = [stored(0, "scenes")]
    records += [stored(number, f"invented-{number}") for number in range(1, MAX_ARMS + 100)]
    for record in records:
        ended = Resolution(record.decision_id, "rewarded", 0.5, 0.0)
        world.store.write([NewDecision(record), ended])
    world.boot(SETTINGS)
    await world.decider.restore()
    world.join()
    assert await learn(world, "honest") != "device/small"
    rewards = {
        str(stats.arm): stats.rewards for stats in world.decider.arms() if stats.family == "scenes"
    }
    assert rewards.pop("device/small") == 1
    assert list(rewards.values()) == [1]


async def test_where_every_arms_reward_is_out_others_are_answered_all_the_same(
    world: World,
) -> None:
    for number in range(MAX_ARMS):
        world.store.write([NewDecision(stored(number, f"invented-{number}"))])
    world.boot(SETTINGS)
    await world.decider.restore()
    assert await learn(world, "honest") == "device/small"
    assert ("scenes", "device/small") not in learned(world)
    world.clock.now += SETTINGS.decision_expiry_seconds + 1
    assert await world.decider.expire() == MAX_ARMS
    assert await learn(world, "later") == "device/small"
    assert learned(world) == {("scenes", "device/small")}


async def test_decisions_that_nobody_reports_keep_nobody_out(world: World) -> None:
    weights: dict[Preference, float] = {"quality": 0.8, "balanced": 0.5, "speed": 0.2}
    policy = Policy(
        RewardModel(weights, 5.0),
        0.0,
        60.0,
        np.random.default_rng(0),
        {"scenes": Family(("small",))},
        3,
    )
    bandit, store = LinUCB(DIMENSION, 0.1, 1.0, static_prior(weights)), world.threads[0]
    decider = Decider(bandit, policy, world.fleet, store, Clocks(world.clock, world.clock))
    answers = [await decider.decide(query(f"r{number}")) for number in range(5)]
    answers += await asyncio.gather(*(decider.decide(query(f"s{number}")) for number in range(3)))
    assert [await decider.report(answer.decision_id, OK) for answer in answers[:5]] == [False] * 5
    assert await decider.report(answers[-1].decision_id, OK)
    (stats,) = decider.arms()
    assert stats.rewards == 1
    assert (await decider.find("r0")).state == "withdrawn"
    assert (await decider.find("r0")).reward is None


async def test_members_that_no_edge_has_loaded_are_known_if_an_edge_names_them(
    world: World,
) -> None:
    about = Registration("e1", "h:1", "mine", ("base",), "f", family_members=("base", "tiny"))
    world.fleet.register(about)
    answer = await world.decider.decide(replace(query(members=("tiny",)), family="mine"))
    record = await world.decider.find(answer.decision_id)
    arms = {str(score.arm) for score in record.scores if score.feasible}
    assert arms >= {"device/tiny", "edge/base", "edge/base@0.4>device/tiny"}
    world.fleet.deregister("e1")
    alone = await world.decider.decide(replace(query("r2", members=("tiny",)), family="mine"))
    assert not await world.decider.report(alone.decision_id, OK)
    assert await world.decider.report(answer.decision_id, OK)
    assert learned(world) == {("mine", str(answer.arm))}


def test_the_built_in_family_is_known() -> None:
    assert set(built_in_families()["scenes"].members) >= {"large", "medium", "small"}


OWN: dict[Preference, Arm] = {
    "balanced": Arm.parse("edge/base*3>device/tiny*4"),
    "quality": Arm.parse("edge/base*5"),
}


def open_query(request_id: str, **fields: object) -> DecideQuery:
    """Of a caller who leaves the steps to the arm."""
    asked = {"members": ("tiny",), "any_steps": True, "preference": "balanced"} | fields
    return replace(query(request_id), family="mine", **asked)  # type: ignore[arg-type]


async def test_a_familys_own_arms_are_chosen_where_the_steps_are_open_and_learned_for_good(
    world: World,
) -> None:
    about = Registration("e1", "h:1", "mine", ("base",), "f", family_members=("tiny",), arms=OWN)
    world.fleet.register(about)
    answer = await world.decider.decide(open_query("r1"))
    record = await world.decider.find(answer.decision_id)
    assert (answer.arm, record.own_arm) == (OWN["balanced"], True)
    assert {score.arm for score in record.scores} == set(OWN.values())
    assert await world.decider.report(answer.decision_id, OK)
    told = await world.decider.decide(open_query("r2", preference="quality"))
    assert told.arm == OWN["quality"]
    fixed = await world.decider.decide(open_query("r3", any_steps=False))
    assert fixed.arm.steps is None
    before = learned(world)
    assert ("mine", str(OWN["balanced"])) in before
    world.boot(SETTINGS)
    await world.decider.restore()
    assert learned(world) == before
    assert sum(stats.rewards for stats in world.decider.arms()) == 1


async def test_own_arms_that_cannot_run_here_leave_the_choice_to_the_general_ones(
    world: World,
) -> None:
    arms: dict[Preference, Arm] = {"balanced": OWN["balanced"]}
    world.fleet.register(
        Registration("e1", "h:1", "mine", ("base",), "f", family_members=("tiny", "x"), arms=arms)
    )
    answer = await world.decider.decide(open_query("r1", members=("x",)))
    record = await world.decider.find(answer.decision_id)
    reasons = {score.arm: score.reason for score in record.scores}
    assert answer.arm.steps is None
    assert reasons[OWN["balanced"]] == "the device does not hold tiny"
    world.fleet.deregister("e1")
    gone = await world.decider.decide(open_query("r2", members=("tiny",)))
    assert gone.arm == Arm.device("tiny")
