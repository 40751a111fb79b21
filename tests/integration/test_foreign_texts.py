"""Whatever another node tells is printed as one line, and none of it repeats the prompt."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import msgpack
import pytest

from baton.common.errors import BatonError, ExecutionFailed
from baton.common.families.loaded import LoadedFamily
from baton.common.rpc import PROTOCOL_VERSION
from baton.common.rpc.access import OPEN
from baton.common.rpc.channel import make_server
from baton.common.rpc.edge_status import edge_status
from baton.common.rpc.serving import Health
from baton.device_client import coordination
from baton.device_client.cli.explaining import Hindsight, story
from baton.device_client.events import Decided, EdgeLost, Event, Finished, Reattached
from baton.device_client.journal import LAST, Entry, Journal
from baton.device_client.result import Result
from baton.device_client.sdk import AsyncClient
from baton.v1 import coordinator_pb2 as pb
from baton.v1 import coordinator_pb2_grpc, edge_pb2, edge_pb2_grpc
from tests.support.envelopes import fields_of, seal
from tests.support.lying import PROMPT, STEPS, Liar, Scripted, accepted, handoff
from tests.support.nodes import closed_port, device, until
from tests.support.servers import ActingEdge, raising, serving

LOUD = f"\x1b[31mlook\nat \u202e{PROMPT.upper()}\x07"
QUIET = "[31mlook at (the prompt)"


def printed(text: str) -> bool:
    return text.isprintable() and PROMPT not in text.lower()


class Telling(coordinator_pb2_grpc.CoordinatorServicer):
    """Puts ``text`` wherever it fits; ``fields``: of its decision; arm_told: where it explains."""

    def __init__(self, text: str, arm_told: str = "edge/large", **fields: Any) -> None:
        self._text = text
        self._arm_told = arm_told
        self._fields = {"protocol_version": PROTOCOL_VERSION, "decision_id": "d"} | fields
        self.reported: list[pb.ReportRequest] = []

    async def Decide(self, request: object, context: Any) -> pb.DecideResponse:
        if "arm" not in self._fields:
            await context.abort(grpc.StatusCode.INTERNAL, self._text)
        return pb.DecideResponse(reason=self._text, **self._fields)

    async def Report(self, request: pb.ReportRequest, context: object) -> pb.ReportResponse:
        self.reported.append(request)
        return pb.ReportResponse(applied=True)

    async def Explain(self, request: object, context: object) -> pb.ExplainResponse:
        text, arm = self._text, self._arm_told
        return pb.ExplainResponse(
            decision=pb.DecisionRecord(
                decision_id=text,
                request_id=text,
                arm=arm,
                family=text,
                reason=text,
                owner=text,
                preference="balanced",
                state="pending",
                scores=[pb.ArmScore(arm=arm, feasible=True), pb.ArmScore(arm=arm, reason=text)],
                edges=[pb.EdgeCandidate(node_id="e", address="h:1", reason=text)],
            ),
            features=[text],
            rejected=[pb.EdgeCandidate(node_id="f", address="h:2", reason=text)],
        )


@contextlib.asynccontextmanager
async def telling(coordinator: Telling) -> AsyncIterator[str]:
    server = make_server()
    coordinator_pb2_grpc.add_CoordinatorServicer_to_server(coordinator, server)
    await Health(server, []).serving()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def events_of(client: AsyncClient, **options: Any) -> tuple[list[Event], Result]:
    events = [event async for event in client.stream(PROMPT, steps=STEPS, **options)]
    assert isinstance(events[-1], Finished)
    return events, events[-1].result


def entry(folder: Path) -> Entry:
    return Journal.within(folder, 1).find(LAST)


async def test_a_coordinators_reasons_are_told_and_kept_as_quiet_lines(
    family_folder: Path, tmp_path: Path
) -> None:
    edges = [pb.EdgeCandidate(node_id="e", address=closed_port(), reason=LOUD)]
    coordinator = Telling(LOUD, arm="relay:large>small@0.5", edges=edges)
    async with telling(coordinator) as address:
        with device(family_folder, coordinator=address, state_folder=tmp_path) as client:
            events, result = await events_of(client)
        await until(lambda: coordinator.reported)
    (decided,) = [event.decision for event in events if isinstance(event, Decided)]
    assert (decided.reason, decided.edges[0].reason) == (QUIET, QUIET)
    kept = entry(tmp_path).decision
    assert kept is not None
    assert (kept.reason, kept.edges) == (QUIET, decided.edges)
    assert all(map(printed, result.notes))
    assert [report.ok for report in coordinator.reported] == [True]


async def test_a_coordinators_error_is_noted_as_a_quiet_line(
    family_folder: Path, tmp_path: Path
) -> None:
    async with telling(Telling(LOUD)) as address:
        with device(family_folder, coordinator=address, state_folder=tmp_path) as client:
            _, result = await events_of(client)
    assert result.notes[0] == f"decided alone: {QUIET}"
    assert entry(tmp_path).notes == result.notes


NOBODY = {
    "an address that is none": {"address": LOUD},
    "an address with a space": {"address": f"{PROMPT}:80"},
    "a name that is none": {"node_id": LOUD},
}


@pytest.mark.parametrize("what", NOBODY)
async def test_an_edge_that_no_coordinator_can_mean_is_not_called(
    what: str, family_folder: Path
) -> None:
    candidate = pb.EdgeCandidate(**({"node_id": "e", "address": closed_port()} | NOBODY[what]))
    async with telling(Telling("", arm="edge:large", edges=[candidate])) as address:
        with device(family_folder, coordinator=address) as client:
            _, result = await events_of(client)
    assert result.decision_id.startswith("static-")
    assert "answered nonsense" in result.notes[0]
    assert printed(result.notes[0])


async def test_what_explains_a_decision_is_told_in_quiet_lines(family_folder: Path) -> None:
    async with telling(Telling(LOUD)) as address:
        told = await coordination.explain(coordination.Link(address, OPEN, 5.0), "d")
    plain = Entry("r", 0.0, "cancelled", "scenes", "speed", 1, "euler")
    lines = [*story(plain, Hindsight(told)), *told.features, repr(told)]
    assert all(line.isprintable() for line in lines)
    assert told.rejected[0].reason.startswith("[31mlook at ")


@pytest.mark.parametrize("arm", [LOUD, "edge/\x1b[2J", f"edge/{PROMPT}", ""])
async def test_no_explanation_is_taken_of_an_arm_that_is_none(arm: str) -> None:
    async with telling(Telling("", arm_told=arm)) as address:
        with pytest.raises(ExecutionFailed) as caught:
            await coordination.explain(coordination.Link(address, OPEN, 5.0), "d")
    assert printed(str(caught.value))


async def test_an_edges_notes_are_quiet_lines(
    family: LoadedFamily, family_folder: Path, tmp_path: Path
) -> None:
    liar = Liar(family)
    noting = Scripted(lambda ask: [accepted(notes=[LOUD, LOUD]), handoff(liar.envelope(ask))])
    async with serving(noting) as address:
        with device(family_folder, edges=address, state_folder=tmp_path) as client:
            _, result = await events_of(client, arm="relay:large>small@0.5")
    assert result.steps_at("edge") > 0
    assert result.notes == (f"edge {address}: {QUIET}",)
    assert entry(tmp_path).notes == result.notes


async def test_an_edges_error_is_a_quiet_line_everywhere(
    family_folder: Path, tmp_path: Path
) -> None:
    async with serving(ActingEdge(raising(ExecutionFailed(LOUD)), told=0)) as address:
        with device(family_folder, edges=address, state_folder=tmp_path) as client:
            asked = {"arm": "relay:large>small@0.5"}
            events, result = await events_of(client, fallback=True, **asked)
            with pytest.raises(BatonError) as caught:
                await client.generate(PROMPT, steps=STEPS, fallback=False, **asked)
    assert [event.reason for event in events if isinstance(event, EdgeLost)] == [QUIET]
    assert [attempt.reason for attempt in result.attempts] == [QUIET]
    for text in (*result.notes, str(caught.value), entry(tmp_path).message):
        assert printed(text)


async def test_a_latent_that_quotes_the_prompt_is_refused_without_it(
    family: LoadedFamily, family_folder: Path
) -> None:
    liar = Liar(family)

    def quoting(ask: edge_pb2.DenoiseRequest) -> list[edge_pb2.DenoiseEvent]:
        fields = fields_of(liar.envelope(ask)) | {"codec": PROMPT}
        return [accepted(), handoff(seal(msgpack.packb(fields)))]

    async with serving(Scripted(quoting)) as address:
        with device(family_folder, edges=address) as client:
            asked = {"arm": "relay:large>small@0.5", "fallback": True}
            _, result = await events_of(client, **asked)
    (attempt,) = result.attempts
    assert "(the prompt)" in attempt.reason
    assert printed(attempt.reason)


class Returning(Scripted):
    """Breaks off with a loud word, and has the request still when it is called again."""

    async def Denoise(self, request: edge_pb2.DenoiseRequest, context: Any) -> Any:
        again = bool(self.asked)
        async for event in super().Denoise(request, context):
            yield event
            if not again:
                await context.abort(grpc.StatusCode.UNAVAILABLE, LOUD)


async def test_why_a_connection_broke_is_a_quiet_line(
    family: LoadedFamily, family_folder: Path
) -> None:
    liar = Liar(family)
    returning = Returning(lambda ask: [accepted(attached=True), handoff(liar.envelope(ask))])
    async with serving(returning) as address:
        with device(family_folder, edges=address) as client:
            events, result = await events_of(client, arm="relay:large>small@0.5")
    (reason,) = [event.reason for event in events if isinstance(event, Reattached)]
    assert len(returning.asked) == 2
    assert all(map(printed, (reason, *result.notes)))


class Status(edge_pb2_grpc.EdgeServicer):
    async def GetStatus(self, request: object, context: object) -> edge_pb2.GetStatusResponse:
        fields = dict.fromkeys(("node_id", "version", "family", "fingerprint"), LOUD)
        return edge_pb2.GetStatusResponse(
            protocol_version=PROTOCOL_VERSION, members=[LOUD], **fields
        )


async def test_an_edges_status_is_told_in_quiet_lines() -> None:
    async with serving(Status()) as address:
        told = await edge_status(address)
    for text in (told["node_id"], told["family"], *json.loads(json.dumps(told["members"]))):
        assert str(text).startswith("[31mlook at ")
        assert str(text).isprintable()
