"""What an arm means for one request."""

from __future__ import annotations

from dataclasses import replace

import pytest

from baton.common.arm import Arm
from baton.common.errors import Incompatible, InvalidRequest
from baton.common.expansion import Terms, expand, plan_of
from baton.common.limits import SamplerName
from baton.common.plan import Grid, Guidance, OpenPlan

TERMS = Terms("tiny", "ddim", 10, Guidance(3.0))


def stretches(plan: OpenPlan) -> list[tuple[str, str, int, int]]:
    return [(s.location, s.member, s.start, s.stop) for s in plan.segments]


def of(name: str, terms: Terms = TERMS) -> OpenPlan:
    return expand(Arm.parse(name), terms)


def test_shares_are_of_the_callers_steps_on_one_grid() -> None:
    plan = of("edge/large@0.3>device/small@0.7>edge/large")
    assert stretches(plan) == [
        ("edge", "large", 0, 3), ("device", "small", 3, 7), ("edge", "large", 7, 10),
    ]  # fmt: skip
    assert plan.grids == (Grid("ddim", 0, 10),)


def test_a_relay_is_rounded_to_the_nearest_step() -> None:
    for steps, cut in ((1, 0), (2, 1), (5, 2), (50, 20)):
        plan = of("relay:a>b@0.4", replace(TERMS, steps=steps))
        assert sum(s.stop - s.start for s in plan.segments if s.location == "edge") == cut


def test_a_stretch_that_gets_no_step_is_left_out() -> None:
    assert stretches(plan_of(Arm.relay("a", "b", 0.1), "tiny", "ddim", 2, 1.0)) == [
        ("device", "b", 0, 2)
    ]
    assert stretches(plan_of(Arm.relay("a", "b", 0.9), "tiny", "ddim", 2, 1.0)) == [
        ("edge", "a", 0, 2)
    ]


def test_steps_without_cuts_share_one_grid_of_their_sum() -> None:
    plan = of("device/small*1>edge/large*2>device/small*4")
    assert stretches(plan) == [
        ("device", "small", 0, 1), ("edge", "large", 1, 3), ("device", "small", 3, 7),
    ]  # fmt: skip
    assert plan.grids == (Grid("ddim", 0, 7),)
    assert of("edge/large*5").grids == (Grid("ddim", 0, 5),)


def test_what_follows_a_level_has_a_grid_of_its_own() -> None:
    plan = of("edge/large*3@s2.2>device/small*4")
    assert plan.grids == (Grid("ddim", 0, 3, until=2.2), Grid("ddim", 3, 7))
    shared = of("edge/a*1>device/b*2@s2.0>edge/a*3>device/b*4")
    assert shared.grids == (Grid("ddim", 0, 3, until=2.0), Grid("ddim", 3, 10))
    assert [(s.start, s.grid.start) for s in shared.segments] == [(0, 0), (1, 0), (3, 3), (6, 3)]


def test_an_arm_with_steps_of_its_own_takes_the_familys_named_grid_of_as_many() -> None:
    named = Grid("ddim", 0, 5, name="tuned", digest="d" * 32)
    terms = replace(TERMS, named={("ddim", 5): named})
    assert of("edge/large*5", terms).grids == (named,)
    assert of("edge/large*2>device/small*3", terms).grids == (named,)
    assert of("edge/large*6", terms).grids == (Grid("ddim", 0, 6),)
    assert of("edge/large*2@s2>device/small*3", terms).grids[0].name == ""
    assert of("edge/large", replace(terms, steps=5)).grids == (Grid("ddim", 0, 5),)


def ratios(sampler: SamplerName, steps: int) -> list[float]:
    """Falling from 8."""
    return [8.0 * (steps - step) / steps for step in range(steps)]


@pytest.mark.parametrize(("sigma", "cut"), [(7.9, 1), (4.0, 5), (3.9, 6), (0.1, 10)])
def test_a_level_on_the_shared_grid_cuts_before_the_first_step_at_or_below_it(
    sigma: float, cut: int
) -> None:
    plan = of(f"edge/large@s{sigma}>device/small", replace(TERMS, ratios=ratios))
    assert sum(s.stop - s.start for s in plan.segments if s.location == "edge") == cut
    assert plan.grids == (Grid("ddim", 0, 10),)


@pytest.mark.parametrize("sigma", [8.0, 9.0, 99.0])
def test_a_level_that_no_step_is_above_is_refused_by_its_name_with_the_familys_range(
    sigma: float,
) -> None:
    with pytest.raises(Incompatible) as caught:
        of(f"edge/large@s{sigma}>device/small", replace(TERMS, ratios=ratios))
    assert f"edge/large@s{sigma} " in str(caught.value)
    assert "in 10 steps the family's levels of noise fall from 8 to 0.8" in str(caught.value)


def test_who_does_not_know_the_levels_cannot_place_a_cut_at_one() -> None:
    with pytest.raises(Incompatible, match="steps of each stretch"):
        of("edge/large@s1.0>device/small")


def test_a_member_may_have_guidance_of_its_own() -> None:
    terms = replace(TERMS, own_guidance={"small": "none"}, accel="full")
    plan = of("edge/large@0.5>device/small", terms)
    assert [s.guidance for s in plan.segments] == [Guidance(3.0), Guidance(3.0, "none")]
    assert [s.accel for s in plan.segments] == ["full", "full"]


def test_a_stretch_may_say_its_scale_of_guidance() -> None:
    terms = replace(TERMS, own_guidance={"fine": "none"})
    plan = of("edge/large^1*3>edge/large*2>device/small^2.5*1>device/fine^4*1", terms)
    assert [(s.start, s.stop, s.guidance) for s in plan.segments] == [
        (0, 3, Guidance(1.0)),
        (3, 5, Guidance(3.0)),
        (5, 6, Guidance(2.5)),
        (6, 7, Guidance(4.0, "none")),
    ]
    assert [plan.guided_at(step) for step in (0, 3, 5, 6)] == [False, True, True, False]


@pytest.mark.parametrize("steps", [0, 201, -1])
def test_the_callers_steps_are_within_the_limits(steps: int) -> None:
    with pytest.raises(InvalidRequest, match="steps"):
        of("device/small", replace(TERMS, steps=steps))
