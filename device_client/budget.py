"""The time that a picture may take, and how much of it this device needs for itself."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace

from baton.common.errors import DeadlineExceeded
from baton.common.limits import Accel
from baton.common.plan import OpenPlan, OpenSegment

_WEIGHT = 0.3  # of the newest measurement
_UNMEASURED_SHARE = 0.1  # of the time, kept for the device before it has been measured
_MARGIN = 1.5  # of the measured time, when it is kept back from the edges
_LEAST_SECONDS = 0.001


@dataclass(frozen=True)
class Budget:
    """seconds: from the start, infinite without a limit; deadline, begun: in monotonic time."""

    seconds: float = math.inf
    deadline: float = math.inf
    begun: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, seconds: float | None) -> Budget:
        """A budget that begins now."""
        return cls() if seconds is None else cls(seconds, time.monotonic() + seconds)

    def later(self, waited: float) -> Budget:
        """As if it had begun so many seconds later: standing in line here is no part of it."""
        return replace(self, deadline=self.deadline + waited, begun=self.begun + waited)

    @property
    def spent(self) -> float:
        return time.monotonic() - self.begun

    @property
    def left(self) -> float:
        return self.deadline - time.monotonic()

    def within(self, limit: float) -> float:
        """The limit of a call that must not outlast the budget; never zero."""
        return max(min(limit, self.left), _LEAST_SECONDS)

    def exceeded(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"the picture was not done within {self.seconds:.3g} s")

    def check(self, needed: float = 0.0) -> None:
        """Raises DeadlineExceeded unless so many seconds are left."""
        left = self.left
        if left <= 0:
            raise self.exceeded()
        if left < needed:
            raise DeadlineExceeded(
                f"{left:.3g} of {self.seconds:.3g} s are left and what remains takes this device"
                f" about {needed:.3g} s; allow {self.seconds + needed - left:.3g} s or fewer steps"
            )


@dataclass
class Timer:
    """The budget of a picture, which begins later the longer it stands in line."""

    budget: Budget = field(default_factory=Budget)


#: Member, acceleration, and whether guided: steps of one kind take about as long.
_Kind = tuple[str, Accel, bool]


class StepTimes:
    """Measured seconds of this device's model work, shared by the pictures of one client."""

    def __init__(self) -> None:
        self._steps: dict[_Kind, float] = {}
        self._rest: float | None = None
        self._lock = threading.Lock()

    def measured(self, segment: OpenSegment, step: float) -> None:
        """``step``: mean seconds of one of the segment's. Thread-safe."""
        with self._lock:
            kind = _kind(segment)
            self._steps[kind] = _mean(self._steps.get(kind), step)

    def measured_rest(self, seconds: float) -> None:
        """Of encoding and decoding. Thread-safe."""
        with self._lock:
            self._rest = _mean(self._rest, seconds)

    def needed(self, plan: OpenPlan, first: int) -> float | None:
        """Seconds for the device's steps from ``first`` on; None before the first measurement."""
        steps: Counter[_Kind] = Counter()
        for segment in plan.segments:
            if segment.stop > first and segment.location == "device":
                steps[_kind(segment)] += segment.stop - max(segment.start, first)
        if self._rest is None or not steps.keys() <= self._steps.keys():
            return None
        return self._rest + sum(self._steps[kind] * count for kind, count in steps.items())

    def reserve(self, plan: OpenPlan, first: int, budget: Budget) -> float:
        """Seconds to keep for what the plan leaves to the device after the stretch at ``first``."""
        handoff = plan.stretch_end(first)
        if budget.seconds == math.inf or handoff == plan.steps:
            return 0.0
        needed = self.needed(plan, handoff)
        return _UNMEASURED_SHARE * budget.seconds if needed is None else _MARGIN * needed


def _kind(segment: OpenSegment) -> _Kind:
    return segment.member, segment.accel, segment.guidance.two_branches


def _mean(known: float | None, new: float) -> float:
    return new if known is None else known + _WEIGHT * (new - known)
