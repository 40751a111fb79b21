"""Runs whose steps reuse blocks, to their ends."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from baton.common.accel.propagation import propagated
from baton.common.diffusion.blocks import BlockGraph
from baton.common.diffusion.denoiser import Denoiser
from baton.common.diffusion.executor import step_alone
from baton.common.diffusion.run import Run
from baton.common.families.loaded import LoadedFamily
from baton.common.latents import Codec, LatentState, decode_state, encode_state
from baton.common.plan import OpenPlan
from baton.common.record import ExecutedStep
from baton.common.request import Task
from tests.support.graphs import with_directives
from tests.support.tasks import run_alone, task

#: Key steps of a dozen: a group of one step, of four, of two, and the rest.
KEYS = (0, 1, 5, 7)


def graph_of(family: LoadedFamily, member: str) -> BlockGraph:
    return family.blocks(member)


def relative(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def finished(family: LoadedFamily, of: OpenPlan | Task) -> Tensor:
    made = task(of) if isinstance(of, OpenPlan) else of
    return run_alone(family, made, made.plan.steps).x


def calls_of(
    family: LoadedFamily, run: Run, denoiser: Denoiser | None = None
) -> list[list[ExecutedStep]]:
    """Run it to its end; by model call, the steps that it took."""
    calls = []
    while run.step < run.plan.steps:
        member = run.plan.segment_at(run.step).member
        calls.append(step_alone(run, denoiser or family.denoiser(member)))
    return calls


def propagating(
    family: LoadedFamily,
    base: OpenPlan,
    keys: Sequence[int] = KEYS,
    *,
    parallel: bool = True,
    prior_noise: float = 0.0,
) -> OpenPlan:
    graph = graph_of(family, base.segments[0].member)
    return with_directives(
        base, propagated(graph, base.steps, keys, parallel=parallel, prior_noise=prior_noise)
    )


def shipped(run: Run) -> LatentState:
    return decode_state(encode_state(run.state(), "r", "f", Codec.FP32), "f").state
