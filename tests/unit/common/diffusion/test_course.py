"""The noise levels of plans over one grid and over several."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from baton.common.arm import Arm
from baton.common.diffusion.between import make_schedule_between
from baton.common.diffusion.course import Course, make_course
from baton.common.diffusion.schedules import Schedule, make_schedule
from baton.common.errors import Incompatible
from baton.common.expansion import plan_of
from baton.common.families.loaded import LoadedFamily
from baton.common.families.local import begin, run_here
from baton.common.latents import Codec, decode_state, encode_state
from baton.common.limits import SAMPLERS, SamplerName
from baton.common.plan import Grid
from tests.support.families import NAME
from tests.support.tasks import run_alone, task

CONFIG: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "clip_sample": False,
}


def make(
    sampler: SamplerName, steps: int, begin: float | None = None, until: float | None = None
) -> Schedule:
    return make_schedule_between(sampler, steps, CONFIG, begin, until)


def course(*grids: Grid, **more: Any) -> Course:
    return make_course(grids, make, **more)


def ratios(made: Course) -> list[float]:
    return [level.b / level.a if level.a else math.inf for level in made.levels]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_grid_over_all_levels_is_the_familys_schedule(sampler: SamplerName) -> None:
    made, plain = course(Grid(sampler, 0, 9)), make(sampler, 9)
    assert made == Course((plain,))
    assert (made.levels, made.timesteps, made.steps) == (plain.levels, plain.timesteps, 9)
    assert made.initial_scale == plain.initial_scale


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("then", SAMPLERS)
def test_what_follows_a_level_begins_there_and_goes_down_to_the_familys_end(
    sampler: SamplerName, then: SamplerName
) -> None:
    made = course(Grid(sampler, 0, 3, until=2.2), Grid(then, 3, 5, until=0.7), Grid(sampler, 5, 9))
    found = ratios(made)
    assert found[3] == pytest.approx(2.2)
    assert found[5] == pytest.approx(0.7)
    assert all(one > two for one, two in pairwise(found))
    assert all(one > two for one, two in pairwise(made.timesteps))
    assert (made.timesteps[0], made.steps) == (999.0, 9)
    assert made.levels[-1] == make(sampler, 4).levels[-1]
    assert [made.sampler_at(step) for step in (0, 2, 3, 5, 9)] == [
        sampler, sampler, then, sampler, sampler,
    ]  # fmt: skip
    for before, after in pairwise(made.schedules):
        assert before.levels[-1].same_noise(after.levels[0])


def test_steps_are_evenly_spaced_between_the_timesteps_of_the_levels() -> None:
    first, last = course(Grid("ddim", 0, 4, until=1.0), Grid("ddim", 4, 8)).schedules
    for schedule in (first, last):
        gaps = [one - two for one, two in pairwise(schedule.timesteps)]
        assert gaps == pytest.approx([gaps[0]] * len(gaps))
    assert first.timesteps[-1] - last.timesteps[0] == pytest.approx(999 - first.timesteps[1])


@pytest.mark.parametrize("until", [1e-4, 0.01, 100.0, 14.7])
def test_a_level_that_the_family_does_not_have_is_refused_with_those_that_it_has(
    until: float,
) -> None:
    with pytest.raises(Incompatible, match=r"from 0\.0\d+ to 14\.6"):
        course(Grid("ddim", 0, 3, until=until), Grid("ddim", 3, 6))


def test_more_steps_than_levels_tell_apart_are_refused() -> None:
    with pytest.raises(Incompatible, match="do not fit"):
        course(
            Grid("ddim", 0, 1, until=1.0),
            Grid("ddim", 1, 199, until=1.0 - 1e-12),
            Grid("ddim", 199, 200),
        )


def test_a_grid_that_the_family_names_is_known_by_its_digest() -> None:
    tuned = replace(make("ddim", 4), timesteps=(999, 600, 300, 10))
    grid = Grid("ddim", 0, 4, name="tuned", digest=tuned.digest)
    assert course(grid, named={tuned.digest: tuned}).schedules == (tuned,)
    for named in ({}, {tuned.digest: make("ddim", 5)}, {tuned.digest: make("euler", 4)}):
        with pytest.raises(Incompatible, match="tuned"):
            course(grid, named=named)


def test_a_digest_tells_levels_apart_and_not_their_rounding() -> None:
    one = make("ddim", 20)
    noisier = replace(one.levels[3], b=one.levels[3].b * (1 + 1e-9))
    rounded = replace(one, levels=(*one.levels[:3], noisier, *one.levels[4:]))
    shifted = make_schedule("ddim", 20, CONFIG | {"steps_offset": 1})
    others = [make("ddim", 21), make("euler", 20), shifted]
    assert rounded.digest == one.digest
    assert len({one.digest, *(other.digest for other in others)}) == 4


def gaussian(made: Course, x: torch.Tensor, steps: int) -> torch.Tensor:
    """Denoise with the ideal model of unit Gaussian data of mean 2: x0 = E[x0 | x]."""
    history = None
    for step in range(steps):
        level = made.levels[step]
        norm = math.hypot(level.a, level.b)
        a, b = level.a / norm, level.b / norm
        latent = x / norm
        x0 = 2.0 + a * (latent - a * 2.0) / (a * a + b * b)
        x, history = made.advance(x, (latent - a * x0) / b, step, history)
    return x


@pytest.mark.parametrize("then", SAMPLERS)
def test_an_ideal_model_ends_where_the_fine_path_ends(then: SamplerName) -> None:
    noise = torch.randn(4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    fine = course(Grid("ddim", 0, 200))
    expected = gaussian(fine, noise * fine.initial_scale, 200)
    made = course(Grid("ddim", 0, 10, until=1.5), Grid(then, 10, 25))
    found = gaussian(made, noise * made.initial_scale, 25)
    assert (found - expected).norm() < 0.05 * expected.norm()


def test_euler_after_ddim_is_ddim_all_along() -> None:
    """One algorithm in two parametrisations; DDIM alone keeps a little noise at its end."""
    noise = torch.randn(4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    first, rest = Grid("ddim", 0, 5, until=1.5), Grid("ddim", 5, 12)
    one, two = course(first, rest), course(first, replace(rest, sampler="euler"))
    ends = [gaussian(made, noise, 12) / made.levels[-1].a for made in (one, two)]
    assert (ends[0] - ends[1]).norm() < 2e-3 * ends[
        0
    ].norm()  # DDIM keeps a little noise at its end


@pytest.mark.parametrize(
    "name", ["edge/large*3@s2.2>device/small*4", "edge/large*2>device/small*5"]
)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_run_over_several_grids_may_be_shipped_at_any_step(
    family: LoadedFamily, sampler: SamplerName, name: str
) -> None:
    of = task(plan_of(Arm.parse(name), NAME, sampler, 1, 3.0))
    whole = run_alone(family, of, 7).x
    for cut in range(1, 7):
        state = run_alone(family, of, cut).state()
        envelope = encode_state(state, "r", family.fingerprint, Codec.FP32)
        run = begin(family, of, decode_state(envelope, family.fingerprint).state)
        run_here(family, run, 7)
        assert torch.equal(run.x, whole), f"cut at {cut}"
