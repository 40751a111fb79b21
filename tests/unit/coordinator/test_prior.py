"""Before anything is learned, the choice should already be the sensible one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from baton.common.arm import Arm
from baton.common.query import DecideQuery, PromptFeatures
from baton.common.request import Preference
from baton.coordinator.bandit.arms import candidates
from baton.coordinator.bandit.context import DIMENSION, FEATURES, build_context
from baton.coordinator.bandit.linucb import LinUCB
from baton.coordinator.bandit.prior import static_prior
from baton.coordinator.ranking import RankedEdge, Ranking
from baton.coordinator.values import ArmKey

WEIGHTS: dict[Preference, float] = {"quality": 0.8, "balanced": 0.5, "speed": 0.2}
PLAIN = PromptFeatures(words=2, objects=1, count=1)
INVOLVED = PromptFeatures(words=14, objects=3, attributes=3, relations=1, count=3)


def best_kind(
    preference: Preference,
    prompt: PromptFeatures = PLAIN,
    waiting: int = 0,
    rtt: float = 0.005,
    device_cpu: float = 0.1,
) -> str:
    edge = RankedEdge("e", "h:1", "", 0.0, rtt, min(1.0, waiting / 4), waiting)
    query = DecideQuery("r", "scenes", 20, prompt, preference, "f", ("small",), device_cpu)
    model = LinUCB(DIMENSION, alpha=0.1, ridge=1.0, prior=static_prior(WEIGHTS))
    context = build_context(query, edge)
    options = candidates(query, {("large",): Ranking((edge,), ())})
    arms = [item.arm for item in options if item.feasible]
    best = max(arms, key=lambda arm: sum(model.score(ArmKey("scenes", "", arm), context)))
    places = [stretch.location for stretch in best.stretches]
    return "relay" if len(places) > 1 else places[0]


@pytest.mark.parametrize(
    ("preference", "kind"), [("quality", "edge"), ("balanced", "relay"), ("speed", "device")]
)
def test_the_preference_decides_a_plain_request(preference: Preference, kind: str) -> None:
    assert best_kind(preference) == kind


def test_a_long_queue_or_a_slow_network_keeps_the_work_on_the_device() -> None:
    assert best_kind("balanced", waiting=40) == "device"
    assert best_kind("balanced", rtt=2.0) == "device"


def test_an_involved_prompt_gets_the_edge_to_help_even_in_a_hurry() -> None:
    assert best_kind("speed", INVOLVED) == "relay"


def test_a_busy_device_hands_more_over() -> None:
    assert best_kind("speed", device_cpu=1.0) != "device"


def test_data_override_the_prior() -> None:
    model = LinUCB(DIMENSION, alpha=0.1, ridge=1.0, prior=static_prior(WEIGHTS))
    query = DecideQuery("r", "scenes", 20, PLAIN, "quality", "f", ("small",))
    context = build_context(query, RankedEdge("e", "h:1", "", 0.0, 0.005, 0.0, 0))
    edge, device = (ArmKey("scenes", "", arm) for arm in (Arm.edge("large"), Arm.device("small")))
    assert model.score(edge, context).estimate > model.score(device, context).estimate
    for _ in range(10):
        model.update(edge, context, 0.1)
        model.update(device, context, 0.7)
    assert model.score(edge, context).estimate < model.score(device, context).estimate


def test_a_familys_own_arm_is_the_best_for_its_preference_on_any_prompt_or_busy_device() -> None:
    own = {
        Arm.parse("device/s*1>edge/l*2>device/f*4"): {"balanced"},
        Arm.parse("edge/l*5"): {"quality"},
        Arm.parse("device/s*3>device/f*4"): {"speed"},
    }
    prior = static_prior(WEIGHTS, lambda key: own.get(key.arm, ()))
    for preference in WEIGHTS:
        for busy, complexity in itertools.product((0.0, 1.0), repeat=2):
            told = {"bias": 1.0, f"prefers_{preference}": 1.0}
            told |= {"device_cpu": busy, "complexity": complexity, "edge_busy": busy}
            context = np.array([told.get(name, 0.0) for name in FEATURES])
            best = max(own, key=lambda arm: float(prior(ArmKey("f", "", arm)) @ context))
            assert own[best] == {preference}
