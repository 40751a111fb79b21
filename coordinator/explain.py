"""A decision told in lines that a person can read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from baton.common.explanation import ArmScore, DecisionRecord, arms_by_bound
from baton.common.outcome import EdgeAttempt, Outcome


def explain(record: DecisionRecord) -> Iterator[str]:
    """Lines: the decision, why its arm, the other arms, the edges, the context, what came of it."""
    created = datetime.fromtimestamp(record.created_unix, UTC)
    owner = f" of {record.owner}" if record.owner else ""
    yield f"decision {record.decision_id} for request {record.request_id}{owner}"
    yield f"  taken {created:%Y-%m-%d %H:%M:%S} UTC; prefers {record.preference}"
    chance = f"drawn with probability {record.propensity:.3f}"
    yield f"arm {record.arm} of family {record.family}, {chance}:"
    yield f"  {record.reason}"
    yield from _arms(record)
    yield from _edges(record)
    yield from _context(record)
    yield from _ending(record)


def _arms(record: DecisionRecord) -> Iterator[str]:
    if not record.scores:
        yield "the other arms and the edges are no longer kept, the decision is too old"
        return
    yield from arms_by_bound(record.scores, record.arm)
    yield from _infeasible(record.scores)


def _infeasible(scores: Sequence[ArmScore]) -> Iterator[str]:
    reasons: dict[str, list[str]] = {}
    for score in scores:
        if not score.feasible:
            reasons.setdefault(score.reason, []).append(str(score.arm))
    if reasons:
        yield "arms that were not possible:"
    for reason, arms in reasons.items():
        yield f"  {', '.join(arms)}: {reason}"


def _edges(record: DecisionRecord) -> Iterator[str]:
    if not record.scores:
        return
    if record.edges:
        yield "edges, best first:"
    elif not record.arm.members_on("edge"):
        yield "edges: none needed, the arm runs on the device alone"
    for rank, edge in enumerate(record.edges, 1):
        yield f"  {rank}. {edge.node_id} at {edge.address}: {edge.reason}"
    if record.rejected:
        yield "edges that could not take part:"
    for edge in record.rejected:
        yield f"  {edge.node_id} at {edge.address}: {edge.reason}"


def _context(record: DecisionRecord) -> Iterator[str]:
    yield "what was known (0 to 1):"
    if len(record.features) != len(record.context):
        yield f"  {len(record.context)} entries whose names are not kept"
        return
    pairs = zip(record.features, record.context, strict=True)
    yield "  " + ", ".join(f"{name} {value:.2f}" for name, value in pairs)


def _ending(record: DecisionRecord) -> Iterator[str]:
    if record.state == "pending":
        yield "no report yet"
    elif record.state == "expired":
        yield f"never reported in time: reward {record.reward or 0.0:.3f}"
    elif record.outcome is None:
        yield "its device had hung up before the answer; nothing was learned from it"
    if record.outcome is None:
        return
    if record.outcome.attempts:
        yield "edges tried, in order:"
    for attempt in record.outcome.attempts:
        yield f"  {_attempt(attempt)}"
    if record.state == "withdrawn":
        yield "reported: withdrawn by its caller; nothing was learned from it"
    else:
        yield f"reported: {_outcome(record.outcome)}; reward {record.reward or 0.0:.3f}"


def _attempt(attempt: EdgeAttempt) -> str:
    name = f"{attempt.node_id or 'an edge'} at {attempt.address}"
    if attempt.did_its_part:
        return f"{name}: ran steps {attempt.start} to {attempt.stop}"
    got = f"after step {attempt.stop}" if attempt.stop > attempt.start else "without a step"
    if attempt.drained:
        return f"{name}: left {got}: {attempt.reason or 'no reason given'}"
    return f"{name}: failed {got} ({attempt.error}): {attempt.reason or 'no reason given'}"


def _outcome(outcome: Outcome) -> str:
    if not outcome.ok:
        return f"failed ({outcome.error or 'no status given'})"
    quality = "not scored" if outcome.quality is None else f"{outcome.quality:.3f}"
    ran = f", ran as {outcome.arm}" if outcome.arm else ""
    return f"{outcome.total_seconds:.2f} s, quality {quality}{ran}"
