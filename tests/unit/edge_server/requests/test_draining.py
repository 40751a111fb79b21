"""An edge that leaves: who still ends there, and how the others go on elsewhere."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import pytest

from baton.common.families.loaded import LoadedFamily
from baton.common.size import Size
from baton.edge_server.engine.job import Checkpointed, Drained, Drawn, Progressed
from baton.edge_server.engine.latency import Forecast, LatencyModel, Pace
from baton.edge_server.requests.draining import Times, staying
from baton.edge_server.requests.entry import Entry
from baton.edge_server.requests.lifecycle import State
from baton.edge_server.requests.registry import Counts
from tests.support.families import SIZE
from tests.support.nodes import until
from tests.support.registries import LONG, Edge, edge_of
from tests.support.tasks import plan, task, work

STEPS = 20
SMALL = Pace("small", Size.of(SIZE))


def under_way(*left: int) -> list[Entry]:
    """Requests of one row a step that have so many steps left."""
    made = []
    for number, steps in enumerate(left):
        entry = Entry(work(f"r{number}", task(plan("edge/small", STEPS, guidance=1.0))))
        entry.start()
        entry.advance(Progressed(STEPS - steps, STEPS, 1))
        made.append(entry)
    return made


def a_second_a_row(measured_at: float = math.inf) -> Forecast:
    model = LatencyModel()
    for rows in (1, 2, 1, 2):
        model = model.after(rows, rows, measured_at)
    return Forecast({SMALL: model}, 16, 16)


def left(entries: Sequence[Entry]) -> list[int]:
    return [entry.remaining.steps for entry in entries]


@pytest.mark.parametrize(
    ("seconds", "stays"),
    [(0.9, []), (2.1, [2]), (4.1, [2]), (5.1, [2, 3]), (21.1, [2, 3, 16]), (1e6, [2, 3, 16])],
)
def test_those_stay_that_end_in_time_together_the_nearest_to_their_end_first(
    seconds: float, stays: list[int]
) -> None:
    """Two steps beside one another take two seconds each, and so on."""
    entries = under_way(16, 2, 3)
    assert left(staying(entries, a_second_a_row(), seconds)) == stays


def test_nobody_waits_on_and_nobody_is_sent_away_on_a_guess() -> None:
    entries, queued = under_way(16, 2), Entry(work("queued"))
    unknown = a_second_a_row(measured_at=-math.inf)
    assert set(staying([*entries, queued], unknown, 1.0)) == set(entries)


def test_the_end_of_a_grace_is_for_the_steps_under_way() -> None:
    assert Times.of(0.0) == Times.of(-1.0) == (0.0, 0.0, 5.0)
    assert Times.of(10.0) == pytest.approx((1.0, 9.0, 14.0))
    assert Times.of(600.0) == pytest.approx((60.0, 595.0, 600.0))


def drained(entry: Entry) -> Drained:
    assert entry.state is State.DRAINED
    assert isinstance(entry.outcome, Drained)
    return entry.outcome


async def test_what_waits_goes_on_elsewhere_at_once_and_what_runs_ends_here(
    family: LoadedFamily,
) -> None:
    with edge_of(family, active=1) as edge:
        first = edge.admit(work("first", task(plan("edge/small", 3))))
        await asyncio.to_thread(edge.gate.wait_for_call, 1)
        waiting = edge.admit(work("waiting"))
        await until(lambda: first.state is State.RUNNING)
        draining = asyncio.ensure_future(edge.registry.drain(60.0))
        await asyncio.sleep(0)
        edge.gate.allow(1)  # it is let go between two steps of the other
        await until(lambda: waiting.state.ended)
        assert not first.state.ended
        assert drained(waiting).checkpoint is None
        edge.gate.lift()
        assert await draining
    assert isinstance(first.outcome, Drawn)
    assert edge.registry.counts == Counts(completed=1, drained=1)


async def test_without_a_grace_it_ends_at_its_next_step_and_whoever_asks_again_is_told_the_same(
    edge: Edge,
) -> None:
    item = work("r", LONG)
    entry = edge.admit(item)
    listening = asyncio.ensure_future(edge.events(entry))
    edge.gate.allow(3)
    await asyncio.to_thread(edge.gate.wait_for_call, 4)
    draining = asyncio.ensure_future(edge.registry.drain(0.0))
    await asyncio.sleep(0)
    edge.gate.allow(1)
    assert await draining
    outcome = drained(entry)
    assert outcome.checkpoint is not None
    assert len(outcome.checkpoint.executed) == 4
    assert (await listening)[-1] is outcome
    assert edge.admit(item) is entry
    assert (await edge.events(entry))[-1] is outcome
    assert edge.registry.places == 0


async def test_what_is_known_to_take_too_long_does_not_wait_for_the_end_of_the_grace(
    edge: Edge,
) -> None:
    entry = edge.admit(work("r", LONG))
    await asyncio.to_thread(edge.gate.wait_for_call, 1)

    async def go_on() -> None:
        while entry.outcome is None:
            edge.gate.allow(1)
            await asyncio.sleep(0.02)  # so that all steps take four seconds

    going_on = asyncio.ensure_future(go_on())
    assert await edge.registry.drain(2.0)
    await going_on
    found = drained(entry).checkpoint
    assert found is not None
    assert 0 < len(found.executed) < 40, "at the end of the grace it were 90"


async def test_what_has_not_ended_at_the_end_of_the_grace_goes_on_elsewhere_from_there(
    edge: Edge,
) -> None:
    entry = edge.admit(work("r", LONG))
    await asyncio.to_thread(edge.gate.wait_for_call, 1)
    stepping = asyncio.ensure_future(edge.step_until_ended(entry))
    assert await edge.registry.drain(0.05)
    await stepping
    found = drained(entry).checkpoint
    assert isinstance(found, Checkpointed)
    assert 0 < len(found.executed) == edge.gate.arrived < 200
    assert entry.size == len(found.envelope)
