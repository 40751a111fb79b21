"""Rows that advance together: bit for bit what each does alone, and what the formulas say."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from baton.common.diffusion.between import make_schedule_between
from baton.common.diffusion.blocks import ModelInputs
from baton.common.diffusion.conditioning import Conditioning
from baton.common.diffusion.course import make_course
from baton.common.diffusion.denoiser import Denoiser
from baton.common.diffusion.executor import denoise_step
from baton.common.diffusion.run import Run, start_run
from baton.common.diffusion.samplers import (
    Move,
    Position,
    SamplerHistory,
    advance,
    advance_rows,
    vp_form,
)
from baton.common.diffusion.scheduler_config import Prediction
from baton.common.diffusion.schedules import Schedule
from baton.common.latents.state import NoiseLevel
from baton.common.limits import BOTH, BRANCHES, SAMPLERS, SamplerName
from baton.common.plan import Grid, Guidance, Plan, Segment, StepDirective
from tests.support.by_hand import advanced, rescaled, step_on

KINDS: tuple[Prediction, ...] = ("epsilon", "v_prediction", "sample")
SHAPE = (4, 3, 5)
seeds = st.integers(0, 2**32)


def latent(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Any levels that fall; the last step may end clean, or stand still."""
    sampler = draw(st.sampled_from(SAMPLERS))
    falls = draw(st.lists(st.floats(1.05, 4.0), min_size=2, max_size=5))
    sigmas = [draw(st.floats(0.5, 100.0))]
    for fall in falls:
        sigmas.append(sigmas[-1] / fall)
    end = draw(st.sampled_from(["noisy", "clean", "still"]))
    sigmas += {"noisy": [], "clean": [0.0], "still": [sigmas[-1]]}[end]
    ve = [NoiseLevel(1.0, sigma) for sigma in sigmas]
    levels = tuple(ve if sampler == "euler" else map(vp_form, ve))
    steps = len(levels) - 1
    clip = draw(st.none() | st.floats(0.1, 2.0)) if sampler == "ddim" else None
    first = end == "clean" or draw(st.booleans())
    kind = draw(st.sampled_from(KINDS))
    times = tuple(float(step) for step in range(steps, 0, -1))
    return Schedule(sampler, kind, times, levels, 1.0, clip, first)


@st.composite
def positions(draw: st.DrawFn) -> Position:
    """A step of a schedule, with the history of the one before or without."""
    schedule = draw(schedules())
    step = draw(st.integers(0, schedule.steps - 1))
    history = None
    if schedule.sampler == "dpmpp_2m" and step and draw(st.booleans()):
        history = SamplerHistory(schedule.levels[step - 1], latent(draw(seeds)))
    return Position(schedule, step, history)


def same(one: SamplerHistory | None, other: SamplerHistory | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.level == other.level and torch.equal(one.x0, other.x0)


@given(st.lists(positions(), min_size=1, max_size=9), seeds)
def test_rows_advance_bit_for_bit_as_each_alone_and_as_the_formulas_say(
    at: list[Position], seed: int
) -> None:
    xs, outs = ([latent(seed + 2 * row + odd) for row in range(len(at))] for odd in (0, 1))
    moved, kept = advance_rows(torch.stack(xs), torch.stack(outs), [Move.of(each) for each in at])
    for row, (x, out, each) in enumerate(zip(xs, outs, at, strict=True)):
        for way in (advance, advanced):
            alone, history = way(x, out, *each)
            assert torch.equal(moved[row], alone)
            assert same(kept[row], history)


class Formula(Denoiser):
    """A model whose rows cannot touch one another: each number by itself."""

    def __call__(self, inputs: ModelInputs) -> Tensor:
        shift = inputs.context[:, :, None, None] + inputs.timesteps[:, None, None, None] * 1e-3
        return torch.sin(inputs.sample * 1.3 + shift)


def conditioning(seed: int) -> Conditioning:
    drawn = torch.randn((2, SHAPE[0]), generator=torch.Generator().manual_seed(seed))
    rows = zip(BOTH, drawn, strict=True)
    return Conditioning({branch: {"context": row} for branch, row in rows})


CONFIG = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}


@st.composite
def runs(draw: st.DrawFn) -> Run:
    """Of one grid or of several, guided or not, with prior noise at any step."""
    levels = sorted(draw(st.sets(st.sampled_from([0.3, 0.9, 2.0, 6.0]), max_size=2)), reverse=True)
    grids, start = [], 0
    for until in [*levels, None]:
        stop = start + draw(st.integers(1, 4))
        grids.append(Grid(draw(st.sampled_from(SAMPLERS)), start, stop, until))
        start = stop
    guidance = Guidance(draw(st.sampled_from([1.0, 3.0, 7.5])))
    given = st.builds(
        StepDirective,
        st.sampled_from(BRANCHES),
        prior_noise=st.sampled_from([0.0, 0.003, 0.1]),
    )
    segments = [
        Segment(
            "m", "device", g.start, g.stop, g, guidance, tuple(draw(given) for _ in range(g.steps))
        )
        for g in grids
    ]
    clip = draw(st.booleans())
    config = CONFIG | {"prediction_type": draw(st.sampled_from(KINDS)), "clip_sample": clip}

    def make(
        sampler: SamplerName, steps: int, begin: float | None, until: float | None
    ) -> Schedule:
        return make_schedule_between(sampler, steps, config, begin, until)

    course, seed = make_course(grids, make), draw(st.integers(0, 99))
    return start_run(Plan("f", tuple(segments)), course, conditioning(seed), seed, SHAPE)


def drawn_by_hand(run: Run) -> tuple[list[Tensor], SamplerHistory | None]:
    """The latent after each step: nothing but levels, model and formulas."""
    x, history, found = run.x, run.history, []
    model, held = Formula(), None
    for step in range(run.plan.steps):
        level, segment = run.course.levels[step], run.plan.segment_at(step)
        held = None if step == segment.start else held
        vp = vp_form(level)
        if noise := run.plan.directive_at(step).prior_noise:
            x = x + rescaled(run.prior * noise, vp, level)
        asked = run.plan.directive_at(step).branches
        both = segment.guidance.scale > 1 and (
            asked == "both" or (asked == "reuse" and held is None)
        )
        of = BOTH if both else BOTH[:1]
        rows = torch.stack([run.encoded.row(branch)["context"] for branch in of])
        times = torch.tensor([run.course.timesteps[step]] * len(of))
        latents = rescaled(x, level, vp).expand(len(of), *SHAPE)
        out = model(ModelInputs(latents, times, {"context": rows}))
        told = out[0]
        if both:
            told = out[1] + segment.guidance.scale * (out[0] - out[1])
            held = told - out[0]
        elif asked == "reuse" and held is not None:
            told = out[0] + held
        x, history = step_on(x, told, run.course, step, history)
        found.append(x)
    return found, history


@settings(max_examples=60)
@given(st.lists(runs(), min_size=1, max_size=5))
def test_runs_of_any_grids_together_are_bit_for_bit_each_drawn_by_hand(asked: list[Run]) -> None:
    expected = [drawn_by_hand(run) for run in asked]
    while going := [run for run in asked if run.step < run.plan.steps]:
        denoise_step(going, Formula())
        for run, (xs, _) in zip(asked, expected, strict=True):
            assert run.error is None
            assert torch.equal(run.x, xs[run.step - 1])
    for run, (_, history) in zip(asked, expected, strict=True):
        assert same(run.history, history)
