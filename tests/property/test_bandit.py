"""LinUCB against its definition: inverses, a direct solve, merging, propensities."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from baton.common.errors import InvalidRequest, Overloaded
from baton.coordinator.bandit import linucb
from baton.coordinator.bandit.linucb import FloatArray, LinUCB, inverse, rank_one
from baton.coordinator.bandit.policy import draw, propensities

D = 4
UNIT = st.floats(0.0, 1.0, width=32)
CONTEXT = arrays(np.float64, (D,), elements=UNIT)
PULLS = st.lists(st.tuples(st.sampled_from("ab"), CONTEXT, UNIT), max_size=40)
THETA0 = np.array([0.5, -0.25, 0.0, 1.0])


def bandit(ridge: float = 1.0) -> LinUCB[str]:
    return LinUCB(D, alpha=0.5, ridge=ridge, prior=lambda key: THETA0 * (1 + (key == "b")))


def solved(pulls: list[tuple[str, FloatArray, float]], key: str, x: FloatArray) -> FloatArray:
    """Estimate and bonus straight from the definition."""
    A, b = np.eye(D), THETA0 * (1 + (key == "b"))
    for pulled, context, reward in pulls:
        if pulled == key:
            A, b = A + np.outer(context, context), b + reward * context
    return np.array([x @ np.linalg.solve(A, b), 0.5 * np.sqrt(x @ np.linalg.solve(A, x))])


@given(PULLS)
def test_the_cached_inverse_is_the_inverse(pulls: list[tuple[str, FloatArray, float]]) -> None:
    model = bandit()
    for key, x, reward in pulls:
        model.update(key, x, reward)
    for arm in model.models().values():
        np.testing.assert_allclose(arm.A @ arm.A_inv, np.eye(D), atol=1e-9)


@given(PULLS, CONTEXT)
def test_scores_equal_a_direct_solve(
    pulls: list[tuple[str, FloatArray, float]], x: FloatArray
) -> None:
    model = bandit()
    for key, context, reward in pulls:
        model.update(key, context, reward)
    for key in "abc":
        np.testing.assert_allclose(model.score(key, x), solved(pulls, key, x), atol=1e-9)


@given(PULLS, PULLS, CONTEXT)
def test_pending_pulls_narrow_the_bonus_and_leave_the_estimate(
    pulls: list[tuple[str, FloatArray, float]],
    pending: list[tuple[str, FloatArray, float]],
    x: FloatArray,
) -> None:
    model = bandit()
    for key, context, reward in pulls:
        model.update(key, context, reward)
    for key, context, _ in pending:
        model.begin(key, context)
    for key in "ab":
        estimate, bonus = model.score(key, x)
        np.testing.assert_allclose(estimate, solved(pulls, key, x)[0], atol=1e-9)
        np.testing.assert_allclose(bonus, solved([*pulls, *pending], key, x)[1], atol=1e-9)


@given(PULLS, CONTEXT, st.booleans())
def test_a_resolved_pull_is_an_observation_and_a_withdrawn_one_is_nothing(
    pulls: list[tuple[str, FloatArray, float]], x: FloatArray, withdraw: bool
) -> None:
    model, expected = bandit(), bandit()
    for key, context, _ in pulls:
        model.begin(key, context)
    for key, context, reward in reversed(pulls):
        if withdraw:
            model.withdraw(key, context)
        else:
            model.resolve(key, context, reward)
            expected.update(key, context, reward)
    for key in "ab":
        np.testing.assert_allclose(model.score(key, x), expected.score(key, x), atol=1e-8)


@given(PULLS, CONTEXT)
def test_a_replay_gives_the_same_statistics_bit_for_bit(
    pulls: list[tuple[str, FloatArray, float]], x: FloatArray
) -> None:
    live, replayed = bandit(), bandit()
    for key, context, reward in pulls:
        live.begin(key, context)
        live.resolve(key, context, reward)
    assert replayed.replay(pulls) == len(pulls)
    for key, state in live.states().items():
        np.testing.assert_array_equal(state.A, replayed.states()[key].A)
        np.testing.assert_array_equal(state.b, replayed.states()[key].b)
        np.testing.assert_allclose(live.score(key, x), replayed.score(key, x), atol=1e-9)


@given(st.lists(PULLS, min_size=1, max_size=4), CONTEXT)
def test_merging_equals_one_model_that_saw_everything(
    parts: list[list[tuple[str, FloatArray, float]]], x: FloatArray
) -> None:
    whole, models = bandit(), [bandit() for _ in parts]
    for model, pulls in zip(models, parts, strict=True):
        for key, context, reward in pulls:
            model.update(key, context, reward)
            whole.update(key, context, reward)
    merged = bandit()
    merged.load(merged.merged([model.states() for model in models]))
    for key in "ab":
        np.testing.assert_allclose(merged.score(key, x), whole.score(key, x), atol=1e-10)
    rewards = {key: model.rewards for key, model in merged.models().items()}
    assert rewards == {key: model.rewards for key, model in whole.models().items()}


def test_the_inverse_survives_many_updates_of_a_nearly_singular_kind() -> None:
    rng = np.random.default_rng(0)
    model = LinUCB[str](D, alpha=1.0, ridge=1e-3)
    line = rng.random(D)
    for _ in range(5 * linucb.REFRESH_EVERY):
        model.update("a", line + 1e-6 * rng.random(D), rng.random())
    arm = model.models()["a"]
    np.testing.assert_allclose(arm.A @ arm.A_inv, np.eye(D), atol=1e-6)


@given(CONTEXT, st.floats(0.1, 10.0))
def test_a_rank_one_update_and_its_reverse_cancel(x: FloatArray, ridge: float) -> None:
    start = inverse(ridge * np.eye(D))
    back = rank_one(rank_one(start, x, 1.0), x, -1.0)
    np.testing.assert_allclose(back, start, rtol=1e-8, atol=1e-8)


def test_a_context_of_another_length_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        bandit().score("a", np.ones(D + 1))
    with pytest.raises(InvalidRequest):
        bandit().load({"a": LinUCB[str](D + 1, 1, 1).initial("a")})


def test_scoring_holds_no_memory_and_pulling_is_bounded() -> None:
    model, x = LinUCB[str](1, 1.0, 1.0), np.ones(1)
    for number in range(linucb.MAX_ARMS):
        model.begin(str(number), x)
    model.score("one more", x)
    assert len(model.models()) == linucb.MAX_ARMS
    with pytest.raises(Overloaded):
        model.begin("one more", x)


BOUNDS = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75]), min_size=1, max_size=12)


@given(BOUNDS, UNIT)
def test_propensities_are_a_distribution_with_a_floor(
    bounds: list[float], exploration: float
) -> None:
    chances = propensities(np.array(bounds), exploration)
    assert chances.sum() == pytest.approx(1.0, abs=1e-12)
    assert (chances >= exploration / len(bounds) - 1e-15).all()


@given(BOUNDS, UNIT, st.integers(0, 2**32))
def test_a_draw_logs_its_own_probability(
    bounds: list[float], exploration: float, seed: int
) -> None:
    drawn = draw(bounds, exploration, np.random.default_rng(seed))
    assert drawn.propensity == propensities(np.array(bounds), exploration)[drawn.index]
    assert drawn.explored or bounds[drawn.index] == max(bounds)


def test_draws_are_as_frequent_as_their_probabilities() -> None:
    bounds, rng, count = [0.2, 0.9, 0.9, 0.1], np.random.default_rng(3), 40_000
    draws = [draw(bounds, 0.1, rng).index for _ in range(count)]
    frequency = np.bincount(draws, minlength=4) / count
    expected = propensities(np.array(bounds), 0.1)
    deviation = np.sqrt(expected * (1 - expected) / count)
    assert (np.abs(frequency - expected) < 4 * deviation).all()


def test_ties_follow_the_seed() -> None:
    runs = [
        [draw([1.0, 1.0, 1.0], 0.05, np.random.default_rng(seed)).index for seed in range(50)]
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert set(runs[0]) == {0, 1, 2}


def test_no_arm_is_an_error() -> None:
    with pytest.raises(InvalidRequest):
        draw([], 0.1, np.random.default_rng(0))


def regret(exploration: float, rounds: int = 1500) -> tuple[float, float]:
    """Mean regret of the first and last 300 rounds; each of three arms is best in one context."""
    truth = np.array([[0.5, 0.4, -0.2, 0.0], [0.5, -0.2, 0.4, 0.0], [0.6, 0.0, 0.0, 0.0]])
    world, rng = np.random.default_rng(5), np.random.default_rng(6)
    model, lost = LinUCB[str](D, alpha=0.3, ridge=1.0), []
    for _ in range(rounds):
        x = np.array([1.0, *world.random(3)])
        expected = truth @ x
        arm = draw([sum(model.score(key, x)) for key in "abc"], exploration, rng).index
        model.update("abc"[arm], x, expected[arm] + 0.1 * world.standard_normal())
        lost.append(expected.max() - expected[arm])
    return float(np.mean(lost[:300])), float(np.mean(lost[-300:]))


def test_it_learns_the_right_arm_of_each_context_and_beats_random() -> None:
    early, late = regret(exploration=0.03)
    _, random = regret(exploration=1.0)
    assert late < early
    assert late < random / 5


@pytest.mark.parametrize("count", [True, False])
def test_a_burst_spreads_only_if_pending_pulls_count(count: bool) -> None:
    model, rng, x = LinUCB[str](1, alpha=1.0, ridge=1.0), np.random.default_rng(0), np.ones(1)
    pulled = []
    for _ in range(30):
        index = draw([sum(model.score(key, x)) for key in "abc"], 0.0, rng).index
        pulled.append(index)
        if count:
            model.begin("abc"[index], x)
    shares = np.bincount(pulled, minlength=3)
    assert shares.max() == 10 or not count
