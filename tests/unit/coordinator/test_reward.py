from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.common.arm import Arm
from baton.common.errors import InvalidRequest
from baton.common.outcome import Outcome
from baton.common.request import PREFERENCES, Preference
from baton.coordinator.bandit.prior import expected_quality
from baton.coordinator.bandit.reward import WORST_REWARD, RewardModel

MODEL = RewardModel({"quality": 0.8, "balanced": 0.5, "speed": 0.2}, latency_half_seconds=4.0)
DEVICE, EDGE = Arm.device("small"), Arm.edge("large")


def ok(seconds: float, quality: float | None = None, arm: Arm | None = None) -> Outcome:
    return Outcome(ok=True, total_seconds=seconds, quality=quality, arm=arm)


@given(
    st.sampled_from(PREFERENCES),
    st.floats(1e-6, 86_400),
    st.none() | st.floats(0, 1),
    st.sampled_from([DEVICE, EDGE, Arm.relay("large", "small", 0.4)]),
)
def test_a_reward_lies_between_0_and_1_and_a_picture_beats_a_failure(
    preference: Preference, seconds: float, quality: float | None, arm: Arm
) -> None:
    assert WORST_REWARD < MODEL.reward(preference, arm, ok(seconds, quality)) <= 1.0


@pytest.mark.parametrize(
    ("preference", "weight"), [("quality", 0.8), ("balanced", 0.5), ("speed", 0.2)]
)
def test_the_preference_weighs_quality_against_speed(preference: Preference, weight: float) -> None:
    reward = MODEL.reward(preference, DEVICE, ok(4.0, 0.9))
    assert reward == pytest.approx(weight * 0.9 + (1 - weight) * 0.5)


def test_a_failure_is_worst_whatever_else_it_says() -> None:
    failed = Outcome(ok=False, total_seconds=0.01, quality=1.0, error="UNAVAILABLE")
    assert MODEL.reward("speed", EDGE, failed) == WORST_REWARD


def test_an_unscored_picture_counts_as_its_arm_is_expected_to() -> None:
    edge, device = (MODEL.reward("quality", arm, ok(4.0)) for arm in (EDGE, DEVICE))
    expected = expected_quality(EDGE)
    assert edge == pytest.approx(0.8 * expected + 0.2 * 0.5)
    assert edge > device


def test_a_deviation_has_the_quality_of_what_ran_and_the_time_of_both() -> None:
    deviated = MODEL.reward("balanced", EDGE, ok(8.0, arm=DEVICE))
    assert deviated == MODEL.reward("balanced", DEVICE, ok(8.0))


@pytest.mark.parametrize(
    "fields",
    [
        {"ok": True},
        {"ok": True, "total_seconds": -1.0},
        {"ok": True, "total_seconds": float("nan")},
        {"ok": True, "total_seconds": float("inf")},
        {"ok": True, "total_seconds": 1.0, "quality": 1.5},
        {"ok": True, "total_seconds": 1.0, "quality": float("nan")},
        {"ok": True, "total_seconds": 1.0, "edge_seconds": -0.1},
        {"ok": False, "error": "a red circle above a blue square"},
        {"ok": False, "error": "X" * 65},
        {"ok": False, "bytes_sent": 1 << 62},
        {"ok": False, "edge_queue_seconds": float("inf")},
        {"ok": False, "handoff_seconds": -1.0},
    ],
)
def test_a_bad_report_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        Outcome(**fields)  # type: ignore[arg-type]
