"""Whose an id is: the edge's that holds its lease, by secret; and which of its processes speaks."""

from __future__ import annotations

import pytest

from baton.common.errors import InvalidRequest, PermissionDenied
from baton.common.node import NodeLoad, Registration
from baton.coordinator.fleet import Fleet
from baton.coordinator.ranking import Need
from baton.coordinator.values import NodeView
from tests.unit.coordinator.test_fleet import LEASE, Clock

OLD, NEW = "10.0.0.1:7701", "10.0.0.2:7701"
NEED = Need("scenes")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fleet(clock: Clock) -> Fleet:
    return Fleet(LEASE, clock)


def edge(address: str = OLD, incarnation: str = "", secret: str = "") -> Registration:
    return Registration(
        "e1", address, "scenes", ("large",), "f", incarnation=incarnation, secret=secret
    )


def only(fleet: Fleet) -> NodeView:
    (node,) = fleet.nodes()
    return node


def test_another_secret_is_refused_while_the_lease_lives(fleet: Fleet, clock: Clock) -> None:
    fleet.register(edge(OLD, "i1", "mine"))
    clock.now += LEASE
    with pytest.raises(PermissionDenied) as caught:
        fleet.register(edge(NEW, "i2", "other"))
    assert caught.value.reason == "node_taken"
    assert all(part in str(caught.value) for part in (OLD, NEW, "--node-id"))
    assert "mine" not in str(caught.value)
    assert only(fleet).registration.address == OLD
    clock.now += 0.001
    fleet.register(edge(NEW, "i2", "other"))
    assert only(fleet).registration.address == NEW


def test_a_draining_edge_still_has_its_id(fleet: Fleet) -> None:
    fleet.register(edge(OLD, "i1", "mine"))
    fleet.heartbeat("e1", NodeLoad(), draining=True, incarnation="i1")
    with pytest.raises(PermissionDenied):
        fleet.register(edge(NEW, "i2", "other"))


def test_the_same_secret_takes_over_from_any_address(fleet: Fleet) -> None:
    fleet.register(edge(OLD, "i1", "mine"))
    fleet.register(edge(NEW, "i2", "mine"))
    assert only(fleet).registration.address == NEW


def test_a_heartbeat_keeps_no_other_incarnation_alive(fleet: Fleet, clock: Clock) -> None:
    fleet.register(edge(OLD, "i1", "mine"))
    fleet.register(edge(NEW, "i2", "mine"))
    clock.now += LEASE
    busy = NodeLoad(active=4, capacity=4)
    for incarnation in ("i1", ""):
        assert not fleet.heartbeat("e1", busy, draining=True, incarnation=incarnation)
    assert (only(fleet).load, only(fleet).state) == (NodeLoad(), "alive")
    clock.now += 0.001
    assert only(fleet).state == "lost"
    assert not fleet.heartbeat("e1", busy, draining=False, incarnation="i2")


def test_a_late_farewell_removes_no_other_incarnation(fleet: Fleet) -> None:
    fleet.register(edge(OLD, "i1", "mine"))
    fleet.register(edge(NEW, "i2", "mine"))
    for incarnation in ("i1", ""):
        fleet.deregister("e1", incarnation=incarnation)
    assert only(fleet).registration.address == NEW
    fleet.deregister("e1", incarnation="i2")
    assert fleet.nodes() == []


def test_what_was_sent_to_one_incarnation_does_not_weigh_on_the_next(fleet: Fleet) -> None:
    fleet.register(edge(OLD, "i1", "mine"))
    fleet.assign("e1", "d1")
    fleet.register(edge(NEW, "i2", "mine"))
    assert [item.waiting for item in fleet.ranks().rank(NEED).ranked] == [0]


def test_an_edge_without_a_secret_has_its_address_alone(fleet: Fleet) -> None:
    """One of an older version: it also may be brought up to date in its place."""
    fleet.register(edge(OLD))
    fleet.register(edge(OLD))
    for other in (edge(NEW), edge(NEW, "i2", "mine")):
        with pytest.raises(PermissionDenied, match="--node-id"):
            fleet.register(other)
    fleet.register(edge(OLD, "i2", "mine"))
    for other in (edge(OLD), edge(NEW)):
        with pytest.raises(PermissionDenied):
            fleet.register(other)


def test_a_proven_name_speaks_for_an_edge_without_a_secret_but_not_against_one(
    fleet: Fleet,
) -> None:
    fleet.register(edge(OLD, "i1", "mine"), "anna")
    with pytest.raises(PermissionDenied):
        fleet.register(edge(NEW, "i2", "other"), "anna")
    fleet.register(edge(NEW), "anna")
    with pytest.raises(PermissionDenied) as caught:
        fleet.register(edge(NEW), "bert")
    assert caught.value.reason == "foreign_node"


@pytest.mark.parametrize("bad", ["two words", "x" * 129, "line\n"])
def test_a_secret_or_incarnation_that_is_no_id_is_refused(bad: str) -> None:
    with pytest.raises(InvalidRequest, match="secret"):
        edge(secret=bad)
    with pytest.raises(InvalidRequest, match="incarnation"):
        edge(incarnation=bad)


def test_a_registration_does_not_show_its_secret() -> None:
    assert "mine" not in repr(edge(secret="mine"))
