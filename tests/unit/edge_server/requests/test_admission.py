"""Whom an edge refuses for want of room or time, what it tells them, and what that costs."""

from __future__ import annotations

import asyncio
import math
import sys

import pytest

from baton.common.errors import DeadlineExceeded, Overloaded
from baton.common.size import Size
from baton.edge_server.engine.job import Progressed
from baton.edge_server.engine.latency import Forecast, LatencyModel, Pace
from baton.edge_server.requests.admission import Admission
from baton.edge_server.requests.entry import Entry
from tests.support.families import SIZE
from tests.support.tasks import plan, task, work

ACTIVE, STEPS = 4, 50
SMALL = Pace("small", Size.of(SIZE))


def entries(count: int, done: int = 0) -> list[Entry]:
    """Of one row a step on ``small``; the first few have gone ``done``, ``done + 1`` ... steps."""
    made = [
        Entry(work(f"r{number}", task(plan("edge/small", STEPS, guidance=1.0))))
        for number in range(count)
    ]
    for number, entry in enumerate(made[:ACTIVE]):
        if done:
            entry.advance(Progressed(done + number, STEPS, 1))
    return made


def measured(measured_at: float = math.inf) -> Forecast:
    """A second for every round, whatever its rows; fresh for ever."""
    model = LatencyModel()
    for _ in range(4):
        model = model.after(ACTIVE, 1.0, measured_at)
    return Forecast({SMALL: model}, ACTIVE, ACTIVE)


def newcomer(steps: int = STEPS, deadline: float = math.inf) -> Entry:
    return Entry(work("new", task(plan("edge/small", steps, guidance=1.0))), deadline=deadline)


def refusal(admission: Admission) -> Overloaded:
    asked = newcomer()
    with pytest.raises(Overloaded) as caught:
        admission.check_room(asked)
    return caught.value


def test_what_is_left_of_a_request_goes_on_with_its_steps() -> None:
    entry = Entry(work("r", task(plan("edge/large@0.5>device/small", 8)), checkpoint_every=2))
    assert (entry.remaining.pace.member, entry.remaining.steps) == ("large", 4)
    entry.advance(Progressed(3, 8, 2))
    assert (entry.remaining.pace.member, entry.remaining.steps) == ("large", 1)


def test_room_is_promised_for_when_the_first_of_those_that_run_ends() -> None:
    full = Admission(6, entries(6, done=30), measured)
    full.places = 6
    longest = 30 + ACTIVE - 1
    assert refusal(full).retry_after == pytest.approx(STEPS - longest)
    full.places = 5
    assert full.check_room(newcomer()) == []


def test_room_far_away_is_promised_for_half_a_minute_and_an_unknown_time_for_a_second() -> None:
    far, unknown = (
        Admission(0, entries(6), measured),
        Admission(0, entries(6), lambda: measured(-math.inf)),
    )
    assert (refusal(far).retry_after, refusal(unknown).retry_after) == (30.0, 1.0)
    assert refusal(Admission(0, [], measured)).retry_after == 1.0


async def test_time_is_refused_to_what_would_not_end_alone_or_behind_the_others() -> None:
    admission = Admission(10, entries(6), measured)
    now = asyncio.get_running_loop().time()
    with pytest.raises(DeadlineExceeded, match="20 steps take about 20 s"):
        admission.check_time(newcomer(20, now + 19))
    with pytest.raises(Overloaded, match="with 6 requests ahead"):
        admission.check_time(newcomer(20, now + STEPS + 19))
    admission.check_time(newcomer(20, now + 1.1 * (STEPS + 21)))
    admission.check_time(newcomer(20))


def calls(places: int) -> int:
    """Of functions, Python's and C's, that the refusal of one makes which finds no room."""
    counted, full = 0, Admission(places, entries(places), measured)
    full.places = places

    def count_call(frame: object, event: str, argument: object) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    sys.setprofile(count_call)
    try:
        refusal(full)
    finally:
        sys.setprofile(None)
    return counted


def test_a_refusal_for_want_of_room_costs_the_same_however_many_wait() -> None:
    assert calls(500) <= calls(2 * ACTIVE)
