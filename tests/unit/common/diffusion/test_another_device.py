"""A round on a device that this machine need not have: whatever it makes is made there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from baton.common.diffusion.calls import RecordedBatch
from baton.common.diffusion.conditioning import Conditioning
from baton.common.diffusion.denoiser import Denoiser
from baton.common.diffusion.executor import Evaluated, evaluate
from baton.common.diffusion.run import Run
from baton.common.families.loaded import LoadedFamily
from baton.common.families.local import begin
from baton.common.limits import SAMPLERS
from baton.common.plan import OpenPlan
from tests.support.graphs import random_mask, with_mask
from tests.support.light import Light
from tests.support.masked_runs import propagating
from tests.support.tasks import plan, task

DEVICE = "meta"
STEPS = 8


def plans(family: LoadedFamily) -> list[OpenPlan]:
    graph, flags = family.blocks("large"), [step != 1 for step in range(STEPS)]
    return [
        *(plan("edge/large", STEPS, sampler) for sampler in SAMPLERS),
        propagating(family, plan("edge/large", STEPS), (0, 1, 5), prior_noise=0.05),
        with_mask(plan("edge/large", STEPS, "dpmpp_2m", 3.0, flags), random_mask(graph, STEPS)),
    ]


def there(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, device=DEVICE)


def moved(run: Run) -> Run:
    branches = run.encoded.branches.items()
    rows = {branch: {name: there(x) for name, x in row.items()} for branch, row in branches}
    return replace(run, x=there(run.x), prior=there(run.prior), conditioning=Conditioning(rows))


def committed(runs: Sequence[Run], found: Evaluated) -> None:
    """As if all that came were finite."""
    for index, (run, track) in enumerate(zip(runs, found.tracks, strict=True)):
        run.caches = found.call.caches(index)
        run.x, run.history, run.step = track.x, track.history, track.step


def evaluated(
    runs: Sequence[Run], denoiser: Denoiser, recorded: RecordedBatch | None = None
) -> Evaluated:
    return evaluate([(run, run.work(denoiser.graph)) for run in runs], denoiser, recorded)


def kinds(runs: Sequence[Run]) -> set[str]:
    kept = [tensor for run in runs for tensor in [run.x, *run.cached]]
    kept += [run.history.x0 for run in runs if run.history]
    return {tensor.device.type for tensor in kept}


def test_latents_history_and_caches_stay_on_the_models_device(family: LoadedFamily) -> None:
    denoiser = Light(family.blocks("large"))
    begun = [begin(family, task(of)) for of in plans(family)]
    runs = list(map(moved, begun))
    for _ in range(3):
        found = evaluated(runs, denoiser)
        assert {flag.device.type for flag in found.flags} == {DEVICE}
        committed(runs, found)
        assert kinds(runs) == {DEVICE}
        assert any(run.cached for run in runs)
        assert any(run.history for run in runs)


def test_a_recorded_batch_is_made_there_too(family: LoadedFamily) -> None:
    denoiser, graph = Light(family.blocks("large")), family.blocks("large")
    begun = begin(family, task(plans(family)[4]))
    neighbours = ((2, 1 << len(graph) - 1), (1, None), (3, None))
    run = moved(begun)
    committed([run], evaluated([run], denoiser))
    committed([run], evaluated([run], denoiser, RecordedBatch(6, 3, 0, neighbours)))
    assert kinds([run]) == {DEVICE}
