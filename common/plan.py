"""What runs at every denoising step: values only, checked when they are made.

A caller allows an `OpenPlan`: `OpenSegment`s, each a family member, the place where it runs, a
stretch of steps on a `Grid` of noise levels, its guidance, and how far its steps may be made
cheaper. The node that runs a stretch makes a `Plan` of it, with one `StepDirective` per step. Steps
are numbered over all segments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Generic, NamedTuple, TypeVar

from baton.common.errors import InvalidRequest
from baton.common.guidance import GuidanceBudget
from baton.common.limits import (
    BOTH,
    BRANCHES,
    GUIDANCE_KINDS,
    LOCATIONS,
    MAX_AHEAD,
    MAX_BLOCKS,
    MAX_NAME_CHARS,
    MAX_PRIOR_NOISE,
    MAX_SEGMENTS,
    MAX_STEPS,
    ROWS_OF,
    Accel,
    Branch,
    Branches,
    GuidanceKind,
    Location,
    SamplerName,
    check_accel,
    check_guidance,
    check_sampler,
    check_sigma,
)


@dataclass(frozen=True, slots=True)
class StepDirective:
    """How one step runs.

    branches: of classifier-free guidance; one branch is one row instead of two.
    blocks: bit ``i`` runs the member's block ``i``, the others reuse their cached outputs; None
        runs them all. negative_blocks: those of the unconditional branch where they are others.
    ahead: so many of the following steps are evaluated in the same model call, from what this one
        computes (parallel decoding).
    prior_noise: this share of the starting noise is added to the latent before the step.
    """

    branches: Branches = "both"
    blocks: int | None = None
    ahead: int = 0
    prior_noise: float = 0.0
    negative_blocks: int | None = None

    def __post_init__(self) -> None:
        if self.branches not in BRANCHES:
            raise InvalidRequest(f"unknown branches {self.branches!r}")
        for blocks in (self.blocks, self.negative_blocks):
            if blocks is not None and not 0 <= blocks < 1 << MAX_BLOCKS:
                raise InvalidRequest(f"a member has at most {MAX_BLOCKS} blocks")
        if self.negative_blocks is not None and (self.branches != "both" or self.blocks is None):
            raise InvalidRequest("only a step of both branches names blocks of the other one")
        if not 0 <= self.ahead <= MAX_AHEAD:
            raise InvalidRequest(f"at most {MAX_AHEAD} steps run ahead, got {self.ahead}")
        if not 0.0 <= self.prior_noise <= MAX_PRIOR_NOISE:
            raise InvalidRequest(f"prior noise is from 0 to {MAX_PRIOR_NOISE:g}")

    def for_any_member(self) -> StepDirective:
        """Without what is said in terms of one member's blocks."""
        return replace(self, blocks=None, ahead=0, negative_blocks=None)


FULL_STEP = StepDirective()


@dataclass(frozen=True, slots=True)
class Grid:
    """The noise levels through which steps ``start <= i < stop`` go with one sampler.

    It begins where the grid before it ends, the first at the family's noisiest level. until: the
    level ``b / a`` after its last step; None: the family's last. name, digest: of levels that the
    family names; empty: they are spaced as the family's scheduler does.
    """

    sampler: SamplerName
    start: int
    stop: int
    until: float | None = None
    name: str = ""
    digest: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sampler", check_sampler(self.sampler))
        _check_stretch(self.start, self.stop, "a grid")
        if self.until is not None:
            object.__setattr__(self, "until", check_sigma(self.until))
        if max(len(self.name), len(self.digest)) > MAX_NAME_CHARS or bool(self.name) != bool(
            self.digest
        ):
            raise InvalidRequest("a named grid has a short name and a digest")
        if self.name and (self.start or self.until is not None):
            raise InvalidRequest("a named grid goes through all levels that its family gives it")

    @property
    def steps(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Guidance:
    """Classifier-free guidance (Ho and Salimans 2022) of a segment. scale: 1 and below is none."""

    scale: float
    kind: GuidanceKind = "two_branches"

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", check_guidance(self.scale))
        if self.kind not in GUIDANCE_KINDS:
            raise InvalidRequest(f"unknown guidance {self.kind!r}")

    @property
    def two_branches(self) -> bool:
        """Whether a step may need the unconditional branch beside the conditional one."""
        return self.kind == "two_branches" and self.scale > 1.0


@dataclass(frozen=True, slots=True)
class Segment:
    """Steps ``start <= i < stop`` (0-based) on one member at one place, a directive each."""

    member: str
    location: Location
    start: int
    stop: int
    grid: Grid
    guidance: Guidance
    directives: tuple[StepDirective, ...]

    def __post_init__(self) -> None:
        _check_segment(self)

    @property
    def masked(self) -> bool:
        """Whether any step names its blocks."""
        return any(directive.blocks is not None for directive in self.directives)

    def guided(self, directive: StepDirective) -> Branches:
        """How a step of its guidance is guided: nothing is left out where there is none."""
        return directive.branches if self.guidance.two_branches else "positive"

    def branches(self, directive: StepDirective) -> tuple[Branch, ...]:
        """What a step of its guidance evaluates, a row of a model call each."""
        return ROWS_OF[self.guided(directive)]


@dataclass(frozen=True, slots=True)
class OpenSegment(Segment):
    """A segment as a caller allows it.

    accel: what whoever runs it may write into its directives' ``blocks``, ``ahead`` and
    ``prior_noise`` where they say nothing themselves. directives: none at all: every step in full.
    """

    directives: tuple[StepDirective, ...] = ()
    accel: Accel = "none"

    def __post_init__(self) -> None:
        if not self.directives:
            count = max(0, min(self.stop, MAX_STEPS + 1) - max(self.start, 0))
            object.__setattr__(self, "directives", (FULL_STEP,) * count)
        object.__setattr__(self, "accel", check_accel(self.accel))
        _check_segment(self)

    def closed(self, directives: Sequence[StepDirective] | None = None) -> Segment:
        """The segment as it runs, with these directives or its own."""
        chosen = self.directives if directives is None else tuple(directives)
        place = self.member, self.location, self.start, self.stop
        return Segment(*place, self.grid, self.guidance, chosen)


S = TypeVar("S", bound=Segment)


@dataclass(frozen=True, slots=True)
class _Steps(Generic[S]):
    """Segments that tile a request's steps."""

    family: str
    segments: tuple[S, ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.segments) <= MAX_SEGMENTS:
            raise InvalidRequest(f"a plan has 1 to {MAX_SEGMENTS} segments")
        expected = 0
        for segment in self.segments:
            if segment.start != expected:
                raise InvalidRequest(f"step {expected} of the plan belongs to no single segment")
            expected = segment.stop
        _check_grids(self.grids, expected)

    @property
    def steps(self) -> int:
        return self.segments[-1].stop

    @property
    def grids(self) -> tuple[Grid, ...]:
        """In the order of their steps; segments one after the other may share one."""
        return tuple(dict.fromkeys(segment.grid for segment in self.segments))

    @property
    def samplers(self) -> tuple[SamplerName, ...]:
        """Each once, in the order of the steps."""
        return tuple(dict.fromkeys(grid.sampler for grid in self.grids))

    def segment_at(self, step: int) -> S:
        """The segment that step ``step`` belongs to. Raises IndexError past the end."""
        for segment in self.segments:
            if segment.start <= step < segment.stop:
                return segment
        raise IndexError(f"step {step} is not in a plan of {self.steps}")

    def directive_at(self, step: int) -> StepDirective:
        segment = self.segment_at(step)
        return segment.directives[step - segment.start]

    def guided_at(self, step: int) -> bool:
        """Whether the step evaluates both branches."""
        return self.branches_at(step) == BOTH

    def branches_at(self, step: int) -> tuple[Branch, ...]:
        """What the step evaluates, a row of a model call each."""
        segment = self.segment_at(step)
        return segment.branches(segment.directives[step - segment.start])

    def stretch_end(self, start: int) -> int:
        """Where the plan leaves the place of step ``start``; ``start`` itself if it is done."""
        end = start
        for segment in self.segments:
            if segment.start <= end < segment.stop:
                if end > start and segment.location != self.segment_at(start).location:
                    break
                end = segment.stop
        return end


class Plan(_Steps[Segment]):
    """What runs: every step has its directive."""

    __slots__ = ()

    def in_full(self) -> Plan:
        """The same plan with every block run at every step."""
        segments = (
            replace(item, directives=tuple(StepDirective(d.branches) for d in item.directives))
            for item in self.segments
        )
        return Plan(self.family, tuple(segments))


class Holder(NamedTuple):
    """Who takes over a step; guidance: None if it stays as it is."""

    member: str
    location: Location
    guidance: Guidance | None = None


@dataclass(frozen=True, slots=True)
class OpenPlan(_Steps[OpenSegment]):
    """What the caller allows. budget: of guidance that an edge may leave out; None: none of it."""

    budget: GuidanceBudget | None = None

    def rest_on(self, start: int, holder: Callable[[int], Holder | None]) -> OpenPlan:
        """The same plan with the steps from ``start`` on that have another ``holder`` moved to it.

        None leaves a step where it is. What the plan says of a former member's blocks is left out.
        """
        kept = [
            cut(segment, segment.start, start) for segment in self.segments if segment.start < start
        ]
        rest: list[OpenSegment] = []
        for segment in self.segments:
            for step in range(max(start, segment.start), segment.stop):
                rest = _joined(rest, _held(cut(segment, step, step + 1), holder(step)))
        if not rest:
            raise InvalidRequest(f"no step of {self.steps} is left at {start}")
        return replace(self, segments=(*kept, *rest))

    def closed(self) -> Plan:
        """The plan that runs if no step is made cheaper."""
        return Plan(self.family, tuple(segment.closed() for segment in self.segments))


def _held(step: OpenSegment, holder: Holder | None) -> OpenSegment:
    """A single step, moved to its holder if it has another one."""
    if holder is None:
        return step
    directives = tuple(item.for_any_member() for item in step.directives)
    return replace(
        step,
        member=holder.member,
        location=holder.location,
        guidance=holder.guidance or step.guidance,
        directives=directives,
    )


def cut(segment: S, start: int, stop: int) -> S:
    """The part of a segment's steps between two others."""
    stop = min(stop, segment.stop)
    chosen = segment.directives[start - segment.start : stop - segment.start]
    return replace(segment, start=start, stop=stop, directives=chosen)


def _joined(segments: list[OpenSegment], added: OpenSegment) -> list[OpenSegment]:
    """One segment more, or a longer last one if they differ in their steps alone."""
    last = segments[-1] if segments else None
    if last is None or _terms(last) != _terms(added):
        return [*segments, added]
    directives = last.directives + added.directives
    return [*segments[:-1], replace(last, stop=added.stop, directives=directives)]


def _terms(segment: OpenSegment) -> tuple[object, ...]:
    """All but its steps."""
    return segment.member, segment.location, segment.grid, segment.guidance, segment.accel


def followers(segment: Segment, step: int, limit: int = MAX_AHEAD) -> int:
    """How many steps can be decoded ahead with this one, of those that the plan allows.

    They belong to the group of a step that decodes ahead, and run the same blocks; else they would
    read one another's outputs. A group may be entered in its middle, and some of its steps may be
    of one branch.
    """
    directives, index = segment.directives, step - segment.start
    end = max(
        (i + directives[i].ahead for i in range(max(0, index - MAX_AHEAD), index + 1)),
        default=index,
    )
    alike = 0
    for directive in directives[index + 1 : min(end, index + max(limit, 0)) + 1]:
        if directive.blocks is None or directive.ahead:
            break
        if directive.blocks != directives[index + 1].blocks:
            break
        alike += 1
    return alike


def relay_step(share: float, steps: int) -> int:
    """The step at which a relay hands over: the share of the steps, rounded to the nearest."""
    return min(steps, math.floor(share * steps + 0.5))


def _check_segment(segment: Segment) -> None:
    start, stop = segment.start, segment.stop
    _check_stretch(start, stop, "segment")
    if len(segment.directives) != stop - start:
        raise InvalidRequest(f"segment {start}..{stop} has {len(segment.directives)} directives")
    if segment.location not in LOCATIONS:
        raise InvalidRequest(f"unknown location {segment.location!r}")
    if not 0 < len(segment.member) <= MAX_NAME_CHARS:
        raise InvalidRequest("a segment needs a member's name")
    if not segment.grid.start <= start < stop <= segment.grid.stop:
        raise InvalidRequest(f"segment {start}..{stop} leaves its grid of levels")


def _check_stretch(start: int, stop: int, what: str) -> None:
    if not 0 <= start < stop <= MAX_STEPS:
        raise InvalidRequest(f"{what} {start}..{stop} is not a stretch of steps")


def _check_grids(grids: Sequence[Grid], steps: int) -> None:
    ends = [0, *(grid.stop for grid in grids)]
    if [grid.start for grid in grids] != ends[:-1] or ends[-1] != steps:
        raise InvalidRequest("the grids of a plan do not follow one another")
    levels = [math.inf, *(grid.until for grid in grids[:-1])]
    if grids[-1].until is not None or any(level is None for level in levels):
        raise InvalidRequest("every grid but the last one ends at a noise level")
    if any(one <= two for one, two in pairwise(level or 0.0 for level in levels)):
        raise InvalidRequest("the noise levels of a plan fall")
