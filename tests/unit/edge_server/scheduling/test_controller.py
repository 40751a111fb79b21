"""What the controller gives up while a queue grows, and that it comes back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.edge_server.scheduling.controller import Controller, ControllerSettings, Knobs

SETTINGS = ControllerSettings(places=8, floor=0.6, skips=2, chunks=2, most_chunks=8)
TOP = len(SETTINGS.ladder) - 1
#: Seconds between two looks at a queue, and how many wait in it.
LOOKS = st.lists(st.tuples(st.floats(0, 30), st.integers(0, 64)), max_size=30)


def watching(looks: Iterable[tuple[float, int]], controller: Controller) -> list[Controller]:
    """The controller after each look."""
    found, now = [], controller.seen or 0.0
    for seconds, waiting in looks:
        now += seconds
        controller = controller.after(waiting, now)
        found.append(controller)
    return found


@st.composite
def anywhere(draw: st.DrawFn) -> Controller:
    """In any state, reached or not."""
    average = st.floats(0, 8)
    state = Controller(SETTINGS, draw(st.integers(0, TOP)), draw(average), draw(average))
    return replace(state, waiting=draw(st.integers(0, 64)), seen=100.0, moved=99.0)


def turns(levels: Iterable[int]) -> int:
    """How often they change their direction."""
    signs = [(b > a) for a, b in pairwise(levels) if a != b]
    return len(list(groupby(signs))) - 1 if signs else 0


def test_the_ladder_turns_one_knob_after_the_other() -> None:
    assert SETTINGS.ladder == (
        Knobs(1.0, 2, 0.05),
        Knobs(0.8, 2, 0.05),
        Knobs(0.6, 2, 0.05),
        Knobs(0.6, 4, 0.05),
        Knobs(0.6, 8, 0.05),
        Knobs(0.6, 8, 0.02),
        Knobs(0.6, 8, 0.0),
    )


def test_a_knob_that_cannot_be_turned_has_no_rung() -> None:
    settings = ControllerSettings(floor=1.0, chunks=3, most_chunks=5, deltas=(0.05,))
    assert settings.ladder == (Knobs(1.0, 3, 0.05),)


def test_a_growing_queue_climbs_the_ladder_and_a_falling_one_comes_down_the_same_way() -> None:
    grows = [(0.5, waiting) for waiting in range(40)]
    falls = [(0.5, waiting) for waiting in range(40, 0, -1)]
    seen = watching([*grows, *falls, *[(0.5, 0)] * 100], Controller(SETTINGS))
    levels = [level for level, _ in groupby(controller.level for controller in seen)]
    assert levels == [*range(TOP + 1), *range(TOP - 1, -1, -1)]


def test_a_queue_that_builds_up_is_answered_before_it_is_long() -> None:
    steady = watching([(0.5, 5)] * 400, Controller(SETTINGS, fast=5 / 8, slow=5 / 8))
    assert {controller.level for controller in steady} == {0}
    jumped = watching([(0.5, 0), *[(0.5, 7)] * 8], Controller(SETTINGS))
    assert jumped[-1].level > 0
    assert jumped[-1].fast < SETTINGS.high


def test_a_queue_that_is_neither_long_nor_short_leaves_it_where_it_is() -> None:
    middling = replace(Controller(SETTINGS, level=3, fast=3 / 8, slow=3 / 8, seen=0.0), waiting=3)
    assert {each.level for each in watching([(0.5, 3)] * 400, middling)} == {3}


def test_one_moment_of_many_does_not_move_it() -> None:
    looks = [(0.0, 0), (10.0, 8), (0.1, 0), *[(0.1, 0)] * 100]
    assert {each.level for each in watching(looks, Controller(SETTINGS))} == {0}


def test_what_waited_in_an_idle_time_is_what_was_there_before_it() -> None:
    busy = watching([(0.5, 64)] * 100, Controller(SETTINGS))[-1]
    assert busy.level == TOP
    idle = busy.after(0, busy.seen or 0.0)
    assert idle.after(64, (idle.seen or 0.0) + 3600).level == 0


@given(LOOKS, anywhere())
def test_no_knob_passes_its_bound(looks: list[tuple[float, int]], controller: Controller) -> None:
    for each in watching(looks, controller):
        assert 0.6 <= each.knobs.skip_after <= 1
        assert 2 <= each.knobs.chunks <= 8
        assert 0.0 <= each.knobs.delta <= 0.05


@given(anywhere(), st.integers(0, 64), st.integers(0, 64), st.floats(0, 60), st.integers(0, 64))
def test_a_longer_queue_never_gives_a_lower_level(
    controller: Controller, one: int, other: int, seconds: float, then: int
) -> None:
    less, more = (
        watching([(1.0, waiting), (seconds, then)], controller)[-1].level
        for waiting in sorted((one, other))
    )
    assert less <= more


@given(anywhere(), st.integers(0, 64), st.lists(st.floats(0.01, 3), min_size=50, max_size=100))
def test_a_steady_queue_turns_it_once_at_most(
    controller: Controller, waiting: int, seconds: list[float]
) -> None:
    controller = replace(controller, waiting=waiting)
    seen = watching([(each, waiting) for each in seconds], controller)
    assert turns([controller.level, *(each.level for each in seen)]) <= 1


@given(anywhere(), st.floats(0.05, 4))
def test_after_a_quiet_time_it_rests(controller: Controller, every: float) -> None:
    looks = [(every, 0)] * int(200 / every + 1)
    assert watching(looks, controller)[-1].level == 0


@given(LOOKS, anywhere())
def test_between_two_rungs_there_is_time(
    looks: list[tuple[float, int]], controller: Controller
) -> None:
    for before, after in pairwise(watching(looks, controller)):
        if after.level > before.level:
            assert after.level == before.level + 1
            assert after.moved - before.moved >= SETTINGS.up
        elif after.level < before.level:
            assert after.moved - before.moved >= SETTINGS.down


@given(LOOKS)
def test_a_clock_that_stands_or_goes_back_moves_nothing(looks: list[tuple[float, int]]) -> None:
    controller = Controller(SETTINGS).after(64, 100.0)
    for seconds, waiting in looks:
        controller = controller.after(waiting, 100.0 - seconds)
    assert (controller.level, controller.fast, controller.seen) == (0, 0.0, 100.0)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"places": 0}, "places"),
        ({"floor": 1.5}, "floor is a share"),
        ({"deltas": (0.05, 0.08)}, "deltas fall"),
        ({"deltas": ()}, "deltas fall"),
        ({"fast": 20.0}, "fast is less than slow"),
        ({"low": 0.5}, "thresholds rise"),
        ({"margin": 0.0}, "margin is positive"),
        ({"down": 0.0}, "up and down"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(
    changes: dict[str, Any], rule: str
) -> None:
    with pytest.raises(ValueError, match=rule):
        ControllerSettings(**changes)
