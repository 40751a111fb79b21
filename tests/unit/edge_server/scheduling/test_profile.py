"""What a profile tells of rounds that were measured, of those between them, and of no others."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from baton.common.size import Size
from baton.edge_server.scheduling.profile import Beside, LaneCount, MeasuredLatencies
from tests.support.profiles import SIZE, decoder, member, profile


def beside(
    rows: int, chunks: int, decodes: int, unet: float, vae: float, lanes: LaneCount = 1
) -> Beside:
    """Measured while the machine was half as fast as when calls were alone."""
    cell = {"rows": rows, "chunks": chunks, "decodes": decodes}
    alone = 0.01 + 0.005 * rows
    return Beside(lanes=lanes, **cell, alone=2 * alone, unet=2 * unet, vae=vae)


#: At 2 and 8 rows, whole decodes and halves, one and two of them; alone 20 and 50 ms.
GRID = [
    beside(rows, chunks, decodes, unet * (1 + 0.04 * decodes / chunks), 0.12 * decodes / chunks)
    for rows, unet in ((2, 0.02), (8, 0.05))
    for chunks in (1, 2)
    for decodes in (1, 2)
]


def latencies(chunks: int = 2, lanes: LaneCount = 1, size: Size = SIZE) -> MeasuredLatencies:
    found = profile([member(beside=GRID)]).latencies("large", size, chunks, lanes)
    assert found is not None
    return found


def test_a_call_alone_is_read_off_by_its_rows_a_lean_task_one_less() -> None:
    assert latencies().unet(2, 0, 0) == pytest.approx(0.03)
    assert latencies().unet(2, 0, 1) == pytest.approx(0.025)
    assert latencies().unet(3, 0, 0) == pytest.approx(0.04)
    assert latencies().vae(2, 0, 0) == 0.0


def test_beside_chunks_it_is_as_measured_and_between_as_on_a_line() -> None:
    assert latencies(1).unet(1, 1, 0) == pytest.approx(0.02 * 1.04)
    assert latencies(2).unet(4, 2, 0) == pytest.approx(0.05 * 1.04)
    assert latencies(2).unet(2, 1, 0) == pytest.approx((0.02 * 2 + 0.05) / 3 * 1.02)
    assert latencies(2).vae(2, 1, 0) == pytest.approx(0.06)


def test_what_was_not_measured_beside_is_taken_one_after_the_other_on_one_thread() -> None:
    assert latencies(2).unet(4, 3, 0) == pytest.approx(0.05)
    assert latencies(2).vae(4, 3, 0) == pytest.approx(0.18)


def test_two_lanes_slow_each_other_as_far_as_was_measured_and_beyond_it_is_not_known() -> None:
    assert latencies(2, lanes=2).unet(4, 1, 0) == pytest.approx(0.05)
    assert latencies(2, lanes=2).vae(4, 1, 0) == pytest.approx(0.06)
    on_two = [beside(8, 2, 1, unet=0.06, vae=0.07, lanes=2)]
    found = profile([member(beside=on_two)]).latencies("large", SIZE, 2, 2)
    assert found is not None
    assert found.unet(4, 1, 0) == pytest.approx(0.06)
    assert found.unet(4, 2, 0) is None
    assert found.vae(4, 2, 0) is None


def test_beyond_the_measured_rows_nothing_is_known() -> None:
    assert latencies().unet(5, 0, 0) is None
    assert latencies().unet(5, 1, 0) is None
    assert latencies().vae(5, 1, 0) is None


def test_another_size_is_estimated_from_its_area() -> None:
    larger = latencies(size=Size.of(128))
    assert larger.estimated
    assert not latencies().estimated
    assert larger.unet(2, 0, 0) == pytest.approx(4 * 0.03)
    assert larger.vae(2, 1, 0) == pytest.approx(4 * 0.06)
    assert profile().round_seconds("large", Size(64, 32), 4) == pytest.approx(0.015)


def test_the_nearest_size_is_what_another_one_is_estimated_from() -> None:
    two = profile([member(), member(calls={2: 1.0}, size=Size.of(128))])
    assert two.round_seconds("large", Size.of(136), 2) == pytest.approx((136 / 128) ** 2)
    assert two.round_seconds("large", SIZE, 2) == pytest.approx(0.02)


def test_of_a_member_that_was_not_measured_nothing_is_known() -> None:
    assert profile().latencies("small", SIZE, 1) is None
    assert profile().round_seconds("small", SIZE, 2) is None


def test_rows_are_best_where_every_member_is_saturated() -> None:
    flat = member("small", {rows: 0.01 * rows for rows in (1, 2, 4)})
    assert (member().best_rows, flat.best_rows) == (8, 1)
    assert profile([member(), flat]).best_rows == 8


def test_so_many_decodes_run_beside_a_call_as_leave_it_within_five_in_a_hundred() -> None:
    slow = [beside(8, 1, decodes, 0.05 * (1 + 0.02 * decodes), 0.1) for decodes in (1, 2, 4)]
    assert member(beside=slow).most_decodes(1, 1) == 2
    assert member(beside=slow).most_decodes(1, 2) == 1
    assert profile([member(beside=slow)], [decoder(pieces=1)]).most_decodes == 2


def test_one_decode_goes_on_even_beside_a_call_that_it_slows_down() -> None:
    slow = [beside(8, 1, decodes, 0.09, 0.1) for decodes in (1, 2)]
    assert member(beside=slow).most_decodes(1, 1) == 1


def test_more_chunks_are_not_searched_than_leave_the_call_as_it_is() -> None:
    fading = [beside(8, chunks, 1, 0.05 * (1 + 0.2 / chunks), 0.1, 2) for chunks in (1, 2, 4, 8)]
    assert member(beside=fading).most_chunks(2) == 4
    assert member(beside=fading).most_chunks(1) == 1


def test_on_one_thread_chunks_become_as_long_as_the_call_that_they_follow() -> None:
    # g minimises Lv / (g Lu) + (g - 1) Lu / Lv, the call 50 ms: g = Lv / Lu.
    assert profile(decoders=[decoder(0.05, 8)]).chunks(SIZE) == 1
    assert profile(decoders=[decoder(0.15, 8)]).chunks(SIZE) == 3
    assert profile(decoders=[decoder(0.15, 2)]).chunks(SIZE) == 2


def test_on_two_threads_chunks_are_chosen_by_what_was_measured() -> None:
    calls, decode = {1: 0.015}, decoder(0.024, 2)
    costly = [beside(1, 1, 1, 0.03, 0.024, 2), beside(1, 2, 1, 0.0165, 0.012, 2)]
    cheap = [beside(1, 1, 1, 0.015, 0.024, 2), beside(1, 2, 1, 0.015, 0.012, 2)]
    assert profile([member(calls=calls, beside=costly)], [decode]).chunks(SIZE, 2) == 2
    assert profile([member(calls=calls, beside=cheap)], [decode]).chunks(SIZE, 2) == 1


def test_the_member_that_wants_most_chunks_decides() -> None:
    small = member("small", {1: 0.01, 8: 0.02})
    assert profile([member(), small], [decoder(0.1, 8)]).chunks(SIZE) == 5
    assert profile([member()], [decoder(0.1, 8)]).chunks(SIZE) == 2


def test_a_later_measurement_replaces_what_it_measured_again_and_keeps_the_rest() -> None:
    older = profile([member(), member("small")], quick=True)
    newer = profile([member(calls={1: 1.0})], [], measured=2_000.0)
    both = older.merged(newer)
    assert both.round_seconds("large", SIZE, 1) == 1.0
    assert both.round_seconds("small", SIZE, 1) == pytest.approx(0.015)
    assert both.conditions == older.conditions
    assert (both.measured, both.quick, both.decoders) == (2_000.0, True, older.decoders)
    assert not older.merged(profile([member(), member("small")])).quick


@pytest.mark.parametrize("calls", [{}, {2: 0.0}, {2: -1.0}, {0: 1.0}, {4: 1.0, 2: 1.0}])
def test_calls_are_of_ascending_rows_and_take_time(calls: dict[int, float]) -> None:
    told = [{"rows": rows, "seconds": seconds} for rows, seconds in calls.items()]
    values = member().model_dump() | {"calls": tuple(told)}
    with pytest.raises(ValidationError):
        type(member()).model_validate(values)
