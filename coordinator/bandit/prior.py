"""What is believed of an arm before anything was measured: a static cost model.

Only the share of the steps that run on the edge is known, f = 0 for a device arm, 1 for an edge
arm. It is assumed that the edge's member is the better and the slower one. Quality rises with
sqrt(f), for the first steps decide what the picture shows (RISE); speed falls linearly with f.
Complex prompts cost more quality the less the edge does; a queue, a busy edge and the network cost
time only where the edge takes part; a busy device only where the device does. A family's own arm is
taken to be the best for its preference, since the family chose it by measurement, whatever the
prompt, and ahead of its others by more than a busy device costs. Every figure here is a guess that
counts as ``ridge_lambda`` observations and is overridden by data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping

import numpy as np

from baton.common.arm import Arm
from baton.common.request import Preference
from baton.coordinator.bandit.context import FEATURES
from baton.coordinator.bandit.linucb import FloatArray, Prior
from baton.coordinator.values import ArmKey

DEVICE_QUALITY, EDGE_QUALITY = 0.55, 0.90
DEVICE_SPEED, EDGE_SPEED = 0.70, 0.45
OTHER_PREFERENCE_COST = 0.25
COMPLEXITY_COST, QUEUE_COST, BUSY_EDGE_COST, RTT_COST, BUSY_DEVICE_COST = 0.2, 0.4, 0.1, 0.15, 0.2


def expected_quality(arm: Arm) -> float:
    """Quality in [0, 1] that is assumed of an arm whose pictures have no score."""
    return DEVICE_QUALITY + (EDGE_QUALITY - DEVICE_QUALITY) * math.sqrt(arm.edge_share)


def expected_speed(arm: Arm) -> float:
    """Speed part of the reward, in [0, 1], on an idle edge and a fast network."""
    return DEVICE_SPEED + (EDGE_SPEED - DEVICE_SPEED) * arm.edge_share


def static_prior(
    quality_weights: Mapping[Preference, float],
    preferences: Callable[[ArmKey], Collection[Preference]] = lambda key: (),
) -> Prior[ArmKey]:
    """theta0 by key, for rewards that weigh quality by ``quality_weights``.

    preferences: those for which a family has the arm of a key.
    """

    def theta0(key: ArmKey) -> FloatArray:
        arm = key.arm
        quality, speed = expected_quality(arm), expected_speed(arm)
        uses_edge = float(arm.edge_share > 0.0)
        terms = {
            f"prefers_{preference}": weight * quality + (1.0 - weight) * speed
            for preference, weight in quality_weights.items()
        }
        terms["complexity"] = -COMPLEXITY_COST * (1.0 - math.sqrt(arm.edge_share))
        if chosen_for := preferences(key):
            terms["complexity"] = 0.0
            for preference, weight in quality_weights.items():
                best = weight * EDGE_QUALITY + (1.0 - weight) * DEVICE_SPEED
                lost = 0.0 if preference in chosen_for else OTHER_PREFERENCE_COST
                terms[f"prefers_{preference}"] = best - lost
        terms["edge_queue"] = -QUEUE_COST * uses_edge
        terms["edge_busy"] = -BUSY_EDGE_COST * arm.edge_share
        terms["network_rtt"] = -RTT_COST * uses_edge
        terms["device_cpu"] = -BUSY_DEVICE_COST * (1.0 - arm.edge_share)
        return np.array([terms.get(feature, 0.0) for feature in FEATURES], dtype=np.float64)

    return theta0
