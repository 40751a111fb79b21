"""Plans of rounds against every plan there is, and against the paper's Table I."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baton.edge_server.scheduling.actions import Action, Bounds, greedy
from baton.edge_server.scheduling.planner import Latencies, Waiting
from baton.edge_server.scheduling.table import PlanTable
from tests.support.latencies import Listed, Noisy, TableI
from tests.support.plans import Weight, best, every_plan, weigh

LOOSE = Bounds(tasks=6, decodes=4)
TIGHT = Bounds(tasks=6, decodes=4, most_tasks=4, most_decodes=2)
SMALL = Bounds(tasks=3, decodes=2, most_tasks=2, most_decodes=2)
SQUARE = Bounds(tasks=6, decodes=6)
DELTAS = (0.0, 0.05, 0.08, 0.15, 1.0)
#: Table I: the tasks of each round, and milliseconds of its UNet tasks and of its VAE tasks.
MEASURED = {
    (6,): (237.9, 204.2),
    (1, 5): (250.2, 188.6),
    (3, 3): (249.0, 173.3),
    (1, 1, 4): (252.7, 161.6),
    (1, 2, 3): (256.2, 145.3),
    (1, 1, 1, 1, 1, 1): (277.8, 124.8),
}


def against_every_plan(table: PlanTable, latencies: Latencies, waiting: Waiting) -> None:
    """Each state's plan at each delta is as good as the best of all, and within the limit."""
    bounds = table.bounds
    plans = every_plan(bounds, latencies, waiting)
    for U, V in product(range(bounds.tasks + 1), range(bounds.decodes + 1)):
        for S in range(U + 1):
            coarse = weigh(greedy(U, V, S, bounds), V, latencies, waiting)
            for delta in DELTAS:
                limit = (1 + delta) * coarse.time if U and coarse else float("inf")
                expected = best(plans[U, V], S, limit) if coarse or not U else None
                plan = table.plan(U, V, S, delta)
                found = None if plan is None else weigh(plan, V, latencies, waiting)
                assert found == expected, (U, V, S, delta, plan)
                assert plan is None or sound(plan, U, V, S, bounds)


def sound(plan: tuple[Action, ...], U: int, V: int, S: int, bounds: Bounds) -> bool:
    """Whether a plan ends all tasks, its UNet tasks first, within its budget and the bounds."""
    u, v, s = (sum(action[part] for action in plan) for part in range(3))
    idle = [action.u == 0 for action in plan]
    return (
        (u, v) == (U, V)
        and s <= S
        and idle == sorted(idle)
        and all(action.s <= action.u <= bounds.most_tasks for action in plan)
        and all(action.v <= bounds.most_decodes and action.u + action.v for action in plan)
    )


@pytest.mark.parametrize("waiting", Waiting)
@pytest.mark.parametrize(
    ("latencies", "bounds"),
    [
        (Noisy(1, noise=1.0, holes=0.1), LOOSE),
        (Noisy(2, noise=0.1), TIGHT),
        (Noisy(3, noise=0.3), LOOSE),
    ],
    ids=["rough, with holes", "smooth, in tight bounds", "between"],
)
def test_no_plan_is_better(latencies: Latencies, bounds: Bounds, waiting: Waiting) -> None:
    against_every_plan(PlanTable.build(latencies, bounds, waiting), latencies, waiting)


@st.composite
def listed(draw: st.DrawFn) -> Listed:
    """Any latencies in whole milliseconds, some of them not known."""
    actions = [(u, v, s) for u in range(3) for v in range(3) for s in range(u + 1)]
    times = st.dictionaries(st.sampled_from(actions), st.integers(1, 40), min_size=len(actions) - 3)
    return Listed(draw(times), draw(times))


@settings(max_examples=30)
@given(listed(), st.sampled_from(Waiting))
def test_no_plan_is_better_whatever_the_latencies(latencies: Listed, waiting: Waiting) -> None:
    against_every_plan(PlanTable.build(latencies, SMALL, waiting), latencies, waiting)


def table_one() -> PlanTable:
    return PlanTable.build(TableI(), SQUARE, Waiting.BACK_TO_BACK)


def test_what_fits_table_one_is_within_a_few_percent_of_what_was_measured() -> None:
    for rounds, (unet, vae) in MEASURED.items():
        plan = [Action(each, each, 0) for each in rounds]
        weight = weigh(plan, 6, TableI(), Waiting.BACK_TO_BACK)
        assert weight is not None
        assert weight.time == pytest.approx(unet, rel=0.016)
        assert weight.cost / 6 == pytest.approx(vae, rel=0.075)


def test_at_five_percent_table_one_is_split_in_two_rounds_of_three() -> None:
    assert table_one().plan(6, 6, 0, 0.05) == (Action(3, 3, 0),) * 2


def test_at_eight_percent_table_one_is_split_in_three_rounds_of_two() -> None:
    assert table_one().plan(6, 6, 0, 0.08) == (Action(2, 2, 0),) * 3


@pytest.mark.parametrize(("delta", "rounds"), [(0.05, (3, 3)), (0.08, (1, 2, 3))])
def test_of_the_measured_schedules_the_rule_takes(delta: float, rounds: tuple[int, ...]) -> None:
    weights = np.array([(10 * vae, 10 * unet, 0, 0) for unet, vae in MEASURED.values()], np.int64)
    chosen = best(weights, 0, (1 + delta) * 10 * MEASURED[6,][0])
    assert chosen is not None
    assert (chosen.time / 10, chosen.cost / 10) == MEASURED[rounds]


@pytest.mark.parametrize(
    ("waiting", "cost", "time"),
    [
        # calls of 10, 10 and 0 ms, chunks of 4, 12 and 4 ms, which end a VAE task each
        (Waiting.BACK_TO_BACK, 3 * 4 + 2 * 12 + 4, 10 + 10 + 4),
        (Waiting.BARRIER, 3 * 10 + 2 * 12 + 4, 10 + 10 + 4),
        (Waiting.SERIAL, 3 * 14 + 2 * 22 + 4, 10 + 10),
    ],
)
def test_how_long_a_round_keeps_the_rest(waiting: Waiting, cost: int, time: int) -> None:
    calls = {(1, 1, 0): 10, (1, 1, 1): 10}
    chunks = {(1, 1, 0): 4, (1, 1, 1): 12, (0, 1, 0): 4}
    plan = [Action(1, 1, 0), Action(1, 1, 1), Action(0, 1, 0)]
    assert weigh(plan, 3, Listed(calls, chunks), waiting) == Weight(cost, time, 3)


def test_the_last_chunks_wait_for_no_call() -> None:
    latencies = Listed({(2, 1, 0): 10, (2, 0, 0): 10}, {(2, 1, 0): 4})
    assert weigh([Action(2, 1, 0)], 1, latencies, Waiting.BARRIER) == Weight(4, 10, 1)
    assert weigh([Action(2, 1, 0)], 1, latencies, Waiting.SERIAL) == Weight(14, 10, 1)


def test_lean_tasks_are_used_where_they_let_decodes_end_sooner() -> None:
    table = PlanTable.build(TableI(saved=0.5), Bounds(2, 2), Waiting.BARRIER)
    assert table.plan(2, 2, 2, 0.0) == (Action(2, 2, 2),)
    assert table.plan(2, 2, 0, 0.0) == (Action(2, 2, 0),)


def test_without_unet_tasks_decodes_follow_one_another() -> None:
    assert table_one().plan(0, 3, 0, 0.0) == (Action(0, 1, 0),) * 3


def test_of_equal_plans_the_most_even_is_taken() -> None:
    tasks = [action.u for action in table_one().plan(5, 6, 0, 0.05) or ()]
    assert sorted(tasks) == [2, 3]


def test_nothing_to_do_is_an_empty_plan() -> None:
    assert table_one().plan(0, 0, 0, 0.05) == ()


def test_what_is_beyond_the_bounds_is_left_for_later() -> None:
    assert table_one().plan(9, 8, 12, 0.05) == table_one().plan(6, 6, 6, 0.05)


def test_no_plan_where_the_coarse_one_is_not_known() -> None:
    calls = {(1, 0, 0): 5, (1, 1, 0): 5}
    table = PlanTable.build(Listed(calls, {(1, 1, 0): 4}), Bounds(2, 1), Waiting.SERIAL)
    assert table.plan(2, 1, 0, 0.15) is None
    assert table.plan(1, 1, 0, 0.15) == (Action(1, 1, 0),)


def test_no_plan_where_no_latency_is_known() -> None:
    table = PlanTable.build(Listed({}, {}), Bounds(2, 1), Waiting.BARRIER)
    assert [table.plan(*state, delta=0.1) for state in ((2, 1, 0), (0, 1, 0))] == [None, None]


@pytest.mark.parametrize(
    ("state", "rounds"),
    [
        ((6, 4, 6), [(3, 2, 3), (3, 2, 3)]),
        ((5, 3, 1), [(3, 2, 1), (2, 1, 0)]),
        ((2, 5, 9), [(2, 2, 2), (0, 2, 0), (0, 1, 0)]),
        ((4, 0, 0), [(4, 0, 0)]),
        ((0, 0, 0), []),
    ],
)
def test_the_coarse_plan_is_even(
    state: tuple[int, int, int], rounds: list[tuple[int, int, int]]
) -> None:
    assert list(greedy(*state, TIGHT)) == rounds


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.integers(1, 9))
def test_the_coarse_plan_ends_everything(U: int, V: int, S: int, most: int) -> None:
    bounds = Bounds(40, 40, most_tasks=most, most_decodes=10 - most)
    assert sound(greedy(U, V, S, bounds), U, V, min(S, U), bounds)


def test_bounds_without_a_round_are_refused() -> None:
    with pytest.raises(ValueError, match="no round fits"):
        Bounds(most_tasks=0)
