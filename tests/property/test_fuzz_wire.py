"""Whatever comes over the wire is a checked value or a typed error: never another exception."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import grpc.aio
import numpy as np
import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given, settings
from hypothesis import strategies as st

from baton.common.build import NodeBuild, this_build
from baton.common.errors import BatonError, CorruptEnvelope, Draining, ExecutionFailed, Incompatible
from baton.common.families.loaded import LoadedFamily
from baton.common.latents import Codec, decode_state, encode_state
from baton.common.naming import check_id
from baton.common.record import ExecutedStep
from baton.common.rpc import PROTOCOL_VERSION, deciding, joining
from baton.common.rpc.channel import bind
from baton.common.rpc.convert import executed_to_proto, plan_to_proto
from baton.common.rpc.edge_status import edge_status
from baton.coordinator import wire
from baton.device_client.edge_request import EdgeRequest
from baton.device_client.edge_session import EdgeSession
from baton.device_client.so_far import SoFar
from baton.edge_server.wire import work_from_proto
from baton.v1 import coordinator_pb2 as pb
from baton.v1 import edge_pb2
from tests.support.envelopes import HEAD_BYTES, seal, small_envelope
from tests.support.messages import altered, damaged
from tests.support.tasks import plan, run_alone, task

EXAMPLES = settings(max_examples=200)

REGISTER = pb.RegisterRequest(
    protocol_version=PROTOCOL_VERSION,
    node_id="e1",
    address="127.0.0.1:7701",
    family="tiny",
    members=["large", "small"],
    fingerprint="f" * 32,
    load=pb.NodeLoad(cpu=0.5, memory=0.5, active=1, queued=1, capacity=4),
)
DECIDE = pb.DecideRequest(
    protocol_version=PROTOCOL_VERSION,
    request_id="r1",
    prompt=pb.PromptFeatures(words=4, objects=2, attributes=2, relations=1, count=3),
    preference=pb.PREFERENCE_SPEED,
    family="tiny",
    fingerprint="f" * 32,
    members=["small"],
    steps=20,
    device_cpu=0.5,
    rtt_seconds=0.01,
    probes=[pb.EdgeProbe(node_id="e1", rtt_seconds=0.01)],
    arm="edge/large@0.4>device/small",
    width=16,
    height=16,
)
ATTEMPT = pb.EdgeAttempt(
    node_id="e1", address="127.0.0.1:7701", stop=5, error="UNAVAILABLE", reason="gone"
)
REPORT = pb.ReportRequest(
    decision_id="d1",
    ok=True,
    arm="edge/large@0.4>device/small",
    total_seconds=1.0,
    edge_seconds=0.5,
    device_seconds=0.5,
    bytes_sent=10,
    bytes_received=10,
    quality=0.5,
    attempts=[ATTEMPT],
)
RECORD = pb.DecisionRecord(
    decision_id="d1",
    request_id="r1",
    arm="device/small",
    propensity=0.5,
    state="rewarded",
    reward=0.5,
    preference="balanced",
    context=[1.0, 0.5],
    scores=[pb.ArmScore(arm="device/small", feasible=True)],
    edges=[pb.EdgeCandidate(node_id="e1", address="h:1", reason="idle")],
    report=REPORT,
    family="tiny",
)
NODE = pb.Node(
    node_id="e1",
    address="127.0.0.1:7701",
    family="tiny",
    members=["large"],
    fingerprint="f",
    load=pb.NodeLoad(capacity=4),
    state="alive",
)


def read_report(message: pb.ReportRequest) -> object:
    return check_id(message.decision_id, "decision_id"), deciding.outcome_from_proto(message)


#: A good message, and how its receiver reads it.
CONTROL: dict[str, tuple[Message, Callable[[Any], object]]] = {
    "RegisterRequest": (REGISTER, joining.registration_from_proto),
    "DecideRequest": (DECIDE, deciding.query_from_proto),
    "ReportRequest": (REPORT, read_report),
    "DecisionRecord": (RECORD, deciding.record_from_proto),
    "Node": (NODE, wire.node_from_proto),
}


def is_read_or_refused(read: Callable[[Any], object], message: Any) -> None:
    with contextlib.suppress(BatonError):
        read(message)


def is_parsed_read_or_refused(kind: Any, read: Callable[[Any], object], data: bytes) -> None:
    with contextlib.suppress(BatonError, DecodeError):
        read(kind.FromString(data))


@pytest.mark.parametrize("name", CONTROL)
def test_a_good_control_message_is_read(name: str) -> None:
    good, read = CONTROL[name]
    read(good)


@pytest.mark.parametrize("name", CONTROL)
@EXAMPLES
@given(data=st.data())
def test_an_altered_control_message_is_read_or_refused(name: str, data: st.DataObject) -> None:
    good, read = CONTROL[name]
    is_read_or_refused(read, data.draw(altered(good)))


@pytest.mark.parametrize("name", CONTROL)
@EXAMPLES
@given(data=st.data())
def test_a_damaged_control_message_is_read_or_refused(name: str, data: st.DataObject) -> None:
    good, read = CONTROL[name]
    is_parsed_read_or_refused(
        type(good), read, data.draw(damaged(good.SerializeToString()) | st.binary(max_size=60))
    )


@pytest.fixture(scope="module")
def resumed(family: LoadedFamily) -> edge_pb2.DenoiseRequest:
    """A good request that goes on from step 2."""
    state = run_alone(family, task(plan("edge/large", 4)), 2).state()
    return edge_pb2.DenoiseRequest(
        protocol_version=PROTOCOL_VERSION,
        request_id="r1",
        prompt="a red cat",
        negative_prompt="blue",
        plan=plan_to_proto(plan("edge/large", 4, guided=[True, False, True, True])),
        seed=7,
        width=16,
        height=16,
        fingerprint=family.fingerprint,
        codec="fp32",
        checkpoint_every=1,
        resume=encode_state(state, "r1", family.fingerprint, Codec.FP32),
    )


@EXAMPLES
@given(data=st.data())
def test_an_altered_request_to_an_edge_is_read_or_refused(
    family: LoadedFamily, resumed: edge_pb2.DenoiseRequest, data: st.DataObject
) -> None:
    work_from_proto(resumed, family)
    is_read_or_refused(lambda m: work_from_proto(m, family), data.draw(altered(resumed)))


@EXAMPLES
@given(data=st.data())
def test_a_damaged_request_to_an_edge_is_read_or_refused(
    family: LoadedFamily, resumed: edge_pb2.DenoiseRequest, data: st.DataObject
) -> None:
    good = resumed.SerializeToString()
    is_parsed_read_or_refused(
        edge_pb2.DenoiseRequest,
        lambda m: work_from_proto(m, family),
        data.draw(damaged(good) | st.binary(max_size=60)),
    )


@EXAMPLES
@given(data=st.data())
def test_a_request_with_a_damaged_latent_under_a_good_digest_is_read_or_refused(
    family: LoadedFamily, resumed: edge_pb2.DenoiseRequest, data: st.DataObject
) -> None:
    message = edge_pb2.DenoiseRequest()
    message.CopyFrom(resumed)
    message.resume = seal(data.draw(damaged(resumed.resume[HEAD_BYTES:])))
    is_read_or_refused(lambda m: work_from_proto(m, family), message)


@EXAMPLES
@given(data=st.data(), codec=st.sampled_from(list(Codec)))
def test_a_damaged_body_under_a_good_digest_is_read_or_refused(
    data: st.DataObject, codec: Codec
) -> None:
    body = data.draw(damaged(small_envelope(codec)[HEAD_BYTES:]))
    with contextlib.suppress(CorruptEnvelope, Incompatible):
        assert np.isfinite(decode_state(seal(body)).state.x).all()


class Liar:
    """An edge that answers every request with the same bytes."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self.runner = runner
        self.events: Sequence[bytes] = ()
        self.address = ""

    async def denoise(self, request: bytes, context: object) -> AsyncGenerator[bytes, None]:
        for event in self.events:
            yield event

    async def cancel(self, request: bytes, context: object) -> bytes:
        return b""

    async def nonsense(self, request: bytes, context: object) -> bytes:
        return b"\xff"

    async def start(self) -> grpc.aio.Server:
        methods = {
            "Denoise": grpc.unary_stream_rpc_method_handler(self.denoise),
            "Cancel": grpc.unary_unary_rpc_method_handler(self.cancel),
            "GetStatus": grpc.unary_unary_rpc_method_handler(self.nonsense),
        }
        server = grpc.aio.server()
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("baton.v1.Edge", methods)]
        )
        self.address = f"127.0.0.1:{bind(server, '127.0.0.1', 0)}"
        await server.start()
        return server

    def told_to(self, request: EdgeRequest) -> SoFar:
        """What a device makes of it. Raises its BatonError."""
        part = SoFar()
        session = EdgeSession(self.address, request, part, Deaf())
        try:
            self.runner.run(session.run(b"", 60.0))
        finally:
            assert {step.node_id for step in part.executed} <= part.nodes.keys()
            for step in part.executed:
                assert step.member in part.nodes[step.node_id].members
            if part.state is not None:
                assert part.state.x.shape == request.shape
                assert np.isfinite(part.state.x).all()
        return part


class Deaf:
    def on_step(self, done: int) -> None:
        assert 0 < done <= STEPS

    def on_notes(self, address: str, notes: Sequence[str]) -> None:
        pass

    def on_reattached(self, address: str, reason: str) -> None:
        pass


@pytest.fixture(scope="module")
def liar() -> Iterator[Liar]:
    with asyncio.Runner() as runner:
        made = Liar(runner)
        server = runner.run(made.start())
        yield made
        runner.run(server.stop(0))


STEPS = 4


@pytest.fixture(scope="module")
def asked(family: LoadedFamily) -> EdgeRequest:
    return EdgeRequest(
        request_id="r1",
        task=task(plan("edge/large@0.75>device/small", STEPS)),
        fingerprint=family.fingerprint,
        shape=family.latent_shape(16),
        codec=Codec.FP32,
        checkpoint_every=2,
        timeout=60.0,
    )


@pytest.fixture(scope="module")
def truth(family: LoadedFamily, asked: EdgeRequest) -> list[edge_pb2.DenoiseEvent]:
    """What a good edge answers."""
    kept = []
    for step in (2, 3):
        run = run_alone(family, asked.task, step)
        steps = [ExecutedStep(i, "large", "edge", "e1", "both", 2, 1) for i in range(step)]
        envelope = encode_state(run.state(), "r1", family.fingerprint, Codec.FP32)
        kept.append({"envelope": envelope, "executed": executed_to_proto(steps)})
    accepted = edge_pb2.Accepted(
        protocol_version=PROTOCOL_VERSION,
        node_id="e1",
        fingerprint=family.fingerprint,
        build=edge_pb2.Build(**asdict(this_build())),
        members=family.member_fingerprints,
    )
    return [
        edge_pb2.DenoiseEvent(accepted=accepted),
        edge_pb2.DenoiseEvent(progress=edge_pb2.Progress(step=1, steps=STEPS, rows=2)),
        edge_pb2.DenoiseEvent(checkpoint=edge_pb2.Checkpoint(**kept[0])),
        edge_pb2.DenoiseEvent(handoff=edge_pb2.Handoff(**kept[1])),
    ]


def test_the_truth_is_believed(
    liar: Liar, asked: EdgeRequest, truth: list[edge_pb2.DenoiseEvent], family: LoadedFamily
) -> None:
    liar.events = [event.SerializeToString() for event in truth]
    part = liar.told_to(asked)
    assert part.handed_over
    assert part.resume_step == 3
    assert part.nodes == {"e1": NodeBuild(this_build(), family.member_fingerprints)}


def test_who_leaves_hands_over_where_it_is(
    liar: Liar, asked: EdgeRequest, truth: list[edge_pb2.DenoiseEvent]
) -> None:
    """Elsewhere the request goes on from the checkpoint, or from the one before it."""
    for events, step in (
        ([*truth[:2], edge_pb2.DenoiseEvent(drained={"checkpoint": truth[2].checkpoint})], 2),
        ([*truth[:3], edge_pb2.DenoiseEvent(drained={})], 2),
    ):
        liar.events = [event.SerializeToString() for event in events]
        part = SoFar()
        with pytest.raises(Draining):
            liar.runner.run(EdgeSession(liar.address, asked, part, Deaf()).run(b"", 60.0))
        assert (part.resume_step, len(part.executed), part.handed_over) == (step, step, False)


def test_an_answer_that_is_no_message_is_an_error_of_the_peer(liar: Liar) -> None:
    with pytest.raises(ExecutionFailed, match="cannot be read"):
        liar.runner.run(edge_status(liar.address))


@settings(max_examples=80)
@given(data=st.data())
def test_a_device_believes_or_refuses_altered_answers(
    liar: Liar, asked: EdgeRequest, truth: list[edge_pb2.DenoiseEvent], data: st.DataObject
) -> None:
    number = data.draw(st.integers(0, len(truth) - 1))
    events = list(truth)
    events[number] = data.draw(altered(truth[number]))
    liar.events = [event.SerializeToString() for event in events]
    with contextlib.suppress(BatonError):
        liar.told_to(asked)


@settings(max_examples=80)
@given(data=st.data())
def test_a_device_believes_or_refuses_damaged_answers(
    liar: Liar, asked: EdgeRequest, truth: list[edge_pb2.DenoiseEvent], data: st.DataObject
) -> None:
    number = data.draw(st.integers(0, len(truth) - 1))
    events = [event.SerializeToString() for event in truth]
    events[number] = data.draw(damaged(events[number]) | st.binary(max_size=60))
    liar.events = events
    with contextlib.suppress(BatonError):
        liar.told_to(asked)


def test_no_flipped_bit_of_a_handoff_is_believed(
    liar: Liar, asked: EdgeRequest, truth: list[edge_pb2.DenoiseEvent]
) -> None:
    """As the device receives it; here every hundredth bit, all of them in the envelope's tests."""
    envelope = truth[-1].handoff.envelope
    for bit in range(0, 8 * len(envelope), 101):
        flipped = bytearray(envelope)
        flipped[bit // 8] ^= 1 << bit % 8
        event = edge_pb2.DenoiseEvent()
        event.CopyFrom(truth[-1])
        event.handoff.envelope = bytes(flipped)
        liar.events = [item.SerializeToString() for item in (*truth[:-1], event)]
        with pytest.raises(ExecutionFailed, match="nonsense"):
            liar.told_to(asked)
