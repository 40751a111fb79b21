"""How long requests may take, outlive their listeners, and are kept."""

from __future__ import annotations

import asyncio

import pytest

from baton.common.errors import (
    Cancelled,
    DeadlineExceeded,
    Draining,
    Overloaded,
)
from baton.common.families.loaded import LoadedFamily
from baton.edge_server.engine.job import (
    Drawn,
    HandedOff,
)
from baton.edge_server.requests.lifecycle import State
from baton.edge_server.requests.registry import Counts
from baton.edge_server.requests.result_cache import Retention
from tests.support.nodes import until
from tests.support.registries import FOREVER, LONG, Edge, edge_of, until_told
from tests.support.tasks import plan, run_alone, task, work


async def test_a_request_that_all_listeners_left_ends_after_lingering(family: LoadedFamily) -> None:
    with edge_of(family, linger=0.02) as edge:
        entry = edge.admit(work("r", LONG))
        await until_told(edge, entry)
        assert entry.outcome is None
        await edge.step_until_ended(entry)
        assert entry.state is State.ABANDONED
        assert isinstance(entry.outcome, Cancelled)
        assert (edge.registry.counts.abandoned, edge.registry.counts.cancelled) == (1, 0)


async def test_a_request_that_nobody_ever_followed_ends_after_lingering(
    family: LoadedFamily,
) -> None:
    with edge_of(family, linger=0.02) as edge:
        entry = edge.admit(work("r", LONG))
        await edge.step_until_ended(entry)
        assert entry.state is State.ABANDONED


async def test_a_listener_that_comes_back_in_time_keeps_the_request_alive(
    family: LoadedFamily,
) -> None:
    with edge_of(family, linger=0.02) as edge:
        entry = edge.admit(work("r", LONG))
        await until_told(edge, entry)
        again = asyncio.ensure_future(edge.events(entry))
        await asyncio.sleep(0)
        await edge.step_until_ended(entry)
        assert isinstance((await again)[-1], Drawn)


async def test_one_of_two_listeners_leaving_ends_nothing(family: LoadedFamily) -> None:
    with edge_of(family, linger=0.0) as edge:
        entry = edge.admit(work("r", LONG))
        staying = asyncio.ensure_future(edge.events(entry))
        await until_told(edge, entry)
        await edge.step_until_ended(entry)
        assert isinstance((await staying)[-1], Drawn)


async def test_leaving_one_part_of_a_request_does_not_end_another_that_is_followed(
    family: LoadedFamily,
) -> None:
    """A device whose connection broke goes on from its checkpoint, here, under the same id."""
    with edge_of(family, linger=0.02) as edge:
        left = edge.admit(work("r", LONG))
        await until_told(edge, left)
        checkpoint = run_alone(family, LONG, 3).state()
        resumed = edge.admit(work("r", LONG, resume=checkpoint))
        following = asyncio.ensure_future(edge.events(resumed))
        await edge.step_until_ended(resumed)
        assert isinstance((await following)[-1], Drawn)


async def test_a_result_is_kept_for_its_time_and_then_forgotten(family: LoadedFamily) -> None:
    with edge_of(family, retention=Retention(0.05)) as edge:
        edge.gate.lift()
        entry = edge.admit(work("r"))
        await edge.outcome(entry)
        again, known = edge.registry.admit(work("r"))
        assert known
        assert again is entry
        await asyncio.sleep(0.1)  # a timer that was set earlier to less has run by then
        fresh, known = edge.registry.admit(work("r"))
        assert not known
        assert isinstance(await edge.outcome(fresh), HandedOff)
        assert edge.registry.counts.completed == 2


async def test_an_abandoned_request_may_be_asked_for_again_and_a_cancelled_one_stays(
    family: LoadedFamily,
) -> None:
    with edge_of(family, linger=0.0) as edge:
        left = edge.admit(work("r"))
        await until(lambda: left.state.ended)
        again, known = edge.registry.admit(work("r"))
        assert (again is left, known) == (False, False)
        edge.registry.cancel("r")
        assert edge.registry.admit(work("r")) == (again, True)
        with pytest.raises(Cancelled):
            await edge.events(again)
        edge.gate.lift()
        await until(lambda: not edge.registry.places)
        assert edge.registry.counts == Counts(abandoned=1, cancelled=1)


async def test_a_request_that_is_not_done_by_its_deadline_expires_for_good(edge: Edge) -> None:
    now = asyncio.get_running_loop().time()
    entry, _ = edge.registry.admit(work("r", LONG), now + 0.05)
    with pytest.raises(DeadlineExceeded, match="in the time that it was given"):
        await edge.events(entry)
    assert entry.state is State.EXPIRED
    assert edge.registry.counts == Counts(expired=1)
    with pytest.raises(DeadlineExceeded):
        await edge.events(edge.registry.admit(work("r", LONG), now + FOREVER)[0])
    edge.gate.lift()
    await until(lambda: not edge.registry.places)
    assert edge.gate.arrived <= 1


async def test_the_latest_deadline_of_those_who_ask_counts(edge: Edge) -> None:
    now = asyncio.get_running_loop().time()
    entry, _ = edge.registry.admit(work("r"), now + 0.05)
    edge.registry.admit(work("r"), now + FOREVER)
    edge.registry.admit(work("r"), now + 0.01)
    assert entry.deadline == now + FOREVER
    edge.gate.lift()
    assert isinstance(await edge.outcome(entry), HandedOff)


async def measured(edge: Edge, steps: int = 12) -> None:
    """Let one request run, at no less than 5 ms a step."""
    entry = edge.admit(work("measured", task(plan("edge/small", steps))))
    while not entry.state.ended:
        edge.gate.allow(1)
        await asyncio.sleep(0.005)


async def test_what_cannot_end_in_time_is_refused_before_any_model_work(edge: Edge) -> None:
    await measured(edge)
    calls, now = edge.gate.arrived, asyncio.get_running_loop().time()
    with pytest.raises(DeadlineExceeded, match=r"200 steps take about .* s are left"):
        edge.registry.admit(work("hopeless", LONG), now + 0.2)
    with pytest.raises(DeadlineExceeded):
        edge.registry.admit(work("past", LONG), now - 1)
    assert (edge.gate.arrived, edge.registry.unfinished) == (calls, 0)


async def test_what_would_end_in_time_but_for_the_queue_is_refused_as_overload(
    family: LoadedFamily,
) -> None:
    with edge_of(family, active=1) as edge:
        await measured(edge)
        for number in range(9):  # of 200 steps each, at 5 ms or more: 9 s
            edge.admit(work(f"r{number}", LONG))
        now, short = asyncio.get_running_loop().time(), task(plan("edge/small", 1))
        with pytest.raises(Overloaded, match="with 9 requests ahead") as caught:
            edge.registry.admit(work("late", short), now + 5.0)
        assert 0 < caught.value.retry_after <= 30
        edge.registry.admit(work("patient", short), now + FOREVER)
        edge.registry.close(Draining("enough"))


async def test_nothing_is_refused_for_time_before_it_was_measured(edge: Edge) -> None:
    now = asyncio.get_running_loop().time()
    entry, _ = edge.registry.admit(work("r", LONG), now + 0.01)
    await until(lambda: entry.state is State.EXPIRED)
    edge.gate.lift()


async def test_kept_results_stay_within_their_number_and_the_oldest_go(
    family: LoadedFamily,
) -> None:
    with edge_of(family, retention=Retention(FOREVER, entries=2)) as edge:
        edge.gate.lift()
        for name in ("a", "b", "c"):
            await edge.outcome(edge.admit(work(name)))
        assert len(edge.registry.kept) == 2
        assert [edge.registry.holds(work(name)) for name in ("a", "b", "c")] == [False, True, True]


async def test_kept_results_stay_within_their_bytes(family: LoadedFamily) -> None:
    picture = 3 * 16 * 16
    retention = Retention(FOREVER, bytes=2 * picture + 1)
    with edge_of(family, retention=retention) as edge:
        edge.gate.lift()
        for name in "abcd":
            await edge.outcome(edge.admit(work(name, task(plan("edge/small", 2)))))
        assert (len(edge.registry.kept), edge.registry.kept.bytes) == (2, 2 * picture)
        large = edge.admit(work("large", task(plan("edge/small", 2), size=64)))
        assert isinstance(await edge.outcome(large), Drawn)
        assert (len(edge.registry.kept), edge.registry.kept.bytes) == (0, 0)
