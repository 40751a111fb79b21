"""The configurations that the relay's curve compares: named plans."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from baton.common.families.manifest import Manifest
from baton.common.limits import SAMPLERS, Location, SamplerName
from baton.common.plan import OpenPlan
from tests.support.tasks import plan_in

Kind = Literal[
    "alone",
    "large>small",
    "large>medium",
    "large>medium>small",
    "small>large",
    "fewer steps",
    "foreign",
]
RELAYS: tuple[Kind, ...] = ("large>small", "large>medium", "large>medium>small", "small>large")
MEMBERS = ("large", "medium", "small")
FOREIGN = "foreign"


@dataclass(frozen=True)
class Config:
    """A plan with its place in the comparison."""

    name: str
    kind: Kind
    plan: OpenPlan

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(segment.member for segment in self.plan.segments)

    @property
    def sampler(self) -> SamplerName:
        """The same at every step."""
        (sampler,) = self.plan.samplers
        return sampler

    @property
    def cuts(self) -> tuple[int, ...]:
        """The steps before which the latent is handed over."""
        return tuple(segment.start for segment in self.plan.segments[1:])


@dataclass(frozen=True)
class Grid:
    """steps: of the relays; tenths: where they are cut; fewer: step counts of the alternatives.

    trial: those of them at which a member's best sampler is found.
    """

    steps: int = 50
    tenths: tuple[int, ...] = tuple(range(1, 10))
    fewer: tuple[int, ...] = (5, 8, 10, 15, 20, 30)
    trial: tuple[int, ...] = (10, 20)


@dataclass(frozen=True)
class Configs:
    """Builds the configurations of a grid for one family; all of them guided."""

    manifest: Manifest
    grid: Grid

    def alone(self) -> list[Config]:
        """Each member at the full number of steps, DDIM."""
        return [self._config("alone", (member,), ()) for member in MEMBERS]

    def relays(self) -> list[Config]:
        return [
            self._config(kind, tuple(kind.split(">")), cuts)
            for kind in RELAYS
            for cuts in self._cuts(kind.count(">"))
        ]

    def foreign(self) -> list[Config]:
        """The control: `large` handing over to a member of another family, and that one alone."""
        cuts = [(FOREIGN,), *(("large", FOREIGN) for _ in self.grid.tenths)]
        at = [(), *self._cuts(1)]
        return [
            self._config("foreign", members, cut) for members, cut in zip(cuts, at, strict=True)
        ]

    def trials(self) -> list[Config]:
        """Every member with every sampler, at the trial's numbers of steps."""
        return [
            self._shorter(member, sampler, steps)
            for member in MEMBERS
            for sampler in SAMPLERS
            for steps in self.grid.trial
        ]

    def fewer(self, samplers: Mapping[str, SamplerName]) -> list[Config]:
        """What a user has without Baton: one member, fewer steps, the sampler named for it."""
        return [
            self._shorter(member, samplers[member], steps)
            for member in MEMBERS
            for steps in self.grid.fewer
        ]

    def _cuts(self, count: int) -> Iterator[tuple[int, ...]]:
        steps = [tenth * self.grid.steps // 10 for tenth in self.grid.tenths]
        if count == 1:
            return ((step,) for step in steps)
        return ((first, second) for first in steps for second in steps if first < second)

    def _config(self, kind: Kind, members: tuple[str, ...], cuts: tuple[int, ...]) -> Config:
        bounds = (0, *cuts, self.grid.steps)
        stretches = zip(members, pairwise(bounds), strict=True)
        places = [(member, _location(member, members), *stretch) for member, stretch in stretches]
        at = ",".join(f"{cut / self.grid.steps:.1f}" for cut in cuts)
        name = ">".join(members) + (f"@{at}" if at else f" {self.grid.steps}")
        return Config(name, kind, self._plan("ddim", *places))

    def _shorter(self, member: str, sampler: SamplerName, steps: int) -> Config:
        plan = self._plan(sampler, (member, _location(member, (member,)), 0, steps))
        return Config(f"{member} {steps} {sampler}", "fewer steps", plan)

    def _plan(self, sampler: SamplerName, *places: tuple[Any, ...]) -> OpenPlan:
        return plan_in(self.manifest.name, sampler, self.manifest.default_guidance, *places)


def _location(member: str, members: tuple[str, ...]) -> Location:
    """`large` runs on the edge, `medium` too where `small` follows, all else on the device."""
    if member == "large" or (member == "medium" and members[-1] == "small"):
        return "edge"
    return "device"
