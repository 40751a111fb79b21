"""Steps that leave guidance out under a budget: as a loop by hand has them, and as a replay has.

Whatever makes a run's steps cheaper beside, wherever they fall, alone and among others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from baton.common.accel.propagation import propagated
from baton.common.diffusion.blocks import Block, BlockGraph, ModelInputs
from baton.common.diffusion.conditioning import stacked
from baton.common.diffusion.denoiser import Denoiser
from baton.common.diffusion.executor import denoise, evaluate
from baton.common.diffusion.run import Run
from baton.common.diffusion.samplers import vp_form
from baton.common.families.loaded import LoadedFamily
from baton.common.families.local import begin, encode
from baton.common.guidance import GuidanceBudget
from baton.common.limits import BOTH, BRANCHES, SAMPLERS, Branch, Branches, SamplerName
from baton.common.plan import OpenPlan, StepDirective
from baton.common.record import ExecutedStep, check_record
from baton.common.request import Task
from baton.common.rpc.convert import executed_from_proto, executed_to_proto
from baton.device_client.provenance import read_chunk
from baton.device_client.replaying import replay_provenance
from tests.support.by_hand import rescaled, step_on
from tests.support.graphs import cheaper, random_mask, with_directives
from tests.support.light import LightFamily, light_scenes, real_scenes
from tests.support.masked_runs import shipped
from tests.support.replays import Undecoded, record
from tests.support.tasks import PROMPTS, plan

MEMBER, STEPS = "small", 10

budgets = st.builds(
    GuidanceBudget,
    st.sampled_from([0.0, 0.3, 0.6]),
    st.integers(0, 3),
    st.sampled_from(BRANCHES[1:]),
)


@st.composite
def plans(draw: st.DrawFn, member: str = MEMBER) -> OpenPlan:
    """Plain, masked at random or propagated; of all branches, or with some that it leaves out."""
    sampler: SamplerName = draw(st.sampled_from(SAMPLERS))
    base = replace(plan(f"device/{member}", STEPS, sampler, 3.0), family="scenes")
    own = draw(st.none() | st.tuples(*[st.sampled_from(BRANCHES)] * STEPS))
    if own is not None:
        told = tuple(map(StepDirective, own))
        base = replace(base, segments=(replace(base.segments[0], directives=told),))
    graph = light_scenes().blocks(member)
    return cheaper(draw, graph, base)


def task(of: OpenPlan, at: int = 0) -> Task:
    return Task(PROMPTS[at], "", of, at, light_scenes().spec.default_size)


def advance(
    family: LoadedFamily, runs: Sequence[Run], lean: Sequence[GuidanceBudget | None]
) -> list[list[ExecutedStep]]:
    """One call; those with a budget leave out what it lets them."""
    denoiser, parts = family.denoiser(runs[0].member), []
    for run, budget in zip(runs, lean, strict=True):
        work = None if budget is None else run.lean_work(denoiser.graph, budget, 0.0)
        parts.append((run, work or run.work(denoiser.graph)))
    taken = denoise(parts, denoiser)
    assert all(run.error is None for run in runs)
    for (_, work), steps in zip(parts, taken, strict=True):
        assert [step.branches for step in steps] == list(work.guidance)
    return taken


def replayed(
    family: LoadedFamily,
    of: Task,
    executed: Sequence[ExecutedStep],
    transfers: tuple[int, ...] = (),
) -> bytes:
    """The latent's bytes, drawn again from what came over the wire and lies in a PNG."""
    assert executed_from_proto(executed_to_proto(executed)) == list(executed)
    check_record(executed, transfers)
    made = replace(record(family, of, tuple(executed)), transfers=transfers)
    return replay_provenance(family, read_chunk(made.chunk())).tobytes()


def by_hand(family: LoadedFamily, run: Run, executed: Sequence[ExecutedStep]) -> Tensor:
    """The last latent of a run that has not begun, of the steps told: a loop over steps and blocks.

    What a branch does not run it has from when it ran it last; steps decoded ahead read the time of
    their own, as all others do.
    """
    x, history, held = run.x, run.history, None
    graph, scale = family.denoiser(run.member).graph, run.segment.guidance.scale
    assert graph is not None
    newest: dict[Branch, dict[int, Tensor]] = {branch: {} for branch in BOTH}
    for told in executed:
        level = run.course.levels[told.step]
        vp = vp_form(level)
        if told.prior_noise:
            x = x + rescaled(run.prior * told.prior_noise, vp, level)
        named = {"positive": told.blocks}
        if told.branches == "both":
            other = told.negative_blocks
            named["negative"] = told.blocks if other is None else other
        out = {}
        for branch, bits in named.items():
            latent, time = rescaled(x, level, vp)[None], run.course.timesteps[told.step]
            context = stacked([run.encoded.row(branch)])
            inputs, values = ModelInputs(latent, torch.tensor([time]), context), newest[branch]
            for index, block in enumerate(graph.blocks):
                if bits is None or bits >> index & 1:
                    values[index] = block.run([values[source] for source in block.inputs], inputs)
            out[branch] = values[len(graph) - 1][0]
        guided = out["positive"]
        if told.branches == "both":
            guided = out["negative"] + scale * (out["positive"] - out["negative"])
            held = guided - out["positive"]
        elif told.branches == "reuse":
            assert held is not None
            guided = out["positive"] + held
        x, history = step_on(x, guided, run.course, told.step, history)
    return x


@settings(max_examples=20)
@given(plans(), budgets, st.sampled_from([0, 3]), st.sampled_from([2, 7, 16]), st.data())
def test_lean_steps_are_those_of_a_loop_by_hand_and_are_replayed_bit_for_bit(
    of: OpenPlan, budget: GuidanceBudget, pause_every: int, most_rows: int, data: st.DataObject
) -> None:
    family, executed = light_scenes(), list[ExecutedStep]()
    run = begin(family, task(of))
    run.pause_every, run.most_rows = pause_every, most_rows
    while run.step < STEPS:
        (taken,) = advance(family, [run], [data.draw(st.sampled_from([None, budget]))])
        executed += taken
    assert torch.equal(run.x, by_hand(family, begin(family, task(of)), executed))
    assert replayed(family, task(of), executed) == run.x.numpy().tobytes()


@settings(max_examples=60)
@given(plans(), budgets, st.sampled_from([0.0, 0.0, 0.25, 0.7]))
def test_guidance_is_left_out_where_budget_and_caller_let_it_and_only_there(
    of: OpenPlan, budget: GuidanceBudget, after: float
) -> None:
    family = light_scenes()
    run, graph = begin(family, task(of)), family.blocks(MEMBER)
    directives, in_a_row = of.segments[0].directives, 0
    while run.step < STEPS:
        work, full = run.lean_work(graph, budget, after), run.work(graph)
        if work is None:
            work = full
        else:
            assert work.rows < run.work(graph, work.steps).rows
        for step, of_step in enumerate(work.guidance, work.step):
            asked = directives[step].branches
            may = step / STEPS >= max(after, budget.after) and step and in_a_row < budget.in_a_row
            if asked == "both":
                lean = may and not directives[step].ahead
                assert of_step == (budget.branches if lean else "both")
            elif not (asked == "reuse" and of_step == "both"):
                assert of_step == asked
            in_a_row = 0 if of_step == "both" else in_a_row + 1
        denoise([(run, work)], family.denoiser(MEMBER))
        assert run.lean_in_a_row == in_a_row


@settings(max_examples=10)
@given(st.lists(st.tuples(plans(), st.none() | budgets), min_size=2, max_size=4), st.data())
def test_among_neighbours_each_comes_out_as_alone_and_is_replayed_bit_for_bit(
    asked: list[tuple[OpenPlan, GuidanceBudget | None]], data: st.DataObject
) -> None:
    family = light_scenes()
    tasks = [task(of, at) for at, (of, _) in enumerate(asked)]
    runs = [begin(family, of) for of in tasks]
    executed: list[list[ExecutedStep]] = [[] for _ in runs]
    while going := [i for i, run in enumerate(runs) if run.step < STEPS]:
        some = sorted(data.draw(st.sets(st.sampled_from(going), min_size=1)))
        taken = advance(family, [runs[i] for i in some], [asked[i][1] for i in some])
        for i, steps in zip(some, taken, strict=True):
            executed[i] += steps
        for of, run in zip(tasks, runs, strict=True):
            kept = sum(tensor.nbytes for tensor in run.cached)
            assert kept <= family.cache_bytes(run.plan, of.size)
    for of, run, steps in zip(tasks, runs, executed, strict=True):
        assert torch.equal(run.x, by_hand(family, begin(family, of), steps))
        assert replayed(family, of, steps) == run.x.numpy().tobytes()


@settings(max_examples=10)
@given(plans(), budgets, st.integers(1, STEPS - 1))
def test_whoever_takes_over_begins_with_both_branches_and_is_replayed_bit_for_bit(
    of: OpenPlan, budget: GuidanceBudget, cut: int
) -> None:
    family, executed = light_scenes(), list[ExecutedStep]()
    first = begin(family, task(of))
    first.pause_every = cut
    while first.step < cut:
        executed += advance(family, [first], [budget])[0]
    second = begin(family, task(of), shipped(first))
    while second.step < STEPS:
        executed += advance(family, [second], [budget])[0]
    asked = of.segments[0].directives[cut].branches
    assert executed[cut].branches == ("positive" if asked == "positive" else "both")
    assert replayed(family, task(of), executed, (cut,)) == second.x.numpy().tobytes()


def in_step(
    family: LoadedFamily, of: OpenPlan, lean: Sequence[GuidanceBudget | None]
) -> tuple[list[Run], list[list[ExecutedStep]]]:
    """As many requests of one plan, all in every call."""
    runs = [begin(family, task(of, at)) for at in range(len(lean))]
    executed = [list[ExecutedStep]() for _ in lean]
    while runs[0].step < of.steps:
        for at, steps in enumerate(advance(family, runs, lean)):
            executed[at] += steps
    return runs, executed


BUDGETS = [None, GuidanceBudget(0.0, 1, "reuse"), GuidanceBudget(0.3, 2, "positive")]


class Counted(LightFamily):
    """ran: blocks in the order in which they ran, with the rows: one alone may be for a profile."""

    def __init__(self) -> None:
        super().__init__(real_scenes())
        self.ran: list[tuple[str, int]] = []

    def denoiser(self, member: str) -> Denoiser:
        light = super().denoiser(member)
        assert light.graph is not None
        light.graph = BlockGraph(tuple(map(self._counted, light_scenes().blocks(member).blocks)))
        return light

    def _counted(self, block: Block) -> Block:
        def run(ins: Sequence[Tensor], inputs: ModelInputs) -> Tensor:
            if len(inputs.sample) > 1:
                self.ran.append((block.name, len(inputs.sample)))
            return block.run(ins, inputs)

        return replace(block, run=run)


@pytest.mark.parametrize("seed", range(4))
def test_a_replay_runs_every_block_on_as_many_rows_as_it_ran(seed: int) -> None:
    """A row's last bits depend on them, also where nobody reads what the others computed."""
    base = replace(plan(f"device/{MEMBER}", STEPS), family="scenes")
    bits = random_mask(light_scenes().blocks(MEMBER), STEPS, seed, 0.5)
    of, family = with_directives(base, [StepDirective(blocks=each) for each in bits]), Counted()
    _, executed = in_step(family, of, BUDGETS)
    ran = family.ran
    for at, steps in enumerate(executed):
        family.ran = []
        replayed(family, task(of, at), steps)
        assert family.ran == ran


@pytest.mark.parametrize("kind", ["mask", "ahead", "plain"])
def test_the_models_themselves_replay_lean_steps_among_others(kind: str) -> None:
    family, steps = Undecoded(real_scenes()), 8
    graph = family.blocks(MEMBER)
    of = replace(plan(f"device/{MEMBER}", steps, "dpmpp_2m", 3.0), family="scenes")
    if kind == "mask":
        bits = random_mask(graph, steps, 3, 0.5)
        of = with_directives(of, [StepDirective(blocks=each) for each in bits])
    elif kind == "ahead":
        of = with_directives(of, propagated(graph, steps, (0, 3, 4)))
    runs, executed = in_step(family, of, BUDGETS)
    assert {step.branches for ran in executed for step in ran} == set(BRANCHES)
    for at, (run, ran) in enumerate(zip(runs, executed, strict=True)):
        assert replayed(family, task(of, at), ran) == run.x.numpy().tobytes()


@pytest.mark.parametrize("branches", BRANCHES[1:])
def test_the_next_member_reads_nothing_that_the_one_before_left(branches: Branches) -> None:
    """Though the last steps of that one did not run what its guided ones were to read."""
    family, budget = light_scenes(), GuidanceBudget(0.0, STEPS, branches)
    base = replace(plan("device/large@0.5>device/small", STEPS), family="scenes")
    masked = [
        replace(
            segment,
            directives=tuple(
                StepDirective(blocks=bits)
                for bits in random_mask(family.blocks(segment.member), segment.stop, 1)
            )[segment.start :],
        )
        for segment in base.segments
    ]
    of = task(replace(base, segments=tuple(masked)))
    run = begin(family, of)
    while run.step < STEPS // 2:
        advance(family, [run], [budget])
    handed_over = begin(family, of, shipped(run))
    for each in (run, handed_over):
        assert not each.cached
        while each.step < STEPS:
            encode(family, [each])
            advance(family, [each], [budget])
    assert torch.equal(run.x, handed_over.x)


def test_a_call_that_fails_moves_nothing_of_anybody() -> None:
    family = light_scenes()
    of = replace(plan(f"device/{MEMBER}", STEPS), family="scenes")
    runs, _ = [begin(family, task(of, at)) for at in range(2)], None
    advance(family, runs, [None, None])
    advance(family, runs, [None, GuidanceBudget(0.0, 2)])
    before = [replace(run) for run in runs]
    denoiser = family.denoiser(MEMBER)
    parts = [(run, run.work(denoiser.graph)) for run in runs]
    evaluate(parts, denoiser)
    assert runs == before
    for run, was in zip(runs, before, strict=True):
        assert run.difference is was.difference
    lean = runs[1].lean_work(denoiser.graph, GuidanceBudget(0.0, 2), 0.0)
    assert lean is not None
    runs[1].difference, was_lean = None, runs[1].lean_in_a_row
    with pytest.raises(RuntimeError, match="difference"):
        denoise([(runs[0], runs[0].work(denoiser.graph)), (runs[1], lean)], denoiser)
    assert [run.step for run in runs] == [2, 2]
    assert (runs[0].difference is before[0].difference, runs[1].lean_in_a_row) == (True, was_lean)
