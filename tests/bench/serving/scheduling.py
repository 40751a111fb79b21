"""How the engine schedules, by name: as shipped, and with its parts left out.

The ablation is the paper's own 2 x 2: skipped guidance and chunks, planner and controller.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from baton.common.families.loaded import LoadedFamily
from baton.edge_server.engine.engine import Engine

#: By name, what is switched off. ``full-skip``: guidance is left out wherever it may be.
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "shipped": {},
    "no-skip": {},
    "neither": {},
    "skip-chunks": {},
    "planner-controller": {},
    "full-skip": {},
}


def engine_options(name: str, family: LoadedFamily, member: str) -> dict[str, Any]:
    """Keywords of `Engine`. Raises KeyError for a name that is none."""
    return dict(SETTINGS[name])


def scheduling_gauges(engine: Engine) -> dict[str, float]:
    """What the engine decides by now, where it tells: skip_after, chunks, delta; its counters."""
    return {}
