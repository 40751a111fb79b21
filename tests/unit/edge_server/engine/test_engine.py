"""The engine: every request as if it were alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from torch import Tensor

from baton.common.errors import BatonError, ExecutionFailed, Incompatible
from baton.common.errors import InvalidRequest as Invalid
from baton.common.families.loaded import LoadedFamily
from baton.common.latents import Codec, HistoryEntry, LatentState, decode_state
from baton.common.plan import OpenPlan, Plan
from baton.common.request import Task
from baton.edge_server.engine.job import Drawn, Event, HandedOff, Job, Started
from tests.support.engines import (
    Counter,
    Gate,
    Listener,
    WatchedFamily,
    assert_as_alone,
    latent,
    run_together,
    started_engine,
)
from tests.support.families import NAME
from tests.support.tasks import PROMPTS, plan, plan_in, run_alone, task, work

Z = [True, False]
MIXED: list[tuple[Plan, dict[str, object]]] = [
    (plan("edge/large@0.5>device/small", 12, "ddim", 3.0), {}),
    (plan("edge/large@0.4>device/small", 10, "euler", 7.5), {"negative": "a red cat", "seed": 1}),
    (plan("edge/large@0.6>device/small", 15, "dpmpp_2m", 1.5), {"prompt": PROMPTS[2], "seed": 2}),
    (plan("edge/small@0.5>device/large", 8, "ddim", 2.0), {"prompt": PROMPTS[3], "seed": 3}),
    (plan("edge/small@0.7>device/large", 10, "dpmpp_2m", 5.0, Z * 5), {"seed": 4}),
    (plan("edge/large@0.5>device/small", 14, "euler", 1.0), {"prompt": PROMPTS[4], "seed": 5}),
    (plan("edge/large@0.5>device/small", 6, "ddim", 3.0), {"size": 32, "seed": 6}),
    (plan("edge/large@0.8>device/small", 5, "dpmpp_2m", 3.0, [False] * 5), {"size": 32, "seed": 7}),
    (plan("edge/large@0.3>device/small", 3, "euler", 4.0), {"prompt": PROMPTS[1], "seed": 8}),
    (plan("edge/small@0.1>device/large", 10, "ddim", 30.0), {"seed": 9}),
]


def mixed_tasks() -> list[Task]:
    return [task(of, **changes) for of, changes in MIXED]  # type: ignore[arg-type]


@pytest.mark.parametrize(("active", "rows"), [(16, 64), (4, 5), (1, 2), (10, 3)])
def test_mixed_requests_each_end_as_if_alone_whatever_the_limits(
    family: LoadedFamily, active: int, rows: int
) -> None:
    counter = Counter()
    works = [work(f"r{i}", of) for i, of in enumerate(mixed_tasks())]
    listeners = run_together(WatchedFamily(family, counter), works, active, rows)
    for of, listener in zip(mixed_tasks(), listeners, strict=True):
        assert_as_alone(family, of, listener)
        seen = [(p.step, p.steps) for p in listener.progress]
        assert seen == [(step, of.plan.steps) for step in range(1, of.plan.stretch_end(0))]
    assert max(counter.rows) <= rows
    ran = [step for listener in listeners for step in listener.handoff().executed]
    assert sum(counter.rows) == sum(2 if (step.branches == "both") else 1 for step in ran)
    assert max(step.rows for step in ran) == max(counter.rows)


def test_requests_that_arrive_while_others_run_join_them(family: LoadedFamily) -> None:
    gate, counter = Gate(), Counter()

    def watch(member: str, x: Tensor) -> None:
        counter(member, x)
        gate(member, x)

    of = task(plan("edge/large@0.5>device/small", 8))
    first, second = Listener(), Listener()
    with started_engine(WatchedFamily(family, watch)) as engine:
        engine.submit(Job(work("first", of), emit=first))
        gate.wait_for_call(1)
        engine.submit(Job(work("second", of), emit=second))
        gate.lift()
        for listener in (first, second):
            assert_as_alone(family, of, listener)
    assert counter.rows == [2, 4, 4, 4, 2]


def test_a_place_is_freed_at_the_handoff(family: LoadedFamily) -> None:
    order: list[str] = []
    jobs = []
    for name, arm in (
        ("short", "edge/large@0.25>device/small"),
        ("long", "edge/large@0.75>device/small"),
    ):
        for number in "12":
            label = name + number
            listener = Listener(lambda event, label=label: _note(event, order, label))
            jobs.append((work(label, task(plan(arm, 8))), listener))
    with started_engine(family, active=2) as engine:
        for item, listener in jobs:
            engine.submit(Job(item, emit=listener))
        for _, listener in jobs:
            listener.outcome()
    assert order == ["short1", "short2", "long1", "long2"]


def _note(event: Event, order: list[str], label: str) -> None:
    if isinstance(event, HandedOff):
        order.append(label)


def test_a_plan_that_ends_on_the_edge_ends_in_a_picture(family: LoadedFamily) -> None:
    tasks = [task(plan("edge/large", 5, sampler), seed=i) for i, sampler in
             enumerate(("ddim", "euler", "dpmpp_2m"))]  # fmt: skip
    listeners = run_together(family, [work(f"r{i}", of) for i, of in enumerate(tasks)])
    for of, listener in zip(tasks, listeners, strict=True):
        outcome = listener.outcome()
        assert isinstance(outcome, Drawn)
        expected = family.decode(run_alone(family, of, 5).x)
        assert outcome.picture.shape == (16, 16, 3)
        assert np.abs(outcome.picture.astype(int) - expected).max() <= 1
        assert [step.step for step in outcome.executed] == list(range(5))
        assert min(outcome.times.model, outcome.times.decode) > 0


def several_stretches() -> OpenPlan:
    return plan_in(
        NAME,
        "dpmpp_2m",
        3.0,
        ("large", "edge", 0, 2),
        ("small", "edge", 2, 3),
        ("small", "device", 3, 6),
        ("large", "edge", 6, 8),
    )


def test_a_handoff_falls_where_the_plan_leaves_the_edge(family: LoadedFamily) -> None:
    of = task(several_stretches())
    (listener,) = run_together(family, [work("r", of)])
    assert_as_alone(family, of, listener)
    assert [step.member for step in listener.handoff().executed] == ["large", "large", "small"]


def test_a_plan_may_come_back_to_the_edge(family: LoadedFamily) -> None:
    of = task(several_stretches())
    state = run_alone(family, of, 6).state()
    (listener,) = run_together(family, [work("r", of, resume=state)])
    outcome = listener.outcome()
    assert isinstance(outcome, Drawn)
    assert [step.step for step in outcome.executed] == [6, 7]
    np.testing.assert_array_equal(outcome.picture, family.decode(run_alone(family, of, 8).x))


@pytest.mark.parametrize(
    ("every", "first", "expected"),
    [(0, 0, []), (1, 0, [1, 2, 3, 4, 5, 6]), (3, 0, [3, 6]), (2, 3, [5]), (7, 0, []), (200, 0, [])],
)
def test_a_checkpoint_comes_after_every_so_many_steps_of_this_node(
    family: LoadedFamily, every: int, first: int, expected: list[int]
) -> None:
    of = task(plan("edge/large@0.7>device/small", 10, "dpmpp_2m"))
    state = run_alone(family, of, first).state() if first else None
    item = work("r", of, checkpoint_every=every, resume=state)
    (listener,) = run_together(family, [item])
    assert listener.handoff().executed[-1].step == 6
    assert [decode_state(c.envelope).state.step for c in listener.checkpoints] == expected
    for checkpoint, step in zip(listener.checkpoints, expected, strict=True):
        assert [e.step for e in checkpoint.executed] == list(range(first, step))


@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpmpp_2m"])
def test_going_on_from_any_checkpoint_gives_the_unbroken_handoff(
    family: LoadedFamily, sampler: str
) -> None:
    of = task(plan("edge/large@0.5>device/small", 12, sampler))  # type: ignore[arg-type]
    (listener,) = run_together(family, [work("r", of, checkpoint_every=1)])
    for checkpoint in listener.checkpoints:
        envelope = decode_state(checkpoint.envelope, family.fingerprint)
        assert envelope.request_id == "r"
        (again,) = run_together(family, [work("r", of, resume=envelope.state)])
        assert again.handoff().envelope == listener.handoff().envelope


@pytest.mark.parametrize("codec", list(Codec))
def test_the_handoff_travels_in_the_codec_that_was_asked_for(
    family: LoadedFamily, codec: Codec
) -> None:
    (listener,) = run_together(family, [work("r", task(), codec=codec)])
    envelope = decode_state(listener.handoff().envelope, family.fingerprint)
    assert (envelope.codec, envelope.request_id) == (codec, "r")


def beside(family: LoadedFamily, *bad: object, count: int = 2) -> list[Listener]:
    """Run some work between good requests, which must not notice."""
    good = [task(plan("edge/large@0.5>device/small", 8, "dpmpp_2m"), seed=i) for i in range(count)]
    works = [work("first", good[0]), *bad, work("last", good[1])]
    first, *others, last = run_together(family, works)  # type: ignore[arg-type]
    assert_as_alone(family, good[0], first)
    assert_as_alone(family, good[1], last)
    return others


def test_a_member_whose_model_raises_fails_its_own_requests_only(
    family: LoadedFamily, caplog: pytest.LogCaptureFixture
) -> None:
    def break_small(member: str, x: Tensor) -> None:
        if member == "small":
            raise ValueError("secret detail")

    broken = task(plan("edge/small@0.5>device/large", 6))
    outcomes = beside(WatchedFamily(family, break_small), work("b1", broken), work("b2", broken))
    for listener in outcomes:
        error = listener.outcome()
        assert isinstance(error, ExecutionFailed)
        assert "secret" not in str(error)
    assert "secret detail" in caplog.text


def huge_state(family: LoadedFamily, of: Task, step: int = 2) -> LatentState:
    state = run_alone(family, of, step).state()
    return replace(state, x=state.x + np.float32(1e6), history=())


def test_a_row_that_makes_the_whole_call_raise_fails_alone(
    family: LoadedFamily, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse_huge(member: str, x: Tensor) -> None:
        if x.abs().max() > 1e5:
            raise RuntimeError("out of range")

    of = task(plan("edge/large@0.5>device/small", 8))
    bad = work("bad", of, resume=huge_state(family, of))
    (listener,) = beside(WatchedFamily(family, refuse_huge), bad)
    assert isinstance(listener.outcome(), ExecutionFailed)
    assert "one by one" in caplog.text


def test_a_row_that_stops_being_finite_fails_alone(family: LoadedFamily) -> None:
    of = task(plan("edge/large@0.5>device/small", 8))
    state = huge_state(family, of)
    bad = work("bad", of, resume=replace(state, x=np.full_like(state.x, 3e38)))
    (listener,) = beside(family, bad)
    error = listener.outcome()
    assert isinstance(error, ExecutionFailed)
    assert "finite" in str(error)


def test_a_latent_that_its_codec_cannot_hold_fails_alone(family: LoadedFamily) -> None:
    of = task(plan("edge/large@0.5>device/small", 8))
    bad = work("bad", of, codec=Codec.FP16, resume=huge_state(family, of, 3))
    (listener,) = beside(family, bad)
    error = listener.outcome()
    assert isinstance(error, Invalid)
    assert "fp32" in str(error)


def test_requests_that_cannot_begin_fail_alone_and_say_why(family: LoadedFamily) -> None:
    of = task(plan("edge/large@0.5>device/small", 8))
    state = run_alone(family, of, 2).state()
    unsized = work("size", replace(of, size=7))
    foreign = work("steps", task(plan("edge/large@0.5>device/small", 9)), resume=state)
    shrunk = work("shape", of, resume=replace(state, x=state.x[:3].copy()))
    outcomes = [listener.outcome() for listener in beside(family, unsized, foreign, shrunk)]
    assert [type(outcome) for outcome in outcomes] == [Invalid, Incompatible, ExecutionFailed]


def test_history_that_stops_the_sampler_fails_alone_even_beside_a_last_step(
    family: LoadedFamily,
) -> None:
    of = task(plan("edge/large@0.5>device/small", 8, "dpmpp_2m"))
    state = run_alone(family, of, 3).state()
    entry = HistoryEntry(state.level, state.history[0].x0)
    bad = work("bad", of, resume=replace(state, history=(entry,)))
    last_step = work("last step", of, resume=state)
    first, poisoned, second = run_together(family, [last_step, bad, last_step])
    assert isinstance(poisoned.outcome(), BatonError)
    for listener in (first, second):
        assert [step.step for step in listener.handoff().executed] == [3]
        expected = run_alone(family, of, 4).x.numpy()
        np.testing.assert_allclose(latent(listener.handoff()).x, expected, rtol=1e-4, atol=1e-5)


def test_a_job_tells_that_it_has_a_place_before_all_else(family: LoadedFamily) -> None:
    (listener,) = run_together(family, [work("r")])
    assert listener.events[0] == Started()
    assert listener.events.count(Started()) == 1


def test_two_engines_in_one_process_do_not_meet(family: LoadedFamily) -> None:
    tasks = [task(plan("edge/large@0.5>device/small", 8), seed=i) for i in range(2)]
    listeners = [Listener(), Listener()]
    with started_engine(family) as one, started_engine(family) as two:
        one.submit(Job(work("same id", tasks[0]), emit=listeners[0]))
        two.submit(Job(work("same id", tasks[1]), emit=listeners[1]))
        for of, listener in zip(tasks, listeners, strict=True):
            assert_as_alone(family, of, listener)
