"""Guidance that is left out under load: within each request's budget, and told in its record."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest

from baton.common.families.loaded import LoadedFamily
from baton.common.limits import Accel, Branches
from baton.common.plan import GuidanceBudget, OpenPlan
from baton.common.record import ExecutedStep, plan_that_ran
from baton.edge_server.engine.job import Drawn
from baton.edge_server.engine.scheduler import Limits
from baton.edge_server.engine.steering import Course, Steering
from baton.edge_server.scheduling.controller import Knobs
from tests.support.engines import drawn_together
from tests.support.tasks import PROMPTS, accelerated, plan, run_alone, task

STEPS = 12


def drawn(
    family: LoadedFamily, plans: list[OpenPlan], skip_after: float, rows: int = 64
) -> tuple[list[Drawn], Course]:
    """Each drawn among the others, guidance left out from a share of the steps on."""
    steering = Steering(controlled=False, rest=Knobs(skip_after, 1, 0.05))
    tasks = [task(of, PROMPTS[seed], seed=seed) for seed, of in enumerate(plans)]
    return drawn_together(family, tasks, Limits(rows=rows), steering)


def within(after: float, in_a_row: int, branches: Branches = "reuse") -> OpenPlan:
    return replace(plan("edge/large", STEPS), budget=GuidanceBudget(after, in_a_row, branches))


def lean(executed: tuple[ExecutedStep, ...]) -> list[int]:
    return [step.step for step in executed if step.branches != "both"]


def test_each_request_skips_within_its_own_budget_and_not_before_the_load_has_it(
    family: LoadedFamily,
) -> None:
    plans = [plan("edge/large", STEPS), within(0.25, 1), within(0.5, 2), within(0.75, 2)]
    pictures, course = drawn(family, plans, skip_after=0.5)
    skipped = [lean(picture.executed) for picture in pictures]
    assert skipped == [[], [6, 8, 10], [6, 7, 9, 10], [9, 10]]
    assert course.skipped == sum(map(len, skipped))


def test_nothing_is_skipped_while_the_load_does_not_ask_for_it(family: LoadedFamily) -> None:
    pictures, course = drawn(family, [within(0.0, 2)], skip_after=1.0)
    assert (lean(pictures[0].executed), course.skipped) == ([], 0)


@pytest.mark.parametrize("branches", ["reuse", "positive"])
@pytest.mark.parametrize("accel", ["none", "propagate"])
def test_a_skipped_picture_is_what_its_record_draws_alone(
    family: LoadedFamily, branches: Branches, accel: Accel
) -> None:
    """Beside neighbours that skip at other steps, and some that do not."""
    plans = [accelerated(within(0.3, 2, branches), accel), plan("edge/large", STEPS)]
    plans.append(accelerated(within(0.5, 1, branches), accel))
    pictures, course = drawn(family, plans, skip_after=0.2)
    assert course.skipped > 0
    for seed, (of, picture) in enumerate(zip(plans, pictures, strict=True)):
        kinds = {step.branches for step in picture.executed}
        assert kinds == ({"both", branches} if of.budget else {"both"})
        again = task(plan_that_ran(of, picture.executed), PROMPTS[seed], seed=seed)
        expected = family.decode(run_alone(family, again, STEPS).x)
        assert np.abs(picture.picture.astype(int) - expected).max() <= 1


def test_rows_bound_a_call_and_the_budget_each_request_where_all_may_skip(
    family: LoadedFamily,
) -> None:
    plans = [within(0.0, 2) for _ in range(4)]
    pictures, course = drawn(family, plans, skip_after=0.0, rows=4)
    assert course.skipped > 0
    for picture in pictures:
        kinds = [
            (kind, len(list(of))) for kind, of in groupby(s.branches for s in picture.executed)
        ]
        assert all(count <= 2 for kind, count in kinds if kind == "reuse")
    assert max(step.rows for picture in pictures for step in picture.executed) <= 4
