"""What a busy edge spends on those whom it refuses, and tells those who wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from baton.common.errors import Overloaded
from baton.common.families.loaded import LoadedFamily
from baton.common.plan import Plan, StepDirective
from baton.common.size import Size
from baton.edge_server.engine.latency import Pace, RemainingWork, rows_of
from baton.edge_server.requests.lifecycle import State
from baton.edge_server.requests.registry import Bounds, Registry
from tests.support.engines import Gate, WatchedFamily, started_engine
from tests.support.families import SIZE
from tests.support.nodes import until
from tests.support.tasks import NAME, plan, plan_in, task, work

PLACES = 80


def between(of: Plan, first: int, stop: int) -> tuple[RemainingWork, ...]:
    return RemainingWork.between(of, (first, stop), Size.of(SIZE), rows_of(of))


def test_the_course_is_the_work_left_after_each_step() -> None:
    of = plan("edge/large@0.5>device/small", 8).closed()
    course = between(of, 1, 4)
    assert course == tuple(between(of, done, 4)[0] for done in (1, 2, 3, 4))
    assert [remaining.steps for remaining in course] == [3, 2, 1, 0]


def test_steps_that_are_decoded_ahead_are_one_call_wherever_their_group_is_entered() -> None:
    key, follower = StepDirective(blocks=7, ahead=2), StepDirective(blocks=1)
    directives = (key, follower, follower, key, follower, follower)
    of = plan_in(NAME, "ddim", 3.0, ("large", "edge", 0, 6, directives)).closed()
    assert [remaining.steps for remaining in between(of, 0, 6)] == [
        2,
        2,
        2,
        1,
        1,
        1,
        0,
    ]
    assert [remaining.rows for remaining in between(of, 0, 6)] == [6, 5, 4, 6, 4, 2, 1]


async def test_a_refusal_does_not_reckon_anew_what_each_place_still_asks(
    family: LoadedFamily,
) -> None:
    """Else those who come again slow down the work that they wait for."""
    gate, long = Gate(), task(plan("edge/small", 200, guidance=1.0))
    with started_engine(WatchedFamily(family, gate)) as engine:
        registry = Registry(engine, Bounds(PLACES, linger=3600.0))
        registry.admit(work("measured", task(plan("edge/small", 1, guidance=1.0))))
        gate.allow(1)
        await until(lambda: engine.forecast().latency and not registry.places)
        for number in range(PLACES):
            registry.admit(work(f"{number}", long))

        def refuse() -> None:
            with pytest.raises(Overloaded) as caught:
                registry.admit(work("late", long))
            told.append(caught.value.retry_after)

        told: list[float] = []
        try:
            refusing = _seconds(refuse)
        finally:
            registry.close(Overloaded("enough"))
            gate.lift()
    assert 1.0 not in told, "what is said without having reckoned"
    assert 4 * refusing < _seconds(
        lambda: [between(long.plan.closed(), 0, 200) for _ in range(PLACES)]
    )


def _seconds(work: Callable[[], object]) -> float:
    """The shortest of a few times, which other processes disturb the least."""
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times)


async def test_prompts_rounds_and_pictures_are_measured_apart(family: LoadedFamily) -> None:
    with started_engine(family) as engine:
        registry = Registry(engine, Bounds(PLACES, linger=3600.0))
        registry.admit(work("drawn", task(plan("edge/small", 3, guidance=1.0))))
        await until(lambda: not registry.places)
        latency = engine.forecast().latency
    size = Size.of(SIZE)
    loads = {pace: model.load for pace, model in latency.items()}
    parts = loads.pop(Pace.decoding(size))
    assert loads == {Pace("small", size): 1.0, Pace.encoding("small"): 1.0}
    assert parts >= 1
    assert all(model.round_seconds(1.0) > 0 for model in latency.values())


async def test_the_position_that_is_told_is_that_of_the_turn(family: LoadedFamily) -> None:
    gate = Gate()
    with started_engine(WatchedFamily(family, gate), active=1) as engine:
        registry = Registry(engine, Bounds(PLACES, linger=3600.0))
        of = task(plan("edge/small", 2, guidance=1.0))
        first, *flood = [
            registry.admit(replace(work(f"f{number}", of), caller="f"))[0] for number in range(4)
        ]
        await until(lambda: first.state is State.RUNNING)
        modest, _ = registry.admit(replace(work("m", of), caller="m"))
        assert [entry.position() for entry in (modest, *flood)] == [0, 1, 2, 3]
        gate.lift()
        await until(lambda: not registry.places)
