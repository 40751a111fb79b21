"""Plans, segments, arms and tasks: values that are checked when they are made."""

from __future__ import annotations

import math

import pytest

from baton.common.errors import InvalidRequest, UnknownName
from baton.common.plan import (
    FULL_STEP,
    MAX_GUIDANCE,
    MAX_PROMPT_CHARS,
    MAX_SEGMENTS,
    MAX_STEPS,
    Arm,
    Plan,
    Segment,
    StepDirective,
    Task,
    check_fraction,
    check_guidance,
    check_sampler,
    check_steps,
    relay_step,
)

PLAN = Arm.parse("device:small").expand("tiny", "ddim", 4, 2.0)
MIXED = Plan(
    "tiny",
    "euler",
    10,
    2.0,
    (
        Segment.full("large", "edge", 0, 3),
        Segment.full("medium", "edge", 3, 5),
        Segment.full("small", "device", 5, 8),
        Segment.full("large", "edge", 8, 10),
    ),
)


@pytest.mark.parametrize("steps", [0, -1, MAX_STEPS + 1, 10**9, 2**64])
def test_a_number_of_steps_outside_the_limits_is_refused(steps: int) -> None:
    with pytest.raises(InvalidRequest, match="steps"):
        check_steps(steps)
    with pytest.raises(InvalidRequest):
        Arm.parse("relay:large>small@0.5").expand("tiny", "ddim", steps, 2.0)
    with pytest.raises(InvalidRequest):
        Plan("tiny", "ddim", steps, 2.0, PLAN.segments)


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf, -0.001, MAX_GUIDANCE * 1.001])
def test_a_guidance_scale_outside_the_limits_is_refused(scale: float) -> None:
    with pytest.raises(InvalidRequest, match="guidance"):
        check_guidance(scale)
    with pytest.raises(InvalidRequest, match="guidance"):
        Plan("tiny", "ddim", 4, scale, PLAN.segments)


@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5, MAX_GUIDANCE])
def test_a_guidance_scale_within_the_limits_is_kept(scale: float) -> None:
    assert check_guidance(scale) == scale


@pytest.mark.parametrize("fraction", [math.nan, -0.1, 0.0, 1.0, math.inf])
def test_a_relay_fraction_outside_the_open_interval_is_refused(fraction: float) -> None:
    with pytest.raises(InvalidRequest, match="fraction"):
        check_fraction(fraction)


def test_an_unknown_sampler_is_named_with_the_known_ones() -> None:
    with pytest.raises(UnknownName, match=r"'plms'.*ddim, euler, dpmpp_2m"):
        check_sampler("plms")
    with pytest.raises(UnknownName):
        Plan("tiny", "plms", 4, 2.0, PLAN.segments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 0), (3, 3), (3, 2), (-1, 2), (0, MAX_STEPS + 1), (0, 2**32 - 1)]
)
def test_a_segment_that_is_no_stretch_of_steps_is_refused(start: int, stop: int) -> None:
    with pytest.raises(InvalidRequest, match="stretch"):
        Segment.full("large", "edge", start, stop)


@pytest.mark.parametrize("count", [0, 2, 4])
def test_a_segment_needs_one_directive_a_step(count: int) -> None:
    with pytest.raises(InvalidRequest, match="directives"):
        Segment("large", "edge", 0, 3, (FULL_STEP,) * count)


def test_a_segment_needs_a_known_place_and_a_short_name() -> None:
    with pytest.raises(InvalidRequest, match="location"):
        Segment.full("large", "cloud", 0, 3)  # type: ignore[arg-type]
    for name in ("", "x" * 65):
        with pytest.raises(InvalidRequest, match="name"):
            Segment.full(name, "edge", 0, 3)


@pytest.mark.parametrize(
    "stretches",
    [[], [(0, 3)], [(1, 4)], [(0, 2), (3, 4)], [(0, 3), (2, 4)], [(2, 4), (0, 2)], [(0, 5)]],
)
def test_segments_that_do_not_cover_every_step_once_are_refused(
    stretches: list[tuple[int, int]],
) -> None:
    segments = tuple(Segment.full("large", "edge", *stretch) for stretch in stretches)
    with pytest.raises(InvalidRequest):
        Plan("tiny", "ddim", 4, 2.0, segments)


def test_a_plan_of_too_many_segments_is_refused() -> None:
    count = MAX_SEGMENTS + 1
    segments = tuple(Segment.full("large", "edge", i, i + 1) for i in range(count))
    with pytest.raises(InvalidRequest, match="segments"):
        Plan("tiny", "ddim", count, 2.0, segments)


def test_a_stretch_ends_where_the_place_changes_not_where_the_member_does() -> None:
    ends = [MIXED.stretch_end(step) for step in range(11)]
    assert ends == [5, 5, 5, 5, 5, 8, 8, 8, 10, 10, 10]


def test_the_segment_of_a_step_past_the_end_is_an_index_error() -> None:
    assert MIXED.segment_at(4).member == "medium"
    for step in (-1, 10):
        with pytest.raises(IndexError):
            MIXED.segment_at(step)


def test_resting_on_a_member_keeps_what_is_before_and_every_directive() -> None:
    unguided = StepDirective(guided=False)
    directives = (FULL_STEP, unguided, FULL_STEP, unguided)
    plan = Plan("tiny", "ddim", 4, 2.0, (Segment("large", "edge", 0, 4, directives),))
    moved = plan.rest_on("small", "device", 3)
    assert [(s.member, s.location, s.start, s.stop) for s in moved.segments] == [
        ("large", "edge", 0, 3),
        ("small", "device", 3, 4),
    ]
    assert [moved.directive_at(i) for i in range(4)] == list(directives)
    assert [s.member for s in plan.rest_on("small", "device", 0).segments] == ["small"]


def test_resting_on_a_member_past_the_last_step_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        MIXED.rest_on("small", "device", 10)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "device",
        "device:",
        "edge:",
        "relay:large@0.5",
        "relay:large>@0.5",
        "relay:>small@0.5",
        "relay:a>b>c@0.5",
        "relay:a>b",
        "relay:a>b@",
        "relay:a>b@half",
        "relay:a>b@0",
        "relay:a>b@1",
        "relay:a>b@nan",
        "relay:a>b@-0.5",
        "device:a>b",
        "device:a@0.5",
        "cloud:a",
        "x" * 1_000_000,
    ],
)
def test_what_is_no_arm_is_an_unknown_name_said_in_one_short_line(name: str) -> None:
    with pytest.raises(UnknownName) as caught:
        Arm.parse(name)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_arms_read_as_documented() -> None:
    assert Arm.parse("device:small") == Arm("device", ("small",), 0.0)
    assert Arm.parse("edge:large") == Arm("edge", ("large",), 1.0)
    assert Arm.parse("relay:large>small@0.4") == Arm("relay", ("large", "small"), 0.4)
    assert Arm("relay", ("large", "small"), 0.4).name == "relay:large>small@0.4"


def test_a_relay_hands_over_at_the_nearest_step() -> None:
    assert [relay_step(0.4, n) for n in (1, 2, 5, 10, 50)] == [0, 1, 2, 4, 20]
    assert relay_step(0.5, 1) == 1
    assert relay_step(0.9999, 200) == 200


def test_a_relay_too_short_to_divide_runs_in_one_place() -> None:
    assert Arm.parse("relay:a>b@0.1").expand("tiny", "ddim", 2, 1.0).segments[0].member == "b"
    assert Arm.parse("relay:a>b@0.9").expand("tiny", "ddim", 2, 1.0).segments[0].member == "a"


@pytest.mark.parametrize("prompt", ["", " ", "\n\t", "x" * (MAX_PROMPT_CHARS + 1), "x" * 10**7])
def test_an_empty_or_huge_prompt_is_refused_without_repeating_it(prompt: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Task(prompt, "", PLAN, seed=0, size=16)
    assert len(str(caught.value)) < 200


def test_a_negative_prompt_may_be_empty_but_not_huge() -> None:
    assert Task("a cat", "", PLAN, seed=0, size=16).negative == ""
    with pytest.raises(InvalidRequest, match="negative"):
        Task("a cat", "x" * (MAX_PROMPT_CHARS + 1), PLAN, seed=0, size=16)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_outside_the_generators_range_is_refused(seed: int) -> None:
    with pytest.raises(InvalidRequest, match="seed"):
        Task("a cat", "", PLAN, seed=seed, size=16)


def test_a_task_does_not_show_its_prompts() -> None:
    text = repr(Task("secret hope", "secret fear", PLAN, seed=0, size=16))
    assert "secret" not in text
