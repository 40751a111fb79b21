"""Grids of noise levels that a family names, made from the levels alone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from diffusers import DDIMScheduler

from baton.common.errors import Incompatible, InvalidRequest
from baton.common.families.loaded import LoadedFamily
from baton.common.limits import SAMPLERS, SamplerName

RATIOS = (4.0, 2.2, 1.2, 0.6)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_grid_goes_from_the_noisiest_level_through_these_to_none(
    family: LoadedFamily, sampler: SamplerName
) -> None:
    grid = family.level_grid("five", sampler, RATIOS)
    first, *inner, last = (level.b / level.a for level in grid.levels)
    assert first == pytest.approx(family.ratios("ddim", 1)[0])
    assert inner == pytest.approx(RATIOS)
    assert last == 0.0
    assert grid.levels[0].a == (
        1.0 if sampler == "euler" else pytest.approx(1 / np.hypot(1, first))
    )


def test_the_model_is_told_the_timestep_at_which_the_log_of_the_level_lies(
    family: LoadedFamily,
) -> None:
    config = family.spec.scheduler_config
    bars = DDIMScheduler.from_config(config).alphas_cumprod.double().numpy()
    trained = np.sqrt(1 / bars - 1)[::-1]  # of timesteps 999, 998, ..., 0
    between = [(one * two) ** 0.5 for one, two in pairwise(trained.tolist())]
    grid = family.level_grid("halves", "ddim", between[9:-1:100])
    assert grid.timesteps[0] == 999.0
    expected = [989.5 - 100 * k for k in range(len(grid.timesteps) - 1)]
    assert grid.timesteps[1:] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("ratios", [(70.0,), (4.0, 0.001)])
def test_levels_that_the_family_does_not_have_are_refused(
    family: LoadedFamily, ratios: tuple[float, ...]
) -> None:
    with pytest.raises(Incompatible, match="levels of noise are from"):
        family.level_grid("outside", "ddim", ratios)


def test_levels_that_do_not_fall_are_refused(family: LoadedFamily) -> None:
    with pytest.raises(InvalidRequest, match="do not fall"):
        family.level_grid("rising", "ddim", (1.0, 2.0))
