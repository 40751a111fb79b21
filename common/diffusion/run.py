"""One request's denoising in progress."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
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
from baton.common.guidance import GuidanceBudget
from baton.common.latents.state import HistoryEntry, LatentState
from baton.common.limits import (
    ALONE,
    BOTH,
    DEVICE_NODE,
    MAX_ROWS,
    ROWS_OF,
    Branch,
    Branches,
    Location,
)
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
    multiple of it, counted from the first step; most_rows: that a group may take; recorded: its
    plan is what ran before, so that its blocks run to the letter; texts: prompt and negative
    prompt; encoder: that made the conditioning.

    Of use to nobody else, and left behind at the end of a segment: caches, by branch, block outputs
    of its last step; difference: what guidance added to the conditional branch, float32 [C, H, W],
    at the last step that ran both. lean_in_a_row: steps since then.
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
    recorded: bool = False
    caches: dict[Branch, BranchCache] = field(default_factory=dict, repr=False)
    difference: Tensor | None = field(default=None, repr=False)
    lean_in_a_row: int = 0
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

    @property
    def held(self) -> dict[Branch, Blocks]:
        """The blocks whose outputs it keeps, by branch that keeps any."""
        return {
            branch: sum(1 << block for block in cache)
            for branch, cache in self.caches.items()
            if cache
        }

    def work(self, graph: BlockGraph | None, steps: int | None = None) -> StepWork:
        """The next step, with as many ahead as its plan, its pauses and ``most_rows`` allow.

        steps: so many instead, as they once ran. Raises InvalidRequest for blocks that the member
        lacks, Incompatible for a branch of guidance that it does not take.
        """
        if steps is not None:
            return self._work(graph, self._guidance(steps), all_of_them=True)
        return self._work(graph, self._guidance(self._most)).within(self.most_rows)

    def lean_work(
        self, graph: BlockGraph | None, budget: GuidanceBudget, after: float
    ) -> StepWork | None:
        """`work` with guidance left out where that may be; None where it may be nowhere.

        That is from both shares of the plan's steps on, the budget's and ``after``, at so many
        steps in a row as the budget has, after one that ran both branches here. Steps with which
        others are decoded ahead keep both: these read what they leave. Raises as `work`.
        """
        first = max(after, budget.after)

        def left_out(step: int, lean: int) -> bool:
            return lean < budget.in_a_row and step / self.plan.steps >= first

        full = self._guidance(self._most)
        lean = self._guidance(self._most, lambda *at: budget.branches if left_out(*at) else "both")
        if lean == full:
            return None
        work = self._work(graph, lean).within(self.most_rows)
        return None if work.guidance == full[: work.steps] else work

    @property
    def _most(self) -> int:
        """Steps of a call: whatever runs as a whole decodes nothing ahead."""
        segment = self.segment
        if not self._is_masked(segment):
            return 1
        return 1 + followers(segment, self.step, self._left())

    def _guidance(
        self, steps: int, chosen: Callable[[int, int], Branches] = lambda *_: "both"
    ) -> tuple[Branches, ...]:
        """Of the next steps; what is reused or left out needs a step before that ran both here.

        chosen: what a step of both branches runs that comes after so many lean ones in a row.
        """
        segment, begun = self.segment, self.step - self.segment.start
        if self.step + steps > segment.stop:
            raise InvalidRequest(f"{steps} steps from {self.step} on leave their segment")
        held, lean, found = self.difference is not None, self.lean_in_a_row, list[Branches]()
        for step, directive in enumerate(segment.directives[begun : begun + steps], self.step):
            of = segment.guided(directive)
            if of == "reuse" and not held:
                of = "both"
            elif of == "both" and held and not directive.ahead:
                of = chosen(step, lean)
            held = held or of == "both"
            lean = 0 if of == "both" else lean + 1
            found.append(of)
        return tuple(found)

    def _work(
        self, graph: BlockGraph | None, guidance: tuple[Branches, ...], all_of_them: bool = False
    ) -> StepWork:
        segment = self.segment
        self.encoded.check(BOTH if "both" in guidance else ALONE, segment.member)
        blocks: Sequence[tuple[Blocks | None, ...]]
        if self._is_masked(segment):
            blocks = self._blocks(self.flows(graph), segment, guidance, all_of_them)
        else:
            blocks = [(None,) * len(ROWS_OF[of]) for of in guidance]
        made = len(blocks)
        timesteps = self.course.timesteps[self.step : self.step + made]
        return StepWork(
            self.group, segment.member, self.step, timesteps, guidance[:made], tuple(blocks)
        )

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
            self._flows = segment, flows_of(graph, segment, self.recorded)
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
        guidance: Sequence[Branches],
        all_of_them: bool,
    ) -> list[tuple[Blocks | None, ...]]:
        """By step and branch, what runs; up to a step that would need more than it names.

        A step that is decoded ahead stands beside the latent of the first one, so what reads the
        latent cannot run there.
        """
        have, found = self.held, list[tuple[Blocks | None, ...]]()
        for step, of in enumerate(guidance, self.step):
            directive = segment.directives[step - segment.start]
            run = {branch: flows[branch].run(step, have.get(branch)) for branch in ROWS_OF[of]}
            if found and not all_of_them:
                named = {branch: blocks_of(directive, branch) for branch in run}
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


def _check_guidance(segment: Segment) -> None:
    """Raises Incompatible for guidance that would be passed over."""
    if segment.guidance.kind == "embedded":
        raise Incompatible(f"guidance as an input, as {segment.member} is to take it, is not known")


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
