"""The definitions behind the curve's figures, on numbers that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tests.bench.ratios import (
    Difference,
    Loss,
    Point,
    best_within,
    frontier,
    paired_difference,
    paired_ratio,
    sign_flip_test,
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


def test_the_best_at_equal_time_is_a_point_that_was_measured() -> None:
    best = best_within(POINTS, 1.9)
    assert best is not None
    assert best.name == "10"
    assert best_within(POINTS, 0.4) is None


def test_signs_that_could_as_well_be_others_prove_nothing() -> None:
    rng = np.random.default_rng(5)
    hardness = rng.random(300)
    noise = 0.05 * rng.standard_normal(300)
    assert sign_flip_test(hardness + noise, hardness + rng.permutation(noise)) > 0.05
    assert sign_flip_test(hardness + 0.01 + noise, hardness + rng.permutation(noise)) < 0.05
    assert sign_flip_test(hardness, hardness) == 1.0


def test_the_share_of_signs_is_that_of_all_of_them() -> None:
    one = np.array([1.0, 1.0, 1.0, 0.5])
    assert sign_flip_test(one, np.array([0.0, 0.0, 0.0, 0.5])) == pytest.approx(2 / 8, abs=0.02)
