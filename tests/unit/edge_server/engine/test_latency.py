"""The measured pace of the model thread, and what it foretells."""

from __future__ import annotations

import pytest

from baton.common.plan import Plan
from baton.common.size import Size
from baton.edge_server.engine.latency import Forecast, LatencyModel, Pace, RemainingWork, rows_of
from tests.support.families import NAME, SIZE
from tests.support.tasks import plan, plan_in


def model_of(*rounds: tuple[int, float], now: float = 0.0) -> LatencyModel:
    model = LatencyModel()
    for rows, seconds in rounds:
        model = model.after(rows, seconds, now)
    return model


LINE = model_of(*[(rows, 0.01 + 0.002 * rows) for rows in (2, 16, 4, 8, 2)])
FLAT = model_of((2, 0.1))
LARGE, SMALL = (Pace(member, Size.of(SIZE)) for member in ("large", "small"))


def left(of: Plan, done: int, stop: int) -> RemainingWork:
    return RemainingWork.between(of, (done, stop), Size.of(SIZE), rows_of(of))[0]


def test_a_line_over_the_rows_is_found() -> None:
    for rows in (1, 2, 7, 16, 32):
        assert LINE.round_seconds(rows) == pytest.approx(0.01 + 0.002 * rows)


def test_with_one_size_seen_a_round_costs_the_same_at_any() -> None:
    model = model_of((4, 0.02), (4, 0.04), (4, 0.03))
    assert model.round_seconds(16) == model.round_seconds(4) == pytest.approx(0.03, rel=0.05)


def test_the_line_never_falls_and_never_passes_below_zero() -> None:
    falling = model_of((2, 0.05), (16, 0.01))
    assert falling.round_seconds(16) == falling.round_seconds(2) > 0
    steep = model_of((2, 0.001), (16, 0.1))
    assert 0 <= steep.round_seconds(1) < steep.round_seconds(16)


def test_the_newest_rounds_count_most() -> None:
    slow_then_fast = model_of((2, 10.0), *[(2, 0.01)] * 60)
    assert slow_then_fast.round_seconds(2) < 0.05


def test_a_stall_hardly_counts_and_a_lasting_change_does() -> None:
    steady = model_of(*[(2, 0.01)] * 20)
    assert steady.after(2, 60.0, 0.0).round_seconds(2) < 0.02
    slower = model_of(*[(2, 0.01)] * 20, *[(2, 0.5)] * 20)
    assert slower.round_seconds(2) > 0.3


def test_a_pace_grows_old() -> None:
    assert model_of((2, 1.0), now=100.0).fresh(104.9)
    assert not model_of((2, 1.0), now=100.0).fresh(105.0)
    assert not LatencyModel().fresh(0.0)


SEED = LatencyModel.of([(rows, 0.01 + 0.002 * rows) for rows in (1, 2, 4, 8, 16)])


def test_what_was_measured_ahead_is_a_line_from_the_first_request_on() -> None:
    assert SEED.seeded
    assert SEED.round_seconds(6) == pytest.approx(0.022)
    assert Forecast({LARGE: SEED}, 4, 8).knows([RemainingWork(LARGE, 2, 3)], now=1e6)
    assert LatencyModel.of([(4, 0.3)]).round_seconds(8) == pytest.approx(0.3)


def test_fresh_rounds_are_blended_with_what_was_measured_ahead() -> None:
    once = SEED.after(4, 0.036, now=0.0)
    assert 0.018 < once.at(0.0).round_seconds(4) < 0.036
    model = SEED
    for _ in range(60):
        model = model.after(4, 0.036, now=0.0)
    assert model.at(0.0).round_seconds(4) == pytest.approx(0.036, rel=0.01)


def test_once_its_rounds_are_old_it_is_what_was_measured_ahead() -> None:
    slowed = SEED.after(4, 0.05, now=0.0).after(4, 0.05, now=0.0)
    assert slowed.at(100.0) == SEED
    assert slowed.at(100.0).seeded
    assert FLAT.at(1e6) == FLAT


def test_remaining_work_is_what_is_left_of_the_edges_part() -> None:
    of = plan("edge/large@0.5>device/small", 8).closed()
    assert left(of, 0, 4) == RemainingWork(LARGE, 2, 4)
    assert left(of, 3, 4) == RemainingWork(LARGE, 2, 1)
    assert left(of, 4, 4).steps == 0
    assert left(plan("edge/small", 8, guidance=1.0).closed(), 2, 8) == RemainingWork(SMALL, 1, 6)
    mixed = plan_in(NAME, "ddim", 3.0, ("large", "edge", 0, 2), ("small", "edge", 2, 4)).closed()
    assert left(mixed, 3, 4) == RemainingWork(SMALL, 2, 1)


def forecast(active: int = 4, rows: int = 8, model: LatencyModel = FLAT) -> Forecast:
    return Forecast({LARGE: model, SMALL: model}, active, rows)


def test_alone_a_request_takes_its_steps() -> None:
    assert forecast().seconds([RemainingWork(LARGE, 2, 20)]) == pytest.approx(2.0)


def test_those_that_fit_one_call_take_no_longer_together() -> None:
    assert forecast().seconds([RemainingWork(LARGE, 2, 20)] * 4) == pytest.approx(2.0)


def test_what_does_not_fit_one_call_takes_turns() -> None:
    assert forecast(rows=4).seconds([RemainingWork(LARGE, 2, 20)] * 4) == pytest.approx(4.0)


def test_members_do_not_share_calls() -> None:
    both = [RemainingWork(LARGE, 2, 20), RemainingWork(SMALL, 2, 20)]
    assert forecast().seconds(both) == pytest.approx(4.0)


def test_who_waits_begins_when_the_first_has_ended() -> None:
    running = [RemainingWork(LARGE, 2, 5), RemainingWork(LARGE, 2, 30)]
    assert forecast(active=2).seconds([*running, RemainingWork(LARGE, 2, 10)]) == pytest.approx(1.5)
    assert forecast(active=2).seconds([*running, *running]) == pytest.approx(4.0)


def test_the_last_of_the_works_is_asked_after_not_the_longest() -> None:
    assert forecast().seconds(
        [RemainingWork(LARGE, 2, 90), RemainingWork(LARGE, 2, 3)]
    ) == pytest.approx(0.3)


def test_a_limit_ends_the_reckoning_early() -> None:
    many = [RemainingWork(LARGE, 2, 10)] * 1000
    found = forecast().seconds(many, limit=2.0)
    assert 2.0 < found < 4.0
    assert forecast().seconds(many) == pytest.approx(250 * 1.0)


def test_a_member_that_was_never_or_long_ago_measured_is_not_known() -> None:
    known = Forecast({LARGE: FLAT}, 4, 8)
    assert known.knows([RemainingWork(LARGE, 2, 3)], now=1.0)
    assert not known.knows([RemainingWork(LARGE, 2, 3)], now=1000.0)
    assert not known.knows([RemainingWork(LARGE, 2, 3), RemainingWork(SMALL, 2, 3)], now=1.0)


def test_how_a_round_grows_is_not_forgotten_while_all_have_the_same_load() -> None:
    model = LINE
    for _ in range(40):
        model = model.after(8, 0.026, 0.0)
    assert model.round_seconds(16) == pytest.approx(0.042, rel=0.02)
    for _ in range(40):
        model = model.after(8, 0.052, 0.0)
    assert model.round_seconds(16) == pytest.approx(0.084, rel=0.1)


DECODING, ENCODING = Pace.decoding(Size.of(SIZE)), Pace.encoding("large")


def with_others(active: int = 4, rows: int = 8) -> Forecast:
    """A tenth of a second a round, half of one to encode, two parts of 0.3 s to decode."""
    latency = {LARGE: FLAT, SMALL: FLAT}
    others = {ENCODING: model_of((1, 0.5)), DECODING: model_of((2, 0.6))}
    return Forecast(latency | others, active, rows)


def drawn(steps: int = 10) -> RemainingWork:
    return RemainingWork(LARGE, 2, steps, decodes=Size.of(SIZE))


def test_prompts_are_encoded_first_which_keeps_everybody() -> None:
    fresh = RemainingWork(LARGE, 2, 10, unencoded=True)
    assert with_others().ends([RemainingWork(LARGE, 2, 10), fresh]) == pytest.approx([1.5, 1.5])


def test_a_picture_is_decoded_after_its_steps_beside_those_of_others() -> None:
    assert with_others().ends([drawn()]) == pytest.approx([1.6])
    found = with_others().ends([drawn(), RemainingWork(LARGE, 2, 20)])
    assert found == pytest.approx([1.8, 2.6])


def test_whoever_is_only_decoded_holds_no_place() -> None:
    found = with_others(active=1).ends([drawn(0), RemainingWork(LARGE, 2, 3)])
    assert found == pytest.approx([0.8, 0.9])


def test_another_member_goes_on_in_the_same_place_once_its_prompts_are_encoded() -> None:
    of = plan_in(NAME, "ddim", 3.0, ("small", "edge", 0, 2), ("large", "edge", 2, 6)).closed()
    work = left(of, 0, 6)
    assert work.then == RemainingWork(LARGE, 2, 4, unencoded=True)
    assert (work.calls, work.load, work.paces()) == (6, 12, {LARGE, SMALL})
    waits = RemainingWork(LARGE, 2, 1)
    assert with_others(active=1).ends([work, waits]) == pytest.approx([1.1, 1.2])


def test_what_was_never_measured_takes_no_time_and_what_is_old_is_named() -> None:
    some = Forecast({LARGE: model_of((2, 0.1), now=100.0)}, 4, 8)
    assert some.ends([RemainingWork(SMALL, 2, 9)]) == [0.0]
    assert some.ends([RemainingWork(SMALL, 2, 9), RemainingWork(LARGE, 2, 3)])[1] > 0.2
    assert some.old(RemainingWork(LARGE, 2, 3), now=100.9) == set()
    assert some.old(RemainingWork(LARGE, 2, 3), now=101.1) == {LARGE}
    assert some.old(RemainingWork(SMALL, 2, 3), now=105.0) == set()
    assert Forecast({LARGE: SEED}, 4, 8).old(RemainingWork(LARGE, 2, 3), now=1e9) == set()
