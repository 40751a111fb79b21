"""Drawing by common prefix against drawing each plan by itself."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from baton.common.families.loaded import LoadedFamily
from baton.common.families.local import begin, run_here
from baton.common.families.scenes.evaluate import draw, seeded_cases
from baton.common.families.scenes.grammar import parse_prompt
from baton.common.families.scenes.worlds import FLAT
from baton.common.plan import OpenPlan
from tests.bench.arms import Entry
from tests.bench.curves import Studio, complexity
from tests.bench.timing import task_of
from tests.support.engines import Counter, WatchedFamily
from tests.support.nodes import differ

CASES = seeded_cases(FLAT, 2, seed=3)
STEPS = 5
ALONE = [Entry("large", f"device/{name}", "ddim", STEPS) for name in ("large", "medium", "small")]
CUT = [Entry("training-free", f"edge/large@{at}>device/small", "ddim", STEPS) for at in (0.4, 0.8)]
TWICE = Entry("training-free", "edge/large@0.4>edge/medium@0.8>device/small", "ddim", STEPS)
TRIALS = [Entry("large", "edge/large", "euler", 2), Entry("smaller", "device/small", "dpmpp_2m", 2)]


@pytest.fixture
def small_alone(scenes: LoadedFamily) -> OpenPlan:
    return ALONE[2].plan(scenes)


def test_shared_prefixes_change_no_score_and_no_picture(scenes: LoadedFamily) -> None:
    plans = {e.name: e.plan(scenes) for e in (*ALONE, *CUT, TWICE, *TRIALS)}
    drawings = Studio(scenes, {}, None).draw(list(plans.values()), CASES, "test")
    for name, plan in plans.items():
        alone, shared = draw(scenes, plan, CASES), drawings[plan]
        assert shared.graded.tolist() == [one.verdict.graded for one in alone], name
        assert shared.strict.tolist() == [one.verdict.strict for one in alone], name
        for one, picture in zip(alone, shared.pictures, strict=True):
            assert differ(one.picture, picture) <= 1, name


def test_every_step_of_a_prefix_is_taken_once(scenes: LoadedFamily) -> None:
    counter = Counter()
    plans = [entry.plan(scenes) for entry in (*CUT, ALONE[0])]
    Studio(WatchedFamily(scenes, counter), {}, None).draw(plans, CASES, "test")
    assert counter.calls == 5 + 3 + 1  # large to the end; small after a cut at 2, and at 4
    assert set(counter.rows) == {4}


@pytest.mark.parametrize("entry", [TWICE, TRIALS[0]])
def test_the_trace_is_that_of_variance_preserving_latents(
    scenes: LoadedFamily, entry: Entry
) -> None:
    plan = entry.plan(scenes)
    drawing = Studio(scenes, {}, None).draw([plan], CASES, "test")[plan]
    run, course = begin(scenes, task_of(scenes, plan, CASES[1])), scenes.course(plan)
    for step in range(plan.steps + 1):
        run_here(scenes, run, step)
        level = course.levels[step]
        x = run.state().x / math.hypot(level.a, level.b)
        assert drawing.intensity[1, step] == pytest.approx(np.linalg.norm(x), rel=1e-3)
        np.testing.assert_allclose(drawing.variance[1, step], x.var(axis=(1, 2)), rtol=1e-2)


def test_what_was_drawn_is_not_drawn_again(
    scenes: LoadedFamily, tmp_path: Path, small_alone: OpenPlan
) -> None:
    first = Studio(scenes, {}, tmp_path).draw([small_alone], CASES, "test")[small_alone]
    counter = Counter()
    watched = WatchedFamily(scenes, counter)
    again = Studio(watched, {}, tmp_path).draw([small_alone], CASES, "test")[small_alone]
    assert counter.calls == 0
    for name, values in vars(first).items():
        np.testing.assert_array_equal(getattr(again, name), values)
    Studio(watched, {}, tmp_path).draw([small_alone], seeded_cases(FLAT, 2, seed=4), "test")
    assert counter.calls == STEPS


def test_what_is_not_kept_is_not_drawn_where_only_that_is_wanted(
    scenes: LoadedFamily, tmp_path: Path, small_alone: OpenPlan
) -> None:
    with pytest.raises(LookupError, match="1 of 1 plans"):
        Studio(scenes, {}, tmp_path, only_kept=True).draw([small_alone], CASES, "test")
    first = Studio(scenes, {}, tmp_path).draw([small_alone], CASES, "test")
    kept = Studio(scenes, {}, tmp_path, only_kept=True).draw([small_alone], CASES, "test")
    np.testing.assert_array_equal(kept[small_alone].pictures, first[small_alone].pictures)


def test_other_weights_are_drawn_anew(
    scenes: LoadedFamily, tmp_path: Path, small_alone: OpenPlan
) -> None:
    Studio(scenes, {}, tmp_path).draw([small_alone], CASES, "test")
    counter = Counter()
    other = WatchedFamily(scenes, counter)
    other.member_fingerprints = {**scenes.member_fingerprints, "small": "trained again"}
    Studio(other, {}, tmp_path).draw([small_alone], CASES, "test")
    assert counter.calls == STEPS


def test_a_latent_that_stops_being_finite_ends_the_run(
    scenes: LoadedFamily, small_alone: OpenPlan
) -> None:
    def spoil(member: str, x: Tensor) -> None:
        x[0] = float("nan")

    with pytest.raises(Exception, match="stopped being finite at step 0"):
        Studio(WatchedFamily(scenes, spoil), {}, None).draw([small_alone], CASES, "test")


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


def test_two_runs_may_share_the_work_from_both_ends(
    scenes: LoadedFamily, tmp_path: Path, small_alone: OpenPlan
) -> None:
    cases = seeded_cases(FLAT, 26, seed=5)  # a batch, and one that is not full
    last = Studio(scenes, {}, tmp_path, backwards=True)
    backwards = last.draw([small_alone], cases, "test")[small_alone]
    counter = Counter()
    first = Studio(WatchedFamily(scenes, counter), {}, tmp_path)
    forwards = first.draw([small_alone], cases, "test")[small_alone]
    assert counter.calls == 0
    np.testing.assert_array_equal(forwards.pictures, backwards.pictures)
