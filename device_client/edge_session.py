"""One request's exchange with one edge."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import grpc.aio

from baton.common.errors import (
    ConnectionBroken,
    Draining,
    ExecutionFailed,
    InvalidRequest,
    Unreachable,
)
from baton.common.foreign import cleaned
from baton.common.rpc.channels import Line
from baton.common.rpc.peer import Peer
from baton.common.rpc.status import parsed
from baton.device_client import wire
from baton.device_client.edge_answers import EdgeAnswers, Forgotten
from baton.device_client.edge_request import EdgeRequest, Listener, unheard
from baton.device_client.so_far import SoFar
from baton.v1 import edge_pb2, edge_pb2_grpc

_CANCEL_TIMEOUT = 1.0


class _Stalled(Unreachable):
    """The edge is there, and no step comes."""


class EdgeSession:
    """Follows a request at one edge, collecting into a `SoFar`, also where a connection breaks.

    forgotten: the edge was reached again after the connection broke, but it no longer knew the
    request; on_queued: hears how many wait before it there.
    """

    def __init__(
        self,
        address: str,
        request: EdgeRequest,
        so_far: SoFar,
        listener: Listener,
        on_queued: Callable[[int], None] = unheard,
    ) -> None:
        self._address = address
        self._request = request
        self._so_far = so_far
        self._answers = EdgeAnswers(address, request, so_far, listener, on_queued)
        self.forgotten = False

    @property
    def node_id(self) -> str:
        """As the edge calls itself; empty before it has."""
        return self._answers.node_id

    async def run(self, resume: bytes, timeout: float) -> None:
        """Follow the edge to its handoff or picture.

        ``resume``: the envelope to go on from, or nothing. If the connection breaks, the request is
        sought once more at the same edge, where it lingers. Raises the edge's BatonError; what was
        collected until then stays in the `SoFar`. If this task is cancelled, the edge is told.
        """
        message = wire.denoise_request(self._request, resume)
        deadline = time.monotonic() + timeout
        try:
            await self._follow(message, deadline, self._request.connect_timeout)
        except _Stalled:
            raise
        except Unreachable as error:
            accepted = self.node_id or isinstance(error, ConnectionBroken)
            if not (accepted and self._request.reattach_timeout):
                raise
            await self._follow_again(message, deadline, error)

    async def _follow_again(
        self, message: edge_pb2.DenoiseRequest, deadline: float, broken: Unreachable
    ) -> None:
        """Raises ``broken`` if the request is not to be found there any more."""
        try:
            await self._follow(message, deadline, self._request.reattach_timeout, broken)
        except Forgotten as error:
            self.forgotten = True
            raise broken from error
        except Unreachable as error:
            raise broken from error

    async def _follow(
        self,
        message: edge_pb2.DenoiseRequest,
        deadline: float,
        patience: float,
        broken: Unreachable | None = None,
    ) -> None:
        """One stream. ``broken``: why the one before it ended, whose channel is left by then."""
        async with self._line(patience) as line:
            stub = edge_pb2_grpc.EdgeStub(line.channel)
            self._so_far.sent += message.ByteSize()
            self._so_far.round_trips += 1 if line.stands else 2
            call = stub.Denoise(message, timeout=max(deadline - time.monotonic(), 0.001))
            try:
                await self._read(call, patience, broken)
            except (grpc.aio.AioRpcError, TimeoutError, Draining):
                raise
            except BaseException:  # the edge knows nothing of it and works on
                await self._cancel(stub)
                raise
            finally:
                call.cancel()

    @asynccontextmanager
    async def _line(self, patience: float) -> AsyncIterator[Line]:
        """The kept channel for a block of code, of which every failure is told in its terms."""
        address, request = self._address, self._request
        with cleaned(request.clean):
            channels = request.channels
            async with channels.to(address, request.access, request.most_bytes) as line:
                try:
                    yield line
                except grpc.aio.AioRpcError as error:
                    peer = Peer("an edge", address, request.access)
                    raise await peer.failure(error, line.channel) from error
                except TimeoutError as error:
                    raise Unreachable(
                        f"no answer from {address} within {patience:g} s; is it overloaded or"
                        " stopped?"
                    ) from error
                except InvalidRequest as error:  # the answer is bad, not the request
                    raise ExecutionFailed(f"{address} answered nonsense: {error}") from error

    async def _read(
        self,
        call: AsyncIterable[edge_pb2.DenoiseEvent],
        patience: float,
        broken: Unreachable | None,
    ) -> None:
        """Until the part is done. Raises TimeoutError if there is no answer at all."""
        loop, stall, answered = asyncio.get_running_loop(), self._request.stall_timeout, False
        try:
            async with asyncio.timeout(patience) as waiting:
                async for answer in call:
                    event = parsed(answer, self._address)
                    self._so_far.received += event.ByteSize()
                    if event.HasField("accepted"):
                        self._answers.accept(event.accepted, broken)
                    elif not self.node_id:
                        raise InvalidRequest("it has not said who it is")
                    if self._answers.take(event) or not answered:
                        waiting.reschedule(loop.time() + stall)
                    if self._so_far.done:
                        return  # nothing that is told after it counts
                    answered = True
        except TimeoutError as error:
            if not answered:
                raise
            raise _Stalled(f"{self._address} has reported no step for {stall:g} s") from error
        raise ExecutionFailed(f"the edge at {self._address} ended without a result")

    async def _cancel(self, stub: edge_pb2_grpc.EdgeStub) -> None:
        """Free the place at the edge; it may be gone, which is as good."""
        with suppress(grpc.aio.AioRpcError):
            request = wire.cancel_request(self._request.request_id)
            await stub.Cancel(request, timeout=_CANCEL_TIMEOUT)
