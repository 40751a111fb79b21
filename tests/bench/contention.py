"""What contention between UNet and VAE costs, *simulated*: ``python -m tests.bench.contention``.

The slowdown of a UNet call beside a whole decode is swept; the latency model is that of
`tests.bench.simulation`. At each setting a fixed number of requests arrives at 1.05 times what
direct concurrency can serve, which is found by letting all arrive at once. There throughput is
bounded by what arrives, so ratios of capacities are told beside it.

A row is a system at a setting, every field simulated:

- ``slowdown``, ``power``, ``decode_steps``: of the latency model.
- ``throughput``, ``mean_seconds``, ``p99_seconds``: at that rate; ``capacity``: all at once. Each
  with its ratio to direct concurrency at the same setting, ``*_to_direct``.
- ``planned_share``, ``skipped_rows_share``, ``mean_level``: of the engine's rounds at that rate.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import track

from baton.common.files import saving
from tests.bench.simulation import (
    SKIPPING,
    UNSKIPPED,
    Asked,
    Costs,
    Outcome,
    by_rounds,
    directly,
    in_batches,
    trace,
)

LOAD = 1.05
DIRECT = "direct concurrency"
ENGINE, UNSKIPPED_ENGINE = "rounds", "rounds, without skipping"
SYSTEMS: Mapping[str, Callable[[Sequence[Asked], Costs], Outcome]] = {
    DIRECT: directly,
    "dynamic batching": in_batches,
    UNSKIPPED_ENGINE: lambda asked, costs: by_rounds(asked, costs, UNSKIPPED),
    ENGINE: lambda asked, costs: by_rounds(asked, costs, SKIPPING),
}
SWEEP = tuple(Costs(slowdown) for slowdown in (0.0, 0.2, 0.4, 0.6, 0.8))
#: Contention that adds up however decodes are cut, and decodes that weigh more than Table I's.
CONTROLS = (
    Costs(0.8, power=1),
    Costs(0.0, decode_steps=10),
    Costs(0.8, decode_steps=10),
    Costs(0.8, decode_steps=30),
)
#: SynerDiff's gains over direct concurrency: throughput, and mean and P99 latency.
CLAIMED = {"capacity": 1.6, "mean_seconds": 1 - 0.787, "p99_seconds": 1 - 0.787}
_COMPARED = ("throughput", "capacity", "mean_seconds", "p99_seconds")


def setting_rows(costs: Costs, count: int, at_once: int) -> list[dict[str, Any]]:
    """Every system at one setting, direct concurrency first."""
    flood = trace(at_once, float("inf"))
    capacities = {name: run(flood, costs).throughput for name, run in SYSTEMS.items()}
    asked = trace(count, LOAD * capacities[DIRECT])
    rows = [
        {
            "name": f"simulated, {name}",
            "slowdown": costs.slowdown,
            "power": costs.power,
            "decode_steps": costs.decode_steps,
            "n": count,
            "capacity": capacities[name],
            **run(asked, costs).told(),
        }
        for name, run in SYSTEMS.items()
    ]
    for row in rows:
        row |= {f"{key}_to_direct": row[key] / rows[0][key] for key in _COMPARED}
    return rows


def reached(rows: Sequence[Mapping[str, Any]], key: str, value: float) -> float | None:
    """At which slowdown a ratio passes a value, between the rows of a sweep; None if it does not.

    Passing is rising to a value above 1 and falling to one below.
    """
    sign = 1 if value > 1 else -1
    points = [(row["slowdown"], sign * (row[f"{key}_to_direct"] - value)) for row in rows]
    if points[0][1] >= 0:
        return float(points[0][0])
    for (x, before), (next_x, after) in pairwise(points):
        if after >= 0:
            return float(x + (next_x - x) * before / (before - after))
    return None


def ratios(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By system its ratios along the sweep, and where the paper's gains are reached."""
    told: dict[str, Any] = {}
    for name in SYSTEMS:
        swept = [
            row
            for row in rows
            if row["name"] == f"simulated, {name}"
            and Costs(row["slowdown"], row["power"], row["decode_steps"]) in SWEEP
        ]
        told[name] = {
            f"{key}_to_direct": [row[f"{key}_to_direct"] for row in swept] for key in _COMPARED
        }
        told[name]["claim_reached_at"] = {
            key: reached(swept, key, value) for key, value in CLAIMED.items()
        }
    return told


def contention(quick: bool = False) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows and ratios of the whole simulation; minutes, or seconds if quick."""
    settings = (SWEEP[0], SWEEP[-1]) if quick else (*SWEEP, *CONTROLS)
    count, at_once = (500, 250) if quick else (5000, 1000)
    rows = [
        row
        for costs in track(settings, description="simulating", transient=True)
        for row in setting_rows(costs, count, at_once)
    ]
    return rows, ratios(rows)


def main(
    quick: Annotated[bool, typer.Option(help="Fewer requests and settings.")] = False,
    out: Annotated[Path, typer.Option(help="File for rows and ratios.")] = Path(
        "runs/contention.json"
    ),
) -> None:
    """Simulate, print where the paper's gains are reached, write rows and ratios."""
    rows, told = contention(quick)
    for row in rows:
        compared = "  ".join(f"{key} {row[f'{key}_to_direct']:.3f}" for key in _COMPARED)
        setting = f"{row['slowdown']:.0%}, power {row['power']}, {row['decode_steps']} steps"
        typer.echo(f"{row['name']:<37} {setting:<30} {compared}")
    for name, each in told.items():
        typer.echo(f"{name}: reached at {each['claim_reached_at']}")
    out.parent.mkdir(parents=True, exist_ok=True)
    with saving(out) as file:
        file.write(json.dumps({"rows": rows, "ratios": told}, indent=1).encode() + b"\n")


if __name__ == "__main__":
    typer.run(main)
