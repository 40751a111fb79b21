"""What grid of noise levels to search for, and what of it can never be found. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from baton.common.arm import Arm
from baton.common.errors import InvalidRequest
from baton.common.expansion import Terms as ArmTerms
from baton.common.expansion import expand
from baton.common.families.prompts import sample_prompts
from baton.common.families.registry import find_scorer
from baton.common.families.spec import FamilySpec
from baton.common.limits import SamplerName, check_sampler, check_seed, check_steps
from baton.common.plan import Guidance, OpenPlan
from baton.common.quality.verifier import Scorer
from baton.common.tooling.analysis import AnalyzeRequest
from baton.common.tooling.places import Place, find_place

#: What a grid is judged by: the family's scorer, or how near its latents come to those of many
#: steps.
Objective = Literal["score", "distance"]

DEFAULT_STEPS = 5
DEFAULT_COUNT = 128
#: Pictures that confirm a grid for each that it was searched on.
_CONFIRM = 4
_MOST = 800


@dataclass(frozen=True)
class Sample:
    """Pictures to draw: prompt i from the noise of seed ``seed + i``."""

    prompts: tuple[str, ...]
    seed: int


@dataclass(frozen=True)
class SpacingTerms:
    """A request with everything filled in and checked.

    plans: one per arm, on the plain grid; reference: of the family's first member, in many steps.
    ranges: by step, the least and the greatest level that all members know that run it.
    scorer: None where the objective is a distance.
    """

    arms: tuple[Arm, ...]
    plans: tuple[OpenPlan, ...]
    reference: OpenPlan
    ranges: tuple[tuple[float, float], ...]
    search: Sample
    confirm: Sample
    scorer: Scorer | None

    @property
    def steps(self) -> int:
        return self.plans[0].steps

    @property
    def sampler(self) -> SamplerName:
        return self.plans[0].samplers[0]

    @property
    def objective(self) -> Objective:
        return "distance" if self.scorer is None else "score"

    @property
    def members(self) -> tuple[str, ...]:
        """All that are to be loaded."""
        plans = (*self.plans, self.reference)
        return tuple(dict.fromkeys(part.member for plan in plans for part in plan.segments))

    def within(self, levels: Sequence[float]) -> bool:
        """Whether each step's level ``b / a`` lies where its members know it."""
        return all(
            least <= level <= most for level, (least, most) in zip(levels, self.ranges, strict=True)
        )


def terms_of(spec: FamilySpec, request: AnalyzeRequest) -> SpacingTerms:
    """Raises InvalidRequest or UnknownName for what can never be searched."""
    request.check_only("arms")
    arms, sampler = _arms(spec, request), check_sampler(request.sampler or spec.default_sampler)
    scale = spec.default_guidance if request.guidance is None else request.guidance
    guidance, own = Guidance(scale), spec.own_guidance
    known = ArmTerms(spec.name, sampler, spec.default_steps, guidance, own_guidance=own)
    plans = tuple(_plan(arm, known) for arm in arms)
    search, confirm = _samples(spec, request)
    return SpacingTerms(
        arms,
        plans,
        expand(Arm.device(next(iter(spec.members))), known),
        _ranges(spec, plans),
        search,
        confirm,
        _scorer(spec, (*search.prompts, *confirm.prompts)),
    )


def place_of(out: Path, terms: SpacingTerms) -> Place:
    """Raises InvalidRequest for a place where nothing can be written."""
    family = terms.reference.family
    return find_place(out, f"spacing-{family}-{terms.sampler}-{terms.steps}.json", plotted=False)


def _arms(spec: FamilySpec, request: AnalyzeRequest) -> tuple[Arm, ...]:
    """Those that are named, or one member alone."""
    if request.arms and (request.member is not None or request.steps is not None):
        raise InvalidRequest("an arm says its members and steps; leave --member and --steps out")
    names = request.arms or (_alone(spec, request),)
    arms = tuple(dict.fromkeys(Arm.parse(name) for name in names))
    for member in (member for arm in arms for member in arm.members):
        spec.check_member(member)
    _check_steps(arms)
    return arms


def _alone(spec: FamilySpec, request: AnalyzeRequest) -> str:
    member = spec.check_member(request.member or next(iter(spec.members)))
    steps = check_steps(DEFAULT_STEPS if request.steps is None else request.steps)
    return f"device/{member}*{steps}"


def _check_steps(arms: Sequence[Arm]) -> None:
    for arm in arms:
        if arm.steps is None:
            raise InvalidRequest(
                f"arm {arm} leaves its steps open; a grid is for so many, as in device/small*5"
            )
        if arm.steps < 2:
            raise InvalidRequest(f"the grid of one step has no level to search, as in {arm}")
    if len({arm.steps for arm in arms}) > 1:
        raise InvalidRequest("arms that share a grid have equally many steps")


def _plan(arm: Arm, known: ArmTerms) -> OpenPlan:
    plan = expand(arm, known)
    if len(plan.grids) > 1:
        raise InvalidRequest(f"arm {arm} is cut at levels of its own; leave the cuts out")
    return plan


def _ranges(spec: FamilySpec, plans: Sequence[OpenPlan]) -> tuple[tuple[float, float], ...]:
    ranges = []
    for step in range(plans[0].steps):
        members = (plan.segment_at(step).member for plan in plans)
        known = [spec.members[member].levels or (0.0, math.inf) for member in members]
        ranges.append((max(least for least, _ in known), min(most for _, most in known)))
    return tuple(ranges)


def _samples(spec: FamilySpec, request: AnalyzeRequest) -> tuple[Sample, Sample]:
    """Pictures to search on, and others to confirm on: other prompts, other noise."""
    count, seed = request.count or DEFAULT_COUNT, check_seed(request.seed)
    if request.count is not None and not 1 <= request.count <= _MOST:
        raise InvalidRequest(f"a grid is searched on 1 to {_MOST} pictures, got {request.count}")
    wanted, confirmed = (1 + _CONFIRM) * count, _CONFIRM * count
    lines = None if request.prompts else wanted
    found = list(dict.fromkeys(sample_prompts(spec, lines, seed, request.prompts)))
    if len(found) < 2:
        raise InvalidRequest("a grid is confirmed on other prompts: at least 2 are needed")
    first = min(count, len(found) // 2)
    return (
        Sample(_in_turn(found[:first], count), seed),
        Sample(_in_turn(found[first:], confirmed), seed + count),
    )


def _in_turn(prompts: Sequence[str], count: int) -> tuple[str, ...]:
    return tuple(prompts[index % len(prompts)] for index in range(count))


def _scorer(spec: FamilySpec, prompts: Sequence[str]) -> Scorer | None:
    """The family's, if it can score a picture of every prompt."""
    scorer, size = find_scorer(spec.scorer), spec.default_size
    if scorer is None:
        return None
    blank = np.zeros((size.height, size.width, 3), np.uint8)
    scored = (scorer(blank, prompt) for prompt in dict.fromkeys(prompts))
    return None if any(quality is None for quality in scored) else scorer
