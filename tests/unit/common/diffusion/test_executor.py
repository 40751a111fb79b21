"""The plan executor: cut runs, shared batches, rows that fail."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from baton.common.diffusion.course import Course
from baton.common.diffusion.denoiser import Denoiser
from baton.common.diffusion.executor import denoise_step, step_alone
from baton.common.diffusion.run import Run, resume_run, start_run
from baton.common.diffusion.samplers import SamplerHistory
from baton.common.errors import ExecutionFailed, Incompatible, InvalidRequest
from baton.common.families.loaded import LoadedFamily
from baton.common.families.local import begin, run_here, warm_up
from baton.common.latents import (
    Codec,
    HistoryEntry,
    LatentState,
    NoiseLevel,
    decode_state,
    encode_state,
)
from baton.common.limits import SAMPLERS, SamplerName
from baton.common.plan import Plan
from baton.common.request import Task
from tests.support.conditionings import filled
from tests.support.engines import Counter, WatchedFamily
from tests.support.tasks import PROMPTS, plan, run_alone, task

STEPS = 12
HERE = ("device", "here")


def shipped(run: Run, codec: Codec = Codec.FP32) -> LatentState:
    """The run's state as it arrives on another node."""
    return decode_state(encode_state(run.state(), "r", "f", codec), "f").state


def finished(family: LoadedFamily, of: Task, state: LatentState | None = None) -> Tensor:
    return run_alone(family, of, of.plan.steps, state).x


def relative(one: Tensor, two: Tensor) -> float:
    return ((one - two).norm() / two.norm()).item()


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("guided", [True, False])
def test_a_run_cut_at_any_step_and_shipped_is_the_unbroken_run_bit_for_bit(
    family: LoadedFamily, sampler: SamplerName, guided: bool
) -> None:
    of = task(plan("device/large", STEPS, sampler, guided=[guided] * STEPS))
    unbroken = begin(family, of)
    cuts = []
    while unbroken.step < STEPS:
        cuts.append(shipped(unbroken))
        run_here(family, unbroken, unbroken.step + 1)
    for cut in cuts:
        assert torch.equal(finished(family, of, cut), unbroken.x), f"cut at {cut.step}"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_run_may_be_shipped_before_every_step(family: LoadedFamily, sampler: SamplerName) -> None:
    of = task(plan("device/small", STEPS, sampler))
    run = begin(family, of)
    while run.step < STEPS:
        run = begin(family, of, shipped(run))
        run_here(family, run, run.step + 1)
    assert torch.equal(run.x, finished(family, of))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_restarting_without_history_differs_for_the_multistep_sampler_only(
    family: LoadedFamily, sampler: SamplerName
) -> None:
    of = task(plan("device/small", STEPS, sampler))
    unbroken = finished(family, of)
    for cut in range(STEPS):
        state = run_alone(family, of, cut).state()
        assert len(state.history) == (sampler == "dpmpp_2m" and cut > 0)
        restarted = finished(family, of, replace(state, history=()))
        needs_history = sampler == "dpmpp_2m" and 0 < cut < STEPS - 1
        assert torch.equal(restarted, unbroken) is not needs_history
        assert relative(restarted, unbroken) < 0.5


@pytest.mark.parametrize("codec", [Codec.FP16, Codec.INT8])
def test_a_lossy_handoff_ends_near_the_unbroken_run(family: LoadedFamily, codec: Codec) -> None:
    of = task(plan("device/small", STEPS, "dpmpp_2m"))
    handed = shipped(run_alone(family, of, STEPS // 2), codec)
    limit = {Codec.FP16: 1e-3, Codec.INT8: 3e-2}[codec]
    assert relative(finished(family, of, handed), finished(family, of)) < limit


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_relay_runs_each_member_on_its_own_steps(
    family: LoadedFamily, sampler: SamplerName
) -> None:
    of = task(plan("edge/large@0.5>device/small", 6, sampler))
    executed = run_here(family, begin(family, of, place=HERE), 6)
    assert [step.member for step in executed] == ["large"] * 3 + ["small"] * 3
    assert [step.step for step in executed] == list(range(6))
    assert {(step.location, step.node_id, step.rows) for step in executed} == {(*HERE, 2)}


MIXED: list[tuple[Plan, str, str, int]] = [
    (plan("edge/large", 12, "ddim", 3.0), PROMPTS[0], "", 0),
    (plan("edge/large", 9, "euler", 7.5), PROMPTS[1], "a red cat", 1),
    (plan("edge/large", 15, "dpmpp_2m", 1.5), PROMPTS[2], "", 2),
    (plan("edge/large", 12, "ddim", 1.0), PROMPTS[3], "", 3),
    (plan("edge/large", 10, "dpmpp_2m", 5.0, [i % 3 > 0 for i in range(10)]), PROMPTS[4], "", 4),
    (plan("edge/large", 11, "euler", 2.0, [False] * 11), PROMPTS[0], "blue", 5),
]


def mixed_tasks() -> list[Task]:
    return [task(of, prompt, negative, seed) for of, prompt, negative, seed in MIXED]


def run_as_one_batch(runs: Sequence[Run], denoiser: Denoiser) -> list[int]:
    """Advance all to their ends, each leaving the batch when it is done; the rows of each call."""
    rows = []
    while left := [run for run in runs if run.step < run.plan.steps]:
        rows.append(denoise_step(left, denoiser)[0][0].rows)
    return rows


def test_rows_of_different_requests_share_a_batch_without_changing_one_another(
    family: LoadedFamily,
) -> None:
    runs = [begin(family, of) for of in mixed_tasks()]
    rows = run_as_one_batch(runs, family.denoiser("large"))
    assert len(rows) == 15
    assert rows[0] == 2 + 2 + 2 + 1 + 1 + 1
    assert rows[1] == 2 + 2 + 2 + 1 + 2 + 1
    for of, run in zip(mixed_tasks(), runs, strict=True):
        assert relative(run.x, finished(family, of)) < 1e-5


def test_at_one_row_count_results_do_not_depend_on_neighbours_or_position(
    family: LoadedFamily,
) -> None:
    denoiser = family.denoiser("large")
    watched = task(plan("edge/large", 6, "ddim"), seed=1)
    samplers: list[SamplerName] = ["euler", "dpmpp_2m", "ddim", "euler"]
    others = [
        begin(family, task(plan("edge/large", 6, sampler), PROMPTS[i + 1], seed=i + 2))
        for i, sampler in enumerate(samplers)
    ]
    first = [begin(family, watched), *others[:2]]
    second = [*others[2:], begin(family, watched)]
    assert run_as_one_batch(first, denoiser) == run_as_one_batch(second, denoiser) == [6] * 6
    assert torch.equal(first[0].x, second[-1].x)


def test_an_unguided_row_takes_half_the_place(family: LoadedFamily) -> None:
    counter = Counter()
    watched = WatchedFamily(family, counter)
    guided = [True, False, True, False]
    run = begin(family, task(plan("edge/large", 4, guided=guided)))
    executed = run_here(watched, run, 4)
    assert counter.rows == [2, 1, 2, 1]
    told = [(step.branches, step.rows) for step in executed]
    assert told == [("both", 2) if flag else ("positive", 1) for flag in guided]


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
def test_a_scale_of_one_or_less_needs_no_second_branch(family: LoadedFamily, scale: float) -> None:
    run = begin(family, task(plan("edge/large", 2, guidance=scale)))
    assert len(run.branches) == 1
    assert step_alone(run, family.denoiser("large"))[0].rows == 1


def spoiled(run: Run) -> Run:
    run.conditioning = filled(run.encoded, math.nan)
    return run


def test_a_row_that_stops_being_finite_fails_alone(family: LoadedFamily) -> None:
    denoiser = family.denoiser("large")
    tasks = [task(plan("edge/large", 6, sampler), seed=i) for i, sampler in enumerate(SAMPLERS)]
    clean = [begin(family, of) for of in tasks]
    runs = [begin(family, of) for of in tasks]
    before = spoiled(runs[1]).x.clone()
    steps = denoise_step(clean, denoiser) + denoise_step(runs, denoiser)
    assert {ran.rows for taken in steps for ran in taken} == {6}
    assert isinstance(runs[1].error, ExecutionFailed)
    assert "step 0" in str(runs[1].error)
    assert (runs[1].step, torch.equal(runs[1].x, before)) == (0, True)
    for position in (0, 2):
        assert torch.equal(runs[position].x, clean[position].x)
        assert (runs[position].step, runs[position].error) == (1, None)


def test_alone_a_latent_that_stops_being_finite_raises(family: LoadedFamily) -> None:
    run = spoiled(begin(family, task()))
    with pytest.raises(ExecutionFailed, match="step 0"):
        step_alone(run, family.denoiser("large"))


def test_a_row_whose_sampler_cannot_step_fails_alone(family: LoadedFamily) -> None:
    denoiser = family.denoiser("large")
    tasks = [task(plan("edge/large", 6, "dpmpp_2m"), seed=i) for i in range(3)]
    clean = [begin(family, of) for of in tasks]
    runs = [begin(family, of) for of in tasks]
    runs[1].history = SamplerHistory(
        runs[1].course.levels[0], runs[1].x
    )  # no time has passed since
    denoise_step(clean, denoiser)
    denoise_step(runs, denoiser)
    assert runs[1].error is not None
    assert [run.step for run in runs] == [1, 0, 1]
    assert torch.equal(runs[0].x, clean[0].x)
    assert torch.equal(runs[2].x, clean[2].x)


@pytest.fixture
def paused(family: LoadedFamily) -> LatentState:
    return run_alone(family, task(plan("device/small", STEPS, "dpmpp_2m")), 5).state()


def resumed(family: LoadedFamily, state: LatentState, of: Plan | None = None) -> Run:
    return begin(family, task(of or plan("device/small", STEPS, "dpmpp_2m")), state)


def test_a_state_of_another_sampler_or_step_count_is_incompatible(
    family: LoadedFamily, paused: LatentState
) -> None:
    assert resumed(family, paused).step == 5
    for other in (plan("device/small", STEPS, "ddim"), plan("device/small", STEPS + 1, "dpmpp_2m")):
        with pytest.raises(Incompatible, match=r"dpmpp_2m in 12 .* asks for"):
            resumed(family, paused, other)


def test_a_state_whose_level_is_not_its_steps_is_incompatible(
    family: LoadedFamily, paused: LatentState
) -> None:
    for step in set(range(STEPS + 1)) - {paused.step}:
        with pytest.raises(Incompatible, match=f"step {step}"):
            resumed(family, replace(paused, step=step))
    louder = NoiseLevel(paused.level.a, paused.level.b * 1.001)
    with pytest.raises(Incompatible, match="step 5"):
        resumed(family, replace(paused, level=louder))


def test_a_level_too_small_to_compare_is_incompatible(
    family: LoadedFamily, paused: LatentState
) -> None:
    with pytest.raises(Incompatible, match="step 5"):
        resumed(family, replace(paused, level=NoiseLevel(1e-10, 1e-10)))


def test_a_latent_in_another_parametrisation_is_rescaled_or_refused(
    family: LoadedFamily, paused: LatentState
) -> None:
    level = NoiseLevel(paused.level.a * 2, paused.level.b * 2)
    doubled = replace(paused, x=paused.x * 2, level=level)
    expected = finished(family, task(plan("device/small", STEPS, "dpmpp_2m")))
    try:
        run = resumed(family, doubled)
    except Incompatible:
        return
    run_here(family, run, STEPS)
    torch.testing.assert_close(run.x, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "level",
    [NoiseLevel(1.0, 0.0), NoiseLevel(0.0, 1.0), NoiseLevel(0.9, 0.1), None],
    ids=["clean", "pure noise", "less noise", "the state's own"],
)
def test_history_that_cannot_have_come_before_is_incompatible(
    family: LoadedFamily, paused: LatentState, level: NoiseLevel | None
) -> None:
    entry = HistoryEntry(level or paused.level, paused.history[0].x0)
    with pytest.raises(Incompatible):
        resumed(family, replace(paused, history=(entry,)))


def test_a_schedule_of_another_plan_is_refused(family: LoadedFamily) -> None:
    of = plan("device/small", 4, "ddim")
    conditioning = family.encode_text("a cat")
    for schedule in (family.schedule("ddim", 5), family.schedule("euler", 4)):
        with pytest.raises(InvalidRequest, match="levels"):
            start_run(of.closed(), Course((schedule,)), conditioning, 0, (4, 4, 4))


def test_a_state_is_a_copy(family: LoadedFamily) -> None:
    run = run_alone(family, task(plan("device/small", 4, "dpmpp_2m")), 2)
    state = run.state()
    kept = state.x.copy(), state.history[0].x0.copy()
    again = resume_run(run.plan, run.course, run.conditioning, state, seed=0)
    with torch.inference_mode():
        run.x.zero_()
        step_alone(again, family.denoiser("small"))
        again.x.zero_()
    np.testing.assert_array_equal(state.x, kept[0])
    np.testing.assert_array_equal(state.history[0].x0, kept[1])


def test_a_bad_size_is_refused_when_a_run_begins(family: LoadedFamily) -> None:
    for size in (0, 7, 65536):
        with pytest.raises(InvalidRequest, match=str(size)):
            begin(family, task(size=size))


def test_warming_up_calls_every_member(family: LoadedFamily) -> None:
    members = []
    warm_up(WatchedFamily(family, lambda member, x: members.append(member)))
    assert members == ["large", "small"]


def test_a_run_whose_last_step_keeps_its_level_can_be_resumed_at_its_end(
    family: LoadedFamily,
) -> None:
    schedule = family.schedule("dpmpp_2m", STEPS)
    schedule = replace(schedule, levels=(*schedule.levels[:-1], schedule.levels[-2]))
    of, course = plan("device/small", STEPS, "dpmpp_2m").closed(), Course((schedule,))
    run = start_run(of, course, family.encode_text("a red cat"), 0, family.latent_shape(16))
    for _ in range(STEPS):
        step_alone(run, family.denoiser("small"))
    again = resume_run(of, course, run.conditioning, run.state(), 0)
    assert torch.equal(again.x, run.x)
