"""The engine: every job ends exactly once, through drops, stops and crashes."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from torch import Tensor

from baton.common.errors import BatonError, Draining, ExecutionFailed
from baton.common.families.loaded import LoadedFamily
from baton.common.request import Task
from baton.edge_server.engine.engine import Engine
from baton.edge_server.engine.job import Dropped, Event, HandedOff, Job, Progressed
from baton.edge_server.engine.scheduler import Limits
from tests.support.engines import (
    NODE,
    Gate,
    Listener,
    WatchedFamily,
    assert_as_alone,
    is_last,
    started_engine,
    submitted,
)
from tests.support.tasks import PROMPTS, plan, task, work


def test_a_dropped_job_leaves_at_its_next_step_and_its_neighbours_go_on(
    family: LoadedFamily,
) -> None:
    tasks = [task(plan("edge/large@0.5>device/small", 12), seed=i) for i in range(3)]

    def drop_at_two(event: Event) -> None:
        if event == Progressed(2, 12, 6):
            engine.drop(jobs[1])

    listeners = [Listener(), Listener(drop_at_two), Listener()]
    engine = Engine(family, NODE, Limits())
    jobs = submitted(engine, [work(f"r{i}", of) for i, of in enumerate(tasks)], listeners)
    engine.start()
    try:
        assert listeners[1].ending() == Dropped()
        assert [p.step for p in listeners[1].progress] == [1, 2]
        for i in (0, 2):
            assert_as_alone(family, tasks[i], listeners[i])
            rows = [step.rows for step in listeners[i].handoff().executed]
            assert rows == [6, 6, 4, 4, 4, 4]
    finally:
        engine.stop()


def test_a_waiting_job_can_be_dropped_and_an_unknown_one_is_no_matter(
    family: LoadedFamily,
) -> None:
    gate = Gate()
    running, waiting = Listener(), Listener()
    with started_engine(WatchedFamily(family, gate), active=1) as engine:
        engine.submit(Job(work("running"), emit=running))
        job = Job(work("waiting"), emit=waiting)
        engine.submit(job)
        gate.wait_for_call(1)
        engine.drop(Job(work("nobody"), emit=Listener()))
        engine.drop(job)
        gate.lift()
        assert waiting.ending() == Dropped()
        assert_as_alone(family, task(), running)
        engine.drop(job)
    assert waiting.events == [Dropped()]


def test_stopping_ends_what_runs_and_what_waits_as_draining(family: LoadedFamily) -> None:
    gate = Gate()
    listeners = [Listener() for _ in range(3)]
    engine = Engine(WatchedFamily(family, gate), NODE, Limits(active=1))
    long = task(plan("edge/small", 200, guidance=1.0))
    for i, listener in enumerate(listeners):
        engine.submit(Job(work(f"r{i}", long), emit=listener))
    engine.start()
    gate.wait_for_call(1)
    stopping = threading.Thread(target=engine.stop)
    stopping.start()
    while stopping.is_alive():
        gate.allow(1)
        stopping.join(0.01)
    assert [type(listener.outcome()) for listener in listeners] == [Draining] * 3


def test_every_job_ends_exactly_once_whatever_is_dropped_when(family: LoadedFamily) -> None:
    rng = np.random.default_rng(4)
    listeners: dict[str, Listener] = {}
    jobs: dict[str, Job] = {}
    tasks: dict[str, Task] = {}
    victims = {f"r{i}" for i in rng.choice(24, size=8, replace=False)}
    with started_engine(family, active=5, rows=7) as engine:
        for i in range(24):
            name, steps = f"r{i}", int(rng.integers(2, 9))
            guided = [bool(flag) for flag in rng.integers(2, size=steps)]
            sampler = ("ddim", "euler", "dpmpp_2m")[rng.integers(3)]
            of = plan("edge/small@0.5>device/large", steps, sampler, guided=guided)  # type: ignore[arg-type]
            tasks[name] = task(of, PROMPTS[i % 5], seed=i)
            at = int(rng.integers(1, 4))

            def on_event(event: Event, name: str = name, at: int = at) -> None:
                if name in victims and isinstance(event, Progressed) and event.step == at:
                    engine.drop(jobs[name])

            listeners[name] = Listener(on_event)
            jobs[name] = Job(work(name, tasks[name]), emit=listeners[name])
            engine.submit(jobs[name])
        endings = {name: listener.ending() for name, listener in listeners.items()}
    for name, listener in listeners.items():
        assert [event for event in listener.events if is_last(event)] == [endings[name]]
        if endings[name] == Dropped():
            assert name in victims
        else:
            assert_as_alone(family, tasks[name], listener)


class Crash(BaseException):
    """What no step catches."""


def test_a_crash_of_the_thread_ends_what_runs_what_waits_and_what_comes(
    family: LoadedFamily, caplog: pytest.LogCaptureFixture
) -> None:
    gate, crashes = Gate(), list[BatonError]()

    def crash(member: str, x: Tensor) -> None:
        gate(member, x)
        raise Crash("secret detail")

    engine = Engine(WatchedFamily(family, crash), NODE, Limits(active=2))
    listeners = [Listener() for _ in range(4)]
    for i, listener in enumerate(listeners[:3]):
        engine.submit(Job(work(f"r{i}"), emit=listener))
    engine.start(crashes.append)
    gate.wait_for_call(1)
    engine.submit(Job(work("r3"), emit=listeners[3]))  # in the inbox when the thread ends
    gate.lift()
    late = Listener()
    outcomes = [listener.outcome() for listener in listeners]
    engine.stop()
    engine.submit(Job(work("late"), emit=late))
    for outcome in (*outcomes, late.outcome()):
        assert isinstance(outcome, ExecutionFailed)
        assert "secret" not in str(outcome)
    for listener in (*listeners, late):
        assert sum(is_last(event) for event in listener.events) == 1
    assert len(crashes) == 1
    assert "secret detail" in caplog.text


def test_what_is_submitted_to_a_stopped_engine_ends_as_draining(family: LoadedFamily) -> None:
    with started_engine(family) as engine:
        pass
    listener = Listener()
    engine.submit(Job(work("late"), emit=listener))
    assert isinstance(listener.outcome(), Draining)


def test_an_engine_that_never_started_ends_what_it_was_given(family: LoadedFamily) -> None:
    engine, listener = Engine(family, NODE, Limits()), Listener()
    engine.submit(Job(work("r"), emit=listener))
    engine.stop()
    assert isinstance(listener.outcome(), Draining)


@pytest.mark.parametrize("attempt", range(10))
def test_every_job_submitted_while_the_engine_stops_ends_exactly_once(
    family: LoadedFamily, attempt: int
) -> None:
    engine = Engine(family, NODE, Limits())
    engine.start()
    listeners = [Listener() for _ in range(40)]
    together = threading.Barrier(3)

    def submit(mine: list[Listener]) -> None:
        together.wait()
        for i, listener in enumerate(mine):
            engine.submit(Job(work(f"r{i}"), emit=listener))

    halves = [listeners[::2], listeners[1::2]]
    threads = [threading.Thread(target=submit, args=(half,)) for half in halves]
    for thread in threads:
        thread.start()
    together.wait()
    engine.stop()
    for thread in threads:
        thread.join()
    for listener in listeners:
        assert isinstance(listener.outcome(), Draining | HandedOff)
        assert sum(is_last(event) for event in listener.events) == 1
