"""Plans, segments, grids and tasks: values that are checked when they are made."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from baton.common.arm import Arm
from baton.common.errors import InvalidRequest, UnknownName
from baton.common.expansion import plan_of
from baton.common.guidance import GuidanceBudget
from baton.common.limits import (
    MAX_GUIDANCE,
    MAX_PROMPT_CHARS,
    MAX_SEGMENTS,
    MAX_STEPS,
    check_fraction,
    check_guidance,
    check_sampler,
    check_steps,
)
from baton.common.plan import (
    FULL_STEP,
    Grid,
    Guidance,
    Holder,
    OpenPlan,
    OpenSegment,
    Plan,
    Segment,
    StepDirective,
    relay_step,
)
from baton.common.request import Task
from baton.common.size import Size
from tests.support.tasks import plan_in

SMALL = Holder("small", "device")
PLAN = plan_of(Arm.device("small"), "tiny", "ddim", 4, 2.0)
MIXED = plan_in(
    "tiny",
    "euler",
    2.0,
    ("large", "edge", 0, 3),
    ("medium", "edge", 3, 5),
    ("small", "device", 5, 8),
    ("large", "edge", 8, 10),
)
GRID, SCALE = Grid("ddim", 0, 4), Guidance(2.0)
SQUARE = Size(16, 16)


@pytest.mark.parametrize("steps", [0, -1, MAX_STEPS + 1, 10**9, 2**64])
def test_a_number_of_steps_outside_the_limits_is_refused(steps: int) -> None:
    with pytest.raises(InvalidRequest, match="steps"):
        check_steps(steps)
    with pytest.raises(InvalidRequest):
        plan_of(Arm.relay("large", "small", 0.5), "tiny", "ddim", steps, 2.0)
    with pytest.raises(InvalidRequest):
        Grid("ddim", 0, steps)


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf, -0.001, MAX_GUIDANCE * 1.001])
def test_a_guidance_scale_outside_the_limits_is_refused(scale: float) -> None:
    with pytest.raises(InvalidRequest, match="guidance"):
        check_guidance(scale)
    with pytest.raises(InvalidRequest, match="guidance"):
        Guidance(scale)


@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5, MAX_GUIDANCE])
def test_a_guidance_scale_within_the_limits_is_kept(scale: float) -> None:
    assert check_guidance(scale) == Guidance(scale).scale == scale


@pytest.mark.parametrize(
    ("scale", "kind", "two"),
    [(1.0, "two_branches", False), (1.1, "two_branches", True), (7.5, "none", False)],
)
def test_a_second_branch_is_for_guidance_that_needs_one(scale: float, kind: str, two: bool) -> None:
    guidance = Guidance(scale, kind)  # type: ignore[arg-type]
    assert guidance.two_branches is two
    plan = OpenPlan("tiny", (OpenSegment("large", "edge", 0, 4, GRID, guidance),))
    assert [plan.guided_at(step) for step in range(4)] == [two] * 4


def test_an_unknown_kind_of_guidance_or_branches_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="guidance"):
        Guidance(2.0, "perturbed")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="branches"):
        StepDirective("negative")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fields",
    [
        {"after": -0.1}, {"after": 1.1}, {"after": math.nan}, {"in_a_row": -1},
        {"in_a_row": MAX_STEPS + 1}, {"branches": "both"},
    ],
)  # fmt: skip
def test_a_guidance_budget_is_of_cheaper_guidance_within_the_steps(
    fields: dict[str, object],
) -> None:
    with pytest.raises(InvalidRequest):
        GuidanceBudget(**{"after": 0.5, "in_a_row": 1} | fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("fraction", [math.nan, -0.1, 0.0, 1.0, math.inf])
def test_a_relay_fraction_outside_the_open_interval_is_refused(fraction: float) -> None:
    with pytest.raises(InvalidRequest, match="fraction"):
        check_fraction(fraction)


def test_an_unknown_sampler_is_named_with_the_known_ones() -> None:
    with pytest.raises(UnknownName, match=r"'plms'.*ddim, euler, dpmpp_2m"):
        check_sampler("plms")
    with pytest.raises(UnknownName):
        Grid("plms", 0, 4)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 0), (3, 3), (3, 2), (-1, 2), (0, MAX_STEPS + 1), (0, 2**32 - 1)]
)
def test_a_segment_or_grid_that_is_no_stretch_of_steps_is_refused(start: int, stop: int) -> None:
    with pytest.raises(InvalidRequest, match="stretch"):
        OpenSegment("large", "edge", start, stop, GRID, SCALE)
    with pytest.raises(InvalidRequest, match="stretch"):
        Grid("ddim", start, stop)


@pytest.mark.parametrize("count", [0, 2, 4])
def test_a_segment_needs_one_directive_a_step(count: int) -> None:
    with pytest.raises(InvalidRequest, match="directives"):
        Segment("large", "edge", 0, 3, GRID, SCALE, (FULL_STEP,) * count)


def test_an_open_segment_without_directives_runs_in_full() -> None:
    open_segment = OpenSegment("large", "edge", 1, 4, GRID, SCALE)
    assert open_segment.directives == (FULL_STEP,) * 3
    assert open_segment.closed() == Segment("large", "edge", 1, 4, GRID, SCALE, (FULL_STEP,) * 3)


def test_a_segment_needs_a_known_place_and_a_short_name() -> None:
    with pytest.raises(InvalidRequest, match="location"):
        OpenSegment("large", "cloud", 0, 3, GRID, SCALE)  # type: ignore[arg-type]
    for name in ("", "x" * 65):
        with pytest.raises(InvalidRequest, match="name"):
            OpenSegment(name, "edge", 0, 3, GRID, SCALE)


@pytest.mark.parametrize(
    "stretches", [[], [(1, 4)], [(0, 2), (3, 4)], [(0, 3), (2, 4)], [(2, 4), (0, 2)], [(0, 3)]]
)
def test_segments_that_do_not_cover_every_step_once_are_refused(
    stretches: list[tuple[int, int]],
) -> None:
    with pytest.raises(InvalidRequest):
        OpenPlan(
            "tiny", tuple(OpenSegment("large", "edge", *part, GRID, SCALE) for part in stretches)
        )


def test_a_plan_of_too_many_segments_is_refused() -> None:
    count = MAX_SEGMENTS + 1
    with pytest.raises(InvalidRequest, match="segments"):
        plan_in("tiny", "ddim", 2.0, *(("large", "edge", i, i + 1) for i in range(count)))


def grids(*given: Grid) -> OpenPlan:
    """A plan of a segment on each."""
    segments = (OpenSegment("large", "edge", g.start, g.stop, g, SCALE) for g in given)
    return OpenPlan("tiny", tuple(segments))


def test_grids_follow_one_another_from_level_to_lower_level() -> None:
    first, last = Grid("ddim", 0, 3, until=2.2), Grid("euler", 3, 7)
    plan = grids(first, last)
    assert (plan.grids, plan.samplers, plan.steps) == ((first, last), ("ddim", "euler"), 7)
    for wrong in (
        (Grid("ddim", 0, 3), last),  # ends nowhere
        (Grid("ddim", 0, 3, until=2.2), Grid("ddim", 3, 7, until=0.1)),  # the last one ends early
        (first, Grid("ddim", 3, 5, until=2.2), Grid("ddim", 5, 7)),  # the noise does not fall
        (first, Grid("ddim", 3, 5, until=3.0), Grid("ddim", 5, 7)),  # it rises
    ):
        with pytest.raises(InvalidRequest):
            grids(*wrong)


def test_a_segment_lies_within_its_grid() -> None:
    with pytest.raises(InvalidRequest, match="leaves its grid"):
        OpenSegment("large", "edge", 0, 5, GRID, SCALE)


@pytest.mark.parametrize("until", [0.0, -1.0, math.nan, math.inf, 1e9])
def test_a_level_is_above_0_and_finite(until: float) -> None:
    with pytest.raises(InvalidRequest, match="noise level"):
        Grid("ddim", 0, 4, until=until)


def test_a_named_grid_has_its_digest() -> None:
    assert Grid("ddim", 0, 4, name="tuned", digest="d" * 32).name == "tuned"
    for names in ({"name": "tuned"}, {"digest": "d" * 32}, {"name": "x" * 65, "digest": "d"}):
        with pytest.raises(InvalidRequest, match="named grid"):
            Grid("ddim", 0, 4, **names)
    for part in ({"start": 2}, {"until": 0.8}):
        with pytest.raises(InvalidRequest, match="all levels"):
            Grid(**({"sampler": "ddim", "start": 0, "stop": 4, "name": "n", "digest": "d"} | part))


def test_a_stretch_ends_where_the_place_changes_not_where_the_member_does() -> None:
    ends = [MIXED.stretch_end(step) for step in range(11)]
    assert ends == [5, 5, 5, 5, 5, 8, 8, 8, 10, 10, 10]


def test_the_segment_of_a_step_past_the_end_is_an_index_error() -> None:
    assert MIXED.segment_at(4).member == "medium"
    for step in (-1, 10):
        with pytest.raises(IndexError):
            MIXED.segment_at(step)


def test_resting_on_a_member_keeps_what_is_before_and_every_directive() -> None:
    unguided = StepDirective("positive")
    directives = (FULL_STEP, unguided, FULL_STEP, unguided)
    plan = plan_in("tiny", "ddim", 2.0, ("large", "edge", 0, 4, directives))
    moved = plan.rest_on(3, lambda step: SMALL)
    assert [(s.member, s.location, s.start, s.stop) for s in moved.segments] == [
        ("large", "edge", 0, 3),
        ("small", "device", 3, 4),
    ]
    assert [moved.directive_at(i) for i in range(4)] == list(directives)
    assert [s.member for s in plan.rest_on(0, lambda step: SMALL).segments] == ["small"]


def test_resting_on_a_member_joins_what_runs_alike_and_keeps_the_grids() -> None:
    moved = MIXED.rest_on(4, lambda step: SMALL)
    assert [(s.member, s.start, s.stop) for s in moved.segments] == [
        ("large", 0, 3), ("medium", 3, 4), ("small", 4, 10),
    ]  # fmt: skip
    two = grids(Grid("ddim", 0, 3, until=2.2), Grid("ddim", 3, 7))
    rested = two.rest_on(1, lambda step: SMALL)
    assert [(s.member, s.start, s.stop) for s in rested.segments] == [
        ("large", 0, 1), ("small", 1, 3), ("small", 3, 7),
    ]  # fmt: skip
    assert rested.grids == two.grids


def test_only_the_steps_that_have_another_holder_move() -> None:
    steps = ("large", "edge", 0, 3, ()), ("small", "device", 3, 5, ())
    plan = plan_in("tiny", "ddim", 2.0, *steps)
    alone = Guidance(2.0, "none")
    moved = plan.rest_on(1, lambda step: Holder("tiny", "device", alone) if step < 3 else None)
    assert [(s.member, s.location, s.start, s.stop, s.guidance) for s in moved.segments] == [
        ("large", "edge", 0, 1, Guidance(2.0)),
        ("tiny", "device", 1, 3, alone),
        ("small", "device", 3, 5, Guidance(2.0)),
    ]


def test_resting_on_a_member_past_the_last_step_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        MIXED.rest_on(10, lambda step: SMALL)


def test_what_runs_and_what_is_allowed_are_two_types() -> None:
    closed = PLAN.closed()
    assert type(closed) is Plan
    assert closed.segments == (PLAN.segments[0].closed(),)
    cheaper = replace(PLAN.segments[0], accel="full")
    assert OpenPlan("tiny", (cheaper,)).closed() == closed


def test_a_relay_hands_over_at_the_nearest_step() -> None:
    assert [relay_step(0.4, n) for n in (1, 2, 5, 10, 50)] == [0, 1, 2, 4, 20]
    assert relay_step(0.5, 1) == 1
    assert relay_step(0.9999, 200) == 200


@pytest.mark.parametrize("prompt", ["", " ", "\n\t", "x" * (MAX_PROMPT_CHARS + 1), "x" * 10**7])
def test_an_empty_or_huge_prompt_is_refused_without_repeating_it(prompt: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Task(prompt, "", PLAN, seed=0, size=SQUARE)
    assert len(str(caught.value)) < 200


def test_a_negative_prompt_may_be_empty_but_not_huge() -> None:
    assert Task("a cat", "", PLAN, seed=0, size=SQUARE).negative_prompt == ""
    with pytest.raises(InvalidRequest, match="negative"):
        Task("a cat", "x" * (MAX_PROMPT_CHARS + 1), PLAN, seed=0, size=SQUARE)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_outside_the_generators_range_is_refused(seed: int) -> None:
    with pytest.raises(InvalidRequest, match="seed"):
        Task("a cat", "", PLAN, seed=seed, size=SQUARE)


def test_a_task_does_not_show_its_prompts() -> None:
    text = repr(Task("secret hope", "secret fear", PLAN, seed=0, size=SQUARE))
    assert "secret" not in text
