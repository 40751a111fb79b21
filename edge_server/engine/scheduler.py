"""Chooses what the model thread does next: a pure function of what stands in line. No torch.

Between two calls that denoise there is at most one that encodes prompts and one part of a decoding:
so whoever is being denoised waits for one call of each other kind at most, however many requests
arrive or end at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Generic, Protocol, TypeVar

from baton.common.diffusion.work import StepWork

#: Prompts that one call encodes.
ENCODED = 8


@dataclass(frozen=True)
class Limits:
    """active: requests denoised together; rows: of one model call.

    cache_bytes: what they all may keep of their blocks' outputs; activation_bytes: what the blocks
    of one call may put out at a time, as far as that is known.
    """

    active: int = 16
    rows: int = 16
    cache_bytes: int = 1 << 30
    activation_bytes: int = 8 << 30


class Item(Protocol):
    """A request as it stands in line.

    cache_bytes: the most that it keeps between steps; row_bytes: activations of a row of its next
    call, 0 if they are not known; encoder: that its prompts need next; due: its next step, as far
    ahead as its plan allows.
    """

    @property
    def cache_bytes(self) -> int: ...

    @property
    def row_bytes(self) -> int: ...

    @property
    def encoder(self) -> Hashable: ...

    @property
    def due(self) -> StepWork: ...


I = TypeVar("I", bound=Item)  # noqa: E741


@dataclass
class Queues(Generic[I]):
    """Who is here, and for what.

    waiting: for a place; unencoded: with a place, their prompts not encoded for the next step;
    ready: for a step, the one served longest ago first; decoding: denoised to the end.
    """

    waiting: deque[I] = field(default_factory=deque)
    unencoded: deque[I] = field(default_factory=deque)
    ready: deque[I] = field(default_factory=deque)
    decoding: deque[I] = field(default_factory=deque)

    def remove(self, item: I) -> None:
        for queue in (self.waiting, self.unencoded, self.ready, self.decoding):
            if item in queue:
                queue.remove(item)


@dataclass(frozen=True)
class Encode(Generic[I]):
    """One call of an encoder with the prompts of these."""

    items: Sequence[I]


@dataclass(frozen=True)
class Denoise(Generic[I]):
    """One call of a member with the rows of these, each with the steps that it takes."""

    parts: Sequence[tuple[I, StepWork]]


@dataclass(frozen=True)
class DecodeChunk(Generic[I]):
    """One part of the decoder."""

    item: I


@dataclass(frozen=True)
class Since:
    """What ran since the last `Denoise`."""

    encoded: bool = False
    decoded: bool = False

    def after(self, item: Encode[I] | Denoise[I] | DecodeChunk[I] | None) -> Since:
        """With one more item."""
        if isinstance(item, Encode):
            return Since(True, self.decoded)
        return Since(self.encoded, True) if isinstance(item, DecodeChunk) else Since()


def next_item(
    queues: Queues[I], limits: Limits, since: Since
) -> Encode[I] | Denoise[I] | DecodeChunk[I] | None:
    """What to run now, None if there is nothing; nothing is changed.

    Whatever others need, it takes one call of each kind at most before those that are ready go on.
    """
    if queues.decoding and not (since.decoded and (queues.ready or queues.unencoded)):
        return DecodeChunk(queues.decoding[0])
    if queues.unencoded and not (queues.ready and since.encoded):
        return Encode(_together(queues.unencoded))
    return Denoise(_batch(queues.ready, limits)) if queues.ready else None


def admitted(queues: Queues[I], limits: Limits) -> int:
    """How many of those that wait get a place: in their order, while what they keep has room."""
    taken = len(queues.unencoded) + len(queues.ready)
    places = min(len(queues.waiting), limits.active - taken)
    if places <= 0:
        return 0
    kept = sum(item.cache_bytes for item in chain(queues.unencoded, queues.ready))
    admit = 0
    for item in islice(queues.waiting, places):
        kept += item.cache_bytes
        if kept > limits.cache_bytes and (taken or admit):
            break
        admit += 1
    return admit


def _together(unencoded: Sequence[I]) -> list[I]:
    """The first ones of the encoder whose turn it is."""
    alike = (item for item in unencoded if item.encoder == unencoded[0].encoder)
    return list(islice(alike, ENCODED))


def _batch(ready: Sequence[I], limits: Limits) -> list[tuple[I, StepWork]]:
    """Those of one group that fit, beginning with the one served longest ago.

    Steps ahead take what rows are left when nobody of the group waits for them.
    """
    if not ready:
        return []
    group, left = ready[0].due.group, _rows(ready[0], limits)
    chosen: list[I] = []
    waits = False
    for item in ready:
        if left <= 0 and chosen:
            break
        if item.due.group != group:
            continue
        if chosen and item.due.least_rows > left:
            waits = True
            continue
        chosen.append(item)
        left -= item.due.least_rows
    steps = [1] * len(chosen) if waits else _deepened(chosen, left)
    return [(item, item.due.first(count)) for item, count in zip(chosen, steps, strict=True)]


def _rows(item: I, limits: Limits) -> int:
    """Of a call of its group."""
    if not item.row_bytes:
        return limits.rows
    return min(limits.rows, limits.activation_bytes // item.row_bytes)


def _deepened(items: Sequence[I], left: int) -> list[int]:
    """By item, the steps that it takes: one more each in turn, while there are rows left."""
    steps = [1] * len(items)
    deeper = any(item.due.steps > 1 for item in items)
    while deeper and left > 0:
        deeper = False
        for place, item in enumerate(items):
            work, count = item.due, steps[place]
            if count < work.steps and len(work.branches[count]) <= left:
                left -= len(work.branches[count])
                steps[place] += 1
                deeper = True
    return steps
