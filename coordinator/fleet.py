"""The edges that have joined: who they are, what they hold, and whether they live."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable

from baton.common.errors import Overloaded, PermissionDenied
from baton.common.naming import check_advertised
from baton.common.node import NodeLoad, Registration
from baton.coordinator.census import Census
from baton.coordinator.leases import Leases, Node
from baton.coordinator.ranking import Ranks
from baton.coordinator.values import NodeView

_log = logging.getLogger(__name__)

MAX_NODES = 1_000
#: A lost edge stays visible to the operator for so many leases.
FORGET_AFTER_LEASES = 20


class Fleet:
    """Lets edges join, and keeps lease, rank and census in step with what they tell.

    An edge that misses its lease is lost: it gets no work and must register again. local: devices
    are on this machine, so that they reach edges at its loopback addresses.
    """

    def __init__(
        self, lease_seconds: float, clock: Callable[[], float], local: bool = True
    ) -> None:
        self.census = Census()
        self._local = local
        self._nodes: dict[str, Node] = {}
        self._leases = Leases(lease_seconds, clock)
        self._ranks = Ranks(self._nodes, self._leases)

    @property
    def lease_seconds(self) -> float:
        return self._leases.seconds

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
            self._remove(known)
        self._add(Node(registration, owner))

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
        if self._leases.state(node) == "lost":
            return False
        node.load, node.draining = load, draining
        node.assigned.clear()
        self._leases.renew(node)
        self._ranks.place(node)
        return True

    def deregister(self, node_id: str, owner: str = "", incarnation: str = "") -> None:
        """Leave; an unknown id or incarnation has left already."""
        self._check_owner(node_id, owner)
        node = self._nodes.get(node_id)
        if node is not None and node.registration.incarnation == incarnation:
            self._remove(node)

    def assign(self, node_id: str, decision_id: str) -> None:
        """Count a decision against an edge until its next heartbeat or `release`."""
        if node := self._nodes.get(node_id):
            node.assigned.add(decision_id)
            self._ranks.place(node)

    def release(self, node_id: str, decision_id: str) -> None:
        """The request of that decision has ended."""
        if node := self._nodes.get(node_id):
            node.assigned.discard(decision_id)
            self._ranks.place(node)

    def sweep(self) -> None:
        """Forget edges that were lost long ago."""
        longest = FORGET_AFTER_LEASES * self.lease_seconds
        for node in [one for one in self._nodes.values() if self._leases.silence(one) > longest]:
            self._remove(node)

    def nodes(self) -> list[NodeView]:
        """Every known edge, by id."""
        return [self._leases.view(node) for _, node in sorted(self._nodes.items())]

    def ranks(self) -> Ranks:
        """With what is known of the leases at this moment."""
        for node in self._leases.lapsed():
            self._ranks.place(node)
        return self._ranks

    def _add(self, node: Node) -> None:
        self._nodes[node.id] = node
        self.census.add(node.registration)
        self._leases.renew(node)
        self._ranks.place(node)

    def _remove(self, node: Node) -> None:
        del self._nodes[node.id]
        self.census.remove(node.registration)
        self._leases.end(node)
        self._ranks.remove(node)

    def _make_room(self) -> None:
        """For one more edge; one that is lost gives way to one that lives."""
        if len(self._nodes) < MAX_NODES:
            return
        oldest = min(self._nodes.values(), key=lambda node: node.last_seen)
        if self._leases.state(oldest) != "lost":
            raise Overloaded(f"{MAX_NODES} edges are registered; no more are taken", 60.0)
        self._remove(oldest)

    def _check_owner(self, node_id: str, owner: str) -> None:
        node = self._nodes.get(node_id)
        if node is not None and node.owner != owner:
            raise PermissionDenied(
                f"{node_id} is the node of another edge; choose another node_id", "foreign_node"
            )

    def _check_takeover(self, node: Node, newcomer: Registration) -> None:
        """Raises PermissionDenied for another edge than the one that holds the lease."""
        about = node.registration
        if self._leases.state(node) != "lost" and not _is_same_edge(node, newcomer):
            raise PermissionDenied(
                f"{about.node_id} is the edge at {about.address}, which lives; the one at"
                f" {newcomer.address} has another secret: give it an id of its own with --node-id",
                "node_taken",
            )
        if about.address != newcomer.address:
            _log.info("%s moves from %s to %s", about.node_id, about.address, newcomer.address)


def _is_same_edge(node: Node, newcomer: Registration) -> bool:
    """By the secret. One of an older version shows none: its proven name, or its address, does."""
    about = node.registration
    if about.secret and newcomer.secret:
        return hmac.compare_digest(about.secret, newcomer.secret)
    return bool(node.owner) or (not about.secret and about.address == newcomer.address)
