"""The arm that steps were, as they ran."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from baton.common.arm import Arm
from baton.common.expansion import Terms, expand
from baton.common.limits import DEVICE_NODE, Location
from baton.common.plan import Guidance
from baton.common.record import ExecutedStep, arm_that_ran

EDGE_LARGE: tuple[Location, str] = ("edge", "large")
EDGE_SMALL: tuple[Location, str] = ("edge", "small")
HERE: tuple[Location, str] = ("device", "small")


def ran(*places: tuple[Location, str]) -> list[ExecutedStep]:
    return [
        ExecutedStep(step, member, place, DEVICE_NODE if place == "device" else "e1", "both", 2, 1)
        for step, (place, member) in enumerate(places)
    ]


@pytest.mark.parametrize(
    ("planned", "places", "told"),
    [
        ("edge/large*5", [EDGE_LARGE] * 2 + [HERE] * 3, "edge/large*2>device/small*3"),
        ("device/small*1>edge/large*2>device/small*4", [HERE] * 7, "device/small*7"),
        ("device/small*2>edge/large*3", [HERE] * 5, "device/small*5"),
        (
            "edge/large*2>edge/small*3",
            [EDGE_LARGE] * 2 + [EDGE_SMALL] + [HERE] * 2,
            "edge/large*2>edge/small*1>device/small*2",
        ),
        (
            "edge/large*2@s2.2>device/small*3",
            [EDGE_LARGE] + [HERE] * 4,
            "edge/large*1>device/small*1@s2.2>device/small*3",
        ),
        ("edge/large", [EDGE_LARGE] * 2 + [HERE] * 3, "edge/large@0.4>device/small"),
        ("edge/large@0.6>device/small", [HERE] * 5, "device/small"),
        ("edge/large@s2.2>device/small", [EDGE_LARGE] + [HERE] * 4, "edge/large@0.2>device/small"),
    ],
)
def test_the_arm_that_ran_is_told_in_counts_where_the_planned_one_has_them(
    planned: str, places: Sequence[tuple[Location, str]], told: str
) -> None:
    arm = Arm.parse(planned)
    terms = Terms("tiny", "ddim", 5, Guidance(3.0), ratios=lambda *_: (14.0, 2.0, 1.0, 0.5, 0.2))
    assert str(arm_that_ran(ran(*places), expand(arm, terms), arm)) == told
