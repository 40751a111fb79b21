"""In which order callers' requests get their places, and that each of them gets one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from baton.edge_server.engine.scheduler import Limits
from baton.edge_server.requests.turns import LEVEL, MAX_PRIORITY, Turn, Turns
from tests.support.fake_requests import ALONE, BOTH, FakeLoop, FakeRequest


@dataclass(eq=False)
class Asked(FakeRequest):
    """work: by caller, of those that got a place while it waited, in that order."""

    of: Turn = field(default_factory=Turn)
    cost: float = 0.0
    priority: int = 0
    passed: dict[str, list[float]] = field(default_factory=dict)


class Line(FakeLoop):
    """An engine's loop over requests that come with turns. placed: in the order of their places."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self.turns = Turns()
        self.placed: list[Asked] = []

    def ask(self, caller: str, cost: float, priority: int = 0, **fields: object) -> None:
        turn = self.turns.next(caller, cost, priority)
        self.queues.wait(
            Asked(turn=turn.key, of=turn, cost=cost, priority=priority, **fields)  # type: ignore[arg-type]
        )
        self.turns.wait(turn)

    def choose(self):  # type: ignore[no-untyped-def]
        before: list[Asked] = list(self.queues.waiting)  # type: ignore[arg-type]
        chosen = super().choose()
        for request in before[: len(before) - len(self.queues.waiting)]:
            self.turns.place(request.of)
            self.placed.append(request)
            for other in self.queues.waiting:
                assert isinstance(other, Asked)
                other.passed.setdefault(request.of.caller, []).append(request.cost)
        return chosen


def served(line: Line) -> str:
    """By place, the caller."""
    line.to_the_end()
    return "".join(request.of.caller for request in line.placed)


def test_of_one_caller_who_came_first_goes_first() -> None:
    line = Line(Limits(active=1))
    for cost in (30, 10, 20):
        line.ask("a", cost)
    line.to_the_end()
    assert [request.cost for request in line.placed] == [30, 10, 20]


def test_who_comes_to_a_long_line_of_another_goes_next_and_then_in_turn() -> None:
    line = Line(Limits(active=1))
    for _ in range(6):
        line.ask("f", 10)
    line.choose()
    for _ in range(3):
        line.ask("m", 10)
    assert served(line) == "f" + "mfmfmf" + "ff"


def test_callers_who_always_wait_get_equal_work_not_equally_many_places() -> None:
    line = Line(Limits(active=1))
    for _ in range(4):
        line.ask("l", 40)
    for _ in range(16):
        line.ask("s", 10)
    order = served(line)
    for count in range(1, 4):
        upto = order[: order.index("l", order.replace("l", ".", count - 1).index("l")) + 1]
        assert upto.count("s") in range(4 * (count - 1), 4 * count + 1)


def test_a_higher_priority_goes_first_however_many_wait_and_for_so_much_work_only() -> None:
    line = Line(Limits(active=1))
    for _ in range(3):
        line.ask("f", LEVEL / 8)
    for _ in range(20):
        line.ask("v", LEVEL / 8, priority=1)
    assert served(line).startswith("v" * 8 + "fvfvfv")


def test_what_left_without_a_place_is_not_owed() -> None:
    turns = Turns()
    first, second = turns.next("f", 10), Turn()
    turns.wait(first)
    second = turns.next("f", 50)
    turns.wait(second)
    turns.withdraw(second)
    assert turns.next("f", 50) == second


def test_while_nobody_waits_what_callers_had_is_forgotten() -> None:
    turns = Turns()
    for _ in range(5):
        turn = turns.next("f", 10)
        turns.wait(turn)
        turns.place(turn)
    assert turns.next("f", 10).key == turns.next("m", 10).key


CALLERS = "abc"


@st.composite
def arriving(draw: st.DrawFn) -> tuple[str, float, int, dict[str, object]]:
    """Mixed steps, members, branches, decodings and sizes, at any priority."""
    steps = draw(st.integers(1, 6))
    fields = {
        "branches": tuple(draw(st.sampled_from((BOTH, ALONE))) for _ in range(steps)),
        "group": draw(st.sampled_from(("large", "small", "large at 64"))),
        "cache_bytes": draw(st.integers(0, 150)),
        "chunks": draw(st.integers(0, 3)),
    }
    cost = draw(st.floats(1.0, 2 * LEVEL))
    return draw(st.sampled_from(CALLERS)), cost, draw(st.integers(0, MAX_PRIORITY)), fields


@given(
    st.lists(st.lists(arriving(), max_size=6), max_size=5),
    st.builds(Limits, active=st.integers(1, 5), rows=st.integers(2, 8)),
)
def test_nobody_waits_for_more_of_another_callers_work_than_is_said(
    arrivals: Sequence[Sequence[tuple[str, float, int, dict[str, object]]]], limits: Limits
) -> None:
    line = Line(limits)
    for together in arrivals:
        for caller, cost, priority, fields in together:
            line.ask(caller, cost, priority, **fields)
        for _ in range(2):
            if (chosen := line.choose()) is not None:
                line.run(chosen)
    line.to_the_end()
    assert len(line.placed) == len(line.ended) == sum(map(len, arrivals))
    for request in line.placed:
        bound = request.of.behind + (MAX_PRIORITY - request.priority) * LEVEL
        for caller, passed in request.passed.items():
            if caller != request.of.caller:
                assert sum(passed) - max(passed) <= bound * (1 + 1e-9) + 1e-6
