"""The edges that have joined: their leases, their loads, and which of them suits a request best."""

from __future__ import annotations

import heapq
import hmac
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from baton.common.decision import EdgeChoice
from baton.common.errors import Overloaded, PermissionDenied
from baton.common.naming import check_advertised
from baton.common.node import NodeLoad, Registration
from baton.coordinator.standings import Offer, Standing, Tally, best_first
from baton.coordinator.values import NodeState, NodeView

_log = logging.getLogger(__name__)

MAX_NODES = 1_000
#: Edges that a ranking names at most, of those that fit and of the others.
MAX_EDGES = 16
#: A lost edge stays visible to the operator for so many leases.
FORGET_AFTER_LEASES = 20
#: Requests that an edge is taken to hold if it does not say.
ASSUMED_CAPACITY = 4
#: A round trip that weighs as much as an edge with every place taken, seconds.
RTT_SCALE = 0.2
CPU_WEIGHT = 0.5
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


@dataclass(slots=True)
class _Node:
    registration: Registration
    load: NodeLoad
    last_seen: float
    #: Name of the edge that joined under this id; empty where nobody is asked for a name.
    owner: str = ""
    draining: bool = False
    #: Decisions sent here that the edge's last heartbeat cannot know about yet.
    assigned: set[str] = field(default_factory=set)
    offer: Offer = field(init=False)

    def __post_init__(self) -> None:
        about = self.registration
        self.offer = Offer(about.family, about.members, about.fingerprint, about.latent_space)

    @property
    def occupancy(self) -> float:
        """Requests held or on their way, as a share of the places."""
        held = self.load.active + self.load.queued + len(self.assigned)
        return held / (self.load.capacity or ASSUMED_CAPACITY)

    @property
    def full(self) -> bool:
        held = self.load.active + self.load.queued
        return 0 < self.load.capacity <= held

    @property
    def cost(self) -> float:
        """What speaks against the edge, wherever the device is."""
        return self.occupancy + CPU_WEIGHT * self.load.cpu


class Fleet:
    """Registered edges, held by leases on a monotonic clock.

    An edge that misses its lease is lost: it gets no work and must register again. local: devices
    are on this machine, so that they reach edges at its loopback addresses.
    """

    def __init__(
        self, lease_seconds: float, clock: Callable[[], float], local: bool = True
    ) -> None:
        self.lease_seconds = lease_seconds
        self._clock = clock
        self._local = local
        self._nodes: dict[str, _Node] = {}
        #: Nodes by their last heartbeat, oldest first; without those that are known to be lost.
        self._heard: OrderedDict[str, None] = OrderedDict()
        self._standings: dict[Offer, Standing] = {}
        self._loaded, self._named, self._spaces = Tally(), Tally(), Tally()

    def register(self, registration: Registration, owner: str = "") -> None:
        """Join, or join again under the same id.

        Raises InvalidRequest for an address at which devices cannot reach it, Overloaded past
        MAX_NODES edges, and PermissionDenied, as do `heartbeat` and `deregister`, for an id under
        which another owner has joined, and for one whose lease another edge holds.
        """
        check_advertised(registration.address, self._local)
        self._check_owner(registration.node_id, owner)
        known = self._nodes.get(registration.node_id)
        if known is None:
            self._make_room()
        else:
            self._check_takeover(known, registration)
            self._remove(registration.node_id)
        self._add(_Node(registration, registration.load, self._clock(), owner))

    def heartbeat(
        self,
        node_id: str,
        load: NodeLoad,
        draining: bool,
        owner: str = "",
        incarnation: str = "",
    ) -> bool:
        """Renew the lease of that incarnation.

        False: unknown, lost or another one's, so the edge must register again.
        """
        self._check_owner(node_id, owner)
        node = self._nodes.get(node_id)
        if node is None or node.registration.incarnation != incarnation:
            return False
        if self._state(node) == "lost":
            return False
        node.load, node.draining, node.last_seen = load, draining, self._clock()
        node.assigned.clear()
        self._heard.move_to_end(node_id)
        self._place(node)
        return True

    def deregister(self, node_id: str, owner: str = "", incarnation: str = "") -> None:
        """Leave; an unknown id or incarnation has left already."""
        self._check_owner(node_id, owner)
        node = self._nodes.get(node_id)
        if node is not None and node.registration.incarnation == incarnation:
            self._remove(node_id)

    def assign(self, node_id: str, decision_id: str) -> None:
        """Count a decision against an edge until its next heartbeat or `release`."""
        if node := self._nodes.get(node_id):
            node.assigned.add(decision_id)
            self._place(node)

    def release(self, node_id: str, decision_id: str) -> None:
        """The request of that decision has ended."""
        if node := self._nodes.get(node_id):
            node.assigned.discard(decision_id)
            self._place(node)

    def sweep(self) -> None:
        """Forget edges that were lost long ago."""
        oldest = self._clock() - FORGET_AFTER_LEASES * self.lease_seconds
        for node_id in [key for key, node in self._nodes.items() if node.last_seen < oldest]:
            self._remove(node_id)

    def nodes(self) -> list[NodeView]:
        """Every known edge, by id."""
        now = self._clock()
        return [
            NodeView(node.registration, node.load, self._state(node), now - node.last_seen)
            for _, node in sorted(self._nodes.items())
        ]

    def members(self, family: str) -> tuple[str, ...]:
        """Members that any known edge of the family holds, whatever its state, sorted."""
        return tuple(sorted(self._loaded.names(family)))

    def named(self, family: str) -> frozenset[str]:
        """Members of the family as far as known edges name them, loaded or not."""
        return self._loaded.names(family) | self._named.names(family)

    def families(self) -> dict[str, frozenset[str]]:
        """All that `named` knows, by family."""
        return {family: self.named(family) for family in self._loaded.families()}

    def spaces(self, family: str) -> frozenset[str]:
        """Ids of the latent spaces that known edges of the family name."""
        return self._spaces.names(family)

    def rank(self, need: Need) -> Ranking:
        """Edges that meet the need by load and round trip, ties by id, and why others do not.

        Takes the time of the few that are named, and of the offers that differ, however many edges
        there are.
        """
        self._lapse()
        fitting = [item for offer, item in self._standings.items() if not _misfit(offer, need)]
        others = [item for offer, item in self._standings.items() if _misfit(offer, need)]
        unmeasured = (key for key in best_first(fitting) if key not in need.rtts)
        chosen = [*islice(unmeasured, MAX_EDGES), *self._measured(need)]
        ranked = [_appraise(self._nodes[node_id], need) for node_id in chosen]
        ranked.sort(key=lambda edge: (edge.cost, edge.node_id))
        unfit = [*(item.away for item in fitting), *(item.ids for item in others)]
        rejected = tuple(
            EdgeChoice(key, self._nodes[key].registration.address, self._rejection(key, need))
            for key in islice(heapq.merge(*unfit), MAX_EDGES)
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

    def _add(self, node: _Node) -> None:
        about = node.registration
        self._nodes[about.node_id] = node
        self._heard[about.node_id] = None
        self._loaded.add(about.family, about.members)
        self._named.add(about.family, about.family_members)
        self._spaces.add(about.family, _space(about))
        self._place(node)

    def _remove(self, node_id: str) -> None:
        node = self._nodes.pop(node_id)
        about = node.registration
        self._heard.pop(node_id, None)
        self._loaded.remove(about.family, about.members)
        self._named.remove(about.family, about.family_members)
        self._spaces.remove(about.family, _space(about))
        standing = self._standings[node.offer]
        standing.remove(node_id)
        if not standing.ids:
            del self._standings[node.offer]

    def _place(self, node: _Node) -> None:
        """After every change of what it costs or whether it takes work."""
        standing = self._standings.setdefault(node.offer, Standing())
        cost = None if self._unavailable(node) else node.cost
        standing.place(node.registration.node_id, cost)

    def _lapse(self) -> None:
        """Note which edges were lost since somebody looked; each is found once."""
        while self._heard:
            node = self._nodes[next(iter(self._heard))]
            if self._state(node) != "lost":
                return
            self._heard.popitem(last=False)
            self._place(node)

    def _make_room(self) -> None:
        """For one more edge; one that is lost gives way to one that lives."""
        if len(self._nodes) < MAX_NODES:
            return
        oldest = min(self._nodes, key=lambda node_id: self._nodes[node_id].last_seen)
        if self._state(self._nodes[oldest]) != "lost":
            raise Overloaded(f"{MAX_NODES} edges are registered; no more are taken", 60.0)
        self._remove(oldest)

    def _check_owner(self, node_id: str, owner: str) -> None:
        node = self._nodes.get(node_id)
        if node is not None and node.owner != owner:
            raise PermissionDenied(
                f"{node_id} is the node of another edge; choose another node_id", "foreign_node"
            )

    def _check_takeover(self, node: _Node, newcomer: Registration) -> None:
        """Raises PermissionDenied for another edge than the one that holds the lease."""
        about = node.registration
        if self._state(node) != "lost" and not _is_same_edge(node, newcomer):
            raise PermissionDenied(
                f"{about.node_id} is the edge at {about.address}, which lives; the one at"
                f" {newcomer.address} has another secret: give it an id of its own with --node-id",
                "node_taken",
            )
        if about.address != newcomer.address:
            _log.info("%s moves from %s to %s", about.node_id, about.address, newcomer.address)

    def _state(self, node: _Node) -> NodeState:
        if self._clock() - node.last_seen > self.lease_seconds:
            return "lost"
        return "draining" if node.draining else "alive"

    def _rejection(self, node_id: str, need: Need) -> str:
        """Why the edge does not meet the need; empty if it does."""
        node = self._nodes[node_id]
        return _misfit(node.offer, need) or self._unavailable(node)

    def _unavailable(self, node: _Node) -> str:
        load = node.load
        match self._state(node):
            case "lost":
                return f"lost: no heartbeat for {self._clock() - node.last_seen:.0f} s"
            case "draining":
                return "draining: takes no new work"
        if node.full:
            return f"full: {load.active} active and {load.queued} queued of {load.capacity}"
        return ""


def _is_same_edge(node: _Node, newcomer: Registration) -> bool:
    """By the secret. One of an older version shows none: its proven name, or its address, does."""
    about = node.registration
    if about.secret and newcomer.secret:
        return hmac.compare_digest(about.secret, newcomer.secret)
    return bool(node.owner) or (not about.secret and about.address == newcomer.address)


def _space(about: Registration) -> tuple[str, ...]:
    return (about.latent_space,) if about.latent_space else ()


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


def _appraise(node: _Node, need: Need) -> RankedEdge:
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


def _describe(node: _Node, rtt: float, measured: bool) -> str:
    load = node.load
    places = f" of {load.capacity}" if load.capacity else ""
    source = "" if measured else ", not measured: that to the coordinator"
    return (
        f"{load.active} active, {load.queued} queued, {len(node.assigned)} on the way{places};"
        f" cpu {load.cpu:.0%}; round trip {1000 * rtt:.1f} ms{source}"
    )
