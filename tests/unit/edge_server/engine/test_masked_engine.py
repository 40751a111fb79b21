"""The engine among requests that reuse blocks: each as if alone, within its memory."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from baton.common.errors import ExecutionFailed, InvalidRequest
from baton.common.families.loaded import LoadedFamily
from baton.common.latents import LatentState, decode_state
from baton.common.limits import SamplerName
from baton.common.plan import OpenPlan, StepDirective
from baton.common.request import Task
from baton.edge_server.engine.engine import Engine
from baton.edge_server.engine.job import Drawn, Dropped, Event, Progressed
from baton.edge_server.engine.scheduler import Limits
from tests.support.engines import (
    NODE,
    Counter,
    Listener,
    WatchedFamily,
    expanded,
    latent,
    run_together,
    submitted,
)
from tests.support.graphs import masked_copy, random_mask, with_directives, with_mask
from tests.support.tasks import PROMPTS, accelerated, plan, run_alone, task, work

Z = [True, False]


@pytest.fixture(scope="module")
def accelerable(family: LoadedFamily, tmp_path_factory: pytest.TempPathFactory) -> LoadedFamily:
    asked: list[tuple[SamplerName, int]] = [("ddim", 10), ("dpmpp_2m", 12), ("euler", 9)]
    return masked_copy(family, tmp_path_factory.mktemp("engine") / "family", *asked)


def mixed_tasks(family: LoadedFamily) -> list[Task]:
    """Each is handed off some steps before its end, or drawn here."""
    graph = family.blocks("large")
    plans = [
        plan("edge/large@0.8>device/small", 10, "ddim", 3.0),
        accelerated(plan("edge/large@0.8>device/small", 10, "ddim", 3.0), "propagate"),
        accelerated(plan("edge/large@0.7>device/small", 10, "ddim", 7.5), "masks"),
        accelerated(plan("edge/large@0.9>device/small", 12, "dpmpp_2m", 2.0), "full"),
        plan("edge/large@0.6>device/small", 9, "euler", 1.0),
        accelerated(plan("edge/large@0.8>device/small", 9, "euler", 1.0), "full"),
        accelerated(plan("edge/small@0.5>device/large", 14, "dpmpp_2m", 4.0), "propagate"),
        accelerated(plan("edge/small@0.9>device/large", 10, "ddim", 4.0), "masks"),
        with_mask(
            plan("edge/large@0.9>device/large", 10, "ddim", 5.0, Z * 5), random_mask(graph, 10)
        ),
    ]
    return [task(of, PROMPTS[i % 5], seed=i) for i, of in enumerate(plans)]


def in_full(of: OpenPlan) -> OpenPlan:
    """Every block at every step."""
    full = with_directives(of, [StepDirective()] * of.steps)
    return accelerated(full, "none")


def assert_close(state: LatentState, expected: Tensor) -> None:
    assert np.linalg.norm(state.x - expected.numpy()) <= 1e-5 * expected.norm().item()


def assert_as_alone(family: LoadedFamily, of: Task, listener: Listener) -> None:
    outcome, stop = listener.handoff(), of.plan.stretch_end(0)
    assert_close(latent(outcome), run_alone(family, of, stop).x)
    assert [step.step for step in outcome.executed] == list(range(stop))
    assert outcome.executed[0].blocks in (
        None,
        family.blocks(outcome.executed[0].member).all,
    )


@pytest.mark.parametrize(
    ("active", "rows", "every"), [(16, 64, 0), (16, 16, 3), (4, 6, 2), (1, 2, 1), (5, 9, 4)]
)
def test_masked_propagating_and_plain_requests_each_end_as_if_alone(
    accelerable: LoadedFamily, active: int, rows: int, every: int
) -> None:
    counter, tasks = Counter(), mixed_tasks(accelerable)
    works = [work(f"r{i}", of, checkpoint_every=every) for i, of in enumerate(tasks)]
    listeners = run_together(WatchedFamily(accelerable, counter), works, active, rows)
    for of, listener in zip(tasks, listeners, strict=True):
        assert_as_alone(accelerable, of, listener)
        executed = listener.handoff().executed
        assert max(step.rows for step in executed) <= rows
        stop = of.plan.stretch_end(0)
        expected = list(range(every, stop, every)) if every else []
        found = [decode_state(event.envelope).state for event in listener.checkpoints]
        assert [state.step for state in found] == expected
        for event, step in zip(listener.checkpoints, expected, strict=True):
            assert event.executed == executed[:step]
        steps = [event.step for event in listener.progress]
        assert steps == sorted(set(steps))
        assert set(expected) <= set(steps)
    assert max(counter.rows) <= rows


@pytest.mark.parametrize("accel", ["propagate", "masks", "full"])
def test_going_on_from_any_checkpoint_is_going_on_alone(
    accelerable: LoadedFamily, accel: str
) -> None:
    of = task(accelerated(plan("edge/large@0.9>device/small", 10, "ddim"), accel))  # type: ignore[arg-type]
    (listener,) = run_together(accelerable, [work("r", of, checkpoint_every=1)])
    assert len(listener.checkpoints) == 8
    whole = accelerable.blocks("large").all
    for checkpoint in listener.checkpoints:
        state = decode_state(checkpoint.envelope, accelerable.fingerprint).state
        (again,) = run_together(accelerable, [work("r", of, resume=state)])
        outcome = again.handoff()
        assert outcome.executed[0].blocks == whole
        assert torch.equal(
            torch.from_numpy(latent(outcome).x), run_alone(accelerable, of, 9, state).x
        )


def test_groups_are_told_by_their_last_step(accelerable: LoadedFamily) -> None:
    of = task(accelerated(plan("edge/large", 10), "propagate"))
    (listener,) = run_together(accelerable, [work("r", of)])
    assert [event.step for event in listener.progress] == [1, 6]
    outcome = listener.outcome()
    assert isinstance(outcome, Drawn)
    assert [step.ahead for step in outcome.executed] == [0, 4, 0, 0, 0, 0, 3, 0, 0, 0]
    assert [step.rows for step in outcome.executed] == [2] + [10] * 5 + [8] * 4


def test_a_row_that_makes_the_whole_call_raise_fails_alone(
    accelerable: LoadedFamily, caplog: pytest.LogCaptureFixture
) -> None:
    """Its neighbours' caches are those of the step before, when they run again one by one."""

    def refuse_huge(member: str, x: Tensor) -> None:
        if x.abs().max() > 1e5:
            raise RuntimeError("out of range")

    tasks = mixed_tasks(accelerable)[:4]
    state = run_alone(accelerable, tasks[2], 3).state()
    state.x.fill(1e6)
    bad = work("bad", tasks[2], resume=state)
    works = [*(work(f"r{i}", of) for i, of in enumerate(tasks[:2])), bad, work("last", tasks[3])]
    first, second, failed, last = run_together(WatchedFamily(accelerable, refuse_huge), works)
    assert isinstance(failed.outcome(), ExecutionFailed)
    for of, listener in ((tasks[0], first), (tasks[1], second), (tasks[3], last)):
        assert_as_alone(accelerable, of, listener)
    assert "one by one" in caplog.text


def test_blocks_that_a_member_lacks_fail_their_own_request_only(accelerable: LoadedFamily) -> None:
    of = with_mask(plan("edge/large@0.5>device/small", 6), [1 << 500] * 6)
    good = mixed_tasks(accelerable)[1]
    failed, listener = run_together(accelerable, [work("bad", task(of)), work("good", good)])
    assert isinstance(failed.outcome(), InvalidRequest)
    assert_as_alone(accelerable, good, listener)


def test_a_dropped_request_frees_what_it_kept(accelerable: LoadedFamily) -> None:
    tasks = mixed_tasks(accelerable)[1:4]
    kept: list[weakref.ref[Tensor]] = []

    def drop_at_two(event: Event) -> None:
        if isinstance(event, Progressed) and event.step == 2:
            kept.extend(weakref.ref(output) for output in jobs[1].run.cached)
            engine.drop(jobs[1])

    listeners = [Listener(), Listener(drop_at_two), Listener()]
    engine = Engine(accelerable, NODE, Limits())
    works = [expanded(accelerable, work(f"r{i}", of)) for i, of in enumerate(tasks)]
    jobs = submitted(engine, works, listeners)
    engine.start()
    try:
        assert listeners[1].ending() == Dropped()
        for i in (0, 2):
            assert_as_alone(accelerable, tasks[i], listeners[i])
    finally:
        engine.stop()
    assert kept
    jobs.clear()
    gc.collect()
    assert not any(ref() is not None for ref in kept)


def test_what_would_keep_more_than_there_is_runs_in_full(accelerable: LoadedFamily) -> None:
    tasks = mixed_tasks(accelerable)[:4]
    works = [work(f"r{i}", of) for i, of in enumerate(tasks)]
    for of, listener in zip(tasks, run_together(accelerable, works, cache=100), strict=True):
        executed = listener.handoff().executed
        assert {(step.blocks, step.ahead, step.prior_noise) for step in executed} == {
            (None, 0, 0.0)
        }
        full = replace(of, plan=in_full(of.plan))
        assert_as_alone(accelerable, full, listener)


def test_requests_wait_for_memory_and_still_end_as_if_alone(accelerable: LoadedFamily) -> None:
    """With room for one of them, those that keep outputs never share a call."""
    of = accelerated(plan("edge/large@0.9>device/small", 10), "masks")
    tasks = [task(of, seed=seed) for seed in range(3)]
    most = accelerable.cache_bytes(accelerable.accelerator.expand(tasks[0].plan), tasks[0].size)
    assert most > 0
    works = [work(f"r{i}", of) for i, of in enumerate(tasks)]
    for of, listener in zip(tasks, run_together(accelerable, works, cache=most), strict=True):
        assert_as_alone(accelerable, of, listener)
        assert {step.neighbours for step in listener.handoff().executed} == {()}
    together = run_together(accelerable, works, cache=3 * most)[0].handoff()
    assert {step.rows for step in together.executed} == {6}
