"""100,000 requests through the registry and the engine: nothing of them may stay.

    python -m tests.bench.serving.soak [--requests 100000]

The models are a stand-in that puts out zeros, so that what is left is the product's own: each
request is admitted, listened to, encoded, denoised in batches of mixed steps, and decoded or handed
off; some are cancelled, some run out of time. Writes ``bench/soak.json``. ``memory_mb_per_h``: the
slope of the process's memory over the second half, the median of those between all pairs of looks
(Theil and Sen), which a page here or there does not move.
"""

from __future__ import annotations

import asyncio
import gc
import math
import os
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import psutil
import torch
import typer
from torch import Tensor

from baton.common.diffusion.blocks import ModelInputs
from baton.common.diffusion.conditioning import Conditioning
from baton.common.diffusion.denoiser import Denoiser
from baton.common.errors import BatonError
from baton.common.families.architectures.adapter import Texts
from baton.common.families.loaded import LoadedFamily, load_family
from baton.edge_server.engine.engine import Engine
from baton.edge_server.engine.job import Work
from baton.edge_server.engine.scheduler import Limits
from baton.edge_server.requests.registry import Bounds, Registry
from baton.edge_server.requests.result_cache import Retention
from tests.bench import report
from tests.bench.timing import one_thread
from tests.support.families import write_family
from tests.support.tasks import plan, task, work

#: Clients, each with its next request as soon as the last one has ended.
CLIENTS = 48
_ARMS = ("edge/large", "edge/small", "edge/large@0.5>device/small")
_STEPS = (2, 3, 4)
_CANCELLED_EVERY, _HURRIED_EVERY = 50, 53
#: Results that are kept; full long before the second half.
_KEPT = 64


class _Zeros(Denoiser):
    def __call__(self, inputs: ModelInputs) -> Tensor:
        return torch.zeros_like(inputs.sample)


class _Models:
    """An `Adapter` whose models compute nothing."""

    def __init__(self, models: Any, side: int) -> None:
        self._models, self._side = models, side
        self._row: Conditioning = models.encode(models.members[0], [("", "")])[0]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._models, name)

    def encode(self, member: str, texts: Sequence[Texts]) -> list[Conditioning]:
        return [self._row for _ in texts]

    def decoder(self) -> Sequence[Any]:
        return (self._decode,)

    def _decode(self, x: Tensor) -> Tensor:
        return torch.zeros(3, self._side, self._side)


class FakeFamily(LoadedFamily):
    """A family as it is, but its models compute nothing."""

    def __init__(self, family: LoadedFamily) -> None:
        self.__dict__.update(family.__dict__)
        self.models = _Models(family.models, family.spec.default_size.width)
        self._zeros = _Zeros()

    def denoiser(self, member: str) -> Denoiser:
        return self._zeros


@dataclass(frozen=True)
class Look:
    """At the process. bytes: of memory that is its own."""

    seconds: float
    requests: int
    bytes: int
    threads: int
    files: int


def look(begun: float, requests: int) -> Look:
    gc.collect()
    process = psutil.Process()
    return Look(
        time.monotonic() - begun,
        requests,
        process.memory_full_info().uss,
        threading.active_count(),
        len(os.listdir("/proc/self/fd")),
    )


async def soak(family: LoadedFamily, requests: int, looks: int) -> tuple[list[Look], Registry]:
    """All requests, with so many looks spread over them."""
    engine = Engine(family, "edge-soak", Limits(), threads=1)
    bounds = Bounds(2 * CLIENTS, retention=Retention(math.inf, _KEPT))
    registry = Registry(engine, bounds)
    engine.start()
    found, numbers, begun = list[Look](), iter(range(requests)), time.monotonic()
    due = max(requests // looks, 1)

    async def client() -> None:
        for number in numbers:
            await _one(registry, number)
            if number % due == 0:
                found.append(look(begun, number))

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    await registry.wait_idle(60.0)
    await asyncio.to_thread(engine.stop)
    return found, registry


async def _one(registry: Registry, number: int) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + (0.02 if number % _HURRIED_EVERY == 0 else 60.0)
    try:
        entry, _ = registry.admit(_work(number), deadline)
        with registry.listening(entry):
            if number % _CANCELLED_EVERY == 0:
                registry.cancel(entry.work.request_id)
            async with aclosing(entry.events()) as events:
                async for _ in events:
                    pass
    except BatonError:
        await asyncio.sleep(0)  # refused, cancelled or too late


def _work(number: int) -> Work:
    arm = _ARMS[number % len(_ARMS)]
    steps = _STEPS[number // len(_ARMS) % len(_STEPS)]
    return work(f"soak-{number}", task(plan(arm, steps), seed=number))


def slope(looks: Sequence[Look]) -> float:
    """MB an hour: the median slope between two looks of the second half."""
    late = looks[len(looks) // 2 :]
    slopes = [
        (two.bytes - one.bytes) / (two.seconds - one.seconds)
        for one, two in combinations(late, 2)
        if two.seconds > one.seconds
    ]
    return median(slopes) * 3600 / 1e6


def main(
    requests: Annotated[int, typer.Option(min=100, help="In all.")] = 100_000,
    write: Annotated[bool, typer.Option(help="bench/soak.json.")] = True,
) -> None:
    one_thread()
    with tempfile.TemporaryDirectory() as place:
        family = FakeFamily(load_family(str(write_family(Path(place) / "tiny"))))
        gc.collect()
        gc.freeze()  # what is here before need not be looked through at every look
        before = look(time.monotonic(), 0)
        looks, registry = asyncio.run(soak(family, requests, min(200, requests // 50)))
    after, last = look(0.0, requests), looks[-1]
    ratios = {
        "memory_mb_per_h": slope(looks),
        "bytes_per_request": slope(looks) * 1e6 / 3600 * last.seconds / last.requests,
        "threads_kept": after.threads - before.threads,
        "files_kept": after.files - before.files,
        "requests_per_s": last.requests / last.seconds,
        "ended": asdict(registry.counts),
    }
    typer.echo(ratios)
    if write:
        typer.echo(report.write("soak", [asdict(one) for one in looks], ratios, {}))


if __name__ == "__main__":
    typer.run(main)
