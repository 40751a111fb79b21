"""How far members part: what to measure, and the cuts that follow from it. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from baton.common.arm import Arm
from baton.common.errors import InvalidRequest
from baton.common.expansion import Terms as ArmTerms
from baton.common.expansion import expand
from baton.common.families.manifest import MemberPart
from baton.common.families.prompts import sample_prompts
from baton.common.families.spec import FamilySpec
from baton.common.given import real
from baton.common.limits import check_sampler, check_seed
from baton.common.plan import Guidance, OpenPlan
from baton.common.tooling.analysis import AnalyzeRequest
from baton.common.tooling.members import whole_member
from baton.common.tooling.places import Place, find_place

DEFAULT_STEPS = 20
#: Where members take over from ``scenes``' large, at sigma 0.8 of ten steps: a finisher, 0.18 away
#: there, costs nothing that shows; small in one branch, 0.22 away, costs 0.07 of the score; guided
#: small, 0.37 away, 0.12.
DEFAULT_TOLERANCE = 0.2


@dataclass(frozen=True)
class Contender:
    """A member as it may stand in for the reference.

    alone: in one branch without guidance, though it takes two.
    """

    member: str
    part: MemberPart
    guidance: Guidance
    alone: bool = False

    @property
    def name(self) -> str:
        return f"{self.member}, one branch" if self.alone else self.member


@dataclass(frozen=True)
class DivergenceTerms:
    """A request with everything filled in and checked. plan: of the reference."""

    reference: str
    plan: OpenPlan
    contenders: tuple[Contender, ...]
    prompts: tuple[str, ...]
    seed: int
    tolerance: float

    @property
    def members(self) -> tuple[str, ...]:
        """All that are to be loaded."""
        return tuple(dict.fromkeys([self.reference, *(one.member for one in self.contenders)]))

    @property
    def calls(self) -> int:
        """Steps of a picture, the contenders' among them, if all know every level."""
        return self.plan.steps * len(self.prompts) * (2 + len(self.contenders))


@dataclass(frozen=True)
class Cuts:
    """Levels ``b / a`` within which a member stays near the reference; None: nowhere.

    takes_over: from here down to the last of its levels; begins: from the noisiest down to here.
    """

    takes_over: float | None
    begins: float | None


def terms_of(spec: FamilySpec, request: AnalyzeRequest) -> DivergenceTerms:
    """Raises InvalidRequest or UnknownName for what can never be measured."""
    request.check_only("tolerance")
    reference = whole_member(spec, request.member)
    steps = DEFAULT_STEPS if request.steps is None else request.steps
    if steps == 1:
        raise InvalidRequest("cuts lie between levels: at least 2 steps are needed, got 1")
    scale = spec.default_guidance if request.guidance is None else request.guidance
    own, sampler = spec.own_guidance, check_sampler(request.sampler or spec.default_sampler)
    known = ArmTerms(spec.name, sampler, steps, Guidance(scale), own_guidance=own)
    plan, seed = expand(Arm.device(reference), known), check_seed(request.seed)
    contenders = _contenders(spec, reference, Guidance(scale))
    if not contenders:
        raise InvalidRequest(f"family {spec.name} has no other member to compare {reference} with")
    prompts = tuple(sample_prompts(spec, request.count, seed, request.prompts))
    return DivergenceTerms(
        reference, plan, contenders, prompts, seed, _tolerance(request.tolerance)
    )


def place_of(out: Path, terms: DivergenceTerms) -> Place:
    """Raises InvalidRequest for a place where nothing can be written."""
    plan = terms.plan
    return find_place(
        out, f"divergence-{plan.family}-{terms.reference}-{plan.samplers[0]}-{plan.steps}.json"
    )


def _contenders(spec: FamilySpec, reference: str, guidance: Guidance) -> tuple[Contender, ...]:
    """Every other member as it is guided; also in one branch each that takes two."""
    found = []
    for member, part in spec.members.items():
        as_guided = Guidance(guidance.scale, part.guidance)
        if member != reference:
            found.append(Contender(member, part, as_guided))
        if as_guided.two_branches:
            found.append(Contender(member, part, Guidance(1.0), alone=True))
    return tuple(found)


def _tolerance(asked: float | None) -> float:
    tolerance = DEFAULT_TOLERANCE if asked is None else real("a tolerance", asked)
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise InvalidRequest(f"a tolerance is above 0, got {tolerance}")
    return tolerance


def propose_cuts(
    levels: Sequence[float], distances: Sequence[float | None], tolerance: float
) -> Cuts:
    """Where a member may take over, and how far down it may begin.

    levels: falling, at least one; distances: at each, None where the member does not know it.
    """
    known = [
        (level, distance)
        for level, distance in zip(levels, distances, strict=True)
        if distance is not None
    ]
    begins = _reach(known, tolerance) if distances[0] is not None else None
    return Cuts(takes_over=_reach(known[::-1], tolerance), begins=begins)


def _reach(known: Sequence[tuple[float, float]], tolerance: float) -> float | None:
    """How far from the first level on the distance stays within the tolerance.

    Between the last level within and the first beyond, where a line over log level crosses it.
    """
    reached: tuple[float, float] | None = None
    for level, distance in known:
        if distance > tolerance:
            return None if reached is None else _crossing(reached, (level, distance), tolerance)
        reached = level, distance
    return None if reached is None else reached[0]


def _crossing(within: tuple[float, float], beyond: tuple[float, float], tolerance: float) -> float:
    (level, near), (other, far) = within, beyond
    if not (math.isfinite(level) and math.isfinite(other)):
        return min(level, other)
    share = (tolerance - near) / (far - near)
    return float(level * (other / level) ** share)
