"""Requests that an edge must refuse; it serves as before afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import grpc.aio
import msgpack
import numpy as np
import pytest

from baton.common.errors import (
    BatonError,
    CorruptEnvelope,
    Incompatible,
    InvalidRequest,
    UnknownName,
)
from baton.common.families.loaded import LoadedFamily, load_family
from baton.common.latents import Codec, HistoryEntry, LatentState, NoiseLevel, encode_state
from baton.common.rpc import PROTOCOL_VERSION
from baton.common.rpc.channel import channel_to
from baton.common.rpc.convert import executed_from_proto, plan_from_proto, plan_to_proto
from baton.common.rpc.status import from_rpc_error
from baton.v1 import edge_pb2, plan_pb2
from baton.v1.edge_pb2_grpc import EdgeStub
from tests.support.engines import Gate
from tests.support.envelopes import fields_of, peak_memory, seal
from tests.support.nodes import Edge, drawn_here, edge, until
from tests.support.tasks import PROMPTS, plan, run_alone, task

STEPS = 4
MEGABYTES = 1 << 20


@pytest.fixture
async def node(family: LoadedFamily) -> AsyncIterator[Edge]:
    async with edge(family) as running:
        yield running


@pytest.fixture
async def stub(node: Edge) -> AsyncIterator[Any]:
    async with channel_to(node.address) as channel:
        yield EdgeStub(channel)


def ask(request_id: str = "good", **fields: Any) -> edge_pb2.DenoiseRequest:
    values = {
        "protocol_version": PROTOCOL_VERSION,
        "request_id": request_id,
        "prompt": PROMPTS[0],
        "plan": plan_to_proto(plan("edge/large", STEPS)),
        "width": 16,
        "height": 16,
        "codec": "fp32",
    }
    return edge_pb2.DenoiseRequest(**(values | fields))


def planned(segments: list[plan_pb2.Segment] | None = None, **fields: Any) -> plan_pb2.Plan:
    """A good plan with some fields replaced."""
    message = plan_to_proto(plan("edge/large", STEPS))
    for name, value in fields.items():
        setattr(message, name, value)
    if segments is not None:
        del message.segments[:]
        message.segments.extend(segments)
    return message


def piece(member: str = "large", stop: int = STEPS, **fields: Any) -> plan_pb2.Segment:
    values = {
        "start": 0,
        "location": plan_pb2.LOCATION_EDGE,
        "grid": grid(),
        "guidance": guided(3.0),
    }
    return plan_pb2.Segment(member=member, stop=stop, **(values | fields))


def grid(stop: int = STEPS, **fields: Any) -> plan_pb2.Grid:
    return plan_pb2.Grid(**({"sampler": "ddim", "stop": stop} | fields))


def guided(scale: float, kind: int = plan_pb2.GUIDANCE_KIND_TWO_BRANCHES) -> plan_pb2.Guidance:
    return plan_pb2.Guidance(scale=scale, kind=kind)


def until_step(steps: int) -> plan_pb2.Plan:
    return planned([piece(stop=steps, grid=grid(steps))])


def on_grids(*grids: plan_pb2.Grid) -> plan_pb2.Plan:
    """A plan of a segment for each."""
    return planned([piece(start=item.start, stop=item.stop, grid=item) for item in grids])


async def drawn(stub: Any, request: edge_pb2.DenoiseRequest) -> edge_pb2.Image:
    last = edge_pb2.DenoiseEvent()
    async for event in stub.Denoise(request, timeout=60):
        last = event
    return last.image


async def refusal(stub: Any, request: edge_pb2.DenoiseRequest) -> BatonError:
    """The error of a request that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await drawn(stub, request)
    return from_rpc_error(caught.value, "the edge")


async def check_serves(stub: Any, family: LoadedFamily) -> None:
    picture = drawn_here(family, task(plan("edge/large", STEPS)))
    assert (await drawn(stub, ask("afterwards"))).rgb == picture.tobytes()


_DEVICE = plan_pb2.LOCATION_DEVICE
_DIRECTIVES = [plan_pb2.StepDirective(branches=plan_pb2.BRANCHES_BOTH)]
_TWO_SETS = plan_pb2.StepDirective(branches=plan_pb2.BRANCHES_POSITIVE, blocks=[b"\x01", b"\x03"])
_THREE_SETS = plan_pb2.StepDirective(branches=plan_pb2.BRANCHES_BOTH, blocks=[b"\x01"] * 3)

REFUSED: dict[str, tuple[dict[str, Any], type[BatonError]]] = {
    "no protocol version": ({"protocol_version": 0}, Incompatible),
    "protocol version 99": ({"protocol_version": 99}, Incompatible),
    "no request id": ({"request_id": ""}, InvalidRequest),
    "a request id with a space": ({"request_id": "a b"}, InvalidRequest),
    "a request id with a line break": ({"request_id": "a\n"}, InvalidRequest),
    "a request id that is too long": ({"request_id": "x" * 129}, InvalidRequest),
    "no plan": ({"plan": plan_pb2.Plan()}, InvalidRequest),
    "0 steps": ({"plan": until_step(0)}, InvalidRequest),
    "201 steps": ({"plan": until_step(201)}, InvalidRequest),
    "10^9 steps": ({"plan": until_step(10**9)}, InvalidRequest),
    "an unknown family": ({"plan": planned(family="other")}, InvalidRequest),
    "an unknown sampler": ({"plan": on_grids(grid(sampler="magic"))}, UnknownName),
    "no sampler": ({"plan": on_grids(grid(sampler=""))}, UnknownName),
    "no grid": ({"plan": planned([piece(grid=None)])}, UnknownName),
    "a grid of fewer steps": ({"plan": planned([piece(grid=grid(3))])}, InvalidRequest),
    "a grid of more steps": ({"plan": planned([piece(grid=grid(5))])}, InvalidRequest),
    "a grid that begins too late": ({"plan": planned([piece(grid=grid(start=1))])}, InvalidRequest),
    "a last grid that ends too early": ({"plan": on_grids(grid(until=1.0))}, InvalidRequest),
    "a first grid without an end": (
        {"plan": on_grids(grid(2), grid(start=2))},
        InvalidRequest,
    ),
    "grids whose levels rise": (
        {"plan": on_grids(grid(1, until=1.0), grid(2, start=1, until=2.0), grid(start=2))},
        InvalidRequest,
    ),
    "a level that is no number": (
        {"plan": on_grids(grid(2, until=float("nan")), grid(start=2))},
        InvalidRequest,
    ),
    "a level beyond the family's": (
        {"plan": on_grids(grid(2, until=1e3), grid(start=2))},
        Incompatible,
    ),
    "a level below the family's": (
        {"plan": on_grids(grid(2, until=1e-3), grid(start=2))},
        Incompatible,
    ),
    "levels between which no step fits": (
        {"plan": on_grids(grid(2, until=1.0), grid(3, start=2, until=1.0 - 1e-9), grid(start=3))},
        Incompatible,
    ),
    "a named grid that the family lacks": (
        {"plan": on_grids(grid(name="tuned", digest="d" * 32))},
        Incompatible,
    ),
    "guidance that is no number": (
        {"plan": planned([piece(guidance=guided(float("nan")))])},
        InvalidRequest,
    ),
    "negative guidance": ({"plan": planned([piece(guidance=guided(-1.0))])}, InvalidRequest),
    "endless guidance": ({"plan": planned([piece(guidance=guided(float("inf")))])}, InvalidRequest),
    "an unknown kind of guidance": (
        {"plan": planned([piece(guidance=guided(3.0, 9))])},
        InvalidRequest,
    ),
    "guidance as a member's input": (
        {"plan": planned([piece(guidance=guided(3.0, plan_pb2.GUIDANCE_KIND_EMBEDDED))])},
        Incompatible,
    ),
    "no guidance": ({"plan": planned([piece(guidance=None)])}, InvalidRequest),
    "unknown branches": (
        {"plan": planned([piece(directives=[plan_pb2.StepDirective(branches=9)] * STEPS)])},
        InvalidRequest,
    ),
    "blocks of more branches than there are": (
        {"plan": planned([piece(directives=[_THREE_SETS] * STEPS)])},
        InvalidRequest,
    ),
    "blocks of a branch that does not run": (
        {"plan": planned([piece(directives=[_TWO_SETS] * STEPS)])},
        InvalidRequest,
    ),
    "an unknown acceleration": ({"plan": planned([piece(accel="magic")])}, UnknownName),
    "an unknown member": ({"plan": planned([piece("giant")])}, UnknownName),
    "a member without a name": ({"plan": planned([piece("")])}, InvalidRequest),
    "a plan that starts on the device": (
        {"plan": planned([piece("small", 2, location=_DEVICE), piece(start=2)])},
        InvalidRequest,
    ),
    "a plan that stays on the device": (
        {"plan": planned([piece("small", location=_DEVICE)])},
        InvalidRequest,
    ),
    "a place that does not exist": ({"plan": planned([piece(location=7)])}, InvalidRequest),
    "a gap in the plan": ({"plan": planned([piece(stop=1), piece(start=2)])}, InvalidRequest),
    "a plan that ends too early": ({"plan": planned([piece(stop=3)])}, InvalidRequest),
    "a segment that ends before it starts": (
        {"plan": planned([piece(start=4, stop=0)])},
        InvalidRequest,
    ),
    "too few directives": ({"plan": planned([piece(directives=_DIRECTIVES)])}, InvalidRequest),
    "too many directives": (
        {"plan": planned([piece(directives=_DIRECTIVES * 100_000)])},
        InvalidRequest,
    ),
    "too many segments": ({"plan": planned([piece()] * 10_000)}, InvalidRequest),
    "no size": ({"width": 0, "height": 0}, InvalidRequest),
    "no width": ({"width": 0}, InvalidRequest),
    "no height": ({"height": 0}, InvalidRequest),
    "size 7": ({"width": 7, "height": 7}, InvalidRequest),
    "width 7": ({"width": 7}, InvalidRequest),
    "size 65536": ({"width": 65536, "height": 65536}, InvalidRequest),
    "height 65536": ({"height": 65536}, InvalidRequest),
    "a start picture": ({"start": edge_pb2.Start(picture=b"x")}, Incompatible),
    "encoded prompts": ({"embeds": {"large": b"x"}}, Incompatible),
    "adapters": ({"adapters": [plan_pb2.Adapter(member="large")]}, Incompatible),
    "an empty prompt": ({"prompt": ""}, InvalidRequest),
    "a blank prompt": ({"prompt": " \n"}, InvalidRequest),
    "a prompt of 10 MB": ({"prompt": "x" * (10 * MEGABYTES)}, InvalidRequest),
    "a negative prompt of 10 MB": ({"negative_prompt": "x" * (10 * MEGABYTES)}, InvalidRequest),
    "an unknown codec": ({"codec": "jpeg"}, InvalidRequest),
    "a seed that torch cannot take": ({"seed": 2**64 - 1}, InvalidRequest),
    "too few checkpoints to count": ({"checkpoint_every": 2**32 - 1}, InvalidRequest),
    "another latent space": ({"fingerprint": "f" * 32}, Incompatible),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_a_bad_request_is_refused_and_the_next_one_is_served(
    what: str, node: Edge, stub: Any, family: LoadedFamily
) -> None:
    fields, expected = REFUSED[what]
    error = await refusal(stub, ask(**({"request_id": "bad"} | fields)))
    assert type(error) is expected
    assert "\n" not in str(error)
    assert len(str(error)) < 400
    assert node.registry.unfinished == 0
    await check_serves(stub, family)


def test_a_plan_is_refused_before_it_takes_much_more_room_than_its_message() -> None:
    """A message of 16 MB could hold a million segments."""
    message = planned([piece(stop=200, grid=grid(200))] * 10_000)

    def refuse() -> None:
        with pytest.raises(InvalidRequest):
            plan_from_proto(message)

    assert peak_memory(refuse) < 1 * MEGABYTES


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
async def test_the_seeds_at_the_ends_are_drawn(stub: Any, family: LoadedFamily, seed: int) -> None:
    image = await drawn(stub, ask(seed=seed))
    assert image.rgb == drawn_here(family, task(plan("edge/large", STEPS), seed=seed)).tobytes()


async def test_a_member_that_is_not_loaded_is_told(family_folder: Any) -> None:
    async with (
        edge(load_family(str(family_folder), ["small"])) as lesser,
        channel_to(lesser.address) as channel,
    ):
        error = await refusal(EdgeStub(channel), ask())
    assert isinstance(error, Incompatible)
    assert "large" in str(error)


class Paused:
    """A request paused after two of its steps, and what might come instead of it."""

    def __init__(self, family: LoadedFamily) -> None:
        self.family = family
        self.state = run_alone(family, task(plan("edge/large", STEPS)), 2).state()
        self.dpmpp = run_alone(family, task(plan("edge/large", STEPS, "dpmpp_2m")), 2).state()

    def envelope(
        self, state: LatentState | None = None, request_id: str = "good", fingerprint: str = ""
    ) -> bytes:
        space = fingerprint or self.family.fingerprint
        return encode_state(state or self.state, request_id, space, Codec.FP32)

    def forged(self, **fields: object) -> bytes:
        return seal(msgpack.packb(fields_of(self.envelope()) | fields))

    def with_value(self, value: float) -> bytes:
        x = self.state.x.copy()
        x.flat[0] = value
        return self.forged(payload=x.astype("<f4").tobytes())


@pytest.fixture
def paused(family: LoadedFamily) -> Paused:
    return Paused(family)


RESUMED: dict[str, tuple[Callable[[Paused], bytes], type[BatonError]]] = {
    "not an envelope": (lambda p: b"x", CorruptEnvelope),
    "half an envelope": (lambda p: p.envelope()[:99], CorruptEnvelope),
    "all but a byte": (lambda p: p.envelope()[:-1], CorruptEnvelope),
    "a flipped bit": (lambda p: p.envelope()[:-1] + b"\x80", CorruptEnvelope),
    "NaN": (lambda p: p.with_value(np.nan), CorruptEnvelope),
    "infinity": (lambda p: p.with_value(-np.inf), CorruptEnvelope),
    "a shape of more values than there are": (
        lambda p: p.forged(shape=[4, 100, 100]),
        CorruptEnvelope,
    ),
    "a gigantic shape": (lambda p: p.forged(shape=[4, 2**31, 2**31]), CorruptEnvelope),
    "a step after the last": (lambda p: p.forged(step=STEPS + 1), CorruptEnvelope),
    "another latent space": (lambda p: p.envelope(fingerprint="f" * 32), Incompatible),
    "another request's": (lambda p: p.envelope(request_id="other"), InvalidRequest),
    "a finished one": (lambda p: p.envelope(replace(p.state, step=STEPS)), InvalidRequest),
    "another size": (
        lambda p: p.envelope(replace(p.state, x=np.zeros((4, 8, 8), np.float32))),
        InvalidRequest,
    ),
    "another sampler": (lambda p: p.envelope(p.dpmpp), Incompatible),
    "another number of steps": (lambda p: p.envelope(replace(p.state, steps=9)), Incompatible),
    "another noise level": (
        lambda p: p.envelope(replace(p.state, level=NoiseLevel(0.1, 0.9))),
        Incompatible,
    ),
}


@pytest.mark.parametrize("what", RESUMED)
async def test_a_latent_that_does_not_belong_is_refused(
    what: str, stub: Any, family: LoadedFamily, paused: Paused
) -> None:
    make, expected = RESUMED[what]
    error = await refusal(stub, ask(resume=make(paused)))
    assert type(error) is expected
    await check_serves(stub, family)


async def test_a_latent_is_not_resumed_where_the_device_goes_on(stub: Any, paused: Paused) -> None:
    relayed = plan_to_proto(plan("edge/large@0.5>device/small", STEPS))
    assert isinstance(
        await refusal(stub, ask(plan=relayed, resume=paused.envelope())), InvalidRequest
    )


async def test_the_right_latent_is_resumed(stub: Any, family: LoadedFamily, paused: Paused) -> None:
    image = await drawn(stub, ask(resume=paused.envelope()))
    assert image.rgb == drawn_here(family, task(plan("edge/large", STEPS))).tobytes()
    assert [step.step for step in executed_from_proto(image.executed)] == [2, 3]


@pytest.mark.parametrize(
    "past", [NoiseLevel(0.0, 1.0), NoiseLevel(1.0, 0.0), None], ids=["noise", "clean", "same"]
)
async def test_a_poisoned_history_hurts_no_neighbour(
    family: LoadedFamily, paused: Paused, past: NoiseLevel | None
) -> None:
    """A history that the sampler cannot use fails in the middle of a batch."""
    state = paused.dpmpp
    entry = HistoryEntry(past or state.level, state.history[0].x0)
    poison = paused.envelope(replace(state, history=(entry,)), "poison")
    made = plan_to_proto(plan("edge/large", STEPS, "dpmpp_2m"))
    gate = Gate()
    async with edge(family, gate) as node, channel_to(node.address) as channel:
        stub = EdgeStub(channel)
        neighbour = asyncio.ensure_future(drawn(stub, ask("neighbour", plan=made)))
        await asyncio.to_thread(gate.wait_for_call, 1)
        bad = asyncio.ensure_future(drawn(stub, ask("poison", plan=made, resume=poison)))
        await until(lambda: node.registry.unfinished == 2)
        gate.lift()
        with pytest.raises(grpc.aio.AioRpcError):
            await bad
        image = await neighbour
    executed = executed_from_proto(image.executed)
    assert [step.step for step in executed] == list(range(STEPS))
    expected = drawn_here(family, task(plan("edge/large", STEPS, "dpmpp_2m")))
    found = np.frombuffer(image.rgb, np.uint8).reshape(expected.shape)
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1
