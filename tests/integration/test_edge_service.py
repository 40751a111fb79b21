"""The edge over the wire: admission, attachment, counts, cancel, drain and health."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from baton.common.config import checked
from baton.common.errors import Cancelled, Draining, InvalidRequest, Overloaded
from baton.common.families.loaded import LoadedFamily
from baton.common.latents import decode_state
from baton.common.plan import OpenPlan, StepDirective
from baton.common.rpc import PROTOCOL_VERSION
from baton.common.rpc.channel import channel_to
from baton.common.rpc.convert import executed_from_proto, plan_to_proto
from baton.common.rpc.latent_spaces import space_from_proto
from baton.common.rpc.status import from_rpc_error
from baton.edge_server.requests.registry import Occupancy
from baton.edge_server.settings import EdgeSettings
from baton.v1 import edge_pb2
from baton.v1.edge_pb2_grpc import EdgeStub
from tests.support.engines import Counter, Gate
from tests.support.nodes import Edge, drawn_here, edge, until
from tests.support.tasks import PROMPTS, plan, task

STEPS = 4


def ask(request_id: str, arm: str = "edge/large", steps: int = STEPS, **fields: Any) -> Any:
    """A good request with some fields replaced."""
    values = {
        "protocol_version": PROTOCOL_VERSION,
        "request_id": request_id,
        "prompt": PROMPTS[0],
        "plan": plan_to_proto(plan(arm, steps)),
        "width": 16,
        "height": 16,
        "codec": "fp32",
    }
    return edge_pb2.DenoiseRequest(**(values | fields))


def reusing() -> OpenPlan:
    """A plan that asks for guidance of an earlier step throughout."""
    of = plan("edge/large", STEPS)
    (segment,) = of.segments
    return replace(of, segments=(replace(segment, directives=(StepDirective("reuse"),) * STEPS),))


@dataclass
class Stream:
    """What one Denoise stream told."""

    kinds: list[str] = field(default_factory=list)
    last: edge_pb2.DenoiseEvent = field(default_factory=edge_pb2.DenoiseEvent)
    attached: bool = False

    @property
    def outcome(self) -> bytes:
        return self.last.SerializeToString()


async def follow(stub: Any, request: edge_pb2.DenoiseRequest) -> Stream:
    stream = Stream()
    async for event in stub.Denoise(request, timeout=60):
        kind = event.WhichOneof("event")
        stream.kinds.append(kind)
        if kind == "accepted":
            stream.attached = event.accepted.attached
        stream.last = event
    return stream


async def refused(call: Any) -> tuple[grpc.aio.AioRpcError, Exception]:
    """The status of a call that must fail, raw and translated."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value, from_rpc_error(caught.value, "the edge")


@dataclass
class Held:
    """An edge whose model calls wait at a gate, and a connection to it."""

    node: Edge
    gate: Gate
    stub: Any
    channel: grpc.aio.Channel

    async def status(self) -> edge_pb2.GetStatusResponse:
        request = edge_pb2.GetStatusRequest(protocol_version=PROTOCOL_VERSION)
        response: edge_pb2.GetStatusResponse = await self.stub.GetStatus(request, timeout=60)
        return response

    async def counts(self) -> tuple[int, ...]:
        """Active, queued, completed, failed, cancelled."""
        now = await self.status()
        return now.active, now.queued, now.completed, now.failed, now.cancelled

    def start(self, request: edge_pb2.DenoiseRequest) -> asyncio.Task[Stream]:
        return asyncio.ensure_future(follow(self.stub, request))

    async def cancel(self, request_id: str) -> bool:
        request = edge_pb2.CancelRequest(request_id=request_id)
        return bool((await self.stub.Cancel(request, timeout=60)).cancelled)


@contextlib.asynccontextmanager
async def holding(family: LoadedFamily, **settings: object) -> AsyncIterator[Held]:
    gate = Gate()
    async with edge(family, gate, **settings) as node, channel_to(node.address) as channel:
        yield Held(node, gate, EdgeStub(channel), channel)


@pytest.fixture
async def held(family: LoadedFamily) -> AsyncIterator[Held]:
    """An edge with one place to work and one to wait."""
    async with holding(family, max_active=1, max_queue=1) as made:
        yield made


async def test_an_edge_part_ends_with_the_latent_and_an_edge_arm_with_the_picture(
    held: Held, family: LoadedFamily
) -> None:
    held.gate.lift()
    part = await follow(held.stub, ask("r1", "edge/large@0.5>device/small", fingerprint=""))
    assert part.kinds[0] == "accepted"
    assert set(part.kinds[1:-1]) <= {"progress"}
    envelope = decode_state(part.last.handoff.envelope, family.fingerprint)
    assert (envelope.request_id, envelope.state.step) == ("r1", 2)
    whole = await follow(held.stub, ask("r2"))
    picture = drawn_here(family, task(plan("edge/large", STEPS)))
    assert whole.last.image.rgb == picture.tobytes()
    executed = executed_from_proto(whole.last.image.executed)
    assert [step.step for step in executed] == list(range(STEPS))
    assert whole.last.image.times.model_seconds > 0


async def test_what_an_edge_holds_and_does_is_told(held: Held, family: LoadedFamily) -> None:
    now = await held.status()
    assert (now.node_id, now.family, tuple(now.members)) == ("edge-test", "tiny", family.members)
    assert (now.fingerprint, now.capacity, now.draining) == (family.fingerprint, 2, False)
    assert space_from_proto(now.latent_space).matches(family.spec.latent_space)
    assert await held.counts() == (0, 0, 0, 0, 0)
    first, second = held.start(ask("r1")), held.start(ask("r2"))
    await until(lambda: held.node.registry.occupancy() == Occupancy(1, 1, 2))
    assert await held.counts() == (1, 1, 0, 0, 0)
    assert await held.cancel("r2")
    held.gate.lift()
    await first
    assert isinstance((await refused(second))[1], Cancelled)
    assert await held.counts() == (0, 0, 1, 0, 1)


async def test_an_edge_without_a_free_place_says_when_to_come_back(held: Held) -> None:
    running = [held.start(ask("r1")), held.start(ask("r2"))]
    await until(lambda: held.node.registry.unfinished == 2)
    raw, error = await refused(follow(held.stub, ask("r3")))
    assert raw.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert isinstance(error, Overloaded)
    assert error.retry_after == 1.0
    assert retry_delay(raw) == 1.0
    again = held.start(ask("r1"))  # who is in already is not turned away
    await until(lambda: held.node.registry.unfinished == 2)
    held.gate.lift()
    assert [stream.kinds[-1] for stream in await asyncio.gather(*running, again)] == ["image"] * 3
    assert (await follow(held.stub, ask("r3"))).kinds[-1] == "image"


def retry_delay(error: grpc.aio.AioRpcError) -> float:
    metadata = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
    retry = error_details_pb2.RetryInfo()
    assert status.details[-1].Unpack(retry)
    return float(retry.retry_delay.ToMilliseconds()) / 1000


async def test_the_same_request_from_two_streams_runs_once(family: LoadedFamily) -> None:
    counter = Counter()
    async with edge(family, counter) as node, channel_to(node.address) as channel:
        stub = EdgeStub(channel)
        for arm, steps in (("edge/large", STEPS), ("edge/large@0.5>device/small", STEPS // 2)):
            counter.rows.clear()
            request = ask(f"r-{steps}", arm, checkpoint_every=1)
            streams = await asyncio.gather(follow(stub, request), follow(stub, request))
            streams.append(await follow(stub, request))
            assert counter.calls == steps
            assert sorted(stream.attached for stream in streams) == [False, True, True]
            assert len({stream.outcome for stream in streams}) == 1
        assert node.registry.counts.completed == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "another"},
        {"seed": 1},
        {"width": 32},
        {"height": 32},
        {"codec": "fp16"},
        {"steps": 5},
    ],
)
async def test_an_id_cannot_be_used_for_something_else(held: Held, fields: dict[str, Any]) -> None:
    held.gate.lift()
    first = await follow(held.stub, ask("r1"))
    _, error = await refused(follow(held.stub, ask("r1", **fields)))
    assert isinstance(error, InvalidRequest)
    assert (await follow(held.stub, ask("r1"))).outcome == first.outcome


async def test_a_lost_connection_may_come_back_to_its_request(held: Held) -> None:
    held.gate.allow(1)
    async with channel_to(held.node.address) as channel:
        call = EdgeStub(channel).Denoise(ask("r1", steps=6), timeout=60)
        async for event in call:
            if event.HasField("progress"):
                break
        call.cancel()
    again = held.start(ask("r1", steps=6))
    held.gate.lift()
    stream = await again
    assert stream.attached
    assert stream.kinds[-1] == "image"
    assert held.gate.arrived == 6


async def step_by_step(held: Held, done: Callable[[], object]) -> None:
    """Let the model go on a step at a time while time passes, until something has happened."""
    async with asyncio.timeout(20):
        while not done():
            held.gate.allow(1)
            await asyncio.sleep(0.01)


async def test_a_request_that_nobody_follows_ends_after_its_lingering(family: LoadedFamily) -> None:
    async with holding(family, linger=0.05) as held:
        call = held.stub.Denoise(ask("r1", steps=200), timeout=60)
        await call.read()
        await asyncio.to_thread(held.gate.wait_for_call, 1)
        call.cancel()
        await step_by_step(held, lambda: not held.node.registry.unfinished)
        assert await held.counts() == (0, 0, 0, 0, 1)


async def test_a_resumed_request_outlives_its_abandoned_first_run(family: LoadedFamily) -> None:
    """The device lost its connection, came back with a checkpoint, and is listening."""
    async with holding(family, linger=0.5) as held:
        held.gate.allow(1)
        call = held.stub.Denoise(ask("r1", steps=200, checkpoint_every=1), timeout=60)
        while not (event := await call.read()).HasField("checkpoint"):
            pass
        call.cancel()
        again = ask("r1", steps=200, checkpoint_every=1, resume=event.checkpoint.envelope)
        resumed = held.start(again)
        await until(lambda: held.node.registry.unfinished == 2)
        await step_by_step(held, lambda: held.node.registry.counts.abandoned)
        held.gate.lift()
        assert (await resumed).kinds[-1] == "image"
        assert await held.counts() == (0, 0, 1, 0, 1)


async def test_cancelling_what_is_not_there_changes_nothing(held: Held) -> None:
    for request_id in ("unknown", "", "x" * 10_000):
        assert not await held.cancel(request_id)
    held.gate.lift()
    await follow(held.stub, ask("r1"))
    assert not await held.cancel("r1")
    assert await held.counts() == (0, 0, 1, 0, 0)


async def test_a_cancelled_request_ends_at_its_next_step_for_everybody(held: Held) -> None:
    streams = [held.start(ask("r1", steps=50)) for _ in range(2)]
    await asyncio.to_thread(held.gate.wait_for_call, 1)
    assert await held.cancel("r1")
    held.gate.lift()
    for stream in streams:
        raw, error = await refused(stream)
        assert raw.code() is grpc.StatusCode.CANCELLED
        assert isinstance(error, Cancelled)
    assert held.gate.arrived == 1


async def test_health_is_told_for_the_node_and_its_service(held: Held) -> None:
    health = health_pb2_grpc.HealthStub(held.channel)
    for name in ("", "baton.v1.Edge"):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=name), timeout=60)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_drain_refuses_the_new_and_ends_the_old(held: Held) -> None:
    health = health_pb2_grpc.HealthStub(held.channel)
    running = held.start(ask("r1"))
    await asyncio.to_thread(held.gate.wait_for_call, 1)
    draining = asyncio.ensure_future(held.node.node.drain())
    await until(lambda: held.node.registry.draining)
    raw, error = await refused(follow(held.stub, ask("r2")))
    assert raw.code() is grpc.StatusCode.UNAVAILABLE
    assert isinstance(error, Draining)
    assert (await held.status()).draining
    answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=60)
    assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert not draining.done()
    held.gate.lift()
    assert (await running).kinds[-1] == "image"
    await draining


async def test_a_stop_ends_what_runs_with_a_reason(family: LoadedFamily) -> None:
    gate = Gate()
    async with edge(family, gate) as node, channel_to(node.address) as channel:
        running = asyncio.ensure_future(follow(EdgeStub(channel), ask("r1", steps=200)))
        await asyncio.to_thread(gate.wait_for_call, 1)
        stopping = asyncio.ensure_future(node.node.stop())
        gate.lift()
        _, error = await refused(running)
        await stopping
    assert isinstance(error, Draining)


def test_a_coordinator_that_is_no_address_is_refused_before_anything_starts() -> None:
    with pytest.raises(InvalidRequest, match="HOST:PORT"):
        checked(EdgeSettings, {"coordinator": "nowhere"}, {})


async def test_guidance_of_an_earlier_step_is_reused_once_there_is_any(
    family: LoadedFamily,
) -> None:
    async with edge(family) as node, channel_to(node.address) as channel:
        stream = await follow(EdgeStub(channel), ask("r", plan=plan_to_proto(reusing())))
    assert stream.last.image.rgb == drawn_here(family, task(reusing())).tobytes()
    executed = executed_from_proto(stream.last.image.executed)
    assert [step.branches for step in executed] == ["both", *["reuse"] * (STEPS - 1)]
    assert [step.rows for step in executed] == [2, *[1] * (STEPS - 1)]
