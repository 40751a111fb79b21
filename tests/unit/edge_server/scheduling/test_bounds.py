"""What follows from latencies alone."""

from __future__ import annotations

import pytest

from baton.edge_server.scheduling.bounds import chunk_cost, on_line, saturation

LINE = [(1, 10.0), (2, 12.0), (8, 24.0)]


@pytest.mark.parametrize(("x", "y"), [(1, 10.0), (2, 12.0), (5, 18.0), (8, 24.0), (1.5, 11.0)])
def test_between_two_points_a_line_is_straight(x: float, y: float) -> None:
    assert on_line(LINE, x) == pytest.approx(y)


@pytest.mark.parametrize("x", [0, 0.9, 8.1, 16])
def test_outside_of_what_was_measured_nothing_is_told(x: float) -> None:
    assert on_line(LINE, x) is None
    assert on_line([], x) is None


def test_a_batch_is_saturated_where_the_rate_first_comes_close_to_the_best() -> None:
    assert saturation([(1, 50.0), (2, 80.0), (4, 96.0), (8, 95.5), (16, 100.0)]) == 4
    assert saturation([(1, 50.0), (2, 80.0), (4, 94.0)]) == 4
    assert saturation([(4, 7.0)]) == 4


def test_the_cost_of_chunks_is_equation_1_by_hand() -> None:
    # UNet: (12 + 11 - 2 * 10) / 20 = 0.15; decode: max(12, 8) + 6 = 18 of 12, so 0.5 longer.
    assert chunk_cost([12, 11], [8, 6], (10, 12), weight=1.0) == pytest.approx(0.15)
    assert chunk_cost([12, 11], [8, 6], (10, 12), weight=0.0) == pytest.approx(0.5)
    assert chunk_cost([12, 11], [8, 6], (10, 12), weight=0.25) == pytest.approx(0.4125)
    # Where the chunk is the longer one, the call waits for nobody, and the next chunk for it.
    assert chunk_cost([12, 11], [14, 6], (10, 12), weight=0.0) == pytest.approx(8 / 12)


def test_on_one_thread_either_lane_stands_still_while_the_other_runs() -> None:
    # UNet: (10 + 6) + (10 + 6) of 20; decode: (10 + 6) + 6 = 22 of 12.
    assert chunk_cost([10, 10], [6, 6], (10, 12), 1.0, serial=True) == pytest.approx(0.6)
    assert chunk_cost([10, 10], [6, 6], (10, 12), 0.0, serial=True) == pytest.approx(10 / 12)
