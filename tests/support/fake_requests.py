"""Requests without a model, and the engine's loop over them: for what the scheduler chooses."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from baton.common.diffusion.work import StepWork
from baton.common.limits import Branch
from baton.edge_server.engine.scheduler import (
    DecodeChunk,
    Denoise,
    Encode,
    Limits,
    Queues,
    Since,
    admitted,
    next_item,
)

Branches = tuple[Branch, ...]
BOTH: Branches = ("positive", "negative")
ALONE: Branches = ("positive",)


@dataclass(eq=False)
class FakeRequest:
    """branches: by step; ahead: by step, how many of the next ones can be decoded with it.

    encodings: steps before which its prompts are encoded; chunks: of its decoding, 0 for one that
    is handed off. taken: by call, how many steps it took; due: set where it is lined up.
    """

    branches: tuple[Branches, ...] = (BOTH,)
    group: Hashable = "large"
    ahead: tuple[int, ...] = ()
    cache_bytes: int = 0
    row_bytes: int = 0
    encoder: Hashable = "text"
    encodings: frozenset[int] = frozenset({0})
    chunks: int = 0
    step: int = 0
    decoded: int = 0
    taken: list[int] = field(default_factory=list)
    due: StepWork = field(init=False)

    def __post_init__(self) -> None:
        self.line_up()

    def line_up(self) -> None:
        """Set what it waits for."""
        last = self.step + (self.ahead[self.step] if self.ahead else 0)
        of = self.branches[self.step : last + 1]
        blocks = tuple((None,) * len(each) for each in of)
        self.due = StepWork(self.group, "large", self.step, (0.0,) * len(of), of, blocks)

    @property
    def done(self) -> bool:
        return self.step == len(self.branches)


Chosen = Encode[FakeRequest] | Denoise[FakeRequest] | DecodeChunk[FakeRequest]


class FakeLoop:
    """As the engine's, with nothing executed. ended: requests in the order of their ends."""

    def __init__(self, limits: Limits, requests: Iterable[FakeRequest] = ()) -> None:
        self.limits = limits
        self.queues: Queues[FakeRequest] = Queues(waiting=deque(requests))
        self.since = Since()
        self.ended: list[FakeRequest] = []

    def choose(self) -> Chosen | None:
        """Give places away, and say what is to run."""
        for _ in range(admitted(self.queues, self.limits)):
            self.queues.unencoded.append(self.queues.waiting.popleft())
        return next_item(self.queues, self.limits, self.since)

    def run(self, item: Chosen) -> None:
        self.since = self.since.after(item)
        if isinstance(item, Encode):
            for request in item.items:
                self.queues.unencoded.remove(request)
                self.queues.ready.append(request)
        elif isinstance(item, DecodeChunk):
            self._decode(item.item)
        else:
            for request, _ in item.parts:
                self.queues.ready.remove(request)
            for request, work in item.parts:
                self._advance(request, work.steps)

    def to_the_end(self) -> int:
        """Run all that is here; returns how many items that took."""
        count = 0
        while (item := self.choose()) is not None:
            self.run(item)
            count += 1
        return count

    def _decode(self, request: FakeRequest) -> None:
        request.decoded += 1
        if request.decoded == request.chunks:
            self.queues.decoding.remove(request)
            self.ended.append(request)

    def _advance(self, request: FakeRequest, steps: int) -> None:
        request.step += steps
        request.taken.append(steps)
        if not request.done:
            request.line_up()
            encoded = request.step not in request.encodings
            (self.queues.ready if encoded else self.queues.unencoded).append(request)
        elif request.chunks:
            self.queues.decoding.append(request)
        else:
            self.ended.append(request)
