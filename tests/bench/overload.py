"""More than an edge can bear: what it still finishes in time, how soon it refuses, and whom.

    python -m tests.bench.overload [--quick] [--family tiny]

``goodput_3x``: three times the peak's rate of requests at random times, whether or not the last
ones are done, each with three or eight times the seconds to be done in that one takes alone;
against the peak, which is measured before and after each of these, with twice as many clients as
run together. ``fair_share``: two callers, one sends ten times its share and the other 0.8 of its
own, which is half of the peak; how much of what the other offers is done. An edge at its shipped
defaults, in a process of its own. Writes ``bench/overload.json``; on a machine with other work look
at what is done per CPU second.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import random
import secrets
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

from baton.common.arm import Arm
from baton.common.errors import Overloaded
from baton.common.expansion import plan_of
from baton.common.rpc import PROTOCOL_VERSION
from baton.common.rpc.access import Access
from baton.common.rpc.channel import channel_to
from baton.common.rpc.convert import plan_to_proto
from baton.common.rpc.status import from_rpc_error
from baton.v1 import edge_pb2
from baton.v1.edge_pb2_grpc import EdgeStub
from tests.bench import report
from tests.support.families import NAME, SIZE, write_family
from tests.support.processes import EdgeProcess, forker
from tests.support.tasks import PROMPTS

ACTIVE = 16
STEPS = 20
CALLERS = ("modest", "flooding")
DEADLINES = (3, 8)
PATIENT = 600.0


@dataclass
class Tally:
    """What became of the requests of one phase.

    took: seconds of those that were done; expired: had been accepted and did not end in time;
    displaced: had been accepted and made room for another; hopeless: refused since they would have
    taken longer even alone; refused: seconds of every refusal as overload.
    """

    offered: int = 0
    expired: int = 0
    displaced: int = 0
    hopeless: int = 0
    refused: list[float] = field(default_factory=list)
    with_retry_info: int = 0
    took: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Drawing:
    """What every request asks for."""

    family: str
    arm: str
    side: int

    def request(self, seed: int) -> edge_pb2.DenoiseRequest:
        arm = Arm.parse(self.arm)
        steps = STEPS * (2 if ">" in self.arm else 1)
        plan = plan_of(arm, self.family, "ddim", steps, 3.0)
        return edge_pb2.DenoiseRequest(
            protocol_version=PROTOCOL_VERSION,
            request_id=uuid.uuid4().hex,
            prompt=PROMPTS[seed % len(PROMPTS)],
            plan=plan_to_proto(plan),
            seed=seed,
            width=self.side,
            height=self.side,
            codec="fp16",
        )


class Load:
    """Requests of one caller to one edge."""

    def __init__(self, stub: Any, drawing: Drawing) -> None:
        self._stub = stub
        self._drawing = drawing
        self._sent = itertools.count()

    async def one(self, tally: Tally, timeout: float) -> None:
        tally.offered += 1
        begun, accepted = time.monotonic(), False
        try:
            request = self._drawing.request(next(self._sent))
            async for _ in self._stub.Denoise(request, timeout=timeout):
                accepted = True
        except grpc.aio.AioRpcError as error:
            self._failed(tally, error, accepted, time.monotonic() - begun)
        else:
            tally.took.append(time.monotonic() - begun)

    def _failed(
        self, tally: Tally, error: grpc.aio.AioRpcError, accepted: bool, seconds: float
    ) -> None:
        overloaded = isinstance(from_rpc_error(error, "the edge"), Overloaded)
        if accepted and overloaded:
            tally.displaced += 1
        elif accepted:
            tally.expired += 1
        elif not overloaded:
            tally.hopeless += 1
        else:
            tally.refused.append(seconds)
            tally.with_retry_info += b"RetryInfo" in dict(error.trailing_metadata() or ()).get(
                "grpc-status-details-bin", b""
            )

    async def alone(self, count: int) -> float:
        """Median seconds of a request that has the edge for itself."""
        tally = Tally()
        for _ in range(count):
            await self.one(tally, PATIENT)
        return statistics.median(tally.took)

    async def closed(self, seconds: float) -> Tally:
        """Twice as many clients as run together, each with its next request as one is done."""
        tally, begun = Tally(), time.monotonic()

        async def client() -> None:
            while time.monotonic() - begun < seconds:
                await self.one(tally, PATIENT)

        await asyncio.gather(*(client() for _ in range(2 * ACTIVE)))
        return tally

    async def open(self, rate: float, seconds: float, timeout: float, seed: int = 0) -> Tally:
        """Requests at random times, so many a second, whatever became of the last ones."""
        tally, begun, chance = Tally(), time.monotonic(), random.Random(seed)
        due, running = begun, set[asyncio.Task[None]]()
        while due < begun + seconds:
            await asyncio.sleep(max(due - time.monotonic(), 0))
            task = asyncio.create_task(self.one(tally, timeout))
            running.add(task)
            task.add_done_callback(running.discard)
            due += chance.expovariate(rate)
        await asyncio.gather(*running)
        return tally


class Meter:
    """Seconds, and seconds of processor: a measure of work on a machine that others use, too."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.reset()

    def reset(self) -> None:
        self._begun, self._cpu = time.monotonic(), self._of_processor()

    def row(self, load: str, timeout: float, tally: Tally) -> dict[str, Any]:
        """What was done since the last reset."""
        done = len(tally.took)
        return {
            "load": load,
            "deadline_s": timeout,
            "offered": tally.offered,
            "done": done,
            "expired": tally.expired,
            "displaced": tally.displaced,
            "hopeless": tally.hopeless,
            "refused": len(tally.refused),
            "with_retry_info": tally.with_retry_info,
            "goodput_per_s": done / (time.monotonic() - self._begun),
            "done_per_cpu_s": done / (self._of_processor() - self._cpu),
            "seconds_p50": quantile(tally.took, 0.5),
            "refusal_ms_p50": 1000 * quantile(tally.refused, 0.5),
            "refusal_ms_p99": 1000 * quantile(tally.refused, 0.99),
        }

    def _of_processor(self) -> float:
        times = self._process.cpu_times()
        return times.user + times.system


@dataclass
class Bench:
    """Phases against one edge; loads by caller."""

    loads: dict[str, Load]
    meter: Meter
    seconds: float
    rows: list[dict[str, Any]] = field(default_factory=list)

    async def peak(self) -> float:
        """Requests a second."""
        self.meter.reset()
        tally = await self.loads[CALLERS[0]].closed(self.seconds / 3)
        return float(self._note(self.meter.row("peak", PATIENT, tally))["goodput_per_s"])

    async def goodput(self, alone: float) -> dict[str, float]:
        """By deadline, three times the peak against the peak."""
        found, before = {}, await self.peak()
        for times in DEADLINES:
            self.meter.reset()
            tally = await self.loads[CALLERS[0]].open(3 * before, self.seconds, times * alone)
            row = self._note(self.meter.row(f"3x, {times}x alone", times * alone, tally))
            after = await self.peak()
            peaks, cpu = self.rows[-3::2], "done_per_cpu_s"
            found[f"goodput_3x, {times}x alone"] = 2 * row["goodput_per_s"] / (before + after)
            found[f"the same per CPU second, {times}x alone"] = row[cpu] / statistics.mean(
                peak[cpu] for peak in peaks
            )
            before = after
        return found

    async def fairness(self, timeout: float, name: str) -> dict[str, float]:
        """What is done of what each of two callers offers, the one with ten times its share."""
        share = await self.peak() / 2
        rates = {"modest": 0.8 * share, "flooding": 10 * share}
        self.meter.reset()
        tallies = await asyncio.gather(
            *(
                self.loads[caller].open(rates[caller], self.seconds, timeout, seed)
                for seed, caller in enumerate(CALLERS)
            )
        )
        for caller, tally in zip(CALLERS, tallies, strict=True):
            self._note(self.meter.row(f"{caller} of two, {name}", timeout, tally))
        modest = tallies[0]
        return {f"fair_share, {name}": len(modest.took) / modest.offered}

    def _note(self, row: dict[str, Any]) -> dict[str, Any]:
        self.rows.append(row)
        print(row, flush=True)
        return row


async def measure(
    edge: EdgeProcess, tokens: dict[str, str], drawing: Drawing, seconds: float
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    async with (
        channel_to(edge.address, Access(token=tokens["modest"])) as modest,
        channel_to(edge.address, Access(token=tokens["flooding"])) as flooding,
    ):
        stubs = dict(zip(CALLERS, (EdgeStub(modest), EdgeStub(flooding)), strict=True))
        loads = {caller: Load(stub, drawing) for caller, stub in stubs.items()}
        bench = Bench(loads, Meter(edge.pid), seconds)
        await loads["modest"].alone(3)
        alone = await loads["modest"].alone(9)
        ratios = {"seconds alone": alone, **await bench.goodput(alone)}
        ratios |= await bench.fairness(PATIENT, "no deadline")
        for times in DEADLINES:
            ratios |= await bench.fairness(times * alone, f"{times}x alone")
        return bench.rows, ratios


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))] if values else float("nan")


def written_tokens(path: Path) -> dict[str, str]:
    """By caller; their hashes lie in the file."""
    tokens = {caller: secrets.token_hex(32) for caller in CALLERS}
    path.write_text(
        "".join(
            f'"sha256:{hashlib.sha256(token.encode()).hexdigest()}"'
            f' = {{ name = "{caller}", role = "device" }}\n'
            for caller, token in tokens.items()
        )
    )
    return tokens


def main(
    family: str = "scenes",
    arm: str = "edge/small",
    seconds: float = 60.0,
    quick: bool = False,
    write: bool = True,
) -> None:
    """quick: a few seconds a phase, which shows that it works and no more."""
    seconds = min(seconds, 6.0) if quick else seconds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokens = written_tokens(folder / "tokens.toml")
        of = write_family(folder / "family") if family == NAME else Path(family)
        drawing = Drawing(family, arm, SIZE if family == NAME else 32)
        with forker(of, folder) as made:
            edge = made.edge(held=False, tokens=str(folder / "tokens.toml"))
            rows, ratios = asyncio.run(measure(edge, tokens, drawing, seconds))
    named = {
        "goodput_3x": min(ratios[f"goodput_3x, {times}x alone"] for times in DEADLINES),
        "fair_share": ratios["fair_share, no deadline"],
    }
    print(named | ratios)
    if write and not quick:
        report.write("overload", rows, named | ratios, {})


if __name__ == "__main__":
    typer.run(main)
