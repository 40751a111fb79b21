"""Means with honest intervals."""

from __future__ import annotations

import numpy as np
import pytest

from baton.common.quality.scores import bootstrap_interval, summarise


def test_a_score_holds_means_and_intervals_around_them() -> None:
    score = summarise([1.0, 0.5, 0.0, 0.5] * 25, [True, False, False, False] * 25)
    assert (score.graded, score.strict, score.n) == (0.5, 0.25, 100)
    assert score.ci95[0] < 0.5 < score.ci95[1]
    assert score.strict_ci95[0] < 0.25 < score.strict_ci95[1]
    assert score.as_dict()["ci95"] == score.ci95


def test_scores_need_pictures_and_come_in_pairs() -> None:
    for graded, strict in ([], []), ([1.0], []), ([], [True]), ([1.0], [True, False]):
        with pytest.raises(ValueError, match="at least one"):
            summarise(graded, strict)


def test_the_interval_is_that_of_a_normal_mean_and_shrinks_with_the_root_of_n() -> None:
    data = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap_interval(list(data))
    error = data.std() / 20
    assert (high - low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.1)
    low4, high4 = bootstrap_interval(list(data[:100]))
    assert (high4 - low4) / (high - low) == pytest.approx(2, rel=0.25)


def test_an_interval_is_the_same_every_time_and_a_point_without_spread() -> None:
    assert bootstrap_interval([0.0, 1.0, 1.0]) == bootstrap_interval([0.0, 1.0, 1.0])
    assert bootstrap_interval([0.5] * 9) == (0.5, 0.5)
