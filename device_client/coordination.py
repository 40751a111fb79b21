"""The device's side of the coordinator: ask where to hand over, report how it went."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TypeVar

import grpc.aio
import psutil
from grpc_health.v1 import health_pb2_grpc

from baton.common.decision import Decision
from baton.common.errors import (
    BatonError,
    ConnectionBroken,
    ExecutionFailed,
    InvalidRequest,
    UnknownName,
)
from baton.common.explanation import DecisionRecord
from baton.common.foreign import Clean, cleaned, one_line
from baton.common.outcome import Outcome
from baton.common.query import DecideQuery
from baton.common.rpc import deciding
from baton.common.rpc.access import Access
from baton.common.rpc.channel import CONTROL_BYTES
from baton.common.rpc.channels import Channels, Line
from baton.common.rpc.convert import check_protocol
from baton.common.rpc.peer import Peer, health_request
from baton.common.rpc.status import parsed
from baton.device_client.offline_tickets import OfflineTickets
from baton.device_client.static_decision import is_static
from baton.v1 import coordinator_pb2, coordinator_pb2_grpc

M = TypeVar("M")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Link:
    """Where the coordinator is, how it is reached, and how long it may take to answer, seconds.

    clean: what its texts pass through; channels: in which the channel to it is kept.
    """

    address: str
    access: Access
    timeout: float
    clean: Clean = field(default=one_line, repr=False)
    channels: Channels = field(default_factory=Channels, repr=False)

    @property
    def peer(self) -> Peer:
        return Peer("a coordinator", self.address, self.access)


async def ask(
    link: Link,
    query: DecideQuery,
    offline: OfflineTickets | None = None,
    on_trip: Callable[[], None] = lambda: None,
) -> Decision:
    """The coordinator's decision, within the link's timeout from end to end.

    query: without the machine's load and the round trip, which are added here. ``offline`` takes
    the ticket for a later time without a coordinator; ``on_trip`` hears of each round trip. Raises
    the coordinator's BatonError, or Unreachable; ExecutionFailed for what no coordinator decides.
    """

    async def decide(line: Line) -> coordinator_pb2.DecideResponse:
        if not line.stands:
            on_trip()
            await line.connect()
        on_trip()
        cpu, rtt = psutil.cpu_percent() / 100, line.round_trip
        request = deciding.query_to_proto(replace(query, device_cpu=cpu, rtt_seconds=rtt))
        begun, stub = time.monotonic(), coordinator_pb2_grpc.CoordinatorStub(line.channel)
        answer = parsed(await stub.Decide(request, timeout=link.timeout), str(link.peer))
        line.took(time.monotonic() - begun)
        return answer

    with cleaned(link.clean):
        response = await _called(link, decide)
        check_protocol(response.protocol_version, str(link.peer))
        with _answered(link):
            decision = deciding.decision_from_proto(response, link.clean)
        if is_static(decision.decision_id):
            raise ExecutionFailed("the coordinator's decision has no id of its own")
    if offline is not None:
        offline.keep(response.offline_ticket, [edge.address for edge in decision.edges])
    return decision


@contextlib.contextmanager
def _answered(link: Link) -> Iterator[None]:
    """What is wrong with an answer is no fault of the request."""
    try:
        yield
    except InvalidRequest as error:
        raise ExecutionFailed(f"{link.peer} answered nonsense: {error}") from error


async def _called(link: Link, call: Callable[[Line], Awaitable[M]]) -> M:
    """A call on the kept channel; once more on a new one if that one breaks under it.

    Whatever is called so may be called twice.
    """
    deadline = asyncio.get_running_loop().time() + link.timeout
    try:
        async with _line(link, deadline) as line:
            return await call(line)
    except ConnectionBroken:
        async with _line(link, deadline) as line:
            return await call(line)


@contextlib.asynccontextmanager
async def _line(link: Link, deadline: float) -> AsyncIterator[Line]:
    """The channel for a block of code, in which what fails is explained as by `Peer.failure`."""
    async with link.channels.to(link.address, link.access, CONTROL_BYTES) as line:
        try:
            async with asyncio.timeout_at(deadline):
                try:
                    yield line
                except grpc.aio.AioRpcError as error:
                    raise await link.peer.failure(error, line.channel, link.timeout) from error
        except TimeoutError as error:
            raise link.peer.silent(link.timeout) from error


@contextlib.contextmanager
def reporting() -> Iterator[None]:
    """A report that cannot be made or sent costs a warning, never a picture."""
    try:
        yield
    except BatonError as error:
        _log.warning("the coordinator was not told: %s", error)


async def report(link: Link, decision_id: str, outcome: Outcome) -> None:
    """Tell how it went. Raises the coordinator's BatonError, or Unreachable."""
    request = deciding.outcome_to_proto(decision_id, outcome)

    async def tell(line: Line) -> None:
        stub = coordinator_pb2_grpc.CoordinatorStub(line.channel)
        await stub.Report(request, timeout=link.timeout)

    with cleaned(link.clean):
        await _called(link, tell)


async def explain(link: Link, decision_id: str) -> DecisionRecord:
    """All that the coordinator knows of a decision. Raises its BatonError, or Unreachable."""
    async with link.peer.channel(link.timeout) as channel:
        stub = coordinator_pb2_grpc.CoordinatorStub(channel)
        request = deciding.explain_request(decision_id)
        answer = parsed(await stub.Explain(request, timeout=link.timeout), str(link.peer))
    with _answered(link):
        return deciding.explanation_from_proto(answer)


async def check_health(link: Link) -> float:
    """Round trip to the coordinator, seconds, if it would also answer this device.

    Raises Unreachable, Unauthenticated or PermissionDenied.
    """
    rtt = 0.0
    with suppress(UnknownName):  # which only those hear who may ask
        async with link.peer.channel(link.timeout) as channel:
            rtt = await _round_trip(channel, link.timeout)
            stub = coordinator_pb2_grpc.CoordinatorStub(channel)
            await stub.Explain(deciding.explain_request("-"), timeout=link.timeout)
    return rtt


async def _round_trip(channel: grpc.aio.Channel, timeout: float) -> float:
    """Seconds of one small call on the open connection."""
    stub, request = health_pb2_grpc.HealthStub(channel), health_request()
    await stub.Check(request, timeout=timeout)
    begun = time.monotonic()
    await stub.Check(request, timeout=timeout)
    return time.monotonic() - begun
