"""One request's denoising in progress."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from baton.common.diffusion.blocks import BlockGraph, Blocks
from baton.common.diffusion.conditioning import Conditioning
from baton.common.diffusion.course import Course
from baton.common.diffusion.flows import Flow, blocks_of, flows_of
from baton.common.diffusion.rows import Slot
from baton.common.diffusion.samplers import SamplerHistory, rescale
from baton.common.diffusion.work import StepWork
from baton.common.errors import ExecutionFailed, Incompatible, InvalidRequest
from baton.common.latents.state import HistoryEntry, LatentState
from baton.common.limits import ALONE, BOTH, DEVICE_NODE, MAX_ROWS, Branch, Location
from baton.common.plan import Plan, Segment, followers

#: Location and node id.
Place = tuple[Location, str]
HERE: Place = ("device", DEVICE_NODE)

#: By block, the output that a branch holds since the step at which it ran last.
BranchCache = dict[int, Slot]


@dataclass
class Run:
    """Advanced by `denoise_step` alone.

    conditioning: of the member of the next step; None until its prompts are encoded. x: native
    latent [C, H, W], float32 on the model's device; prior: the unit noise it started from; step:
    steps done; place: where it runs, for the record; pause_every: no group of steps goes past a
    multiple of it, counted from the first step; most_rows: that a group may take; caches: by
    branch, block outputs of its last step, of no use to anybody else; texts: prompt and negative
    prompt; encoder: that made the conditioning.
    """

    plan: Plan
    course: Course
    conditioning: Conditioning | None
    x: Tensor
    prior: Tensor = field(repr=False)
    step: int = 0
    place: Place = HERE
    history: SamplerHistory | None = None
    pause_every: int = 0
    most_rows: int = MAX_ROWS
    caches: dict[Branch, BranchCache] = field(default_factory=dict, repr=False)
    error: ExecutionFailed | None = field(default=None, repr=False)
    texts: tuple[str, str] = field(default=("", ""), repr=False)
    encoder: Hashable = None
    _flows: tuple[Segment, dict[Branch, Flow]] | None = field(default=None, repr=False)
    _masked: tuple[Segment, bool] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.first = self.step
        grids = [(grid.sampler, grid.steps) for grid in self.plan.grids]
        if [(part.sampler, part.steps) for part in self.course.schedules] != grids:
            raise InvalidRequest("the levels are not those of the plan")
        for segment in self.plan.segments:
            _check_guidance(segment)

    @property
    def segment(self) -> Segment:
        """Of the next step."""
        return self.plan.segment_at(self.step)

    @property
    def member(self) -> str:
        return self.segment.member

    @property
    def branches(self) -> tuple[Branch, ...]:
        """Of the next step."""
        return self.plan.branches_at(self.step)

    @property
    def encoded(self) -> Conditioning:
        """Raises RuntimeError before the prompts are."""
        if self.conditioning is None:
            raise RuntimeError("a run needs its prompts encoded")
        return self.conditioning

    @property
    def group(self) -> Hashable:
        """Equal for runs whose next steps can share a model call."""
        return self.member, tuple(self.x.shape), self.encoded.key

    @property
    def cached(self) -> list[Tensor]:
        """What it keeps between steps, each tensor once."""
        slots = (slot for cache in self.caches.values() for slot in cache.values())
        return list({id(tensor): tensor for tensor, _ in slots}.values())

    def work(self, graph: BlockGraph | None, steps: int | None = None) -> StepWork:
        """The next step, with as many ahead as its plan, its pauses and ``most_rows`` allow.

        steps: so many instead, as they once ran. Raises InvalidRequest for blocks that the member
        lacks, Incompatible for a branch of guidance that it does not take.
        """
        segment, most = self.segment, 1 if steps is None else steps
        masked = self._is_masked(segment)
        if masked and steps is None:  # whatever runs as a whole decodes nothing ahead
            most += followers(segment, self.step, self._left())
        taken = range(self.step, self.step + most)
        branches = tuple(self.plan.branches_at(step) for step in taken)
        self.encoded.check(BOTH if BOTH in branches else ALONE, segment.member)
        blocks: list[tuple[Blocks | None, ...]]
        if masked:
            blocks = self._blocks(self.flows(graph), segment, branches, steps is not None)
        else:
            blocks = [(None,) * len(of) for of in branches]
        made = len(blocks)
        timesteps = self.course.timesteps[self.step : self.step + made]
        work = StepWork(
            self.group, segment.member, self.step, timesteps, branches[:made], tuple(blocks)
        )
        return work if steps is not None else work.within(self.most_rows)

    def _is_masked(self, segment: Segment) -> bool:
        """Asked once of each segment, not of all its steps at each of them."""
        if self._masked is None or self._masked[0] is not segment:
            self._masked = segment, segment.masked
        return self._masked[1]

    def flows(self, graph: BlockGraph | None) -> dict[Branch, Flow]:
        """Of the next step's segment. Raises InvalidRequest for blocks that the member lacks."""
        segment = self.segment
        if graph is None:
            raise InvalidRequest(f"the blocks of {segment.member} cannot be addressed")
        if self._flows is None or self._flows[0] is not segment:
            self._flows = segment, flows_of(graph, segment)
        return self._flows[1]

    def _left(self) -> int:
        """Steps until the next pause, after this one."""
        if not self.pause_every:
            return MAX_ROWS
        return self.pause_every - 1 - (self.step - self.first) % self.pause_every

    def _blocks(
        self,
        flows: dict[Branch, Flow],
        segment: Segment,
        branches: tuple[tuple[Branch, ...], ...],
        all_of_them: bool,
    ) -> list[tuple[Blocks | None, ...]]:
        """By step and branch, what runs; up to a step that would need more than it names.

        A step that is decoded ahead stands beside the latent of the first one, so what reads the
        latent cannot run there.
        """
        have = {branch: _bits(cache) for branch, cache in self.caches.items() if cache}
        found: list[tuple[Blocks | None, ...]] = []
        for step, of in enumerate(branches, self.step):
            directive = segment.directives[step - segment.start]
            run = {branch: flows[branch].run(step, have.get(branch)) for branch in of}
            if found and not all_of_them:
                named = {branch: blocks_of(directive, branch) for branch in of}
                if any(bits & ~(named[branch] or 0) for branch, bits in run.items()):
                    break
            for branch, bits in run.items():
                have[branch] = have.get(branch, 0) | bits
            found.append(tuple(run.values()))
        return found

    def state(self) -> LatentState:
        """The paused request: everything that another node needs to go on."""
        history: tuple[HistoryEntry, ...] = ()
        if self.history is not None:
            history = (HistoryEntry(self.history.level, self.history.x0.cpu().numpy().copy()),)
        return LatentState(
            x=self.x.cpu().numpy().copy(),
            level=self.course.levels[self.step],
            step=self.step,
            steps=self.course.steps,
            sampler=self.course.sampler_at(self.step),
            history=history,
        )


def _bits(cache: BranchCache) -> Blocks:
    return sum(1 << block for block in cache)


def _check_guidance(segment: Segment) -> None:
    """Raises Incompatible for guidance that would be passed over."""
    if segment.guidance.kind == "embedded":
        raise Incompatible(f"guidance as an input, as {segment.member} is to take it, is not known")
    if any(directive.branches == "reuse" for directive in segment.directives):
        raise Incompatible("guidance reused from an earlier step is not known")


def start_run(
    plan: Plan,
    course: Course,
    conditioning: Conditioning | None,
    seed: int,
    shape: tuple[int, int, int],
    place: Place = HERE,
    device: torch.device | str = "cpu",
) -> Run:
    """A run from the seed's noise, the same as a diffusers pipeline with a CPU generator."""
    noise = prior_noise(seed, shape).to(device)
    return Run(plan, course, conditioning, noise * course.initial_scale, noise, 0, place)


def prior_noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    """The unit noise that a picture starts from, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((1, *shape), generator=generator)[0]


def resume_run(
    plan: Plan,
    course: Course,
    conditioning: Conditioning | None,
    state: LatentState,
    seed: int,
    place: Place = HERE,
    device: torch.device | str = "cpu",
) -> Run:
    """A run that goes on from a state, history included; its first step runs in full.

    Raises Incompatible as `resumed`.
    """
    x, history = resumed(state, course)
    noise = prior_noise(seed, tuple(x.shape)).to(device)
    if history is not None:
        history = SamplerHistory(history.level, history.x0.to(device))
    return Run(plan, course, conditioning, x.to(device), noise, state.step, place, history)


def resumed(state: LatentState, course: Course) -> tuple[Tensor, SamplerHistory | None]:
    """The latent of a state at the level of its step, and the sampler's history.

    Raises Incompatible if the state belongs to another sampler, number of steps or noise level, or
    is not finite at that level.
    """
    sampler = course.sampler_at(state.step)
    if state.sampler != sampler or state.steps != course.steps:
        raise Incompatible(
            f"the latent was made by {state.sampler} in {state.steps} steps, the plan asks for"
            f" {sampler} in {course.steps}"
        )
    if not state.level.same_noise(course.levels[state.step]):
        raise Incompatible(f"the latent's noise level is not that of step {state.step}")
    level = course.levels[state.step]
    x = rescale(torch.from_numpy(state.x.copy()), state.level, level)
    if not torch.isfinite(x).all():
        raise Incompatible(f"the latent is not finite at the noise level of step {state.step}")
    return x, _history_of(state, course)


def _history_of(state: LatentState, course: Course) -> SamplerHistory | None:
    if not state.history:
        return None
    newest, level = state.history[-1], course.levels[state.step]
    before = [above for above in course.levels[: state.step] if above.noisier_than(level)]
    if not before or not newest.level.same_noise(before[-1]):
        raise Incompatible(f"the latent's history is not that of step {state.step}")
    return SamplerHistory(newest.level, torch.from_numpy(newest.x0.copy()))
