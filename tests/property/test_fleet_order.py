"""The order that a fleet keeps is the one that a look at every edge would give."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from baton.common.node import NodeLoad, Registration
from baton.coordinator.fleet import Fleet
from baton.coordinator.leases import ASSUMED_CAPACITY, CPU_WEIGHT
from baton.coordinator.ranking import MAX_EDGES, RTT_SCALE, Need
from baton.coordinator.values import NodeView
from tests.unit.coordinator.test_fleet import LEASE, Clock

NAMES = [f"e{number}" for number in range(MAX_EDGES + 6)]
FAMILIES, FINGERPRINTS, SPACES = ("scenes", "other"), ("f", "g"), ("s", "t")
MEMBERS = [("large",), ("large", "small"), ("small",)]

names, few = st.sampled_from(NAMES), st.sampled_from(NAMES[:2])
loads = st.builds(
    NodeLoad,
    cpu=st.sampled_from([0.0, 0.3, 1.0]),
    active=st.integers(0, 3),
    queued=st.integers(0, 2),
    capacity=st.sampled_from([0, 4]),
)
registrations = st.builds(
    Registration,
    node_id=names,
    address=st.just("h:1"),
    family=st.sampled_from(FAMILIES),
    members=st.sampled_from(MEMBERS),
    fingerprint=st.sampled_from(FINGERPRINTS),
    load=loads,
    family_members=st.sampled_from([(), ("told",)]),
    latent_space=st.sampled_from(["", *SPACES]),
)
changes = st.one_of(
    st.tuples(st.just("register"), registrations),
    st.tuples(st.just("heartbeat"), names, loads, st.booleans()),
    st.tuples(st.just("assign"), few, st.just("decision")),
    st.tuples(st.just("release"), few, st.just("decision")),
    st.tuples(st.just("deregister"), names),
    st.tuples(st.just("pass"), st.sampled_from([0.1, LEASE / 2, LEASE + 1])),
    st.tuples(st.just("sweep")),
)
needs = st.builds(
    Need,
    family=st.sampled_from(FAMILIES),
    fingerprint=st.sampled_from(["", *FINGERPRINTS]),
    members=st.sampled_from([(), ("large",), ("small",), ("small", "large")]),
    rtts=st.dictionaries(names, st.sampled_from([0.0, 0.05, 1.0]), max_size=4),
    default_rtt=st.sampled_from([0.0, 0.1]),
    latent_space=st.sampled_from(["", *SPACES]),
)


class Watched:
    """A fleet, and what was sent to each edge since it last spoke, kept beside it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.fleet = Fleet(LEASE, self.clock)
        self.sent: dict[str, set[str]] = defaultdict(set)

    def change(self, what: str, *values: object) -> None:
        if what == "pass":
            self.clock.now += float(str(values[0]))
            return
        done = getattr(self.fleet, what)(*values)
        if what == "register":
            (about,) = values
            assert isinstance(about, Registration)
            self.sent[about.node_id].clear()
        elif what == "assign":
            self.sent[str(values[0])].add(str(values[1]))
        elif what == "release":
            self.sent[str(values[0])].discard(str(values[1]))
        elif what == "deregister" or (what == "heartbeat" and done):
            self.sent[str(values[0])].clear()

    def cost(self, node: NodeView, need: Need) -> float:
        load, node_id = node.load, node.registration.node_id
        held = load.active + load.queued + len(self.sent[node_id])
        rtt = need.rtts.get(node_id, need.default_rtt)
        busy = held / (load.capacity or ASSUMED_CAPACITY) + CPU_WEIGHT * load.cpu
        return busy + rtt / RTT_SCALE


def fits(node: NodeView, need: Need) -> bool:
    about, load = node.registration, node.load
    return (
        node.state == "alive"
        and not 0 < load.capacity <= load.active + load.queued
        and about.family == need.family
        and set(need.members) <= set(about.members)
        and match(about, need)
    )


def match(about: Registration, need: Need) -> bool:
    if need.latent_space and about.latent_space:
        return need.latent_space == about.latent_space
    return need.fingerprint in ("", about.fingerprint)


@settings(max_examples=50)
@given(st.lists(changes, max_size=60), st.lists(needs, min_size=1, max_size=3), st.booleans())
def test_a_fleet_ranks_as_a_look_at_every_edge_would(
    history: list[tuple[str, ...]], wanted: list[Need], full: bool
) -> None:
    watched = Watched()
    for name in NAMES if full else ():
        watched.change("register", Registration(name, "h:1", "scenes", ("large",), "f"))
    for change in history:
        watched.change(*change)
        watched.fleet.ranks().rank(wanted[0])  # a look changes nothing
    nodes = watched.fleet.nodes()
    for need in wanted:
        ranking = watched.fleet.ranks().rank(need)
        fit = [node for node in nodes if fits(node, need)]
        fit.sort(key=lambda node: (watched.cost(node, need), node.registration.node_id))
        told = [(edge.node_id, edge.cost) for edge in ranking.ranked]
        expected = [(node.registration.node_id, watched.cost(node, need)) for node in fit]
        assert told == expected[:MAX_EDGES]
        unfit = [node.registration.node_id for node in nodes if node not in fit]
        assert [edge.node_id for edge in ranking.rejected] == unfit[:MAX_EDGES]
        assert len(ranking.rejected) + ranking.unnamed == len(unfit)
        assert all(edge.reason for edge in (*ranking.ranked, *ranking.rejected))
    check_names(watched.fleet, nodes)


def check_names(fleet: Fleet, nodes: list[NodeView]) -> None:
    """Who names what, after every coming and going."""
    for family in FAMILIES:
        here = [node.registration for node in nodes if node.registration.family == family]
        loaded = {member for about in here for member in about.members}
        told = {member for about in here for member in about.family_members}
        assert fleet.census.members(family) == tuple(sorted(loaded))
        assert fleet.census.named(family) == loaded | told
        assert fleet.census.spaces(family) == {about.latent_space for about in here} - {""}
