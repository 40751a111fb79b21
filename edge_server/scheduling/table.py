"""The planner's dynamic programme, solved once for every state (SynerDiff, Alg. 1). No torch.

A state is what is left: U UNet tasks, V VAE tasks, a budget of S lean ones. The cheapest plan under
a limit of time is a constrained shortest path, so a state keeps the Pareto front of its plans' cost
and time: one label a state would lose optima. Whole fronts are kept, so a table serves every delta.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np

from baton.edge_server.scheduling.actions import Action, Bounds, greedy
from baton.edge_server.scheduling.planner import (
    Flags,
    Integers,
    Latencies,
    Rounds,
    Waiting,
    charges,
)


class Labels(NamedTuple):
    """Plans on the fronts of states, as columns [N].

    cost, time: ns; rounds: how many; first: the round that it begins with; then: the label of what
    is left after it.
    """

    cost: Integers
    time: Integers
    rounds: Integers
    first: Integers
    then: Integers

    def where(self, chosen: Flags | Integers | slice) -> Labels:
        return Labels(*(column[chosen] for column in self))


class PlanTable:
    """The best plans of one batch group for every state within bounds; immutable once built.

    For 16 UNet and 8 VAE tasks building takes 0.1 to 0.4 s of one core, on whichever thread, in
    numpy calls far below a millisecond; a plan is then looked up in tens of microseconds.
    """

    def __init__(self, bounds: Bounds, programme: _Programme) -> None:
        """Of a programme that is solved; see `build`."""
        self.bounds = bounds
        self._actions = programme.rounds.actions()
        self._times = dict(zip(self._actions, programme.times.tolist(), strict=True))
        self._labels = programme.labels
        self._starts, self._counts = programme.starts, programme.counts

    @staticmethod
    def build(latencies: Latencies, bounds: Bounds, waiting: Waiting) -> PlanTable:
        """Solve every state; a round whose latencies are not known is in no plan."""
        return PlanTable(bounds, _Programme(latencies, bounds, waiting))

    def plan(self, U: int, V: int, S: int, delta: float) -> tuple[Action, ...] | None:
        """The rounds that let V VAE tasks end soonest beside U UNet tasks, up to S of them lean.

        Their UNet time is at most 1 + delta times that of the coarse plan (`greedy`); without UNet
        tasks nothing limits it. Of plans equally good for the VAE tasks it is the shortest, then
        the one of the fewest rounds, then the most even. What is beyond the table's bounds is left
        for a later plan. None where the coarse plan's time is not known, so that nothing can be
        held against it, and where no plan is.
        """
        U, V = min(U, self.bounds.tasks), min(V, self.bounds.decodes)
        S = min(S, U)
        limit = (1 + delta) * self._coarse(U, V, S) if U else np.inf
        begin, count = int(self._starts[U, V, S]), int(self._counts[U, V, S])
        within = self._labels.time[begin : begin + count] <= limit
        return self._rounds(begin + int(within.argmax())) if within.any() else None

    def _coarse(self, U: int, V: int, S: int) -> float:
        """UNet time of the coarse plan in ns, NaN if that is not known."""
        times = (self._times.get(action) for action in greedy(U, V, S, self.bounds))
        return sum(np.nan if time is None else float(time) for time in times)

    def _rounds(self, label: int) -> tuple[Action, ...]:
        """Follow a label to the end of its plan."""
        plan = []
        while self._labels.rounds[label]:
            plan.append(self._actions[self._labels.first[label]])
            label = int(self._labels.then[label])
        return tuple(plan)


class _Programme:
    """Finds the front of every state from those of smaller ones.

    starts, counts: [tasks + 1, decodes + 1, tasks + 1], by state where its labels stand, the
    cheapest and longest plan first; label 0 is the end of every plan.
    """

    def __init__(self, latencies: Latencies, bounds: Bounds, waiting: Waiting) -> None:
        self.rounds = Rounds.known(latencies, bounds)
        self.times = charges(self.rounds, 0, waiting)[1]
        self.labels = Labels(*np.zeros((5, 1), np.int64))
        self.starts = np.zeros((bounds.tasks + 1, bounds.decodes + 1, bounds.tasks + 1), np.int64)
        self.counts = np.zeros_like(self.starts)
        self.counts[0, 0, 0] = self._size = 1
        self._costs = [charges(self.rounds, V, waiting)[0] for V in range(bounds.decodes + 1)]
        for state in _states(bounds):
            self._keep(state, _front(self._plans(*state), *state, self.rounds))
        self.labels = self.labels.where(slice(self._size))

    def _plans(self, U: int, V: int, S: int) -> Labels:
        """Every round that can begin here, before every plan on the front of what it leaves."""
        u, v, s = self.rounds[:3]
        first = np.flatnonzero((u <= U) & (v <= V) & (s <= S) & ((u > 0) == (U > 0)))
        tasks = U - u[first]
        left = tasks, V - v[first], np.minimum(S - s[first], tasks)
        counts = self.counts[left]
        ends = counts.cumsum()
        then = np.arange(ends[-1] if len(ends) else 0)
        then += np.repeat(self.starts[left] - ends + counts, counts)
        first = np.repeat(first, counts)
        after = self.labels.where(then)
        cost, time = self._costs[V][first] + after.cost, self.times[first] + after.time
        return Labels(cost, time, after.rounds + 1, first, then)

    def _keep(self, state: tuple[int, int, int], front: Labels) -> None:
        begin, end = self._size, self._size + len(front.cost)
        while end > len(self.labels.cost):
            self.labels = Labels(*(np.concatenate([each, each]) for each in self.labels))
        for column, new in zip(self.labels, front, strict=True):
            column[begin:end] = new
        self.starts[state], self.counts[state] = begin, end - begin
        self._size = end


def _states(bounds: Bounds) -> Iterator[tuple[int, int, int]]:
    """All but the empty one, each after those that a round can leave of it."""
    for U, V in product(range(bounds.tasks + 1), range(bounds.decodes + 1)):
        if U or V:
            yield from ((U, V, S) for S in range(U + 1))


def _front(plans: Labels, U: int, V: int, S: int, rounds: Rounds) -> Labels:
    """Those that no other one of them beats in cost or time without losing in the other."""
    plans = _between_the_ends(plans)
    if not len(plans.cost):
        return plans
    u, v, s, *_ = rounds.where(plans.first)
    uneven = sum(abs(plans.rounds * part - whole) for part, whole in ((u, U), (v, V), (s, S)))
    order = np.lexsort((np.asarray(uneven), plans.rounds, plans.time, plans.cost))
    plans = plans.where(order)
    shortest = np.minimum.accumulate(plans.time)
    return plans.where(np.append(True, plans.time[1:] < shortest[:-1]))


def _between_the_ends(plans: Labels) -> Labels:
    """Without those that the cheapest or the shortest beats, which are most: sorting is dear."""
    if not len(plans.cost):
        return plans
    cost, time = plans.cost.min(), plans.time.min()
    longest = plans.time[plans.cost == cost].min()
    dearest = plans.cost[plans.time == time].min()
    return plans.where((plans.time <= longest) & (plans.cost <= dearest))
