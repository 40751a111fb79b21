"""Writes a plan's columns for the members of one family: what ``accel`` means on this node."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from baton.common.accel.masks import MaskKey, load_mask, mask_path
from baton.common.accel.propagation import Propagation, propagated
from baton.common.diffusion.blocks import BlockGraph
from baton.common.errors import InvalidRequest
from baton.common.plan import Accel, Plan, SamplerName, Segment, StepDirective

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
    """Expands ``Plan.accel`` for the segments whose members are loaded here."""

    def __init__(self, family: str, members: Mapping[str, AcceleratedMember]) -> None:
        self._family = family
        self._members = members
        self._columns = lru_cache(maxsize=128)(self._make_columns)

    def of(self, member: str) -> AcceleratedMember:
        """Raises KeyError for a member that is not loaded."""
        return self._members[member]

    def expand(self, plan: Plan) -> Plan:
        """The plan with ``blocks``, ``ahead`` and ``prior_noise`` where it leaves them open.

        Raises InvalidRequest for blocks that a member lacks, Incompatible or WeightsError for a
        mask file that is not what its name says.
        """
        return replace(plan, segments=tuple(self._expand(plan, item) for item in plan.segments))

    def notes(self, plan: Plan, members: Collection[str]) -> tuple[str, ...]:
        """What these members cannot do as ``accel`` has it, a line each. Raises as `expand`."""
        notes: dict[str, None] = {}
        known = set(members) & self._members.keys() if plan.accel != "none" else set()
        for segment in plan.segments:
            if segment.member in known:
                notes[self._of(plan, segment)[1]] = None
        return tuple(note for note in notes if note)

    def _expand(self, plan: Plan, segment: Segment) -> Segment:
        if segment.member not in self._members:
            return segment
        named = [item.blocks for item in segment.directives if item.blocks is not None]
        if named:
            graph = self._members[segment.member].graph
            if graph is None or max(named) > graph.all:
                raise InvalidRequest(f"the plan names blocks that {segment.member} does not have")
            return segment
        if plan.accel == "none":
            return segment
        columns = self._of(plan, segment)[0][segment.start : segment.stop]
        pairs = zip(columns, segment.directives, strict=True)
        directives = tuple(replace(column, guided=asked.guided) for column, asked in pairs)
        return replace(segment, directives=directives)

    def _of(self, plan: Plan, segment: Segment) -> tuple[StepDirectives, str]:
        return self._columns(segment.member, plan.accel, plan.sampler, plan.steps)

    def _make_columns(
        self, name: str, accel: Accel, sampler: SamplerName, steps: int
    ) -> tuple[StepDirectives, str]:
        """One directive per step of the whole trajectory, and a note or an empty one."""
        member = self._members[name]
        if member.graph is None:
            return (StepDirective(),) * steps, f"{name} runs in full: its blocks are not known"
        spread = member.propagation.directives(member.graph, steps)
        if accel == "propagate":
            return spread, ""
        path = mask_path(member.masks, sampler, steps, propagated=accel == "full")
        if not path.exists():
            within = " within encoder propagation" if accel == "full" else ""
            return spread, (
                f"{name} has no block mask for {sampler} in {steps} steps{within}; its encoder is"
                " propagated instead"
            )
        mask = load_mask(path)
        keys = mask.key.keys or (0,) if accel == "full" else ()
        key = MaskKey(self._family, name, member.fingerprint, sampler, steps, keys)
        mask.check(key, member.graph)
        if not keys:
            return tuple(StepDirective(blocks=bits) for bits in mask.run), ""
        parallel, prior_noise = member.propagation.parallel, member.propagation.prior_noise
        spread = propagated(member.graph, steps, keys, parallel=parallel, prior_noise=prior_noise)
        pairs = zip(spread, mask.run, strict=True)
        return tuple(replace(column, blocks=bits) for column, bits in pairs), ""


def available_masks(folder: Path) -> list[str]:
    """Names such as ``ddim-50``, of the masks that a member has."""
    if not folder.is_dir():
        return []
    paths = (path for path in folder.glob("*.json") if path.is_file())
    return sorted(path.stem for path in paths if not path.name.startswith("."))
