"""The definitions behind the curve's figures, on numbers that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tests.bench.overhead import overhead_of
from tests.bench.ratios import (
    Candidate,
    Difference,
    Loss,
    Point,
    best_within,
    bracket,
    frontier,
    ladder,
    paired_difference,
    paired_ratio,
    seconds_to_reach,
    spread,
)

POINTS = [
    Point("40", 4.0, 0.80),
    Point("5", 0.5, 0.40),
    Point("20", 2.0, 0.80),
    Point("10", 1.0, 0.60),
    Point("15", 1.5, 0.55),
    Point("50", 5.0, 0.85),
]


def loss(graded: float, strict: float, half: float = 0.0) -> Loss:
    return Loss(
        Difference(graded, graded - half, graded + half),
        Difference(strict, strict - half, strict + half),
    )


def test_pairing_removes_what_all_configurations_share() -> None:
    rng = np.random.default_rng(1)
    hardness = rng.random(400)
    one, other = hardness + 0.01 * rng.standard_normal(400), hardness - 0.1
    paired = paired_difference(one, other)
    assert paired.low < 0.1 < paired.high
    assert paired.high - paired.low < 0.003
    unpaired = paired_difference(one, rng.permutation(other))
    assert unpaired.high - unpaired.low > 0.06


def test_the_interval_of_a_difference_is_that_of_its_mean() -> None:
    rng = np.random.default_rng(2)
    one = (rng.random(1000) < 0.6).astype(float)
    found = paired_difference(one, np.zeros(1000))
    half = 1.96 * one.std() / np.sqrt(1000)
    assert found.mean == one.mean()
    assert found.low == pytest.approx(one.mean() - half, abs=0.002)
    assert found.high == pytest.approx(one.mean() + half, abs=0.002)
    wider = paired_difference(one, np.zeros(1000), confidence=0.99)
    assert wider.low < found.low < found.high < wider.high


@pytest.mark.parametrize(("one", "other"), [([1.0], [1.0, 2.0]), ([], [])])
def test_scores_of_other_prompts_are_not_paired(one: list[float], other: list[float]) -> None:
    with pytest.raises(ValueError, match="paired scores"):
        paired_difference(np.array(one), np.array(other))


def test_margins_count_against_the_whole_interval() -> None:
    assert loss(-0.02, -0.04, half=0.01).within()
    assert not loss(-0.02, -0.04, half=0.011).within()
    assert loss(-0.02, -0.04, half=0.5).may_be_within()
    assert not loss(-0.031, 0.0).may_be_within()
    assert not loss(0.0, -0.051).may_be_within()
    assert loss(0.5, 0.5).within(0.0)
    assert not loss(-0.001, 0.5).within(0.0)


def test_a_loss_is_told_with_its_ends() -> None:
    assert loss(0.25, -0.5, half=0.25).as_dict() == {
        "graded_minus_reference": 0.25,
        "graded_minus_reference_low": 0.0,
        "graded_minus_reference_high": 0.5,
        "strict_minus_reference": -0.5,
        "strict_minus_reference_low": -0.75,
        "strict_minus_reference_high": -0.25,
    }


def test_a_ratio_is_taken_within_rounds() -> None:
    slow_machine = np.array([1.0, 5.0, 2.0, 9.0])
    ratio = paired_ratio(list(2.5 * slow_machine), list(slow_machine))
    assert (ratio.median, ratio.low, ratio.high, ratio.rounds) == (2.5, 2.5, 2.5, 4)
    mixed = paired_ratio([1.0, 2.0, 6.0], [1.0, 1.0, 2.0])
    assert mixed.median == 2.0
    assert 1.0 <= mixed.low <= 2.0 <= mixed.high <= 3.0
    with pytest.raises(ValueError, match="same rounds"):
        paired_ratio([1.0], [])


def test_the_frontier_leaves_out_what_a_faster_point_equals() -> None:
    assert [point.name for point in frontier(POINTS)] == ["5", "10", "20", "50"]


@pytest.mark.parametrize(
    ("graded", "seconds"),
    [(0.1, 0.5), (0.4, 0.5), (0.5, 0.75), (0.6, 1.0), (0.7, 1.5), (0.8, 2.0), (0.825, 3.5)],
)
def test_time_at_equal_score_is_linear_between_frontier_points(
    graded: float, seconds: float
) -> None:
    assert seconds_to_reach(POINTS, graded) == pytest.approx(seconds)


def test_a_score_beyond_the_best_point_is_not_reached() -> None:
    assert seconds_to_reach(POINTS, 0.851) is None
    assert seconds_to_reach([], 0.1) is None


def test_the_best_at_equal_time_is_a_point_that_was_measured() -> None:
    best = best_within(POINTS, 1.9)
    assert best is not None
    assert best.name == "10"
    assert best_within(POINTS, 0.4) is None


@pytest.mark.parametrize(
    ("graded", "names"),
    [
        (0.1, ["5", "10"]),
        (0.6, ["5", "10", "20"]),
        (0.7, ["5", "10", "20", "50"]),
        (0.84, ["10", "20", "50"]),
        (0.9, ["20", "50"]),
    ],
)
def test_neighbours_of_a_score_hold_two_on_either_side(graded: float, names: list[str]) -> None:
    assert [point.name for point in bracket(POINTS, graded)] == names


def test_spreading_keeps_both_ends() -> None:
    assert spread([1, 2, 3], 5) == [1, 2, 3]
    assert spread(list(range(10)), 4) == [0, 3, 6, 9]


def test_the_ladder_goes_from_fast_to_careful() -> None:
    candidates = [
        Candidate("wrong", 0.1, loss(-0.2, 0.0)),
        Candidate("fast", 0.5, loss(-0.02, 0.0)),
        Candidate("slower and no better", 0.6, loss(-0.02, 0.0)),
        Candidate("careful", 0.9, loss(0.01, 0.0)),
    ]
    assert ladder(candidates) == ["fast", "careful"]
    assert ladder(candidates[:1] + candidates[3:]) == ["careful"]


def test_the_ladder_falls_back_on_the_least_loss() -> None:
    candidates = [Candidate("bad", 0.1, loss(-0.2, 0)), Candidate("less", 0.5, loss(-0.1, 0))]
    assert ladder(candidates) == ["less"]
    assert ladder([]) == []


def test_overhead_is_allowed_its_share_or_its_seconds_whichever_is_more() -> None:
    short = overhead_of([0.14, 0.30, 0.15], [0.10, 0.25, 0.10])
    assert short.overhead_seconds == pytest.approx(0.05)
    assert short.overhead_share == pytest.approx(0.5)
    assert short.allowed_seconds == 0.05
    assert overhead_of([2.08], [2.0]).within
    assert overhead_of([2.0], [2.1]).overhead_seconds < 0
    assert not overhead_of([2.11], [2.0]).within
