"""Whom an edge refuses for want of room or time, what it tells them, and what that costs."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from baton.common.errors import DeadlineExceeded, Overloaded
from baton.common.size import Size
from baton.edge_server.engine.job import Progressed
from baton.edge_server.engine.latency import Forecast, LatencyModel, Pace
from baton.edge_server.requests.admission import Admission
from baton.edge_server.requests.entry import Entry
from baton.edge_server.requests.lifecycle import State
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


def asked(caller: str, steps: int = 20, deadline: float = math.inf, name: str = "") -> Entry:
    of = work(name or f"{caller}-{steps}-{deadline}", task(plan("edge/small", steps, guidance=1.0)))
    return Entry(replace(of, caller=caller), deadline=deadline)


@dataclass
class World:
    """An admission and those it let in. Each call of four rows takes a second."""

    capacity: int = 10
    measured_at: float = math.inf
    here: dict[int, Entry] = field(default_factory=dict)
    admission: Admission = field(init=False)

    def __post_init__(self) -> None:
        forecast = measured(self.measured_at)
        self.admission = Admission(self.capacity, self.here.values(), lambda: forecast)

    def ask(self, entry: Entry, running: bool = False) -> Sequence[Entry]:
        """Let it in; whom it displaced."""
        gone = self.admission.check(entry)
        for other in gone:
            del self.here[id(other)]
            self.admission.end(other, waited=True)
            self.admission.places -= 1
        self.here[id(entry)] = entry
        self.admission.enter(entry)
        if running:
            entry.start()
            self.admission.start(entry)
        return gone

    def fill(self, caller: str, count: int, running: int = 0) -> list[Entry]:
        made = [asked(caller, name=f"{caller}{number}") for number in range(count)]
        for number, entry in enumerate(made):
            self.ask(entry, number < running)
        return made


def soon(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_nobody_is_let_in_who_would_make_another_miss_its_deadline() -> None:
    world = World()
    world.fill("a", ACTIVE - 1, running=ACTIVE - 1)
    promised = asked("a", 20, soon(24))
    world.ask(promised, running=True)
    urgent = asked("a", 1, soon(2), "urgent")
    late = asked("a", 20, name="patient")
    assert world.ask(late) == []  # it waits for a place, and keeps nobody
    world.here.popitem()
    wide = replace(measured(), active=ACTIVE + 1)
    world.admission = Admission(10, world.here.values(), lambda: wide)
    for patient in (asked("a", 20), urgent):  # a fifth row takes a second call each cycle
        with pytest.raises(Overloaded, match="keep others from their end"):
            world.admission.check(patient)
    promised.deadline = soon(50)
    assert world.admission.check(asked("a", 20)) == []


async def test_who_is_late_already_keeps_nobody_out() -> None:
    world = World()
    world.ask(asked("a", 20, soon(24)), running=True)
    (lost,) = world.here.values()
    lost.deadline = soon(5)
    world.ask(asked("b", 20, soon(40)))


async def test_what_cannot_end_any_more_ends_early_if_that_is_sure() -> None:
    world = World()
    long, short = asked("a", 20, soon(30)), asked("a", 10)
    for entry in (asked("a", 20), long, short):
        world.ask(entry, running=True)
    long.deadline = soon(15.7)  # it needs 20 s: a quarter more, and the round under way
    assert world.admission.doomed() is None
    world = World(here=world.here)
    long.deadline = short.deadline = soon(5)
    assert world.admission.doomed() is long


async def test_an_old_pace_dooms_nobody() -> None:
    world = World(measured_at=0.0)
    lost = asked("a", 20)
    world.ask(lost, running=True)
    lost.deadline = soon(1)
    assert world.admission.doomed() is None


async def test_where_the_pace_is_old_one_request_shows_what_it_is_now() -> None:
    world = World(measured_at=0.0)
    with pytest.raises(DeadlineExceeded):
        world.ask(asked("a", 20, soon(0)))
    world.ask(asked("a", 20, soon(5)), running=True)
    for hopeless in (asked("b", 20, soon(5)), asked("a", 20, soon(5), "again")):
        with pytest.raises(DeadlineExceeded):
            world.ask(hopeless)


async def test_a_full_edge_makes_room_for_a_caller_with_fewer_requests() -> None:
    world = World(capacity=6)
    flood = world.fill("f", 6, running=ACTIVE)
    assert world.ask(asked("m", name="m1")) == [flood[5]]
    assert world.ask(asked("m", name="m2")) == [flood[4]]
    for caller in "mf":  # of those who run nobody goes
        with pytest.raises(Overloaded, match="all 6 places"):
            world.ask(asked(caller, name="more"))


async def test_callers_with_as_many_requests_displace_nobody() -> None:
    world = World(capacity=6)
    world.fill("f", 3)
    world.fill("m", 3)
    for caller in "fm":
        with pytest.raises(Overloaded):
            world.ask(asked(caller, name="more"))
    assert [entry.work.caller for entry in world.ask(asked("third"))] == ["f"]


async def test_a_promise_to_one_that_waits_yields_to_a_caller_with_fewer_requests() -> None:
    world = World()
    world.fill("f", ACTIVE, running=ACTIVE)
    waits = [asked("f", 20, soon(46), f"w{number}") for number in range(ACTIVE)]
    for entry in waits:
        world.ask(entry)
    assert world.ask(asked("m", 20)) == [waits[-1]]


async def test_for_what_was_refused_time_is_kept_free_of_those_who_have_more() -> None:
    world = World()
    wide = replace(measured(), active=2 * ACTIVE)
    world.admission = Admission(10, world.here.values(), lambda: wide)
    promised = [asked("f", 20, soon(24), f"f{number}") for number in range(ACTIVE)]
    for entry in promised:
        world.ask(entry, running=True)
    with pytest.raises(Overloaded):
        world.ask(asked("m", 20, soon(24)))
    ended = promised.pop()
    del world.here[id(ended)]
    world.admission.end(ended, waited=False)
    with pytest.raises(Overloaded):
        world.ask(asked("f", 20, soon(24), "once more"))
    world.ask(asked("m", 20, soon(24), "again"))


async def test_promises_that_were_broken_make_the_next_ones_more_careful() -> None:
    world = World()

    def end(state: State, times: int) -> None:
        for number in range(times):
            entry = asked("a", 20, soon(100), f"{state}{number}")
            world.ask(entry)
            entry.state = state
            del world.here[id(entry)]
            world.admission.end(entry, waited=True)
            world.admission.places -= 1

    tight = soon(20 * 1.15)
    assert world.admission.check(asked("a", 20, tight)) == []
    end(State.EXPIRED, 2)
    with pytest.raises(Overloaded):
        world.admission.check(asked("a", 20, tight))
    end(State.CANCELLED, 50)
    with pytest.raises(Overloaded):
        world.admission.check(asked("a", 20, tight))
    end(State.DRAWN, 20)
    assert world.admission.check(asked("a", 20, tight)) == []
