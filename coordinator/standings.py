"""Edges as decisions want them: kept in order at each change, not looked through at each decision.

A decision looks at the few best alone, however many there are.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

K = TypeVar("K", str, tuple[float, str])


class Offer(NamedTuple):
    """What an edge is asked for; a fleet has few that differ."""

    family: str
    members: tuple[str, ...]
    fingerprint: str
    latent_space: str


class Standing:
    """The edges of one offer. ready: those that take work, by cost, then id; away: the others."""

    def __init__(self) -> None:
        self.ready: list[tuple[float, str]] = []
        self.away: list[str] = []
        self.ids: list[str] = []
        self._costs: dict[str, float | None] = {}

    def place(self, node_id: str, cost: float | None) -> None:
        """Where the edge stands now. cost: None if it takes no work."""
        self.remove(node_id)
        self._costs[node_id] = cost
        insort(self.ids, node_id)
        if cost is None:
            insort(self.away, node_id)
        else:
            insort(self.ready, (cost, node_id))

    def remove(self, node_id: str) -> None:
        if node_id not in self._costs:
            return
        cost = self._costs.pop(node_id)
        _take(self.ids, node_id)
        if cost is None:
            _take(self.away, node_id)
        else:
            _take(self.ready, (cost, node_id))

    def is_ready(self, node_id: str) -> bool:
        return self._costs.get(node_id) is not None


def best_first(standings: Iterable[Standing]) -> Iterator[str]:
    """Edges of all of them that take work."""
    return (node_id for _, node_id in heapq.merge(*(item.ready for item in standings)))


def _take(items: list[K], item: K) -> None:
    del items[bisect_left(items, item)]
