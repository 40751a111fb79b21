"""Runs whose steps reuse blocks: exact where nothing is reused, alone or among others."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from baton.common.diffusion.blocks import BlockGraph, ModelInputs
from baton.common.diffusion.denoiser import Denoiser
from baton.common.diffusion.executor import denoise_step, step_alone
from baton.common.diffusion.flows import flows_of
from baton.common.errors import ExecutionFailed, InvalidRequest
from baton.common.families.loaded import LoadedFamily
from baton.common.families.local import begin, run_here
from baton.common.limits import SAMPLERS, SamplerName
from baton.common.plan import Plan, StepDirective
from tests.support.conditionings import filled
from tests.support.graphs import Unrectified, random_mask, with_directives, with_mask
from tests.support.masked_runs import (
    KEYS,
    calls_of,
    finished,
    graph_of,
    propagating,
    relative,
    shipped,
)
from tests.support.tasks import accelerated, plan, run_alone, task

STEPS = 12
NOISE = 0.05
MEMBERS = ["large", "small"]


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_mask_of_ones_is_the_plain_run_bit_for_bit(
    family: LoadedFamily, member: str, sampler: SamplerName
) -> None:
    base = plan(f"edge/{member}", STEPS, sampler)
    ones = with_mask(base, [graph_of(family, member).all] * STEPS)
    assert torch.equal(finished(family, ones), finished(family, base))


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("parallel", [True, False])
def test_propagation_with_every_step_a_key_is_the_plain_run_bit_for_bit(
    family: LoadedFamily, member: str, parallel: bool
) -> None:
    base = plan(f"edge/{member}", STEPS)
    every = propagating(family, base, range(STEPS), parallel=parallel)
    assert torch.equal(finished(family, every), finished(family, base))


def test_the_denoiser_itself_is_the_split_one_bit_for_bit(family: LoadedFamily) -> None:
    """Both ways into one member: its own call, and all its blocks."""
    of = plan("edge/large", 3)
    run = begin(family, task(of))
    again = begin(family, task(with_mask(of, [graph_of(family, "large").all] * 3)))
    for _ in range(3):
        assert step_alone(run, family.denoiser("large"))[0].blocks is None
        assert step_alone(again, family.denoiser("large"))[0].blocks is not None
        assert torch.equal(run.x, again.x)


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("prior_noise", [0.0, NOISE])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_decoding_ahead_is_decoding_one_by_one(
    family: LoadedFamily, sampler: SamplerName, prior_noise: float, guided: bool
) -> None:
    base = plan("edge/large", STEPS, sampler, guided=[guided] * STEPS)
    serial, parallel = (
        begin(family, task(propagating(family, base, parallel=ahead, prior_noise=prior_noise)))
        for ahead in (False, True)
    )
    assert len(calls_of(family, serial)) == STEPS
    calls = calls_of(family, parallel)
    assert [taken[0].step for taken in calls] == list(KEYS)
    assert [taken[0].ahead for taken in calls] == [0, 3, 1, 4]
    branches = 2 if guided else 1
    for taken in calls:
        assert {ran.rows for ran in taken} == {branches * len(taken)}
        assert [ran.row for ran in taken] == [branches * i for i in range(len(taken))]
    assert relative(parallel.x, serial.x) < 1e-5
    assert relative(serial.x, finished(family, base)) > 1e-3


@pytest.mark.parametrize(
    ("pause_every", "most_rows", "groups"),
    [
        (0, 512, [1, 4, 2, 5]),
        (3, 512, [1, 2, 2, 1, 1, 2, 3]),
        (4, 512, [1, 3, 1, 2, 1, 4]),
        (1, 512, [1] * 12),
        (0, 6, [1, 3, 1, 2, 3, 2]),
        (0, 2, [1] * 12),
        (3, 4, [1, 2, 2, 1, 1, 2, 2, 1]),
    ],
)
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
def test_groups_end_where_they_have_to_and_go_on_from_there(
    family: LoadedFamily, sampler: SamplerName, pause_every: int, most_rows: int, groups: list[int]
) -> None:
    base = plan("edge/small", STEPS, sampler)
    serial = propagating(family, base, parallel=False, prior_noise=NOISE)
    run = begin(family, task(propagating(family, base, prior_noise=NOISE)))
    run.pause_every, run.most_rows = pause_every, most_rows
    calls = calls_of(family, run)
    assert [len(taken) for taken in calls] == groups
    assert max(ran.rows for taken in calls for ran in taken) <= most_rows
    if pause_every:
        ends = {taken[-1].step + 1 for taken in calls}
        assert ends >= set(range(pause_every, STEPS, pause_every))
    blocks = [ran.blocks for taken in calls for ran in taken]
    assert blocks == list(
        flows_of(graph_of(family, "small"), serial.segments[0])["positive"].schedule.run
    )
    assert relative(run.x, finished(family, serial)) < 1e-5


def test_only_a_key_runs_the_encoder_and_only_the_first_what_never_changes(
    family: LoadedFamily,
) -> None:
    graph = graph_of(family, "large")
    run = begin(family, task(propagating(family, plan("edge/large", STEPS))))
    first, *others = calls_of(family, run)
    assert [ran.blocks for ran in first] == [graph.all]
    for taken in others:
        assert taken[0].blocks == graph.all & ~graph.constant
        assert {ran.blocks for ran in taken[1:]} <= {graph.all & ~graph.encoder}


def test_prior_noise_is_added_to_the_latent_of_each_step(family: LoadedFamily) -> None:
    """In VP form; the same directive on a step that is not masked does the same."""
    for sampler in SAMPLERS:
        base = plan("edge/small", 4, sampler)
        noisy = [StepDirective(prior_noise=NOISE if step == 2 else 0.0) for step in range(4)]
        run, plain = begin(family, task(with_directives(base, noisy))), begin(family, task(base))
        for _ in range(2):
            step_alone(run, family.denoiser("small"))
            step_alone(plain, family.denoiser("small"))
        assert torch.equal(run.x, plain.x)
        level = plain.course.levels[2]
        vp_to_native = (level.a**2 + level.b**2) ** 0.5
        plain.x = plain.x + NOISE * vp_to_native * plain.prior
        assert step_alone(run, family.denoiser("small"))[0].prior_noise == NOISE
        step_alone(plain, family.denoiser("small"))
        assert relative(run.x, plain.x) < 1e-6


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("chance", [0.3, 0.7])
def test_a_rectified_mask_gives_the_same_bit_for_bit(
    family: LoadedFamily, member: str, sampler: SamplerName, chance: float
) -> None:
    graph = graph_of(family, member)
    mask = random_mask(graph, STEPS, seed=len(member), chance=chance)
    of = task(with_mask(plan(f"edge/{member}", STEPS, sampler), mask))
    rectified, to_the_letter = begin(family, of), begin(family, of)
    letter = _Addressed(family.denoiser(member), Unrectified(graph))
    asked = removed = 0
    while rectified.step < STEPS:
        (ran,) = step_alone(rectified, family.denoiser(member))
        (letters,) = step_alone(to_the_letter, letter)
        assert torch.equal(rectified.x, to_the_letter.x)
        assert ran.blocks is not None
        assert letters.blocks == mask[ran.step]
        asked += mask[ran.step].bit_count()
        removed += (mask[ran.step] & ~ran.blocks).bit_count()
        assert ran.blocks & ~mask[ran.step] == 0
    flow = graph.schedule(mask)
    assert removed == asked - sum(bits.bit_count() for bits in flow.run)
    assert removed > STEPS
    assert relative(rectified.x, finished(family, plan(f"edge/{member}", STEPS, sampler))) > 1e-3


def test_removed_entries_are_those_that_nobody_reads(family: LoadedFamily) -> None:
    """If the output is reused, nothing has to run; if only the end runs, neither does the rest."""
    graph = graph_of(family, "small")
    last = 1 << len(graph) - 1
    mask = (graph.all, graph.all & ~last, graph.all, last | graph.bits(["conv_in"]))
    assert graph.schedule(mask).run == (graph.all, 0, graph.all, last)


class _Addressed(Denoiser):
    """A member with another graph, or with none."""

    def __init__(self, member: Denoiser, graph: BlockGraph | None) -> None:
        self._member, self.graph = member, graph

    def __call__(self, inputs: ModelInputs) -> Tensor:
        return self._member(inputs)


def cut_plan(family: LoadedFamily, of: Plan, cut: int) -> Plan:
    """What a plan comes to if step ``cut`` runs in full and begins a group of its own."""
    (segment,), graph = of.segments, graph_of(family, of.segments[0].member)
    columns = list(segment.directives)
    for key, column in enumerate(columns[:cut]):
        if key + column.ahead >= cut:
            left = key + column.ahead - cut
            columns[key] = replace(column, ahead=cut - 1 - key)
            columns[cut] = replace(columns[cut], ahead=left)
    columns[cut] = replace(columns[cut], blocks=graph.all)
    return with_directives(of, columns)


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_whoever_goes_on_at_any_step_runs_it_in_full_and_the_rest_as_planned(
    family: LoadedFamily, sampler: SamplerName, parallel: bool
) -> None:
    """Prior noise included: the receiver's is the seed's too. Cuts fall into groups as well."""
    base = plan("edge/small", STEPS, sampler)
    of = propagating(family, base, parallel=parallel, prior_noise=NOISE)
    graph = graph_of(family, "small")
    for cut in range(1, STEPS):
        unbroken = begin(family, task(cut_plan(family, of, cut)))
        first = begin(family, task(of))
        first.pause_every = cut
        while first.step < cut:
            step_alone(first, family.denoiser("small"))
        second = begin(family, task(of), shipped(first))
        assert torch.equal(second.prior, first.prior)
        taken = step_alone(second, family.denoiser("small"))
        assert (taken[0].step, taken[0].blocks) == (cut, graph.all)
        calls_of(family, second)
        calls_of(family, unbroken)
        assert torch.equal(second.x, unbroken.x), f"cut at {cut}"


@pytest.mark.parametrize("accel", ["propagate", "masks", "full"])
@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_relay_starts_in_full_on_both_sides_and_loses_nothing(
    accelerable: LoadedFamily, accel: str, fraction: float
) -> None:
    of = accelerated(plan(f"edge/large@{fraction}>device/small", 10, "ddim"), accel)  # type: ignore[arg-type]
    cut, family = round(10 * fraction), accelerable
    unbroken = begin(family, task(of))
    executed = run_here(family, unbroken, 10)
    for step in (0, cut):
        assert executed[step].blocks == graph_of(family, executed[step].member).all
    assert [step.member for step in executed] == ["large"] * cut + ["small"] * (10 - cut)
    edge = run_alone(family, task(of), cut)
    device = begin(family, task(of), shipped(edge))
    assert run_here(family, device, 10) == executed[cut:]
    assert torch.equal(device.x, unbroken.x)
    assert not torch.equal(device.x, finished(family, accelerated(of, "none")))


def test_a_row_that_stops_being_finite_in_a_group_keeps_its_last_good_step(
    family: LoadedFamily,
) -> None:
    of = task(propagating(family, plan("edge/large", STEPS)))
    run, beside = begin(family, of), begin(family, of)
    for _ in range(1):
        denoise_step([run, beside], family.denoiser("large"))
    before = run.x.clone()
    run.conditioning = filled(run.encoded, torch.nan)
    first, second = denoise_step([run, beside], family.denoiser("large"))
    assert isinstance(run.error, ExecutionFailed)
    assert (first, run.step, torch.equal(run.x, before)) == ([], 1, True)
    assert [ran.step for ran in second] == [1, 2, 3, 4]
    assert relative(beside.x, run_alone(family, of, 5).x) < 1e-5


def test_blocks_that_a_member_lacks_are_refused_wherever_they_are_asked(
    family: LoadedFamily,
) -> None:
    graph = graph_of(family, "small")
    of = with_mask(plan("edge/small", 3), [graph.all, graph.all + 1, graph.all])
    with pytest.raises(InvalidRequest, match="small"):
        begin(family, task(of))
    run = begin(family, task(plan("edge/small", 3)))
    run.plan = of
    with pytest.raises(InvalidRequest, match=str(len(graph))):
        step_alone(run, family.denoiser("small"))


def test_a_member_whose_blocks_are_not_known_cannot_run_masked(family: LoadedFamily) -> None:
    graph = graph_of(family, "small")
    run = begin(family, task(with_mask(plan("edge/small", 2), [graph.all] * 2)))
    with pytest.raises(InvalidRequest, match="cannot be addressed"):
        step_alone(run, _Addressed(family.denoiser("small"), None))
    assert run.step == 0
