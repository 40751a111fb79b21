"""Requests without a model, and the engine's loop over them: for what the scheduler chooses."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, replace

from baton.common.diffusion.work import StepWork
from baton.common.limits import Branch
from baton.edge_server.engine.scheduler import (
    Limits,
    Planner,
    Queues,
    Round,
    Terms,
    Turn,
    admitted,
    next_round,
    unplanned,
)

Branches = tuple[Branch, ...]
BOTH: Branches = ("positive", "negative")
ALONE: Branches = ("positive",)


@dataclass(eq=False)
class FakeRequest:
    """branches: by step; ahead: by step, how many of the next ones can be decoded with it.

    encodings: steps before which its prompts are encoded; chunks: of its decoding, 0 for one that
    is handed off; lean_from: the step from which guidance may be left out. taken: by call, how many
    steps it took; skipped: steps that left guidance out; due, lean: set where it is lined up.
    """

    branches: tuple[Branches, ...] = (BOTH,)
    group: Hashable = "large"
    ahead: tuple[int, ...] = ()
    cache_bytes: int = 0
    row_bytes: int = 0
    decode_bytes: int = 0
    encoder: Hashable = "text"
    encodings: frozenset[int] = frozenset({0})
    chunks: int = 0
    lean_from: int = 1 << 30
    step: int = 0
    decoded: int = 0
    turn: float = 0.0
    taken: list[int] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    due: StepWork = field(init=False)
    lean: StepWork | None = None

    def __post_init__(self) -> None:
        self.line_up()

    def line_up(self) -> None:
        """Set what it waits for."""
        last = self.step + (self.ahead[self.step] if self.ahead else 0)
        of = self.branches[self.step : last + 1]
        blocks = tuple((None,) * len(each) for each in of)
        guidance = tuple("both" if each == BOTH else "positive" for each in of)
        self.due = StepWork(self.group, "large", self.step, (0.0,) * len(of), guidance, blocks)
        may = self.step >= self.lean_from and of[0] == BOTH
        self.lean = (
            replace(self.due.first(1), guidance=("positive",), blocks=((None,),)) if may else None
        )

    @property
    def pace(self) -> Hashable:
        return self.group

    @property
    def progress(self) -> float:
        return self.step / len(self.branches)

    @property
    def decode_begun(self) -> bool:
        return self.decoded > 0

    @property
    def done(self) -> bool:
        return self.step == len(self.branches)


Chosen = Round[FakeRequest]


class FakeLoop:
    """As the engine's, with nothing executed. ended: requests in the order of their ends."""

    def __init__(
        self, limits: Limits, requests: Iterable[FakeRequest] = (), plan: Planner = unplanned
    ) -> None:
        self.limits = limits
        self.terms = Terms(limits, plan)
        self.queues: Queues[FakeRequest] = Queues(waiting=deque(requests))
        self.turn = Turn()
        self.ended: list[FakeRequest] = []

    def choose(self) -> Chosen | None:
        """Give places away, and say what is to run."""
        for _ in range(admitted(self.queues, self.limits)):
            self.queues.unencoded.append(self.queues.waiting.popleft())
        chosen, self.turn = next_round(self.queues, self.terms, self.turn)
        return None if chosen.idle else chosen

    def run(self, chosen: Chosen) -> None:
        for request in chosen.encode:
            self.queues.unencoded.remove(request)
            self.queues.ready.append(request)
        for request, _ in chosen.denoise:
            self.queues.ready.remove(request)
        for request, work in chosen.denoise:
            self._advance(request, work)
        for request in chosen.decode:
            self._decode(request)

    def to_the_end(self) -> int:
        """Run all that is here; returns how many rounds that took."""
        count = 0
        while (chosen := self.choose()) is not None:
            self.run(chosen)
            count += 1
        return count

    def _decode(self, request: FakeRequest) -> None:
        request.decoded += 1
        if request.decoded == request.chunks:
            self.queues.decoding.remove(request)
            self.ended.append(request)

    def _advance(self, request: FakeRequest, work: StepWork) -> None:
        if work is request.lean:
            request.skipped.append(work.step)
        request.step += work.steps
        request.taken.append(work.steps)
        if not request.done:
            request.line_up()
            encoded = request.step not in request.encodings
            (self.queues.ready if encoded else self.queues.unencoded).append(request)
        elif request.chunks:
            self.queues.decoding.append(request)
        else:
            self.ended.append(request)
