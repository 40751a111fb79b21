"""Twice the load that an edge can bear: what it still finishes in time, and how soon it refuses.

    python -m tests.bench.overload

Each round measures the peak, with as many clients as the edge runs and queues best, and then
requests that come at twice that rate whether or not the last ones are done. Tiny random members, an
edge in a process of its own. Writes ``bench/overload.json``.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import typer

from baton.v1 import edge_pb2
from baton.v1.edge_pb2_grpc import EdgeStub
from common.errors import Overloaded
from common.rpc import PROTOCOL_VERSION
from common.rpc.channel import channel_to
from common.rpc.convert import plan_to_proto
from common.rpc.status import from_rpc_error
from tests.bench import report
from tests.support.families import write_family
from tests.support.processes import forker
from tests.support.tasks import PROMPTS, plan

STEPS = 20
ACTIVE, QUEUE = 8, 24
REFUSED_WITHIN = 0.05


@dataclass
class Tally:
    """What became of the requests of one phase; refused: seconds that each refusal took."""

    offered: int = 0
    done: int = 0
    late: int = 0
    refused: list[float] = field(default_factory=list)
    with_retry_info: int = 0
    took: list[float] = field(default_factory=list)


class Load:
    """Requests to one edge, each with the same time to be done."""

    def __init__(self, stub: Any, timeout: float) -> None:
        self._stub = stub
        self._timeout = timeout
        self._sent = 0

    async def one(self, tally: Tally) -> None:
        self._sent += 1
        tally.offered += 1
        begun = time.monotonic()
        try:
            async for _ in self._stub.Denoise(self._request(), timeout=self._timeout):
                pass
        except grpc.aio.AioRpcError as error:
            self._refused(tally, error, time.monotonic() - begun)
        else:
            tally.done += 1
            tally.took.append(time.monotonic() - begun)

    def _refused(self, tally: Tally, error: grpc.aio.AioRpcError, seconds: float) -> None:
        meant = from_rpc_error(error, "the edge")
        if not isinstance(meant, Overloaded):
            tally.late += 1
            return
        tally.refused.append(seconds)
        tally.with_retry_info += b"RetryInfo" in dict(error.trailing_metadata() or ()).get(
            "grpc-status-details-bin", b""
        )

    def _request(self) -> edge_pb2.DenoiseRequest:
        return edge_pb2.DenoiseRequest(
            protocol_version=PROTOCOL_VERSION,
            request_id=f"r{id(self)}-{self._sent}",
            prompt=PROMPTS[0],
            plan=plan_to_proto(plan("relay:large>small@0.5", 2 * STEPS)),
            seed=self._sent,
            size=16,
            codec="fp16",
        )


async def closed(load: Load, clients: int, seconds: float) -> tuple[Tally, float]:
    """So many clients, each with its next request as soon as the last one is done."""
    tally, begun = Tally(), time.monotonic()

    async def client() -> None:
        while time.monotonic() - begun < seconds:
            await load.one(tally)

    await asyncio.gather(*(client() for _ in range(clients)))
    return tally, tally.done / (time.monotonic() - begun)


async def open_(
    load: Load, rate: float, seconds: float, chance: random.Random
) -> tuple[Tally, float]:
    """Requests at random times, so many a second, whatever became of the last ones."""
    tally, begun = Tally(), time.monotonic()
    due, running = begun, set[asyncio.Task[None]]()
    while due < begun + seconds:
        await asyncio.sleep(max(due - time.monotonic(), 0))
        task = asyncio.create_task(load.one(tally))
        running.add(task)
        task.add_done_callback(running.discard)
        due += chance.expovariate(rate)
    await asyncio.gather(*running)
    return tally, tally.done / (time.monotonic() - begun)


async def measure(address: str, rounds: int, seconds: float) -> list[dict[str, Any]]:
    chance = random.Random(0)
    async with channel_to(address) as channel:
        stub = EdgeStub(channel)
        warm, _ = await closed(Load(stub, 60), 2 * ACTIVE, seconds / 2)
        timeout = 3 * statistics.median(warm.took)
        rows = []
        for number in range(rounds):
            peak, best = await closed(Load(stub, timeout), 2 * ACTIVE, seconds)
            over, good = await open_(Load(stub, timeout), 2 * best, seconds, chance)
            rows += [
                row(number, "peak", timeout, peak, best),
                row(number, "2x", timeout, over, good),
            ]
            print(rows[-2], rows[-1], sep="\n")
    return rows


def row(number: int, load: str, timeout: float, tally: Tally, goodput: float) -> dict[str, Any]:
    return {
        "round": number,
        "load": load,
        "deadline_s": timeout,
        "offered": tally.offered,
        "done": tally.done,
        "late": tally.late,
        "refused": len(tally.refused),
        "with_retry_info": tally.with_retry_info,
        "goodput_per_s": goodput,
        "refusal_ms_p50": 1000 * quantile(tally.refused, 0.5),
        "refusal_ms_p99": 1000 * quantile(tally.refused, 0.99),
    }


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))] if values else float("nan")


def main(rounds: int = 3, seconds: float = 15.0, write: bool = True) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with forker(write_family(folder / "family"), folder) as made:
            edge = made.edge(held=False, max_active=ACTIVE, max_queue=QUEUE)
            rows = asyncio.run(measure(edge.address, rounds, seconds))
    of = {kind: [r["goodput_per_s"] for r in rows if r["load"] == kind] for kind in ("peak", "2x")}
    shares = [over / peak for peak, over in zip(of["peak"], of["2x"], strict=True)]
    ratios = {
        "goodput at 2x load / peak": statistics.median(shares),
        "goodput at 2x load / peak, each round": shares,
        "refusals with RetryInfo / refusals": sum(r["with_retry_info"] for r in rows)
        / max(sum(r["refused"] for r in rows), 1),
    }
    print(ratios)
    if write:
        report.write("overload", rows, ratios, {})


if __name__ == "__main__":
    typer.run(main)
