"""Which runs are compared, from scores and costs that are known."""

from __future__ import annotations

import numpy as np

from tests.bench.choosing import (
    Option,
    best_of_each_count,
    confirmed,
    hopeful,
    ladder,
    likely_equal,
    reaching,
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


def test_on_few_prompts_the_fewest_steps_whose_mean_is_near_will_do() -> None:
    best = best_of_each_count(
        [option("four", 4, 0.77), option("five", 5, 0.79), option("ten", 10, 0.81)]
    )
    assert likely_equal(best, REFERENCE).name == "five"
    assert likely_equal({4: best[4]}, REFERENCE) is REFERENCE


def test_the_baseline_of_a_relay_reaches_its_score_in_the_fewest_steps() -> None:
    large = [
        option("ten", 10, 0.83, 10.0),
        option("six", 6, 0.81, 6.0),
        option("six, cached", 6, 0.82, 5.0),
        option("five", 5, 0.78, 5.0),
    ]
    assert reaching(large, option("relay", 7, 0.80)).name == "six, cached"
    assert reaching(large, option("relay", 7, 0.77)).name == "five"
    assert reaching(large, option("better than all", 7, 0.9)).name == "ten"


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


def test_the_relay_is_the_most_times_faster_than_what_reaches_its_score() -> None:
    large = [
        option("four", 4, 0.7, 4.0),
        option("five", 5, 0.8, 5.0),
        option("ten", 10, 0.85, 10.0),
    ]
    fast, careful = option("fast", 7, 0.69, 3.0), option("careful", 7, 0.79, 3.0)
    relay, baseline, holds = confirmed([fast, careful], large)
    assert (relay.name, baseline.name, holds) == ("careful", "five", True)


def test_a_relay_that_is_not_surely_equal_gives_way_and_is_told_if_it_is_the_only_one() -> None:
    noise = np.random.default_rng(1).standard_normal(N)
    graded = REFERENCE.graded - 0.015 + 0.5 * (noise - noise.mean())
    unsure, slow = Option("unsure", 5, 1.0, graded), option("slow", 7, 0.795, 4.0)
    large = [option("five", 5, 0.8, 5.0)]
    assert confirmed([unsure, slow], large) == (slow, large[0], True)
    assert confirmed([unsure], large) == (unsure, large[0], False)
