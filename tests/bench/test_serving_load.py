"""The load that every system gets, and what is made of what came back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from baton.common.families.registry import find_prompts
from baton.common.quality.verifier import Quality
from tests.bench.serving import figures
from tests.bench.serving.closed import Loop, loop_of
from tests.bench.serving.driver import Measured, Outcome
from tests.bench.serving.keep import Kept
from tests.bench.serving.metrics import (
    Judge,
    Judged,
    Slice,
    occupancy,
    psnr,
    rates,
    row_of,
    skipped_share,
    straw,
)
from tests.bench.serving.pipelines import Waiting, leaving
from tests.bench.serving.plots import skipped, through_burst
from tests.bench.serving.systems import SPAN, Answer, CallLog, merged
from tests.bench.serving.trace import (
    BURST_BEGIN,
    BURST_END,
    STEPS,
    Mix,
    Request,
    Trace,
    burst,
    load,
    make_trace,
    save,
)

ALONE = {(20, 32): 0.1}


def _trace(count: int = 400, seed: int = 1) -> Trace:
    prompts = find_prompts("scenes")
    assert prompts is not None
    return make_trace(prompts, count, seed)


def _request(index: int = 0, steps: int = 20, side: int = 32) -> Request:
    return Request(index, 0.0, "a red cat", index, steps, side)


def test_a_longer_trace_begins_with_the_shorter_one() -> None:
    assert _trace(60).requests == _trace(90).requests[:60]


def test_another_seed_asks_for_something_else() -> None:
    one, two = _trace(20, 1), _trace(20, 2)
    assert {item.prompt for item in one.requests} != {item.prompt for item in two.requests}
    assert {item.seed for item in one.requests}.isdisjoint(item.seed for item in two.requests)


def test_a_trace_has_all_kinds_of_requests_in_their_shares() -> None:
    requests = _trace(2000).requests
    sides = [item.side for item in requests]
    assert set(sides) == {side for side, _ in Mix().sides}
    assert sides.count(32) / len(sides) == pytest.approx(0.75, abs=0.04)
    assert {item.steps for item in requests} == set(STEPS)


def test_a_saved_trace_is_the_same_trace(tmp_path: Path) -> None:
    traces = [_trace(5, 1), _trace(5, 2)]
    save(traces, tmp_path / "trace.json")
    assert load(tmp_path / "trace.json") == traces


def test_a_rate_stretches_the_arrivals_and_keeps_their_order() -> None:
    trace = _trace()
    slow, fast = trace.at(2.0, 50.0), trace.at(4.0, 50.0)
    assert [item.request for item in slow] == [item.request for item in fast][: len(slow)]
    assert [item.seconds for item in slow] == pytest.approx(
        [2 * item.seconds for item in fast][: len(slow)]
    )
    assert len(fast) == pytest.approx(200, abs=4 * 200**0.5)


def test_a_trace_that_is_too_short_for_a_load_is_refused() -> None:
    with pytest.raises(ValueError, match="fewer"):
        _trace(50).at(2.0, 50.0)


def test_half_of_a_burst_comes_within_a_twentieth_of_the_time() -> None:
    arrivals = _trace(1300).at(10.0, 100.0, burst)
    inside = [a for a in arrivals if 100 * BURST_BEGIN <= a.seconds < 100 * BURST_END]
    assert pytest.approx(0.05) == BURST_END - BURST_BEGIN
    assert len(inside) / len(arrivals) == pytest.approx(0.5, abs=0.06)
    seconds = [item.seconds for item in arrivals]
    assert seconds == sorted(seconds)
    assert 0 <= seconds[0] <= seconds[-1] < 100


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.9, 1.0])
def test_a_burst_fills_the_same_time(share: float) -> None:
    assert 0 <= burst(share) <= 1
    assert burst(0.0) == 0
    assert burst(1.0) == pytest.approx(1)


def _waiting(*told: tuple[int, float]) -> list[Waiting]:
    return [Waiting(_request(place, steps), since) for place, (steps, since) in enumerate(told)]


def test_a_full_batch_of_one_shape_leaves_before_its_window_is_over() -> None:
    waiting = _waiting((20, 0.0), (30, 0.1), (30, 0.2))
    batch, left = leaving(waiting, now=0.25, most=2, window=0.5)
    assert (batch, left) == (waiting[1:], None)


def test_a_batch_leaves_when_its_first_request_has_waited_for_the_window() -> None:
    waiting = _waiting((20, 0.0), (30, 0.1), (20, 0.4))
    assert leaving(waiting, 0.3, 8, 0.5) == ([], pytest.approx(0.2))
    assert leaving(waiting, 0.5, 8, 0.5)[0] == [waiting[0], waiting[2]]


def test_serial_takes_who_came_first() -> None:
    waiting = _waiting((30, 0.0), (20, 0.0), (30, 0.0))
    assert leaving(waiting, 0.0, 1, 0.0)[0] == waiting[:1]
    assert leaving([], 0.0, 1, 0.0) == ([], None)


def _judged(due: float, finished: float | None, **told: object) -> Judged:
    return replace(Judged(0, 20, 32, due, finished, rows=40, calls=5.0), **told)  # type: ignore[arg-type]


def _slice(*requests: Judged, seconds: float = 10.0, waited: float = 12.0) -> Slice:
    return Slice(requests, seconds, waited, 6.0)


def test_latency_counts_from_the_scheduled_arrival_and_what_was_given_up_waited_to_the_end() -> (
    None
):
    row = row_of([_slice(_judged(1.0, 1.2), _judged(2.0, 5.0), _judged(4.0, None))], ALONE)
    assert row["latency_mean_s"] == pytest.approx((0.2 + 3.0 + 8.0) / 3)
    assert (row["offered"], row["done"], row["given_up"], row["refused"]) == (3, 2, 1, 0)


def test_refused_and_late_requests_are_misses() -> None:
    requests = (
        _judged(0.0, 0.29),
        _judged(0.0, 0.31),
        _judged(0.0, None),
        _judged(0.0, None, error="Overloaded"),
    )
    row = row_of([_slice(*requests)], ALONE)
    assert row["good_share"] == 0.25
    assert row["goodput_per_s"] == pytest.approx(0.1)
    assert (row["given_up"], row["refused"]) == (1, 1)


def test_what_comes_after_the_load_is_no_throughput_of_it() -> None:
    row = row_of([_slice(_judged(0.0, 9.0), _judged(0.0, 11.0))], ALONE)
    assert row["throughput_per_s"] == pytest.approx(0.1)


@pytest.mark.parametrize(("count", "told"), [(999, False), (1000, True)])
def test_a_99th_percentile_takes_a_thousand_requests(count: int, told: bool) -> None:
    row = row_of([_slice(*(_judged(0.0, 0.1) for _ in range(count)))], ALONE)
    assert (row["latency_p99_s"] is not None) is told


def test_occupancy_is_rows_of_a_call_over_the_most() -> None:
    assert occupancy([_judged(0.0, 0.1)]) == pytest.approx(40 / 5 / 16)
    assert occupancy([]) is None


def test_skipped_steps_are_those_without_both_branches() -> None:
    assert skipped_share([_judged(0, 1, pattern="bbrp"), _judged(0, 1, pattern="bbbb")]) == 0.25


def test_a_slice_survives_being_kept() -> None:
    whole = replace(_slice(_judged(0.0, 1.0), _judged(1.0, None)), series=({"t": 0.0},))
    assert Slice.of(whole.as_dict()) == whole


def test_pictures_are_scored_and_held_against_their_references() -> None:
    picture = np.full((32, 32, 3), 100, np.uint8)
    near = picture.copy()
    near[0, 0, 0] += 10
    answer = Answer(near, "b" * 20, 40, 5.0)
    outcomes = [
        Outcome(_request(0), 0.0, 1.0, answer),
        Outcome(_request(1, side=64), 0.0, 1.0, answer),
        Outcome(_request(2), 0.0),
    ]
    judge = Judge(lambda picture, prompt: Quality(0.5, False, {}), 32, {0: picture})
    found = judge.slice(Measured(outcomes, 1.0, 1.0, 0.5)).requests
    assert [one.graded for one in found] == [0.5, None, None]
    assert [one.psnr_db is None for one in found] == [False, True, True]
    assert psnr(picture, picture) == 99.0
    assert psnr(near, picture) == pytest.approx(10 * np.log10(255**2 / (100 / near.size)))


def test_a_thread_that_waits_between_its_calls_is_of_straw() -> None:
    busy = {"a": [1.0, 1.0, 1.2], "b": [2.0], SPAN: [10.0, 15.4]}
    assert straw(busy) == pytest.approx(5.2 / 5.4)
    idle = busy | {SPAN: [10.0, 20.0]}
    assert straw(idle) == pytest.approx(0.52)
    assert straw({}) is None
    found = figures.straws({"busy": [_loop(1, 0.96)], "idle": [_loop(1, 0.5)], "baton": [_loop(1)]})
    assert figures.of_straw(found) == ["idle"]


def test_calls_are_told_once_with_their_span() -> None:
    log = CallLog()
    for shape in (1, 2, 1):
        with log.timed(shape):
            pass
    told = log.told()
    assert {shape: len(took) for shape, took in told.items()} == {"1": 2, "2": 1, SPAN: 2}
    assert told[SPAN][0] <= told[SPAN][1]
    assert log.told() == {}


def test_logs_of_one_thread_are_merged_over_their_whole_span() -> None:
    parts = [{"a": [1.0], SPAN: [0.0, 1.0]}, {"a": [2.0], "b": [1.0], SPAN: [3.0, 6.0]}]
    assert merged(parts) == {"a": [1.0, 2.0], "b": [1.0], SPAN: [0.0, 6.0]}
    assert merged([]) == {}


def test_steps_of_pictures_that_are_not_done_count_in_a_closed_loop() -> None:
    answer = Answer(None, "b" * 20, 40, 5.0)
    outcomes = [Outcome(_request(0), 0.0, 1.0, answer), Outcome(_request(1), 0.0)]
    steps = 32 * 32 * 20
    looks = [{"t": float(at), "pixel_steps": at * 3 * steps} for at in range(9)]
    found = loop_of(Measured(outcomes, 8.0, 8.0, 0.5, looks))
    assert (found.pace, found.rows) == (pytest.approx(3.0), 40)
    with pytest.raises(RuntimeError, match="nothing can be said"):
        loop_of(Measured(outcomes[1:], 8.0, 8.0, 0.5, looks))


def _loop(pace: float, straw: float | None = None, rows: float = 70.0) -> Loop:
    return Loop(pace, straw, rows, 1.0)


def test_what_skipping_saves_is_held_against_the_rows_that_it_leaves_out() -> None:
    full, lean = [_loop(8.0)] * 3, [_loop(10.0, rows=52.5)] * 3
    saved = figures.skip_saving({"lean": lean, "full": full}, "lean", "full")
    assert saved.median == pytest.approx((1 - 8 / 10) / (1 - 52.5 / 70))


def test_a_gain_is_a_share_of_the_bare_one_of_its_own_round() -> None:
    loops = {"baton": [_loop(6.0), _loop(9.0)], "diffusers": [_loop(2.0), _loop(3.0)]}
    share = figures.share_of_bare(loops, "baton", "diffusers", [3.0, 4.0])
    assert share.median == pytest.approx((1 + 3 / 4) / 2)


def test_planned_rounds_are_counted_between_the_first_look_and_the_last() -> None:
    looks = ({"t": 0.0, "planned": 5.0, "greedy": 5.0}, {"t": 1.0, "planned": 95.0, "greedy": 15.0})
    assert figures.planned_share([replace(_slice(), series=looks)]) == pytest.approx(0.9)
    assert figures.planned_share([_slice()]) is None


SERIES = (
    {"t": 0.0, "waiting": 0, "rows": 0, "full_rows": 0, "skip_after": 1.0, "chunks": 1},
    {"t": 2.0, "waiting": 9, "rows": 100, "full_rows": 100, "skip_after": 0.5, "chunks": 2},
    {"t": 3.0, "waiting": 4, "rows": 175, "full_rows": 200, "skip_after": 0.5, "chunks": 2},
)


def test_a_series_tells_rates_and_the_share_of_skipped_rows() -> None:
    assert rates(SERIES, "rows") == [None, 50.0, 75.0]
    assert skipped(SERIES) == [None, 0.0, 0.25]
    assert skipped(({"t": 0.0},)) == [None]


def test_a_burst_is_plotted_with_systems_that_tell_less(tmp_path: Path) -> None:
    plain = replace(_slice(), series=({"t": 0.0, "waiting": 1, "rows": 0},))
    through_burst(
        {"baton": replace(_slice(), series=SERIES), "direct": plain}, tmp_path / "burst.png"
    )
    assert (tmp_path / "burst.png").stat().st_size > 10_000


def test_a_broken_run_goes_on_from_what_was_kept(tmp_path: Path) -> None:
    kept, made = Kept(tmp_path), list[int]()

    def make() -> dict[str, int]:
        made.append(1)
        return {"value": len(made)}

    assert kept("point", make) == kept("point", make) == Kept(tmp_path)("point", make)
    assert kept("another", make) == {"value": 2}
    assert Kept(None)("point", make) == {"value": 3}
