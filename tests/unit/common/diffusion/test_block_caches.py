"""What runs keep of their blocks between steps: enough, their own, and no longer than needed."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from baton.common.diffusion.blocks import ModelInputs
from baton.common.diffusion.conditioning import stacked
from baton.common.diffusion.denoiser import Denoiser
from baton.common.diffusion.executor import denoise_step, step_alone
from baton.common.diffusion.flows import flows_of
from baton.common.diffusion.profile import profile
from baton.common.diffusion.run import Run
from baton.common.families.loaded import LoadedFamily
from baton.common.families.local import begin
from baton.common.record import ExecutedStep
from baton.common.request import Task
from baton.common.size import Size
from tests.support.families import SIZE
from tests.support.graphs import random_mask, with_mask
from tests.support.masked_runs import (
    finished,
    graph_of,
    propagating,
    relative,
)
from tests.support.tasks import PROMPTS, accelerated, plan, task

STEPS = 12
MEMBERS = ["large", "small"]


def mixed(family: LoadedFamily) -> list[Task]:
    """Plain, masked and propagating requests of several lengths, guided and not."""
    graph = graph_of(family, "large")
    flags = [step % 3 > 0 for step in range(10)]
    large = [
        plan("edge/large", 10, "ddim", 3.0),
        accelerated(plan("edge/large", 10, "ddim", 3.0), "propagate"),
        accelerated(plan("edge/large", 10, "ddim", 7.5), "masks"),
        accelerated(plan("edge/large", 8, "dpmpp_2m", 2.0), "full"),
        plan("edge/large", 7, "euler", 1.0),
        accelerated(plan("edge/large", 9, "euler", 1.0), "masks"),
        accelerated(plan("edge/large", 14, "dpmpp_2m", 4.0), "propagate"),
        with_mask(plan("edge/large", 10, "ddim", 5.0, flags), random_mask(graph, 10, 3)),
        with_mask(plan("edge/large", 6, "euler", 5.0), random_mask(graph, 6, 4)),
    ]
    return [task(of, PROMPTS[i % 5], seed=i) for i, of in enumerate(large)]


def kept(run: Run) -> list[Tensor]:
    return run.cached


def rounds(runs: Sequence[Run], denoiser: Denoiser) -> Iterator[list[list[ExecutedStep]]]:
    """Advance all to their ends, each leaving the batch when it is done."""
    while left := [run for run in runs if run.step < run.plan.steps]:
        yield denoise_step(left, denoiser)


def test_interleaved_requests_give_what_each_gives_alone(accelerable: LoadedFamily) -> None:
    family = accelerable
    tasks = mixed(family)
    runs = [begin(family, of) for of in tasks]
    patterns = set()
    for records in rounds(runs, family.denoiser("large")):
        patterns |= {len(set(ran.neighbours)) for taken in records for ran in taken}
    assert max(patterns) > 3
    for of, run in zip(tasks, runs, strict=True):
        assert relative(run.x, finished(family, of)) < 1e-5


def test_nobodys_cache_keeps_or_shares_the_tensors_of_another(accelerable: LoadedFamily) -> None:
    runs = [begin(accelerable, of) for of in mixed(accelerable)]
    most = 0
    for _ in rounds(runs, accelerable.denoiser("large")):
        places: list[int] = []
        for run in runs:
            outputs = kept(run)
            for output in outputs:
                assert output.untyped_storage().nbytes() == output.nbytes
                assert len(output) <= len(run.caches)
            own = {output.untyped_storage().data_ptr() for output in outputs}
            assert len(own) == len(outputs)
            places += own
        assert len(set(places)) == len(places)
        most = max(most, sum(bool(kept(run)) for run in runs))
    assert most > 3
    assert not any(kept(run) for run in runs)


def test_a_run_that_leaves_frees_what_it_kept_while_its_neighbours_go_on(
    accelerable: LoadedFamily,
) -> None:
    family = accelerable
    runs = [begin(family, of) for of in mixed(family)]
    for _ in range(2):
        denoise_step(runs, family.denoiser("large"))
    gone = runs.pop(1)
    held = [weakref.ref(output) for output in kept(gone)]
    others = [weakref.ref(output) for run in runs for output in kept(run)]
    assert held
    assert others
    del gone
    gc.collect()
    assert not any(ref() is not None for ref in held)
    assert all(ref() is not None for ref in others)


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("how", ["mask", "propagation", "ahead"])
def test_a_cache_is_as_large_as_the_profile_says(
    family: LoadedFamily, member: str, guided: bool, how: str
) -> None:
    graph, base = graph_of(family, member), plan(f"edge/{member}", STEPS, guided=[guided] * STEPS)
    if how == "mask":
        of = with_mask(base, random_mask(graph, STEPS))
    else:
        of = propagating(family, base, parallel=how == "ahead")
    run, sizes = begin(family, task(of)), [0]
    run.most_rows = 4
    while run.step < STEPS:
        step_alone(run, family.denoiser(member))
        sizes.append(sum(output.nbytes for output in kept(run)))
    conditioning = stacked([run.encoded.row("positive")])
    counted = profile(graph, ModelInputs(run.x[None], torch.zeros(1), conditioning))
    assert family.profile(member, Size.of(SIZE)) == counted
    flow = flows_of(graph, of.segments[0])["positive"].schedule
    assert max(sizes) == (1 + guided) * counted.cache_bytes(flow) > 0
    assert max(sizes) == family.cache_bytes(of.closed(), Size.of(SIZE))
    assert sizes[-1] == 0


def test_a_plan_without_masks_keeps_nothing(family: LoadedFamily) -> None:
    run = begin(family, task(plan("edge/large", 4)))
    for _ in range(4):
        (ran,) = step_alone(run, family.denoiser("large"))
        assert (run.caches, ran.blocks, ran.neighbours) == ({}, None, ())


def run_flagged(family: LoadedFamily, guided: Sequence[bool]) -> list[ExecutedStep]:
    """The steps of a run that decodes alone after its first step, guided where it says."""
    graph = graph_of(family, "small")
    decoder, steps = graph.all & ~graph.encoder, len(guided)
    mask = [graph.all] + [decoder] * (steps - 1)
    run = begin(family, task(with_mask(plan("edge/small", steps, guided=guided), mask)))
    return [step_alone(run, family.denoiser("small"))[0] for _ in range(steps)]


def test_a_branch_holds_what_it_computed_while_the_other_runs_alone(family: LoadedFamily) -> None:
    graph = graph_of(family, "small")
    decoder = graph.all & ~graph.encoder
    ran = run_flagged(family, [True, True, False, False, True, True])
    assert [step.blocks for step in ran] == [graph.all] + [decoder] * 5
    assert [step.negative_blocks for step in ran] == [None] * 6


def test_a_branch_that_holds_nothing_yet_runs_in_full_beside_one_that_does(
    family: LoadedFamily,
) -> None:
    graph = graph_of(family, "small")
    decoder = graph.all & ~graph.encoder
    ran = run_flagged(family, [False, False, True, True])
    assert [step.blocks for step in ran] == [graph.all] + [decoder] * 3
    assert [step.negative_blocks for step in ran] == [None, None, graph.all, None]


def test_a_branch_that_is_left_out_shares_no_tensor_with_the_one_that_runs(
    family: LoadedFamily,
) -> None:
    graph = graph_of(family, "small")
    of = with_mask(
        plan("edge/small", 4, guided=[True, False, False, True]),
        [graph.all] + [graph.all & ~graph.encoder] * 3,
    )
    run = begin(family, task(of))
    step_alone(run, family.denoiser("small"))
    both = sum(output.nbytes for output in kept(run))
    for _ in range(2):
        step_alone(run, family.denoiser("small"))
        assert {len(output) for output in kept(run)} == {1}
        assert sum(output.nbytes for output in kept(run)) <= both


def test_another_member_finds_nothing_of_the_one_before(family: LoadedFamily) -> None:
    graphs = {member: graph_of(family, member) for member in MEMBERS}
    of = plan("edge/large@0.5>edge/small", 6)
    mask = [graphs["large"].all & ~graphs["large"].encoder] * 3
    mask += [graphs["small"].all & ~graphs["small"].encoder] * 3
    run = begin(family, task(with_mask(of, mask)))
    ran = [step_alone(run, family.denoiser(run.member))[0] for _ in range(6)]
    assert (ran[0].blocks, ran[3].blocks) == (graphs["large"].all, graphs["small"].all)
