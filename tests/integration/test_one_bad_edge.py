"""Whatever one edge answers, the next goes on from the last checkpoint that held."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest

from baton.common.errors import (
    BatonError,
    CorruptEnvelope,
    InvalidRequest,
    UnknownName,
    Unreachable,
)
from baton.common.families.loaded import LoadedFamily
from baton.common.latents import NoiseLevel
from baton.common.latents.state import HistoryEntry
from baton.device_client.events import Queued
from baton.device_client.result import Result
from baton.device_client.sdk import AsyncClient
from baton.v1 import edge_pb2, edge_pb2_grpc
from tests.support.engines import Gate
from tests.support.lying import (
    PROMPT,
    STEPS,
    Liar,
    Scripted,
    accepted,
    checkpoint,
    handoff,
    progress,
    stretch,
)
from tests.support.nodes import Edge, check_executed, device, drawn_here, edge
from tests.support.servers import ActingEdge, raising, serving
from tests.support.tasks import plan, task

HELD = 2
#: Above what any answer about so small a picture can need.
TOO_MUCH = 12 * 1024 * 1024


@pytest.fixture
async def good(family: LoadedFamily) -> AsyncIterator[Edge]:
    async with edge(family, node_id="good") as node:
        yield node


@pytest.fixture(scope="module")
def client(family_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AsyncClient]:
    state = tmp_path_factory.mktemp("state")
    with device(family_folder, stall_timeout=0.5, state_folder=state) as made:
        yield made


async def draw(client: AsyncClient, *addresses: str) -> Result:
    """An explicit arm, so that only edges may have done it."""
    edges = ",".join(addresses)
    return await client.generate(PROMPT, arm="edge/large", edge=edges, steps=STEPS, fallback=False)


def check(result: Result, family: LoadedFamily, held: int, word: str = "") -> None:
    nodes = [step.node_id for step in result.executed]
    assert nodes == ["liar"] * held + ["good"] * (STEPS - held)
    check_executed(result.executed, result.task.plan)
    unbroken = task(plan("edge/large", STEPS), PROMPT)
    np.testing.assert_array_equal(result.picture, drawn_here(family, unbroken))
    assert [attempt.stop for attempt in result.attempts] == [held, STEPS]
    assert word in result.notes[0]


@pytest.mark.parametrize("kind", [InvalidRequest, UnknownName, CorruptEnvelope, Unreachable])
async def test_a_refusal_of_one_edge_is_not_the_last_word(
    client: AsyncClient, good: Edge, family: LoadedFamily, kind: type[BatonError]
) -> None:
    async with serving(ActingEdge(raising(kind("not like this")), told=0)) as address:
        result = await draw(client, address, good.address)
    check(result, family, 0, "not like this")
    assert result.attempts[0].error == kind.status


class Bomb(edge_pb2_grpc.EdgeServicer):
    """A large answer of zeros; packed, a thousandth of it is sent."""

    async def Denoise(self, request: object, context: object) -> AsyncIterator[object]:
        yield edge_pb2.DenoiseEvent(image=edge_pb2.Image(rgb=bytes(TOO_MUCH)))


@pytest.mark.parametrize("packing", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
async def test_an_answer_that_is_too_large_is_that_edges_fault(
    client: AsyncClient, good: Edge, family: LoadedFamily, packing: grpc.Compression
) -> None:
    server = grpc.aio.server(compression=packing)
    edge_pb2_grpc.add_EdgeServicer_to_server(Bomb(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        result = await draw(client, f"127.0.0.1:{port}", good.address)
        with pytest.raises(BatonError) as caught:
            await draw(client, f"127.0.0.1:{port}")
    finally:
        await server.stop(0)
    check(result, family, 0)
    assert result.attempts[0].error == "INTERNAL"
    assert caught.value.exit_code == 4


End = Callable[[Liar, edge_pb2.DenoiseRequest], list[edge_pb2.DenoiseEvent]]


def later(liar: Liar, ask: edge_pb2.DenoiseRequest, **changes: object) -> edge_pb2.DenoiseEvent:
    """A checkpoint of the next step, with parts of its state replaced."""
    state = replace(liar.state(HELD + 1), **changes)
    return checkpoint(liar.envelope(ask, state), [stretch(stop=HELD + 1)])


def scaled(liar: Liar, factor: float) -> NoiseLevel:
    level = liar.state(HELD + 1).level
    return NoiseLevel(level.a * factor, level.b * factor)


ENDS: dict[str, End] = {
    "nothing": lambda liar, ask: [],
    "another noise level": lambda liar, ask: [later(liar, ask, level=NoiseLevel(0.6, 0.8))],
    "a level at which it is infinite": lambda liar, ask: [
        later(liar, ask, level=scaled(liar, 1e-44), x=liar.state(HELD + 1).x + 1e3)
    ],
    "a history of another step": lambda liar, ask: [
        later(liar, ask, history=(HistoryEntry(NoiseLevel(0.6, 0.8), liar.state(1).x),))
    ],
    "an older latent": lambda liar, ask: [
        checkpoint(liar.envelope(ask, liar.state(1)), [stretch(stop=1)])
    ],
    "the last latent in place of the picture": lambda liar, ask: [
        handoff(liar.envelope(ask, liar.state(STEPS)), [stretch(stop=STEPS)])
    ],
    "steps with too much noise": lambda liar, ask: [
        checkpoint(
            liar.envelope(ask, liar.state(HELD + 1)),
            [stretch(stop=HELD + 1, prior_noise=float("nan"))],
        )
    ],
    "more rows than a batch has": lambda liar, ask: [
        checkpoint(
            liar.envelope(ask, liar.state(HELD + 1)), [stretch(stop=HELD + 1, rows=513, row=1)]
        )
    ],
    "fewer rows than one has": lambda liar, ask: [
        checkpoint(liar.envelope(ask, liar.state(HELD + 1)), [stretch(stop=HELD + 1, rows=1)])
    ],
    "steps on no thread": lambda liar, ask: [
        checkpoint(liar.envelope(ask, liar.state(HELD + 1)), [stretch(stop=HELD + 1, threads=0)])
    ],
    "steps ahead of none": lambda liar, ask: [
        checkpoint(
            liar.envelope(ask, liar.state(HELD + 1)), [stretch(stop=HELD + 1, rows=4, ahead=1)]
        )
    ],
    "a row outside its batch": lambda liar, ask: [
        checkpoint(
            liar.envelope(ask, liar.state(HELD + 1)), [stretch(stop=HELD + 1, rows=2, row=3)]
        )
    ],
}


def kept(liar: Liar, ask: edge_pb2.DenoiseRequest) -> list[edge_pb2.DenoiseEvent]:
    """The beginning of a good answer: a checkpoint that holds."""
    return [
        accepted(),
        progress(HELD),
        checkpoint(liar.envelope(ask, liar.state(HELD)), [stretch(stop=HELD)]),
    ]


@pytest.mark.parametrize("end", ENDS)
async def test_the_next_edge_goes_on_from_the_last_checkpoint_that_held(
    client: AsyncClient, good: Edge, family: LoadedFamily, end: str
) -> None:
    liar = Liar(family)
    scripted = Scripted(lambda ask: [*kept(liar, ask), *ENDS[end](liar, ask)])
    async with serving(scripted) as address:
        check(await draw(client, address, good.address), family, HELD)


@pytest.mark.parametrize("error", [InvalidRequest("no more"), UnknownName("forgotten")])
async def test_a_refusal_after_a_checkpoint_costs_only_what_came_after_it(
    client: AsyncClient, good: Edge, family: LoadedFamily, error: BatonError
) -> None:
    liar = Liar(family)

    async def refuse() -> None:
        raise error

    async with serving(Scripted(lambda ask: kept(liar, ask), refuse)) as address:
        check(await draw(client, address, good.address), family, HELD, str(error))


def older(liar: Liar, ask: edge_pb2.DenoiseRequest) -> list[edge_pb2.DenoiseEvent]:
    return [accepted(node_id="old"), checkpoint(liar.envelope(ask, liar.state(1)), [])]


async def test_no_edge_takes_a_request_back_to_an_older_latent(
    client: AsyncClient, good: Edge, family: LoadedFamily
) -> None:
    liar = Liar(family)
    first, second = Scripted(lambda ask: kept(liar, ask)), Scripted(lambda ask: older(liar, ask))
    async with serving(first) as one, serving(second) as two:
        result = await draw(client, one, two, good.address)
    assert [step.node_id for step in result.executed] == ["liar"] * HELD + ["good"] * 2
    check_executed(result.executed, result.task.plan)


@pytest.mark.parametrize("held", [0, HELD])
async def test_an_edge_that_has_started_and_reports_no_step_is_given_up(
    client: AsyncClient, good: Edge, family: LoadedFamily, held: int
) -> None:
    liar, never = Liar(family), asyncio.Event()
    script = Scripted(lambda ask: kept(liar, ask) if held else [accepted()], never.wait)
    async with serving(script) as address:
        check(await draw(client, address, good.address), family, held, "no step for 0.5 s")
        assert script.cancelled == 1
        assert len(script.asked) == 1


async def test_telling_one_step_over_and_over_is_no_sign_of_life(
    client: AsyncClient, good: Edge, family: LoadedFamily
) -> None:
    async with serving(Chatterer()) as address:
        check(await draw(client, address, good.address), family, 0, "no step for 0.5 s")


class Chatterer(edge_pb2_grpc.EdgeServicer):
    """Says that it is there, and the same step again, for ever."""

    async def Denoise(self, request: object, context: object) -> AsyncIterator[object]:
        yield accepted()
        while True:
            for event in (progress(1), accepted(), edge_pb2.DenoiseEvent()):
                yield event
            await asyncio.sleep(0.05)

    async def Cancel(self, request: object, context: object) -> edge_pb2.CancelResponse:
        return edge_pb2.CancelResponse()


@contextlib.asynccontextmanager
async def busy(family: LoadedFamily, client: AsyncClient) -> AsyncIterator[tuple[Edge, Gate]]:
    """An edge with one place, which a request holds that does not end before the gate is lifted."""
    gate = Gate()
    async with edge(family, gate, node_id="good", max_active=1) as node:
        asked = {"arm": "edge/large", "edge": node.address, "steps": 2}
        held = asyncio.ensure_future(client.generate(PROMPT, **asked))
        await asyncio.to_thread(gate.wait_for_call, 1)
        try:
            yield node, gate
        finally:
            gate.lift()
            await held


async def test_who_waits_hears_its_position_and_is_not_given_up_for_it(
    family: LoadedFamily, family_folder: Path
) -> None:
    """Both wait for longer than an edge at work may take for a step."""
    with device(family_folder, stall_timeout=1.5) as client:
        async with busy(family, client) as (node, gate):
            heard: list[list[int]] = [[], []]

            async def wait(number: int) -> Result:
                asked = {"arm": "edge/large", "edge": node.address, "steps": 2}
                async for event in client.stream(PROMPT, fallback=False, **asked):
                    if isinstance(event, Queued):
                        assert event.address == node.address
                        heard[number].append(event.position)
                        if min(map(len, heard)) == 2:
                            gate.lift()
                    found = getattr(event, "result", None)
                assert isinstance(found, Result)
                return found

            results = await asyncio.gather(wait(0), wait(1))
    assert sorted(positions[:2] for positions in heard) == [[0, 0], [1, 1]]
    for result in results:
        assert [step.node_id for step in result.executed] == ["good"] * 2
        assert result.notes == ()


async def test_a_request_that_only_ever_waited_has_not_begun(
    family: LoadedFamily, family_folder: Path
) -> None:
    with device(family_folder, edge_timeout=1.4) as late, device(family_folder) as client:
        async with busy(family, client) as (node, _):
            asked = {"arm": "edge/large", "edge": node.address, "steps": 2}
            with pytest.raises(BatonError, match="--fallback"):
                await late.generate(PROMPT, **asked)
