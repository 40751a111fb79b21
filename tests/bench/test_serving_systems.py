"""Systems of the benchmark on a tiny family, and the way to one in a process of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from pathlib import Path

import numpy as np
import pytest

from baton.common.families.loaded import LoadedFamily
from baton.common.latents import Codec
from baton.edge_server.engine.engine import Engine
from baton.edge_server.engine.job import Event, HandedOff, Job, Started, Work
from baton.edge_server.engine.scheduler import Limits
from tests.bench.serving.alone import references
from tests.bench.serving.direct import Direct
from tests.bench.serving.driver import closed_loop, open_loop
from tests.bench.serving.edge import Baton
from tests.bench.serving.pipelines import Collecting
from tests.bench.serving.plans import task_of
from tests.bench.serving.process import Remote
from tests.bench.serving.relaying import Costs
from tests.bench.serving.replay import pattern_plan, pictures
from tests.bench.serving.scheduling import FULL_SKIP, NO_SKIP, SETTINGS
from tests.bench.serving.soak import FakeFamily, Look, slope, soak
from tests.bench.serving.systems import Answer, Picture, Spec
from tests.bench.serving.trace import Arrival, Request
from tests.support.engines import Listener
from tests.support.faults import FaultyFamily

_SECONDS = 60.0


def _request(index: int, steps: int = 4, side: int = 16) -> Request:
    return Request(index, 0.0, "a red cat", index, steps, side)


@pytest.mark.parametrize("beside", [True, False])
def test_direct_concurrency_draws_what_is_drawn_alone(family: LoadedFamily, beside: bool) -> None:
    requests = [_request(0), _request(1, 6), _request(2, 4, 32), _request(3, 5)]
    direct = Direct(family, "small", active=3, beside=beside, rows=4)
    answers = [direct.submit(request).result(_SECONDS) for request in requests]
    together = [direct.submit(request) for request in requests]
    answers += [future.result(_SECONDS) for future in together]
    told = direct.calls()
    direct.close()
    expected, _ = references(family, "small", requests)
    for answer, picture in zip(answers, [*expected, *expected], strict=True):
        assert answer.picture is not None
        assert np.abs(answer.picture.astype(int) - picture.astype(int)).max() <= 1
    assert [len(answer.pattern) for answer in answers] == [4, 6, 4, 5] * 2
    assert all(answer.rows == 2 * len(answer.pattern) for answer in answers)
    assert {"encode", "('denoise', 16, 2)", "span"} <= told.keys()
    assert ("('decode', 16)" in told) is not beside


def test_direct_concurrency_cancels_what_has_no_place(family: LoadedFamily) -> None:
    direct = Direct(family, "small", active=1, rows=2)
    futures = [direct.submit(_request(index, 20)) for index in range(6)]
    direct.clear()
    assert sum(future.cancelled() for future in futures) >= 4
    for future in futures:
        if not future.cancelled():
            future.result(_SECONDS)
    direct.close()


class _Held:
    """Draws black pictures when it may."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.batches: list[int] = []
        self.began = threading.Event()

    def __call__(self, requests: Sequence[Request]) -> list[Picture]:
        self.began.set()
        assert self.go.wait(_SECONDS)
        self.batches.append(len(requests))
        if any(request.prompt == "bad" for request in requests):
            raise RuntimeError("cannot be drawn")
        return [np.zeros((1, 1, 3), np.uint8)] * len(requests)


def test_requests_of_one_shape_that_wait_together_are_drawn_together() -> None:
    draw = _Held()
    collecting = Collecting(draw, most=3)
    first = collecting.submit(_request(0))
    assert draw.began.wait(_SECONDS)
    others = [collecting.submit(_request(index)) for index in range(1, 6)]
    draw.go.set()
    answers = [future.result(_SECONDS) for future in (first, *others)]
    assert draw.batches == [1, 3, 2]
    assert [answer.calls for answer in answers] == [4.0, *[4 / 3] * 3, 2.0, 2.0]
    collecting.close()


def test_a_batch_that_fails_ends_none_but_its_own() -> None:
    draw = _Held()
    draw.go.set()
    collecting = Collecting(draw)
    bad = collecting.submit(Request(0, 0.0, "bad", 0, 4, 16))
    with pytest.raises(RuntimeError, match="cannot be drawn"):
        bad.result(_SECONDS)
    assert collecting.submit(_request(1)).result(_SECONDS).rows == 8
    collecting.close()


def test_what_waits_is_cancelled_and_what_is_drawn_comes() -> None:
    draw = _Held()
    collecting = Collecting(draw, most=1)
    first = collecting.submit(_request(0))
    assert draw.began.wait(_SECONDS)
    second = collecting.submit(_request(1))
    collecting.clear()
    draw.go.set()
    assert second.cancelled()
    assert isinstance(first.result(_SECONDS), Answer)
    collecting.close()


@pytest.mark.parametrize("scheduling", sorted(SETTINGS))
def test_the_engine_draws_and_tells_how_it_goes(family: LoadedFamily, scheduling: str) -> None:
    baton = Baton(family, "small", scheduling, budget="0.5:1", profile="off")
    futures = [baton.submit(_request(index)) for index in range(5)]
    answers = [future.result(_SECONDS) for future in futures]
    gauges = baton.gauges()
    baton.close()
    assert all(answer.picture is not None for answer in answers)
    assert (gauges["waiting"], gauges["running"], gauges["full_rows"]) == (0, 0, 40)
    skipped = "".join(answer.pattern for answer in answers).replace("b", "")
    assert gauges["rows"] == sum(answer.rows for answer in answers)
    assert bool(skipped) == (scheduling in {FULL_SKIP, "skip-chunks"})


def test_every_other_request_is_handed_off_and_what_is_left_is_cancelled(
    family: LoadedFamily,
) -> None:
    arm = "edge/large@0.4>device/small"
    baton = Baton(family, "large", NO_SKIP, relay=arm, profile="off", max_active=1)
    whole, handed = [baton.submit(_request(index)).result(_SECONDS) for index in (0, 1)]
    assert (whole.picture is None, handed.picture is None) == (False, True)
    assert (len(whole.pattern), len(handed.pattern)) == (4, 2)
    left = [baton.submit(_request(index, 50)) for index in range(2, 8)]
    baton.clear()
    for future in left:
        with pytest.raises(CancelledError):
            future.result(_SECONDS)
    assert baton.gauges()["running"] == 0
    baton.close()


def _job(family: LoadedFamily, request: Request, relay: str, emit: Callable[[Event], None]) -> Job:
    task = task_of(family.spec, "large", request, "none", relay)
    return Job(Work(str(request.index), task, task.plan.closed(), Codec.FP16, 0), emit)


def test_a_request_that_is_handed_off_keeps_no_place_and_is_never_decoded(
    family: LoadedFamily,
) -> None:
    watched, order = FaultyFamily(family), list[str]()
    engine = Engine(watched, "edge-test", Limits(active=1), threads=1)
    listeners = []
    for index, relay in enumerate(
        ["edge/large@0.4>device/small", "", "edge/large@0.4>device/small"]
    ):

        def note(event: Event, index: int = index) -> None:
            if isinstance(event, Started | HandedOff):
                order.append(f"{index} {type(event).__name__}")

        listeners.append(Listener(note))
        engine.submit(_job(family, _request(index, 5), relay, listeners[-1]))
    engine.start()
    outcomes = [listener.outcome() for listener in listeners]
    engine.stop()
    assert [isinstance(outcome, HandedOff) for outcome in outcomes] == [True, False, True]
    assert order[:3] == ["0 Started", "0 HandedOff", "1 Started"]
    assert [kind for kind, _ in watched.calls.made].count("denoise") == 2 + 5 + 2
    assert watched.calls.made.count(("decode", 1)) == 3  # the three parts of one picture


def test_half_of_the_requests_handed_off_at_forty_percent_could_give_1_43() -> None:
    assert Costs(0.0, 1.0, 0.0).ideal() == pytest.approx(1 / 0.7)
    assert Costs(0.0, 1.0, 0.5).ideal() > 1 / 0.7
    assert Costs(0.5, 1.0, 0.0).ideal() < 1 / 0.7
    assert Costs(1.0, 1.0, 1.0).ideal(relayed=0.0) == 1.0


def test_a_pattern_of_guidance_is_drawn_again(family: LoadedFamily) -> None:
    patterns = ["bbbb", "bbpb"]
    plans = [pattern_plan(family, "small", pattern) for pattern in patterns]
    assert [plans[1].guided_at(step) for step in range(4)] == [True, True, False, True]
    full, lean = pictures(family, [("a red cat", 3, plan) for plan in plans], "tiny")
    expected, _ = references(family, "small", [_request(3)])
    assert np.abs(full.astype(int) - expected[0].astype(int)).max() <= 1
    assert (full != lean).any()


@pytest.mark.slow
def test_a_system_works_in_a_process_of_its_own(family_folder: Path) -> None:
    with Remote(Spec("direct", "direct", "small", str(family_folder))) as remote:
        requests = [_request(index) for index in range(5)]
        measured = open_loop(
            remote, [Arrival(0.01 * place, item) for place, item in enumerate(requests)], 0.2, 30.0
        )
        assert [outcome.request.index for outcome in measured.outcomes] == list(range(5))
        for outcome in measured.outcomes:
            assert outcome.answer is not None
            assert outcome.finished is not None
            assert outcome.finished >= outcome.due
        assert measured.cpu_seconds > 0
        assert measured.series
        remote.rest()
        remote.wake()
        loop = closed_loop(remote, requests, 3, 0.2)
        assert len(loop.outcomes) >= 3
        assert any(outcome.answer for outcome in loop.outcomes)


def _looks(count: int, per_second: float) -> list[Look]:
    return [Look(float(at), at, int(5e7 + per_second * at), 3, 9) for at in range(count)]


def test_the_slope_of_memory_is_of_the_second_half_and_not_moved_by_single_pages() -> None:
    assert slope(_looks(40, 1000.0)) == pytest.approx(3.6)
    settled = [*_looks(20, 1e6), *(Look(float(at), at, 60_000_000, 3, 9) for at in range(20, 40))]
    settled[30] = Look(30.0, 30, 60_400_000, 3, 9)
    assert slope(settled) == 0


@pytest.mark.slow
def test_many_requests_leave_nothing_behind(family: LoadedFamily) -> None:
    threads = threading.active_count()
    looks, registry = asyncio.run(soak(FakeFamily(family), 1500, 10))
    counts = registry.counts
    assert counts.failed == counts.abandoned == 0
    assert counts.completed > 1200
    assert registry.unfinished == registry.places == 0
    assert len(registry.kept) <= 64
    assert threading.active_count() == threads
    assert looks[-1].files == looks[0].files
