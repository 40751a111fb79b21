"""Kills a coordinator under load, and asks devices to do without one: ``bench/coordinator_kills``.

    python -m tests.bench.coordinator_kills [--kills 200]

A kill that loses an acknowledged report, or counts one twice, ends the run with an AssertionError.
The load average stands beside the times, for a busy machine stretches them; the processor time of
a start hardly changes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

from baton.device_client.events import Decided
from baton.device_client.sdk import AsyncClient
from tests.bench.report import write
from tests.support.crashes import Life, endure, serving
from tests.support.families import write_family
from tests.support.nodes import closed_port, device

_ASKED = 5


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [_kills(folder / "c.db", arguments.kills, arguments.seed), *_absences(folder)]
    print(write("coordinator_kills", rows, {}, {}))


def _kills(db: Path, kills: int, seed: int) -> dict[str, Any]:
    lives: list[Life] = []
    for life in endure(db, kills, seed):
        lives.append(life)
        print(f"{len(lives) - 1} of {kills} kills; started in {life.start_seconds:.2f} s")
    restarts = lives[1:]
    return {
        "case": "restart after SIGKILL under load",
        "kills": kills,
        "acknowledged_operations": sum(life.operations for life in lives),
        "rewards_at_the_end": lives[-1].rewards,
        "lost": 0,
        "counted_twice": 0,
        "start_seconds": _spread([life.start_seconds for life in restarts]),
        "start_cpu_seconds": _spread([life.start_cpu_seconds for life in restarts]),
        "load_average": os.getloadavg()[0],
    }


def _absences(folder: Path) -> Iterator[Mapping[str, Any]]:
    family = write_family(folder / "family")
    with _silent() as silent, serving(folder / "stopped.db") as stopped:
        stopped.process.send_signal(signal.SIGSTOP)
        cases = {
            "nobody listens": closed_port(),
            "connections are taken, nothing is answered": silent,
            "the coordinator is stopped (SIGSTOP)": stopped.address,
        }
        for case, address in cases.items():
            with device(family, members="small", coordinator=address) as client:
                times = [asyncio.run(_seconds_to_decide(client)) for _ in range(_ASKED)]
                timeout = client.settings.coordinator_timeout
            yield {
                "case": f"absent: {case}",
                "coordinator_timeout": timeout,
                "seconds_to_decision": _spread(times),
                "load_average": os.getloadavg()[0],
            }


async def _seconds_to_decide(client: AsyncClient) -> float:
    begun = time.monotonic()
    async with aclosing(client.stream("a red cat", steps=1)) as events:
        async for event in events:
            if isinstance(event, Decided):
                return time.monotonic() - begun
    raise AssertionError("no decision")


@contextmanager
def _silent() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "max": max(values), "n": len(values)}


if __name__ == "__main__":
    main()
