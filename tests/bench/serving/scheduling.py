"""How the engine schedules, by name: as shipped, and with its parts left out.

The ablation is the paper's own 2 x 2: skipped guidance and chunks, planner and controller. Where
guidance may be skipped and nobody controls it, it is skipped as far as the controller would go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from baton.common.families.loaded import LoadedFamily
from baton.edge_server.daemon import limits_of, steering_of
from baton.edge_server.engine.engine import Engine
from baton.edge_server.engine.steering import Steering, once
from baton.edge_server.profiled import profile_for
from baton.edge_server.settings import EdgeSettings

#: The one that `baton-edge serve` has.
SHIPPED = "shipped"
#: Skipped guidance and chunks, planner and controller: neither, and one of the two pairs.
ABLATIONS = ("neither", "skip-chunks", "planner-controller")
#: As shipped without skipping; and with as much of it as there may be, whatever the load.
NO_SKIP, FULL_SKIP = "no-skip", "full-skip"


def _never_skips(shipped: Steering) -> Steering:
    return replace(shipped, control=replace(shipped.control, floor=1.0))


def _always_skips(shipped: Steering) -> Steering:
    rest = shipped.rest._replace(skip_after=shipped.control.floor)
    return replace(shipped, controlled=False, rest=rest)


def _neither(shipped: Steering) -> Steering:
    return replace(shipped, planned=False, controlled=False, chunks=once)


def _planner_controller(shipped: Steering) -> Steering:
    control = replace(shipped.control, floor=1.0, chunks=1, most_chunks=1)
    return replace(shipped, control=control, chunks=once)


SETTINGS: Mapping[str, Callable[[Steering], Steering]] = {
    SHIPPED: lambda shipped: shipped,
    NO_SKIP: _never_skips,
    FULL_SKIP: _always_skips,
    "neither": _neither,
    "skip-chunks": lambda shipped: replace(_always_skips(shipped), planned=False),
    "planner-controller": _planner_controller,
}


def engine_for(family: LoadedFamily, name: str, **settings: Any) -> Engine:
    """As a daemon makes it, on one thread, with a quick profile of this machine.

    settings: of `EdgeSettings`. Raises KeyError for a name that is none.
    """
    shipped = EdgeSettings(state_folder=None, threads=1, **settings)
    steering = SETTINGS[name](steering_of(shipped, profile_for(shipped, family)))
    return Engine(family, "edge-bench", limits_of(shipped), threads=1, steering=steering)


def scheduling_gauges(engine: Engine) -> dict[str, float]:
    """What the engine decides by now, and how its rounds were chosen so far."""
    course = engine.course()
    return {**course.knobs._asdict(), "planned": course.planned, "greedy": course.greedy}
