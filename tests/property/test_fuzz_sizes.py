"""Nothing that a peer sends costs a node much before it is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
import grpc.aio
import pytest
from hypothesis import given

from baton.common.checks import MAX_ATTEMPTS
from baton.common.errors import (
    MAX_REASON_CHARS,
    BatonError,
    CorruptEnvelope,
    InvalidRequest,
    UnknownName,
)
from baton.common.families.loaded import LoadedFamily
from baton.common.latents import Codec, LatentState, encode_state, largest_envelope
from baton.common.limits import MAX_PROMPT_CHARS
from baton.common.rpc import PROTOCOL_VERSION
from baton.common.rpc.channel import CONTROL_BYTES, channel_to
from baton.common.rpc.convert import plan_to_proto
from baton.common.rpc.status import from_rpc_error
from baton.edge_server.wire import largest_request
from baton.v1 import coordinator_pb2 as pb
from baton.v1 import edge_pb2
from baton.v1.coordinator_pb2_grpc import CoordinatorStub
from baton.v1.edge_pb2_grpc import EdgeStub
from tests.support.envelopes import peak_memory
from tests.support.hostile import MOST_BYTES, Read, cases, is_refused
from tests.support.nodes import coordinator, edge
from tests.support.strategies import states
from tests.support.tasks import plan


@pytest.fixture(scope="module")
def hostile(family: LoadedFamily) -> Mapping[str, Read]:
    return cases(family)


def test_hostile_input_is_refused_within_little_memory(hostile: Mapping[str, Read]) -> None:
    assert len(hostile) > 20
    for name, read in hostile.items():
        refused: list[bool] = []
        taken = peak_memory(lambda read=read, told=refused: told.append(is_refused(read)))
        assert refused == [True], name
        assert taken < MOST_BYTES, name


@given(states())
def test_no_envelope_is_larger_than_the_largest(state: LatentState) -> None:
    texts = "\N{PILE OF POO}" * 256
    envelope = encode_state(state, texts, texts, Codec.FP32)
    assert len(envelope) <= largest_envelope(state.x.shape)


def test_the_largest_good_messages_fit(family: LoadedFamily) -> None:
    wide = "\N{PILE OF POO}" * MAX_PROMPT_CHARS
    made = plan("edge/large", 200, guided=[True, False] * 100)
    request = edge_pb2.DenoiseRequest(
        prompt=wide, negative_prompt=wide, plan=plan_to_proto(made), ticket="x" * 8192
    )
    shape = family.latent_shape(family.spec.sizes.maximum)
    assert request.ByteSize() + largest_envelope(shape) < largest_request(family)
    attempt = pb.EdgeAttempt(
        node_id="x" * 128, address="y" * 255, reason="z" * MAX_REASON_CHARS, error="E" * 64
    )
    assert pb.ReportRequest(attempts=[attempt] * MAX_ATTEMPTS).ByteSize() < CONTROL_BYTES


async def outcome(call: grpc.aio.Call) -> BatonError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in _answers(call):
            pass
    return from_rpc_error(caught.value, "the node")


async def _answers(call: Any) -> AsyncIterator[object]:
    if hasattr(call, "__aiter__"):
        async for answer in call:
            yield answer
    else:
        yield await call


@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip])
async def test_a_coordinator_takes_no_large_message_packed_or_not(
    compression: grpc.Compression | None,
) -> None:
    """Packed, a hundred such messages would fit into one: the limit is that of the contents."""
    long = pb.ReportRequest(decision_id="x" * 8 * 1024 * 1024)
    async with coordinator() as brain, channel_to(brain.address) as channel:
        stub = CoordinatorStub(channel)
        error = await outcome(stub.Report(long, compression=compression, timeout=60))
        assert type(error) is InvalidRequest
        assert "larger than max" in str(error)
        error = await outcome(stub.Report(pb.ReportRequest(decision_id="d"), timeout=60))
        assert type(error) is UnknownName


async def test_an_edge_takes_no_more_than_its_largest_picture_needs(family: LoadedFamily) -> None:
    async with edge(family) as node, channel_to(node.address) as channel:
        for size, expected in ((0, CorruptEnvelope), (2048, InvalidRequest)):
            request = edge_pb2.DenoiseRequest(
                protocol_version=PROTOCOL_VERSION,
                request_id="r",
                prompt="a red cat",
                plan=plan_to_proto(plan("edge/large", 4)),
                width=16,
                height=16,
            )
            request.resume = bytes(largest_request(family) - request.ByteSize() - 1024 + size)
            error = await outcome(EdgeStub(channel).Denoise(request, timeout=60))
            assert type(error) is expected
