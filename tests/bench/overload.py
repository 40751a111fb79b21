"""Twice the load that an edge can bear: what it still finishes in time, and how soon it refuses.

    python -m tests.bench.overload

Each round measures the peak, with twice as many clients as the edge runs together, and then sends
requests at twice that rate whether or not the last ones are done, each with three times the median
seconds of the peak to be done in. Tiny random members, an edge in a process of its own. Writes
``bench/overload.json``.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import psutil
import typer

from baton.common.errors import Overloaded
from baton.common.rpc import PROTOCOL_VERSION
from baton.common.rpc.channel import channel_to
from baton.common.rpc.convert import plan_to_proto
from baton.common.rpc.status import from_rpc_error
from baton.v1 import edge_pb2
from baton.v1.edge_pb2_grpc import EdgeStub
from tests.bench import report
from tests.support.families import write_family
from tests.support.processes import EdgeProcess, forker
from tests.support.tasks import PROMPTS, plan

STEPS = 20
ACTIVE, QUEUE = 8, 24


@dataclass
class Tally:
    """What became of the requests of one phase.

    took: seconds of those that were done; expired: had been accepted; hopeless: refused since they
    would have taken longer even alone; refused: seconds of every refusal as overload.
    """

    offered: int = 0
    expired: int = 0
    hopeless: int = 0
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
        begun, accepted = time.monotonic(), False
        try:
            async for _ in self._stub.Denoise(self._request(), timeout=self._timeout):
                accepted = True
        except grpc.aio.AioRpcError as error:
            if accepted:
                tally.expired += 1
            else:
                self._refused(tally, error, time.monotonic() - begun)
        else:
            tally.took.append(time.monotonic() - begun)

    def _refused(self, tally: Tally, error: grpc.aio.AioRpcError, seconds: float) -> None:
        if not isinstance(from_rpc_error(error, "the edge"), Overloaded):
            tally.hopeless += 1
            return
        tally.refused.append(seconds)
        tally.with_retry_info += b"RetryInfo" in dict(error.trailing_metadata() or ()).get(
            "grpc-status-details-bin", b""
        )

    def _request(self) -> edge_pb2.DenoiseRequest:
        return edge_pb2.DenoiseRequest(
            protocol_version=PROTOCOL_VERSION,
            request_id=uuid.uuid4().hex,
            prompt=PROMPTS[0],
            plan=plan_to_proto(plan("edge/large@0.5>device/small", 2 * STEPS)),
            seed=self._sent,
            width=16,
            height=16,
            codec="fp16",
        )


async def closed(load: Load, clients: int, seconds: float) -> tuple[Tally, float]:
    """So many clients, each with its next request as soon as the last one is done; and the rate."""
    tally, begun = Tally(), time.monotonic()

    async def client() -> None:
        while time.monotonic() - begun < seconds:
            await load.one(tally)

    await asyncio.gather(*(client() for _ in range(clients)))
    return tally, len(tally.took) / (time.monotonic() - begun)


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
    return tally, len(tally.took) / (time.monotonic() - begun)


async def measure(edge: EdgeProcess, rounds: int, seconds: float) -> list[dict[str, Any]]:
    chance, process = random.Random(0), psutil.Process(edge.pid)
    async with channel_to(edge.address) as channel:
        stub = EdgeStub(channel)
        await closed(Load(stub, 600), 2 * ACTIVE, seconds / 3)
        rows = []
        for number in range(rounds):
            before = cpu(process)
            peak, best = await closed(Load(stub, 600), 2 * ACTIVE, seconds)
            timeout, between = 3 * statistics.median(peak.took), cpu(process)
            over, good = await open_(Load(stub, timeout), 2 * best, seconds, chance)
            rows.append(row(number, "peak", timeout, peak, best))
            rows.append(row(number, "2x", timeout, over, good))
            rows[-2]["done_per_cpu_s"] = len(peak.took) / (between - before)
            rows[-1]["done_per_cpu_s"] = len(over.took) / (cpu(process) - between)
            print(rows[-2], rows[-1], sep="\n")
    return rows


def cpu(process: psutil.Process) -> float:
    """Seconds of processor that it has had: a measure of work on a machine that others use, too."""
    times = process.cpu_times()
    return times.user + times.system


def row(number: int, load: str, timeout: float, tally: Tally, goodput: float) -> dict[str, Any]:
    return {
        "round": number,
        "load": load,
        "deadline_s": timeout,
        "offered": tally.offered,
        "done": len(tally.took),
        "expired": tally.expired,
        "hopeless": tally.hopeless,
        "refused": len(tally.refused),
        "with_retry_info": tally.with_retry_info,
        "goodput_per_s": goodput,
        "refusal_ms_p50": 1000 * quantile(tally.refused, 0.5),
        "refusal_ms_p99": 1000 * quantile(tally.refused, 0.99),
    }


def compared(rows: list[dict[str, Any]], field: str, name: str) -> dict[str, Any]:
    """The median of the rounds' ratios, and all of them."""
    of = {load: [row[field] for row in rows if row["load"] == load] for load in ("peak", "2x")}
    shares = [over / peak for peak, over in zip(of["peak"], of["2x"], strict=True)]
    return {name: statistics.median(shares), f"{name}, each round": shares}


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))] if values else float("nan")


def main(rounds: int = 5, seconds: float = 12.0, write: bool = True) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with forker(write_family(folder / "family"), folder) as made:
            edge = made.edge(held=False, max_active=ACTIVE, max_queue=QUEUE)
            rows = asyncio.run(measure(edge, rounds, seconds))
    refused = [row for row in rows if row["refused"]]
    ratios = {
        **compared(rows, "goodput_per_s", "goodput at 2x load / peak"),
        **compared(rows, "done_per_cpu_s", "done per CPU second at 2x load / peak"),
        "refusals with RetryInfo / refusals": sum(row["with_retry_info"] for row in refused)
        / max(sum(row["refused"] for row in refused), 1),
        "median refusal / 50 ms": statistics.median(row["refusal_ms_p50"] for row in refused) / 50
        if refused
        else None,
    }
    print(ratios)
    if write:
        report.write("overload", rows, ratios, {})


if __name__ == "__main__":
    typer.run(main)
