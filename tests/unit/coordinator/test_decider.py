from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest

from baton.common.arm import Arm
from baton.common.errors import ExecutionFailed, Incompatible, Overloaded, UnknownName, Unreachable
from baton.common.node import NodeLoad, Registration
from baton.common.outcome import Outcome
from baton.common.query import DecideQuery
from baton.common.request import Preference
from baton.coordinator.daemon import build_decider
from baton.coordinator.decider import Clocks, Decider
from baton.coordinator.fleet import Fleet
from baton.coordinator.learner import Restored
from baton.coordinator.settings import Settings
from baton.coordinator.store.base import Write
from baton.coordinator.store.memory import MemoryStore
from baton.coordinator.store.thread import StoreThread

SETTINGS = Settings(seed=1, exploration=0.0, decision_expiry_seconds=60.0, lease_seconds=10.0)
SMALL = Arm.device("small")
OK = Outcome(ok=True, total_seconds=1.0, quality=0.9)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class BrokenStore(MemoryStore):
    """Writes fail while ``broken``."""

    broken = False

    def write(self, items: Sequence[Write]) -> list[bool]:
        if self.broken:
            raise ExecutionFailed("database failed: disk is full")
        return super().write(items)


@dataclass
class World:
    store: BrokenStore = field(default_factory=BrokenStore)
    clock: Clock = field(default_factory=Clock)
    threads: list[StoreThread] = field(default_factory=list)
    fleet: Fleet = field(init=False)
    decider: Decider = field(init=False)

    def __post_init__(self) -> None:
        self.boot(SETTINGS)

    def boot(self, settings: Settings) -> None:
        """As after a crash: everything but the store is new."""
        thread = StoreThread(self.store)
        self.threads.append(thread)
        self.fleet = Fleet(settings.lease_seconds, self.clock)
        self.decider = build_decider(settings, self.fleet, thread, Clocks(self.clock, self.clock))

    def join(
        self, node_id: str = "e1", fingerprint: str = "f", load: NodeLoad | None = None
    ) -> None:
        load = load or NodeLoad(capacity=4)
        self.fleet.register(Registration(node_id, "h:1", "scenes", ("large",), fingerprint, load))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    for thread in made.threads:
        await thread.close()


def query(
    request_id: str = "r1", preference: Preference = "quality", **fields: object
) -> DecideQuery:
    values: dict[str, object] = {"fingerprint": "f", "members": ("small",), "steps": 20} | fields
    return DecideQuery(
        request_id=request_id,
        family="scenes",
        preference=preference,
        **values,  # type: ignore[arg-type]
    )


async def test_a_decision_is_stored_before_it_is_answered(world: World) -> None:
    world.join()
    answer = await world.decider.decide(query())
    stored = world.store.find(answer.decision_id)
    assert stored is not None
    assert (stored.arm, stored.state, stored.propensity) == (answer.arm, "pending", 1.0)
    assert {score.arm for score in stored.scores if score.feasible} >= {SMALL, answer.arm}
    assert [edge.node_id for edge in answer.edges] == ["e1"]


async def test_without_edges_the_device_goes_alone(world: World) -> None:
    answer = await world.decider.decide(query())
    assert (answer.arm, answer.edges) == (SMALL, ())
    assert answer.reason == "the only feasible arm; no edge can take part (no edge is registered)"


async def test_a_lost_edge_gets_no_work(world: World) -> None:
    world.join()
    world.clock.now += 11
    answer = await world.decider.decide(query())
    assert answer.arm == SMALL
    assert "lost: no heartbeat for 11 s" in answer.reason


async def test_no_feasible_arm_says_why(world: World) -> None:
    with pytest.raises(Unreachable, match=r"holds no member.*no edge is registered"):
        await world.decider.decide(query(members=()))
    world.join(load=NodeLoad(active=4, capacity=4))
    with pytest.raises(Overloaded, match="full: 4 active"):
        await world.decider.decide(query(members=()))
    world.join("e2", fingerprint="other")
    with pytest.raises(Incompatible, match="another fingerprint"):
        await world.decider.decide(query(members=()))


async def test_a_retry_gets_the_same_answer_and_another_question_a_new_one(world: World) -> None:
    world.join()
    first, again = await asyncio.gather(
        world.decider.decide(query()), world.decider.decide(query())
    )
    assert first == again == await world.decider.decide(query())
    assert await world.decider.decide(query(preference="speed")) != first
    assert len(world.store.recent(10)) == 2


async def test_a_caller_that_hangs_up_loses_nothing(world: World) -> None:
    call = asyncio.ensure_future(world.decider.decide(query()))
    await asyncio.sleep(0)
    call.cancel()
    answer = await world.decider.decide(query())
    assert [item.decision_id for item in world.store.recent(10)] == [answer.decision_id]


async def test_a_report_is_learned_once(world: World) -> None:
    answer = await world.decider.decide(query())
    assert await world.decider.report(answer.decision_id, OK)
    assert not await world.decider.report(answer.decision_id, OK)
    (stats,) = world.decider.arms()
    assert (stats.arm, stats.pulls, stats.rewards, stats.pending) == (SMALL, 1, 1, 0)
    assert stats.mean_reward == pytest.approx(0.8 * 0.9 + 0.2 * 5 / 6)


async def test_the_same_report_many_times_at_once_is_learned_once(world: World) -> None:
    answer = await world.decider.decide(query())
    reports = (world.decider.report(answer.decision_id, OK) for _ in range(20))
    assert sum(await asyncio.gather(*reports)) == 1
    (stats,) = world.decider.arms()
    assert stats.rewards == 1


async def test_a_report_of_nothing_is_an_error(world: World) -> None:
    await world.decider.decide(query("r1"))
    for unknown in ("nothing", "r1"):
        with pytest.raises(UnknownName):
            await world.decider.report(unknown, OK)


async def test_silence_becomes_the_worst_reward_and_a_late_report_changes_nothing(
    world: World,
) -> None:
    answer = await world.decider.decide(query())
    world.clock.now += 60
    assert await world.decider.expire() == 0
    world.clock.now += 1
    assert await world.decider.expire() == 1
    assert not await world.decider.report(answer.decision_id, OK)
    (stats,) = world.decider.arms()
    assert (stats.rewards, stats.mean_reward, stats.pending) == (1, 0.0, 0)
    assert (await world.decider.find(answer.decision_id)).state == "expired"


async def test_a_report_and_the_expiry_at_once_count_once(world: World) -> None:
    answer = await world.decider.decide(query())
    world.clock.now += 61
    applied, expired = await asyncio.gather(
        world.decider.report(answer.decision_id, OK), world.decider.expire()
    )
    assert int(applied) + expired == 1
    (stats,) = world.decider.arms()
    assert stats.rewards == 1


GAVE_UP = Outcome(ok=False, error="CANCELLED")


async def test_a_withdrawn_request_teaches_nothing_and_ends_once(world: World) -> None:
    world.join()
    await world.decider.report((await world.decider.decide(query("first"))).decision_id, OK)
    before = world.decider.arms()
    scores = (await _scores(world, "before"))[1]
    answer = await world.decider.decide(query("gone"))
    assert await world.decider.report(answer.decision_id, GAVE_UP)
    assert not await world.decider.report(answer.decision_id, GAVE_UP)
    assert not await world.decider.report(answer.decision_id, OK)
    assert world.decider.arms() == before
    assert (await _scores(world, "after"))[1] == pytest.approx(scores)
    assert (await world.decider.find("gone")).state == "withdrawn"
    world.clock.now += 10_000
    assert await world.decider.expire() == 0


async def _scores(world: World, request_id: str) -> tuple[str, list[float]]:
    """Every arm's bound at a question that is withdrawn at once."""
    answer = await world.decider.decide(query(request_id))
    record = await world.decider.find(answer.decision_id)
    await world.decider.report(answer.decision_id, GAVE_UP)
    return record.arm, [score.bound for score in record.scores if score.feasible]


async def test_a_withdrawn_request_stays_withdrawn_after_a_restart(world: World) -> None:
    answer = await world.decider.decide(query())
    await world.decider.report(answer.decision_id, GAVE_UP)
    world.boot(SETTINGS)
    assert (await world.decider.restore()).rewards == 0
    assert world.decider.arms() == []
    assert not await world.decider.report(answer.decision_id, OK)
    world.clock.now += 10_000
    assert await world.decider.expire() == 0


async def test_a_failure_by_another_name_is_learned(world: World) -> None:
    answer = await world.decider.decide(query())
    assert await world.decider.report(answer.decision_id, Outcome(ok=False, error="ABORTED"))
    (stats,) = world.decider.arms()
    assert (stats.rewards, stats.mean_reward) == (1, 0.0)


async def test_silence_of_a_device_that_never_heard_the_answer_is_not_held_against_the_arm(
    world: World,
) -> None:
    for heard in (False, True):
        call = asyncio.ensure_future(world.decider.decide(query(f"heard-{heard}")))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
        if heard:
            await world.decider.decide(query(f"heard-{heard}"))
    world.clock.now += 61
    assert await world.decider.expire() == 2
    assert (await world.decider.find("heard-False")).state == "withdrawn"
    assert (await world.decider.find("heard-True")).state == "expired"


async def test_a_decision_is_its_owners_alone(world: World) -> None:
    anna, bert = [await world.decider.decide(query(owner=owner)) for owner in ("anna", "bert")]
    assert anna.decision_id != bert.decision_id
    assert (await world.decider.find("r1", "anna")).decision_id == anna.decision_id
    for _ in range(2):  # while its reward is out, and when it is not
        with pytest.raises(UnknownName):
            await world.decider.find(anna.decision_id, "bert")
        with pytest.raises(UnknownName):
            await world.decider.report(anna.decision_id, OK, "bert")
        await world.decider.report(anna.decision_id, OK, "anna")
    assert await world.decider.report(bert.decision_id, OK)


async def test_a_failing_store_answers_an_error_and_leaves_no_trace(world: World) -> None:
    world.store.broken = True
    with pytest.raises(ExecutionFailed):
        await world.decider.decide(query())
    world.store.broken = False
    answer = await world.decider.decide(query())
    world.store.broken = True
    with pytest.raises(ExecutionFailed):
        await world.decider.report(answer.decision_id, OK)
    with pytest.raises(ExecutionFailed):
        await _expire_all(world)
    world.store.broken = False
    assert await world.decider.report(answer.decision_id, OK)
    (stats,) = world.decider.arms()
    assert (stats.pulls, stats.rewards, stats.pending) == (1, 1, 0)


async def _expire_all(world: World) -> None:
    world.clock.now += 1000
    await world.decider.expire()


async def test_a_restart_knows_what_was_learned_and_what_is_out(world: World) -> None:
    world.join()
    for number in range(10):
        answer = await world.decider.decide(query(f"r{number}"))
        await world.decider.report(answer.decision_id, OK)
    pending = await world.decider.decide(query("out"))
    before = world.decider.arms()
    world.clock.now += 10_000
    world.boot(SETTINGS)
    assert await world.decider.restore() == Restored(10)
    assert world.decider.arms() == before
    assert await world.decider.expire() == 0  # its time starts anew
    assert await world.decider.report(pending.decision_id, OK)


async def test_a_restart_chooses_as_if_it_had_never_happened(world: World) -> None:
    world.join()
    for number in range(20):
        answer = await world.decider.decide(query(f"r{number}"))
        await world.decider.report(answer.decision_id, OK)
    expected = await world.decider.decide(query("next"))
    expected_scores = (await world.decider.find(expected.decision_id)).scores
    world.boot(SETTINGS)
    await world.decider.restore()
    world.join()
    again = await world.decider.decide(query("next"))
    scores = (await world.decider.find(again.decision_id)).scores
    for one, other in zip(expected_scores, scores, strict=True):
        assert one.estimate == pytest.approx(other.estimate, abs=1e-12)


async def test_a_burst_is_spread_over_the_edges(world: World) -> None:
    for node_id in ("a", "b"):
        world.join(node_id)
    answers = await asyncio.gather(
        *(world.decider.decide(query(f"r{number}", members=())) for number in range(8))
    )
    first = [answer.edges[0].node_id for answer in answers]
    assert {name: first.count(name) for name in set(first)} == {"a": 4, "b": 4}


async def test_the_same_seed_makes_the_same_choices(world: World) -> None:
    chosen = []
    for _ in range(2):
        world.boot(Settings(seed=7, exploration=0.5))
        world.join()
        answers = [await world.decider.decide(query(f"r{number}")) for number in range(20)]
        chosen.append([answer.arm for answer in answers])
    assert chosen[0] == chosen[1]
    assert len(set(chosen[0])) > 2


async def test_it_learns_what_an_edge_is_worth_here(world: World) -> None:
    """The prior favours the edge for quality; here the edge always fails."""
    world.boot(Settings(seed=1))
    world.join()
    arms = []
    for number in range(150):
        answer = await world.decider.decide(query(f"r{number}"))
        arms.append(answer.arm)
        alone = answer.arm == SMALL
        outcome = Outcome(ok=alone, total_seconds=2.0, quality=0.6 if alone else None)
        await world.decider.report(answer.decision_id, outcome)
    assert arms[0] != SMALL
    assert arms[-50:].count(SMALL) >= 45


async def test_arms_of_two_families_are_learned_apart(world: World) -> None:
    world.fleet.register(Registration("e9", "h:9", "sd15", ("small",), "other"))
    for family in ("scenes", "sd15"):
        answer = await world.decider.decide(
            DecideQuery(family, family, 20, members=("small",), fingerprint="f")
        )
        await world.decider.report(answer.decision_id, OK)
    assert [(stats.family, stats.rewards) for stats in world.decider.arms()] == [
        ("scenes", 1),
        ("sd15", 1),
    ]


async def test_an_arm_of_several_edge_members_goes_to_edges_that_hold_them_all(
    world: World,
) -> None:
    for node_id, members in (("one", ("large",)), ("other", ("medium",))):
        world.fleet.register(Registration(node_id, "h:1", "scenes", members, "f"))
    arm = Arm.parse("edge/large@0.3>device/small@0.7>edge/medium")
    with pytest.raises(Incompatible, match="no edge can run large and medium"):
        await world.decider.decide(query(requested_arm=arm))
    world.fleet.register(Registration("both", "h:1", "scenes", ("large", "medium"), "f"))
    answer = await world.decider.decide(query(requested_arm=arm))
    assert (answer.arm, [edge.node_id for edge in answer.edges]) == (arm, ["both"])
