from __future__ import annotations

from baton.common.plan import Arm, EdgeChoice
from baton.coordinator.bandit.arms import Candidate, candidates
from baton.coordinator.fleet import RankedEdge, Ranking
from baton.coordinator.values import DecideQuery

USABLE = Ranking((RankedEdge("e1", "h:1", "idle", 0.0, 0.0, 0.0, 0),), ())
DRAINING = Ranking((), (EdgeChoice("e1", "h:1", "draining"),))


def query(members: tuple[str, ...], steps: int = 20, fingerprint: str = "f") -> DecideQuery:
    return DecideQuery("r", "scenes", steps, members=members, fingerprint=fingerprint)


def feasible(options: list[Candidate]) -> list[str]:
    return [item.arm.name for item in options if item.feasible]


def reasons(options: list[Candidate]) -> dict[str, str]:
    return {item.arm.name: item.reason for item in options if not item.feasible}


def test_a_device_and_an_edge_give_every_kind_of_arm() -> None:
    options = candidates(query(("small",)), {"large": USABLE})
    assert feasible(options) == [
        "device:small",
        "relay:large>small@0.2",
        "relay:large>small@0.4",
        "relay:large>small@0.6",
        "relay:large>small@0.8",
        "edge:large",
    ]
    assert reasons(options) == {"device:large": "the device does not hold large"}


def test_a_member_on_both_sides_runs_alone_on_either_but_is_no_relay_to_itself() -> None:
    options = candidates(query(("small",)), {"small": USABLE})
    assert feasible(options) == ["device:small", "edge:small"]


def test_relays_go_in_both_directions() -> None:
    names = feasible(candidates(query(("large", "small")), {"large": USABLE, "small": USABLE}))
    assert "relay:large>small@0.4" in names
    assert "relay:small>large@0.4" in names


def test_every_arm_appears_once() -> None:
    options = candidates(query(("a", "b", "a")), {"a": USABLE, "b": USABLE, "c": USABLE})
    names = [item.arm.name for item in options]
    assert len(names) == len(set(names))


def test_without_an_edge_the_device_is_alone() -> None:
    assert feasible(candidates(query(("small",)), {})) == ["device:small"]


def test_edges_that_take_no_work_are_named() -> None:
    options = candidates(query(("small",)), {"large": DRAINING})
    assert feasible(options) == ["device:small"]
    assert reasons(options)["edge:large"] == "no edge can run large (e1: draining)"
    assert reasons(options)["relay:large>small@0.2"] == "no edge can run large (e1: draining)"


def test_a_device_without_members_has_the_edges_arms_only() -> None:
    assert feasible(candidates(query(()), {"large": USABLE})) == ["edge:large"]


def test_a_relay_needs_a_fingerprint_to_match() -> None:
    options = candidates(query(("small",), fingerprint=""), {"large": USABLE})
    assert feasible(options) == ["device:small", "edge:large"]
    assert "fingerprint" in reasons(options)["relay:large>small@0.4"]


def test_cuts_that_few_steps_cannot_tell_apart_count_once() -> None:
    options = candidates(query(("small",), steps=3), {"large": USABLE})
    assert [name for name in feasible(options) if name.startswith("relay")] == [
        "relay:large>small@0.2",
        "relay:large>small@0.6",
    ]
    assert reasons(options)["relay:large>small@0.4"] == "with 3 steps it is the same cut as @0.2"


def test_one_step_cannot_be_relayed() -> None:
    options = candidates(query(("small",), steps=1), {"large": USABLE})
    assert feasible(options) == ["device:small", "edge:large"]


def insisting(arm: str, members: tuple[str, ...] = ("small",)) -> DecideQuery:
    return DecideQuery(
        "r", "scenes", 20, members=members, fingerprint="f", requested_arm=Arm.parse(arm)
    )


def test_an_arm_that_the_user_insists_on_is_the_only_one() -> None:
    options = candidates(insisting("relay:large>small@0.35"), {"large": USABLE})
    assert feasible(options) == ["relay:large>small@0.35"]
    assert len(options) == 1


def test_an_arm_that_cannot_be_had_says_why() -> None:
    for arm, reason in {
        "device:large": "the device does not hold large",
        "relay:large>medium@0.4": "the device does not hold medium",
        "edge:medium": "no edge holds medium",
    }.items():
        assert reasons(candidates(insisting(arm), {"large": USABLE})) == {arm: reason}
    drained = reasons(candidates(insisting("edge:large"), {"large": DRAINING}))
    assert "no edge can run large" in drained["edge:large"]
