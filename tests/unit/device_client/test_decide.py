from __future__ import annotations

from pathlib import Path

import pytest

from baton.common.arm import Arm
from baton.common.errors import BatonError, Incompatible, UnknownName
from baton.common.families.manifest import read_manifest
from baton.common.request import GenerationRequest, Preference
from baton.device_client.arm_names import ArmNames
from baton.device_client.static_decision import static_decision

EDGES = ("10.0.0.1:7701", "10.0.0.2:7701")


def names(folder: Path, *members: str) -> ArmNames:
    return ArmNames(read_manifest(folder), members)


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("device", "device/small"),
        ("edge", "edge/large"),
        ("relay", "edge/large@0.4>device/small"),
        ("relay@0.25", "edge/large@0.25>device/small"),
        ("device/large", "device/large"),
        ("edge/small", "edge/small"),
        ("edge/small@0.9>device/large", "edge/small@0.9>device/large"),
        ("edge/small@0.5>device/small", "edge/small@0.5>device/small"),
    ],
)
def test_short_and_full_names_name_an_arm(family_folder: Path, short: str, full: str) -> None:
    arm = names(family_folder, "small", "large").resolve(short)
    assert str(arm) == full
    assert Arm.parse(full) == arm


def test_the_first_member_of_the_device_finishes(family_folder: Path) -> None:
    both = names(family_folder, "large", "small")
    assert both.resolve("device").members == ("large",)
    assert str(both.resolve("relay@0.5")) == "edge/large@0.5>device/large"


@pytest.mark.parametrize(
    "name",
    [
        "", "nonsense", "DEVICE", "cloud:large", "device:", "device:giant", "edge:giant",
        "edge/large@0.4>device/giant", "edge/giant@0.4>device/small", "relay:large>small",
        "relay:large@0.4", "edge/large*3@s1.0>device/giant*2",
        "relay:large>small>small@0.4", "edge/large@0.4>device/small@0.5", "device@0.4", "edge@0.4",
        "device/small@0.4", "relay@0", "relay@1", "relay@-0.4", "relay@2", "relay@nan",
        "relay@inf", "relay@x", "x" * 10_000,
    ],
)  # fmt: skip
def test_other_names_are_refused_in_one_short_line(family_folder: Path, name: str) -> None:
    with pytest.raises(UnknownName) as caught:
        names(family_folder, "small").resolve(name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["device", "relay@0.4"])
def test_a_device_without_a_member_is_sent_to_the_edge(family_folder: Path, name: str) -> None:
    with pytest.raises(Incompatible, match="--arm edge"):
        names(family_folder).resolve(name)


@pytest.mark.parametrize(
    ("asked", "preference", "edges", "arm"),
    [
        (None, "balanced", (), "device/small"),
        (None, "quality", (), "device/small"),
        (None, "speed", (), "device/small"),
        (None, "balanced", EDGES, "edge/large@0.4>device/small"),
        (None, "quality", EDGES, "edge/large"),
        (None, "speed", EDGES, "device/small"),
        ("device", "quality", EDGES, "device/small"),
        ("device", "quality", (), "device/small"),
        ("edge", "speed", EDGES, "edge/large"),
        ("relay@0.2", "speed", EDGES, "edge/large@0.2>device/small"),
        ("edge/small", "balanced", EDGES, "edge/small"),
    ],
)
def test_without_a_coordinator_the_wish_wins_and_then_the_preference(
    family_folder: Path,
    asked: str | None,
    preference: Preference,
    edges: tuple[str, ...],
    arm: str,
) -> None:
    request = GenerationRequest("a", arm=asked, preference=preference)
    decision = static_decision(names(family_folder, "small"), request, edges)
    assert str(decision.arm) == arm
    expected = edges if "edge" in arm else ()
    assert tuple(edge.address for edge in decision.edges) == expected
    assert decision.reason
    assert decision.decision_id.startswith("static-")


@pytest.mark.parametrize("preference", ["quality", "balanced", "speed"])
def test_a_device_without_a_member_lets_the_edge_draw(
    family_folder: Path, preference: Preference
) -> None:
    request = GenerationRequest("a", preference=preference)
    decision = static_decision(names(family_folder), request, EDGES)
    assert str(decision.arm) == "edge/large"


@pytest.mark.parametrize("asked", ["edge", "relay@0.4", "edge/large@0.4>device/small"])
def test_an_arm_that_needs_an_edge_says_so_where_none_is_known(
    family_folder: Path, asked: str
) -> None:
    with pytest.raises(Incompatible, match="--edge HOST:PORT"):
        static_decision(names(family_folder, "small"), GenerationRequest("a", arm=asked), ())


def test_nothing_to_draw_with_is_an_error(family_folder: Path) -> None:
    with pytest.raises(BatonError):
        static_decision(names(family_folder), GenerationRequest("a"), ())


def test_every_decision_has_an_id_of_its_own(family_folder: Path) -> None:
    request = GenerationRequest("a", preference="speed")
    made = [static_decision(names(family_folder, "small"), request, ()) for _ in range(3)]
    assert len({decision.decision_id for decision in made}) == 3
