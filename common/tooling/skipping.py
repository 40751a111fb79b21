"""How much guidance a family's pictures can do without: scores against where and how often.

The sensitivity that the adaptive skip-CFG of SynerDiff needs, and a budget that follows from it.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from baton.common.diffusion.run import Run
from baton.common.errors import executing
from baton.common.families.loaded import LoadedFamily
from baton.common.guidance import GuidanceBudget
from baton.common.limits import BRANCHES, Branches
from baton.common.plan import OpenPlan
from baton.common.quality.scores import bootstrap_interval, summarise
from baton.common.quality.verifier import Quality, Scorer
from baton.common.tooling.drawing import Pictures

SHARES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
IN_A_ROW = (1, 2)
VARIANTS: tuple[Branches, ...] = BRANCHES[1:]
#: Of the graded score: what a proposed budget may cost, at the lower end of its interval.
TOLERANCE = 0.02


@dataclass(frozen=True)
class SkippingTerms:
    """plan: of one guided member; scorer: None where only likeness can be told.

    Picture i is of ``prompts[i]``, from seed ``seed + i``.
    """

    plan: OpenPlan
    prompts: tuple[str, ...]
    seed: int = 0
    scorer: Scorer | None = None
    shares: Sequence[float] = SHARES
    in_a_row: Sequence[int] = IN_A_ROW

    @property
    def budgets(self) -> list[GuidanceBudget]:
        """What is tried."""
        tried = itertools.product(VARIANTS, self.shares, self.in_a_row)
        return [GuidanceBudget(after, count, variant) for variant, after, count in tried]

    @property
    def calls(self) -> int:
        """Steps in all: what comes before guidance is first left out is drawn once."""
        steps = self.plan.steps
        rest = (steps - _first(budget, steps) for budget in self.budgets)
        return len(self.prompts) * (steps + sum(rest))


@dataclass(frozen=True)
class Skipped:
    """What became of pictures under a budget, beside those of the full plan, paired.

    saved: share of all rows of the model that were left out, of those of the full plan; psnr: dB,
    of all pictures as one, infinite if they are the same; graded, strict and the rest as in
    `Score`, None without a scorer; difference: of graded, mean and bootstrap 95% interval.
    """

    budget: GuidanceBudget
    n: int
    saved: float
    psnr: float
    graded: float | None = None
    strict: float | None = None
    ci95: tuple[float, float] | None = None
    difference: float | None = None
    difference_ci95: tuple[float, float] | None = None

    def row(self) -> dict[str, Any]:
        """For files."""
        told = {name: value for name, value in vars(self).items() if name != "budget"}
        of = self.budget
        budget = {"variant": of.branches, "after": of.after, "in_a_row": of.in_a_row}
        return budget | told | {"psnr": None if math.isinf(self.psnr) else self.psnr}


def sensitivity(
    family: LoadedFamily, terms: SkippingTerms, on_step: Callable[[int], None] = lambda _: None
) -> list[Skipped]:
    """One entry for each of ``terms.budgets``.

    on_step: called after each model call with the steps that it took, ``terms.calls`` in all.
    Raises ExecutionFailed.
    """
    pictures = Pictures(family, terms.prompts, terms.seed, on_step)
    full, lean = _Drawn(), {budget: _Drawn() for budget in terms.budgets}
    with executing("measuring"):
        for chosen in pictures.batches(0, len(pictures)):
            for budget, runs, rows in _drawn(pictures, terms, chosen):
                drawn = full if budget is None else lean[budget]
                drawn.add(family, terms, runs, chosen, rows)
    return [drawn.beside(full, budget) for budget, drawn in lean.items()]


def propose_budget(found: Sequence[Skipped], tolerance: float = TOLERANCE) -> GuidanceBudget | None:
    """The one that saves most of those that cost no more than tolerated; None if all do."""
    good = [one for one in found if one.difference_ci95 and one.difference_ci95[0] >= -tolerance]
    best = max(good, key=lambda one: (one.saved, one.difference), default=None)
    return best.budget if best else None


def _first(budget: GuidanceBudget, steps: int) -> int:
    """The step at which it first leaves guidance out."""
    return next((step for step in range(1, steps) if step / steps >= budget.after), steps)


def _drawn(
    pictures: Pictures, terms: SkippingTerms, chosen: range
) -> Iterator[tuple[GuidanceBudget | None, list[Run], int]]:
    """Runs to the end, in full and with each budget, and the rows of one of them."""
    plan = pictures.family.accelerator.expand(terms.plan)
    runs, rows = pictures.begin(plan, pictures.family.course(plan), chosen), 0
    waiting = {budget: _first(budget, plan.steps) for budget in terms.budgets}
    for step in range(plan.steps):
        for budget, first in waiting.items():
            if first == step:
                forks = [copy.copy(run) for run in runs]
                rest = sum(pictures.step(forks, chosen, budget) for _ in range(step, plan.steps))
                yield budget, forks, rows + rest
        rows += pictures.step(runs, chosen)
    yield None, runs, rows
    for budget, first in waiting.items():
        if first == plan.steps:
            yield budget, runs, rows


class _Drawn:
    """Pictures of one way of drawing."""

    def __init__(self) -> None:
        self._pictures: list[npt.NDArray[np.uint8]] = []
        self._qualities: list[Quality | None] = []
        self._rows = 0

    @torch.inference_mode()
    def add(
        self,
        family: LoadedFamily,
        terms: SkippingTerms,
        runs: Sequence[Run],
        chosen: range,
        rows: int,
    ) -> None:
        self._rows += rows * len(runs)
        for run, index in zip(runs, chosen, strict=True):
            picture = family.decode(run.x)
            self._pictures.append(picture)
            if terms.scorer is not None:
                self._qualities.append(terms.scorer(picture, terms.prompts[index]))

    def beside(self, full: _Drawn, budget: GuidanceBudget) -> Skipped:
        pairs = zip(self._pictures, full._pictures, strict=True)
        error = np.mean([np.square(one.astype(float) - other).mean() for one, other in pairs])
        psnr = 10 * math.log10(255**2 / error) if error else math.inf
        made = Skipped(budget, len(self._pictures), 1 - self._rows / full._rows, psnr)
        if not any(self._qualities):
            return made
        score = summarise(self._graded, [bool(of and of.strict) for of in self._qualities])
        away = np.subtract(self._graded, full._graded).tolist()
        return replace(
            made,
            graded=score.graded,
            strict=score.strict,
            ci95=score.ci95,
            difference=float(np.mean(away)),
            difference_ci95=bootstrap_interval(away),
        )

    @property
    def _graded(self) -> list[float]:
        """0 where a prompt turns out to be beyond the scorer."""
        return [of.graded if of else 0.0 for of in self._qualities]
