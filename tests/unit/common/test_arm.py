"""Arms: read, written, checked, and what they say of themselves."""

from __future__ import annotations

import pytest

from baton.common.arm import Arm, Stretch
from baton.common.errors import InvalidRequest, UnknownName
from baton.common.limits import MAX_SEGMENTS

RELAY = Arm.relay("large", "small", 0.4)


@pytest.mark.parametrize(
    ("name", "arm"),
    [
        ("device/small", Arm.device("small")),
        ("edge/large", Arm.edge("large")),
        ("edge/large@0.4>device/small", RELAY),
        ("edge/large*5", Arm((Stretch("edge", "large", 5),))),
        (
            "edge/large*3@s2.2>device/small*4",
            Arm((Stretch("edge", "large", 3, sigma=2.2), Stretch("device", "small", 4))),
        ),
        (
            "device/small*1>edge/large*2>device/small*4",
            Arm(
                (
                    Stretch("device", "small", 1),
                    Stretch("edge", "large", 2),
                    Stretch("device", "small", 4),
                )
            ),
        ),
        (
            "edge/large@0.3>device/small@0.7>edge/large",
            Arm(
                (
                    Stretch("edge", "large", share=0.3),
                    Stretch("device", "small", share=0.7),
                    Stretch("edge", "large"),
                )
            ),
        ),
        (
            "edge/large^1*2>edge/large*3",
            Arm((Stretch("edge", "large", 2, guidance=1.0), Stretch("edge", "large", 3))),
        ),
        (
            "edge/large^2.5@0.5>device/small^0",
            Arm(
                (
                    Stretch("edge", "large", share=0.5, guidance=2.5),
                    Stretch("device", "small", guidance=0.0),
                )
            ),
        ),
        (
            "device/a.b-c@s0.8>edge/d_e",
            Arm((Stretch("device", "a.b-c", sigma=0.8), Stretch("edge", "d_e"))),
        ),
    ],
)
def test_arms_read_and_write_as_documented(name: str, arm: Arm) -> None:
    assert Arm.parse(name) == arm
    assert str(arm) == name


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("device:small", "device/small"),
        ("edge:large", "edge/large"),
        ("relay:large>small@0.4", "edge/large@0.4>device/small"),
        ("relay:large>small@.25", "edge/large@0.25>device/small"),
        ("edge/large@4e-1>device/small", "edge/large@0.4>device/small"),
        ("edge/large^1.50*2", "edge/large^1.5*2"),
        ("edge/large*03@s2>device/small*4", "edge/large*3@s2.0>device/small*4"),
    ],
)
def test_other_spellings_are_one_arm(name: str, canonical: str) -> None:
    assert str(Arm.parse(name)) == canonical


@pytest.mark.parametrize(
    "name",
    [
        "", "device", "device:", "edge:", "device/", "/small", "cloud/small", "Device/small",
        "relay:large@0.5", "relay:large>@0.5", "relay:>small@0.5", "relay:a>b>c@0.5", "relay:a>b",
        "relay:a>b@", "relay:a>b@half", "relay:a>b@0", "relay:a>b@1", "relay:a>b@nan",
        "relay:a>b@-0.5", "device:a>b", "device:a@0.5", "cloud:a", "relay/a>device/b",
        "edge/a@0.5", "edge/a@s0.5", "edge/a>device/b", "edge/a@0.5>device/b@0.7",
        "edge/a@0>device/b", "edge/a@1>device/b", "edge/a@-1>device/b", "edge/a@s0>device/b",
        "edge/a@s-1>device/b", "edge/a@snan>device/b", "edge/a@sinf>device/b", "edge/a@s>device/b",
        "edge/a@0.5>device/b@0.5>edge/a", "edge/a@0.5>device/b@0.3>edge/a",
        "edge/a@s1>device/b@s2>edge/a", "edge/a@s1>device/b@s1>edge/a",
        "edge/a*3@0.5>device/b*2", "edge/a*3@s1>device/b", "edge/a@s1>device/b*3",
        "edge/a*0", "edge/a*-1", "edge/a*1.5", "edge/a*201", "edge/a*150>device/b*51",
        "edge/a*3@s1@s2>device/b*1", "edge/a@0.5@s1>device/b", "edge/a@s1*3>device/b*1",
        " edge/a", "edge/a ", "edge/ a", "edge/a\n", "edge/a>", ">edge/a", "edge/a>>device/b",
        "edge/a^", "edge/a^x", "edge/a^-1", "edge/a^31", "edge/a^nan", "edge/a*2^1", "edge/a^1^2",
        "edge/a@0.5^1>device/b", "device/^1", "edge/a/b", "edge/a:b", "edge/a*٣",
        "edge/" + "x" * 65, "x" * 1_000_000,
        ">".join(["edge/a*1"] * (MAX_SEGMENTS + 1)), "edge/a@0." + "1" * 400 + ">device/b",
    ],
)  # fmt: skip
def test_what_is_no_arm_is_an_unknown_name_said_in_one_short_line(name: str) -> None:
    with pytest.raises(UnknownName) as caught:
        Arm.parse(name)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "stretches",
    [
        (),
        (Stretch("edge", ""),),
        (Stretch("edge", "a b"),),
        (Stretch("edge", "a", share=0.5, sigma=1.0), Stretch("device", "b")),
        (Stretch("edge", "a", 3), Stretch("device", "b")),
    ],
)
def test_stretches_that_make_no_arm_are_refused(stretches: tuple[Stretch, ...]) -> None:
    with pytest.raises(InvalidRequest):
        Arm(stretches)


def test_an_arm_tells_its_members_and_steps() -> None:
    arm = Arm.parse("device/small*1>edge/large*2>device/small*4>edge/medium*1")
    assert arm.members == ("small", "large", "medium")
    assert (arm.members_on("edge"), arm.members_on("device")) == (("large", "medium"), ("small",))
    assert (arm.steps, RELAY.steps) == (8, None)


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("device/a", 0.0),
        ("edge/a", 1.0),
        ("edge/a@0.4>device/b", 0.4),
        ("device/a@0.4>edge/b", 0.6),
        ("edge/a@0.3>device/b@0.7>edge/a", 0.6),
        ("edge/a*3@s2.2>device/b*1", 0.75),
        ("edge/a@s1>device/b", 0.5),
        ("device/b@s3>edge/a", 0.75),
    ],
)
def test_the_share_of_the_edge(name: str, share: float) -> None:
    assert Arm.parse(name).edge_share == pytest.approx(share)
