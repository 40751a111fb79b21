"""The device's side of the coordinator: ask where to hand over, report how it went."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import grpc.aio
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from baton.v1 import coordinator_pb2, coordinator_pb2_grpc
from common.plan import Arm, Decision, EdgeChoice
from common.rpc import PROTOCOL_VERSION
from common.rpc.channel import channel_to
from common.rpc.convert import check_protocol
from common.rpc.status import from_rpc_error
from device_client.decide import Preference
from device_client.features import PromptFeatures

_log = logging.getLogger(__name__)

_PREFERENCES: dict[Preference, coordinator_pb2.Preference.ValueType] = {
    "quality": coordinator_pb2.PREFERENCE_QUALITY,
    "balanced": coordinator_pb2.PREFERENCE_BALANCED,
    "speed": coordinator_pb2.PREFERENCE_SPEED,
}


@dataclass(frozen=True)
class Situation:
    """What a decision depends on, as the device sees it. ``wish``: an arm to use, or nothing."""

    request_id: str
    features: PromptFeatures
    preference: Preference
    family: str
    fingerprint: str
    members: Sequence[str]
    steps: int
    wish: str = ""


async def ask(address: str, situation: Situation, timeout: float) -> Decision:
    """The coordinator's decision. Raises its BatonError, or Unreachable."""
    async with channel_to(address) as channel:
        try:
            rtt = await _round_trip(channel, timeout)
            stub = coordinator_pb2_grpc.CoordinatorStub(channel)
            response = await stub.Decide(_request(situation, rtt), timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, address) from error
    check_protocol(response.protocol_version, f"the coordinator at {address}")
    edges = tuple(EdgeChoice(edge.node_id, edge.address, edge.reason) for edge in response.edges)
    return Decision(response.decision_id, Arm.parse(response.arm), edges, response.reason)


async def report(address: str, message: coordinator_pb2.ReportRequest, timeout: float) -> bool:
    """Tell how it went; False if the coordinator could not be told."""
    async with channel_to(address) as channel:
        try:
            stub = coordinator_pb2_grpc.CoordinatorStub(channel)
            await stub.Report(message, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            _log.warning("the coordinator was not told: %s", from_rpc_error(error, address))
            return False
    return True


async def check_health(address: str, timeout: float) -> float:
    """Round trip to the coordinator, seconds. Raises Unreachable."""
    async with channel_to(address) as channel:
        try:
            return await _round_trip(channel, timeout)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, address) from error


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
        arm=situation.wish,
    )
