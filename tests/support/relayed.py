"""Pictures of any plan over real edges: what a plan says by hand, and an edge lost on its way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from baton.common.arm import Arm
from baton.common.diffusion.blocks import ModelInputs
from baton.common.diffusion.conditioning import stacked
from baton.common.diffusion.run import prior_noise
from baton.common.diffusion.samplers import SamplerHistory, rescale, vp_form
from baton.common.expansion import Terms, expand
from baton.common.families.loaded import LoadedFamily
from baton.common.limits import Location, SamplerName
from baton.common.plan import Grid, Guidance, OpenPlan, OpenSegment
from baton.common.record import plan_that_ran
from baton.common.request import Task
from baton.device_client import Result, replay
from baton.device_client.events import EdgeLost, Event, Finished, Stepped
from baton.device_client.png import read_png
from baton.device_client.sdk import AsyncClient
from tests.support.engines import Gate
from tests.support.families import NAME
from tests.support.nodes import Edge, check_executed
from tests.support.tasks import PROMPTS

PROMPT = PROMPTS[3]
GUIDANCE = 3.0

#: Place, member, the step at which it ends, and the level at which its grid ends there, if it does.
Ran = tuple[Location, str, int, float | None]


@dataclass(frozen=True)
class Meant:
    """What an arm means in so many steps; None: as many as it says itself."""

    steps: int | None
    ran: tuple[Ran, ...]

    @property
    def options(self) -> dict[str, int]:
        return {} if self.steps is None else {"steps": self.steps}

    def plan(self, sampler: SamplerName = "ddim") -> OpenPlan:
        return plan_of(sampler, self.ran)


def plan_of(sampler: SamplerName, ran: Sequence[Ran]) -> OpenPlan:
    """Written out stretch by stretch: those up to a level share the grid that ends there."""
    segments: list[OpenSegment] = []
    first = 0
    for index, (location, member, stop, _) in enumerate(ran):
        end, until = next((s, level) for _, _, s, level in ran[index:] if level or s == ran[-1][2])
        start = segments[-1].stop if segments else 0
        grid = Grid(sampler, first, end, until)
        segments.append(OpenSegment(member, location, start, stop, grid, Guidance(GUIDANCE)))
        first = stop if stop == end else first
    return OpenPlan(NAME, tuple(segments))


def by_hand(family: LoadedFamily, of: Task) -> npt.NDArray[np.uint8]:
    """The task's picture, all its steps on this device: nothing but levels, models and sampler."""
    plan, course = of.plan.closed(), family.course(of.plan)
    texts = family.encode_text(of.prompt, of.negative_prompt)
    x = prior_noise(of.seed, family.latent_shape(of.size)) * course.initial_scale
    history: SamplerHistory | None = None
    with torch.inference_mode():
        for step in range(plan.steps):
            level, segment = course.levels[step], plan.segment_at(step)
            branches = plan.branches_at(step)
            rows = [rescale(x, level, vp_form(level)) for _ in branches]
            timesteps = torch.tensor([course.timesteps[step] for _ in branches])
            conditioning = stacked([texts.row(branch) for branch in branches])
            inputs = ModelInputs(torch.stack(rows), timesteps, conditioning)
            out, *negative = family.denoiser(segment.member)(inputs)
            if negative:
                out = negative[0] + segment.guidance.scale * (out - negative[0])
            x, history = course.advance(x, out, step, history)
    return family.decode(x)


def means(family: LoadedFamily, arm: str, plan: OpenPlan) -> bool:
    """Whether the arm draws over the same grids, each step at the same place on the same member."""
    guidance = plan.segments[0].guidance
    terms = Terms(
        NAME,
        plan.samplers[0],
        plan.steps,
        guidance,
        named=family.spec.named_grids,
        ratios=family.ratios,
    )
    meant = expand(Arm.parse(arm), terms)
    return (steps_of(meant), meant.grids) == (steps_of(plan), plan.grids)


def steps_of(plan: OpenPlan) -> list[tuple[str, str]]:
    return [(s.location, s.member) for s in plan.segments for _ in range(s.start, s.stop)]


def check_kept(family: LoadedFamily, result: Result, folder: Path) -> None:
    """Saved and read back it is the same, and so it is drawn again."""
    path = result.save(folder / "a.png")
    found = read_png(path).provenance
    ran = plan_that_ran(result.task.plan, result.executed)
    assert found == replace(result.provenance, task=replace(result.task, plan=ran))
    assert ran.grids == result.task.plan.grids
    check_executed(found.executed, result.task.plan)
    assert means(family, result.arm_executed, found.task.plan)
    again = replay(path, family)
    assert again.verdict == "identical", again.difference
    np.testing.assert_array_equal(again.picture, result.picture)


@dataclass
class Doomed:
    """An edge that does a step whenever its client has seen the one before, until it is cut off.

    told: every event of the picture.
    """

    node: Edge
    gate: Gate
    seen_last: int
    options: dict[str, Any] = field(default_factory=dict)
    told: list[Event] = field(default_factory=list)

    async def draw(self, client: AsyncClient, *others: str) -> Result:
        edges, lost = ",".join([self.node.address, *others]), False
        self.gate.allow(1)
        async for event in client.stream(PROMPT, edge=edges, seed=1, **self.options):
            self.told.append(event)
            if isinstance(event, Finished):
                return event.result
            if isinstance(event, Stepped) and event.location == "edge" and not lost:
                lost = event.step == self.seen_last
                self.node.cable.cut() if lost else self.gate.allow(1)
        raise AssertionError("no result")


def check_steps_told(events: Sequence[Event], result: Result) -> None:
    """Rising to the last one, each as it ran; anew only from where an edge was lost.

    An edge tells the newest, whoever draws here tells every one.
    """
    done, told = 0, dict[int, tuple[Location, str]]()
    for event in events:
        if isinstance(event, EdgeLost):
            done = event.resume_step
        elif isinstance(event, Stepped):
            assert done < event.step <= event.steps == result.task.plan.steps
            told[event.step - 1], done = (event.location, event.member), event.step
    assert done == result.task.plan.steps
    ran = {step.step: (step.location, step.member) for step in result.executed}
    assert told.items() <= ran.items()
    here = {step for step, (place, _) in ran.items() if place == "device"}
    assert here <= told.keys()
