from __future__ import annotations

from dataclasses import replace

from baton.common.arm import Arm
from baton.common.decision import EdgeChoice
from baton.common.query import DecideQuery
from baton.coordinator.bandit.arms import Candidate, candidates
from baton.coordinator.known import is_general
from baton.coordinator.ranking import RankedEdge, Ranking

USABLE = Ranking((RankedEdge("e1", "h:1", "idle", 0.0, 0.0, 0.0, 0),), ())
DRAINING = Ranking((), (EdgeChoice("e1", "h:1", "draining"),))


def query(members: tuple[str, ...], steps: int = 20, fingerprint: str = "f") -> DecideQuery:
    return DecideQuery("r", "scenes", steps, members=members, fingerprint=fingerprint)


def feasible(options: list[Candidate]) -> list[str]:
    return [str(item.arm) for item in options if item.feasible]


def reasons(options: list[Candidate]) -> dict[str, str]:
    return {str(item.arm): item.reason for item in options if not item.feasible}


def test_a_device_and_an_edge_give_every_kind_of_arm() -> None:
    options = candidates(query(("small",)), {("large",): USABLE})
    assert feasible(options) == [
        "device/small",
        "edge/large@0.2>device/small",
        "edge/large@0.4>device/small",
        "edge/large@0.6>device/small",
        "edge/large@0.8>device/small",
        "edge/large",
    ]
    assert reasons(options) == {"device/large": "the device does not hold large"}


def test_a_member_on_both_sides_runs_alone_on_either_but_is_no_relay_to_itself() -> None:
    options = candidates(query(("small",)), {("small",): USABLE})
    assert feasible(options) == ["device/small", "edge/small"]


def test_relays_go_in_both_directions() -> None:
    names = feasible(
        candidates(query(("large", "small")), {("large",): USABLE, ("small",): USABLE})
    )
    assert "edge/large@0.4>device/small" in names
    assert "edge/small@0.4>device/large" in names


def test_every_arm_appears_once() -> None:
    options = candidates(query(("a", "b", "a")), {(name,): USABLE for name in "abc"})
    names = [item.arm for item in options]
    assert len(names) == len(set(names))


def test_without_an_edge_the_device_is_alone() -> None:
    assert feasible(candidates(query(("small",)), {})) == ["device/small"]


def test_edges_that_take_no_work_are_named() -> None:
    options = candidates(query(("small",)), {("large",): DRAINING})
    assert feasible(options) == ["device/small"]
    assert reasons(options)["edge/large"] == "no edge can run large (e1: draining)"
    assert reasons(options)["edge/large@0.2>device/small"] == "no edge can run large (e1: draining)"


def test_a_device_without_members_has_the_edges_arms_only() -> None:
    assert feasible(candidates(query(()), {("large",): USABLE})) == ["edge/large"]


def test_a_relay_needs_a_fingerprint_to_match() -> None:
    options = candidates(query(("small",), fingerprint=""), {("large",): USABLE})
    assert feasible(options) == ["device/small", "edge/large"]
    assert "fingerprint" in reasons(options)["edge/large@0.4>device/small"]


def test_cuts_that_few_steps_cannot_tell_apart_count_once() -> None:
    options = candidates(query(("small",), steps=3), {("large",): USABLE})
    assert [name for name in feasible(options) if ">" in name] == [
        "edge/large@0.2>device/small",
        "edge/large@0.6>device/small",
    ]
    assert (
        reasons(options)["edge/large@0.4>device/small"] == "with 3 steps it is the same cut as @0.2"
    )


def test_one_step_cannot_be_relayed() -> None:
    options = candidates(query(("small",), steps=1), {("large",): USABLE})
    assert feasible(options) == ["device/small", "edge/large"]


def insisting(arm: str, members: tuple[str, ...] = ("small",)) -> DecideQuery:
    return DecideQuery(
        "r", "scenes", 20, members=members, fingerprint="f", requested_arm=Arm.parse(arm)
    )


def test_an_arm_that_the_user_insists_on_is_the_only_one() -> None:
    options = candidates(insisting("edge/large@0.35>device/small"), {("large",): USABLE})
    assert feasible(options) == ["edge/large@0.35>device/small"]
    assert len(options) == 1


def test_an_arm_that_cannot_be_had_says_why() -> None:
    for arm, reason in {
        "device/large": "the device does not hold large",
        "edge/large@0.4>device/medium": "the device does not hold medium",
        "edge/medium": "no edge holds medium",
    }.items():
        assert reasons(candidates(insisting(arm), {("large",): USABLE})) == {arm: reason}
    drained = reasons(candidates(insisting("edge/large"), {("large",): DRAINING}))
    assert "no edge can run large" in drained["edge/large"]


def test_an_arm_of_several_edge_members_needs_edges_that_hold_them_all() -> None:
    text = "edge/large@0.3>device/small@0.7>edge/medium"
    both = {("large",): USABLE, ("medium",): USABLE}
    assert feasible(candidates(insisting(text), both | {("large", "medium"): USABLE})) == [text]
    told = reasons(candidates(insisting(text), both | {("large", "medium"): DRAINING}))
    assert told[text] == "no edge can run large and medium (e1: draining)"
    assert reasons(candidates(insisting(text), {("large",): USABLE})) == {
        text: "no edge holds medium"
    }


def test_a_latent_spaces_id_matches_as_a_fingerprint_does() -> None:
    asked = replace(query(("small",), fingerprint=""), latent_space="space")
    assert "edge/large@0.4>device/small" in feasible(candidates(asked, {("large",): USABLE}))


def test_the_arms_that_the_bandit_makes_are_those_that_are_learned() -> None:
    options = candidates(query(("a", "b")), {("a",): USABLE, ("c",): USABLE})
    assert all(is_general(item.arm) for item in options)
    for text in ("edge/a@0.35>device/b", "device/a@0.4>edge/b", "edge/a*4", "edge/a@0.4>device/a"):
        assert not is_general(Arm.parse(text))
