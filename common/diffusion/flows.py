"""Which blocks of a segment's steps run, and what they leave for later ones, by branch.

A branch of guidance goes through the steps at which it runs, and through no others: what it holds
is valid until it runs again, however many steps leave it out in between.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from baton.common.diffusion.blocks import BlockGraph, Blocks, BlockSchedule
from baton.common.errors import InvalidRequest
from baton.common.limits import BOTH, Branch
from baton.common.plan import Segment, StepDirective


@dataclass(frozen=True)
class Flow:
    """The steps of a segment at which a branch runs, and the rectified mask over them."""

    graph: BlockGraph
    mask: Mapping[int, Blocks]
    schedule: BlockSchedule

    @cached_property
    def _places(self) -> dict[int, int]:
        return {step: place for place, step in enumerate(self.mask)}

    @cached_property
    def _steps(self) -> list[int]:
        return list(self.mask)

    def run(self, step: int, have: Blocks | None) -> Blocks:
        """The blocks that run at a step for a branch that holds these; all where it holds nothing.

        What they read and the branch does not hold runs, too.
        """
        if have is None:
            return self.graph.all
        return completed(self.graph, self.planned(step), have)

    def planned(self, step: int) -> Blocks:
        """The blocks that run at a step of a branch that holds what the mask takes for granted."""
        return self.schedule.run[self._places[step]]

    def held(self, step: int) -> Blocks:
        """The blocks whose outputs are read after it, whether or not it is a step of the branch."""
        passed = bisect_right(self._steps, step)
        return self.schedule.held[passed - 1] if passed else 0


def flows_of(graph: BlockGraph, segment: Segment, recorded: bool = False) -> dict[Branch, Flow]:
    """What the blocks of a segment's steps mean, by branch.

    recorded: they are those that ran, so they run to the letter. Raises InvalidRequest for blocks
    that the member lacks.
    """
    masks = {branch: _mask(graph, segment, branch) for branch in BOTH}
    if max(bits for mask in masks.values() for bits in mask.values()) > graph.all:
        raise InvalidRequest(f"member {segment.member} has only {len(graph)} blocks")
    schedule = graph.to_the_letter if recorded else graph.schedule
    return {
        branch: Flow(graph, mask, schedule(list(mask.values()))) for branch, mask in masks.items()
    }


def _mask(graph: BlockGraph, segment: Segment, branch: Branch) -> dict[int, Blocks]:
    pairs = enumerate(segment.directives, segment.start)
    return {
        step: graph.all if (bits := blocks_of(directive, branch)) is None else bits
        for step, directive in pairs
        if branch in segment.branches(directive)
    }


def blocks_of(directive: StepDirective, branch: Branch) -> Blocks | None:
    """The bits that a directive names for a branch."""
    own = directive.negative_blocks
    return directive.blocks if branch == "positive" or own is None else own


def completed(graph: BlockGraph, run: Blocks, held: Blocks) -> Blocks:
    """The blocks of a step, with those that they read and that are neither run nor held."""
    for index in reversed(range(len(graph))):
        if run >> index & 1:
            for source in graph.blocks[index].inputs:
                if not (run | held) >> source & 1:
                    run |= 1 << source
    return run
