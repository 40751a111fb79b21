"""The report's figures and rows, from scores and times that are known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from baton.common.arm import Arm
from baton.common.expansion import plan_of
from baton.common.families.scenes.evaluate import seeded_cases
from baton.common.families.scenes.worlds import FLAT
from tests.bench.arms import Entry, reference
from tests.bench.curves import Drawing
from tests.bench.figures import DEFAULT, LOOPBACK, Chosen, choose, in_process, through_product
from tests.bench.product import Bill, Billed, Setting
from tests.bench.rows import Measured, rows_of
from tests.bench.timing import Drawn

N = 120
HARD = np.random.default_rng(0).random(N)
FAST, CAREFUL = "edge/large*2>device/small*3", "edge/large*3>device/small*3"
FOUR, FIVE, TEN = "edge/large*4", "edge/large*5", "edge/large*10"
ENTRIES = {
    entry.name: entry
    for entry in (
        reference(),
        *(Entry("large", name) for name in (FOUR, FIVE, TEN)),
        *(Entry("training-free", name) for name in (FAST, CAREFUL)),
        Entry("partly unguided", "edge/large*3>edge/large*2"),
    )
}
SECONDS = {FAST: 1.0, CAREFUL: 1.5, FOUR: 1.6, FIVE: 2.0, TEN: 4.0, reference().name: 20.0}
SCORES = {FAST: 0.8, CAREFUL: 0.82, FOUR: 0.7, FIVE: 0.8, TEN: 0.81, reference().name: 0.81}


def drawing(steps: int, mean: float) -> Drawing:
    scores = HARD - HARD.mean() + mean
    intensity = np.tile(np.linspace(15.0, 20.0, steps + 1), (N, 1))
    pictures = np.zeros((N, 32, 32, 3), np.uint8)
    return Drawing(scores, scores, intensity, np.ones((*intensity.shape, 4)), pictures)


def measured(scores: Mapping[str, float]) -> Measured:
    """Rounds on a machine that is now fast, now slow."""
    plans = {
        name: plan_of(Arm.parse(ENTRIES[name].arm), "scenes", "ddim", 50, 3.0) for name in scores
    }
    drawings = {name: drawing(plans[name].steps, mean) for name, mean in scores.items()}
    times = {
        name: [Drawn(pace * SECONDS[name], pace * SECONDS[name] / 2) for pace in (1.0, 3.0, 1.1)]
        for name in scores
        if name in SECONDS
    }
    cases = seeded_cases(FLAT, N, 1)
    return Measured("headline", cases, ENTRIES, plans, drawings, times, reference().name)


def chosen(scores: Mapping[str, float] = SCORES) -> Chosen:
    return choose(measured(scores), measured(scores), [FAST])


def billed(setting: Setting, scale: float = 1.0) -> Billed:
    def of(seconds: float) -> list[Bill]:
        return [
            Bill(pace * seconds, 0.01, 0.0, pace * seconds / 2, 0.02, 0.1, 0.1, 9, 9, 2, 4)
            for pace in (1.0, 3.0, 1.1)
        ]

    bills = {name: of(scale * SECONDS[name]) for name in (FAST, FIVE)} | {DEFAULT: of(1.0)}
    return Billed(setting, bills, {name: [FAST] for name in bills}, 1.0, [0.9, 2.9, 1.0], 3.0)


def test_the_baseline_and_what_stands_beside_it_are_chosen() -> None:
    found = chosen()
    assert (found.baseline, found.less, found.relay) == (FIVE, FOUR, FAST)
    assert found.careful == CAREFUL
    assert found.relay_confirmed


def test_a_relay_is_held_against_the_steps_that_reach_its_own_score() -> None:
    found = chosen(SCORES | {FAST: 0.5})
    assert (found.relay, found.baseline) == (FAST, FOUR)
    assert found.less is None


def test_times_are_compared_within_rounds_beside_the_scores() -> None:
    figures: dict[str, Any] = in_process(measured({}), measured(SCORES), chosen())
    against = figures["relay_vs_fewer_steps"]
    assert against["time_ratio"]["median"] == pytest.approx(2.0)
    assert against["graded_minus"]["mean"] == pytest.approx(0.0)
    less = figures["relay_vs_one_step_less"]
    assert (less["name"], less["against"]) == (CAREFUL, FOUR)
    assert less["graded_minus"]["low"] > 0
    assert less["time_ratio"]["median"] > 1
    assert figures["relay_vs_alternatives"]["against"] == FIVE


def test_the_product_is_billed_by_the_clocks_of_its_processes() -> None:
    settings = {LOOPBACK: billed(Setting(LOOPBACK, 3)), "3x": billed(Setting("3x", 3), 2.0)}
    figures: dict[str, Any] = through_product(settings, chosen())
    assert figures["relay_vs_fewer_steps_grpc"]["median"] == pytest.approx(2.0)
    assert figures["relay_vs_fewer_steps_3x"]["median"] == pytest.approx(2.0)
    assert figures["edge_seconds_saved"]["median"] == pytest.approx(2.0)
    assert figures["control_plane_ms"] == pytest.approx(1000 * (1.1 / 2 - 0.2))
    assert figures["platform_overhead_ms"] == pytest.approx(100.0)
    assert figures["round_trips"] == 2


def test_a_device_that_is_not_as_slow_as_asked_for_is_told() -> None:
    right = billed(Setting("3x", 3, slower=3.0))
    assert not right.share_within
    rows = right.rows({name: Entry("default", "") for name in right.bills})
    assert {row["device_processor_share_within"] for row in rows} == {False}
    assert {row["setting"] for row in rows} == {"3x"}


def test_rows_tell_score_time_and_latents_of_each_arm() -> None:
    rows = {row["name"]: row for row in rows_of(measured(SCORES))}
    row = rows[FAST]
    assert row["graded_minus_reference"] == pytest.approx(-0.01)
    assert row["sign_flip_p"] < 0.01
    assert (row["seconds"], row["edge_seconds"]) == pytest.approx((1.1, 0.55))
    assert row["speedup"] == pytest.approx(20.0)
    assert row["latent_steps"] == [2, 3, 5]
    assert row["intensity_l2"].tolist() == pytest.approx([17.0, 18.0, 20.0])
    assert row["intensity_ratio"].tolist() == [1.0, 1.0, 1.0]
    assert row["picture_distance"] == pytest.approx(0.0)
    assert sum(stratum["n"] for name, stratum in row["strata"].items() if "fact" in name) == N
    assert "intensity_ratio" not in rows[CAREFUL]
