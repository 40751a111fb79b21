"""The coordinator's two services: conversions and nothing else."""

from __future__ import annotations

from typing import Any

from baton.common.errors import InvalidRequest
from baton.common.rpc import PROTOCOL_VERSION
from baton.common.rpc.auth import caller
from baton.common.rpc.convert import check_protocol
from baton.common.rpc.naming import check_id
from baton.coordinator import wire
from baton.coordinator.bandit.context import FEATURES
from baton.coordinator.decider import Decider
from baton.coordinator.fleet import Fleet
from baton.coordinator.tickets import Issuer
from baton.coordinator.values import DecisionRecord
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
        self._fleet.register(wire.registration_from_proto(request), caller().name)
        return pb.RegisterResponse(
            protocol_version=PROTOCOL_VERSION,
            lease_seconds=self._fleet.lease_seconds,
            ticket_keys=self._issuer.keys,
        )

    async def Heartbeat(self, request: pb.HeartbeatRequest, context: Any) -> pb.HeartbeatResponse:
        node_id = check_id(request.node_id, "node_id")
        load = wire.load_from_proto(request.load)
        known = self._fleet.heartbeat(
            node_id, load, request.draining, caller().name, request.incarnation
        )
        return pb.HeartbeatResponse(known=known)

    async def Deregister(
        self, request: pb.DeregisterRequest, context: Any
    ) -> pb.DeregisterResponse:
        node_id = check_id(request.node_id, "node_id")
        self._fleet.deregister(node_id, caller().name, request.incarnation)
        return pb.DeregisterResponse()

    async def Decide(self, request: pb.DecideRequest, context: Any) -> pb.DecideResponse:
        check_protocol(request.protocol_version, "the device")
        query = wire.query_from_proto(request, caller().name)
        record = await self._decider.decide(query)
        return pb.DecideResponse(
            protocol_version=PROTOCOL_VERSION,
            decision_id=record.decision_id,
            arm=record.arm,
            edges=[wire.edge_to_proto(edge) for edge in record.edges],
            reason=record.reason,
            ticket=self._issuer.ticket(query, record),
            offline_ticket=self._issuer.offline(query, record),
        )

    async def Report(self, request: pb.ReportRequest, context: Any) -> pb.ReportResponse:
        decision_id = check_id(request.decision_id, "decision_id")
        outcome = wire.outcome_from_proto(request)
        applied = await self._decider.report(decision_id, outcome, caller().name)
        return pb.ReportResponse(applied=applied)

    async def Explain(self, request: pb.ExplainRequest, context: Any) -> pb.ExplainResponse:
        """Only of the caller's own decisions, where callers are known."""
        return _explained(await self._decider.find(check_id(request.id, "id"), caller().name))


class AdminServicer(pb_grpc.AdminServicer):
    """For the operator."""

    def __init__(self, fleet: Fleet, decider: Decider) -> None:
        self._fleet = fleet
        self._decider = decider

    async def ListNodes(self, request: pb.ListNodesRequest, context: Any) -> pb.ListNodesResponse:
        return pb.ListNodesResponse(
            nodes=[wire.node_to_proto(node) for node in self._fleet.nodes()]
        )

    async def ListArms(self, request: pb.ListArmsRequest, context: Any) -> pb.ListArmsResponse:
        return pb.ListArmsResponse(
            arms=[wire.stats_to_proto(stats) for stats in self._decider.arms()]
        )

    async def ListDecisions(
        self, request: pb.ListDecisionsRequest, context: Any
    ) -> pb.ListDecisionsResponse:
        """Without scores and contexts, which would not fit into a message; Explain has them."""
        if request.limit > MAX_LIMIT:
            raise InvalidRequest(f"limit must be at most {MAX_LIMIT}, got {request.limit}")
        records = await self._decider.recent(request.limit or DEFAULT_LIMIT)
        decisions = [wire.record_to_proto(record) for record in records]
        for decision in decisions:
            decision.ClearField("scores")
            decision.ClearField("context")
        return pb.ListDecisionsResponse(decisions=decisions)

    async def Explain(self, request: pb.ExplainRequest, context: Any) -> pb.ExplainResponse:
        return _explained(await self._decider.find(check_id(request.id, "id")))


def _explained(record: DecisionRecord) -> pb.ExplainResponse:
    return pb.ExplainResponse(
        decision=wire.record_to_proto(record),
        features=FEATURES,
        rejected=[wire.edge_to_proto(edge) for edge in record.rejected],
    )
