"""Steps that leave a branch out, wherever they fall: nobody reads what it does not hold.

With every mask that ships, and every propagation, over the blocks of the built-in members.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baton.common.diffusion.blocks import BlockGraph
from baton.common.diffusion.executor import denoise_step
from baton.common.diffusion.run import Run
from baton.common.families.loaded import LoadedFamily
from baton.common.families.local import begin
from baton.common.latents import LatentState
from baton.common.limits import SAMPLERS, Accel, SamplerName
from baton.common.plan import OpenPlan, StepDirective
from baton.common.record import ExecutedStep
from baton.common.request import Task
from baton.common.rpc.convert import executed_from_proto, executed_to_proto
from baton.device_client.provenance import read_chunk
from baton.device_client.replaying import replay_provenance
from tests.support.graphs import cheaper
from tests.support.light import light_scenes, real_scenes
from tests.support.masked_runs import calls_of, finished, relative, shipped
from tests.support.replays import Undecoded, record
from tests.support.tasks import PROMPTS, accelerated, plan, task, with_guidance

MEMBERS = ("large", "medium", "small")
ACCELS: tuple[Accel, ...] = ("propagate", "masks", "full")


@dataclass(frozen=True)
class Asked:
    """What is drawn, and how an edge would cut its steps into calls."""

    plan: OpenPlan
    guided: tuple[bool, ...]
    pause_every: int
    most_rows: int

    @property
    def task(self) -> Task:
        """Of the built-in family."""
        of = with_guidance(self.plan, self.guided)
        return Task(PROMPTS[0], "", of, 0, light_scenes().spec.default_size)

    @property
    def unskipped(self) -> Asked:
        return replace(self, guided=(True,) * len(self.guided))

    def run(self, family: LoadedFamily, state: LatentState | None = None) -> Run:
        run = begin(family, self.task, state)
        run.pause_every, run.most_rows = self.pause_every, self.most_rows
        return run


def patterns(steps: int) -> st.SearchStrategy[tuple[bool, ...]]:
    """Single skips, and any; True: guided."""
    single = st.integers(0, steps - 1).map(lambda at: tuple(i != at for i in range(steps)))
    return single | st.tuples(*[st.booleans()] * steps)


@st.composite
def asked(draw: st.DrawFn) -> Asked:
    member, accel = draw(st.sampled_from(MEMBERS)), draw(st.sampled_from(ACCELS))
    steps = draw(st.sampled_from([20, 20, 50]))
    of = accelerated(replace(plan(f"device/{member}", steps), family="scenes"), accel)
    pauses, rows = st.sampled_from([0, 3, 5]), st.sampled_from([2, 7, 16, 512])
    return Asked(of, draw(patterns(steps)), draw(pauses), draw(rows))


def ran(run: Run) -> list[ExecutedStep]:
    """Its steps, to the end, as they come back over the wire."""
    executed = [step for taken in calls_of(light_scenes(), run) for step in taken]
    assert executed_from_proto(executed_to_proto(executed)) == executed
    return executed


def macs(executed: Sequence[ExecutedStep]) -> int:
    """Over all rows."""
    total = 0
    for step in executed:
        of = light_scenes().profile(step.member)
        rows = [step.blocks] if step.branches == "positive" else [step.blocks, other(step)]
        total += sum(of.macs_of(blocks) for blocks in rows if blocks is not None)
    return total


def other(step: ExecutedStep) -> int | None:
    return step.blocks if step.negative_blocks is None else step.negative_blocks


def replayed(
    family: LoadedFamily,
    of: Task,
    executed: Sequence[ExecutedStep],
    transfers: tuple[int, ...] = (),
) -> npt.NDArray[np.uint8]:
    """The latent's bytes, drawn again from what a PNG holds."""
    made = replace(record(family, of, tuple(executed)), transfers=transfers)
    return replay_provenance(family, read_chunk(made.chunk()))


@settings(max_examples=8)
@given(asked())
def test_whatever_is_skipped_runs_costs_no_more_and_is_replayed_bit_for_bit(asked: Asked) -> None:
    family, run = light_scenes(), asked.run(light_scenes())
    executed = ran(run)
    assert [step.branches == "both" for step in executed] == list(asked.guided)
    np.testing.assert_array_equal(replayed(family, asked.task, executed), family.decode(run.x))
    assert macs(executed) <= macs(ran(asked.unskipped.run(family)))


@settings(max_examples=8)
@given(asked())
def test_steps_decoded_ahead_are_those_decoded_one_by_one(asked: Asked) -> None:
    """Also where guided steps and steps of one branch follow the same key step."""
    family = light_scenes()
    together, alone = asked.run(family), asked.run(family)
    (segment,) = alone.plan.segments
    serial = tuple(replace(each, ahead=0) for each in segment.directives)
    alone.plan = replace(alone.plan, segments=(replace(segment, directives=serial),))
    steps = ran(together)
    assert [(step.blocks, step.negative_blocks) for step in steps] == [
        (step.blocks, step.negative_blocks) for step in ran(alone)
    ]
    np.testing.assert_array_equal(family.decode(together.x), family.decode(alone.x))


@settings(max_examples=8)
@given(asked(), st.data())
def test_whoever_takes_over_runs_all_on_the_branches_of_its_first_step(
    asked: Asked, data: st.DataObject
) -> None:
    family, steps, segment = light_scenes(), asked.plan.steps, asked.plan.segments[0]
    cut = data.draw(st.integers(1, steps - 1))
    first = replace(asked, pause_every=cut).run(family)
    before: list[ExecutedStep] = []
    while first.step < cut:
        before += denoise_step([first], family.denoiser(segment.member))[0]
    second = asked.run(family, shipped(first))
    after = ran(second)
    whole = family.blocks(segment.member).all
    assert (after[0].step, after[0].blocks, after[0].negative_blocks) == (cut, whole, None)
    assert after[0].branches == ("both" if asked.guided[cut] else "positive")
    if not asked.guided[cut] and True in asked.guided[cut:]:
        late = cut + asked.guided[cut:].index(True)
        assert other(after[late - cut]) == whole
    found = replayed(family, asked.task, [*before, *after], (cut,))
    np.testing.assert_array_equal(found, family.decode(second.x))


@st.composite
def told(draw: st.DrawFn, steps: int = 8) -> OpenPlan:
    """Whatever a caller may say of every step, in the blocks that the smallest member has."""
    count = len(light_scenes().blocks("small"))
    bits = st.integers(0, (1 << count) - 1).map(lambda found: found | 1 << count - 1)
    between = draw(bits)

    def directive(step: int) -> StepDirective:
        both = draw(st.booleans())
        blocks = draw(st.just(between) | bits)
        own = draw(st.none() | bits) if both else None
        ahead = draw(st.sampled_from([0, 0, 1, 3]))
        return StepDirective("both" if both else "positive", blocks, ahead, 0.0, own)

    base = replace(plan("device/small", steps), family="scenes")
    segment = replace(base.segments[0], directives=tuple(map(directive, range(steps))))
    return replace(base, segments=(segment,))


@settings(max_examples=20)
@given(told(), st.sampled_from([2, 5, 16]))
def test_whatever_a_plan_says_of_each_branch_runs_and_is_replayed_bit_for_bit(
    of: OpenPlan, most_rows: int
) -> None:
    family = light_scenes()
    asked = Task(PROMPTS[0], "", of, 0, family.spec.default_size)
    run = begin(family, asked)
    run.most_rows = most_rows
    executed = ran(run)
    branches = [each.branches for each in of.segments[0].directives]
    assert [step.branches for step in executed] == branches
    np.testing.assert_array_equal(replayed(family, asked, executed), family.decode(run.x))


@pytest.mark.parametrize("accel", ["masks", "full"])
@pytest.mark.parametrize("member", ["large", "small"])
def test_the_models_themselves_replay_steps_that_were_skipped_at_random(
    member: str, accel: Accel
) -> None:
    family, steps = Undecoded(real_scenes()), 20
    draw = random.Random(f"{member} {accel}")
    of = accelerated(replace(plan(f"device/{member}", steps), family="scenes"), accel)
    flags = tuple(draw.random() < 0.5 for _ in range(steps))
    asked = Asked(of, flags, 0, 16)
    run = asked.run(family)
    executed = [step for taken in calls_of(family, run) for step in taken]
    np.testing.assert_array_equal(replayed(family, asked.task, executed), family.decode(run.x))


STEPS = 6


@st.composite
def mixed(draw: st.DrawFn, graph: BlockGraph) -> OpenPlan:
    """On the tiny family: a random mask or propagation, its steps guided or not at random."""
    sampler: SamplerName = draw(st.sampled_from(SAMPLERS))
    base = plan("device/large", STEPS, sampler, 3.0, draw(patterns(STEPS)))
    return cheaper(draw, graph, base)


@settings(max_examples=3)
@given(st.data())
def test_runs_interleaved_at_random_each_come_out_as_alone_and_are_replayed_bit_for_bit(
    family: LoadedFamily, data: st.DataObject
) -> None:
    seen, graph = Undecoded(family), family.blocks("large")
    plans = data.draw(st.lists(mixed(graph), min_size=2, max_size=4))
    tasks = [task(of, PROMPTS[i], seed=i) for i, of in enumerate(plans)]
    runs = [begin(family, of) for of in tasks]
    executed: list[list[ExecutedStep]] = [[] for _ in runs]
    while going := [i for i, run in enumerate(runs) if run.step < STEPS]:
        some = data.draw(st.sets(st.sampled_from(going), min_size=1))
        taken = denoise_step([runs[i] for i in some], family.denoiser("large"))
        for i, steps in zip(some, taken, strict=True):
            executed[i] += steps
        for of, run in zip(tasks, runs, strict=True):
            kept = sum(tensor.nbytes for tensor in run.cached)
            assert kept <= family.cache_bytes(run.plan, of.size)
    for of, run, steps in zip(tasks, runs, executed, strict=True):
        assert relative(run.x, finished(family, of)) < 1e-5
        np.testing.assert_array_equal(replayed(seen, of, steps), seen.decode(run.x))
