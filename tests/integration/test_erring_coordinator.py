"""A coordinator that answers with an error, or nonsense, is no worse than a dead one."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from baton.common import errors
from baton.common.errors import BatonError
from baton.common.families.loaded import LoadedFamily
from baton.common.rpc import PROTOCOL_VERSION
from baton.common.rpc.serving import Health
from baton.device_client.sdk import AsyncClient
from baton.v1 import coordinator_pb2, coordinator_pb2_grpc
from tests.support.nodes import device, drawn_here, edge
from tests.support.tasks import PROMPTS, plan, task

PROMPT = PROMPTS[1]
STEPS = 3
FINAL = ("UNAUTHENTICATED", "PERMISSION_DENIED", "INVALID_ARGUMENT", "FAILED_PRECONDITION")
OTHERS = [code for code in grpc.StatusCode if code.name not in {*FINAL, "OK"}]

Answer = Callable[[Any], Any]


class Erring(coordinator_pb2_grpc.CoordinatorServicer):
    """``answer`` is called with each context of Decide; Report fails as well."""

    def __init__(self) -> None:
        self.answer: Answer | None = None

    async def Decide(self, request: object, context: Any) -> Any:
        assert self.answer is not None
        return await self.answer(context)

    async def Report(self, request: object, context: Any) -> Any:
        await context.abort(grpc.StatusCode.INTERNAL, "not today")


def aborting(code: grpc.StatusCode) -> Answer:
    async def abort(context: Any) -> None:
        await context.abort(code, f"no: {PROMPT}")

    return abort


def deciding(**fields: Any) -> Answer:
    good = {"protocol_version": PROTOCOL_VERSION, "decision_id": "d", "arm": "device/small"}

    async def decide(context: object) -> coordinator_pb2.DecideResponse:
        return coordinator_pb2.DecideResponse(**(good | fields))

    return decide


@pytest.fixture
async def erring() -> AsyncIterator[tuple[Erring, str]]:
    async with serving() as made:
        yield made


@contextlib.asynccontextmanager
async def serving(
    packing: grpc.Compression = grpc.Compression.NoCompression, healthy: bool = True
) -> AsyncIterator[tuple[Erring, str]]:
    server, servicer = grpc.aio.server(compression=packing), Erring()
    coordinator_pb2_grpc.add_CoordinatorServicer_to_server(servicer, server)
    if healthy:
        await Health(server, []).serving()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield servicer, f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def drawn_alone(client: AsyncClient, family: LoadedFamily, **options: object) -> str:
    """Draw on the device; returns why the coordinator was not heeded."""
    result = await client.generate(PROMPT, steps=STEPS, **options)
    assert result.decision_id.startswith("static-")
    alone = task(plan("device/small", STEPS), PROMPT)
    np.testing.assert_array_equal(result.picture, drawn_here(family, alone))
    note, prefix = result.notes[0], "decided alone: "
    assert note.startswith(prefix)
    assert PROMPT not in note
    return note.removeprefix(prefix)


async def test_an_error_of_the_coordinators_own_is_noted_and_the_device_decides(
    erring: tuple[Erring, str], family: LoadedFamily, family_folder: Path
) -> None:
    servicer, address = erring
    with device(family_folder, coordinator=address) as client:
        for code in OTHERS:
            servicer.answer = aborting(code)
            assert await drawn_alone(client, family)


async def test_what_it_says_of_the_request_is_final(
    erring: tuple[Erring, str], family_folder: Path
) -> None:
    servicer, address = erring
    with device(family_folder, coordinator=address) as client:
        for name in FINAL:
            servicer.answer = aborting(grpc.StatusCode[name])
            with pytest.raises(BatonError) as caught:
                await client.generate(PROMPT, steps=STEPS)
            assert caught.value.status == name
            assert caught.value.exit_code in (2, 4)


NOWHERE = [coordinator_pb2.EdgeCandidate(node_id="e", address="nowhere")]
NONSENSE: dict[str, Answer] = {
    "no arm": deciding(arm=""),
    "an arm that is none": deciding(arm="moon:large"),
    "a member that nobody has": deciding(arm="device/huge"),
    "a relay to a member that nobody has": deciding(arm="edge/large@0.5>device/huge"),
    "an edge with a member that nobody has": deciding(arm="edge/huge"),
    "a member that this device does not hold": deciding(arm="device/large"),
    "a decision without an id": deciding(decision_id=""),
    "an id that is no line": deciding(decision_id="a\n"),
    "an id as the device gives": deciding(decision_id="static-1", arm="edge/large", edges=NOWHERE),
    "a ticket that is none": deciding(ticket="x" * 9_000),
    "a ticket for later that is none": deciding(offline_ticket="x" * 9_000),
    "more than can be right": deciding(reason="x" * (20 << 20)),
}


async def test_nonsense_is_noted_and_the_device_decides(
    erring: tuple[Erring, str], family: LoadedFamily, family_folder: Path
) -> None:
    servicer, address = erring
    with device(family_folder, members="small", coordinator=address) as client:
        for name, answer in NONSENSE.items():
            servicer.answer = answer
            assert await drawn_alone(client, family), name
        servicer.answer = deciding()
        assert (await client.generate(PROMPT, steps=STEPS)).decision_id == "d"


async def test_another_arm_than_the_callers_is_not_drawn(
    erring: tuple[Erring, str], family: LoadedFamily, family_folder: Path
) -> None:
    servicer, address = erring
    servicer.answer = deciding()
    async with edge(family) as node:
        with device(family_folder, coordinator=address, edges=node.address) as client:
            result = await client.generate(PROMPT, arm="edge/large", steps=STEPS)
    assert (result.arm, result.arm_executed) == ("edge/large", "edge/large")
    assert "in place of edge/large" in result.notes[0]


async def test_an_arm_that_needs_an_edge_is_still_refused_without_one(
    erring: tuple[Erring, str], family_folder: Path
) -> None:
    servicer, address = erring
    servicer.answer = aborting(grpc.StatusCode.INTERNAL)
    with (
        device(family_folder, coordinator=address) as client,
        pytest.raises(errors.Incompatible, match="needs an edge"),
    ):
        await client.generate(PROMPT, arm="edge", steps=STEPS)


async def test_edges_that_nobody_can_reach_cost_no_picture(
    erring: tuple[Erring, str], family: LoadedFamily, family_folder: Path
) -> None:
    servicer, address = erring
    odd = [
        coordinator_pb2.EdgeCandidate(node_id="e", address=place) for place in ("nowhere", "a:b")
    ]
    servicer.answer = deciding(arm="edge/large@0.5>device/small", edges=odd)
    with device(family_folder, coordinator=address) as client:
        result = await client.generate(PROMPT, steps=STEPS)
        assert result.arm_executed == "device/small"
        assert [attempt.address for attempt in result.attempts] == ["nowhere", "a:b"]
        with pytest.raises(errors.InvalidRequest, match="nowhere"):
            await client.generate(PROMPT, edge="nowhere", steps=STEPS)


@pytest.mark.parametrize("packing", [grpc.Compression.Gzip, grpc.Compression.NoCompression])
async def test_a_packed_answer_and_one_that_is_too_large_are_passed_over(
    packing: grpc.Compression, family: LoadedFamily, family_folder: Path
) -> None:
    async with serving(packing, healthy=packing is grpc.Compression.Gzip) as (servicer, address):
        servicer.answer = deciding(reason="x" * (8 << 20))
        with device(family_folder, coordinator=address) as client:
            assert await drawn_alone(client, family)
