"""Which of the edges that have joined suits a request best."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from baton.common.decision import EdgeChoice
from baton.coordinator.leases import ASSUMED_CAPACITY, Leases, Node
from baton.coordinator.standings import Offer, Standing, best_first

#: Edges that a ranking names at most, of those that fit and of the others.
MAX_EDGES = 16
#: A round trip that weighs as much as an edge with every place taken, seconds.
RTT_SCALE = 0.2
_OTHER_SPACE = "has another latent space: its latents do not fit the device's"
_OTHER_FINGERPRINT = "has another fingerprint: its latents do not fit the device's"


@dataclass(frozen=True, slots=True)
class Need:
    """What an edge must offer, and the device's round trips in seconds.

    members: the edge holds all of them. Latents fit by the latent space's id where both sides name
    one, else by the fingerprint, of which an empty one fits every edge. ``default_rtt`` stands for
    edges that the device has not measured.
    """

    family: str
    fingerprint: str = ""
    members: tuple[str, ...] = ()
    rtts: Mapping[str, float] = field(default_factory=dict)
    default_rtt: float = 0.0
    latent_space: str = ""


@dataclass(frozen=True, slots=True)
class RankedEdge:
    """An edge that fits; a lower cost is a better rank.

    rtt: round trip in seconds. busy: share of its places or its machine in use. waiting: requests
    ahead in its queue.
    """

    node_id: str
    address: str
    reason: str
    cost: float
    rtt: float
    busy: float
    waiting: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """Edges that fit, best first, and those that do not, by id, each with the reason.

    MAX_EDGES of each at most; unnamed: how many more do not fit.
    """

    ranked: tuple[RankedEdge, ...]
    rejected: tuple[EdgeChoice, ...]
    unnamed: int = 0

    @property
    def best(self) -> RankedEdge | None:
        return self.ranked[0] if self.ranked else None

    @property
    def choices(self) -> tuple[EdgeChoice, ...]:
        return tuple(EdgeChoice(edge.node_id, edge.address, edge.reason) for edge in self.ranked)

    @property
    def complaint(self) -> str:
        """Why no edge fits, in one line."""
        reasons = [f"{edge.node_id}: {edge.reason}" for edge in self.rejected[:3]]
        others = len(self.rejected) - len(reasons) + self.unnamed
        more = f" and {others} more" if others else ""
        return "; ".join(reasons) + more if reasons else "no edge is registered"


class Ranks:
    """Keeps the edges in the order of their cost, and names the best few that meet a need."""

    def __init__(self, nodes: Mapping[str, Node], leases: Leases) -> None:
        """nodes: those that have joined, by id, as they are now."""
        self._nodes = nodes
        self._leases = leases
        self._standings: dict[Offer, Standing] = {}

    def place(self, node: Node) -> None:
        """After every change of what it costs or whether it takes work."""
        standing = self._standings.setdefault(node.offer, Standing())
        standing.place(node.id, None if self._unavailable(node) else node.cost)

    def remove(self, node: Node) -> None:
        standing = self._standings[node.offer]
        standing.remove(node.id)
        if not standing.ids:
            del self._standings[node.offer]

    def rank(self, need: Need) -> Ranking:
        """Edges that meet the need by load and round trip, ties by id, and why others do not.

        Takes the time of the few that are named, and of the offers that differ, however many edges
        there are.
        """
        fitting = [item for offer, item in self._standings.items() if not _misfit(offer, need)]
        others = [item for offer, item in self._standings.items() if _misfit(offer, need)]
        unmeasured = (key for key in best_first(fitting) if key not in need.rtts)
        chosen = [*islice(unmeasured, MAX_EDGES), *self._measured(need)]
        ranked = [_appraise(self._nodes[node_id], need) for node_id in chosen]
        ranked.sort(key=lambda edge: (edge.cost, edge.node_id))
        unfit = [*(item.away for item in fitting), *(item.ids for item in others)]
        rejected = tuple(
            self._rejected(self._nodes[key], need) for key in islice(heapq.merge(*unfit), MAX_EDGES)
        )
        unnamed = sum(map(len, unfit)) - len(rejected)
        return Ranking(tuple(ranked[:MAX_EDGES]), rejected, unnamed)

    def _measured(self, need: Need) -> Iterator[str]:
        """Edges to which the device knows the round trip, and that meet the need."""
        for node_id in need.rtts:
            node = self._nodes.get(node_id)
            fits = node is not None and not _misfit(node.offer, need)
            if node and fits and self._standings[node.offer].is_ready(node_id):
                yield node_id

    def _rejected(self, node: Node, need: Need) -> EdgeChoice:
        reason = _misfit(node.offer, need) or self._unavailable(node)
        return EdgeChoice(node.id, node.registration.address, reason)

    def _unavailable(self, node: Node) -> str:
        """Why the edge takes no work; empty if it does."""
        load = node.load
        match self._leases.state(node):
            case "lost":
                return f"lost: no heartbeat for {self._leases.silence(node):.0f} s"
            case "draining":
                return "draining: takes no new work"
        if node.full:
            return f"full: {load.active} active and {load.queued} queued of {load.capacity}"
        return ""


def _misfit(about: Offer, need: Need) -> str:
    if about.family != need.family:
        return f"serves family {about.family}"
    if missing := [member for member in need.members if member not in about.members]:
        return f"does not hold {', '.join(missing)}"
    if need.latent_space and about.latent_space:
        return "" if need.latent_space == about.latent_space else _OTHER_SPACE
    # who names neither holds no model: any edge may finish the picture
    fits = need.fingerprint == about.fingerprint or not (need.fingerprint or need.latent_space)
    return "" if fits else _OTHER_FINGERPRINT


def _appraise(node: Node, need: Need) -> RankedEdge:
    about, load = node.registration, node.load
    measured = about.node_id in need.rtts
    rtt = need.rtts.get(about.node_id, need.default_rtt)
    return RankedEdge(
        node_id=about.node_id,
        address=about.address,
        reason=_describe(node, rtt, measured),
        cost=node.cost + rtt / RTT_SCALE,
        rtt=rtt,
        busy=max(load.cpu, load.active / (load.capacity or ASSUMED_CAPACITY)),
        waiting=load.queued + len(node.assigned),
    )


def _describe(node: Node, rtt: float, measured: bool) -> str:
    load = node.load
    places = f" of {load.capacity}" if load.capacity else ""
    source = "" if measured else ", not measured: that to the coordinator"
    return (
        f"{load.active} active, {load.queued} queued, {len(node.assigned)} on the way{places};"
        f" cpu {load.cpu:.0%}; round trip {1000 * rtt:.1f} ms{source}"
    )
