"""A round reads one flag from the device: up to it, there need be no numbers at all."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor

from baton.common.diffusion.calls import Part
from baton.common.diffusion.denoiser import Denoiser
from baton.common.diffusion.executor import denoise, denoise_step, evaluate
from baton.common.diffusion.run import Run
from baton.common.families.loaded import LoadedFamily
from baton.common.families.local import begin
from baton.common.limits import SAMPLERS
from baton.common.plan import OpenPlan
from tests.support.graphs import random_mask, with_mask
from tests.support.masked_runs import graph_of, propagating
from tests.support.reads import Reads, reads_of
from tests.support.tasks import PROMPTS, plan, task

STEPS = 12


def plans(family: LoadedFamily) -> list[OpenPlan]:
    """Guided and not, of every sampler, with prior noise, masks and groups ahead."""
    graph = graph_of(family, "large")
    flags = [step % 2 > 0 for step in range(STEPS)]
    plain = [plan("edge/large", STEPS, sampler) for sampler in SAMPLERS]
    return [
        *plain,
        plan("edge/large", STEPS, "ddim", 1.0),
        propagating(family, plain[0], prior_noise=0.05),
        propagating(family, plain[2], parallel=False, prior_noise=0.05),
        propagating(family, plan("edge/large", STEPS, "dpmpp_2m", guided=flags), prior_noise=0.05),
        with_mask(plan("edge/large", STEPS, "euler", 2.0, flags), random_mask(graph, STEPS, 2)),
    ]


def begun(family: LoadedFamily, plans: Sequence[OpenPlan], steps: int = 0) -> list[Run]:
    """Runs that have taken so many rounds together."""
    runs = [begin(family, task(of, PROMPTS[i % 5], seed=i)) for i, of in enumerate(plans)]
    for _ in range(steps):
        denoise_step(runs, family.denoiser("large"))
    return runs


def parts_of(runs: Sequence[Run], denoiser: Denoiser) -> list[Part]:
    return [(run, run.work(denoiser.graph)) for run in runs]


@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_up_to_its_flag_a_round_runs_without_a_device(family: LoadedFamily, rounds: int) -> None:
    """Guidance, samplers with their history, caches, prior noise and groups included."""
    runs, denoiser = begun(family, plans(family), rounds), family.denoiser("large")
    parts = parts_of(runs, denoiser)
    if rounds:
        assert any(run.history for run in runs)
        assert any(run.caches for run in runs)
        assert any(work.steps > 1 for _, work in parts)
    with FakeTensorMode(allow_non_fake_inputs=True):
        found = evaluate(parts, denoiser)
        assert all(isinstance(flag, FakeTensor) for flag in found.flags)
        with pytest.raises(DataDependentOutputException):
            found.commit()
    assert [run.step for run in runs] == [work.step for _, work in parts]


@pytest.mark.parametrize("rounds", [0, 1, 3])
@pytest.mark.parametrize("count", [1, 3, 8, 16])
def test_a_round_reads_the_device_once_however_many_rows_it_has(
    family: LoadedFamily, rounds: int, count: int
) -> None:
    asked = plans(family) * 2
    runs, denoiser = begun(family, asked[:count], rounds), family.denoiser("large")
    parts = parts_of(runs, denoiser)
    assert reads_of(lambda: denoise(parts, denoiser)) == ["tolist"]
    assert all(run.error is None for run in runs)


def test_a_round_that_no_row_comes_through_reads_nothing(family: LoadedFamily) -> None:
    (run,) = begun(family, plans(family)[2:3], 1)
    assert run.history is not None
    run.history = type(run.history)(run.course.levels[run.step], run.history.x0)
    parts = parts_of([run], family.denoiser("large"))
    assert reads_of(lambda: denoise(parts, family.denoiser("large"))) == []
    assert run.error is not None


def test_reads_are_noticed() -> None:
    x = torch.ones(3)
    with Reads() as reads:
        x.tolist()
        x.sum().item()
        bool(x.any())
        torch.equal(x, x)
        x.nonzero()
    assert sorted(reads.found) == ["__bool__", "equal", "item", "nonzero", "tolist"]
