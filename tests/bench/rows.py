"""From drawings and times to the rows of ``bench/relay.json``.

Fields of a row, where they apply:

- ``prompts``: the set that it was drawn on, ``selection``, ``refined`` or ``headline``; ``n`` of
  them.
- ``graded``, ``strict`` with their intervals (`Score`), ``*_minus_reference`` with its paired
  bootstrap interval, and ``sign_flip_p``: the difference to `large` at 50 plain steps on the same
  prompts and seeds, and the paired permutation test of the graded one.
- ``seconds``: median over rounds, in this process with one thread; ``edge_seconds``: of them what
  the arm leaves to an edge; ``speedup``: median over rounds of the reference's seconds to its own.
- ``picture_distance``: mean to the reference's picture of the same prompt and seed
  (`tests.bench.perceptual`).
- ``handoff_steps``: steps before which another member takes over. For each of them, then a step
  later, then at the end: ``intensity_l2``, the mean ``||x||_2`` of the variance-preserving latent
  (RISE, Sec. III), ``channel_variance``, and ``intensity_ratio``: mean over prompts of the
  intensity to that of the run without a handoff on the same levels, if it is a row.
- ``strata``: scores by task, and by the number of facts that a prompt states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from baton.common.families.scenes.evaluate import Case
from baton.common.plan import OpenPlan
from tests.bench.arms import Entry
from tests.bench.choosing import Option
from tests.bench.curves import Drawing, complexity
from tests.bench.perceptual import distance
from tests.bench.ratios import (
    Difference,
    Loss,
    PairedRatio,
    paired_difference,
    paired_ratio,
    sign_flip_test,
)
from tests.bench.timing import Drawn

_COMPLEXITY = {"1 or 2 facts": (1, 2), "3 facts": (3, 3), "4 facts or more": (4, 99)}


@dataclass(frozen=True)
class Measured:
    """What was measured on one set of prompts; plans, drawings and times by the entries' names."""

    prompts: str
    cases: Sequence[Case]
    entries: Mapping[str, Entry]
    plans: Mapping[str, OpenPlan]
    drawings: Mapping[str, Drawing]
    times: Mapping[str, Sequence[Drawn]]
    reference: str

    def graded(self, name: str) -> float:
        return float(self.drawings[name].graded.mean())

    def difference(self, one: str, other: str) -> Difference:
        return paired_difference(self.drawings[one].graded, self.drawings[other].graded)

    def sign_flip(self, one: str, other: str) -> float:
        return sign_flip_test(self.drawings[one].graded, self.drawings[other].graded)

    def loss(self, name: str) -> Loss:
        one, other = self.drawings[name], self.drawings[self.reference]
        return Loss(
            paired_difference(one.graded, other.graded), paired_difference(one.strict, other.strict)
        )

    def seconds(self, name: str) -> float:
        return median(drawn.total for drawn in self.times[name])

    def edge_seconds(self, name: str) -> float:
        return median(drawn.edge for drawn in self.times[name])

    def speedup(self, of: str, over: str) -> PairedRatio:
        """How many times the seconds of ``of`` those of ``over`` are, within rounds."""
        totals = [[drawn.total for drawn in self.times[name]] for name in (over, of)]
        return paired_ratio(*totals)

    def option(self, name: str, cost: float | None = None) -> Option:
        cost = self.seconds(name) if cost is None else cost
        return Option(name, self.plans[name].steps, cost, self.drawings[name].graded)


def rows_of(measured: Measured) -> list[dict[str, Any]]:
    return [_row(measured, name) for name in measured.drawings]


def _row(measured: Measured, name: str) -> dict[str, Any]:
    entry, plan, drawing = measured.entries[name], measured.plans[name], measured.drawings[name]
    cuts = [one.start for one in plan.segments[1:]]
    row: dict[str, Any] = {
        "name": name,
        "kind": entry.kind,
        "prompts": measured.prompts,
        "arm": entry.arm,
        "steps": plan.steps,
        "sampler": entry.sampler,
        "grid": plan.grids[0].name,
        "accel": entry.accel,
        "handoff_steps": cuts,
    }
    row |= drawing.score().as_dict() | measured.loss(name).as_dict()
    row["sign_flip_p"] = measured.sign_flip(name, measured.reference)
    reference = measured.drawings[measured.reference]
    row["picture_distance"] = distance(drawing.pictures, reference.pictures).mean()
    if name in measured.times:
        row |= _times(measured, name)
    if cuts:
        row |= _latents(measured, name, cuts)
    row["strata"] = _strata(measured, drawing)
    return row


def _times(measured: Measured, name: str) -> dict[str, Any]:
    return {
        "seconds": measured.seconds(name),
        "edge_seconds": measured.edge_seconds(name),
        "rounds": len(measured.times[name]),
        "speedup": measured.speedup(name, measured.reference).median,
    }


def _latents(measured: Measured, name: str, cuts: Sequence[int]) -> dict[str, Any]:
    steps, drawing = measured.plans[name].steps, measured.drawings[name]
    at = [*(step for cut in cuts for step in (cut, cut + 1)), steps]
    row: dict[str, Any] = {
        "latent_steps": at,
        "intensity_l2": drawing.intensity[:, at].mean(axis=0),
        "channel_variance": drawing.variance[:, at].mean(axis=0),
    }
    unbroken = unbroken_of(measured, name)
    if unbroken is not None:
        ratio = drawing.intensity[:, at] / measured.drawings[unbroken].intensity[:, at]
        row["intensity_ratio"] = ratio.mean(axis=0)
        row["unbroken_channel_variance"] = measured.drawings[unbroken].variance[:, at].mean(axis=0)
    return row


def unbroken_of(measured: Measured, name: str) -> str | None:
    """The run of the same levels, in full, on the first member alone."""
    first = measured.plans[name].segments[0]
    for other in measured.drawings:
        plan, entry = measured.plans[other], measured.entries[other]
        plain = entry.accel == "none" and not entry.deepcache
        alike = plan.grids == measured.plans[name].grids and len(plan.segments) == 1
        if plain and alike and plan.segments[0].member == first.member:
            return other
    return None


def _strata(measured: Measured, drawing: Drawing) -> dict[str, Any]:
    facts = np.array([complexity(case) for case in measured.cases])
    tasks = np.array([case.spec.task for case in measured.cases])
    chosen = {name: (facts >= low) & (facts <= high) for name, (low, high) in _COMPLEXITY.items()}
    chosen |= {task: tasks == task for task in sorted(set(tasks.tolist()))}
    return {name: _short(drawing, where) for name, where in chosen.items() if where.any()}


def _short(drawing: Drawing, where: Any) -> dict[str, Any]:
    score = drawing.score(where)
    return {"graded": score.graded, "strict": score.strict, "n": score.n, "ci95": score.ci95}
