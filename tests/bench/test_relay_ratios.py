"""The headline's ratios, from scores and times that are known."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from baton.common.families.manifest import find_family, read_manifest
from baton.common.families.scenes.evaluate import seeded_cases
from baton.common.families.scenes.worlds import FLAT
from tests.bench.configs import Config, Configs, Grid
from tests.bench.curves import Drawing
from tests.bench.overhead import overhead_of
from tests.bench.relay import ratios_of
from tests.bench.rows import Measured, rows_of
from tests.bench.timing import Timing

N = 400
MADE = Configs(read_manifest(find_family("scenes")), Grid())
LARGE = MADE.alone()[0]
RELAYS = {config.name: config for config in MADE.relays()}
FAST, CAREFUL = RELAYS["large>small@0.2"], RELAYS["large>small@0.6"]
FEWER = {c.name: c for c in MADE.fewer({"large": "ddim", "medium": "ddim", "small": "ddim"})}
SECONDS = {"large 50": 4.0, FAST.name: 1.0, CAREFUL.name: 2.0} | {
    f"large {steps} ddim": 4.0 * steps / 50 for steps in Grid().fewer
}
OVERHEAD = overhead_of([1.02], [1.0])


def drawing(config: Config, share: float) -> Drawing:
    """The first ``share`` of the prompts are drawn as told, the others not at all."""
    scores = (np.arange(N) < share * N).astype(float)
    intensity = np.tile(np.linspace(15.0, 20.0, config.plan.steps + 1), (N, 1))
    return Drawing(scores, scores, intensity, np.ones((*intensity.shape, 4)))


def measured(shares: Mapping[str, float]) -> Measured:
    """Rounds on a machine that is now fast, now slow."""
    configs = [LARGE, FAST, CAREFUL, *(FEWER[name] for name in shares if name in FEWER)]
    timings = {
        config.name: [
            Timing(pace * SECONDS[config.name], pace, pace, 100, 900) for pace in (1.0, 3.0, 1.5)
        ]
        for config in configs
    }
    drawings = {config.plan: drawing(config, shares[config.name]) for config in configs}
    return Measured("headline", seeded_cases(FLAT, N), configs, drawings, timings, LARGE)


def test_the_speedup_is_that_of_the_fastest_relay_that_keeps_the_score() -> None:
    shares = {"large 50": 0.8, FAST.name: 0.5, CAREFUL.name: 0.8, "large 10 ddim": 0.7}
    ratios = ratios_of(measured(shares), [FAST, CAREFUL], OVERHEAD)
    assert ratios["relay"] == CAREFUL.name
    assert ratios["relay_speedup"] == pytest.approx(2.0)
    assert ratios["platform_overhead"] == pytest.approx(0.02)
    better = ratios_of(measured(shares | {FAST.name: 0.8}), [FAST, CAREFUL], OVERHEAD)
    assert (better["relay"], better["relay_speedup"]) == (FAST.name, pytest.approx(4.0))


def test_no_speedup_is_claimed_where_no_relay_keeps_the_score() -> None:
    shares = {"large 50": 0.8, FAST.name: 0.5, CAREFUL.name: 0.7}
    ratios = ratios_of(measured(shares), [FAST, CAREFUL], OVERHEAD)
    assert ratios["relay_confirmed_within_margins"] is False
    assert ratios["relay_speedup"] is None
    assert ratios["relay_vs_fewer_steps"] is None


def test_fewer_steps_are_compared_at_equal_score() -> None:
    shares = {"large 50": 0.8, FAST.name: 0.8, CAREFUL.name: 0.8}
    alternatives = {"large 10 ddim": 0.7, "large 20 ddim": 0.9}
    ratios = ratios_of(measured(shares | alternatives), [FAST, CAREFUL], OVERHEAD)
    halfway = (SECONDS["large 10 ddim"] + SECONDS["large 20 ddim"]) / 2
    assert ratios["relay_vs_fewer_steps"] == pytest.approx(halfway / SECONDS[FAST.name])
    assert ratios["relay_vs_fewer_steps_reached"] is True


def test_a_score_that_nobody_alone_reaches_gives_a_lower_bound() -> None:
    shares = {"large 50": 0.8, FAST.name: 0.9, CAREFUL.name: 0.8, "large 10 ddim": 0.7}
    ratios = ratios_of(measured(shares), [FAST, CAREFUL], OVERHEAD)
    assert ratios["relay_vs_fewer_steps"] == pytest.approx(4.0)
    assert ratios["relay_vs_fewer_steps_reached"] is False


def test_rows_tell_the_relay_beside_its_alternative() -> None:
    shares = {"large 50": 0.8, FAST.name: 0.5, CAREFUL.name: 0.8, "large 10 ddim": 0.7}
    rows = {row["name"]: row for row in rows_of(measured(shares))}
    row = rows[CAREFUL.name]
    assert (row["graded"], row["graded_minus_reference"], row["speedup"]) == (0.8, 0.0, 2.0)
    assert row["seconds"] == pytest.approx(3.0)
    assert row["alternative"]["name"] == "large 10 ddim"
    assert row["alternative_seconds"] == pytest.approx(6.0)
    assert row["latent_steps"] == [30, 35, 50]
    assert row["intensity_l2"].tolist() == pytest.approx([18.0, 18.5, 20.0])
    assert row["intensity_ratio"].tolist() == [1.0, 1.0, 1.0]
    assert sum(stratum["n"] for name, stratum in row["strata"].items() if "fact" in name) == N
    assert "strata" not in rows["large 10 ddim"]
