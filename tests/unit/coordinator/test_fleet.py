from __future__ import annotations

from dataclasses import replace

import pytest

from baton.common.errors import InvalidRequest, Overloaded
from baton.common.node import NodeLoad, Registration
from baton.coordinator import fleet as fleet_module
from baton.coordinator.fleet import FORGET_AFTER_LEASES, Fleet
from baton.coordinator.ranking import MAX_EDGES, Need
from baton.coordinator.values import NodeState

LEASE = 10.0
IDLE = NodeLoad(capacity=4)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fleet(clock: Clock) -> Fleet:
    return Fleet(LEASE, clock)


def edge(node_id: str = "e1", members: tuple[str, ...] = ("large",), **other: str) -> Registration:
    family, fingerprint = other.get("family", "scenes"), other.get("fingerprint", "f")
    return Registration(node_id, f"{node_id}.lan:7701", family, members, fingerprint, IDLE)


def state(fleet: Fleet) -> NodeState:
    (node,) = fleet.nodes()
    return node.state


def reasons(fleet: Fleet, need: Need) -> dict[str, str]:
    return {item.node_id: item.reason for item in fleet.ranks().rank(need).rejected}


def order(fleet: Fleet, need: Need) -> list[str]:
    return [item.node_id for item in fleet.ranks().rank(need).ranked]


NEED = Need("scenes", "f", ("large",))


def test_an_edge_lives_as_long_as_its_lease(fleet: Fleet, clock: Clock) -> None:
    fleet.register(edge())
    clock.now += LEASE
    assert state(fleet) == "alive"
    clock.now += 0.001
    assert state(fleet) == "lost"
    assert reasons(fleet, NEED) == {"e1": "lost: no heartbeat for 10 s"}


def test_a_heartbeat_renews_the_lease(fleet: Fleet, clock: Clock) -> None:
    fleet.register(edge())
    clock.now += LEASE
    assert fleet.heartbeat("e1", NodeLoad(active=2, capacity=4), draining=False)
    clock.now += LEASE
    (node,) = fleet.nodes()
    assert (node.state, node.load.active, node.seconds_since_heartbeat) == ("alive", 2, LEASE)


def test_a_lost_or_unknown_edge_is_told_to_register_again(fleet: Fleet, clock: Clock) -> None:
    assert not fleet.heartbeat("e1", IDLE, draining=False)
    fleet.register(edge())
    clock.now += LEASE + 1
    assert not fleet.heartbeat("e1", IDLE, draining=False)
    fleet.register(edge())
    assert state(fleet) == "alive"


def test_a_lost_edge_is_forgotten_in_the_end(fleet: Fleet, clock: Clock) -> None:
    fleet.register(edge())
    clock.now += FORGET_AFTER_LEASES * LEASE
    fleet.sweep()
    assert state(fleet) == "lost"
    clock.now += 1
    fleet.sweep()
    assert fleet.nodes() == []


def test_a_draining_edge_gets_no_work_until_it_says_otherwise(fleet: Fleet) -> None:
    fleet.register(edge())
    fleet.heartbeat("e1", IDLE, draining=True)
    assert state(fleet) == "draining"
    assert reasons(fleet, NEED) == {"e1": "draining: takes no new work"}
    fleet.heartbeat("e1", IDLE, draining=False)
    assert order(fleet, NEED) == ["e1"]


def test_an_edge_that_left_is_gone(fleet: Fleet) -> None:
    fleet.register(edge())
    fleet.deregister("e1")
    fleet.deregister("e1")
    assert fleet.nodes() == []


def test_every_misfit_has_its_reason(fleet: Fleet) -> None:
    fleet.register(edge("family", family="sd15"))
    fleet.register(edge("member", members=("small",)))
    fleet.register(edge("fingerprint", fingerprint="other"))
    fleet.register(edge("full"))
    fleet.heartbeat("full", NodeLoad(active=3, queued=1, capacity=4), draining=False)
    assert reasons(fleet, NEED) == {
        "family": "serves family sd15",
        "member": "does not hold large",
        "fingerprint": "has another fingerprint: its latents do not fit the device's",
        "full": "full: 3 active and 1 queued of 4",
    }
    assert fleet.ranks().rank(NEED).best is None


def test_latents_fit_by_the_space_where_both_sides_know_theirs(fleet: Fleet) -> None:
    for name, space in (("same", "s"), ("other", "t"), ("unknown", "")):
        fleet.register(replace(edge(name, fingerprint="other"), latent_space=space))
    need = replace(NEED, latent_space="s")
    assert order(fleet, need) == ["same"]
    assert reasons(fleet, need) == {
        "other": "has another latent space: its latents do not fit the device's",
        "unknown": "has another fingerprint: its latents do not fit the device's",
    }
    assert order(fleet, replace(need, fingerprint="other")) == ["same", "unknown"]
    assert order(fleet, replace(need, fingerprint="")) == ["same"]


def test_an_edge_that_names_no_capacity_is_never_full(fleet: Fleet) -> None:
    fleet.register(edge())
    fleet.heartbeat("e1", NodeLoad(active=50), draining=False)
    assert order(fleet, NEED) == ["e1"]


def test_a_device_without_models_takes_any_fingerprint(fleet: Fleet) -> None:
    fleet.register(edge(fingerprint="anything"))
    assert order(fleet, Need("scenes", "", ("large",))) == ["e1"]


def test_latents_fit_by_the_spaces_id_where_both_sides_name_one(fleet: Fleet) -> None:
    for node_id, space in (("same", "s"), ("other", "t"), ("silent", "")):
        fleet.register(replace(edge(node_id, fingerprint="anything"), latent_space=space))
    fleet.register(replace(edge("older"), latent_space=""))
    need = Need("scenes", "f", ("large",), latent_space="s")
    assert order(fleet, need) == ["older", "same"]
    assert "another latent space" in reasons(fleet, need)["other"]
    assert "another fingerprint" in reasons(fleet, need)["silent"]
    assert order(fleet, NEED) == ["older"]


def test_several_members_are_wanted_of_one_edge(fleet: Fleet) -> None:
    fleet.register(edge("one", ("large",)))
    fleet.register(edge("both", ("large", "medium")))
    need = Need("scenes", "f", ("medium", "large"))
    assert order(fleet, need) == ["both"]
    assert reasons(fleet, need) == {"one": "does not hold medium"}


def test_the_less_loaded_edge_comes_first(fleet: Fleet) -> None:
    fleet.register(edge("busy"))
    fleet.register(edge("idle"))
    fleet.heartbeat("busy", NodeLoad(cpu=0.9, active=2, capacity=4), draining=False)
    assert order(fleet, NEED) == ["idle", "busy"]


def test_the_nearer_edge_comes_first_and_says_what_was_measured(fleet: Fleet) -> None:
    fleet.register(edge("far"))
    fleet.register(edge("near"))
    need = Need("scenes", "f", ("large",), rtts={"near": 0.002}, default_rtt=0.05)
    near, far = fleet.ranks().rank(need).ranked
    assert (near.node_id, near.rtt, far.rtt) == ("near", 0.002, 0.05)
    assert near.reason.endswith("round trip 2.0 ms")
    assert far.reason.endswith("round trip 50.0 ms, not measured: that to the coordinator")


def test_a_burst_between_two_heartbeats_is_spread(fleet: Fleet) -> None:
    for node_id in ("a", "b", "c"):
        fleet.register(edge(node_id))
    first = []
    for number in range(6):
        best = fleet.ranks().rank(NEED).best
        assert best is not None
        first.append(best.node_id)
        fleet.assign(best.node_id, f"d{number}")
    assert first == ["a", "b", "c", "a", "b", "c"]


def test_an_assignment_counts_until_it_ends_or_the_edge_reports(fleet: Fleet) -> None:
    fleet.register(edge())
    fleet.assign("e1", "d1")
    fleet.assign("e1", "d2")
    assert [item.waiting for item in fleet.ranks().rank(NEED).ranked] == [2]
    fleet.release("e1", "d1")
    fleet.release("gone", "d1")
    assert [item.waiting for item in fleet.ranks().rank(NEED).ranked] == [1]
    fleet.heartbeat("e1", IDLE, draining=False)
    assert [item.waiting for item in fleet.ranks().rank(NEED).ranked] == [0]


def test_the_best_are_named_alone_and_what_has_ended_makes_an_edge_one_of_them_again(
    fleet: Fleet,
) -> None:
    names = [f"e{number:02}" for number in range(MAX_EDGES + 1)]
    for name in names:
        fleet.register(edge(name))
    assert order(fleet, NEED) == names[:-1]
    fleet.assign("e00", "d1")
    assert order(fleet, NEED) == names[1:]
    fleet.release("e00", "d1")
    assert order(fleet, NEED) == names[:-1]
    fleet.heartbeat("e16", NodeLoad(cpu=0.5), draining=False)
    assert order(fleet, NEED) == names[:-1]
    near = Need("scenes", "f", ("large",), rtts={"e16": 0.0}, default_rtt=1.0)
    assert order(fleet, near) == ["e16", *names[: MAX_EDGES - 1]]


def test_of_many_that_do_not_fit_some_are_named_and_the_rest_are_counted(fleet: Fleet) -> None:
    for number in range(MAX_EDGES + 4):
        fleet.register(edge(f"e{number:02}", family="sd15"))
    ranking = fleet.ranks().rank(NEED)
    assert (len(ranking.rejected), ranking.unnamed) == (MAX_EDGES, 4)
    assert ranking.complaint.endswith(f"serves family sd15 and {MAX_EDGES + 1} more")


def test_members_are_those_of_the_family_whatever_the_state(fleet: Fleet, clock: Clock) -> None:
    fleet.register(edge("e1", ("large", "small")))
    clock.now += LEASE + 1
    fleet.register(edge("e2", ("medium", "small")))
    fleet.register(edge("e3", ("base",), family="sd15"))
    assert fleet.census.members("scenes") == ("large", "medium", "small")


def test_the_number_of_edges_is_bounded(fleet: Fleet) -> None:
    for number in range(fleet_module.MAX_NODES):
        fleet.register(edge(f"e{number}"))
    fleet.register(edge("e1"))
    with pytest.raises(Overloaded):
        fleet.register(edge("one-more"))


def test_a_lost_edge_gives_its_place_to_one_that_lives(fleet: Fleet, clock: Clock) -> None:
    fleet.register(edge("first"))
    clock.now += 1
    for number in range(fleet_module.MAX_NODES - 1):
        fleet.register(edge(f"e{number}"))
    with pytest.raises(Overloaded):
        fleet.register(edge("honest"))
    clock.now += LEASE
    fleet.register(edge("honest"))
    assert len(fleet.nodes()) == fleet_module.MAX_NODES
    assert "first" not in {node.registration.node_id for node in fleet.nodes()}
    with pytest.raises(Overloaded):
        fleet.register(edge("one-more"))


@pytest.mark.parametrize(
    "change",
    [
        {"node_id": ""},
        {"node_id": "x" * 129},
        {"node_id": "two words"},
        {"node_id": "line\n"},
        {"address": "nowhere"},
        {"address": "host:99999"},
        {"family": ""},
        {"fingerprint": ""},
        {"members": ()},
        *({"members": (f"a{sign}b",)} for sign in ">@/*:"),
        {"latent_space": "two words"},
        {"members": ("",)},
        {"members": tuple("abcdefghi")},
    ],
)
def test_a_bad_registration_is_refused(change: dict[str, object]) -> None:
    good: dict[str, object] = {
        "node_id": "e1",
        "address": "h:1",
        "family": "scenes",
        "members": ("large",),
        "fingerprint": "f",
    }
    Registration(**good)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest):
        Registration(**(good | change))  # type: ignore[arg-type]
