"""What a picture costs beside its drawing: time outside of models, and round trips.

    python -m tests.bench.control_plane [--label NAME]

A coordinator and an edge run as processes of their own, and one client draws picture after picture,
warm. ``control_plane_ms`` is ``seconds.total`` less what the edge, by its own clock, and the device
computed, decoding included; ``outside_total_ms`` is what else the call took, as for the scorer.
Once over loopback alone, once with 40 ms of round trip added on the way to both nodes, where
handshakes and answered calls are counted, too, reports among them. Writes
``bench/control_plane.json``; rows of other labels stay in it, to compare with another commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import typer
from rich.progress import track

from baton.common.rpc.access import OPEN
from baton.coordinator import admin
from baton.device_client import Client, coordination
from baton.device_client.cli.node_process import announced_process
from tests.bench import report
from tests.support.meters import Meter
from tests.support.nodes import closed_port

PICTURES, WARM = 30, 3
STEPS, ARM = 10, "relay@0.4"
ROUND_TRIP = 0.04
_PATIENCE = 120.0
_COORDINATOR = ("baton.coordinator.cli", "serve", "--port", "0")
_EDGE = ("baton.edge_server.cli", "serve", "--node-id", "bench")


def _carry(target: str, delay: float, told: Connection) -> None:
    """A meter as a process; it answers whatever it is sent with what it has counted."""

    async def carry() -> None:
        async with Meter(delay) as meter:
            meter.target = target
            told.send(meter.address)
            while await asyncio.to_thread(told.recv):
                told.send((meter.connections, meter.trips))

    asyncio.run(carry())


@contextlib.contextmanager
def metered(target: str, delay: float) -> Iterator[tuple[str, Connection]]:
    """The address of a meter before ``target``, and what answers with its counts."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_carry, args=(target, delay, there))
    process.start()
    try:
        yield here.recv(), here
    finally:
        here.send(None)
        process.join()


@contextlib.contextmanager
def _node(*arguments: str) -> Iterator[str]:
    """A node as a process; yields its address."""
    command = [sys.executable, "-m", *arguments]
    with (
        tempfile.TemporaryFile("w+") as log,
        announced_process(command, log, _PATIENCE) as address,
    ):
        yield address


@contextlib.contextmanager
def world(delay: float) -> Iterator[tuple[str, str, list[Connection]]]:
    """The coordinator's address, its own and the device's for it; the meters before both nodes."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        database = str(Path(folder) / "coordinator.db")
        brain = stack.enter_context(_node(*_COORDINATOR, "--db", database))
        where = closed_port()
        meters: list[Connection] = []
        more: list[str] = []
        known = brain
        if delay:
            advertised, counted = stack.enter_context(metered(where, delay))
            known, asked = stack.enter_context(metered(brain, delay))
            more, meters = ["--advertise", advertised], [asked, counted]
        port = where.rpartition(":")[2]
        stack.enter_context(_node(*_EDGE, "--coordinator", brain, "--port", port, *more))
        while not admin.nodes(brain):
            time.sleep(0.1)
        yield brain, known, meters


def _computed(coordinator: str, decision_id: str) -> tuple[float, float]:
    """Seconds computed at the edge and here, as they were reported."""
    while True:
        link = coordination.Link(coordinator, OPEN, 5.0)
        told = asyncio.run(coordination.explain(link, decision_id)).outcome
        if told is not None:
            return told.edge_compute_seconds, told.device_seconds
        time.sleep(0.05)


def _counts(meters: list[Connection]) -> int:
    """Handshakes and calls so far."""
    total = 0
    for meter in meters:
        meter.send("count")
        total += sum(meter.recv())
    return total


def measure(label: str, delay: float) -> dict[str, Any]:
    """One row: medians over the pictures, after a few that do not count."""
    with world(delay / 2) as (brain, known, meters), Client(coordinator=known) as client:
        took, told, before = [], [], 0
        for index in track(range(WARM + PICTURES), f"{label}, {delay * 1000:g} ms more"):
            if index == WARM:
                before = _counts(meters)
            begun = time.perf_counter()
            result = client.generate("a red cat", arm=ARM, steps=STEPS, seed=index)
            took.append(time.perf_counter() - begun)
            told.append((result.decision_id, result.seconds.total))
        done = [_computed(brain, decision_id) for decision_id, _ in told]
        trips = (_counts(meters) - before) / PICTURES if meters else None
    told, took, done = told[WARM:], took[WARM:], done[WARM:]
    control = [1000 * (total - sum(of)) for (_, total), of in zip(told, done, strict=True)]
    outside = [1000 * (wall - total) for wall, (_, total) in zip(took, told, strict=True)]
    return {
        "label": label,
        "commit": report.commit(),
        "added_round_trip_ms": 1000 * delay,
        "pictures": PICTURES,
        "wall_ms": 1000 * median(took),
        "edge_ms": 1000 * median(edge for edge, _ in done),
        "device_ms": 1000 * median(device for _, device in done),
        "control_plane_ms": median(control),
        "control_plane_ms_p90": quantiles(control, n=10)[-1],
        "outside_total_ms": median(outside),
        "wire_round_trips": trips,
    }


def main(label: str = "now") -> None:
    """Measure, and write the rows beside those of other labels."""
    path = report.FOLDER / "control_plane.json"
    known = json.loads(path.read_text())["rows"] if path.exists() else []
    rows = [row for row in known if row["label"] != label]
    rows += [measure(label, delay) for delay in (0.0, ROUND_TRIP)]
    figures = {
        f"control_plane_ms, {row['label']}, {row['added_round_trip_ms']:g} ms more": row[
            "control_plane_ms"
        ]
        for row in rows
    }
    print(report.write("control_plane", rows, figures, {}))


if __name__ == "__main__":
    typer.run(main)
