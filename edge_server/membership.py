"""Keeps an edge registered with its coordinator: joins, renews its lease, leaves."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import grpc.aio
import psutil

from baton.v1 import coordinator_pb2, coordinator_pb2_grpc
from common.errors import BatonError, ExecutionFailed
from common.rpc import PROTOCOL_VERSION
from common.rpc.access import Access
from common.rpc.channel import channel_to
from common.rpc.convert import MAX_FAMILY_MEMBERS
from common.rpc.status import from_rpc_error, parsed
from edge_server.registry import Occupancy

_log = logging.getLogger(__name__)
_CALL_TIMEOUT = 5.0
_FAREWELL_TIMEOUT = 0.5  # an edge that is told to go must not wait for its coordinator
_FIRST_RETRY, _LAST_RETRY = 0.2, 5.0


@dataclass(frozen=True)
class Identity:
    """What the coordinator is told once.

    members: those that are loaded here; family_members: all that the family has. secret: proves
    that the id is this edge's.
    """

    node_id: str
    address: str
    family: str
    members: tuple[str, ...]
    fingerprint: str
    family_members: tuple[str, ...] = ()
    secret: str = field(default="", repr=False)


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

    def __init__(self, link: Link, identity: Identity, occupancy: Callable[[], Occupancy]) -> None:
        self._link = link
        self._coordinator = link.coordinator
        self._identity = identity
        self._occupancy = occupancy
        self._incarnation = secrets.token_hex(16)

    async def run(self) -> None:
        retry, complaints = _FIRST_RETRY, set[str]()
        async with channel_to(self._coordinator, self._link.access) as channel:
            stub = coordinator_pb2_grpc.CoordinatorStub(channel)
            while True:
                try:
                    lease = await self._register(stub)
                    _log.info("registered with the coordinator at %s", self._coordinator)
                    retry, complaints = _FIRST_RETRY, set()
                    await self._renew(stub, lease)
                except (grpc.aio.AioRpcError, ExecutionFailed) as error:
                    complaint = self._complaint(error)
                    if complaint.status not in complaints:
                        _log.warning("%s; trying on", complaint)
                        complaints.add(complaint.status)
                await asyncio.sleep(retry)
                retry = min(2 * retry, _LAST_RETRY)

    def _complaint(self, error: grpc.aio.AioRpcError | ExecutionFailed) -> BatonError:
        if isinstance(error, ExecutionFailed):
            return error
        return from_rpc_error(error, self._coordinator)

    async def leave(self) -> None:
        """Tell the coordinator; if it does not answer, the lease runs out by itself."""
        try:
            async with channel_to(self._coordinator, self._link.access) as channel:
                stub = coordinator_pb2_grpc.CoordinatorStub(channel)
                request = coordinator_pb2.DeregisterRequest(
                    node_id=self._identity.node_id, incarnation=self._incarnation
                )
                await stub.Deregister(request, timeout=_FAREWELL_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            _log.info("could not deregister: %s", from_rpc_error(error, self._coordinator))

    async def _register(self, stub: coordinator_pb2_grpc.CoordinatorStub) -> float:
        identity = self._identity
        request = coordinator_pb2.RegisterRequest(
            protocol_version=PROTOCOL_VERSION,
            node_id=identity.node_id,
            address=identity.address,
            family=identity.family,
            members=identity.members,
            fingerprint=identity.fingerprint,
            load=self._load(),
            family_members=identity.family_members[:MAX_FAMILY_MEMBERS],
            incarnation=self._incarnation,
            secret=identity.secret,
        )
        answer = await stub.Register(request, timeout=_CALL_TIMEOUT)
        response = parsed(answer, self._coordinator)
        self._link.on_ticket_keys(response.ticket_keys)
        return response.lease_seconds

    async def _renew(self, stub: coordinator_pb2_grpc.CoordinatorStub, lease: float) -> None:
        """Heartbeat three times a lease; returns when the coordinator no longer knows the node."""
        known = True
        while known:
            await asyncio.sleep(lease / 3)
            request = coordinator_pb2.HeartbeatRequest(
                node_id=self._identity.node_id,
                load=self._load(),
                incarnation=self._incarnation,
            )
            answer = await stub.Heartbeat(request, timeout=_CALL_TIMEOUT)
            known = parsed(answer, self._coordinator).known

    def _load(self) -> coordinator_pb2.NodeLoad:
        occupancy = self._occupancy()
        return coordinator_pb2.NodeLoad(
            cpu=psutil.cpu_percent() / 100,
            memory=psutil.virtual_memory().percent / 100,
            active=occupancy.active,
            queued=occupancy.queued,
            capacity=occupancy.capacity,
        )
