"""What a plan of rounds is, and what its rounds cost (SynerDiff, Sec. III-D). No torch.

A plan splits the next step of U UNet tasks and the next chunk of V decodes into rounds: a round is
one UNet call beside some chunks. Fewer tasks a call cost throughput, and let decodes end earlier.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from itertools import product
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from baton.edge_server.scheduling.actions import Action, Bounds

Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]


class Latencies(Protocol):
    """Of one batch group, in seconds; None where it is not known."""

    def unet(self, u: int, v: int, s: int) -> float | None:
        """How long the UNet call of a round lasts; asked for u >= 1."""
        ...

    def vae(self, u: int, v: int, s: int) -> float | None:
        """From when a round's chunks begin until all of them are done; asked for v >= 1."""
        ...


class Waiting(Enum):
    """How long a round keeps the VAE tasks that are not done before it.

    BACK_TO_BACK: VAE groups follow one another whatever the UNet does (what fits Table I).
    BARRIER: a chunk also waits for the UNet call beside it, but for the last ones (Eq. 2).
    SERIAL: one thread, on which the chunks follow the call.
    """

    BACK_TO_BACK = "back_to_back"
    BARRIER = "barrier"
    SERIAL = "serial"


class Rounds(NamedTuple):
    """Actions with their latencies in ns, as columns [N]; 0 ns where a lane is empty."""

    u: Integers
    v: Integers
    s: Integers
    unet: Integers
    vae: Integers

    @staticmethod
    def known(latencies: Latencies, bounds: Bounds) -> Rounds:
        """All that bounds allow and whose latencies are known.

        Whole nanoseconds, so that sums are exact and equal plans are seen to be equal.
        """
        rows = [row for action in _actions(bounds) if (row := _row(action, latencies))]
        return Rounds(*np.array(rows, np.int64).reshape(-1, 5).T)

    def where(self, chosen: Flags | Integers) -> Rounds:
        return Rounds(*(column[chosen] for column in self))

    def actions(self) -> list[Action]:
        columns = (self.u.tolist(), self.v.tolist(), self.s.tolist())
        return list(map(Action, *columns))


def charges(rounds: Rounds, decodes: int, waiting: Waiting) -> tuple[Integers, Integers]:
    """What each round adds to a plan's cost and to its UNet time, ns [N]: the waiting rule.

    decodes: VAE tasks that are not done before the round, its own included. The cost is the sum of
    their completion times, so each of them adds what the round keeps it; a round without chunks
    keeps them for its UNet call. A round without UNet tasks holds the UNet's lane up as long as its
    chunks last; not on one thread, where chunks take their time wherever they run.
    """
    u, v, _, unet, vae = rounds
    if waiting is Waiting.SERIAL:
        return decodes * (unet + vae), unet
    if waiting is Waiting.BACK_TO_BACK:
        kept = np.where(v > 0, vae, unet)
    else:
        kept = np.where(v == decodes, vae, np.maximum(unet, vae))
    return decodes * kept, np.where(u > 0, unet, vae)


def _actions(bounds: Bounds) -> Iterator[Action]:
    most_tasks = min(bounds.most_tasks, bounds.tasks)
    most_decodes = min(bounds.most_decodes, bounds.decodes)
    for u, v in product(range(most_tasks + 1), range(most_decodes + 1)):
        if u or v:
            yield from (Action(u, v, s) for s in range(u + 1))


def _row(action: Action, latencies: Latencies) -> tuple[int, ...] | None:
    unet = latencies.unet(*action) if action.u else 0.0
    vae = latencies.vae(*action) if action.v else 0.0
    if unet is None or vae is None:
        return None
    return (*action, round(unet * 1e9), round(vae * 1e9))
