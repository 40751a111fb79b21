"""How much guidance pictures can do without: what is measured, and the budget that follows."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from baton.common.diffusion.executor import denoise
from baton.common.families.loaded import LoadedFamily
from baton.common.families.local import begin
from baton.common.guidance import GuidanceBudget
from baton.common.limits import Accel
from baton.common.quality.verifier import Quality
from baton.common.tooling.skipping import (
    Skipped,
    SkippingTerms,
    propose_budget,
    sensitivity,
)
from tests.support.tasks import PROMPTS, accelerated, plan, task

STEPS = 10


def brightness(picture: npt.NDArray[np.uint8], prompt: str) -> Quality | None:
    """Of a prompt beyond it, nothing."""
    if prompt == PROMPTS[1]:
        return None
    graded = float(picture.mean()) / 255
    return Quality(graded, graded > 0.5, {})


def terms(accel: Accel = "none", **changes: object) -> SkippingTerms:
    of = accelerated(plan("device/small", STEPS, guidance=7.5), accel)
    values = {"scorer": brightness, "shares": (0.25, 1.0), "seed": 3}
    return SkippingTerms(of, PROMPTS[:3], **(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("accel", ["none", "propagate"])
def test_each_budget_is_drawn_as_a_request_under_it(family: LoadedFamily, accel: Accel) -> None:
    asked, steps = terms(accel), list[int]()
    found = sensitivity(family, asked, steps.append)
    assert [one.budget for one in found] == asked.budgets
    assert sum(steps) == asked.calls
    full = [drawn(family, asked, at, None) for at in range(3)]
    for one in found:
        lean = [drawn(family, asked, at, one.budget) for at in range(3)]
        pairs = zip(lean, full, strict=True)
        error = np.mean([np.square(a[0].astype(float) - b[0]).mean() for a, b in pairs])
        assert one.psnr == (
            pytest.approx(10 * math.log10(255**2 / error), rel=1e-3) if error else math.inf
        )
        rows = [sum(rows for _, rows in drawn) for drawn in (lean, full)]
        assert one.saved == pytest.approx(1 - rows[0] / rows[1])
        graded = [
            [quality.graded if (quality := brightness(picture, prompt)) else 0.0]
            for (picture, _), prompt in zip(lean + full, PROMPTS[:3] * 2, strict=True)
        ]
        assert one.graded == pytest.approx(np.mean(graded[:3]), abs=1e-4)
        assert one.difference == pytest.approx(np.mean(graded[:3]) - np.mean(graded[3:]), abs=1e-4)
    assert any(one.psnr < 60 for one in found)
    assert {one.saved for one in found if one.budget.after == 1.0} == {0.0}


def drawn(
    family: LoadedFamily, asked: SkippingTerms, at: int, budget: GuidanceBudget | None
) -> tuple[npt.NDArray[np.uint8], int]:
    """A picture and the rows that it took, alone."""
    run = begin(family, task(asked.plan, asked.prompts[at], seed=asked.seed + at))
    run.most_rows = 2
    rows, denoiser = 0, family.denoiser("small")
    while run.step < STEPS:
        lean = run.lean_work(denoiser.graph, budget, 0.0) if budget else None
        work = (lean or run.work(denoiser.graph)).first(1)
        denoise([(run, work)], denoiser)
        rows += work.rows
    return family.decode(run.x), rows


def test_without_a_scorer_likeness_alone_is_told(family: LoadedFamily) -> None:
    found = sensitivity(family, terms(scorer=None, shares=(0.5,)))
    for one in found:
        assert one.psnr < math.inf
        assert (one.graded, one.strict, one.difference_ci95) == (None, None, None)
        assert one.row()["variant"] == one.budget.branches
    assert propose_budget(found) is None


def skipped(after: float, saved: float, low: float, mean: float = 0.0) -> Skipped:
    budget = GuidanceBudget(after, 1)
    return Skipped(budget, 9, saved, 30.0, 0.9, 0.8, (0.8, 1.0), mean, (low, 0.1))


@pytest.mark.parametrize(
    ("found", "proposed"),
    [
        ([skipped(0.4, 0.3, -0.03), skipped(0.6, 0.2, -0.02), skipped(0.8, 0.1, 0.0)], 0.6),
        ([skipped(0.4, 0.3, -0.03), skipped(0.6, 0.2, -0.021)], None),
        ([skipped(0.6, 0.2, -0.02), skipped(0.5, 0.2, -0.01, 0.01)], 0.5),
        ([], None),
    ],
)
def test_the_budget_proposed_saves_most_of_those_that_cost_too_little_to_count(
    found: list[Skipped], proposed: float | None
) -> None:
    budget = propose_budget(found)
    assert (budget and budget.after) == proposed
