"""What rules the rounds: plans by batch group, and how far the load has the edge go."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from baton.common.errors import origin
from baton.common.size import Size
from baton.edge_server.engine.latency import LatencyModel, Pace
from baton.edge_server.engine.scheduler import Planner
from baton.edge_server.scheduling.actions import Action, Bounds
from baton.edge_server.scheduling.controller import Controller, ControllerSettings, Knobs
from baton.edge_server.scheduling.planner import Latencies, Waiting
from baton.edge_server.scheduling.table import PlanTable

_log = logging.getLogger(__name__)
_TABLES = 64


class Sized(NamedTuple):
    """Calls that are alike but for their rows: of a member, for pictures of a size."""

    member: str
    size: Size


#: Latencies of such calls beside decodes that are cut into so many chunks; None: not known.
Find = Callable[[Sized, int], Latencies | None]


def unknown(pace: Sized, chunks: int) -> None:
    """A `Find` where nothing was measured."""


def once(size: Size) -> int:
    """A decode that is not cut."""
    return 1


class _Key(NamedTuple):
    pace: Sized
    bounds: Bounds
    chunks: int


class Plans:
    """Plan tables by batch group, each built once and aside: no round waits for one."""

    def __init__(self, find: Find, waiting: Waiting) -> None:
        self._find, self._waiting = find, waiting
        self._tables: OrderedDict[Hashable, PlanTable | None] = OrderedDict()

    def table(self, pace: Sized, bounds: Bounds, chunks: int) -> PlanTable | None:
        """None while it is being built, and where latencies are not known."""
        key = _Key(pace, bounds, chunks)
        if key not in self._tables:
            self._tables[key] = None
            if len(self._tables) > _TABLES:
                self._tables.popitem(last=False)
            if (latencies := self._find(pace, chunks)) is not None:
                self._begin(key, latencies)
        return self._tables.get(key)

    def _begin(self, key: _Key, latencies: Latencies) -> None:
        threading.Thread(
            target=self._build, args=(key, latencies), name="baton-planner", daemon=True
        ).start()

    def _build(self, key: _Key, latencies: Latencies) -> None:
        try:
            table = PlanTable.build(latencies, key.bounds, self._waiting)
        except Exception as error:  # its rounds stay greedy
            _log.error("rounds of %s cannot be planned: %s", key.pace.member, origin(error))
            return
        if key in self._tables:
            self._tables[key] = table


@dataclass(frozen=True)
class Steering:
    """By what an engine's rounds are chosen.

    latency: of rounds, as measured ahead; find: the same, for plans; chunks: into how many a decode
    of a size is cut at rest; pieces: by size, seconds of the decoder's. planned: whether rounds are
    planned; controlled: whether the load turns the knobs, within ``control``, else they stay at
    ``rest``. decode_lane: whether decoders have a thread of their own. planner: one in place of
    what follows from ``find``.
    """

    latency: Mapping[Pace, LatencyModel] = field(default_factory=dict)
    find: Find = unknown
    chunks: Callable[[Size], int] = once
    pieces: Mapping[Size, Sequence[float]] = field(default_factory=dict)
    planned: bool = True
    controlled: bool = True
    control: ControllerSettings = field(default_factory=ControllerSettings)
    rest: Knobs = ControllerSettings().ladder[0]
    decode_lane: bool = False
    planner: Planner | None = None


@dataclass(frozen=True)
class Course:
    """How an engine goes. planned, greedy: rounds that denoised, by how they were chosen.

    skipped: rows that were left out of them; knobs: what the load has it do.
    """

    planned: int = 0
    greedy: int = 0
    skipped: int = 0
    knobs: Knobs = ControllerSettings().ladder[0]


def _control(control: ControllerSettings, waiting: Waiting) -> ControllerSettings:
    """On one thread finer chunks cost their beginnings and ends, and free nothing for the call."""
    if waiting is Waiting.SERIAL:
        return replace(control, most_chunks=control.chunks)
    return control


class Wheel:
    """A steering in use, on the model thread."""

    def __init__(self, steering: Steering, waiting: Waiting) -> None:
        self._steering = steering
        self._plans = Plans(steering.find, waiting)
        self._controller = Controller(_control(steering.control, waiting))
        self._planned = self._greedy = self._skipped = 0

    @property
    def knobs(self) -> Knobs:
        of = self._steering
        return self._controller.knobs if of.controlled else of.rest

    @property
    def level(self) -> int:
        """How far up its ladder the controller is; 0 at rest."""
        return self._controller.level

    def observe(self, waiting: int, now: float) -> bool:
        """So many wait for a place; now: seconds. Whether that turns the knobs."""
        if not self._steering.controlled:
            return False
        before, self._controller = self._controller, self._controller.after(waiting, now)
        return self._controller.level != before.level

    def chunks(self, size: Size) -> int:
        """Into how many a decode that begins now is cut."""
        return self._steering.chunks(size) * self.knobs.chunks

    def plan(
        self, pace: Hashable, bounds: Bounds, unet: int, vae: int, lean: int
    ) -> tuple[Action, ...] | None:
        """A `Planner`."""
        of = self._steering
        if of.planner is not None:
            return of.planner(pace, bounds, unet, vae, lean)
        if not of.planned or not isinstance(pace, Pace) or pace.size is None:
            return None
        sized = Sized(pace.member, pace.size)
        table = self._plans.table(sized, bounds, self.chunks(sized.size))
        return None if table is None else table.plan(unet, vae, lean, self.knobs.delta)

    def count(self, planned: bool, skipped: int) -> None:
        """One round more that denoises, without so many rows."""
        self._planned += planned
        self._greedy += not planned
        self._skipped += skipped

    def course(self) -> Course:
        """Thread-safe."""
        return Course(self._planned, self._greedy, self._skipped, self.knobs)
