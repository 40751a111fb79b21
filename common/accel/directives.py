"""Writes a plan's step directives for one family's members: what ``accel`` means on this node."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from baton.common.accel.masks import MaskKey, load_mask, mask_path
from baton.common.accel.propagation import Propagation, propagated
from baton.common.diffusion.blocks import BlockGraph
from baton.common.errors import InvalidRequest
from baton.common.limits import Accel, SamplerName
from baton.common.plan import Grid, OpenPlan, OpenSegment, Plan, Segment, StepDirective

StepDirectives = tuple[StepDirective, ...]


@dataclass(frozen=True)
class AcceleratedMember:
    """A loaded member, as far as its steps can be made cheaper.

    graph: None if its blocks are not known; masks: the folder of its learned masks; fingerprint:
    of the member with its text encoder.
    """

    graph: BlockGraph | None
    propagation: Propagation
    masks: Path
    fingerprint: str


class Accelerator:
    """Expands ``OpenSegment.accel`` for the segments whose members are loaded here."""

    def __init__(
        self,
        family: str,
        members: Mapping[str, AcceleratedMember],
        levels: Callable[[SamplerName, int], str],
    ) -> None:
        """levels: digest of the noise levels of a sampler over a number of steps."""
        self._family = family
        self._levels = levels
        self._members = members
        self._directives = lru_cache(maxsize=128)(self._make_directives)

    def of(self, member: str) -> AcceleratedMember:
        """Raises KeyError for a member that is not loaded."""
        return self._members[member]

    def expand(self, plan: OpenPlan) -> Plan:
        """What runs: ``blocks``, ``ahead`` and ``prior_noise`` where the plan leaves them open.

        Raises InvalidRequest for blocks that a member lacks, Incompatible or WeightsError for a
        mask file that is not what its name says.
        """
        return Plan(plan.family, tuple(self._expand(item) for item in plan.segments))

    def notes(self, plan: OpenPlan, members: Collection[str]) -> tuple[str, ...]:
        """What these members cannot do as ``accel`` has it, a line each. Raises as `expand`."""
        notes: dict[str, None] = {}
        for segment in plan.segments:
            known = segment.member in members and segment.member in self._members
            if known and segment.accel != "none":
                notes[self._of(segment)[1]] = None
        return tuple(note for note in notes if note)

    def _expand(self, segment: OpenSegment) -> Segment:
        if segment.member not in self._members:
            return segment.closed()
        said = (bits for item in segment.directives for bits in (item.blocks, item.negative_blocks))
        named = [bits for bits in said if bits is not None]
        if named:
            graph = self._members[segment.member].graph
            if graph is None or max(named) > graph.all:
                raise InvalidRequest(f"the plan names blocks that {segment.member} does not have")
        if named or segment.accel == "none":
            return segment.closed()
        first = segment.start - segment.grid.start
        found = self._of(segment)[0][first : first + segment.stop - segment.start]
        pairs = zip(found, segment.directives, strict=True)
        return segment.closed([replace(one, branches=asked.branches) for one, asked in pairs])

    def _of(self, segment: OpenSegment) -> tuple[StepDirectives, str]:
        """For every step of the segment's grid: where in it the segment lies is its own matter."""
        return self._directives(segment.member, segment.accel, segment.grid)

    def _make_directives(self, name: str, accel: Accel, grid: Grid) -> tuple[StepDirectives, str]:
        """One directive per step of the grid, and a note or an empty one."""
        member, sampler, steps = self._members[name], grid.sampler, grid.steps
        full = (StepDirective(),) * steps
        if member.graph is None:
            return full, f"{name} runs in full: its blocks are not known"
        if grid.name:  # what is known of plain levels says nothing of others
            return (
                full,
                f"{name} runs in full: nothing is known to be cheaper over grid {grid.name}",
            )
        spread = member.propagation.directives(member.graph, steps)
        if accel == "propagate":
            return spread, ""
        path = mask_path(member.masks, sampler, steps, propagated=accel == "full")
        if not (path.exists() and grid.start == 0 and grid.until is None):
            within = " within encoder propagation" if accel == "full" else ""
            return spread, (
                f"{name} has no block mask for {sampler} in {steps} steps{within}; its encoder is"
                " propagated instead"
            )
        mask = load_mask(path)
        keys = mask.key.keys or (0,) if accel == "full" else ()
        levels = self._levels(sampler, steps)
        key = MaskKey(self._family, name, member.fingerprint, sampler, steps, levels, keys)
        mask.check(key, member.graph)
        if not keys:
            return tuple(StepDirective(blocks=bits) for bits in mask.run), ""
        parallel, prior_noise = member.propagation.parallel, member.propagation.prior_noise
        spread = propagated(member.graph, steps, keys, parallel=parallel, prior_noise=prior_noise)
        pairs = zip(spread, mask.run, strict=True)
        return tuple(replace(one, blocks=bits) for one, bits in pairs), ""
