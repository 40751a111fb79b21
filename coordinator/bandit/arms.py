"""Which arms a request could take, and which of them are feasible now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from baton.common.plan import Arm, relay_step
from baton.coordinator.fleet import Ranking
from baton.coordinator.values import DecideQuery

#: Shares of the steps that a relay may run on the edge.
RELAY_FRACTIONS: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An arm and, if it is not feasible, why not."""

    arm: Arm
    reason: str = ""

    @property
    def feasible(self) -> bool:
        return not self.reason


def candidates(query: DecideQuery, edges: Mapping[str, Ranking]) -> list[Candidate]:
    """Every arm of a request, each once.

    ``edges``: for every member that some edge of the family holds, the edges that could run it.

    device:M for the members that the device holds (and, as infeasible, for those that it lacks);
    relay:L>M@f for every pair of an edge's L and a device's M that differ, in either
    direction, for the coordinator does not know which is larger; edge:L for every L. If the user
    insists on an arm, that one alone.
    """
    if query.requested_arm is not None:
        return [
            Candidate(query.requested_arm, _requested_arm_reason(query, query.requested_arm, edges))
        ]
    return [
        *_device_arms(query, edges),
        *_relay_arms(query, edges),
        *(
            Candidate(Arm("edge", (member,), 1.0), _edge_reason(member, ranking))
            for member, ranking in edges.items()
        ),
    ]


def _requested_arm_reason(
    query: DecideQuery, requested_arm: Arm, edges: Mapping[str, Ranking]
) -> str:
    """Why the arm that the user insists on cannot be had; empty if it can."""
    if requested_arm.kind != "edge" and requested_arm.members[-1] not in query.members:
        return f"the device does not hold {requested_arm.members[-1]}"
    if requested_arm.kind == "device":
        return ""
    if requested_arm.members[0] not in edges:
        return f"no edge holds {requested_arm.members[0]}"
    unmatched = _match_reason(query) if requested_arm.kind == "relay" else ""
    return unmatched or _edge_reason(requested_arm.members[0], edges[requested_arm.members[0]])


def _device_arms(query: DecideQuery, edges: Mapping[str, Ranking]) -> Iterator[Candidate]:
    for member in dict.fromkeys((*query.members, *edges)):
        reason = "" if member in query.members else f"the device does not hold {member}"
        yield Candidate(Arm("device", (member,), 0.0), reason)


def _relay_arms(query: DecideQuery, edges: Mapping[str, Ranking]) -> Iterator[Candidate]:
    for edge_member, ranking in edges.items():
        for device_member in dict.fromkeys(query.members):
            if edge_member == device_member:
                continue
            for fraction in RELAY_FRACTIONS:
                arm = Arm("relay", (edge_member, device_member), fraction)
                reason = _cut_reason(fraction, query.steps) or _match_reason(query)
                yield Candidate(arm, reason or _edge_reason(edge_member, ranking))


def _cut_reason(fraction: float, steps: int) -> str:
    """With few steps a cut may fall on an end, or on the same step as a smaller fraction's."""
    cut = relay_step(fraction, steps)
    if not 0 < cut < steps:
        return f"with {steps} steps one side would run none"
    same = [other for other in RELAY_FRACTIONS if relay_step(other, steps) == cut]
    return f"with {steps} steps it is the same cut as @{same[0]:g}" if same[0] < fraction else ""


def _match_reason(query: DecideQuery) -> str:
    return "" if query.fingerprint else "the device gave no fingerprint to match latents by"


def _edge_reason(member: str, ranking: Ranking) -> str:
    return "" if ranking.best else f"no edge can run {member} ({ranking.complaint})"
