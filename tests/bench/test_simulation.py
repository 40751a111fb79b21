"""The simulated clock: what a round and a lane take, and that everybody ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from baton.edge_server.scheduling.controller import ControllerSettings
from tests.bench.contention import SYSTEMS, UNSKIPPED_ENGINE, reached, setting_rows
from tests.bench.simulation import (
    PIECES,
    SKIPPING,
    UNSKIPPED,
    Asked,
    Costs,
    Lane,
    Outcome,
    by_rounds,
    chunks_at_rest,
    directly,
    in_batches,
    simulated,
    trace,
)

#: One row takes a second, a decode four.
PLAIN = Costs(overhead=0.0, row=1.0, decode_steps=2.0)
ALONE = [Asked(3.0, 1.0, 20)]


def lane(costs: Costs, count: int) -> Lane:
    """With so many decodes in line."""
    filled = Lane(costs, Outcome())
    filled.take(simulated(Asked(0.0, 1.0, 1)) for _ in range(count))
    return filled


@pytest.mark.parametrize(
    ("slowdown", "call", "ends"), [(0.0, 10, 10), (0.5, 10, 12), (0.5, 2, 3), (0.5, 4, 6)]
)
def test_a_call_slows_while_a_whole_decode_runs(slowdown: float, call: float, ends: float) -> None:
    decoding = lane(Costs(slowdown, overhead=0.0, row=1.0, decode_steps=2.0), 1)
    assert decoding.beside(call, 0.0) == ends
    assert len(decoding.outcome.ends) == (call >= 4)


def test_decodes_on_a_lane_follow_one_another() -> None:
    decoding = lane(PLAIN, 3)
    assert decoding.beside(5, 0.0) == 5
    assert decoding.alone(5.0, 6.0) == 6
    assert decoding.alone(6.0, 99.0) == 8
    assert [end for _, end in decoding.outcome.ends] == [4, 8]


@pytest.mark.parametrize(
    ("power", "chunks", "times"), [(1, 2, 1.2), (2, 2, 1.08), (2, 5, 1.5), (2, 9, 1.5)]
)
def test_a_round_slows_by_the_share_that_its_chunks_fill(
    power: int, chunks: float, times: float
) -> None:
    assert Costs(0.5, power).beside(5, chunks) == pytest.approx(times)
    assert Costs(0.5, power).beside(0, chunks) == 1


@pytest.mark.parametrize(
    "run", [directly, lambda asked, costs: by_rounds(asked, costs, SKIPPING)], ids=["direct", "own"]
)
def test_one_alone_takes_its_steps_and_its_decode(
    run: Callable[[Sequence[Asked], Costs], Outcome],
) -> None:
    assert run(ALONE, PLAIN).ends == [(3.0, 3.0 + 20 * 2 + 4)]


@pytest.mark.parametrize("chunks", [1, 2])
def test_the_next_round_waits_for_the_chunks_of_the_last(chunks: int) -> None:
    settings = ControllerSettings(floor=1.0, chunks=chunks, most_chunks=chunks)
    # Two steps of both take 8 s, then a third of the second one 2 s beside the first one's chunk.
    asked = [Asked(0.0, 1.0, 2), Asked(0.0, 1.0, 3)]
    assert by_rounds(asked, PLAIN, settings).ends == [(0.0, 8 + 4), (0.0, 8 + 4 + 4)]


def test_decodes_are_cut_by_what_they_weigh_against_a_call() -> None:
    heavy = Costs(0.8, decode_steps=30)
    assert chunks_at_rest(Costs(0.8), 1.0) == 1
    assert 4 <= chunks_at_rest(heavy, 1.0) <= PIECES


def test_a_dynamic_batch_waits_for_its_window_and_leaves_together() -> None:
    asked = [Asked(1.0, 1.0, 20), Asked(1.4, 1.0, 30), Asked(1.6, 1.0, 20)]
    first, second = 1.5 + 30 * 4 + 2 * 4, 1.5 + 30 * 4 + 2 * 4 + 20 * 2 + 4
    assert in_batches(asked, PLAIN).ends == [(1.0, first), (1.4, first), (1.6, second)]


@pytest.mark.parametrize("name", SYSTEMS)
def test_everybody_ends_once_and_not_before_it_could(name: str) -> None:
    asked, costs = trace(60, rate=0.4), Costs()
    ends = SYSTEMS[name](asked, costs).ends
    assert sorted(arrival for arrival, _ in ends) == [each.arrival for each in asked]
    least = {each.arrival: each.steps * costs.call(1, each.size) for each in asked}
    assert all(end - arrival > least[arrival] for arrival, end in ends)


def test_without_contention_or_skipping_rounds_serve_what_direct_concurrency_serves() -> None:
    flood = trace(150, float("inf"))
    direct = directly(flood, Costs()).throughput
    assert by_rounds(flood, Costs(), UNSKIPPED).throughput == pytest.approx(direct, rel=0.02)


def test_skipping_leaves_rows_out_and_serves_more() -> None:
    flood = trace(150, float("inf"))
    skipping, full = by_rounds(flood, Costs(), SKIPPING), by_rounds(flood, Costs(), UNSKIPPED)
    assert full.told()["skipped_rows_share"] == 0
    assert 0.05 < skipping.told()["skipped_rows_share"] < 0.18
    assert skipping.throughput > 1.05 * full.throughput


def test_rows_of_a_setting_are_held_against_direct_concurrency() -> None:
    rows = setting_rows(Costs(), 30, 30)
    assert rows[0]["throughput_to_direct"] == 1
    own = next(row for row in rows if row["name"] == f"simulated, {UNSKIPPED_ENGINE}")
    assert own["capacity_to_direct"] == own["capacity"] / rows[0]["capacity"]


def test_where_a_gain_is_reached_lies_between_the_rows_of_a_sweep() -> None:
    rows = [
        {"slowdown": slowdown, "capacity_to_direct": ratio, "mean_seconds_to_direct": 1 / ratio}
        for slowdown, ratio in ((0.0, 1.2), (0.4, 1.4), (0.8, 1.8))
    ]
    assert reached(rows, "capacity", 1.6) == pytest.approx(0.6)
    assert reached(rows, "capacity", 1.1) == 0
    assert reached(rows, "capacity", 2.0) is None
    assert reached(rows, "mean_seconds", 1 / 1.4) == pytest.approx(0.4)
