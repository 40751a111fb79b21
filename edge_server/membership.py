"""Keeps an edge registered with its coordinator: joins, renews its lease, leaves."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import grpc.aio
import psutil

from baton.common.errors import BatonError, ExecutionFailed
from baton.common.node import NodeLoad, Registration
from baton.common.rpc.access import Access
from baton.common.rpc.channel import channel_to
from baton.common.rpc.joining import deregister_request, heartbeat_request, registration_to_proto
from baton.common.rpc.peer import Peer
from baton.common.rpc.status import parsed
from baton.edge_server.requests.registry import Occupancy
from baton.v1 import coordinator_pb2_grpc

_log = logging.getLogger(__name__)
_RNG = random.SystemRandom()
_CALL_TIMEOUT = 5.0
_FAREWELL_TIMEOUT = 0.5  # an edge that is told to go must not wait for its coordinator
_FIRST_RETRY, _LAST_RETRY = 0.2, 5.0
_RETRY_JITTER, _HEARTBEAT_JITTER = 0.5, 0.2
_SHORTEST_LEASE, _LONGEST_LEASE = 0.05, 3600.0  # seconds


def jittered(seconds: float, share: float, rng: random.Random = _RNG) -> float:
    """A time up to that share shorter, so that edges of one moment do not stay in step."""
    return seconds * rng.uniform(1 - share, 1)


def back_off(rng: random.Random = _RNG) -> Iterator[float]:
    """Seconds between tries, without end: each time twice as many up to a bound, jittered."""
    seconds = _FIRST_RETRY
    while True:
        yield jittered(seconds, _RETRY_JITTER, rng)
        seconds = min(2 * seconds, _LAST_RETRY)


@dataclass(frozen=True)
class Link:
    """The coordinator's address and how it is reached.

    on_ticket_keys: hears, at every registration, whose tickets the coordinator vouches for.
    """

    coordinator: str
    access: Access
    on_ticket_keys: Callable[[Sequence[bytes]], None]


class Membership:
    """Runs until cancelled; a coordinator that cannot be joined is tried again.

    Each kind of failure is said once, until it has been joined. The coordinator tells one
    membership from another by its incarnation, so that one that is late speaks for itself alone.
    """

    def __init__(self, link: Link, about: Registration, occupancy: Callable[[], Occupancy]) -> None:
        self._link = link
        self._coordinator = Peer("a coordinator", link.coordinator, link.access)
        self._about = replace(about, incarnation=secrets.token_hex(16))
        self._occupancy = occupancy

    async def run(self) -> None:
        waits, complaints = back_off(), set[str]()
        async with channel_to(self._link.coordinator, self._link.access) as channel:
            stub = coordinator_pb2_grpc.CoordinatorStub(channel)
            while True:
                try:
                    lease = await self._register(stub)
                    _log.info("registered with %s", self._coordinator)
                    waits, complaints = back_off(), set()
                    await self._renew(stub, lease)
                except (grpc.aio.AioRpcError, ExecutionFailed) as error:
                    complaint = await self._complaint(error, channel)
                    if complaint.status not in complaints:
                        _log.warning("%s; trying on", complaint)
                        complaints.add(complaint.status)
                await asyncio.sleep(next(waits))

    async def _complaint(
        self, error: grpc.aio.AioRpcError | ExecutionFailed, channel: grpc.aio.Channel
    ) -> BatonError:
        if isinstance(error, ExecutionFailed):
            return error
        return await self._coordinator.failure(error, channel, _CALL_TIMEOUT)

    async def leave(self) -> None:
        """Tell the coordinator; if it does not answer, the lease runs out by itself."""
        try:
            async with self._coordinator.channel(_FAREWELL_TIMEOUT) as channel:
                stub = coordinator_pb2_grpc.CoordinatorStub(channel)
                await stub.Deregister(deregister_request(self._about), timeout=_FAREWELL_TIMEOUT)
        except BatonError as error:
            _log.info("could not deregister: %s", error)

    async def _register(self, stub: coordinator_pb2_grpc.CoordinatorStub) -> float:
        request = registration_to_proto(replace(self._about, load=self._load()))
        answer = await stub.Register(request, timeout=_CALL_TIMEOUT)
        response = parsed(answer, str(self._coordinator))
        lease = response.lease_seconds
        if not 0 < lease <= _LONGEST_LEASE:
            raise ExecutionFailed(f"{self._coordinator} named a lease of {lease:g} s")
        self._link.on_ticket_keys(response.ticket_keys)
        return max(lease, _SHORTEST_LEASE)

    async def _renew(self, stub: coordinator_pb2_grpc.CoordinatorStub, lease: float) -> None:
        """Heartbeat at least thrice a lease; returns when the coordinator knows no such node."""
        known = True
        while known:
            await asyncio.sleep(jittered(lease / 3, _HEARTBEAT_JITTER))
            request = heartbeat_request(self._about, self._load())
            answer = await stub.Heartbeat(request, timeout=_CALL_TIMEOUT)
            known = parsed(answer, str(self._coordinator)).known

    def _load(self) -> NodeLoad:
        now, memory = self._occupancy(), psutil.virtual_memory().percent / 100
        return NodeLoad(psutil.cpu_percent() / 100, memory, now.active, now.queued, now.capacity)
