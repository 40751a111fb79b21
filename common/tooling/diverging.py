"""Members' predictions compared at the same states, as FlowBlending does, and a plot of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from baton.common.arm import Arm
from baton.common.diffusion.course import Course
from baton.common.diffusion.run import Run
from baton.common.diffusion.samplers import vp_form
from baton.common.errors import executing
from baton.common.expansion import Terms as ArmTerms
from baton.common.expansion import expand
from baton.common.families.loaded import LoadedFamily
from baton.common.latents.state import NoiseLevel
from baton.common.plan import Guidance, Plan
from baton.common.tooling.divergence import Contender, Cuts, DivergenceTerms, propose_cuts
from baton.common.tooling.drawing import Pictures
from baton.common.tooling.lines import Line, line_plot
from baton.common.tooling.places import Place, write

Distances = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Divergence:
    """What was measured.

    levels: ``b / a`` before each step of the reference. distances: of each contender at each of
    them [contenders, steps], ``||x0 - x0_ref|| / ||x0_ref||``, mean over pictures; NaN at levels
    that it does not know.
    """

    terms: DivergenceTerms
    levels: tuple[float, ...]
    distances: Distances
    fingerprints: dict[str, str]

    def told(self, index: int) -> list[float | None]:
        """A contender's distances as they are written."""
        row = self.distances[index].tolist()
        return [None if math.isnan(value) else float(f"{value:.6g}") for value in row]

    @property
    def cuts(self) -> list[Cuts]:
        """By contender."""
        count, tolerance = len(self.terms.contenders), self.terms.tolerance
        return [propose_cuts(self.levels, self.told(index), tolerance) for index in range(count)]

    def describe(self) -> dict[str, Any]:
        """For programs, without the prompts; a level without any signal is null."""
        terms, plan = self.terms, self.terms.plan
        return {
            "family": plan.family,
            "reference": terms.reference,
            "fingerprints": self.fingerprints,
            "sampler": plan.samplers[0],
            "steps": plan.steps,
            "guidance": plan.segments[0].guidance.scale,
            "pictures": len(terms.prompts),
            "seed": terms.seed,
            "tolerance": terms.tolerance,
            "levels": [_finite(level) for level in self.levels],
            "members": [
                _described(one, self.told(index), cuts)
                for index, (one, cuts) in enumerate(zip(terms.contenders, self.cuts, strict=True))
            ],
        }

    def write(self, place: Place) -> dict[str, Any]:
        """Write the JSON file and the plot beside it; returns what the file holds.

        Raises InvalidRequest if they cannot be written.
        """
        return write(place, self.describe(), self._plot)

    def _plot(self, path: Path) -> None:
        terms, plan = self.terms, self.terms.plan
        title = (
            f"{plan.family}: predictions of x0 beside {terms.reference}'s, {plan.samplers[0]},"
            f" {plan.steps} steps, mean over {len(terms.prompts)} pictures"
        )
        lines = [
            Line(one.name, tuple(self.told(index)), (cuts.takes_over, cuts.begins), one.alone)
            for index, (one, cuts) in enumerate(zip(terms.contenders, self.cuts, strict=True))
        ]
        line_plot(path, self.levels, lines, title, terms.tolerance)


def _described(one: Contender, distances: list[float | None], cuts: Cuts) -> dict[str, Any]:
    told = {name: _finite(level) for name, level in asdict(cuts).items()}
    return {
        "member": one.member,
        "branches": "both" if one.guidance.two_branches else "positive",
        "distances": distances,
        **told,
    }


def _finite(level: float | None) -> float | None:
    return None if level is None or math.isinf(level) else float(f"{level:.4g}")


def diverged(
    family: LoadedFamily, terms: DivergenceTerms, on_step: Callable[[int], None]
) -> Divergence:
    """Draw the reference's trajectories, and let every contender predict on the way.

    on_step: called with the pictures of each model call, ``terms.calls`` in all at most. Raises
    ExecutionFailed.
    """
    course = family.course(terms.plan)
    pictures = Pictures(family, terms.prompts, terms.seed, on_step)
    with executing("measuring"):
        sums = sum(
            _compared(pictures, terms, course, chosen)
            for chosen in pictures.batches(0, len(pictures))
        )
    fingerprints = {member: family.member_fingerprints[member] for member in terms.members}
    return Divergence(terms, course.ratios, np.asarray(sums) / len(pictures), fingerprints)


def _compared(
    pictures: Pictures, terms: DivergenceTerms, course: Course, chosen: range
) -> Distances:
    """Sums of the distances over a batch, [contenders, steps]."""
    runs = pictures.begin(terms.plan.closed(), course, chosen)
    sums = np.full((len(terms.contenders), course.steps), np.nan)
    reference = terms.plan.segments[0].guidance
    for step in range(course.steps):
        aim = _predicted(pictures, runs, chosen, (terms.reference, reference))
        for index, one in enumerate(terms.contenders):
            if one.part.knows(course.ratios[step]):
                x0 = _predicted(pictures, runs, chosen, (one.member, one.guidance))
                sums[index, step] = _distances(x0, aim).sum().item()
        pictures.step(runs, chosen)
    return sums


def _predicted(
    pictures: Pictures, runs: Sequence[Run], chosen: range, by: tuple[str, Guidance]
) -> Tensor:
    """The x0 [n, C, H, W] that a member predicts at the states of runs.

    It is where DDIM's step from the state's level to none leads.
    """
    course, step = runs[0].course, runs[0].step
    plan = _one_step(pictures.family.name, *by)
    schedule, index = course.at(step)
    straight = replace(
        schedule,
        sampler="ddim",
        timesteps=(schedule.timesteps[index],),
        levels=(vp_form(course.levels[step]), NoiseLevel(1.0, 0.0)),
        initial_scale=1.0,
    )
    to_none = Course((straight,))
    probes = [Run(plan, to_none, None, run.x * course.to_vp[step], run.prior) for run in runs]
    pictures.step(probes, chosen)
    return torch.stack([probe.x for probe in probes])


def _one_step(family: str, member: str, guidance: Guidance) -> Plan:
    return expand(Arm.device(member), ArmTerms(family, "ddim", 1, guidance)).closed()


def _distances(x0: Tensor, aim: Tensor) -> Tensor:
    """Relative L2 distance by picture [n], float64."""
    return _norms(x0 - aim) / _norms(aim)


def _norms(rows: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows.flatten(1).double(), dim=1)
    return norms
