"""What a relayed request costs outside model code: the platform's overhead.

A pair is the same plan with the same prompt and seed, once through the SDK and a real gRPC
loopback to an edge node in this process, once by the executor alone (`run_here`). Pairs are
interleaved, each in the other order than the one before. What remains is the wire, the event loop,
the change of threads, admission, checkpoints, and the text encoder, which a relay runs twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.progress import track

from baton.common.arm import Arm
from baton.common.expansion import plan_of
from baton.common.families.loaded import LoadedFamily
from baton.common.families.local import begin, run_here, warm_up
from baton.common.families.scenes.evaluate import Case
from baton.common.plan import OpenPlan
from baton.device_client.sdk import AsyncClient
from baton.edge_server.daemon import running
from baton.edge_server.settings import EdgeSettings
from tests.bench.timing import task_of

#: The promise: at most this share of the time, or this many seconds, whichever is more.
ALLOWED_SHARE = 0.05
ALLOWED_SECONDS = 0.05


@dataclass(frozen=True)
class Overhead:
    """Medians over the pairs; overhead: of ``relayed - local`` within a pair."""

    relayed_seconds: float
    local_seconds: float
    overhead_seconds: float
    overhead_share: float
    allowed_seconds: float
    within: bool
    pairs: int

    def row(self, plan: str) -> dict[str, Any]:
        return {"name": plan, "kind": "platform overhead", **asdict(self)}


def overhead_of(relayed: Sequence[float], local: Sequence[float]) -> Overhead:
    """From the seconds of each pair. Raises ValueError unless there are as many of both."""
    extra = median(one - other for one, other in zip(relayed, local, strict=True))
    alone = median(local)
    allowed = max(ALLOWED_SHARE * alone, ALLOWED_SECONDS)
    return Overhead(
        median(relayed), alone, extra, extra / alone, allowed, extra <= allowed, len(local)
    )


async def measure_overhead(
    family: LoadedFamily, arm: Arm, steps: int, cases: Sequence[Case]
) -> Overhead:
    """One interleaved pair for each case, after one that does not count."""
    manifest = family.spec
    plan = plan_of(arm, family.name, "ddim", steps, manifest.default_guidance)
    with ThreadPoolExecutor(1) as thread:
        await asyncio.get_running_loop().run_in_executor(thread, warm_up, family)
        client = AsyncClient(members=",".join(manifest.members))
        try:
            async with running(EdgeSettings(port=0, node_id="edge-bench"), family) as node:
                ways = _ways(family, plan, arm, (client, node.address, thread))
                return await _measure(ways, cases)
        finally:
            client.close()


_Way = Callable[[Case], Coroutine[Any, Any, float]]


def _ways(
    family: LoadedFamily,
    plan: OpenPlan,
    arm: Arm,
    nodes: tuple[AsyncClient, str, ThreadPoolExecutor],
) -> tuple[_Way, _Way]:
    """The two ways to draw a case, each to the seconds that it took."""
    client, address, thread = nodes

    async def relayed(case: Case) -> float:
        result = await client.generate(
            case.prompt,
            arm=str(arm),
            edge=address,
            steps=plan.steps,
            seed=case.seed,
            accel="none",  # as it is drawn here
        )
        if result.steps_at("edge") != plan.stretch_end(0) or result.notes:
            raise RuntimeError(f"the relay did not run as planned: {'; '.join(result.notes)}")
        return result.seconds.total  # until the picture was there; the scorer comes after it

    def draw(case: Case) -> float:
        begun = time.perf_counter()
        run = begin(family, task_of(family, plan, case))
        run_here(family, run, plan.steps)
        family.decode(run.x)
        return time.perf_counter() - begun

    async def local(case: Case) -> float:
        return await asyncio.get_running_loop().run_in_executor(thread, draw, case)

    return relayed, local


async def _measure(ways: tuple[_Way, _Way], cases: Sequence[Case]) -> Overhead:
    seconds: tuple[list[float], list[float]] = ([], [])
    for way in ways:
        await way(cases[0])
    for number, case in enumerate(track(cases, description="overhead    ", transient=True)):
        for index in (0, 1) if number % 2 else (1, 0):
            seconds[index].append(await ways[index](case))
    return overhead_of(*seconds)
