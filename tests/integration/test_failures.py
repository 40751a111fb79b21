"""Edges lost at every step of a request: killed, hung, cut off, or merely disconnected."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from baton.common.families.loaded import LoadedFamily
from baton.device_client.events import EdgeLost, Reattached, Stepped
from baton.device_client.result import Result
from baton.device_client.sdk import AsyncClient
from baton.edge_server import wire
from baton.v1 import edge_pb2
from tests.support.engines import Counter, Gate
from tests.support.nodes import Edge, check_executed, device, drawn_here, edge, until
from tests.support.processes import EdgeProcess, Forker, forker
from tests.support.strikes import STEPS, Struck
from tests.support.tasks import PROMPTS

EVERY = 5
#: Long enough for an edge that merely gets no processor.
PATIENT = {"connect_timeout": 60.0, "reattach_timeout": 60.0}
#: Short enough to notice a hung edge soon.
WATCHFUL = {"connect_timeout": 60.0, "keepalive_time": 1.0, "keepalive_timeout": 4.0}
_AT_ONCE = 7


@pytest.fixture(scope="module")
def processes(family_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forker]:
    with forker(family_folder, tmp_path_factory.mktemp("edges")) as made:
        yield made


@dataclass(frozen=True)
class Held:
    """An edge of this process at the far end of a cable, its model calls at a gate."""

    node: Edge
    gate: Gate

    @property
    def address(self) -> str:
        return self.node.address

    @property
    def arrived(self) -> int:
        return self.gate.arrived

    def allow(self, calls: int) -> None:
        self.gate.allow(calls)

    def cut(self) -> None:
        self.node.cable.cut()

    def drop(self) -> None:
        self.node.cable.drop()


def check(struck: Struck, result: Result, family: LoadedFamily) -> None:
    """The picture of its executed plan, of which no more than one interval ran twice."""
    check_executed(result.executed, result.task.plan)
    np.testing.assert_array_equal(result.picture, drawn_here(family, result.task))
    first = result.attempts[0]
    assert (first.address, first.start, first.error) == (struck.edge.address, 0, "UNAVAILABLE")
    assert first.stop % EVERY == 0
    assert 0 <= struck.at - first.stop <= EVERY
    assert len(struck.of(EdgeLost)) == 1


async def strike_at_every_step(
    client: AsyncClient, edges: Sequence[Struck], *others: str
) -> list[Result]:
    """A few at a time: an edge that is starved of a core does not answer pings in time."""
    few = asyncio.Semaphore(_AT_ONCE)

    async def draw(struck: Struck) -> Result:
        async with few:
            return await struck.draw(client, *others)

    return await asyncio.gather(*map(draw, edges))


@pytest.fixture
async def second(family: LoadedFamily) -> AsyncIterator[tuple[Edge, Counter]]:
    """An edge that draws one request at a time, so that its batches are those of a rerun."""
    counter = Counter()
    async with edge(family, counter, node_id="second", max_active=1) as node:
        yield node, counter


def doomed(processes: Forker, strike: Callable[[EdgeProcess], Callable[[], None]]) -> list[Struck]:
    made = [processes.edge() for _ in range(STEPS)]
    return [Struck(process, strike(process), at) for at, process in enumerate(made)]


DEATHS = {"killed": lambda process: process.kill, "hung": lambda process: process.stop}


@pytest.mark.slow
@pytest.mark.parametrize("death", DEATHS)
async def test_after_a_death_at_any_step_another_edge_goes_on_from_the_checkpoint(
    processes: Forker,
    second: tuple[Edge, Counter],
    family: LoadedFamily,
    family_folder: Path,
    death: str,
) -> None:
    node, counter = second
    edges = doomed(processes, DEATHS[death])
    with device(family_folder, **WATCHFUL) as client:
        results = await strike_at_every_step(client, edges, node.address)
    for struck, result in zip(edges, results, strict=True):
        check(struck, result, family)
        assert result.executed[-1].node_id == "second"
        assert struck.edge.arrived == struck.at + 1
    resumed = [result.attempts[0].stop for result in results]
    assert counter.calls == sum(STEPS - step for step in resumed)


@pytest.mark.slow
@pytest.mark.parametrize("death", DEATHS)
async def test_after_a_death_at_any_step_the_device_goes_on_alone(
    processes: Forker, family: LoadedFamily, family_folder: Path, death: str
) -> None:
    edges = doomed(processes, DEATHS[death])
    with device(family_folder, **WATCHFUL) as client:
        results = await strike_at_every_step(client, edges)
    for struck, result in zip(edges, results, strict=True):
        check(struck, result, family)
        assert result.executed[-1].location == "device"
        assert len(struck.of(Stepped)) >= STEPS - result.attempts[0].stop


@pytest.fixture
async def held(family: LoadedFamily) -> AsyncIterator[list[Held]]:
    """As many edges as a request has steps."""
    async with contextlib.AsyncExitStack() as stack:
        gates = [Gate() for _ in range(STEPS)]
        yield [Held(await stack.enter_async_context(edge(family, gate)), gate) for gate in gates]


@pytest.mark.slow
@pytest.mark.parametrize("alone", [False, True])
async def test_after_a_cut_at_any_step_the_request_goes_on_elsewhere(
    held: list[Held],
    second: tuple[Edge, Counter],
    family: LoadedFamily,
    family_folder: Path,
    alone: bool,
) -> None:
    node, counter = second
    edges = [Struck(one, one.cut, at) for at, one in enumerate(held)]
    with device(family_folder, **PATIENT) as client:
        results = await strike_at_every_step(client, edges, *([] if alone else [node.address]))
    for struck, result in zip(edges, results, strict=True):
        check(struck, result, family)
        assert (result.executed[-1].location == "device") == alone
    resumed = sum(STEPS - result.attempts[0].stop for result in results)
    assert counter.calls == (0 if alone else resumed)


@pytest.mark.slow
async def test_after_a_broken_connection_at_any_step_the_same_run_is_followed_on(
    held: list[Held], family: LoadedFamily, family_folder: Path
) -> None:
    """Nothing is recomputed, and what the edge did meanwhile is not lost."""
    edges = [Struck(one, one.drop, at, then=one.gate.lift) for at, one in enumerate(held)]
    with device(family_folder, **PATIENT) as client:
        results = await strike_at_every_step(client, edges)
    for struck, one, result in zip(edges, held, results, strict=True):
        check_executed(result.executed, result.task.plan)
        np.testing.assert_array_equal(result.picture, drawn_here(family, result.task))
        assert one.arrived == STEPS
        assert [attempt.error for attempt in result.attempts] == [""]
        assert (len(struck.of(Reattached)), len(struck.of(EdgeLost))) == (1, 0)
        assert "reached again" in result.notes[0]
        steps = [event.step for event in struck.told if isinstance(event, Stepped)]
        assert steps == sorted(set(steps))
        assert one.node.registry.counts.completed == 1


async def test_a_connection_that_breaks_before_the_edge_answers_is_taken_up_again(
    family: LoadedFamily, family_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The edge has admitted the request and works on it, whether or not the device knows."""
    accepted, answers = wire.accepted, 0

    def drop_first(*args: Any) -> edge_pb2.DenoiseEvent:
        nonlocal answers
        answers += 1
        if answers == 1:
            node.cable.drop()
        return accepted(*args)

    monkeypatch.setattr(wire, "accepted", drop_first)
    async with edge(family) as node:
        with device(family_folder, **PATIENT) as client:
            asked = {"edge": node.address, "arm": "edge/large", "steps": STEPS}
            result = await client.generate(PROMPTS[3], **asked)
        assert node.registry.counts.completed == 1
    assert answers == 2
    assert [attempt.error for attempt in result.attempts] == [""]
    assert "reached again" in result.notes[0]
    np.testing.assert_array_equal(result.picture, drawn_here(family, result.task))


async def test_an_edge_that_has_forgotten_the_request_goes_on_from_the_checkpoint(
    family: LoadedFamily, family_folder: Path
) -> None:
    """It let the request go before the device came back, and is as good as any other edge."""
    gate = Gate()
    async with edge(family, gate, linger=0.0) as node:
        one = Held(node, gate)

        async def forget() -> None:
            await until(lambda: node.registry.counts.abandoned)
            gate.lift()

        forgetting = asyncio.ensure_future(forget())
        with device(family_folder, **PATIENT) as client:
            result = await Struck(one, one.drop, 7).draw(client)
        await forgetting
    check_executed(result.executed, result.task.plan)
    np.testing.assert_array_equal(result.picture, drawn_here(family, result.task))
    assert {step.node_id for step in result.executed} == {"edge-test"}
    first, *_, last = result.attempts
    assert (first.stop, last.start, last.error) == (5, 5, "")
