"""The search for a grid of noise levels, apart from all models."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from baton.common.tooling.spacing_search import (
    Levels,
    Search,
    Values,
    coarse_set,
    falls,
    rounded,
)

AIM = (5.0, 1.7, 0.5)
PICTURES = 16


def far_from(aim: Levels, noise: float = 0.0) -> Callable[[Levels, int], Values]:
    """Values that are the greater the nearer a grid is to another, whatever the picture."""

    def trials(levels: Levels, pictures: int) -> Values:
        away = sum(math.log(one / two) ** 2 for one, two in zip(levels, aim, strict=True))
        pictured = noise * np.random.default_rng(0).standard_normal(PICTURES)
        return (pictured - away)[:pictures, None]

    return trials


def search(
    trials: Callable[[Levels, int], Values], allowed: Callable[[Levels], bool] = lambda _: True
) -> Search:
    return Search(trials, PICTURES, allowed, lambda stage, left: None)


def test_what_is_rewarded_is_found() -> None:
    found = search(far_from(AIM, noise=0.5))
    start = found.best_of(coarse_set(3, 0.01, 60.0))
    best = found.descend(start)
    assert rounded(best) == best
    assert all(abs(math.log(one / two)) < 0.15 for one, two in zip(best, AIM, strict=True))
    kept = [trial.levels for trial in found.trail if trial.stage.startswith("sweep") and trial.kept]
    assert kept[-1] == best


def test_half_of_the_coarse_set_goes_on_to_twice_the_pictures() -> None:
    found, starts = search(far_from(AIM)), coarse_set(3, 0.01, 60.0)
    best = found.best_of(starts)
    rounds = dict.fromkeys((4, 8, 16), 0)
    for trial in found.trail:
        rounds[trial.pictures] += 1
    assert rounds[4] == len(starts)
    assert [rounds[n] for n in (8, 16)] == [-(-rounds[n // 2] // 2) for n in (8, 16)]
    assert [trial.levels for trial in found.trail if trial.pictures == 16 and trial.kept] == [best]


def test_grids_that_are_not_allowed_are_never_tried() -> None:
    found = search(far_from(AIM), lambda levels: levels[0] <= 4.1)
    best = found.descend((4.0, 2.0, 0.5))
    assert best[0] <= 4.1
    assert all(trial.levels[0] <= 4.1 for trial in found.trail)


def test_a_later_column_decides_between_those_that_tie() -> None:
    nearness = far_from(AIM)

    def trials(levels: Levels, pictures: int) -> Values:
        values = nearness(levels, pictures)
        return np.concatenate([np.ones_like(values), values], axis=1)

    assert search(trials).descend((4.0, 2.0, 0.5)) != (4.0, 2.0, 0.5)


def test_what_is_better_by_less_than_its_error_does_not_win() -> None:
    def trials(levels: Levels, pictures: int) -> Values:
        rng = np.random.default_rng(round(1000 * levels[0]))
        values = rng.standard_normal(PICTURES)
        return (values - values.mean() + 0.001 * levels[0])[:pictures, None]

    assert search(trials).descend((4.0,)) == (4.0,)


def test_what_is_left_to_draw_is_told_before_every_trial_and_never_too_little() -> None:
    told, drawn = list[tuple[int, int]](), dict[Levels, int]()
    nearness = far_from(AIM)

    def trials(levels: Levels, pictures: int) -> Values:
        drawn[levels] = max(drawn.get(levels, 0), pictures)
        return nearness(levels, pictures)

    def note(stage: str, left: int) -> None:
        told.append((sum(drawn.values()), left))

    found = Search(trials, PICTURES, lambda _: True, note)
    found.descend(found.best_of(coarse_set(3, 0.01, 60.0)))
    total = sum(drawn.values())
    assert all(done + left >= total for done, left in told)


def test_without_any_start_there_is_nothing_to_search() -> None:
    with pytest.raises(ValueError, match="nothing"):
        search(far_from(AIM)).best_of([])


@pytest.mark.parametrize("inner", [1, 2, 4, 9, 40])
def test_the_coarse_set_is_of_rounded_grids_within_the_family_s_levels(inner: int) -> None:
    found = coarse_set(inner, 0.15, 5.0)
    assert len(set(found)) == len(found) > 5
    for levels in found:
        assert (len(levels), rounded(levels)) == (inner, levels)
        assert falls(levels)
        assert levels[0] < 5.0
        assert levels[-1] >= 0.15


def test_among_the_coarse_set_is_a_geometric_grid() -> None:
    assert (4.0, 2.0, 1.0) in coarse_set(3, 0.01, 60.0)


def test_a_family_of_low_levels_alone_has_a_coarse_set() -> None:
    found = coarse_set(2, 0.02, 1.5)
    assert found
    assert all(0.02 <= low < high < 1.5 for high, low in found)
