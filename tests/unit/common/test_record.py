"""The arm that steps were, as they ran; what cannot have run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from baton.common.arm import Arm
from baton.common.errors import InvalidRequest
from baton.common.expansion import Terms, expand
from baton.common.limits import DEVICE_NODE, Branches, Location
from baton.common.plan import Guidance
from baton.common.record import ExecutedStep, arm_that_ran, check_record

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


@pytest.mark.parametrize(
    ("branches", "places", "transfers", "reuses_nothing"),
    [
        (["both", "reuse", "reuse"], [HERE] * 3, (), None),
        (["both", "positive", "reuse"], [HERE] * 3, (), None),
        (["reuse", "both", "reuse"], [HERE] * 3, (), 0),
        (["both", "positive", "reuse"], [HERE] * 3, (2,), 2),
        (["both", "both", "reuse"], [HERE] * 3, (1,), None),
        (["both", "reuse", "both"], [EDGE_LARGE, HERE, HERE], (), 1),
        (["both", "both", "reuse"], [EDGE_LARGE, EDGE_SMALL, EDGE_LARGE], (), 2),
    ],
)
def test_guidance_is_reused_of_a_step_of_the_same_member_and_place_with_no_transfer_since(
    branches: Sequence[Branches],
    places: Sequence[tuple[Location, str]],
    transfers: tuple[int, ...],
    reuses_nothing: int | None,
) -> None:
    steps = [
        replace(step, branches=of, rows=2 if of == "both" else 1)
        for step, of in zip(ran(*places), branches, strict=True)
    ]
    if reuses_nothing is None:
        check_record(steps, transfers)
        return
    with pytest.raises(InvalidRequest, match=f"step {reuses_nothing} had no guidance to reuse"):
        check_record(steps, transfers)
