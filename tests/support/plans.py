"""Every plan of rounds there is, weighed round by round: what the planner is held against."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from baton.edge_server.scheduling.actions import Bounds
from baton.edge_server.scheduling.planner import Latencies, Waiting

#: u, v and s of a round.
Round = tuple[int, int, int]
#: UNet and VAE tasks.
State = tuple[int, int]
#: Of plans, [N, 4]: what `Weight` says, and how many lean tasks they use.
Weights = npt.NDArray[np.int64]
#: Milliseconds of a round's call and chunks.
Lanes = tuple[int, int]


class Weight(NamedTuple):
    """Of a plan: its VAE tasks' summed completion times and its UNet time in ms, its rounds."""

    cost: int
    time: int
    rounds: int

    def after(self, action: Round, left: int, lanes: Lanes, waiting: Waiting) -> Weight:
        """With one more round, before which that many VAE tasks are left."""
        call, chunks = lanes
        u, v, _ = action
        held = call if u else chunks
        if waiting is Waiting.SERIAL:
            lasts, held = call + chunks, call
        elif waiting is Waiting.BARRIER:
            lasts = chunks if v == left else max(call, chunks)
        else:
            lasts = chunks if v else call
        return Weight(self.cost + left * lasts, self.time + held, self.rounds + 1)


NOTHING = Weight(0, 0, 0)


def lanes(action: Round, latencies: Latencies) -> Lanes | None:
    """None where one of them is not known."""
    call = latencies.unet(*action) if action[0] else 0.0
    chunks = latencies.vae(*action) if action[1] else 0.0
    return None if call is None or chunks is None else (round(call * 1e3), round(chunks * 1e3))


def weigh(
    plan: Iterable[Round], decodes: int, latencies: Latencies, waiting: Waiting
) -> Weight | None:
    weight = NOTHING
    for action in plan:
        if (known := lanes(action, latencies)) is None:
            return None
        weight = weight.after(action, decodes, known, waiting)
        decodes -= action[1]
    return weight


def every_plan(bounds: Bounds, latencies: Latencies, waiting: Waiting) -> dict[State, Weights]:
    """By UNet and VAE tasks the weights of all plans that end them; none is left out."""
    known = {action: each for action in _actions(bounds) if (each := lanes(action, latencies))}
    found = {(0, 0): np.zeros((1, 4), np.int64)}
    for U, V in product(range(bounds.tasks + 1), range(bounds.decodes + 1)):
        plans = [
            found[U - u, V - v] + np.array([*NOTHING.after((u, v, s), V, each, waiting), s])
            for (u, v, s), each in known.items()
            if u <= U and v <= V and bool(u) == bool(U)
        ]
        found.setdefault((U, V), np.concatenate([np.zeros((0, 4), np.int64), *plans]))
    return found


def best(weights: Weights, lean: int, limit: float) -> Weight | None:
    """The rule: least cost within the limit of time, then least time, then fewest rounds."""
    cost, time, rounds, used = weights.T
    within = np.flatnonzero((used <= lean) & (time <= limit))
    for column in (cost, time, rounds):
        within = within[column[within] == column[within].min(initial=column.max(initial=0))]
    return Weight(*weights[within[0], :3].tolist()) if len(within) else None


def _actions(bounds: Bounds) -> Iterator[tuple[int, int, int]]:
    for u, v in product(range(bounds.most_tasks + 1), range(bounds.most_decodes + 1)):
        yield from ((u, v, s) for s in range(u + 1) if u + v)
