"""The engine: a job that is released ends at its next step, with what others go on from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from baton.common.families.loaded import LoadedFamily
from baton.common.latents import LatentState, decode_state
from baton.common.limits import SAMPLERS, Accel, SamplerName
from baton.edge_server.engine.engine import Engine
from baton.edge_server.engine.job import Drained, Drawn, Event, HandedOff, Job, Progressed, Work
from baton.edge_server.engine.scheduler import Limits
from tests.support.engines import (
    NODE,
    Gate,
    Listener,
    WatchedFamily,
    expanded,
    started_engine,
    submitted,
)
from tests.support.faults import FaultyFamily
from tests.support.graphs import masked_copy
from tests.support.tasks import accelerated, plan, run_alone, task, work

STEPS = 12


@pytest.fixture(scope="module")
def accelerable(family: LoadedFamily, tmp_path_factory: pytest.TempPathFactory) -> LoadedFamily:
    folder: Path = tmp_path_factory.mktemp("release") / "family"
    return masked_copy(family, folder, *((sampler, STEPS) for sampler in SAMPLERS))


def released(family: LoadedFamily, works: list[Work], at: int) -> list[Drained]:
    """What comes of the works if each is released when it has told of ``at`` steps or more."""
    engine, jobs = Engine(family, NODE, Limits()), list[Job]()
    listeners = []
    for index in range(len(works)):

        def release(event: Event, index: int = index) -> None:
            if isinstance(event, Progressed) and event.step >= at:
                engine.release(jobs[index])

        listeners.append(Listener(release))
    jobs += submitted(engine, [expanded(family, item) for item in works], listeners)
    engine.start()
    try:
        outcomes = [listener.outcome() for listener in listeners]
    finally:
        engine.stop()
    assert all(isinstance(outcome, Drained) for outcome in outcomes)
    return outcomes  # type: ignore[return-value]


def state_of(drained: Drained) -> LatentState:
    assert drained.checkpoint is not None
    return decode_state(drained.checkpoint.envelope).state


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("accel", ["none", "propagate", "masks"])
def test_its_state_is_that_of_its_steps_and_leads_where_a_checkpoint_would(
    accelerable: LoadedFamily, sampler: SamplerName, accel: Accel
) -> None:
    """Also amid steps that were decoded together: a call ends whole groups."""
    of = task(accelerated(plan("edge/large@0.9>device/small", STEPS, sampler), accel))
    for at in (2, 7):
        (drained,) = released(accelerable, [work("r", of)], at)
        state = state_of(drained)
        assert state.step >= at
        assert drained.checkpoint is not None
        steps = [step.step for step in drained.checkpoint.executed]
        assert steps == list(range(state.step))
        assert drained.times.model > 0
        np.testing.assert_array_equal(state.x, run_alone(accelerable, of, state.step).x.numpy())


def test_neighbours_are_released_each_with_its_own(family: LoadedFamily) -> None:
    tasks = [task(plan("edge/large", STEPS), seed=seed) for seed in range(3)]
    works = [work(f"r{seed}", of) for seed, of in enumerate(tasks)]
    for of, drained in zip(tasks, released(family, works, 4), strict=True):
        expected = run_alone(family, of, 4).x.numpy()
        assert np.linalg.norm(state_of(drained).x - expected) <= 1e-5 * np.linalg.norm(expected)


def test_what_waits_is_released_without_a_state_and_what_is_unknown_is_no_matter(
    family: LoadedFamily,
) -> None:
    gate, running, waiting = Gate(), Listener(), Listener()
    with started_engine(WatchedFamily(family, gate), active=1) as engine:
        engine.submit(Job(work("running"), emit=running))
        job = Job(work("waiting"), emit=waiting)
        engine.submit(job)
        gate.wait_for_call(1)
        engine.release(Job(work("nobody"), emit=Listener()))
        engine.release(job)
        engine.release(job)
        gate.lift()
        outcome = waiting.outcome()
        assert isinstance(running.outcome(), HandedOff)
    assert isinstance(outcome, Drained)
    assert outcome.checkpoint is None
    assert waiting.events == [outcome]


def test_a_resumed_job_without_a_step_of_its_own_has_no_state_to_give(family: LoadedFamily) -> None:
    of = task(plan("edge/large", STEPS))
    state = run_alone(family, of, 5).state()
    gate, listener = Gate(), Listener()
    with started_engine(WatchedFamily(family, gate), active=1) as engine:
        engine.submit(Job(work("first"), emit=Listener()))
        job = Job(work("r", of, resume=state), emit=listener)
        engine.submit(job)
        gate.wait_for_call(1)
        engine.release(job)
        gate.lift()
        outcome = listener.outcome()
    assert isinstance(outcome, Drained)
    assert outcome.checkpoint is None


def test_what_is_being_decoded_is_drawn_all_the_same(family: LoadedFamily) -> None:
    listener, jobs = Listener(), list[Job]()

    def release(kind: str) -> None:
        if kind == "decode":
            engine.release(jobs[0])

    engine = Engine(FaultyFamily(family, before=release), NODE, Limits())
    jobs += submitted(engine, [work("r", task(plan("edge/small", 3)))], [listener])
    engine.start()
    try:
        assert isinstance(listener.outcome(), Drawn)
    finally:
        engine.stop()
