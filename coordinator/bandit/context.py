"""The context vector: what is known about a request before it runs, each entry in [0, 1]."""

from __future__ import annotations

import numpy as np

from baton.common.query import DecideQuery, PromptFeatures
from baton.common.request import PREFERENCES
from baton.coordinator.bandit.linucb import FloatArray
from baton.coordinator.ranking import RankedEdge

#: Names of the entries, in order.
FEATURES: tuple[str, ...] = (
    "bias",
    "words",
    "objects",
    "attributes",
    "relations",
    "count",
    "complexity",
    *(f"prefers_{preference}" for preference in PREFERENCES),
    "steps",
    "network_rtt",
    "device_cpu",
    "edge_busy",
    "edge_queue",
)
DIMENSION = len(FEATURES)

# The value of each measure that maps to 0.5.
_WORDS, _OBJECTS, _ATTRIBUTES, _RELATIONS, _COUNT, _FACTS = 12.0, 2.0, 2.0, 1.0, 2.0, 4.0
_STEPS, _RTT_SECONDS, _WAITING = 25.0, 0.1, 4.0


def build_context(query: DecideQuery, best: RankedEdge | None) -> FloatArray:
    """Context [DIMENSION] of a request whose best edge is ``best``.

    Without an edge, the edge's entries read as one that is as busy as can be.
    """
    prompt = query.prompt
    entries = [
        1.0,
        saturate(prompt.words, _WORDS),
        saturate(prompt.objects, _OBJECTS),
        saturate(prompt.attributes, _ATTRIBUTES),
        saturate(prompt.relations, _RELATIONS),
        saturate(prompt.count, _COUNT),
        complexity(prompt),
        *(float(query.preference == preference) for preference in PREFERENCES),
        saturate(query.steps, _STEPS),
        saturate(best.rtt if best else query.rtt_seconds, _RTT_SECONDS),
        query.device_cpu,
        min(1.0, best.busy) if best else 1.0,
        saturate(best.waiting, _WAITING) if best else 1.0,
    ]
    return np.array(entries, dtype=np.float64)


def complexity(prompt: PromptFeatures) -> float:
    """Facts that a picture must get right beyond one plain object, saturating; in [0, 1)."""
    facts = max(0, prompt.objects - 1) + prompt.attributes + prompt.relations
    return saturate(facts + max(0, prompt.count - 1), _FACTS)


def saturate(value: float, half: float) -> float:
    """``value / (value + half)``: 0 at 0, 0.5 at ``half``, below 1 for any value >= 0."""
    return value / (value + half)
