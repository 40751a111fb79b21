"""Which arms a request could take, and which of them are feasible now."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from baton.common.arm import Arm
from baton.common.plan import relay_step
from baton.common.query import DecideQuery
from baton.coordinator.ranking import Ranking

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


def choices(edge_members: Collection[str], device_members: Collection[str]) -> Iterator[Arm]:
    """The arms that the bandit makes of some members, each once.

    device/M for every M of either side; edge/L@f>device/M for every pair of an edge's L and a
    device's M that differ, in either direction, for the coordinator does not know which is larger;
    edge/L for every L.
    """
    held = dict.fromkeys(device_members)
    yield from map(Arm.device, held | dict.fromkeys(edge_members))
    for edge_member in edge_members:
        for device_member in held:
            if edge_member != device_member:
                for share in RELAY_FRACTIONS:
                    yield Arm.relay(edge_member, device_member, share)
    yield from map(Arm.edge, edge_members)


def candidates(
    query: DecideQuery,
    edges: Mapping[tuple[str, ...], Ranking],
    own: Collection[Arm] = (),
    partial: Collection[str] = (),
) -> list[Candidate]:
    """Every arm of a request, and why it is not feasible.

    Only the one that the user insists on; else only ``own``, the family's own arms, where they may
    bring their steps and any of them is feasible; else those of `choices`. edges: by members, those
    that could run all of them: for every single member that some edge of the family holds, and for
    those of these arms, if edges hold each. partial: members that draw no picture alone.
    """
    if query.requested_arm is not None:
        return [Candidate(query.requested_arm, _reason(query, query.requested_arm, edges))]
    named = [Candidate(arm, _reason(query, arm, edges)) for arm in own if query.any_steps]
    if any(item.feasible for item in named):
        return named
    alone = [group[0] for group in edges if len(group) == 1 and group[0] not in partial]
    made = choices(alone, [member for member in query.members if member not in partial])
    return named + [
        Candidate(arm, _cut_reason(arm, query.steps) or _reason(query, arm, edges)) for arm in made
    ]


def _reason(query: DecideQuery, arm: Arm, edges: Mapping[tuple[str, ...], Ranking]) -> str:
    """Why the arm is not possible; empty if it is."""
    for member in arm.members_on("device"):
        if member not in query.members:
            return f"the device does not hold {member}"
    on_edge = arm.members_on("edge")
    for member in on_edge:
        if (member,) not in edges:
            return f"no edge holds {member}"
    if not on_edge:
        return ""
    unmatched = _match_reason(query) if arm.members_on("device") else ""
    return unmatched or _edge_reason(on_edge, edges[on_edge])


def _cut_reason(arm: Arm, steps: int) -> str:
    """With few steps a cut may fall on an end, or on the same step as a smaller share's."""
    share = arm.stretches[0].share
    if share is None:
        return ""
    cut = relay_step(share, steps)
    if not 0 < cut < steps:
        return f"with {steps} steps one side would run none"
    same = [other for other in RELAY_FRACTIONS if relay_step(other, steps) == cut]
    return f"with {steps} steps it is the same cut as @{same[0]:g}" if same[0] < share else ""


def _match_reason(query: DecideQuery) -> str:
    if query.fingerprint or query.latent_space:
        return ""
    return "the device gave no fingerprint to match latents by"


def _edge_reason(members: Sequence[str], ranking: Ranking) -> str:
    return "" if ranking.best else f"no edge can run {' and '.join(members)} ({ranking.complaint})"
