"""Drawing by common prefix against drawing each plan by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from baton.common.families.loaded import LoadedFamily
from baton.common.families.local import begin, run_here
from baton.common.families.scenes.evaluate import draw, seeded_cases
from baton.common.families.scenes.grammar import parse_prompt
from baton.common.families.scenes.worlds import FLAT
from tests.bench.configs import Config, Configs, Grid
from tests.bench.curves import Studio, complexity
from tests.bench.timing import task_of
from tests.support.engines import Counter, WatchedFamily

CASES = seeded_cases(FLAT, 2, seed=3)
GRID = Grid(steps=5, tenths=(4, 8), trial=(2,))


@pytest.fixture
def configs(scenes: LoadedFamily) -> list[Config]:
    made = Configs(scenes.spec, GRID)
    return [*made.alone(), *made.relays(), *made.trials()]


def test_shared_prefixes_change_no_score(scenes: LoadedFamily, configs: list[Config]) -> None:
    drawings = Studio(scenes, {}, None).draw([c.plan for c in configs], CASES, "test")
    for config in configs:
        alone, shared = draw(scenes, config.plan, CASES), drawings[config.plan]
        assert shared.graded.tolist() == [one.verdict.graded for one in alone], config.name
        assert shared.strict.tolist() == [one.verdict.strict for one in alone], config.name


def test_every_step_of_a_prefix_is_taken_once(scenes: LoadedFamily) -> None:
    counter = Counter()
    made = Configs(scenes.spec, GRID)
    relays = [c.plan for c in made.relays() if c.kind == "large>small"]
    plans = [*relays, made.alone()[0].plan]
    Studio(WatchedFamily(scenes, counter), {}, None).draw(plans, CASES, "test")
    assert counter.calls == 5 + 3 + 1  # large to the end; small after a cut at 2, and at 4
    assert set(counter.rows) == {4}


def test_the_trace_is_that_of_the_latents(scenes: LoadedFamily, configs: list[Config]) -> None:
    relay = next(config for config in configs if config.kind == "large>medium>small")
    drawing = Studio(scenes, {}, None).draw([relay.plan], CASES, "test")[relay.plan]
    run = begin(scenes, task_of(scenes, relay.plan, CASES[1]))
    for step in range(GRID.steps + 1):
        run_here(scenes, run, step)
        x = run.state().x
        assert drawing.intensity[1, step] == pytest.approx(np.linalg.norm(x), rel=1e-3)
        np.testing.assert_allclose(drawing.variance[1, step], x.var(axis=(1, 2)), rtol=1e-2)


def test_what_was_drawn_is_not_drawn_again(scenes: LoadedFamily, tmp_path: Path) -> None:
    plan = Configs(scenes.spec, GRID).alone()[2].plan
    first = Studio(scenes, {}, tmp_path).draw([plan], CASES, "test")[plan]
    counter = Counter()
    watched = WatchedFamily(scenes, counter)
    again = Studio(watched, {}, tmp_path).draw([plan], CASES, "test")[plan]
    assert counter.calls == 0
    for name, values in vars(first).items():
        np.testing.assert_array_equal(getattr(again, name), values)
    Studio(watched, {}, tmp_path).draw([plan], seeded_cases(FLAT, 2, seed=4), "test")
    assert counter.calls == GRID.steps


def test_other_weights_are_drawn_anew(scenes: LoadedFamily, tmp_path: Path) -> None:
    plan = Configs(scenes.spec, GRID).alone()[2].plan
    Studio(scenes, {}, tmp_path).draw([plan], CASES, "test")
    counter = Counter()
    other = WatchedFamily(scenes, counter)
    other.member_fingerprints = {**scenes.member_fingerprints, "small": "trained again"}
    Studio(other, {}, tmp_path).draw([plan], CASES, "test")
    assert counter.calls == GRID.steps


def test_a_latent_that_stops_being_finite_ends_the_run(scenes: LoadedFamily) -> None:
    def spoil(member: str, x: Tensor) -> None:
        x[0] = float("nan")

    plan = Configs(scenes.spec, GRID).alone()[2].plan
    with pytest.raises(Exception, match="stopped being finite at step 0"):
        Studio(WatchedFamily(scenes, spoil), {}, None).draw([plan], CASES, "test")


@pytest.mark.parametrize(
    ("prompt", "facts"),
    [
        ("a cat", 1),
        ("two red cats", 2),
        ("a small red cat on a night background", 4),
        ("a red cat left of a blue house", 5),
    ],
)
def test_complexity_counts_what_a_prompt_states(prompt: str, facts: int) -> None:
    case = CASES[0]
    assert complexity(type(case)(prompt, parse_prompt(prompt, FLAT), 0)) == facts
