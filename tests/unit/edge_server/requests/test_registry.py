"""Requests by id: run once, followed by many."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import pytest

from baton.common.errors import (
    Cancelled,
    Draining,
    ExecutionFailed,
    InvalidRequest,
    Overloaded,
)
from baton.common.families.loaded import LoadedFamily
from baton.common.latents import Codec
from baton.edge_server.engine.job import (
    Checkpointed,
    Drawn,
    HandedOff,
    Progressed,
    Work,
)
from baton.edge_server.requests.lifecycle import State
from baton.edge_server.requests.registry import Counts
from tests.support.nodes import until
from tests.support.registries import LONG, Edge, edge_of, until_told
from tests.support.tasks import PROMPTS, plan, task, work


async def test_the_same_request_sent_twice_runs_once_and_ends_alike_for_both(edge: Edge) -> None:
    item = work("r", task(plan("edge/large@0.5>device/small", 8)))
    first, known = edge.registry.admit(item)
    second, known_again = edge.registry.admit(replace(item))
    assert (known, known_again) == (False, True)
    edge.gate.lift()
    outcomes = await asyncio.gather(edge.outcome(first), edge.outcome(second))
    assert isinstance(outcomes[0], HandedOff)
    assert outcomes[0] == outcomes[1]
    assert edge.gate.arrived == 4
    assert edge.registry.counts.completed == 1


async def test_a_listener_that_comes_midway_or_after_the_end_gets_the_same_outcome(
    edge: Edge,
) -> None:
    item = work("r", task(plan("edge/large", 6)), checkpoint_every=2)
    entry = edge.admit(item)
    early = asyncio.ensure_future(edge.events(entry))
    edge.gate.allow(3)
    await asyncio.to_thread(edge.gate.wait_for_call, 4)
    middle = asyncio.ensure_future(edge.events(edge.admit(item)))
    edge.gate.lift()
    drawn = (await early)[-1]
    late = await edge.events(edge.admit(item))
    assert isinstance(drawn, Drawn)
    assert (await middle)[-1] is drawn
    assert late[-1] is drawn
    assert [type(event) for event in late] == [Progressed, Checkpointed, Drawn]
    assert edge.gate.arrived == 6


@pytest.mark.parametrize(
    "other",
    [
        work("r", task(prompt=PROMPTS[1])),
        work("r", task(negative="blue")),
        work("r", task(seed=1)),
        work("r", task(size=32)),
        work("r", task(plan(steps=7))),
        work("r", task(plan(guidance=3.1))),
        work("r", task(plan(guided=[False] * 6))),
        work("r", codec=Codec.INT8),
        work("r", checkpoint_every=1),
    ],
    ids=["prompt", "negative", "seed", "size", "steps", "guidance", "guided", "codec", "cadence"],
)
async def test_the_same_id_for_something_else_is_refused_running_or_done(
    edge: Edge, other: Work
) -> None:
    entry = edge.admit(work("r"))
    with pytest.raises(InvalidRequest, match="r was used before"):
        edge.admit(other)
    edge.gate.lift()
    await edge.outcome(entry)
    with pytest.raises(InvalidRequest, match="choose a new one"):
        edge.admit(other)


async def test_a_full_edge_refuses_and_says_when_to_try_again(family: LoadedFamily) -> None:
    with edge_of(family, capacity=2) as edge:
        entries = [edge.admit(work(name)) for name in ("a", "b")]
        with pytest.raises(Overloaded, match="2 places") as caught:
            edge.admit(work("c"))
        assert caught.value.retry_after > 0
        assert edge.admit(work("a")) is entries[0]
        assert edge.registry.unfinished == 2
        edge.gate.lift()
        await edge.outcome(entries[0])
        edge.admit(work("c"))


async def test_a_draining_edge_takes_nothing_new_and_finishes_what_it_has(edge: Edge) -> None:
    entry = edge.admit(work("r"))
    edge.registry.draining = True
    with pytest.raises(Draining):
        edge.admit(work("other"))
    assert edge.admit(work("r")) is entry
    assert not await edge.registry.wait_idle(0.01)
    edge.gate.lift()
    assert await edge.registry.wait_idle(60)
    assert isinstance(await edge.outcome(entry), HandedOff)


async def test_an_edge_without_requests_is_idle(edge: Edge) -> None:
    assert await edge.registry.wait_idle(60)
    entry = edge.admit(work("r"))
    edge.gate.lift()
    await edge.outcome(entry)
    assert await edge.registry.wait_idle(60)
    assert edge.registry.unfinished == 0


async def test_a_slow_listener_hears_the_newest_step_only(edge: Edge) -> None:
    item = work("r", task(plan("edge/small", 60)), checkpoint_every=1)
    entry = edge.admit(item)
    async with contextlib.aclosing(edge.follow(entry)) as slow:
        edge.gate.allow(1)
        assert await anext(slow) == Progressed(1, 60, 2)
        edge.gate.lift()
        assert await edge.registry.wait_idle(60)
        rest = [event async for event in slow]
    assert len(rest) <= 3
    assert isinstance(rest[-1], Drawn)
    assert {event.step for event in rest if isinstance(event, Progressed)} <= {59}
    checkpoints = [event for event in rest if isinstance(event, Checkpointed)]
    assert [len(checkpoint.executed) for checkpoint in checkpoints] == [59]


async def test_a_listener_hears_of_steps_in_order_and_the_outcome_last(edge: Edge) -> None:
    entry = edge.admit(work("r", task(plan("edge/small", 12)), checkpoint_every=3))
    listening = asyncio.ensure_future(edge.events(entry))
    await edge.step_until_ended(entry)
    events = await listening
    steps = [event.step for event in events if isinstance(event, Progressed)]
    assert steps == sorted(set(steps))
    told = [type(event) for event in events]
    assert told.count(Drawn) == 1
    assert told[-1] is Drawn


async def test_cancelling_ends_a_request_for_every_listener(edge: Edge) -> None:
    entry, other = edge.admit(work("r", LONG)), edge.admit(work("other"))
    listeners = [asyncio.ensure_future(edge.events(entry)) for _ in range(2)]
    await until_told(edge, entry)
    assert edge.registry.cancel("r")
    edge.gate.lift()
    for listener in listeners:
        with pytest.raises(Cancelled, match="r was cancelled"):
            await listener
    assert isinstance(await edge.outcome(other), HandedOff)
    assert edge.registry.counts == Counts(completed=1, cancelled=1)


async def test_there_is_nothing_to_cancel_in_what_is_unknown_or_over(edge: Edge) -> None:
    assert not edge.registry.cancel("r")
    edge.gate.lift()
    entry = edge.admit(work("r"))
    outcome = await edge.outcome(entry)
    assert not edge.registry.cancel("r")
    assert entry.outcome is outcome


async def test_a_failure_is_raised_to_every_listener_and_kept(edge: Edge) -> None:
    bad = work("r", replace(task(), size=7))
    entry = edge.admit(bad)
    for _ in range(3):
        with pytest.raises(InvalidRequest, match="size"):
            await edge.events(edge.admit(bad))
    assert entry.outcome is not None
    assert edge.registry.counts.failed == 1


async def test_listeners_that_hear_the_same_failure_do_not_lengthen_it(edge: Edge) -> None:
    bad = work("r", replace(task(), size=7))
    lengths = []
    for _ in range(3):
        with pytest.raises(InvalidRequest) as caught:
            await edge.events(edge.admit(bad))
        lengths.append(len(caught.traceback))
    assert len(set(lengths)) == 1


async def test_what_the_engine_tells_of_an_ended_request_is_not_heard(edge: Edge) -> None:
    entry = edge.admit(work("r", task(plan("edge/small", 1))))
    await asyncio.to_thread(edge.gate.wait_for_call, 1)
    edge.registry.cancel("r")
    edge.gate.lift()  # the only step is under way: the engine finishes the picture
    await until(lambda: not edge.registry.places)
    assert entry.state is State.CANCELLED
    assert edge.registry.counts == Counts(cancelled=1)


async def test_a_cancelled_request_holds_its_place_until_its_next_step(
    family: LoadedFamily,
) -> None:
    with edge_of(family, capacity=1) as edge:
        edge.admit(work("r"))
        await asyncio.to_thread(edge.gate.wait_for_call, 1)
        edge.registry.cancel("r")
        assert (edge.registry.unfinished, edge.registry.places) == (0, 1)
        with pytest.raises(Overloaded):
            edge.admit(work("other"))
        edge.gate.lift()
        await until(lambda: not edge.registry.places)
        assert isinstance(await edge.outcome(edge.admit(work("other"))), HandedOff)


async def test_a_request_has_so_many_listeners_at_most(edge: Edge) -> None:
    entry = edge.admit(work("r"))
    listeners = [asyncio.ensure_future(edge.events(entry)) for _ in range(16)]
    await until(lambda: entry.listeners == 16)
    with pytest.raises(Overloaded, match="16 listeners"):
        await edge.events(entry)
    edge.gate.lift()
    assert len({id((await listener)[-1]) for listener in listeners}) == 1


async def test_closing_ends_everything_with_its_reason_and_lets_nothing_in(edge: Edge) -> None:
    entries = [edge.admit(work(name, LONG)) for name in ("a", "b")]
    edge.registry.close(Draining("gone"))
    for entry in entries:
        assert entry.state is State.FAILED
        with pytest.raises(Draining, match="gone"):
            await edge.events(entry)
    with pytest.raises(Draining, match="gone"):
        edge.admit(work("c"))
    edge.gate.lift()
    await until(lambda: not edge.registry.places)


async def test_many_requests_at_once_each_end_once(edge: Edge) -> None:
    names = [f"r{i}" for i in range(10)]
    entries = [edge.admit(work(name, task(seed=i))) for i, name in enumerate(names)]
    edge.gate.lift()
    outcomes = await asyncio.gather(*(edge.outcome(entry) for entry in entries for _ in range(3)))
    assert all(isinstance(outcome, HandedOff) for outcome in outcomes)
    assert not any(isinstance(outcome, ExecutionFailed) for outcome in outcomes)
    assert edge.registry.counts.completed == 10
    assert edge.registry.unfinished == 0
