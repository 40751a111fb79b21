"""The edges as one request finds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from baton.common.arm import Arm
from baton.common.query import DecideQuery
from baton.coordinator.fleet import Fleet
from baton.coordinator.ranking import Need, RankedEdge, Ranking

Members = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Survey:
    """How the edges rank for a request: those that hold certain members, and all.

    groups: for every member that some edge of the family holds, and for those of certain arms, if
    edges hold each.
    """

    groups: Mapping[Members, Ranking]
    anywhere: Ranking

    @classmethod
    def of(cls, query: DecideQuery, fleet: Fleet, arms: Iterable[Arm] = ()) -> Survey:
        """arms: those that may be chosen, beside such as have a single member on an edge."""
        members = fleet.census.members(query.family)
        groups: dict[Members, None] = dict.fromkeys((member,) for member in members)
        for arm in arms:
            own = arm.members_on("edge")
            if own and set(own) <= set(members):
                groups[own] = None
        ranks = fleet.ranks()
        rankings = {group: ranks.rank(_need(query, group)) for group in groups}
        return cls(rankings, ranks.rank(_need(query, ())))

    @property
    def best(self) -> RankedEdge | None:
        """Of the edges that hold a member."""
        found = [ranking.best for ranking in self.groups.values() if ranking.best]
        return min(found, key=lambda edge: edge.cost, default=None)


def _need(query: DecideQuery, members: Members) -> Need:
    return Need(
        query.family,
        query.fingerprint,
        members,
        dict(query.probes),
        query.rtt_seconds,
        query.latent_space,
    )
