"""Between a coordinator's messages and the values that it and the devices share, both ways.

What comes from the wire is checked by the values' own limits: InvalidRequest, naming the field.
Of a list one item more than the limit is handed on, so that it is refused before all is built.
Texts that come from a coordinator are made one line by a `Clean`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from baton.common.arm import MAX_ARM_CHARS, Arm
from baton.common.checks import MAX_ATTEMPTS, MAX_PROBES, check_members
from baton.common.decision import Decision, EdgeChoice
from baton.common.errors import InvalidRequest
from baton.common.explanation import DECISION_STATES, ArmScore, DecisionRecord
from baton.common.foreign import Clean, one_line
from baton.common.given import one_of
from baton.common.naming import MAX_ADDRESS_CHARS, check_id
from baton.common.outcome import EdgeAttempt, Outcome
from baton.common.query import DecideQuery, PromptFeatures
from baton.common.request import PREFERENCES, Preference
from baton.common.rpc import PROTOCOL_VERSION
from baton.common.rpc.tickets import MAX_TICKET_CHARS
from baton.common.size import Size
from baton.v1 import coordinator_pb2 as pb
from baton.v1 import plan_pb2

_PREFERENCES: dict[Preference, pb.Preference.ValueType] = {
    "quality": pb.PREFERENCE_QUALITY,
    "balanced": pb.PREFERENCE_BALANCED,
    "speed": pb.PREFERENCE_SPEED,
}
_PREFERENCE_NAMES: dict[pb.Preference.ValueType, Preference] = {
    pb.PREFERENCE_UNSPECIFIED: "balanced",  # of a client that does not care
    **{number: name for name, number in _PREFERENCES.items()},
}
N = TypeVar("N", bound=str)


def query_to_proto(query: DecideQuery) -> pb.DecideRequest:
    """Its owner is left out: who asks, proves it elsewhere."""
    prompt = query.prompt
    return pb.DecideRequest(
        protocol_version=PROTOCOL_VERSION,
        request_id=query.request_id,
        prompt=pb.PromptFeatures(
            words=prompt.words,
            objects=prompt.objects,
            attributes=prompt.attributes,
            relations=prompt.relations,
            count=prompt.count,
        ),
        preference=_PREFERENCES[query.preference],
        family=query.family,
        fingerprint=query.fingerprint,
        members=query.members,
        steps=query.steps,
        device_cpu=query.device_cpu,
        rtt_seconds=query.rtt_seconds,
        probes=[pb.EdgeProbe(node_id=name, rtt_seconds=rtt) for name, rtt in query.probes],
        arm=_arm_to_proto(query.requested_arm),
        width=query.size.width if query.size else 0,
        height=query.size.height if query.size else 0,
        latent_space=plan_pb2.LatentSpace(id=query.latent_space),
        any_steps=query.any_steps,
        partial_members=query.partial_members,
    )


def query_from_proto(message: pb.DecideRequest, owner: str = "") -> DecideQuery:
    if message.preference not in _PREFERENCE_NAMES:
        raise InvalidRequest(f"unknown preference {message.preference}")
    prompt = message.prompt
    return DecideQuery(
        request_id=message.request_id,
        family=message.family,
        steps=message.steps,
        prompt=PromptFeatures(
            prompt.words, prompt.objects, prompt.attributes, prompt.relations, prompt.count
        ),
        preference=_PREFERENCE_NAMES[message.preference],
        fingerprint=message.fingerprint,
        members=check_members(message.members, "members"),
        device_cpu=message.device_cpu,
        rtt_seconds=message.rtt_seconds,
        probes=tuple(
            (probe.node_id, probe.rtt_seconds) for probe in message.probes[: MAX_PROBES + 1]
        ),
        requested_arm=_optional_arm(message.arm),
        owner=owner,
        size=Size(message.width, message.height) if message.width or message.height else None,
        latent_space=message.latent_space.id,
        any_steps=message.any_steps,
        partial_members=check_members(message.partial_members, "partial_members"),
    )


def decision_to_proto(
    record: DecisionRecord, ticket: str = "", offline_ticket: str = ""
) -> pb.DecideResponse:
    return pb.DecideResponse(
        protocol_version=PROTOCOL_VERSION,
        decision_id=record.decision_id,
        arm=str(record.arm),
        edges=[_edge_to_proto(edge) for edge in record.edges],
        reason=record.reason,
        ticket=ticket,
        offline_ticket=offline_ticket,
    )


def decision_from_proto(message: pb.DecideResponse, clean: Clean = one_line) -> Decision:
    """The decision, without the ticket for a later time, which is as short as the other."""
    if max(len(message.ticket), len(message.offline_ticket)) > MAX_TICKET_CHARS:
        raise InvalidRequest("the ticket is too long for one")
    return Decision(
        check_id(message.decision_id, "decision_id"),
        arm_from_proto(message.arm),
        tuple(_edge_from_proto(edge, clean) for edge in message.edges),
        clean(message.reason),
        message.ticket,
    )


def outcome_to_proto(decision_id: str, outcome: Outcome) -> pb.ReportRequest:
    return pb.ReportRequest(
        decision_id=decision_id,
        ok=outcome.ok,
        arm=_arm_to_proto(outcome.arm),
        total_seconds=outcome.total_seconds,
        edge_seconds=outcome.edge_seconds,
        device_seconds=outcome.device_seconds,
        bytes_sent=outcome.bytes_sent,
        bytes_received=outcome.bytes_received,
        quality=outcome.quality,
        error=outcome.error,
        attempts=[_attempt_to_proto(attempt) for attempt in outcome.attempts],
        edge_compute_seconds=outcome.edge_compute_seconds,
        edge_queue_seconds=outcome.edge_queue_seconds,
        transfer_seconds=outcome.transfer_seconds,
        handoff_seconds=outcome.handoff_seconds,
    )


def outcome_from_proto(message: pb.ReportRequest) -> Outcome:
    return Outcome(
        ok=message.ok,
        arm=_optional_arm(message.arm),
        total_seconds=message.total_seconds,
        edge_seconds=message.edge_seconds,
        device_seconds=message.device_seconds,
        bytes_sent=message.bytes_sent,
        bytes_received=message.bytes_received,
        quality=message.quality if message.HasField("quality") else None,
        error=message.error,
        attempts=tuple(map(_attempt_from_proto, message.attempts[: MAX_ATTEMPTS + 1])),
        edge_compute_seconds=message.edge_compute_seconds,
        edge_queue_seconds=message.edge_queue_seconds,
        transfer_seconds=message.transfer_seconds,
        handoff_seconds=message.handoff_seconds,
    )


def report_answer(applied: bool) -> pb.ReportResponse:
    return pb.ReportResponse(applied=applied)


def explain_request(key: str) -> pb.ExplainRequest:
    return pb.ExplainRequest(id=key)


def _attempt_to_proto(attempt: EdgeAttempt) -> pb.EdgeAttempt:
    return pb.EdgeAttempt(
        node_id=attempt.node_id,
        address=attempt.address,
        start=attempt.start,
        stop=attempt.stop,
        error=attempt.error,
        reason=attempt.reason,
        drained=attempt.drained,
    )


def _attempt_from_proto(message: pb.EdgeAttempt) -> EdgeAttempt:
    return EdgeAttempt(
        message.node_id,
        message.address,
        message.start,
        message.stop,
        message.error,
        message.reason,
        message.drained,
    )


def _edge_to_proto(edge: EdgeChoice) -> pb.EdgeCandidate:
    return pb.EdgeCandidate(node_id=edge.node_id, address=edge.address, reason=edge.reason)


def _edge_from_proto(message: pb.EdgeCandidate, clean: Clean = one_line) -> EdgeChoice:
    node_id = check_id(message.node_id, "edges.node_id")
    address = check_id(message.address, "edges.address", MAX_ADDRESS_CHARS)
    return EdgeChoice(node_id, address, clean(message.reason))


def explanation_to_proto(record: DecisionRecord) -> pb.ExplainResponse:
    return pb.ExplainResponse(
        decision=record_to_proto(record),
        features=record.features,
        rejected=[_edge_to_proto(edge) for edge in record.rejected],
    )


def explanation_from_proto(message: pb.ExplainResponse) -> DecisionRecord:
    rejected = tuple(_edge_from_proto(edge) for edge in message.rejected)
    features = tuple(map(one_line, message.features))
    return replace(record_from_proto(message.decision), rejected=rejected, features=features)


def record_to_proto(record: DecisionRecord) -> pb.DecisionRecord:
    """Without rejected edges and the names of the context, which are told beside it."""
    outcome = record.outcome
    return pb.DecisionRecord(
        decision_id=record.decision_id,
        request_id=record.request_id,
        created_unix=record.created_unix,
        family=record.family,
        arm=str(record.arm),
        propensity=record.propensity,
        explored=record.explored,
        state=record.state,
        reward=record.reward,
        preference=record.preference,
        context=record.context,
        scores=[_score_to_proto(score) for score in record.scores],
        edges=[_edge_to_proto(edge) for edge in record.edges],
        reason=record.reason,
        report=None if outcome is None else outcome_to_proto(record.decision_id, outcome),
        owner=record.owner,
        latent_space=record.latent_space,
    )


def record_from_proto(message: pb.DecisionRecord) -> DecisionRecord:
    return DecisionRecord(
        decision_id=one_line(message.decision_id),
        request_id=one_line(message.request_id),
        created_unix=message.created_unix,
        family=one_line(message.family),
        preference=known("a preference", message.preference, PREFERENCES),
        arm=arm_from_proto(message.arm),
        propensity=message.propensity,
        explored=message.explored,
        context=tuple(message.context),
        scores=tuple(_score_from_proto(score) for score in message.scores),
        edges=tuple(_edge_from_proto(edge) for edge in message.edges),
        reason=one_line(message.reason),
        state=known("a state", message.state, DECISION_STATES),
        reward=message.reward if message.HasField("reward") else None,
        outcome=outcome_from_proto(message.report) if message.HasField("report") else None,
        owner=one_line(message.owner),
        latent_space=one_line(message.latent_space),
    )


def arm_from_proto(name: str) -> Arm:
    """Raises InvalidRequest for what is no arm, or cannot be printed as it is."""
    return Arm.parse(check_id(name, "arm", MAX_ARM_CHARS))


def _optional_arm(name: str) -> Arm | None:
    return arm_from_proto(name) if name else None


def _arm_to_proto(arm: Arm | None) -> str:
    return "" if arm is None else str(arm)


def known(what: str, name: str, names: Sequence[N]) -> N:
    """The name, if it is one of ``names``. Raises InvalidRequest."""
    try:
        return one_of(what, name, names)
    except InvalidRequest as error:
        raise InvalidRequest(f"{error}; update the older side") from error


def _score_to_proto(score: ArmScore) -> pb.ArmScore:
    return pb.ArmScore(
        arm=str(score.arm),
        feasible=score.feasible,
        estimate=score.estimate,
        bonus=score.bonus,
        reason=score.reason,
    )


def _score_from_proto(message: pb.ArmScore) -> ArmScore:
    return ArmScore(
        arm_from_proto(message.arm),
        message.feasible,
        message.estimate,
        message.bonus,
        one_line(message.reason),
    )
