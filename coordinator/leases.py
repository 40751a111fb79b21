"""Edges that have joined, and how long they count as alive."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from baton.common.node import NodeLoad, Registration
from baton.coordinator.standings import Offer
from baton.coordinator.values import NodeState, NodeView

#: Requests that an edge is taken to hold if it does not say.
ASSUMED_CAPACITY = 4
CPU_WEIGHT = 0.5


@dataclass(slots=True)
class Node:
    """An edge that has joined, as it was last heard."""

    registration: Registration
    #: Name of the edge that joined under this id; empty where nobody is asked for a name.
    owner: str = ""
    last_seen: float = 0.0
    draining: bool = False
    #: Decisions sent here that the edge's last heartbeat cannot know about yet.
    assigned: set[str] = field(default_factory=set)
    id: str = field(init=False)
    load: NodeLoad = field(init=False)
    offer: Offer = field(init=False)

    def __post_init__(self) -> None:
        about = self.registration
        self.id, self.load = about.node_id, about.load
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


class Leases:
    """Tells which edges live: one that was not heard for ``seconds`` is lost.

    clock: monotonic, in seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self.seconds = seconds
        self._clock = clock
        #: By their last heartbeat, oldest first; without those that are known to be lost.
        self._heard: OrderedDict[str, Node] = OrderedDict()

    def renew(self, node: Node) -> None:
        """The edge was heard just now."""
        node.last_seen = self._clock()
        self._heard[node.id] = node
        self._heard.move_to_end(node.id)

    def end(self, node: Node) -> None:
        self._heard.pop(node.id, None)

    def silence(self, node: Node) -> float:
        """Seconds since the edge was heard."""
        return self._clock() - node.last_seen

    def state(self, node: Node) -> NodeState:
        if self._clock() - node.last_seen > self.seconds:
            return "lost"
        return "draining" if node.draining else "alive"

    def lapsed(self) -> Iterator[Node]:
        """Edges that were lost since somebody looked; each is found once."""
        while self._heard:
            node = self._heard[next(iter(self._heard))]
            if self.state(node) != "lost":
                return
            self._heard.popitem(last=False)
            yield node

    def view(self, node: Node) -> NodeView:
        """The edge as the operator sees it."""
        return NodeView(node.registration, node.load, self.state(node), self.silence(node))
