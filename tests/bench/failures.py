"""What failures cost: until a lost edge is noticed, steps that run twice, memory after cancels.

    python -m tests.bench.failures

Tiny random members; edges in processes of their own, on this machine. Writes
``bench/failures.json``.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import typer

from baton.common.families.loaded import LoadedFamily, load_family
from baton.common.rpc import PROTOCOL_VERSION
from baton.common.rpc.channel import channel_to
from baton.common.rpc.convert import plan_to_proto
from baton.v1 import edge_pb2
from baton.v1.edge_pb2_grpc import EdgeStub
from tests.bench import report
from tests.support.families import write_family
from tests.support.nodes import Cable, device, until
from tests.support.nodes import edge as edge_here
from tests.support.processes import EdgeProcess, Forker, forker
from tests.support.strikes import STEPS, Struck
from tests.support.tasks import PROMPTS, plan

EVERY = 5
KEEPALIVE_TIME, KEEPALIVE_TIMEOUT = 2.0, 1.0
BOUND = KEEPALIVE_TIME + KEEPALIVE_TIMEOUT + 1.0
CANCELS = 1000

Strike = Callable[[EdgeProcess, Cable], Callable[[], None]]
STRIKES: dict[str, Strike] = {
    "killed": lambda edge, cable: edge.kill,
    "hung": lambda edge, cable: edge.stop,
    "cut off": lambda edge, cable: cable.cut,
    "disconnected": lambda edge, cable: cable.drop,
}
CABLED = ("cut off", "disconnected")


async def strike(made: Forker, folder: Path, kind: str, second: str) -> list[dict[str, Any]]:
    """A request struck at every one of its steps, one after the other."""
    rows = []
    settings = {"keepalive_time": KEEPALIVE_TIME, "keepalive_timeout": KEEPALIVE_TIMEOUT}
    with device(folder, **settings, state_folder=folder / "state") as client:
        for at in range(STEPS):
            async with Cable() as cable:
                process = made.edge()
                cable.target = process.address
                address = cable.address if kind in CABLED else process.address
                struck = Struck(process, STRIKES[kind](process, cable), at, address=address)
                if kind == "disconnected":
                    struck.then = lambda process=process: process.allow(STEPS)
                result = await struck.draw(client, second)
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            twice = 0 if kind == "disconnected" else at - result.attempts[0].stop
            rows.append(
                {
                    "failure": kind,
                    "step": at,
                    "noticed_s": struck.noticed - struck.struck,
                    "steps_twice": twice,
                    "edges": len(result.attempts),
                }
            )
    return rows


async def cancels(address: str, count: int, seed: int) -> None:
    """Requests that end at random steps, every other one without a word."""
    chance, names = random.Random(seed), iter(range(count))
    async with channel_to(address) as channel:
        stub = EdgeStub(channel)

        async def keep_cancelling() -> None:
            for number in names:
                await cancel_at(stub, f"{seed}-{number}", chance.randrange(STEPS), number % 2 == 0)

        await asyncio.gather(*(keep_cancelling() for _ in range(16)))


async def cancel_at(stub: Any, request_id: str, step: int, politely: bool) -> None:
    request = edge_pb2.DenoiseRequest(
        protocol_version=PROTOCOL_VERSION,
        request_id=request_id,
        prompt=PROMPTS[0],
        plan=plan_to_proto(plan("edge/large", STEPS)),
        width=16,
        height=16,
        checkpoint_every=EVERY,
    )
    call = stub.Denoise(request, timeout=300)
    async for event in call:
        if event.progress.step >= step:
            break
    if politely:
        await stub.Cancel(edge_pb2.CancelRequest(request_id=request_id), timeout=300)
    call.cancel()


async def memory(family: LoadedFamily, count: int) -> dict[str, Any]:
    """This process's memory after cancels that fill what an edge keeps, and after ``count`` more.

    The first few thousand also fill the allocator's arenas, one for each thread. Edge and devices
    are in this one process: a forked edge's memory grows as it touches pages that it shares with
    its parent.
    """
    process = psutil.Process()
    async with edge_here(family, linger=0.0, max_queue=1000) as node:
        await cancels(node.address, 3 * count, seed=1)
        before = process.memory_info().rss
        await cancels(node.address, count, seed=2)
        await until(lambda: not node.registry.places)
    after = process.memory_info().rss
    return {"failure": f"{count} cancels", "rss_before": before, "rss_after": after}


def main(count: int = CANCELS, write: bool = True) -> None:
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        family = write_family(folder / "family")
        with forker(family, folder) as made:
            second = made.edge(held=False, node_id="second").address
            for kind in STRIKES:
                rows += asyncio.run(strike(made, family, kind, second))
                print(summary(rows, kind))
        rows.append(asyncio.run(memory(load_family(str(family)), count)))
        print(rows[-1])
    ratios = {
        "memory after / before the cancels": rows[-1]["rss_after"] / rows[-1]["rss_before"],
        "steps run twice / interval, at most": max(r.get("steps_twice", 0) for r in rows) / EVERY,
        "hung edge noticed / bound, at most": summary(rows, "hung")["noticed_s_max"] / BOUND,
    }
    print(ratios)
    if write:
        scores = {kind: summary(rows, kind) for kind in STRIKES}
        report.write("failures", rows, ratios, scores)


def summary(rows: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    of = [row for row in rows if row["failure"] == kind]
    noticed = [row["noticed_s"] for row in of]
    return {
        "failure": kind,
        "n": len(of),
        "noticed_s_median": statistics.median(noticed),
        "noticed_s_max": max(noticed),
        "steps_twice_max": max(row["steps_twice"] for row in of),
    }


if __name__ == "__main__":
    typer.run(main)
