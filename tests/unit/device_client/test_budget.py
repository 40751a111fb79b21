"""The time that a picture may take, and the device's share of it."""

from __future__ import annotations

import math

import pytest

from baton.common.errors import DeadlineExceeded
from baton.common.limits import Accel
from baton.common.plan import OpenSegment
from baton.device_client.budget import Budget, StepTimes
from tests.support.tasks import accelerated, plan


def test_without_a_limit_there_is_always_time() -> None:
    budget = Budget.of(None)
    budget.check(1e9)
    assert budget.left == math.inf
    assert budget.within(5.0) == 5.0


def test_a_call_gets_no_more_than_what_is_left_and_never_nothing() -> None:
    assert Budget.of(1000.0).within(5.0) == 5.0
    assert 0 < Budget.of(2.0).within(5.0) <= 2.0
    assert Budget(1.0, deadline=0.0).within(5.0) > 0


def test_what_does_not_fit_is_refused_with_what_it_takes() -> None:
    budget = Budget.of(100.0)
    budget.check(50.0)
    with pytest.raises(DeadlineExceeded, match=r"about 150 s; allow 150 s"):
        budget.check(150.0)
    with pytest.raises(DeadlineExceeded, match="within 1 s"):
        Budget(1.0, deadline=0.0).check()


def segment(member: str = "small", accel: Accel = "none", guidance: float = 3.0) -> OpenSegment:
    return accelerated(plan(f"device/{member}", 1, guidance=guidance), accel).segments[0]


def test_the_device_needs_its_steps_and_the_rest() -> None:
    times, of = StepTimes(), plan("edge/large@0.5>device/small", 8)
    assert times.needed(of, 4) is None
    times.measured(segment(), 0.5)
    times.measured_rest(2.0)
    assert times.needed(of, 4) == pytest.approx(4 * 0.5 + 2.0)
    assert times.needed(of, 6) == pytest.approx(2 * 0.5 + 2.0)
    assert times.needed(of, 0) == pytest.approx(4 * 0.5 + 2.0)
    alone = plan("device/large@0.5>device/small", 8)
    assert times.needed(alone, 0) is None
    times.measured(segment("large"), 1.0)
    assert times.needed(alone, 0) == pytest.approx(4 * 1.0 + 4 * 0.5 + 2.0)


def test_without_decoding_nothing_is_known_of_the_whole() -> None:
    times, of = StepTimes(), plan("device/small@0.5>edge/large", 8)
    times.measured(segment(), 0.5)
    assert times.needed(of, 0) is None
    times.measured_rest(2.0)
    assert times.needed(of, 0) == pytest.approx(4 * 0.5 + 2.0)


def test_cheaper_steps_have_times_of_their_own() -> None:
    times, of = StepTimes(), plan("device/small", 4)
    times.measured(segment(), 1.0)
    times.measured_rest(0.0)
    for cheaper, seconds in (
        (segment(accel="masks"), 0.25),
        (segment(guidance=1.0), 0.5),  # one branch
    ):
        other = plan("device/small", 4, guidance=cheaper.guidance.scale)
        other = accelerated(other, cheaper.accel)
        assert times.needed(other, 0) is None
        times.measured(cheaper, seconds)
        assert times.needed(other, 0) == pytest.approx(4 * seconds)
    assert times.needed(of, 0) == pytest.approx(4.0)


def test_newer_measurements_count_more() -> None:
    times, of = StepTimes(), plan("device/small", 1)
    times.measured_rest(0.0)
    times.measured(segment(), 10.0)
    for _ in range(30):
        times.measured(segment(), 1.0)
    assert times.needed(of, 0) == pytest.approx(1.0, rel=0.01)


def test_time_is_kept_for_what_the_device_finishes() -> None:
    times, relay = StepTimes(), plan("edge/large@0.5>device/small", 8)
    assert times.reserve(relay, 0, Budget.of(None)) == 0
    assert times.reserve(relay, 0, Budget.of(50.0)) == pytest.approx(5.0)
    assert times.reserve(plan("edge/large", 8), 0, Budget.of(50.0)) == 0
    times.measured(segment(), 0.5)
    times.measured_rest(2.0)
    assert times.reserve(relay, 0, Budget.of(50.0)) == pytest.approx(1.5 * 4.0)
