"""What the scheduler chooses: in what order, within what bounds, and that nobody is forgotten."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.edge_server.engine.scheduler import (
    ENCODED,
    Limits,
    Planner,
    Queues,
    Round,
    Terms,
    Turn,
    admitted,
    decodable,
    next_round,
    unplanned,
)
from baton.edge_server.scheduling.actions import Action, Bounds
from tests.support.fake_requests import ALONE, BOTH, Branches, Chosen, FakeLoop, FakeRequest

PLENTY = Limits(active=256, rows=512)


def requests(count: int, steps: int = 1, **changes: object) -> list[FakeRequest]:
    return [FakeRequest((BOTH,) * steps, **changes) for _ in range(count)]  # type: ignore[arg-type]


def chosen_of(
    queues: Queues[FakeRequest], limits: Limits = PLENTY, turn: Turn | None = None
) -> Round[FakeRequest]:
    return next_round(queues, Terms(limits), turn or Turn())[0]


def denoised(
    ready: Sequence[FakeRequest], limits: Limits = PLENTY
) -> list[tuple[FakeRequest, int]]:
    """Who is in the next call, with how many steps."""
    chosen = chosen_of(Queues(ready=deque(ready)), limits)
    return [(request, work.steps) for request, work in chosen.denoise]


def ahead(steps: int, one_branch_from: int = 99) -> FakeRequest:
    """One whose first step can be taken with all others."""
    branches = tuple(BOTH if step < one_branch_from else ALONE for step in range(steps))
    return FakeRequest(branches, ahead=tuple(reversed(range(steps))))


def test_nothing_is_chosen_where_nobody_stands() -> None:
    assert chosen_of(Queues[FakeRequest]()).idle
    assert admitted(Queues[FakeRequest](), PLENTY) == 0


@pytest.mark.parametrize("encoded", [True, False])
def test_choosing_changes_nothing(encoded: bool) -> None:
    waiting, unencoded, ready, decoding = (requests(3) for _ in range(4))
    queues = Queues(deque(waiting), deque(unencoded), deque(ready), deque(decoding))
    assert admitted(queues, PLENTY) == 3
    first = next_round(queues, Terms(PLENTY), Turn(encoded))
    assert next_round(queues, Terms(PLENTY), Turn(encoded)) == first
    assert queues == Queues(deque(waiting), deque(unencoded), deque(ready), deque(decoding))


def kinds_of(chosen: Chosen) -> str:
    named = {"encode": chosen.encode, "denoise": chosen.denoise, "decode": chosen.decode}
    return " ".join(name for name, items in named.items() if items)


def test_one_call_encodes_between_two_that_denoise() -> None:
    queues = Queues(
        unencoded=deque(requests(20)), ready=deque(requests(1)), decoding=deque(requests(20))
    )
    kinds, turn = [], Turn()
    for _ in range(5):
        chosen, turn = next_round(queues, Terms(PLENTY), turn)
        kinds.append(kinds_of(chosen))
    assert kinds == ["encode", "denoise decode", "encode", "denoise decode", "encode"]


def test_where_nobody_is_ready_new_prompts_and_a_chunk_go_through() -> None:
    queues = Queues(unencoded=deque(requests(1)), decoding=deque(requests(2)))
    chosen = chosen_of(queues, turn=Turn(encoded=True))
    assert chosen == Round(encode=(queues.unencoded[0],), decode=(queues.decoding[0],))


def test_what_decodes_alone_goes_on_at_once_and_in_its_order() -> None:
    one, two = requests(2)
    assert chosen_of(Queues(decoding=deque([one, two]))) == Round(decode=(one,))


def test_eight_prompts_of_one_encoder_are_encoded_at_once() -> None:
    of_two = [FakeRequest(encoder="ab"[number % 2]) for number in range(24)]
    chosen = chosen_of(Queues(unencoded=deque(of_two)))
    assert chosen == Round(encode=tuple(of_two[:16:2]))
    assert len(of_two[:16:2]) == ENCODED == 8


def test_places_are_given_in_order_while_there_are_any() -> None:
    queues = Queues(deque(requests(9)), deque(requests(2)), deque(requests(3)), deque(requests(7)))
    assert [admitted(queues, Limits(active=active)) for active in (1, 5, 7, 99)] == [0, 0, 2, 9]


def test_whoever_decodes_takes_no_place() -> None:
    queues = Queues(waiting=deque(requests(1)), decoding=deque(requests(16)))
    assert admitted(queues, Limits(active=1)) == 1


def test_what_would_keep_too_much_holds_up_those_behind_it() -> None:
    kept = [60, 50, 10]
    queues = Queues(deque(FakeRequest(cache_bytes=count) for count in kept))
    assert admitted(queues, Limits(cache_bytes=100)) == 1
    queues.ready.append(queues.waiting.popleft())
    assert admitted(queues, Limits(cache_bytes=100)) == 0
    assert admitted(queues, Limits(cache_bytes=120)) == 2


def test_what_alone_keeps_too_much_goes_alone() -> None:
    queues = Queues(deque([FakeRequest(cache_bytes=101), FakeRequest(cache_bytes=0)]))
    assert admitted(queues, Limits(cache_bytes=100)) == 1
    queues.unencoded.append(queues.waiting.popleft())
    assert admitted(queues, Limits(cache_bytes=100)) == 0


def test_groups_never_share_a_call_and_the_one_served_longest_ago_has_its_turn() -> None:
    one, two = FakeRequest(group="one"), FakeRequest(group="two")
    three = FakeRequest(group="one")
    assert denoised([one, two, three]) == [(one, 1), (three, 1)]
    assert denoised([two, three, one]) == [(two, 1)]


def test_rows_bound_a_call_but_for_a_single_request() -> None:
    ready = requests(5)
    assert denoised(ready, Limits(rows=5)) == [(ready[0], 1), (ready[1], 1)]
    assert denoised(ready, Limits(rows=1)) == [(ready[0], 1)]


def test_a_row_that_is_left_over_goes_to_one_who_takes_no_more() -> None:
    first, second, last = FakeRequest((BOTH,)), FakeRequest((BOTH,)), FakeRequest((ALONE,))
    assert denoised([first, second, last], Limits(rows=3)) == [(first, 1), (last, 1)]


@pytest.mark.parametrize(
    ("row_bytes", "served"), [(0, 8), (1, 8), (100, 5), (201, 2), (500, 1), (9999, 1)]
)
def test_activations_bound_the_rows_where_they_are_known(row_bytes: int, served: int) -> None:
    ready = requests(10, row_bytes=row_bytes)
    assert len(denoised(ready, Limits(rows=16, activation_bytes=1000))) == served


def test_steps_ahead_take_the_rows_that_nobody_waits_for() -> None:
    deep, other = ahead(5), FakeRequest((BOTH,))
    assert denoised([deep], Limits(rows=16)) == [(deep, 5)]
    assert denoised([deep], Limits(rows=7)) == [(deep, 3)]
    assert denoised([deep, other], Limits(rows=8)) == [(deep, 3), (other, 1)]
    assert denoised([deep, other], Limits(rows=4)) == [(deep, 1), (other, 1)]


def test_steps_ahead_are_shared_out_in_turn() -> None:
    one, two = ahead(5), ahead(5)
    assert denoised([one, two], Limits(rows=10)) == [(one, 3), (two, 2)]
    short = ahead(2)
    assert denoised([one, short], Limits(rows=14)) == [(one, 5), (short, 2)]


def test_steps_ahead_yield_their_rows_while_anybody_of_the_group_waits() -> None:
    ready = [ahead(5), *requests(3)]
    assert denoised(ready, Limits(rows=7)) == [(request, 1) for request in ready[:3]]
    stranger = FakeRequest(group="other")
    assert denoised([ready[0], stranger], Limits(rows=16)) == [(ready[0], 5)]


def test_a_step_ahead_of_one_branch_fits_into_one_row() -> None:
    deep = ahead(5, one_branch_from=2)
    assert denoised([deep], Limits(rows=6)) == [(deep, 4)]


def test_decodings_begin_while_all_together_have_room() -> None:
    line = requests(4, decode_bytes=30)
    assert decodable(line, Limits(activation_bytes=100)) == line[:3]
    assert decodable(line, Limits(activation_bytes=120)) == line
    assert decodable(line, Limits(activation_bytes=120), beside=40) == line[:2]
    assert decodable([], Limits()) == []


def test_one_decoding_always_goes_on_and_all_that_have_begun() -> None:
    line = requests(4, decode_bytes=30)
    assert decodable(line, Limits(activation_bytes=10)) == line[:1]
    line[0].decoded = line[1].decoded = 1
    assert decodable(line, Limits(activation_bytes=10)) == line[:2]
    assert decodable(line, Limits(activation_bytes=90)) == line[:3]


def test_no_decoding_overtakes_one_that_finds_no_room() -> None:
    line = [FakeRequest(decode_bytes=count) for count in (30, 80, 10)]
    assert decodable(line, Limits(activation_bytes=100)) == line[:1]


def test_a_batch_has_the_room_that_decodings_leave_and_others_begin_in_what_it_leaves() -> None:
    queues = Queues(
        ready=deque(requests(9, row_bytes=10)), decoding=deque(requests(4, decode_bytes=50))
    )
    for begun, room, served, chunks in ((0, 150, 5, 1), (0, 280, 9, 2), (2, 150, 2, 2)):
        for item in list(queues.decoding)[:begun]:
            item.decoded = 1
        chosen = chosen_of(queues, Limits(active=16, rows=64, activation_bytes=room))
        assert (len(chosen.denoise), len(chosen.decode)) == (served, chunks)


def test_rows_ahead_and_decodings_that_begin_do_not_take_the_same_room() -> None:
    deep = ahead(5)
    deep.row_bytes = 10
    queues = Queues(ready=deque([deep]), decoding=deque(requests(3, decode_bytes=20)))
    chosen = chosen_of(queues, Limits(activation_bytes=140))
    assert [(work.rows, len(chosen.decode)) for _, work in chosen.denoise] == [(10, 2)]


def test_whoever_is_removed_stands_in_no_line() -> None:
    waiting, unencoded, ready, decoding = (deque(requests(2)) for _ in range(4))
    queues = Queues(waiting, unencoded, ready, decoding)
    for line in (waiting, unencoded, ready, decoding):
        queues.remove(line[0])
        queues.remove(FakeRequest())
    assert [len(line) for line in (waiting, unencoded, ready, decoding)] == [1, 1, 1, 1]


def planned(*actions: Action) -> Planner:
    """A plan of these rounds, whoever asks."""
    return lambda pace, bounds, unet, vae, lean: actions


def rounds_of(queues: Queues[FakeRequest], plan: Planner, count: int) -> list[tuple[int, int]]:
    """By round, requests that take a step and chunks; everybody stays where they are."""
    found, turn = [], Turn()
    for _ in range(count):
        chosen, turn = next_round(queues, Terms(PLENTY, plan), turn)
        found.append((len(chosen.denoise), len(chosen.decode)))
    return found


def test_a_plan_says_how_many_take_a_step_and_a_chunk_round_by_round() -> None:
    queues = Queues(ready=deque(requests(6)), decoding=deque(requests(4)))
    plan = planned(Action(1, 1, 0), Action(5, 2, 0), Action(0, 1, 0))
    assert rounds_of(queues, plan, 5) == [(1, 1), (5, 2), (0, 1), (1, 1), (5, 2)]


def test_a_plan_is_asked_for_anew_when_somebody_comes_or_ends() -> None:
    asked = list[tuple[int, int, int]]()

    def plan(pace: object, bounds: Bounds, unet: int, vae: int, lean: int) -> tuple[Action, ...]:
        asked.append((unet, vae, lean))
        return (Action(1, 1, 0),) * unet

    queues = Queues(ready=deque(requests(6)), decoding=deque(requests(2)))
    terms = Terms(PLENTY, plan)
    _, turn = next_round(queues, terms, Turn())
    _, turn = next_round(queues, terms, turn)
    assert asked == [(6, 2, 0)]
    queues.ready.append(FakeRequest())
    _, turn = next_round(queues, terms, turn)
    queues.decoding.popleft()
    _, turn = next_round(queues, terms, turn)
    next_round(queues, terms, turn)
    assert asked == [(6, 2, 0), (7, 2, 0), (7, 1, 0)]


def test_without_a_plan_a_round_has_all_and_says_so() -> None:
    queues = Queues(ready=deque(requests(3)), decoding=deque(requests(2)))
    chosen = chosen_of(queues)
    assert (len(chosen.denoise), len(chosen.decode), chosen.planned) == (3, 2, False)
    terms = Terms(PLENTY, planned(Action(3, 1, 0)))
    assert next_round(queues, terms, Turn())[0].planned


def test_those_furthest_in_leave_guidance_out_and_leave_their_rows_to_others() -> None:
    far, further, near = (FakeRequest((BOTH,) * 8, step=step, lean_from=4) for step in (5, 7, 2))
    queues = Queues(ready=deque([far, near, further]))
    terms = Terms(Limits(rows=5), planned(Action(3, 0, 1)))
    chosen, turn = next_round(queues, terms, Turn())
    taken = [(request, work.rows) for request, work in chosen.denoise]
    assert taken == [(far, 2), (near, 2), (further, 1)]
    assert chosen.skipped == 1
    assert not turn.rounds["large"].left  # who skipped may not skip again: a new plan


def test_of_steps_taken_together_every_row_that_is_left_out_counts() -> None:
    """Also where fewer of them are taken than could be."""
    deep = ahead(4)
    lean = replace(deep.due, guidance=("both", "positive", "positive", "positive"))
    assert [Round(denoise=((deep, lean.first(n)),)).skipped for n in (1, 2, 4)] == [0, 1, 3]
    assert Round(denoise=((deep, deep.due.first(2)),)).skipped == 0


def test_a_plan_that_leaves_some_waiting_decodes_nothing_ahead() -> None:
    deep, other = ahead(5), ahead(5)
    terms = Terms(PLENTY, planned(Action(1, 0, 0), Action(1, 0, 0)))
    chosen, _ = next_round(Queues(ready=deque([deep, other])), terms, Turn())
    assert [(request, work.steps) for request, work in chosen.denoise] == [(deep, 1)]


class WatchedLoop(FakeLoop):
    """Checks every round that it runs, and when each request's turn is at the latest.

    Ready requests are served before all that came after them: a request's turn comes within as many
    calls that denoise as stood before it, and one; likewise with the encoder. Whoever is being
    decoded has a chunk within as many rounds as a plan has, of each group that is ready.
    """

    def __init__(
        self, limits: Limits, waiting: Sequence[FakeRequest], plan: Planner = unplanned
    ) -> None:
        super().__init__(limits, waiting, plan)
        self._encoded = 0
        self._turns: dict[tuple[str, FakeRequest], int] = {}
        self._calls = Counter[str]()

    def run(self, chosen: Chosen) -> None:
        ready, unencoded = list(self.queues.ready), list(self.queues.unencoded)
        decoding = list(self.queues.decoding)
        self._check_turns("denoise", ready)
        self._check_turns("encode", unencoded)
        begun = [request for request in decoding if request.decode_begun]
        assert begun == decoding[: len(begun)]
        self._check_room(chosen, {*begun, *chosen.decode})
        super().run(chosen)
        served = [request for request, _ in chosen.denoise]
        for kind, items in (("denoise", served), ("encode", chosen.encode)):
            self._calls[kind] += bool(items)
            for request in items:
                del self._turns[kind, request]
        if chosen.denoise:
            self._check_rows(chosen)
            self._encoded = 0
            assert served[0] is ready[0]
        if chosen.encode:
            self._encoded += 1
            assert not ready or self._encoded <= 1
            assert chosen.encode[0] is unencoded[0]
            assert len(chosen.encode) <= ENCODED
            assert len({request.encoder for request in chosen.encode}) == 1
        assert list(chosen.decode) == decoding[: len(chosen.decode)]

    def _check_turns(self, kind: str, line: Sequence[FakeRequest]) -> None:
        for before, request in enumerate(line):
            turn = self._turns.setdefault((kind, request), self._calls[kind] + before)
            assert self._calls[kind] <= turn

    def _check_room(self, chosen: Chosen, begun: Collection[FakeRequest]) -> None:
        """Only a single decoding, or a single step, may take more than there is."""
        works = [work for _, work in chosen.denoise]
        row_bytes = chosen.denoise[0][0].row_bytes if works else 0
        taken = sum(work.rows for work in works) * row_bytes
        taken += sum(request.decode_bytes for request in begun)
        one_step = len(works) == 1 and works[0].steps == 1
        alone = not row_bytes and len(begun) <= 1
        assert taken <= self.limits.activation_bytes or one_step or alone

    def _check_rows(self, chosen: Chosen) -> None:
        works = [work for _, work in chosen.denoise]
        assert len({work.group for work in works}) == 1
        rows, row_bytes = sum(work.rows for work in works), chosen.denoise[0][0].row_bytes
        most = self.limits.rows
        if row_bytes:
            most = min(most, self.limits.activation_bytes // row_bytes)
        assert rows <= most or (len(works) == 1 and works[0].steps == 1)


@st.composite
def fake_requests(draw: st.DrawFn) -> FakeRequest:
    steps = draw(st.integers(1, 9))
    branches: tuple[Branches, ...] = tuple(
        draw(st.lists(st.sampled_from((BOTH, ALONE)), min_size=steps, max_size=steps))
    )
    depth = draw(st.integers(0, 5))
    group = draw(st.sampled_from("abc"))
    return FakeRequest(
        branches,
        group,
        tuple(min(depth, steps - 1 - step) for step in range(steps)),
        cache_bytes=draw(st.integers(0, 150)),
        row_bytes=ord(group) % 3 * 30,
        decode_bytes=draw(st.integers(0, 150)),
        encoder=group in "ab",
        encodings=frozenset({0, draw(st.integers(0, 9))}),
        chunks=draw(st.integers(0, 3)),
        lean_from=draw(st.integers(0, 9)),
    )


LIMITS = st.builds(
    Limits,
    active=st.integers(1, 9),
    rows=st.integers(2, 20),
    cache_bytes=st.integers(0, 400),
    activation_bytes=st.integers(1, 400),
)


@st.composite
def plans(draw: st.DrawFn) -> Planner:
    """Rounds that take a step of each once, and a chunk of each; sometimes none is known."""
    chance = draw(st.randoms(use_true_random=False))

    def plan(
        pace: object, bounds: Bounds, unet: int, vae: int, lean: int
    ) -> tuple[Action, ...] | None:
        if chance.random() < 0.2:
            return None
        actions = []
        while unet or vae:
            u = chance.randint(1, unet) if unet else 0
            v = chance.randint(0 if u else 1, vae) if vae else 0
            s = chance.randint(0, min(u, lean))
            actions.append(Action(u, v, s))
            unet, vae, lean = unet - u, vae - v, lean - s
        return tuple(actions)

    return plan


@given(st.lists(st.lists(fake_requests(), max_size=6), max_size=8), LIMITS, plans())
def test_whatever_arrives_when_and_whatever_is_planned_all_end_and_each_is_served_in_its_turn(
    arrivals: list[list[FakeRequest]], limits: Limits, plan: Planner
) -> None:
    """Some arrive at once, and more after every few rounds."""
    loop = WatchedLoop(limits, [], plan)
    for arriving in arrivals:
        loop.queues.waiting.extend(arriving)
        for _ in range(3):
            if (chosen := loop.choose()) is not None:
                loop.run(chosen)
                held = [*loop.queues.unencoded, *loop.queues.ready]
                assert len(held) <= limits.active
                kept = sum(request.cache_bytes for request in held)
                assert kept <= limits.cache_bytes or len(held) <= 1
    loop.to_the_end()
    everybody = [request for arriving in arrivals for request in arriving]
    assert Counter(loop.ended) == Counter(everybody)
    for request in everybody:
        assert sum(request.taken) == len(request.branches)
        assert request.decoded == request.chunks
        assert all(step >= request.lean_from for step in request.skipped)


def test_requests_that_take_as_long_end_in_the_order_in_which_they_came() -> None:
    of_two = [FakeRequest((BOTH,) * 6, "ab"[number % 2]) for number in range(40)]
    loop = FakeLoop(Limits(active=10, rows=6), of_two)
    loop.to_the_end()
    for group in "ab":
        assert [r for r in loop.ended if r.group == group] == [
            r for r in of_two if r.group == group
        ]


def test_eight_requests_that_decode_ahead_need_no_more_calls_than_their_rows_do() -> None:
    """At two rows a step each they fill a call of 16 rows without any step ahead."""
    loop = FakeLoop(Limits(rows=16), [ahead(20) for _ in range(8)])
    kinds = []
    while (chosen := loop.choose()) is not None:
        kinds.append(kinds_of(chosen))
        loop.run(chosen)
    assert [kind for kind, _ in groupby(kinds)] == ["encode", "denoise"]
    assert kinds.count("denoise") == 20


def test_thousands_of_requests_run_to_their_end() -> None:
    count = 3000
    many = [
        FakeRequest((BOTH if number % 3 else ALONE,) * 5, number % 2, chunks=number % 4)
        for number in range(count)
    ]
    loop = WatchedLoop(Limits(), many)
    loop.to_the_end()
    assert len(loop.ended) == count
