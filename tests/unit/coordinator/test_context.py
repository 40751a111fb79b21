from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.common.query import DecideQuery, PromptFeatures
from baton.common.request import PREFERENCES, Preference
from baton.coordinator.bandit.context import DIMENSION, FEATURES, build_context, complexity
from baton.coordinator.ranking import RankedEdge

COUNT = st.integers(0, 10_000)
PROMPTS = st.builds(PromptFeatures, COUNT, COUNT, COUNT, COUNT, COUNT)
QUERIES = st.builds(
    DecideQuery,
    request_id=st.just("r"),
    family=st.just("scenes"),
    steps=st.integers(1, 200),
    prompt=PROMPTS,
    preference=st.sampled_from(PREFERENCES),
    device_cpu=st.floats(0, 1),
    rtt_seconds=st.floats(0, 86_400),
)
EDGES = st.builds(
    RankedEdge,
    node_id=st.just("e"),
    address=st.just("h:1"),
    reason=st.just(""),
    cost=st.just(0.0),
    rtt=st.floats(0, 86_400),
    busy=st.floats(0, 100),
    waiting=st.integers(0, 10**6),
)


def named(query: DecideQuery, best: RankedEdge | None = None) -> dict[str, float]:
    return dict(zip(FEATURES, build_context(query, best).tolist(), strict=True))


@given(QUERIES, st.none() | EDGES)
def test_every_entry_lies_between_0_and_1(query: DecideQuery, best: RankedEdge | None) -> None:
    context = build_context(query, best)
    assert context.shape == (DIMENSION,)
    assert np.isfinite(context).all()
    assert (context >= 0).all()
    assert (context <= 1).all()


@pytest.mark.parametrize("preference", PREFERENCES)
def test_exactly_one_preference_is_set(preference: Preference) -> None:
    entries = named(DecideQuery("r", "scenes", 10, preference=preference))
    assert [name for name in PREFERENCES if entries[f"prefers_{name}"]] == [preference]


def test_a_plain_object_is_not_complex_and_every_fact_adds() -> None:
    plain = PromptFeatures(words=2, objects=1, count=1)
    values = [
        complexity(item)
        for item in (
            plain,
            PromptFeatures(5, 2),
            PromptFeatures(8, 2, 2),
            PromptFeatures(9, 3, 3, 2, 3),
        )
    ]
    assert values[0] == 0.0
    assert values == sorted(set(values))


def test_no_edge_reads_as_a_fully_loaded_one() -> None:
    entries = named(DecideQuery("r", "scenes", 10, rtt_seconds=0.1))
    assert (entries["edge_busy"], entries["edge_queue"]) == (1.0, 1.0)
    assert entries["network_rtt"] == 0.5


def test_the_round_trip_is_that_of_the_best_edge() -> None:
    best = RankedEdge("e", "h:1", "", 0.0, rtt=0.3, busy=0.25, waiting=4)
    entries = named(DecideQuery("r", "scenes", 25, rtt_seconds=0.0, device_cpu=0.5), best)
    assert entries["network_rtt"] == pytest.approx(0.75)
    assert (entries["edge_busy"], entries["edge_queue"]) == (0.25, 0.5)
    assert (entries["bias"], entries["steps"], entries["device_cpu"]) == (1.0, 0.5, 0.5)
