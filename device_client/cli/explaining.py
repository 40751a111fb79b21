"""``baton explain``: the story of one request, from the device's journal and its coordinator."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from baton.common.cli import print_json
from baton.common.errors import BatonError
from baton.common.explanation import DecisionRecord, arms_by_bound
from baton.common.guidance import NO_BUDGET, parse_budget
from baton.common.limits import Location
from baton.common.outcome import EdgeAttempt
from baton.common.plain import plain
from baton.device_client import coordination
from baton.device_client.journal import Entry, Journal, Stretch
from baton.device_client.settings import DeviceSettings

#: Of a request's seconds, in the order in which they pass.
_PARTS = {
    "deciding": "deciding",
    "queue": "waiting at edges",
    "edge": "computed there",
    "transfer": "on the way",
    "device": "here",
    "decode": "decoding here",
}


@dataclass(frozen=True)
class Hindsight:
    """What the coordinator adds, or the reason why it adds nothing."""

    told: DecisionRecord | None = None
    silence: str = ""


def explain(settings: DeviceSettings, key: str, as_json: bool) -> None:
    """Print what is known of the request. Raises UnknownName."""
    journal = Journal.within(settings.state_folder, settings.journal_requests)
    entry = journal.find(key)
    hindsight = _ask(settings, entry)
    if as_json:
        print_json(asdict(entry) | {"coordinator": _row(hindsight)})
    else:
        print("\n".join(story(entry, hindsight)))


def _ask(settings: DeviceSettings, entry: Entry) -> Hindsight:
    if entry.decision is None or not entry.decision.coordinator:
        return Hindsight()
    address, timeout = entry.decision.coordinator, settings.coordinator_timeout
    try:
        link = coordination.Link(address, settings.access(), timeout)
        return Hindsight(asyncio.run(coordination.explain(link, entry.decision.decision_id)))
    except BatonError as error:
        return Hindsight(silence=str(error))


def _row(hindsight: Hindsight) -> dict[str, object] | None:
    """For programs; None if no coordinator had a part in it."""
    record = hindsight.told
    if record is None:
        return {"error": hindsight.silence} if hindsight.silence else None
    return {
        "propensity": record.propensity,
        "explored": record.explored,
        "state": record.state,
        "reward": record.reward,
        "context": dict(zip(record.features, record.context, strict=False)),
        "scores": [plain(score) for score in record.scores],
        "rejected": [plain(edge) for edge in record.rejected],
    }


def story(entry: Entry, hindsight: Hindsight) -> Iterator[str]:
    """The request in lines: how it ended, why it went where, what ran, what it cost."""
    created = datetime.fromtimestamp(entry.created_unix, UTC)
    yield f"request {entry.request_id}: {_ending(entry)}"
    yield f"  asked {created:%Y-%m-%d %H:%M:%S} UTC; {_terms(entry)}"
    yield from _decision(entry)
    yield from _arms(entry, hindsight)
    yield from _edges(entry, hindsight)
    yield from _steps("planned", entry.planned)
    yield from _budget(entry)
    yield from _steps("ran", entry.executed)
    yield from _cost(entry)
    for note in entry.notes:
        yield f"note: {note}"
    if hindsight.silence:
        yield f"the coordinator adds nothing: {hindsight.silence}"


def _ending(entry: Entry) -> str:
    if entry.ending == "picture":
        scores = {True: "verified", False: "not verified", None: "not verifiable"}
        return f"a picture, {scores[entry.verified]}"
    if entry.ending == "cancelled":
        return "withdrawn by its caller"
    return f"failed ({entry.error}): {entry.message}"


def _terms(entry: Entry) -> str:
    parts = [f"family {entry.family}", f"prefers {entry.preference}"]
    parts += [f"{entry.steps} steps"] if entry.steps is not None else []
    parts += [f"guidance {entry.guidance:g}"] if entry.guidance is not None else []
    parts += [f"{entry.size} pixels"] if entry.size is not None else []
    return ", ".join(filter(None, [*parts, entry.sampler, f"seed {entry.seed}"]))


def _decision(entry: Entry) -> Iterator[str]:
    decision = entry.decision
    if decision is None:
        yield "it ended before there was a decision"
        return
    who = f"the coordinator at {decision.coordinator}" if decision.coordinator else "this device"
    yield f"arm {decision.arm}, decided by {who}: {decision.reason}"
    yield f"  decision {decision.decision_id}"


def _arms(entry: Entry, hindsight: Hindsight) -> Iterator[str]:
    if hindsight.told is None or entry.decision is None or not hindsight.told.scores:
        return
    scores = hindsight.told.scores
    yield from arms_by_bound(scores, hindsight.told.arm)
    for score in scores:
        if not score.feasible:
            yield f"  {score.arm}  not possible: {score.reason}"


def _edges(entry: Entry, hindsight: Hindsight) -> Iterator[str]:
    edges = entry.decision.edges if entry.decision else ()
    if edges:
        yield "edges, best first:"
    for rank, edge in enumerate(edges, 1):
        yield f"  {rank}. {_name(edge.node_id, edge.address)}: {edge.reason}"
        tried = [attempt for attempt in entry.attempts if attempt.address == edge.address]
        for attempt in tried:
            yield f"     {_attempt(attempt)}"
        if not tried:
            yield "     not used: " + _why_not_used(entry)
    if hindsight.told is None or not hindsight.told.rejected:
        return
    yield "edges that could not take part:"
    for edge in hindsight.told.rejected:
        yield f"  {_name(edge.node_id, edge.address)}: {edge.reason}"


def _name(node_id: str, address: str) -> str:
    return address if node_id in ("", address) else f"{node_id} at {address}"


def _attempt(attempt: EdgeAttempt) -> str:
    if attempt.did_its_part:
        return f"ran steps {attempt.start} to {attempt.stop}"
    kept = f"steps {attempt.start} to {attempt.stop} kept" if attempt.stop > attempt.start else ""
    how = "left" if attempt.drained else f"failed ({attempt.error})"
    return f"{how}, {kept or 'nothing kept'}: {attempt.reason}"


def _why_not_used(entry: Entry) -> str:
    if entry.ending != "picture" and _next_place(entry) == "edge":
        return "the request ended before its turn"
    if any(attempt.did_its_part for attempt in entry.attempts):
        return "another had done the edge's part"
    return "the request ended before its turn" if entry.ending != "picture" else "not needed"


def _next_place(entry: Entry) -> Location | None:
    """Where the first step that did not run was to run."""
    done = entry.executed[-1].stop if entry.executed else 0
    return next((part.location for part in entry.planned if part.start <= done < part.stop), None)


def _budget(entry: Entry) -> Iterator[str]:
    budget = parse_budget(entry.guidance_budget or NO_BUDGET)
    if budget is not None and any(part.location == "edge" for part in entry.planned):
        yield (
            f"  a busy edge may leave guidance out from {budget.after:.0%} of the steps on,"
            f" {budget.in_a_row} in a row ({budget.branches})"
        )


def _steps(what: str, stretches: Sequence[Stretch]) -> Iterator[str]:
    if not stretches:
        return
    yield f"{what}:"
    for part in stretches:
        place = "this device" if part.location == "device" else part.node_id or "an edge"
        line = f"  steps {part.start} to {part.stop}: {part.member} on {place}"
        if part.share < 1.0:
            line += f", {part.share:.0%} of its blocks in {part.calls} model calls"
        if part.lean:
            line += f", {part.lean} of them without all of their guidance"
        yield line


def _cost(entry: Entry) -> Iterator[str]:
    seconds, traffic = entry.seconds, entry.traffic
    parts = ", ".join(f"{getattr(seconds, part):.3f} s {words}" for part, words in _PARTS.items())
    yield (
        f"took {seconds.total:.2f} s{f': {parts}' if entry.ending == 'picture' else ''};"
        f" {traffic.sent} bytes sent, {traffic.received} received,"
        f" {traffic.round_trips} round trips"
    )
