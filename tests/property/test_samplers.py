"""Properties of single sampler steps, where the model is a formula."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from baton.common.diffusion.samplers import SamplerHistory, advance, predictions, rescale, vp_form
from baton.common.diffusion.schedules import Prediction, Schedule
from baton.common.latents.state import NoiseLevel
from baton.common.limits import SAMPLERS, SamplerName
from tests.support.strategies import ordinary_levels

KINDS: tuple[Prediction, ...] = ("epsilon", "v_prediction", "sample")
seeds = st.integers(0, 2**32)


def latent(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((2, 3, 3), generator=generator, dtype=torch.float64)


def output(x0: Tensor, eps: Tensor, level: NoiseLevel, kind: Prediction) -> Tensor:
    """What a perfect model says."""
    return {"epsilon": eps, "sample": x0, "v_prediction": level.a * eps - level.b * x0}[kind]


@given(ordinary_levels, st.floats(1e-3, 1e3), seeds)
def test_rescaling_there_and_back_changes_nothing(
    level: NoiseLevel, factor: float, seed: int
) -> None:
    x, other = latent(seed), NoiseLevel(level.a * factor, level.b * factor)
    there = rescale(x, level, other)
    torch.testing.assert_close(there, x * factor)
    torch.testing.assert_close(rescale(there, other, level), x)
    assert torch.equal(rescale(x, level, level), x)


@given(ordinary_levels, ordinary_levels)
def test_rescaling_to_other_noise_is_refused(one: NoiseLevel, two: NoiseLevel) -> None:
    assume(not 0.99 < (one.b * two.a) / (two.b * one.a) < 1.01)
    with pytest.raises(ValueError, match="noise"):
        rescale(latent(0), one, two)


def test_rescaling_works_without_signal_and_without_noise() -> None:
    x = latent(0)
    torch.testing.assert_close(rescale(x, NoiseLevel(0.0, 2.0), NoiseLevel(0.0, 1.0)), x / 2)
    torch.testing.assert_close(rescale(x, NoiseLevel(2.0, 0.0), NoiseLevel(1.0, 0.0)), x / 2)


@given(ordinary_levels)
def test_the_variance_preserving_form_has_unit_norm_and_the_same_noise(level: NoiseLevel) -> None:
    form = vp_form(level)
    assert form.a**2 + form.b**2 == pytest.approx(1)
    assert form.same_noise(level)


@given(ordinary_levels, st.sampled_from(KINDS), seeds)
def test_predictions_add_up_to_the_latent(level: NoiseLevel, kind: Prediction, seed: int) -> None:
    level = vp_form(level)
    x, out = latent(seed), latent(seed + 1)
    x0, eps = predictions(x, out, level, kind)
    torch.testing.assert_close(level.a * x0 + level.b * eps, x, rtol=1e-6, atol=1e-6)


@given(ordinary_levels, st.sampled_from(KINDS), seeds)
def test_a_perfect_output_is_turned_into_its_picture_and_noise(
    level: NoiseLevel, kind: Prediction, seed: int
) -> None:
    level = vp_form(level)
    x0, eps = latent(seed), latent(seed + 1)
    x = level.a * x0 + level.b * eps
    found = predictions(x, output(x0, eps, level, kind), level, kind)
    torch.testing.assert_close(found[0], x0, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[1], eps, rtol=1e-6, atol=1e-6)


@given(
    st.sampled_from(SAMPLERS),
    st.sampled_from(KINDS),
    st.lists(st.floats(0.01, 10), min_size=2, max_size=6, unique=True),
    st.booleans(),
    seeds,
)
def test_a_perfect_model_is_followed_exactly_from_level_to_level(
    sampler: SamplerName, kind: Prediction, sigmas: list[float], clean: bool, seed: int
) -> None:
    sigmas = sorted(sigmas, reverse=True)
    assume(all(a > 1.01 * b for a, b in itertools.pairwise(sigmas)))
    ve = [NoiseLevel(1.0, sigma) for sigma in sigmas + [0.0] * clean]
    levels = ve if sampler == "euler" else [vp_form(level) for level in ve]
    steps = len(levels) - 1
    schedule = Schedule(sampler, kind, tuple(range(steps, 0, -1)), tuple(levels), 1.0)
    x0, eps = latent(seed), latent(seed + 1)
    x, history = levels[0].a * x0 + levels[0].b * eps, None
    for step in range(steps):
        out = output(x0, eps, vp_form(levels[step]), kind)
        x, history = advance(x, out, schedule, step, history)
        target = levels[step + 1]
        torch.testing.assert_close(x, target.a * x0 + target.b * eps, rtol=1e-6, atol=1e-6)
    assert isinstance(history, SamplerHistory) is (sampler == "dpmpp_2m")
