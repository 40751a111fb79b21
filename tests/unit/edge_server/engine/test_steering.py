"""Rounds follow plans where it is known what they take, and the load turns the knobs."""

from __future__ import annotations

import threading
import time

import pytest

from baton.common.families.loaded import LoadedFamily
from baton.common.size import Size
from baton.edge_server.engine.engine import Engine
from baton.edge_server.engine.scheduler import Limits
from baton.edge_server.engine.steering import Course, Plans, Sized, Steering, Wheel
from baton.edge_server.scheduling.actions import Bounds
from baton.edge_server.scheduling.controller import ControllerSettings, Knobs
from baton.edge_server.scheduling.planner import Latencies, Waiting
from baton.edge_server.scheduling.table import PlanTable
from tests.support.engines import NODE, Listener, submitted
from tests.support.tasks import plan, task, work

SMALL = Sized("small", Size(16, 16))
BOUNDS = Bounds(tasks=4, decodes=2, most_tasks=4)


class Straight:
    """A call takes a tenth and a hundredth a row; a chunk a tenth, however fine it is."""

    def unet(self, u: int, v: int, s: int) -> float:
        return 0.1 + 0.01 * (2 * u - s)

    def vae(self, u: int, v: int, s: int) -> float:
        return 0.1 * v


def find(pace: Sized, chunks: int) -> Latencies | None:
    return Straight() if pace.member == "small" else None


def table_of(plans: Plans, pace: Sized, chunks: int = 1) -> PlanTable | None:
    """What is there when nothing is being built any more."""
    plans.table(pace, BOUNDS, chunks)
    for thread in threading.enumerate():
        if thread.name == "baton-planner":
            thread.join()
    return plans.table(pace, BOUNDS, chunks)


def test_a_table_is_built_aside_and_kept() -> None:
    plans = Plans(find, Waiting.SERIAL)
    built = table_of(plans, SMALL)
    assert built is not None
    expected = PlanTable.build(Straight(), BOUNDS, Waiting.SERIAL)
    for state in ((4, 2, 0), (3, 1, 2), (1, 0, 1)):
        assert built.plan(*state, 0.05) == expected.plan(*state, 0.05)
    assert table_of(plans, SMALL) is built
    assert table_of(plans, SMALL, chunks=2) is not built


def test_there_is_no_table_where_nothing_is_known_or_it_cannot_be_built() -> None:
    class Broken(Straight):
        def unet(self, u: int, v: int, s: int) -> float:
            raise ValueError("broken")

    assert table_of(Plans(find, Waiting.SERIAL), Sized("large", Size(16, 16))) is None
    assert table_of(Plans(lambda pace, chunks: Broken(), Waiting.SERIAL), SMALL) is None


def test_tables_of_many_sizes_do_not_pile_up() -> None:
    plans = Plans(find, Waiting.SERIAL)
    first = table_of(plans, SMALL)
    for side in range(100):
        plans.table(Sized("large", Size(16, 16 + side)), BOUNDS, 1)
    assert table_of(plans, SMALL) is not first


def test_a_growing_queue_turns_the_knobs_and_a_quiet_time_turns_them_back() -> None:
    wheel = Wheel(Steering(control=ControllerSettings(places=2)), Waiting.BARRIER)
    for second in range(60):
        wheel.observe(20, float(second))
    assert wheel.knobs == ControllerSettings(places=2).ladder[-1]
    assert wheel.chunks(Size(16, 16)) == wheel.knobs.chunks > 1
    for second in range(60, 400):
        wheel.observe(0, float(second))
    assert (wheel.knobs, wheel.level) == (ControllerSettings().ladder[0], 0)


def test_on_one_thread_the_load_cuts_decodes_no_finer() -> None:
    wheel = Wheel(Steering(control=ControllerSettings(places=2)), Waiting.SERIAL)
    for second in range(60):
        wheel.observe(20, float(second))
    assert wheel.knobs == Knobs(ControllerSettings().floor, 1, 0.0)


def test_knobs_that_are_not_the_loads_stay() -> None:
    rest = Knobs(0.7, 3, 0.08)
    wheel = Wheel(Steering(controlled=False, rest=rest, chunks=lambda size: 2), Waiting.SERIAL)
    for second in range(60):
        wheel.observe(1000, float(second))
    assert (wheel.knobs, wheel.chunks(Size(16, 16))) == (rest, 6)


@pytest.mark.parametrize("planned", [True, False])
def test_rounds_are_counted_by_how_they_were_chosen(family: LoadedFamily, planned: bool) -> None:
    """A table stands in a moment; what comes after it follows plans."""
    of = plan("edge/small", 6)
    engine = Engine(family, NODE, Limits(), 1, Steering(find=find, planned=planned))
    engine.start()
    try:
        deadline = time.monotonic() + 60
        courses = list[Course]()
        while not courses or (planned and not courses[-1].planned):
            listeners = [Listener() for _ in range(3)]
            works = [work(f"{len(courses)}.{i}", task(of, seed=i)) for i in range(3)]
            submitted(engine, works, listeners)
            for listener in listeners:
                listener.outcome()
            courses.append(engine.course())
            assert time.monotonic() < deadline
    finally:
        engine.stop()
    last = courses[-1]
    assert (last.planned > 0) == planned
    assert last.planned + last.greedy >= 6 * len(courses)
    assert last.skipped == 0
