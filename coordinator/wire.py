"""Between the coordinator's messages and its values, both ways, in one place.

What comes from the wire is checked by the values' own limits: InvalidRequest, naming the field.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from baton.common.errors import InvalidRequest
from baton.common.plan import Arm, EdgeChoice
from baton.common.request import PREFERENCES, Preference
from baton.common.rpc.convert import MAX_ATTEMPTS, MAX_FAMILY_MEMBERS
from baton.coordinator.checks import MAX_PROBES, check_members
from baton.coordinator.values import (
    ArmScore,
    ArmStats,
    DecideQuery,
    DecisionRecord,
    DecisionState,
    EdgeAttempt,
    NodeLoad,
    NodeState,
    NodeView,
    Outcome,
    PromptFeatures,
    Registration,
)
from baton.v1 import coordinator_pb2 as pb

# UNSPECIFIED, the default of a client that does not care, is balanced.
_PREFERENCES: dict[pb.Preference.ValueType, Preference] = {
    pb.PREFERENCE_UNSPECIFIED: "balanced",
    pb.PREFERENCE_QUALITY: "quality",
    pb.PREFERENCE_BALANCED: "balanced",
    pb.PREFERENCE_SPEED: "speed",
}
_STATES: tuple[DecisionState, ...] = ("pending", "rewarded", "expired", "withdrawn")
_NODE_STATES: tuple[NodeState, ...] = ("alive", "draining", "lost")
N = TypeVar("N", bound=str)


def load_from_proto(message: pb.NodeLoad) -> NodeLoad:
    return NodeLoad(message.cpu, message.memory, message.active, message.queued, message.capacity)


def load_to_proto(load: NodeLoad) -> pb.NodeLoad:
    return pb.NodeLoad(
        cpu=load.cpu,
        memory=load.memory,
        active=load.active,
        queued=load.queued,
        capacity=load.capacity,
    )


def registration_from_proto(message: pb.RegisterRequest) -> Registration:
    return Registration(
        node_id=message.node_id,
        address=message.address,
        family=message.family,
        members=check_members(message.members, "members"),
        fingerprint=message.fingerprint,
        load=load_from_proto(message.load),
        family_members=check_members(message.family_members, "family_members", MAX_FAMILY_MEMBERS),
        incarnation=message.incarnation,
        secret=message.secret,
    )


def query_from_proto(message: pb.DecideRequest, owner: str = "") -> DecideQuery:
    if message.preference not in _PREFERENCES:
        raise InvalidRequest(f"unknown preference {message.preference}")
    if len(message.probes) > MAX_PROBES:
        raise InvalidRequest(f"{len(message.probes)} probes; at most {MAX_PROBES}")
    prompt = message.prompt
    return DecideQuery(
        request_id=message.request_id,
        family=message.family,
        steps=message.steps,
        prompt=PromptFeatures(
            prompt.words, prompt.objects, prompt.attributes, prompt.relations, prompt.count
        ),
        preference=_PREFERENCES[message.preference],
        fingerprint=message.fingerprint,
        members=check_members(message.members, "members"),
        device_cpu=message.device_cpu,
        rtt_seconds=message.rtt_seconds,
        probes=tuple((probe.node_id, probe.rtt_seconds) for probe in message.probes),
        requested_arm=Arm.parse(message.arm) if message.arm else None,
        owner=owner,
        size=message.size,
    )


def outcome_from_proto(message: pb.ReportRequest) -> Outcome:
    if len(message.attempts) > MAX_ATTEMPTS:
        raise InvalidRequest(f"{len(message.attempts)} attempts; at most {MAX_ATTEMPTS}")
    return Outcome(
        ok=message.ok,
        arm=message.arm,
        total_seconds=message.total_seconds,
        edge_seconds=message.edge_seconds,
        device_seconds=message.device_seconds,
        bytes_sent=message.bytes_sent,
        bytes_received=message.bytes_received,
        quality=message.quality if message.HasField("quality") else None,
        error=message.error,
        attempts=tuple(_attempt_from_proto(attempt) for attempt in message.attempts),
    )


def outcome_to_proto(decision_id: str, outcome: Outcome) -> pb.ReportRequest:
    return pb.ReportRequest(
        decision_id=decision_id,
        ok=outcome.ok,
        arm=outcome.arm,
        total_seconds=outcome.total_seconds,
        edge_seconds=outcome.edge_seconds,
        device_seconds=outcome.device_seconds,
        bytes_sent=outcome.bytes_sent,
        bytes_received=outcome.bytes_received,
        quality=outcome.quality,
        error=outcome.error,
        attempts=[_attempt_to_proto(attempt) for attempt in outcome.attempts],
    )


def _attempt_from_proto(message: pb.EdgeAttempt) -> EdgeAttempt:
    return EdgeAttempt(
        message.node_id,
        message.address,
        message.start,
        message.stop,
        message.error,
        message.reason,
    )


def _attempt_to_proto(attempt: EdgeAttempt) -> pb.EdgeAttempt:
    return pb.EdgeAttempt(
        node_id=attempt.node_id,
        address=attempt.address,
        start=attempt.start,
        stop=attempt.stop,
        error=attempt.error,
        reason=attempt.reason,
    )


def edge_to_proto(edge: EdgeChoice) -> pb.EdgeCandidate:
    return pb.EdgeCandidate(node_id=edge.node_id, address=edge.address, reason=edge.reason)


def edge_from_proto(message: pb.EdgeCandidate) -> EdgeChoice:
    return EdgeChoice(message.node_id, message.address, message.reason)


def node_to_proto(node: NodeView) -> pb.Node:
    about = node.registration
    return pb.Node(
        node_id=about.node_id,
        address=about.address,
        family=about.family,
        members=about.members,
        fingerprint=about.fingerprint,
        load=load_to_proto(node.load),
        state=node.state,
        seconds_since_heartbeat=node.seconds_since_heartbeat,
    )


def node_from_proto(message: pb.Node) -> NodeView:
    about = Registration(
        message.node_id,
        message.address,
        message.family,
        tuple(message.members),
        message.fingerprint,
    )
    state = _known(message.state, _NODE_STATES)
    return NodeView(about, load_from_proto(message.load), state, message.seconds_since_heartbeat)


def _known(name: str, names: Sequence[N]) -> N:
    """The name, if it is one of ``names``."""
    for known in names:
        if name == known:
            return known
    raise InvalidRequest(f"{name[:32]!r} is none of {', '.join(names)}; update the older side")


def stats_to_proto(stats: ArmStats) -> pb.ArmStats:
    return pb.ArmStats(
        arm=stats.arm,
        pulls=stats.pulls,
        rewards=stats.rewards,
        mean_reward=stats.mean_reward,
        pending=stats.pending,
        family=stats.family,
    )


def stats_from_proto(message: pb.ArmStats) -> ArmStats:
    return ArmStats(
        message.family,
        message.arm,
        message.pulls,
        message.rewards,
        message.mean_reward,
        message.pending,
    )


def record_to_proto(record: DecisionRecord) -> pb.DecisionRecord:
    outcome = record.outcome
    return pb.DecisionRecord(
        decision_id=record.decision_id,
        request_id=record.request_id,
        created_unix=record.created_unix,
        family=record.family,
        arm=record.arm,
        propensity=record.propensity,
        explored=record.explored,
        state=record.state,
        reward=record.reward,
        preference=record.preference,
        context=record.context,
        scores=[_score_to_proto(score) for score in record.scores],
        edges=[edge_to_proto(edge) for edge in record.edges],
        reason=record.reason,
        report=None if outcome is None else outcome_to_proto(record.decision_id, outcome),
        owner=record.owner,
    )


def record_from_proto(
    message: pb.DecisionRecord, rejected: tuple[EdgeChoice, ...] = ()
) -> DecisionRecord:
    return DecisionRecord(
        decision_id=message.decision_id,
        request_id=message.request_id,
        created_unix=message.created_unix,
        family=message.family,
        preference=_known(message.preference, PREFERENCES),
        arm=message.arm,
        propensity=message.propensity,
        explored=message.explored,
        context=tuple(message.context),
        scores=tuple(_score_from_proto(score) for score in message.scores),
        edges=tuple(edge_from_proto(edge) for edge in message.edges),
        rejected=rejected,
        reason=message.reason,
        state=_known(message.state, _STATES),
        reward=message.reward if message.HasField("reward") else None,
        outcome=outcome_from_proto(message.report) if message.HasField("report") else None,
        owner=message.owner,
    )


def _score_to_proto(score: ArmScore) -> pb.ArmScore:
    return pb.ArmScore(
        arm=score.arm,
        feasible=score.feasible,
        estimate=score.estimate,
        bonus=score.bonus,
        reason=score.reason,
    )


def _score_from_proto(message: pb.ArmScore) -> ArmScore:
    return ArmScore(message.arm, message.feasible, message.estimate, message.bonus, message.reason)
