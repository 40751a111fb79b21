"""From an arm to the plan that it means for one request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from baton.common.arm import Arm, Stretch
from baton.common.errors import Incompatible
from baton.common.guidance import GuidanceBudget
from baton.common.limits import Accel, GuidanceKind, SamplerName, check_steps
from baton.common.plan import Grid, Guidance, OpenPlan, OpenSegment, relay_step

Ratios = Callable[[SamplerName, int], Sequence[float]]


@dataclass(frozen=True)
class Terms:
    """What a request says beside its arm.

    steps: of arms that do not say theirs. own_guidance: of what kind a member takes guidance, by
    member, where otherwise than ``guidance``. named: the grids that the family names, by (sampler,
    steps), of arms that say their steps. ratios: the levels ``b / a`` before each step of a plain
    grid; needed where an arm without steps of its own is cut at a level. budget: of guidance that
    an edge may leave out.
    """

    family: str
    sampler: SamplerName
    steps: int
    guidance: Guidance
    accel: Accel = "none"
    own_guidance: Mapping[str, GuidanceKind] = field(default_factory=dict)
    named: Mapping[tuple[SamplerName, int], Grid] = field(default_factory=dict)
    ratios: Ratios | None = None
    budget: GuidanceBudget | None = None


def expand(arm: Arm, terms: Terms) -> OpenPlan:
    """The plan of an arm; stretches that get no step are left out.

    Raises InvalidRequest outside the limits, Incompatible if a cut at a level cannot be placed.
    """
    steps = check_steps(arm.steps or terms.steps)
    stops = _own_stops(arm) if arm.steps else _shared_stops(arm, terms, steps)
    grids = _grids(arm, stops, terms)
    segments, start = [], 0
    for stretch, stop, grid in zip(arm.stretches, stops, grids, strict=True):
        if stop > start:
            guidance = _guidance(stretch, terms)
            place = stretch.member, stretch.location, start, stop
            segments.append(OpenSegment(*place, grid, guidance, accel=terms.accel))
            start = stop
    return OpenPlan(terms.family, tuple(segments), terms.budget)


def plan_of(
    arm: Arm, family: str, sampler: SamplerName, steps: int, guidance_scale: float
) -> OpenPlan:
    """The plan of an arm with nothing made cheaper."""
    return expand(arm, Terms(family, sampler, steps, Guidance(guidance_scale)))


def _guidance(stretch: Stretch, terms: Terms) -> Guidance:
    scale = terms.guidance.scale if stretch.guidance is None else stretch.guidance
    return Guidance(scale, terms.own_guidance.get(stretch.member, terms.guidance.kind))


def _own_stops(arm: Arm) -> list[int]:
    stops, done = [], 0
    for stretch in arm.stretches:
        done += stretch.steps or 0
        stops.append(done)
    return stops


def _shared_stops(arm: Arm, terms: Terms, steps: int) -> list[int]:
    """The step at which each stretch ends; cuts that round to an earlier one's step follow it."""
    stops, done = [], 0
    for stretch in arm.stretches[:-1]:
        done = max(done, _stop(stretch, terms, steps))
        stops.append(done)
    return [*stops, steps]


def _stop(stretch: Stretch, terms: Terms, steps: int) -> int:
    if stretch.share is not None:
        return relay_step(stretch.share, steps)
    if terms.ratios is None or stretch.sigma is None:
        raise Incompatible(
            f"{stretch} ends at a level of noise, and this node does not know at which step;"
            " say the steps of each stretch"
        )
    ratios = terms.ratios(terms.sampler, steps)
    if stretch.sigma >= ratios[0]:
        raise Incompatible(
            f"{stretch} would end before its first step: in {steps} steps the family's levels of"
            f" noise fall from {ratios[0]:.3g} to {ratios[-1]:.3g}"
        )
    return sum(ratio > stretch.sigma for ratio in ratios)


def _grids(arm: Arm, stops: Sequence[int], terms: Terms) -> list[Grid]:
    """One per stretch; a cut at a level ends a grid if the arm says its steps."""
    ends = [
        (stop, stretch.sigma if arm.steps else None)
        for stretch, stop in zip(arm.stretches, stops, strict=True)
    ]
    grids: list[Grid] = []
    start = 0
    waiting = 0
    for index, (stop, sigma) in enumerate(ends):
        waiting += 1
        if sigma is not None or index == len(ends) - 1:
            grids += [Grid(terms.sampler, start, stop, sigma)] * waiting
            start, waiting = stop, 0
    if arm.steps and grids[0] == grids[-1]:
        named = terms.named.get((terms.sampler, stops[-1]))
        grids = [grids[0] if named is None else named] * len(grids)
    return grids
