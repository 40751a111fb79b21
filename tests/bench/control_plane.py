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
import json
import time
from statistics import median, quantiles
from typing import Any

import typer
from rich.progress import track

from baton.common.rpc.access import OPEN
from baton.device_client import Client, coordination
from tests.bench import report
from tests.support.node_processes import Link, nodes

PICTURES, WARM = 30, 3
STEPS, ARM = 10, "relay@0.4"
ROUND_TRIP = 0.04


def _computed(coordinator: str, decision_id: str) -> tuple[float, float]:
    """Seconds computed at the edge and here, as they were reported."""
    while True:
        link = coordination.Link(coordinator, OPEN, 5.0)
        told = asyncio.run(coordination.explain(link, decision_id)).outcome
        if told is not None:
            return told.edge_compute_seconds, told.device_seconds
        time.sleep(0.05)


def measure(label: str, delay: float) -> dict[str, Any]:
    """One row: medians over the pictures, after a few that do not count."""
    link = Link(delay) if delay else None
    with nodes(link) as world, Client(coordinator=world.known) as client:
        took, told, before = [], [], 0
        for index in track(range(WARM + PICTURES), f"{label}, {delay * 1000:g} ms more"):
            if index == WARM:
                before = world.trips()
            begun = time.perf_counter()
            result = client.generate("a red cat", arm=ARM, steps=STEPS, seed=index)
            took.append(time.perf_counter() - begun)
            told.append((result.decision_id, result.seconds.total))
        done = [_computed(world.coordinator, decision_id) for decision_id, _ in told]
        trips = (world.trips() - before) / PICTURES if link else None
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
