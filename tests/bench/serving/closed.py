"""Closed loops: what a system can do when there is always something to do."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import torch

from baton.common.diffusion.blocks import ModelInputs
from baton.common.diffusion.conditioning import stacked
from baton.common.families.loaded import LoadedFamily
from baton.common.families.local import use_threads
from baton.common.limits import BOTH
from baton.common.size import Size
from tests.bench.serving.driver import Measured, closed_loop
from tests.bench.serving.fleet import Fleet
from tests.bench.serving.keep import Kept
from tests.bench.serving.metrics import straw
from tests.bench.serving.systems import Spec, pixel_steps
from tests.bench.serving.trace import Request

#: Requests under way: twice as many as the engine denoises together.
CLIENTS = 32
#: Of its steps, where a request is handed off.
SHARE = 0.4
#: Share of the time in which the first ones fill the batch.
_WARM = 0.25
#: What is promised of a baseline: so much of what its calls alone would give.
STRAW = 0.95


@dataclass(frozen=True)
class Loop:
    """One closed loop. rows: of a picture.

    pace: pictures a second, as many as its steps make, whoever has all of them by then: a system
    that has sixteen half done at the end has not lost them.
    """

    pace: float
    straw: float | None
    rows: float
    cpu_seconds: float


def measure(fleet: Fleet, spec: Spec, requests: Sequence[Request], seconds: float) -> Loop:
    with fleet.working(spec) as remote:
        measured = closed_loop(remote, requests, CLIENTS, seconds)
    return loop_of(measured, SHARE if spec.options.get("relay") else 1.0)


def loop_of(measured: Measured, odd: float = 1.0) -> Loop:
    """odd: the share of its steps that every other request takes here.

    Raises RuntimeError if a request failed, or none was drawn.
    """
    done = [item for item in measured.outcomes if item.answer is not None]
    failed = {item.error for item in measured.outcomes if item.error}
    if failed or not done:
        raise RuntimeError(f"nothing can be said of it: {sorted(failed)}")
    steps = fmean(
        pixel_steps(item.request, item.request.steps) * (odd if item.request.index % 2 else 1.0)
        for item in measured.outcomes
    )
    rows = sum(item.answer.rows for item in done if item.answer)
    full = sum(2 * item.request.steps for item in done)
    mean = fmean(2 * item.request.steps for item in measured.outcomes)
    return Loop(
        pace=_steps_per_second(measured) / steps,
        straw=straw(measured.calls),
        rows=rows / full * mean,
        cpu_seconds=measured.cpu_seconds,
    )


def _steps_per_second(measured: Measured) -> float:
    """Between the first look after the warm-up and the last one."""
    late = [look for look in measured.series if look["t"] >= _WARM * measured.seconds]
    first, last = late[0], late[-1]
    return (last["pixel_steps"] - first["pixel_steps"]) / (last["t"] - first["t"])


def rounds(
    fleet: Fleet,
    specs: Sequence[Spec],
    load: tuple[str, Sequence[Request]],
    size: tuple[int, float],
    kept: Kept,
) -> dict[str, list[Loop]]:
    """By system, one loop a round, in a new order each. load: its name and requests.

    size: rounds, and seconds of a loop.
    """
    rng, found = random.Random(0), {spec.name: list[Loop]() for spec in specs}
    name, requests = load
    count, seconds = size
    for number in range(count):
        for spec in rng.sample(list(specs), len(specs)):

            def make(spec: Spec = spec) -> dict[str, Any]:
                return vars(measure(fleet, spec, requests, seconds))

            made = kept(("closed", name, spec, number, seconds), make)
            found[spec.name].append(Loop(**made))
    return found


def tuned(
    fleet: Fleet,
    grid: Sequence[Spec],
    requests: Sequence[Request],
    how: tuple[float, Kept],
) -> tuple[Spec, list[dict[str, Any]]]:
    """The fastest of a grid, and all of it as rows. how: seconds of a loop, and what keeps it.

    A grid of one is not measured.
    """
    if len(grid) == 1:
        return grid[0], []
    seconds, kept = how
    found = rounds(fleet, grid, ("tuning", requests), (1, seconds), kept)
    paces = {spec: found[spec.name][0].pace for spec in grid}
    best = max(grid, key=lambda spec: paces[spec])
    rows = [
        {"load": "tuning", "name": spec.name, **spec.options, "pace_per_s": pace}
        | {"straw": found[spec.name][0].straw, "chosen": spec == best}
        for spec, pace in paces.items()
    ]
    return best, rows


def bare_gain(family: LoadedFamily, member: str, seconds: float) -> float:
    """Rows a second of a loop of bare calls at batch 8 over batch 1, guided."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_bare_gain, family, member, seconds).result()


def _bare_gain(family: LoadedFamily, member: str, seconds: float) -> float:
    use_threads(1)
    paces: Mapping[int, list[float]] = {1: [], 8: []}
    for _ in range(4):
        for batch, found in paces.items():
            found.append(bare_pace(family, member, batch, seconds / 8))
    return median(eight / one for one, eight in zip(paces[1], paces[8], strict=True))


@torch.inference_mode()
def bare_pace(family: LoadedFamily, member: str, batch: int, seconds: float) -> float:
    """Rows a second of calls of so many guided requests, on the calling thread."""
    text = family.encode_text("two blue houses", member=member)
    sample = torch.randn((2 * batch, *family.latent_shape(Size.of(family.spec.default_size))))
    conditioning = stacked([text.row(branch) for branch in BOTH] * batch)
    inputs = ModelInputs(sample, torch.linspace(900.0, 1.0, 2 * batch), conditioning)
    denoiser, calls, begun = family.denoiser(member), 0, time.perf_counter()
    while time.perf_counter() - begun < seconds or not calls:
        denoiser(inputs)
        calls += 1
    return calls * 2 * batch / (time.perf_counter() - begun)
