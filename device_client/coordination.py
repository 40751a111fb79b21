"""The device's side of the coordinator: ask where to hand over, report how it went."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

import grpc.aio
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from baton.common.errors import BatonError, ExecutionFailed, UnknownName
from baton.common.plan import Arm, Decision, EdgeChoice
from baton.common.request import Preference
from baton.common.rpc import PROTOCOL_VERSION
from baton.common.rpc.access import Access
from baton.common.rpc.convert import MAX_ATTEMPTS, check_protocol
from baton.common.rpc.peer import Peer
from baton.common.rpc.status import parsed
from baton.common.rpc.tickets import MAX_TICKET_CHARS
from baton.device_client.decide import is_static
from baton.device_client.features import PromptFeatures
from baton.device_client.offline_tickets import OfflineTickets
from baton.device_client.result import EdgeAttempt
from baton.v1 import coordinator_pb2, coordinator_pb2_grpc

_log = logging.getLogger(__name__)
_ID = re.compile(r"[!-~]{1,128}")

_PREFERENCES: dict[Preference, coordinator_pb2.Preference.ValueType] = {
    "quality": coordinator_pb2.PREFERENCE_QUALITY,
    "balanced": coordinator_pb2.PREFERENCE_BALANCED,
    "speed": coordinator_pb2.PREFERENCE_SPEED,
}


@dataclass(frozen=True)
class Link:
    """Where the coordinator is, how it is reached, and how long it may take to answer, seconds."""

    address: str
    access: Access
    timeout: float

    @property
    def peer(self) -> Peer:
        return Peer("a coordinator", self.address, self.access)


@dataclass(frozen=True)
class Situation:
    """What a decision depends on, as the device sees it. ``requested_arm``: may be empty."""

    request_id: str
    features: PromptFeatures
    preference: Preference
    family: str
    fingerprint: str
    members: Sequence[str]
    steps: int
    size: int = 0
    requested_arm: str = ""


async def ask(link: Link, situation: Situation, offline: OfflineTickets | None = None) -> Decision:
    """The coordinator's decision, within the link's timeout from end to end.

    ``offline`` takes the ticket for a later time without a coordinator. Raises the coordinator's
    BatonError, or Unreachable.
    """
    try:
        async with asyncio.timeout(link.timeout):
            response = await _decide(link, situation)
    except TimeoutError as error:
        raise link.peer.silent(link.timeout) from error
    check_protocol(response.protocol_version, str(link.peer))
    _check_decision(response)
    edges = tuple(EdgeChoice(edge.node_id, edge.address, edge.reason) for edge in response.edges)
    if offline is not None:
        offline.keep(response.offline_ticket, [edge.address for edge in edges])
    arm = Arm.parse(response.arm)
    return Decision(response.decision_id, arm, edges, response.reason, response.ticket)


def _check_decision(response: coordinator_pb2.DecideResponse) -> None:
    """Raises ExecutionFailed for an id or a ticket that no coordinator gives."""
    if not _ID.fullmatch(response.decision_id) or is_static(response.decision_id):
        raise ExecutionFailed("the coordinator's decision has no id")
    if max(len(response.ticket), len(response.offline_ticket)) > MAX_TICKET_CHARS:
        raise ExecutionFailed("the coordinator's ticket is too long for one")


async def _decide(link: Link, situation: Situation) -> coordinator_pb2.DecideResponse:
    async with link.peer.channel(link.timeout) as channel:
        rtt = await _round_trip(channel, link.timeout)
        stub = coordinator_pb2_grpc.CoordinatorStub(channel)
        request = _request(situation, rtt)
        return parsed(await stub.Decide(request, timeout=link.timeout), str(link.peer))


async def report(link: Link, message: coordinator_pb2.ReportRequest) -> bool:
    """Tell how it went; False if the coordinator could not be told."""
    try:
        async with link.peer.channel(link.timeout) as channel:
            stub = coordinator_pb2_grpc.CoordinatorStub(channel)
            await stub.Report(message, timeout=link.timeout)
    except BatonError as error:
        _log.warning("the coordinator was not told: %s", error)
        return False
    return True


async def explain(link: Link, decision_id: str) -> coordinator_pb2.ExplainResponse:
    """All that the coordinator knows of a decision. Raises its BatonError, or Unreachable."""
    async with link.peer.channel(link.timeout) as channel:
        stub = coordinator_pb2_grpc.CoordinatorStub(channel)
        request = coordinator_pb2.ExplainRequest(id=decision_id)
        return parsed(await stub.Explain(request, timeout=link.timeout), str(link.peer))


def attempts_to_proto(attempts: Sequence[EdgeAttempt]) -> list[coordinator_pb2.EdgeAttempt]:
    """The newest attempts, as many as a report may hold.

    A name that is no id, which only a hostile edge has, would spoil the report, or carry the
    prompt: it is left out.
    """
    named = [
        attempt if _ID.fullmatch(attempt.node_id) else replace(attempt, node_id="")
        for attempt in attempts[-MAX_ATTEMPTS:]
    ]
    return [coordinator_pb2.EdgeAttempt(**asdict(attempt)) for attempt in named]


async def check_health(link: Link) -> float:
    """Round trip to the coordinator, seconds, if it would also answer this device.

    Raises Unreachable, Unauthenticated or PermissionDenied.
    """
    rtt = 0.0
    with suppress(UnknownName):  # which only those hear who may ask
        async with link.peer.channel(link.timeout) as channel:
            rtt = await _round_trip(channel, link.timeout)
            stub = coordinator_pb2_grpc.CoordinatorStub(channel)
            await stub.Explain(coordinator_pb2.ExplainRequest(id="-"), timeout=link.timeout)
    return rtt


async def _round_trip(channel: grpc.aio.Channel, timeout: float) -> float:
    """Seconds of one small call on the open connection."""
    stub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest()
    await stub.Check(request, timeout=timeout)
    begun = time.monotonic()
    await stub.Check(request, timeout=timeout)
    return time.monotonic() - begun


def _request(situation: Situation, rtt: float) -> coordinator_pb2.DecideRequest:
    features = situation.features
    return coordinator_pb2.DecideRequest(
        protocol_version=PROTOCOL_VERSION,
        request_id=situation.request_id,
        prompt=coordinator_pb2.PromptFeatures(
            words=features.words,
            objects=features.objects,
            attributes=features.attributes,
            relations=features.relations,
            count=features.count,
        ),
        preference=_PREFERENCES[situation.preference],
        family=situation.family,
        fingerprint=situation.fingerprint,
        members=situation.members,
        steps=situation.steps,
        device_cpu=psutil.cpu_percent() / 100,
        rtt_seconds=rtt,
        arm=situation.requested_arm,
        size=situation.size,
    )
