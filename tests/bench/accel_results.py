"""What the accelerations' benchmark concludes from its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from baton.common.accel.propagation import Propagation
from tests.bench.accel_configs import STEPS
from tests.bench.curves import Drawing
from tests.bench.ratios import (
    GRADED_MARGIN,
    Loss,
    Point,
    best_within,
    paired_difference,
)

Result = dict[str, Any]

_ACCELERATED = ("claimed", "both")


def ratios_of(rows: Sequence[Result], relays: Sequence[Result]) -> Result:
    """The speedups that are claimed, of `large`, and of the fastest relay within the margin."""
    large = {row["name"]: row for row in rows if row["member"] == "large"}
    ratios: Result = {
        "propagate_serial": large["propagate-serial"]["speedup"],
        "propagate_parallel": large["propagate-parallel"]["speedup"],
        "masks": large["masks"]["speedup"],
        "full": large["full"]["speedup"],
        "plain_over_diffusers": large["plain"]["speedup"],
    }
    fit = [row for row in relays if _within(row)]
    fastest = max(fit, key=lambda row: float(row["speedup"]), default=None)
    ratios["relay_full"] = fastest["speedup"] if fastest else None
    ratios["relay_full_accel"] = fastest["accel"] if fastest else None
    return ratios


def _within(row: Result) -> bool:
    """Whether the whole interval of the graded loss is within the margin."""
    return bool(row["graded_minus_reference_low"] >= -GRADED_MARGIN)


def alternatives(rows: Sequence[Result]) -> dict[str, Point | None]:
    """For each acceleration among one member's rows, the best run of fewer steps as fast as it."""
    fewer = [
        Point(row["name"], row["seconds"], row["graded"])
        for row in rows
        if row["kind"] == "fewer steps"
    ]
    return {
        row["name"]: best_within(fewer, row["seconds"])
        for row in rows
        if row["kind"] in _ACCELERATED
    }


def at_equal_time(rows: Sequence[Result], drawings: Mapping[str, Drawing]) -> dict[str, Result]:
    """Each acceleration among one member's rows against the best run of fewer steps as fast as it.

    ``minus_fewer_steps`` is the paired graded difference with its interval.
    """
    told: dict[str, Result] = {}
    by_name = {row["name"]: row for row in rows}
    for name, best in alternatives(rows).items():
        told[name] = {key: by_name[name][key] for key in ("seconds", "graded")}
        told[name]["fewer_steps"] = None if best is None else asdict(best)
        if best is not None:
            difference = paired_difference(drawings[name].graded, drawings[best.name].graded)
            told[name]["minus_fewer_steps"] = asdict(difference)
    return told


def loss_of(one: Drawing, other: Drawing) -> Loss:
    """Paired, over the same prompts and seeds."""
    return Loss(
        paired_difference(one.graded, other.graded), paired_difference(one.strict, other.strict)
    )


def ceiling(propagation: Propagation, share: float) -> float:
    """Serial propagation's speed if nothing but the encoder's time counted."""
    keys = len(propagation.keys_for(STEPS))
    return STEPS / (keys + (STEPS - keys) * share)


def score_of(row: Result) -> Result:
    return {key: row[key] for key in ("graded", "strict", "n", "ci95", "strict_ci95")}
