"""Errors cross a real connection as themselves."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from baton.common import errors
from baton.common.errors import BatonError, ExecutionFailed, Overloaded, Unreachable
from baton.common.rpc.channel import MAX_MESSAGE_BYTES, channel_to
from baton.common.rpc.status import from_rpc_error
from baton.v1 import edge_pb2, edge_pb2_grpc
from tests.support.nodes import Cable
from tests.support.servers import ActingEdge, Action, edge_stub, raising, serving

CLASSES = sorted(
    (c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, BatonError)),
    key=lambda c: c.__name__,
)
PEER = "edge-1"
STATUS, DENOISE = edge_pb2.GetStatusRequest(), edge_pb2.DenoiseRequest()


async def unary_error(action: Action) -> BatonError:
    async with edge_stub(ActingEdge(action)) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetStatus(STATUS, timeout=20)
    return from_rpc_error(caught.value, PEER)


async def stream_error(action: Action, told: int = 2) -> tuple[int, BatonError]:
    servicer, seen = ActingEdge(action, told), 0
    async with edge_stub(servicer) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:  # noqa: PT012
            async for event in stub.Denoise(DENOISE, timeout=20):
                assert event.progress.step == seen
                seen += 1
    assert servicer.closed == 1
    return seen, from_rpc_error(caught.value, PEER)


def test_the_tree_has_every_error() -> None:
    assert len(CLASSES) == 15


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
async def test_an_error_arrives_as_its_own_class_with_its_message(cls: type[BatonError]) -> None:
    message = "what went wrong, why, and what to do: größer ≠ ok"
    error = await unary_error(raising(cls(message)))
    assert type(error) is cls
    assert str(error) == message


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
async def test_an_error_ends_a_stream_after_what_was_told(cls: type[BatonError]) -> None:
    seen, error = await stream_error(raising(cls("no")))
    assert (seen, type(error), str(error)) == (2, cls, "no")


async def test_a_stream_may_fail_before_its_first_message() -> None:
    seen, error = await stream_error(raising(errors.Draining("no")), told=0)
    assert (seen, type(error)) == (0, errors.Draining)


async def test_an_overload_says_when_to_try_again() -> None:
    error = await unary_error(raising(Overloaded("full", retry_after=2.75)))
    assert isinstance(error, Overloaded)
    assert error.retry_after == 2.75


@pytest.mark.parametrize("secret", [ValueError("secret"), KeyError("secret"), OSError("secret")])
async def test_an_unexpected_error_is_internal_told_to_the_log_by_its_place_alone(
    secret: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        error = await unary_error(raising(secret))
        seen, streamed = await stream_error(raising(secret))
    assert type(error) is type(streamed) is ExecutionFailed
    assert seen == 2
    assert "secret" not in str(error) + str(streamed)
    assert caplog.text.count(f"{type(secret).__name__}\n") == 2
    assert "in act" in caplog.text  # where it came from
    assert "secret" not in caplog.text


@pytest.mark.parametrize("length", [1_000, 100_000, 1_000_000])
async def test_an_error_with_a_long_message_still_arrives_as_its_class(length: int) -> None:
    error = await unary_error(raising(errors.UnknownName("x" * length)))
    assert type(error) is errors.UnknownName


async def test_a_call_that_takes_too_long_is_a_deadline() -> None:
    class Stuck(ActingEdge):
        async def GetStatus(self, request: Any, context: Any) -> Any:
            await asyncio.Event().wait()

    async with edge_stub(Stuck(nothing)) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetStatus(STATUS, timeout=0.1)
    assert type(from_rpc_error(caught.value, PEER)) is errors.DeadlineExceeded


async def test_a_stream_that_its_reader_leaves_ends_its_handler() -> None:
    class Endless(ActingEdge):
        ended = asyncio.Event()

        async def Denoise(self, request: Any, context: Any) -> Any:
            try:
                yield edge_pb2.DenoiseEvent()
                await asyncio.Event().wait()
            finally:
                self.ended.set()

    servicer = Endless(nothing)
    async with edge_stub(servicer) as stub:
        call = stub.Denoise(DENOISE, timeout=20)
        await call.read()
        call.cancel()
        await asyncio.wait_for(servicer.ended.wait(), 20)


async def test_nobody_listening_is_unreachable_and_names_the_peer() -> None:
    async with serving(ActingEdge(nothing)) as address:
        pass
    async with channel_to(address) as channel:
        stub = edge_pb2_grpc.EdgeStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetStatus(STATUS, timeout=20)
    error = from_rpc_error(caught.value, PEER)
    assert type(error) is Unreachable
    assert PEER in str(error)


async def test_a_connection_that_breaks_is_told_from_one_that_never_was() -> None:
    async with Cable() as cable:
        servicer = ActingEdge(lambda context: cable.drop(), told=0)
        async with serving(servicer) as cable.target, channel_to(cable.address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await edge_pb2_grpc.EdgeStub(channel).Denoise(DENOISE, timeout=20).read()
    error = from_rpc_error(caught.value, PEER)
    assert type(error) is errors.ConnectionBroken
    assert str(error).startswith(f"the connection to {PEER} broke (")


async def test_a_host_that_nobody_knows_is_unreachable() -> None:
    async with channel_to("no-such-host.invalid:50051") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await edge_pb2_grpc.EdgeStub(channel).GetStatus(STATUS, timeout=20)
    error = from_rpc_error(caught.value, PEER)
    assert type(error) is Unreachable
    assert "]" not in str(error)


async def test_an_unknown_method_is_one_of_our_errors() -> None:
    async with serving(ActingEdge(nothing)) as address, channel_to(address) as channel:
        call = channel.unary_unary("/baton.v1.Edge/Nothing")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"", timeout=20)
    assert type(from_rpc_error(caught.value, PEER)) is ExecutionFailed


async def test_a_message_over_the_limit_is_not_taken_for_an_overload() -> None:
    async with edge_stub(ActingEdge(nothing)) as stub:
        request = edge_pb2.DenoiseRequest(resume=bytes(MAX_MESSAGE_BYTES + 1))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in stub.Denoise(request, timeout=20):
                pass
    assert not isinstance(from_rpc_error(caught.value, PEER), Overloaded)


UNREADABLE = [b"\xff\xff\xff", b"\x1a\x02\x0a\xff", b"\x0a" * 50]


@pytest.mark.parametrize("details", [b"", *UNREADABLE], ids=["empty", "tag", "nested", "long"])
async def test_details_from_someone_else_that_cannot_be_read_are_passed_over(
    details: bytes,
) -> None:
    def foreign(context: grpc.aio.ServicerContext[Any, Any]) -> None:
        context.set_trailing_metadata((("grpc-status-details-bin", details),))
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.set_details("no such thing")

    async with edge_stub(ActingEdge(foreign)) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetStatus(STATUS, timeout=20)
    error = from_rpc_error(caught.value, PEER)
    assert (type(error), str(error)) == (errors.UnknownName, "no such thing")


async def test_a_reason_from_another_domain_is_not_one_of_our_classes() -> None:
    info = any_pb2.Any()
    info.Pack(error_details_pb2.ErrorInfo(reason="WeightsError", domain="elsewhere"))
    status = status_pb2.Status(code=3, message="no", details=[info])

    def foreign(context: grpc.aio.ServicerContext[Any, Any]) -> None:
        value = status.SerializeToString()
        context.set_trailing_metadata((("grpc-status-details-bin", value),))
        context.set_code(grpc.StatusCode.INVALID_ARGUMENT)

    async with edge_stub(ActingEdge(foreign)) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetStatus(STATUS, timeout=20)
    assert type(from_rpc_error(caught.value, PEER)) is errors.InvalidRequest


async def test_a_call_that_goes_well_is_left_alone() -> None:
    async with edge_stub(ActingEdge(nothing)) as stub:
        answer = await stub.GetStatus(STATUS, timeout=20)
        steps = [event async for event in stub.Denoise(DENOISE, timeout=20)]
    assert answer.node_id == "fine"
    assert len(steps) == 2


def nothing(context: grpc.aio.ServicerContext[Any, Any]) -> None:
    """Leave the call as it is."""
