"""Chooses what the model does next: a pure function of what stands in line. No torch.

A round is one call that denoises, of requests of one group, and chunks of those being decoded,
beside it or after it: as many of each as the plan of the group says (SynerDiff, Sec. III-D).
Between two calls that denoise at most one encodes prompts, however many requests arrive at once.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Generic, Protocol, TypeVar

from baton.common.diffusion.work import StepWork
from baton.edge_server.scheduling.actions import Action, Bounds, greedy

#: Prompts that one call encodes.
ENCODED = 8
#: Requests of a group that a plan looks at.
TASKS = Bounds().tasks


@dataclass(frozen=True)
class Limits:
    """active: requests denoised together; rows: of one model call.

    cache_bytes: what they all may keep of their blocks' outputs; activation_bytes: what the blocks
    of one call may put out at a time, and decoders beside it, as far as that is known.
    """

    active: int = 16
    rows: int = 16
    cache_bytes: int = 1 << 30
    activation_bytes: int = 8 << 30


class Item(Protocol):
    """A request as it stands in line.

    cache_bytes: the most that it keeps between steps; row_bytes: activations of a row of its next
    call, 0 if they are not known; pace: equal for those whose calls take as long; encoder: that its
    prompts need next; due: its next step, as far ahead as its plan allows; lean: the same with
    guidance left out, None where it may not be; progress: share of its steps that are done;
    decode_bytes: activations of its decoder; decode_begun: whether they are there;
    turn: whose is lower gets a place first.
    """

    @property
    def turn(self) -> float: ...

    @property
    def cache_bytes(self) -> int: ...

    @property
    def row_bytes(self) -> int: ...

    @property
    def pace(self) -> Hashable: ...

    @property
    def encoder(self) -> Hashable: ...

    @property
    def due(self) -> StepWork: ...

    @property
    def lean(self) -> StepWork | None: ...

    @property
    def progress(self) -> float: ...

    @property
    def decode_bytes(self) -> int: ...

    @property
    def decode_begun(self) -> bool: ...


I = TypeVar("I", bound=Item)  # noqa: E741


@dataclass
class Queues(Generic[I]):
    """Who is here, and for what.

    waiting: for a place, whose turn it is first; unencoded: with a place, their prompts not encoded
    for the next step; ready: for a step, the one served longest ago first; decoding: denoised to
    the end.
    """

    waiting: deque[I] = field(default_factory=deque)
    unencoded: deque[I] = field(default_factory=deque)
    ready: deque[I] = field(default_factory=deque)
    decoding: deque[I] = field(default_factory=deque)

    def wait(self, item: I) -> None:
        """For a place: behind those whose turn is as early."""
        insort(self.waiting, item, key=lambda other: other.turn)

    def remove(self, item: I) -> None:
        for queue in (self.waiting, self.unencoded, self.ready, self.decoding):
            if item in queue:
                queue.remove(item)


@dataclass(frozen=True)
class Round(Generic[I]):
    """What runs next; all empty where there is nothing to do.

    encode: one call of an encoder with the prompts of these; denoise: one call of a member with the
    rows of these, each with the steps that it takes; decode: a chunk of each of these, in their
    order. planned: whether numbers are a plan's; else there was none, and they are greedy.
    """

    encode: Sequence[I] = ()
    denoise: Sequence[tuple[I, StepWork]] = ()
    decode: Sequence[I] = ()
    planned: bool = False

    @property
    def skipped(self) -> int:
        """Rows that the call leaves out of the steps that are due."""
        return sum(
            len(full) - len(taken)
            for item, work in self.denoise
            for full, taken in zip(item.due.branches, work.branches, strict=False)
        )

    @property
    def idle(self) -> bool:
        return not (self.encode or self.denoise or self.decode)


@dataclass(frozen=True)
class Rounds:
    """What is left of a plan; who: those for whom it was made."""

    who: Hashable = None
    left: tuple[Action, ...] = ()
    planned: bool = False

    def after(self, action: Action) -> Rounds:
        """With its first round gone; a round that skips changes what may be skipped after it."""
        return Rounds(self.who, () if action.s else self.left[1:], self.planned)


@dataclass(frozen=True)
class Turn:
    """What a round has to know of those before it.

    encoded: whether prompts were encoded since the last call that denoised; rounds: by group, those
    that its plan still has.
    """

    encoded: bool = False
    rounds: Mapping[Hashable, Rounds] = field(default_factory=dict)


#: Of a pace, within bounds: its tasks, the chunks, and the tasks that may skip guidance, to rounds;
#: None if it is not known what they take.
Planner = Callable[[Hashable, Bounds, int, int, int], tuple[Action, ...] | None]


def unplanned(pace: Hashable, bounds: Bounds, unet: int, vae: int, lean: int) -> None:
    """A `Planner` that knows nothing."""


@dataclass(frozen=True)
class Terms:
    """By what a round is chosen, beside who stands in line."""

    limits: Limits = field(default_factory=Limits)
    plan: Planner = unplanned


def next_round(queues: Queues[I], terms: Terms, turn: Turn) -> tuple[Round[I], Turn]:
    """What to run now, and what the round after it has to know; nothing is changed.

    Groups have their turns, the one whose request was served longest ago first. A plan holds until
    somebody comes, ends or skips. Activations of decodings that have begun are there until they
    end, so a batch has what these leave, and others begin in what the batch leaves.
    """
    if queues.unencoded and not (queues.ready and turn.encoded):
        chunk = [] if queues.ready else queues.decoding
        encoding = Round(encode=_together(queues.unencoded), decode=tuple(islice(chunk, 1)))
        return encoding, replace(turn, encoded=True)
    if not queues.ready:
        return Round(decode=tuple(islice(queues.decoding, 1))), turn
    group = queues.ready[0].due.group
    alike = [item for item in queues.ready if item.due.group == group]
    rows = _rows(alike[0], queues.decoding, terms.limits)
    wanted = min(rows, sum(item.due.rows for item in alike))
    decoding = decodable(queues.decoding, terms.limits, wanted * alike[0].row_bytes)
    rounds = _rounds(alike, decoding, rows, terms, turn)
    action = rounds.left[0]
    chosen = Round(
        denoise=_batch(alike, action, rows) if action.u else (),
        decode=tuple(islice(decoding, action.v)),
        planned=rounds.planned,
    )
    kept = {**turn.rounds, group: rounds.after(action)}
    groups = {item.due.group for item in queues.ready}
    encoded = turn.encoded and not action.u
    return chosen, Turn(encoded, {key: kept[key] for key in kept if key in groups})


def _rounds(
    alike: Sequence[I], decoding: Sequence[I], rows: int, terms: Terms, turn: Turn
) -> Rounds:
    """The group's plan, made anew where it is done or was made for others.

    It is over the tasks of one full call: those who have had their step come again for the next
    one, so more tasks fill further calls as they are, and a plan would but leave rows empty.
    """
    first = alike[0]
    who = frozenset(map(id, alike)), frozenset(map(id, decoding))
    kept = turn.rounds.get(first.due.group)
    if kept is not None and kept.left and kept.who == who:
        return kept
    most = max(1, min(TASKS, rows // first.due.least_rows))
    bounds = Bounds(tasks=most, most_tasks=most)
    unet, vae = min(len(alike), most), min(len(decoding), bounds.decodes)
    lean = sum(item.lean is not None for item in alike[:unet])
    planned = terms.plan(first.pace, bounds, unet, vae, lean)
    if planned is None:  # of tasks with fewer rows than the first one has, more than that fit
        return Rounds(who, greedy(min(len(alike), TASKS), vae, lean), False)
    return Rounds(who, planned, True)


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


def _together(unencoded: Sequence[I]) -> tuple[I, ...]:
    """The first ones of the encoder whose turn it is."""
    alike = (item for item in unencoded if item.encoder == unencoded[0].encoder)
    return tuple(islice(alike, ENCODED))


def _batch(alike: Sequence[I], action: Action, rows: int) -> tuple[tuple[I, StepWork], ...]:
    """So many of one group as the action says and fit, from the one served longest ago on.

    Those furthest in leave guidance out, as many as it says. Steps ahead take what rows are left
    when nobody of the group waits for them.
    """
    leaning = _furthest(alike[: action.u], action.s)
    left = rows
    chosen: list[tuple[I, StepWork]] = []
    for item in alike:
        if (left <= 0 and chosen) or len(chosen) == action.u:
            break
        work = item.lean if item in leaning and item.lean is not None else item.due
        if chosen and work.least_rows > left:
            continue
        chosen.append((item, work))
        left -= work.least_rows
    works = [work for _, work in chosen]
    steps = [1] * len(works) if len(works) < len(alike) else _deepened(works, left)
    pairs = zip(chosen, steps, strict=True)
    return tuple((item, work.first(count)) for (item, work), count in pairs)


def _furthest(items: Sequence[I], count: int) -> list[I]:
    """Of those that may leave guidance out, so many with the fewest steps left."""
    able = [item for item in items if item.lean is not None] if count else []
    return sorted(able, key=lambda item: item.progress, reverse=True)[:count]


def decodable(decoding: Sequence[I], limits: Limits, beside: int = 0) -> list[I]:
    """Those that may run a chunk now, the oldest first: all that have begun, and one always.

    Others begin in their order while all together have room beside a call, which takes so many
    bytes; so those that have begun stand before those that have not.
    """
    free = limits.activation_bytes - beside
    free -= sum(item.decode_bytes for item in decoding if item.decode_begun)
    may: list[I] = []
    for item in decoding:
        if not item.decode_begun:
            free -= item.decode_bytes
            if free < 0 and may:
                break
        may.append(item)
    return may


def _rows(item: I, decoding: Sequence[I], limits: Limits) -> int:
    """Of a call of its group, beside the decodings that have begun, or the one that always may."""
    if not item.row_bytes:
        return limits.rows
    begun = [one for one in decoding if one.decode_begun] or islice(decoding, 1)
    free = limits.activation_bytes - sum(one.decode_bytes for one in begun)
    return min(limits.rows, max(free, 0) // item.row_bytes)


def _deepened(works: Sequence[StepWork], left: int) -> list[int]:
    """By work, the steps that it takes: one more each in turn, while there are rows left."""
    steps = [1] * len(works)
    deeper = any(work.steps > 1 for work in works)
    while deeper and left > 0:
        deeper = False
        for place, work in enumerate(works):
            count = steps[place]
            if count < work.steps and len(work.branches[count]) <= left:
                left -= len(work.branches[count])
                steps[place] += 1
                deeper = True
    return steps
