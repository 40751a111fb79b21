"""A started engine, what its jobs tell, and families whose model calls a test can watch."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from baton.common.diffusion.blocks import Block, BlockGraph, ModelInputs
from baton.common.diffusion.denoiser import Denoiser
from baton.common.errors import BatonError
from baton.common.families.loaded import LoadedFamily
from baton.common.latents import LatentState, decode_state
from baton.common.request import Task
from baton.edge_server.engine.engine import Engine
from baton.edge_server.engine.job import (
    Checkpointed,
    Denoised,
    Drained,
    Drawn,
    Dropped,
    Event,
    HandedOff,
    Job,
    Outcome,
    Progressed,
    Started,
    Work,
)
from baton.edge_server.engine.scheduler import Limits, Planner
from baton.edge_server.engine.steering import Course, Steering
from tests.support.tasks import run_alone, work

NODE = "edge-test"
_PATIENCE = 60.0  # seconds until a test that waits gives up

BeforeCall = Callable[[str, Tensor], None]


class WatchedFamily(LoadedFamily):
    """The same family, but ``before`` sees every model call: (member, latents [B, C, H, W]).

    Of a call block by block, it sees the rows that run the first block.
    """

    def __init__(self, family: LoadedFamily, before: BeforeCall) -> None:
        self.__dict__.update(family.__dict__)
        self._before = before

    def denoiser(self, member: str) -> Denoiser:
        return _Watched(member, super().denoiser(member), self._before)


class _Watched(Denoiser):
    def __init__(self, name: str, inner: Denoiser, before: BeforeCall) -> None:
        self._name, self._inner, self._before = name, inner, before
        if inner.graph is not None:
            first, *others = inner.graph.blocks
            watched = replace(first, run=lambda ins, inputs: self._run(first, ins, inputs))
            self.graph = BlockGraph((watched, *others))

    def _run(self, block: Block, ins: Sequence[Tensor], inputs: ModelInputs) -> Tensor:
        self._before(self._name, inputs.sample)
        return block.run(ins, inputs)

    def __call__(self, inputs: ModelInputs) -> Tensor:
        self._before(self._name, inputs.sample)
        return self._inner(inputs)


class Counter:
    """Counts model calls and their rows."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, member: str, x: Tensor) -> None:
        self.rows.append(len(x))

    @property
    def calls(self) -> int:
        return len(self.rows)


class Gate:
    """Holds every model call until a test lets it through."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._permits = 0
        self._lifted = False
        self.arrived = 0

    def __call__(self, member: str, x: Tensor) -> None:
        with self._changed:
            self.arrived += 1
            self._changed.notify_all()
            open_ = self._changed.wait_for(lambda: self._lifted or self._permits, _PATIENCE)
            if not open_:
                raise TimeoutError("the test never opened the gate")
            self._permits -= not self._lifted

    def allow(self, calls: int) -> None:
        """Let so many more calls through."""
        with self._changed:
            self._permits += calls
            self._changed.notify_all()

    def lift(self) -> None:
        """Hold nothing any more."""
        with self._changed:
            self._lifted = True
            self._changed.notify_all()

    def wait_for_call(self, number: int) -> None:
        """Wait until so many calls have come, let through or not."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.arrived >= number, _PATIENCE):
                raise TimeoutError(f"only {self.arrived} of {number} model calls came")


def is_last(event: Event) -> bool:
    """Whether nothing may come of the job after it."""
    return not isinstance(event, Started | Progressed | Denoised | Checkpointed)


class Listener:
    """Takes what one job emits."""

    def __init__(self, on_event: Callable[[Event], None] | None = None) -> None:
        self.events: list[Event] = []
        self._on_event = on_event
        self._ended = threading.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if self._on_event is not None:
            self._on_event(event)
        if is_last(event):
            self._ended.set()

    def ending(self) -> Outcome | Dropped:
        """Wait for the job's last event."""
        if not self._ended.wait(_PATIENCE):
            raise TimeoutError(f"no outcome after {len(self.events)} events")
        last = self.events[-1]
        assert isinstance(last, HandedOff | Drawn | Drained | BatonError | Dropped)
        return last

    def outcome(self) -> Outcome:
        """Wait for the outcome of a job that nobody drops."""
        last = self.ending()
        assert not isinstance(last, Dropped)
        return last

    def handoff(self) -> HandedOff:
        outcome = self.outcome()
        if isinstance(outcome, BatonError):
            raise outcome
        assert isinstance(outcome, HandedOff)
        return outcome

    @property
    def progress(self) -> list[Progressed]:
        return [event for event in self.events if isinstance(event, Progressed)]

    @property
    def checkpoints(self) -> list[Checkpointed]:
        return [event for event in self.events if isinstance(event, Checkpointed)]


@contextlib.contextmanager
def started_engine(family: LoadedFamily, active: int = 16, rows: int = 16) -> Iterator[Engine]:
    engine = Engine(family, NODE, Limits(active, rows))
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


def submitted(engine: Engine, works: Sequence[Work], listeners: Sequence[Listener]) -> list[Job]:
    """A job for each of the works, in the engine's inbox."""
    jobs = [Job(item, emit=listener) for item, listener in zip(works, listeners, strict=True)]
    for job in jobs:
        engine.submit(job)
    return jobs


def expanded(family: LoadedFamily, item: Work) -> Work:
    """With its steps made as cheap as its plan allows, where it allows anything."""
    if all(segment.accel == "none" for segment in item.task.plan.segments):
        return item
    return replace(item, plan=family.accelerator.expand(item.task.plan))


def cut(chunks: int, planner: Planner | None = None) -> Steering:
    """Decodes in so many chunks, whatever the load."""
    return Steering(chunks=lambda size: chunks, controlled=False, planner=planner)


def run_together(
    family: LoadedFamily,
    works: Sequence[Work],
    active: int = 16,
    rows: int = 16,
    cache: int = 1 << 30,
    chunks: int = 1,
) -> list[Listener]:
    """Run all of it in an engine that found it waiting when it started, to the last outcome.

    What its plans allow is done: as on the wire, each comes with what that means here.
    """
    works = [expanded(family, item) for item in works]
    engine = Engine(family, NODE, Limits(active, rows, cache), steering=cut(chunks))
    listeners = [Listener() for _ in works]
    submitted(engine, works, listeners)
    engine.start()
    try:
        for listener in listeners:
            listener.outcome()
    finally:
        engine.stop()
    return listeners


def drawn_together(
    family: LoadedFamily, tasks: Sequence[Task], limits: Limits, steering: Steering
) -> tuple[list[Drawn], Course]:
    """All drawn to the end, on one thread, in an engine that found them waiting; how it went."""
    works = [expanded(family, work(str(number), of)) for number, of in enumerate(tasks)]
    engine = Engine(family, NODE, limits, threads=1, steering=steering)
    listeners = [Listener() for _ in works]
    submitted(engine, works, listeners)
    engine.start()
    try:
        outcomes = [listener.outcome() for listener in listeners]
    finally:
        engine.stop()
    pictures = [outcome for outcome in outcomes if isinstance(outcome, Drawn)]
    assert len(pictures) == len(works)
    return pictures, engine.course()


def latent(outcome: HandedOff) -> LatentState:
    return decode_state(outcome.envelope).state


def assert_as_alone(family: LoadedFamily, of: Task, listener: Listener) -> None:
    """The handoff is the solo run's, and the record tells all steps that led to it."""
    outcome, stop = listener.handoff(), of.plan.stretch_end(0)
    state, alone = latent(outcome), run_alone(family, of, stop)
    assert (state.step, state.level) == (stop, alone.course.levels[stop])
    expected = alone.x.numpy()
    assert np.linalg.norm(state.x - expected) <= 1e-5 * np.linalg.norm(expected)
    assert [step.step for step in outcome.executed] == list(range(stop))
    for step in outcome.executed:
        assert step.member == of.plan.segment_at(step.step).member
        asked = of.plan.directive_at(step.step).branches == "both"
        assert (step.branches == "both") == (asked and of.plan.segments[0].guidance.scale > 1)
        assert (step.location, step.node_id) == ("edge", NODE)
        assert step.threads == torch.get_num_threads()
