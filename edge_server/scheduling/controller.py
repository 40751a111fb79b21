"""The load-adaptive feedback controller: what the engine gives up as its queue grows. No torch.

SynerDiff, Sec. III-D, whose thresholds are lost. While requests pile up it climbs a ladder, first
of more skipped guidance, then of finer chunks, then of a lesser delta: plans then wait less for
decodes and fill their calls. As the load subsides it climbs down again.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from math import exp
from typing import NamedTuple


class Knobs(NamedTuple):
    """skip_after: share of its steps from which a request may skip guidance, 1 for nowhere.

    chunks: into how many times as many a decode is cut as at rest; delta: by what share plans may
    exceed the coarse plan's UNet time.
    """

    skip_after: float
    chunks: int
    delta: float


@dataclass(frozen=True)
class ControllerSettings:
    """places: requests that are denoised together; queues are measured in these.

    floor: the least skip_after; skips: rungs from 1 down to it. chunks, most_chunks: at rest, and
    the bound up to which they are doubled. deltas: the one at rest first, falling.

    The queue is smoothed over `fast` and `slow` seconds. It builds up while the fast average is at
    least `high`, or at least `middle` and by `margin` above the slow one; it has subsided while the
    fast one is at most `low`. Between two rungs are at least `up` seconds on the way up and `down`
    on the way down.

    Raises:
        ValueError: a value is out of its range, or thresholds are not in their order.
    """

    places: int = 16
    floor: float = 0.5
    skips: int = 4
    chunks: int = 1
    most_chunks: int = 8
    deltas: tuple[float, ...] = (0.05, 0.02, 0.0)
    fast: float = 2.0
    slow: float = 15.0
    high: float = 1.0
    middle: float = 0.5
    low: float = 0.25
    margin: float = 0.125
    up: float = 1.0
    down: float = 5.0

    def __post_init__(self) -> None:
        sound = {
            "places, skips and chunks are 1 or more": min(self.places, self.skips, self.chunks) > 0,
            "floor is a share": 0 <= self.floor <= 1,
            "deltas fall to 0 or more": bool(self.deltas)
            and self.deltas[-1] >= 0
            and list(self.deltas) == sorted(self.deltas, reverse=True),
            "fast is less than slow": 0 < self.fast < self.slow,
            "thresholds rise from low over middle to high": 0 <= self.low < self.middle < self.high,
            "margin is positive": self.margin > 0,
            "up and down are seconds": min(self.up, self.down) > 0,
        }
        for rule, holds in sound.items():
            if not holds:
                raise ValueError(f"{rule}, unlike in {self}")

    @cached_property
    def ladder(self) -> tuple[Knobs, ...]:
        """From rest up; each rung turns one knob, the first as far as it goes before the next."""
        rungs = [Knobs(1.0, self.chunks, self.deltas[0])]
        for skip in range(1, self.skips + 1):
            rungs.append(rungs[-1]._replace(skip_after=1 - (1 - self.floor) * skip / self.skips))
        while rungs[-1].chunks * 2 <= self.most_chunks:
            rungs.append(rungs[-1]._replace(chunks=rungs[-1].chunks * 2))
        for delta in self.deltas[1:]:
            rungs.append(rungs[-1]._replace(delta=delta))
        return tuple(dict.fromkeys(rungs))


@dataclass(frozen=True)
class Controller:
    """Where on the ladder the engine stands, by what it has seen of its queue.

    level: the rung; fast, slow: averages of the requests that wait to a place; waiting: how many do
    since `seen`; moved: when the level changed. Times are in seconds, of whichever clock.
    """

    settings: ControllerSettings = field(default_factory=ControllerSettings)
    level: int = 0
    fast: float = 0.0
    slow: float = 0.0
    waiting: int = 0
    seen: float | None = None
    moved: float = float("-inf")

    @property
    def knobs(self) -> Knobs:
        return self.settings.ladder[self.level]

    def after(self, waiting: int, now: float) -> Controller:
        """At a time at which so many wait; until then as many did as it was told before.

        A rung at most on the way up; on the way down as many as there was time for since it was
        last asked, since an idle engine asks nobody.
        """
        if self.seen is None:
            return replace(self, waiting=waiting, seen=now)
        since = max(0.0, now - self.seen)
        of = self.settings
        watched = replace(
            self,
            fast=self._averaged(self.fast, since / of.fast),
            slow=self._averaged(self.slow, since / of.slow),
            waiting=waiting,
            seen=max(now, self.seen),
        )
        return watched._moved(now, since)

    def _averaged(self, average: float, spans: float) -> float:
        """Exponentially, with what waited for so many time constants."""
        kept = exp(-spans)
        return kept * average + (1 - kept) * self.waiting / self.settings.places

    def _moved(self, now: float, since: float) -> Controller:
        of = self.settings
        rising = self.fast >= of.middle and self.fast - self.slow > of.margin
        if (rising or self.fast >= of.high) and now - self.moved >= of.up:
            level = min(self.level + 1, len(of.ladder) - 1)
        elif self.fast <= of.low and now - self.moved >= of.down:
            level = max(0, self.level - max(1, int(since / of.down)))
        else:
            return self
        return self if level == self.level else replace(self, level=level, moved=now)
