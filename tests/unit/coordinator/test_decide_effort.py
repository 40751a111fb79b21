"""A decision costs no more over many edges: counted in calls, however busy the machine."""

from __future__ import annotations

import sys
import time

import pytest

from baton.common.node import NodeLoad, Registration
from baton.common.query import DecideQuery
from baton.coordinator.daemon import build_decider
from baton.coordinator.decider import Clocks
from baton.coordinator.fleet import MAX_NODES, Fleet
from baton.coordinator.ranking import MAX_EDGES
from baton.coordinator.settings import Settings
from baton.coordinator.store.memory import MemoryStore
from baton.coordinator.store.thread import StoreThread

DECISIONS = 20
MEMBERS = ("large", "medium", "small")


def fleet_of(count: int, *, full: bool) -> Fleet:
    fleet = Fleet(3600.0, time.monotonic)
    for number in range(count):
        load = NodeLoad(number % 7 / 10, active=4 if full else number % 3, capacity=4)
        about = Registration(
            f"e{number:04}", f"h{number}:7701", "scenes", MEMBERS, "f", load, MEMBERS
        )
        fleet.register(about)
    return fleet


async def calls(count: int, *, full: bool) -> int:
    """Of functions, Python's and C's, that so many decisions over ``count`` edges make here."""
    fleet = fleet_of(count, full=full)
    store = StoreThread(MemoryStore())
    clocks = Clocks(time.monotonic, time.time)
    decider = build_decider(Settings(seed=0, exploration=0.0), fleet, store, clocks)
    await decider.restore()
    counted, members = 0, ("small",) if full else ()

    def count_call(frame: object, event: str, argument: object) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    sys.setprofile(count_call)
    try:
        for number in range(DECISIONS):
            query = DecideQuery(f"r{number}", "scenes", 50, fingerprint="f", members=members)
            record = await decider.decide(query)
    finally:
        sys.setprofile(None)
    assert (await decider.find(record.decision_id)).rejected if full else record.edges
    await decider.close()
    await store.close()
    return counted


@pytest.mark.parametrize("full", [False, True])
async def test_a_decision_over_a_thousand_edges_takes_no_more_than_one_over_few(full: bool) -> None:
    few, many = [await calls(count, full=full) for count in (2 * MAX_EDGES, MAX_NODES)]
    assert many < 1.1 * few
