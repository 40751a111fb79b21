"""The coordinator's two services: conversions and nothing else."""

from __future__ import annotations

from typing import Any

from baton.common.errors import InvalidRequest
from baton.common.naming import check_id
from baton.common.rpc import deciding, joining
from baton.common.rpc.auth import caller
from baton.common.rpc.convert import check_protocol
from baton.coordinator import wire
from baton.coordinator.decider import Decider
from baton.coordinator.fleet import Fleet
from baton.coordinator.tickets import Issuer
from baton.v1 import coordinator_pb2 as pb
from baton.v1 import coordinator_pb2_grpc as pb_grpc

DEFAULT_LIMIT = 20
MAX_LIMIT = 1_000


class CoordinatorServicer(pb_grpc.CoordinatorServicer):
    """For edges and devices."""

    def __init__(self, fleet: Fleet, decider: Decider, issuer: Issuer) -> None:
        self._fleet = fleet
        self._decider = decider
        self._issuer = issuer

    async def Register(self, request: pb.RegisterRequest, context: Any) -> pb.RegisterResponse:
        check_protocol(request.protocol_version, "the edge")
        self._fleet.register(joining.registration_from_proto(request), caller().name)
        return joining.register_answer(self._fleet.lease_seconds, self._issuer.keys)

    async def Heartbeat(self, request: pb.HeartbeatRequest, context: Any) -> pb.HeartbeatResponse:
        node_id = check_id(request.node_id, "node_id")
        load = joining.load_from_proto(request.load)
        known = self._fleet.heartbeat(
            node_id, load, request.draining, caller().name, request.incarnation
        )
        return joining.heartbeat_answer(known)

    async def Deregister(
        self, request: pb.DeregisterRequest, context: Any
    ) -> pb.DeregisterResponse:
        node_id = check_id(request.node_id, "node_id")
        self._fleet.deregister(node_id, caller().name, request.incarnation)
        return joining.deregister_answer()

    async def Decide(self, request: pb.DecideRequest, context: Any) -> pb.DecideResponse:
        check_protocol(request.protocol_version, "the device")
        query = deciding.query_from_proto(request, caller().name)
        record = await self._decider.decide(query)
        ticket, offline = self._issuer.ticket(query, record), self._issuer.offline(query, record)
        return deciding.decision_to_proto(record, ticket, offline)

    async def Report(self, request: pb.ReportRequest, context: Any) -> pb.ReportResponse:
        decision_id = check_id(request.decision_id, "decision_id")
        outcome = deciding.outcome_from_proto(request)
        applied = await self._decider.report(decision_id, outcome, caller().name)
        return deciding.report_answer(applied)

    async def Explain(self, request: pb.ExplainRequest, context: Any) -> pb.ExplainResponse:
        """Only of the caller's own decisions, where callers are known."""
        record = await self._decider.find(check_id(request.id, "id"), caller().name)
        return deciding.explanation_to_proto(record)


class AdminServicer(pb_grpc.AdminServicer):
    """For the operator."""

    def __init__(self, fleet: Fleet, decider: Decider) -> None:
        self._fleet = fleet
        self._decider = decider

    async def ListNodes(self, request: pb.ListNodesRequest, context: Any) -> pb.ListNodesResponse:
        return wire.nodes_to_proto(self._fleet.nodes())

    async def ListArms(self, request: pb.ListArmsRequest, context: Any) -> pb.ListArmsResponse:
        return wire.arms_to_proto(self._decider.arms())

    async def ListDecisions(
        self, request: pb.ListDecisionsRequest, context: Any
    ) -> pb.ListDecisionsResponse:
        if request.limit > MAX_LIMIT:
            raise InvalidRequest(f"limit must be at most {MAX_LIMIT}, got {request.limit}")
        records = await self._decider.recent(request.limit or DEFAULT_LIMIT)
        return wire.decisions_to_proto(records)

    async def Explain(self, request: pb.ExplainRequest, context: Any) -> pb.ExplainResponse:
        record = await self._decider.find(check_id(request.id, "id"))
        return deciding.explanation_to_proto(record)
