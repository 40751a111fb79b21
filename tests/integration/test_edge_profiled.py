"""An edge whose rounds were measured ahead: what it refuses, tells and says of it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from baton.common.errors import DeadlineExceeded
from baton.common.families.loaded import LoadedFamily
from baton.common.rpc import PROTOCOL_VERSION
from baton.common.rpc.channel import channel_to
from baton.common.rpc.convert import plan_to_proto
from baton.common.rpc.edge_status import edge_status
from baton.common.rpc.status import from_rpc_error
from baton.common.size import Size
from baton.edge_server.daemon import Node, running
from baton.edge_server.profiling import conditions_of
from baton.edge_server.scheduling.profile import Profile
from baton.edge_server.settings import EdgeSettings
from baton.v1 import edge_pb2, edge_pb2_grpc
from tests.support.commands import Told, run_many
from tests.support.engines import BeforeCall, Counter, Gate, WatchedFamily
from tests.support.families import SIZE
from tests.support.nodes import until
from tests.support.profiles import member, profile
from tests.support.servers import serving
from tests.support.tasks import PROMPTS, plan

#: Seconds of a round of ``large``, whatever its rows, and more for each.
ROUND, ROW = 1.0, 0.25
STEPS = 4


def made(family: LoadedFamily) -> Profile:
    """A profile by which every round is slow."""
    calls = {rows: ROUND + ROW * rows for rows in (1, 2, 4, 8, 16)}
    large = member("large", calls, size=Size.of(SIZE))
    return profile([large], [], conditions_of(family, 1), measured=0.0)


@contextlib.asynccontextmanager
async def edge(
    family: LoadedFamily, before: BeforeCall, told: Profile | None
) -> AsyncIterator[Node]:
    settings = EdgeSettings(port=0, node_id="edge-test", max_active=3, max_queue=4)
    async with running(settings, WatchedFamily(family, before), told) as node:
        try:
            yield node
        finally:
            if isinstance(before, Gate):
                before.lift()


def ask(name: str) -> edge_pb2.DenoiseRequest:
    return edge_pb2.DenoiseRequest(
        protocol_version=PROTOCOL_VERSION,
        request_id=name,
        prompt=PROMPTS[0],
        plan=plan_to_proto(plan("edge/large", STEPS)),
        width=SIZE,
        height=SIZE,
    )


async def test_the_first_request_is_refused_what_it_could_not_end_in_time(
    family: LoadedFamily,
) -> None:
    counter = Counter()
    async with edge(family, counter, made(family)) as node, channel_to(node.address) as channel:
        call = edge_pb2_grpc.EdgeStub(channel).Denoise(ask("first"), timeout=STEPS * ROUND)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert node.registry.unfinished == 0
    error = from_rpc_error(caught.value, "the edge")
    assert isinstance(error, DeadlineExceeded)
    assert f"{STEPS} steps take about {STEPS * (ROUND + 2 * ROW):g} s here" in str(error)
    assert counter.calls == 0


async def test_without_a_measurement_the_first_request_is_tried(family: LoadedFamily) -> None:
    async with edge(family, Counter(), None) as node, channel_to(node.address) as channel:
        call = edge_pb2_grpc.EdgeStub(channel).Denoise(ask("first"), timeout=60)
        kinds = [event.WhichOneof("event") async for event in call]
    assert kinds[-1] == "image"


async def test_a_status_tells_what_a_request_would_wait_and_the_load_that_is_still_taken(
    family: LoadedFamily,
) -> None:
    gate = Gate()
    async with edge(family, gate, made(family)) as node, channel_to(node.address) as channel:
        idle = await edge_status(node.address)
        assert (idle["expected_wait_seconds"], idle["free_places"]) == (0.0, 7)
        assert idle["profile_quick"] is False
        assert isinstance(age := idle["profile_age_seconds"], float)
        assert age > 1e9
        call = edge_pb2_grpc.EdgeStub(channel).Denoise(ask("running"), timeout=60)
        await until(lambda: gate.arrived)
        busy = await edge_status(node.address)
        # Beside the other one it takes its first steps in rounds of two rows more, at the least.
        assert float(str(busy["expected_wait_seconds"])) > 0.99 * STEPS * 2 * ROW
        assert busy["free_places"] == 6
        call.cancel()
        node.registry.draining = True
        assert (await edge_status(node.address))["free_places"] == 0


async def test_what_was_not_measured_is_not_told(family: LoadedFamily) -> None:
    async with edge(family, Counter(), None) as node:
        told = await edge_status(node.address)
    unknown = ("expected_wait_seconds", "profile_age_seconds", "profile_quick")
    assert [told[name] for name in unknown] == [None] * 3


class Older(edge_pb2_grpc.EdgeServicer):
    """An edge that knows nothing of rounds."""

    async def GetStatus(self, request: object, context: object) -> edge_pb2.GetStatusResponse:
        return edge_pb2.GetStatusResponse(protocol_version=PROTOCOL_VERSION, active=2)


async def test_an_edge_that_tells_less_is_read_all_the_same() -> None:
    async with serving(Older()) as address:
        told = await edge_status(address)
    assert told["active"] == 2
    names = ("expected_wait_seconds", "free_places", "rounds_planned", "rounds_greedy")
    assert [told[name] for name in names] == [None] * 4


async def test_rows_are_those_of_the_plateau_where_they_are_left_to_it(
    family: LoadedFamily, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    flat = member("large", {1: 0.1, 2: 0.1, 4: 0.1, 8: 0.4}, size=Size.of(SIZE))
    settings = EdgeSettings(port=0, node_id="edge-test", max_rows="auto")
    async with running(settings, family, profile([flat], [], conditions_of(family, 1))):
        assert "up to 4 rows a call" in caplog.text


async def test_an_edge_measures_before_it_serves_and_says_how_it_runs(
    family_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    settings = EdgeSettings(
        port=0,
        node_id="edge-test",
        family=str(family_folder),
        members="small",
        state_folder=tmp_path,
    )
    async with running(settings) as node:
        told = await edge_status(node.address)
    assert told["profile_quick"] is True
    assert told["expected_wait_seconds"] == 0.0
    lines = [line for line in caplog.messages if "profile" in line]
    assert lines[0].startswith("there is no profile of tiny on this machine")
    assert lines[1].startswith("up to ")
    assert "quick profile of " in lines[1]
    assert "guidance skipped from 50% of the steps on" in lines[1]


#: What ``baton-edge`` is asked, one after the other.
LINES: dict[str, list[str]] = {
    "json": ["profile", "--quick", "--member", "small", "--max-rows", "4", "--json"],
    "guidance": [
        *["profile", "--guidance", "--member", "small", "--prompts", "1", "--steps", "10"],
        "--json",
    ],
    "table": ["profile", "--quick", "--member", "large", "--max-rows", "4", "--plot", "p.png"],
}


@pytest.fixture(scope="module")
def told(environment: dict[str, str], folder: Path) -> dict[str, Told]:
    return run_many("baton.edge_server.cli", LINES, environment, folder)


def test_a_profile_is_measured_kept_and_told(
    told: dict[str, Told], family: LoadedFamily, folder: Path
) -> None:
    found = told["json"].json()
    assert [call["rows"] for call in found["members"][0]["calls"]] == [1, 2, 4]
    assert found["best_rows"] in (1, 2, 4)
    assert found["bounds"][0]["member"] == "small"
    assert found["conditions"]["fingerprint"] == family.fingerprint
    assert Path(found["path"]).parent == folder / "state" / "baton" / "profiles"


def test_a_second_members_measurement_joins_the_first_ones(
    told: dict[str, Told], folder: Path
) -> None:
    line = told["table"]
    assert (line.code, line.err) == (0, "")
    words = line.out.split()
    assert {"large", "small", "16x16", "plateau", "rows/s", "B_max", "V_max"} <= set(words)
    assert told["json"].json()["path"] in words
    assert (folder / "p.png").read_bytes().startswith(b"\x89PNG")


def test_what_leaving_guidance_out_costs_is_told(told: dict[str, Told]) -> None:
    found = told["guidance"].json()
    assert found["member"] == "small"
    assert {row["variant"] for row in found["rows"]} == {"positive", "reuse"}
    assert all(row["n"] == 1 and 0 < row["saved"] < 0.5 for row in found["rows"])
    assert found["proposed"] is None  # the tiny family has no scorer
