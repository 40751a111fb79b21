"""Whatever goes wrong in one request, its neighbours end as if alone, and each ends once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from baton.common.errors import Draining, ExecutionFailed
from baton.common.families.architectures.adapter import Texts
from baton.common.families.loaded import LoadedFamily
from baton.common.latents import Codec, decode_state
from baton.common.plan import OpenPlan
from baton.common.request import Task
from baton.edge_server.engine.engine import Engine
from baton.edge_server.engine.job import (
    Checkpointed,
    Drawn,
    Dropped,
    Event,
    HandedOff,
    Job,
    Progressed,
    Started,
)
from baton.edge_server.engine.loop import Loop
from baton.edge_server.engine.runner import Runner
from baton.edge_server.engine.scheduler import Limits
from tests.support.engines import (
    NODE,
    Gate,
    Listener,
    cut,
    expanded,
    is_last,
    run_together,
    started_engine,
    submitted,
)
from tests.support.faults import Fault, FaultyFamily
from tests.support.graphs import masked_copy
from tests.support.tasks import PROMPTS, accelerated, plan, run_alone, task, work

STEPS, STOP = 7, 6
ERRORS: dict[str, Callable[[], Exception | None]] = {
    "exception": lambda: ValueError("secret detail"),
    "memory": MemoryError,
    "device memory": lambda: torch.OutOfMemoryError("secret detail"),
    "allocator": lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: secret detail"),
    "nan": lambda: None,
}
ACCELS = ("none", "propagate", "masks")  # plain, groups ahead, masked
VICTIMS = [(count, victim) for count in range(2, 6) for victim in range(count)]
_STEPS_AND_ACCELS = list(product((0, 3, STOP - 1), ACCELS))
_MEMORY = ("memory", "device memory", "allocator")
#: Every victim fails in each way; at first, middle and last steps, however they run, in turn.
CASES = [
    (*victim, error, *_STEPS_AND_ACCELS[(number + 4 * way) % len(_STEPS_AND_ACCELS)])
    for number, victim in enumerate(VICTIMS)
    for way, error in enumerate(("exception", _MEMORY[number % 3], "nan"))
]


@pytest.fixture(scope="module")
def accelerable(family: LoadedFamily, tmp_path_factory: pytest.TempPathFactory) -> LoadedFamily:
    return masked_copy(family, tmp_path_factory.mktemp("faults") / "family", ("ddim", STEPS))


def handed_off(accel: str) -> OpenPlan:
    return accelerated(plan(f"edge/large@{STOP / STEPS}>device/small", STEPS), accel)  # type: ignore[arg-type]


def tasks_of(accel: str, count: int) -> list[Task]:
    return [task(handed_off(accel), PROMPTS[i], f"not {i}", seed=i) for i in range(count)]


@cache
def alone(family: LoadedFamily, of: Task) -> np.ndarray[Any, Any]:
    return run_alone(family, of, STOP).x.numpy()


def assert_as_alone(family: LoadedFamily, of: Task, listener: Listener) -> None:
    outcome, expected = listener.handoff(), alone(family, of)
    assert [step.step for step in outcome.executed] == list(range(STOP))
    found = decode_state(outcome.envelope).state.x
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


def fault_of(family: LoadedFamily, of: Task, step: int, error: str, times: int = -1) -> Fault:
    context = family.encode_text(of.prompt, of.negative_prompt).row("positive")["context"]
    timestep = family.course(of.plan).timesteps[step]
    return Fault(context, timestep, ERRORS[error](), times)


def works_of(tasks: Sequence[Task]) -> list[Any]:
    return [work(f"r{i}", of) for i, of in enumerate(tasks)]


@pytest.mark.parametrize(("count", "victim", "error", "step", "accel"), CASES)
def test_whoever_fails_at_a_step_fails_alone(
    accelerable: LoadedFamily, count: int, victim: int, error: str, step: int, accel: str
) -> None:
    tasks = tasks_of(accel, count)
    faulty = FaultyFamily(accelerable, fault_of(accelerable, tasks[victim], step, error))
    listeners = run_together(faulty, works_of(tasks), rows=64)
    for i, (of, listener) in enumerate(zip(tasks, listeners, strict=True)):
        assert sum(map(is_last, listener.events)) == 1
        if i != victim:
            assert_as_alone(accelerable, of, listener)
            continue
        outcome = listener.outcome()
        assert isinstance(outcome, ExecutionFailed)
        assert "secret" not in str(outcome)
        assert ("finite" in str(outcome)) == (error == "nan")
        assert all(event.step <= step for event in listener.progress)


@pytest.mark.parametrize("accel", ACCELS)
@pytest.mark.parametrize("step", [0, 3, STOP - 1])
@pytest.mark.parametrize("error", ["exception", "allocator"])
def test_what_fails_once_is_done_again_and_nobody_notices(
    accelerable: LoadedFamily, error: str, step: int, accel: str
) -> None:
    tasks = tasks_of(accel, 3)
    fault = fault_of(accelerable, tasks[1], step, error, times=1)
    listeners = run_together(FaultyFamily(accelerable, fault), works_of(tasks), rows=64)
    assert fault.times == 0
    for of, listener in zip(tasks, listeners, strict=True):
        assert_as_alone(accelerable, of, listener)


@pytest.mark.parametrize("accel", ACCELS)
def test_neighbours_of_a_row_that_is_not_finite_stay_as_they_are_bit_for_bit(
    accelerable: LoadedFamily, accel: str
) -> None:
    tasks = tasks_of(accel, 4)
    fault = fault_of(accelerable, tasks[1], STOP - 1, "nan")
    listeners = run_together(FaultyFamily(accelerable, fault), works_of(tasks), rows=64)
    undisturbed = run_together(accelerable, works_of(tasks), rows=64)
    for i in (0, 2, 3):
        assert listeners[i].handoff().envelope == undisturbed[i].handoff().envelope


def rows_of_calls(family: FaultyFamily) -> list[int]:
    return [count for kind, count in family.calls.made if kind == "denoise"]


def test_a_batch_that_finds_no_memory_runs_in_halves(accelerable: LoadedFamily) -> None:
    def small(inputs: Any, out: torch.Tensor) -> torch.Tensor:
        if len(out) > 4:
            raise MemoryError
        return out

    tasks, family = tasks_of("none", 4), FaultyFamily(accelerable, small)
    listeners = run_together(family, works_of(tasks))
    for of, listener in zip(tasks, listeners, strict=True):
        assert_as_alone(accelerable, of, listener)
        assert {step.rows for step in listener.handoff().executed} == {4}
    assert rows_of_calls(family) == [8, 4, 4] * STOP


def test_a_half_that_finds_no_memory_either_runs_one_by_one(accelerable: LoadedFamily) -> None:
    tasks = tasks_of("none", 4)
    family = FaultyFamily(accelerable, fault_of(accelerable, tasks[2], STOP - 1, "memory"))
    run_together(family, works_of(tasks))
    assert rows_of_calls(family) == [8] * (STOP - 1) + [8, 4, 4, 2, 2]


def test_a_batch_that_fails_otherwise_runs_one_by_one(accelerable: LoadedFamily) -> None:
    tasks = tasks_of("none", 4)
    family = FaultyFamily(accelerable, fault_of(accelerable, tasks[2], STOP - 1, "exception"))
    run_together(family, works_of(tasks))
    assert rows_of_calls(family) == [8] * (STOP - 1) + [8, 2, 2, 2, 2]


def test_a_request_alone_that_finds_no_memory_takes_fewer_steps_at_once(
    accelerable: LoadedFamily,
) -> None:
    def small(inputs: Any, out: torch.Tensor) -> torch.Tensor:
        if len(out) > 6:
            raise MemoryError
        return out

    (of,) = tasks_of("propagate", 1)
    family = FaultyFamily(accelerable, small)
    (listener,) = run_together(family, works_of([of]))
    assert_as_alone(accelerable, of, listener)
    assert max(rows_of_calls(family)) > 6
    assert max(step.rows for step in listener.handoff().executed) <= 6


@pytest.mark.parametrize("victim", [0, 3, 7])
def test_a_prompt_that_cannot_be_encoded_fails_alone(
    accelerable: LoadedFamily, victim: int
) -> None:
    def encoding(texts: Sequence[Texts]) -> None:
        if any(negative == f"not {victim}" for _, negative in texts):
            raise RuntimeError("secret detail")

    tasks = [task(handed_off("none"), negative=f"not {i}", seed=i) for i in range(8)]
    family = FaultyFamily(accelerable, encoding=encoding)
    listeners = run_together(family, works_of(tasks))
    assert [kind for kind, _ in family.calls.made].count("encode") == 9
    assert isinstance(listeners[victim].outcome(), ExecutionFailed)
    for i, (of, listener) in enumerate(zip(tasks, listeners, strict=True)):
        if i != victim:
            assert_as_alone(accelerable, of, listener)


@pytest.mark.parametrize("chunk", [0, 1, 2])
def test_a_picture_that_cannot_be_decoded_fails_alone(family: LoadedFamily, chunk: int) -> None:
    seen = list[int]()

    def decoding(x: torch.Tensor) -> None:
        seen.append(len(seen))
        if seen[-1] == 3 + chunk:  # of the second picture
            raise MemoryError("secret detail")

    tasks = [task(plan("edge/large", 2), seed=i) for i in range(3)]
    listeners = run_together(FaultyFamily(family, decoding=decoding), works_of(tasks), chunks=3)
    kinds = [type(listener.outcome()) for listener in listeners]
    assert kinds == [Drawn, ExecutionFailed, Drawn]
    for i in (0, 2):
        expected = family.decode(run_alone(family, tasks[i], 2).x).astype(int)
        outcome = listeners[i].outcome()
        assert isinstance(outcome, Drawn)
        assert np.abs(outcome.picture.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("every", [0, 1])
def test_a_latent_that_cannot_travel_ends_its_own_request_alone(
    accelerable: LoadedFamily, every: int
) -> None:
    """At its checkpoint, or at its handoff."""
    tasks = tasks_of("none", 3)
    state = run_alone(accelerable, tasks[1], STOP - 2).state()
    state.x.fill(1e6)
    works = works_of(tasks)
    works[1] = work("bad", tasks[1], Codec.FP16, every, state)
    listeners = run_together(accelerable, works)
    assert "fp32" in str(listeners[1].outcome())
    assert not listeners[1].checkpoints
    for i in (0, 2):
        assert_as_alone(accelerable, tasks[i], listeners[i])


class Deaf(Listener):
    """Raises at events of one kind, as whoever has gone does."""

    def __init__(self, kind: type, error: Exception) -> None:
        super().__init__()
        self._kind, self._error = kind, error

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        if isinstance(event, self._kind):
            raise self._error


@pytest.mark.parametrize("kind", [Started, Progressed, Checkpointed, HandedOff, object])
@pytest.mark.parametrize("error", [RuntimeError("Event loop is closed"), ValueError("secret")])
def test_a_listener_that_fails_ends_nobody_else_and_hears_one_end(
    accelerable: LoadedFamily, kind: type, error: Exception
) -> None:
    tasks = tasks_of("none", 3)
    listeners = [Listener(), Deaf(kind, error), Listener()]
    late = Listener()
    with started_engine(accelerable) as engine:
        works = [work(f"r{i}", of, checkpoint_every=2) for i, of in enumerate(tasks)]
        submitted(engine, works, listeners)
        for of, listener in zip(tasks, listeners, strict=True):
            if not isinstance(listener, Deaf):
                assert_as_alone(accelerable, of, listener)
        listeners[1].ending()
        engine.submit(Job(work("late", tasks[0]), emit=late))
        assert_as_alone(accelerable, tasks[0], late)
    assert sum(map(is_last, listeners[1].events)) == 1
    assert isinstance(listeners[1].events[-1], HandedOff if kind is HandedOff else ExecutionFailed)


def test_a_listener_that_fails_when_all_end_keeps_no_other_from_hearing(
    family: LoadedFamily,
) -> None:
    loop = Loop(Runner(family, NODE), Limits())
    listeners = [Deaf(Draining, ValueError("secret")), Listener()]
    for i, listener in enumerate(listeners):
        loop.take(Job(work(f"r{i}"), emit=listener))
    loop.close(Draining("the edge is shutting down"))
    assert [type(listener.ending()) for listener in listeners] == [Draining, Draining]


def drawing(family: LoadedFamily) -> tuple[Loop, list[Job], list[Listener]]:
    """One that is handed off and two that are drawn here, one of which has to wait."""
    loop = Loop(Runner(FaultyFamily(family), NODE), Limits(active=2), cut(3))
    plans = [plan("edge/large", 2), handed_off("propagate"), plan("edge/small", 2)]
    listeners = [Listener() for _ in plans]
    jobs = []
    for i, (of, listener) in enumerate(zip(plans, listeners, strict=True)):
        jobs.append(Job(expanded(family, work(f"r{i}", task(of, seed=i))), emit=listener))
        loop.take(jobs[-1])
    return loop, jobs, listeners


def items_until_idle(loop: Loop) -> int:
    count = 0
    while not loop.idle:
        loop.step()
        count += 1
    return count


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_job_can_be_dropped_before_and_after_every_item(
    accelerable: LoadedFamily, victim: int
) -> None:
    loop, _, undisturbed = drawing(accelerable)
    for items in range(items_until_idle(loop) + 1):
        loop, jobs, listeners = drawing(accelerable)
        for _ in range(items):
            loop.step()
        over = any(map(is_last, listeners[victim].events))
        loop.drop(jobs[victim])
        items_until_idle(loop)
        loop.drop(jobs[victim])
        for i, listener in enumerate(listeners):
            dropped = i == victim and not over
            expected = Dropped if dropped else type(undisturbed[i].ending())
            assert [type(event) for event in listener.events if is_last(event)] == [expected]


def test_all_can_be_ended_before_and_after_every_item(accelerable: LoadedFamily) -> None:
    loop, _, undisturbed = drawing(accelerable)
    for items in range(items_until_idle(loop) + 1):
        loop, jobs, listeners = drawing(accelerable)
        for _ in range(items):
            loop.step()
        over = [any(map(is_last, listener.events)) for listener in listeners]
        loop.close(Draining("the edge is shutting down"))
        assert loop.idle
        for job in jobs:
            loop.drop(job)
        for listener, whole, ended in zip(listeners, undisturbed, over, strict=True):
            expected = type(whole.ending()) if ended else Draining
            assert [type(event) for event in listener.events if is_last(event)] == [expected]


@pytest.mark.parametrize("phase", ["encode", "denoise", "decode"])
def test_stopping_during_a_call_of_any_kind_ends_each_job_once(
    family: LoadedFamily, phase: str
) -> None:
    gate = Gate()

    def before(kind: str) -> None:
        if kind == phase:
            gate(kind, torch.empty(0))

    engine = Engine(FaultyFamily(family, before=before), NODE, Limits(active=2), steering=cut(3))
    listeners = [Listener() for _ in range(4)]
    submitted(engine, works_of([task(plan("edge/small", 2))] * 4), listeners)
    engine.start()
    gate.wait_for_call(1)
    late = Listener()
    engine.submit(Job(work("late"), emit=late))
    gate.lift()
    engine.stop()
    for listener in (*listeners, late):
        assert isinstance(listener.outcome(), Draining)
        assert sum(map(is_last, listener.events)) == 1
