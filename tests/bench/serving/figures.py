"""What ``bench/serve.json`` says in one number each: its ``ratios``, and the rows of its points."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from tests.bench import report
from tests.bench.ratios import PairedRatio, paired_ratio
from tests.bench.serving.closed import STRAW, Loop
from tests.bench.serving.metrics import Alone, Slice, row_of
from tests.bench.serving.stages import Points

Loops = Mapping[str, Sequence[Loop]]


def against(loops: Loops, one: str, other: str) -> PairedRatio:
    """Pictures a second, round by round."""
    return paired_ratio([loop.pace for loop in loops[one]], [loop.pace for loop in loops[other]])


def share_of_bare(loops: Loops, one: str, serial: str, bare: Sequence[float]) -> PairedRatio:
    """What is gained over diffusers serial, of what a bare loop gains at batch 8 over batch 1."""
    gains = [
        mine.pace / theirs.pace for mine, theirs in zip(loops[one], loops[serial], strict=True)
    ]
    return paired_ratio(gains, bare)


def skip_saving(loops: Loops, lean: str, full: str) -> PairedRatio:
    """Of the rows that skipping saves, the share that comes back as time.

    Per picture, (1 - seconds / seconds) / (1 - rows / rows). Raises ZeroDivisionError if no row was
    saved.
    """
    pairs = list(zip(loops[lean], loops[full], strict=True))
    time = [1 - whole.pace / some.pace for some, whole in pairs]
    return paired_ratio(time, [1 - some.rows / whole.rows for some, whole in pairs])


def straws(loops: Loops) -> dict[str, float]:
    """By baseline, its throughput over that of its calls alone: the median of the rounds."""
    found = {
        name: [loop.straw for loop in of if loop.straw is not None] for name, of in loops.items()
    }
    return {name: median(shares) for name, shares in found.items() if shares}


def of_straw(shares: Mapping[str, float]) -> list[str]:
    """Baselines that could have done better."""
    return [name for name, share in shares.items() if share < STRAW]


def planned_share(slices: Sequence[Slice]) -> float | None:
    """Of the rounds that denoised, those that a plan chose."""
    planned = chosen = 0.0
    for part in slices:
        told = [look for look in part.series if "planned" in look]
        if told:
            planned += told[-1]["planned"] - told[0]["planned"]
            chosen += sum(told[-1][name] - told[0][name] for name in ("planned", "greedy"))
    return planned / chosen if chosen else None


def closed_rows(loops: Loops, load: str) -> list[dict[str, Any]]:
    return [
        {
            "load": load,
            "name": name,
            "pace_per_s": median(loop.pace for loop in of),
            "paces_per_s": [loop.pace for loop in of],
            "rows_per_picture": median(loop.rows for loop in of),
            "cpu_seconds": sum(loop.cpu_seconds for loop in of),
            "straw": straws({name: of}).get(name),
        }
        for name, of in loops.items()
    ]


def point_rows(points: Points, alone: Alone) -> list[dict[str, Any]]:
    return [
        {"load": load, "name": name, "seeds": len(points.seeds[name, load])} | row_of(of, alone)
        for (name, load), of in points.slices.items()
    ]


def told(ratio: PairedRatio) -> dict[str, Any]:
    return asdict(ratio)


#: Of ``bench/overload.json``, what this benchmark tells as its own.
OVERLOAD = ("goodput_3x", "fair_share")


def overload_ratios() -> dict[str, Any]:
    """As ``tests.bench.overload`` measured them; None for what it did not."""
    path = report.FOLDER / "overload.json"
    found = json.loads(path.read_text())["ratios"] if path.is_file() else {}
    return {name: found.get(name) for name in OVERLOAD}
