"""The numbers of a round, and what they are where nothing is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Action(NamedTuple):
    """A round (SynerDiff, Sec. III-D).

    u: requests that take a step; v: chunks of those being decoded, of one request each; s: of the
    u, those that leave guidance out.
    """

    u: int
    v: int
    s: int


@dataclass(frozen=True)
class Bounds:
    """tasks, decodes: the most that a plan looks at; most_tasks, most_decodes: of a round.

    Raises:
        ValueError: no round fits into them.
    """

    tasks: int = 16
    decodes: int = 8
    most_tasks: int = 16
    most_decodes: int = 8

    def __post_init__(self) -> None:
        if min(self.tasks, self.decodes) < 0 or min(self.most_tasks, self.most_decodes) < 1:
            raise ValueError(f"no round fits into {self}")


def greedy(U: int, V: int, S: int, bounds: Bounds = Bounds()) -> tuple[Action, ...]:
    """The coarse plan: as few rounds as bounds allow, tasks and chunks spread evenly over them.

    One round of all there is if that fits. It needs no latencies, so it stands in where they are
    not known.
    """
    calls, groups = -(-U // bounds.most_tasks), -(-V // bounds.most_decodes)
    count = max(calls, groups)
    tasks, decodes, lean = _spread(U, calls), _spread(V, count), _spread(min(S, U), calls)
    idle = (0,) * (count - calls)
    return tuple(map(Action, tasks + idle, decodes, lean + idle))


def _spread(total: int, parts: int) -> tuple[int, ...]:
    """Even parts of a number, the greater ones first."""
    return tuple((total + parts - 1 - part) // parts for part in range(parts))
