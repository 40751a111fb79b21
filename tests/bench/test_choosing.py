"""Which runs are compared, from scores and costs that are known."""

from __future__ import annotations

import numpy as np

from tests.bench.choosing import (
    Option,
    best_of_each_count,
    confirmed,
    fewest_steps,
    hopeful,
    ladder,
)

N = 1000
HARD = np.random.default_rng(0).random(N)


def option(name: str, steps: int, mean: float, cost: float = 1.0) -> Option:
    """Scores with that mean, each prompt's as hard as it is for all others."""
    return Option(name, steps, cost, HARD - HARD.mean() + mean)


REFERENCE = option("large 50", 50, 0.8)


def test_of_each_number_of_steps_the_best_spaced_counts() -> None:
    best = best_of_each_count(
        [option("euler", 5, 0.6), option("named", 5, 0.7), option("plain", 10, 0.75)]
    )
    assert [(steps, one.name) for steps, one in best.items()] == [(5, "named"), (10, "plain")]


def test_the_baseline_has_the_fewest_steps_that_keep_the_score() -> None:
    best = best_of_each_count(
        [option("four", 4, 0.77), option("five", 5, 0.78), option("ten", 10, 0.81)]
    )
    assert fewest_steps(best, REFERENCE).name == "five"
    assert fewest_steps(best, REFERENCE, least=6).name == "ten"
    assert fewest_steps({4: best[4]}, REFERENCE) is REFERENCE


def test_a_mean_within_the_margin_is_not_enough_where_it_is_not_sure() -> None:
    noise = np.random.default_rng(1).standard_normal(N)
    unsure = Option("unsure", 5, 1.0, REFERENCE.graded - 0.015 + 0.5 * (noise - noise.mean()))
    assert fewest_steps({5: unsure}, REFERENCE) is REFERENCE


def test_relays_that_may_be_best_are_cheap_or_good() -> None:
    relays = [option(f"lossy {i}", 5, 0.79, cost=i) for i in range(9)]
    relays += [option(f"good {i}", 5, 0.80, cost=20 + i) for i in range(9)]
    relays += [option("best", 7, 0.9, cost=90), option("bad", 2, 0.2, cost=0.1)]
    found = hopeful(relays, REFERENCE)
    assert {"lossy 0", "good 0", "best"} <= {*found}
    assert not {"bad", "lossy 8", "good 8"} & {*found}


def test_the_ladder_goes_from_fast_to_careful() -> None:
    relays = [
        option("wrong", 4, 0.6, 0.1),
        option("fast", 5, 0.796, 0.5),
        option("slower and no better", 6, 0.796, 0.6),
        option("careful", 7, 0.81, 0.9),
    ]
    assert ladder(relays, REFERENCE) == ["fast", "careful"]
    assert ladder([relays[0], relays[3]], REFERENCE) == ["careful"]
    assert ladder(relays[:1], REFERENCE) == ["wrong"]
    assert ladder([], REFERENCE) == []


def test_the_fastest_that_keeps_the_score_is_confirmed() -> None:
    known = {
        one.name: one for one in (option("fast", 5, 0.7, 1.0), option("careful", 7, 0.79, 2.0))
    }
    assert confirmed(["careful", "fast"], known.__getitem__, REFERENCE) == ("careful", True)
    assert confirmed(["fast"], known.__getitem__, REFERENCE) == ("fast", False)
