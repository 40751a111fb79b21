"""When an edge tries again: later each time, and not in step with the others."""

from __future__ import annotations

import random
from itertools import islice

import pytest

from baton.edge_server.membership import back_off, jittered


def waits(seed: int, count: int = 12) -> list[float]:
    return list(islice(back_off(random.Random(seed)), count))


@pytest.mark.parametrize("seed", range(20))
def test_every_wait_lies_within_the_upper_half_of_a_doubling_time(seed: int) -> None:
    bounds = [min(0.2 * 2**number, 5.0) for number in range(12)]
    for wait, bound in zip(waits(seed), bounds, strict=True):
        assert bound / 2 <= wait <= bound


def test_a_herd_that_lost_its_coordinator_at_one_moment_spreads_out() -> None:
    herd = [sum(waits(seed, 6)) for seed in range(200)]
    assert len(set(herd)) == 200
    earliest, latest = min(herd), max(herd)
    for number in range(4):  # somebody in every quarter, and most in none alone
        low = earliest + number * (latest - earliest) / 4
        quarter = [wait for wait in herd if low <= wait <= low + (latest - earliest) / 4]
        assert 0 < len(quarter) < 150


def test_two_edges_do_not_draw_alike_unless_they_are_made_to() -> None:
    assert list(islice(back_off(), 5)) != list(islice(back_off(), 5))
    assert jittered(3.0, 0.0) == 3.0
