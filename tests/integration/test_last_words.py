"""Errors as an edge's last word, and words after the end of its part."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from baton.common.families.loaded import LoadedFamily
from baton.device_client.png import read_png
from baton.device_client.sdk import AsyncClient
from baton.v1 import edge_pb2, edge_pb2_grpc
from tests.support.families import SIZE
from tests.support.lying import (
    CUT,
    PROMPT,
    STEPS,
    Liar,
    Scripted,
    accepted,
    handoff,
    image,
    progress,
    stretch,
)
from tests.support.nodes import check_executed, device, drawn_here
from tests.support.servers import serving
from tests.support.tasks import plan, task

Script = Callable[[edge_pb2.DenoiseRequest], Sequence[edge_pb2.DenoiseEvent]]
ALONE = task(plan("device/small", STEPS), PROMPT)


@pytest.fixture(scope="module")
def client(family_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AsyncClient]:
    state = tmp_path_factory.mktemp("state")
    with device(family_folder, stall_timeout=5.0, state_folder=state) as made:
        yield made


def handed_nothing(ask: edge_pb2.DenoiseRequest) -> list[edge_pb2.DenoiseEvent]:
    return [accepted(), progress(1)]


class Aborting(edge_pb2_grpc.EdgeServicer):
    """Answers with what ``script`` makes of the request, then with a status of its own."""

    def __init__(self, script: Script, code: grpc.StatusCode, details: bytes = b"") -> None:
        self._script = script
        self._end = (code, "no\nmore", (("grpc-status-details-bin", details),))

    async def Denoise(self, request: edge_pb2.DenoiseRequest, context: Any) -> AsyncIterator[Any]:
        for event in self._script(request):
            yield event
        await context.abort(*self._end)

    async def Cancel(self, request: object, context: object) -> edge_pb2.CancelResponse:
        return edge_pb2.CancelResponse()


def unreadable(kind: Any) -> bytes:
    """Details of a status that cannot be parsed, though their type is known."""
    detail = any_pb2.Any(type_url=f"type.googleapis.com/{kind.DESCRIPTOR.full_name}", value=b"\xff")
    return status_pb2.Status(details=[detail]).SerializeToString()


ENDS = {
    grpc.StatusCode.CANCELLED: b"",
    grpc.StatusCode.DATA_LOSS: b"\xff",
    grpc.StatusCode.INVALID_ARGUMENT: unreadable(error_details_pb2.ErrorInfo),
    grpc.StatusCode.RESOURCE_EXHAUSTED: unreadable(error_details_pb2.RetryInfo),
}


async def test_no_status_of_an_edge_and_none_of_its_details_end_a_picture(
    client: AsyncClient, family: LoadedFamily
) -> None:
    for code, details in ENDS.items():
        async with serving(Aborting(handed_nothing, code, details)) as address:
            result = await client.generate(PROMPT, edge=address, steps=STEPS)
        assert result.arm_executed == "device/small"
        heard = "INTERNAL" if code is grpc.StatusCode.DATA_LOSS else code.name
        assert [attempt.error for attempt in result.attempts] == [heard]
        assert result.notes[0].isprintable()
        np.testing.assert_array_equal(result.picture, drawn_here(family, ALONE))


class Late(edge_pb2_grpc.EdgeServicer):
    """Does all that it was asked for, and then goes on: an event, or nothing for ever."""

    def __init__(self, script: Script, more: edge_pb2.DenoiseEvent | None) -> None:
        self._script = script
        self._more = more

    async def Denoise(self, request: edge_pb2.DenoiseRequest, context: Any) -> AsyncIterator[Any]:
        for event in self._script(request):
            yield event
        if self._more is None:
            await asyncio.Event().wait()
        else:
            yield self._more


async def test_nothing_that_an_edge_says_after_the_end_of_its_part_counts(
    client: AsyncClient, family: LoadedFamily, tmp_path: Path
) -> None:
    liar, internal = Liar(family), grpc.StatusCode.INTERNAL

    def drawn(ask: edge_pb2.DenoiseRequest) -> list[edge_pb2.DenoiseEvent]:
        return [accepted(), image()]

    def handed_over(ask: edge_pb2.DenoiseRequest) -> list[edge_pb2.DenoiseEvent]:
        return [accepted(), handoff(liar.envelope(ask))]

    for arm, script in {"edge/large": drawn, "relay@0.5": handed_over}.items():
        for servicer in (
            Aborting(script, internal),
            Late(script, None),
            Late(script, progress(STEPS + 1)),
            Late(script, image(1, 1)),
        ):
            async with serving(servicer) as address:
                result = await client.generate(PROMPT, arm=arm, edge=address, steps=STEPS)
            assert [attempt.error for attempt in result.attempts] == [""]
            assert result.notes == ()
            check_executed(result.executed, result.task.plan)
            assert read_png(result.save(tmp_path / "a.png")).provenance == result.provenance


async def test_an_edge_that_draws_the_devices_part_too_is_given_up(
    client: AsyncClient, family: LoadedFamily
) -> None:
    steps = [stretch(), stretch(CUT, STEPS, member="small")]
    whole = edge_pb2.Image(rgb=bytes(3 * SIZE**2), width=SIZE, height=SIZE, executed=steps)
    script = Scripted(lambda ask: [accepted(), edge_pb2.DenoiseEvent(image=whole)])
    async with serving(script) as address:
        result = await client.generate(PROMPT, edge=address, arm="relay@0.5", steps=STEPS)
    assert result.arm_executed == "device/small"
