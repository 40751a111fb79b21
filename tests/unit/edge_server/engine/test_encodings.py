"""What was encoded lately is not encoded again, within bounds, and is not taken for another."""

from __future__ import annotations

import torch

from baton.common.diffusion.conditioning import Conditioning
from baton.common.families.loaded import LoadedFamily
from baton.common.request import Task
from baton.edge_server.engine.encodings import Encodings
from baton.edge_server.engine.runner import Runner
from tests.support.engines import NODE, run_together
from tests.support.faults import FaultyFamily
from tests.support.tasks import plan, task, work


def of(prompt: str, negative: str = "") -> Task:
    return task(plan("edge/small@0.5>device/small", 4), prompt, negative)


def encoded(family: FaultyFamily) -> int:
    return sum(count for kind, count in family.calls.made if kind == "encode")


def made(size: int) -> Conditioning:
    return Conditioning({"positive": {"context": torch.zeros(size, dtype=torch.uint8)}})


def test_a_prompt_is_encoded_once_among_many_and_not_again(family: LoadedFamily) -> None:
    watched = FaultyFamily(family)
    runner = Runner(watched, NODE)
    runs = [runner.begin(work(str(i), of(prompt))) for i, prompt in enumerate("abab")]
    assert runner.encode(runs) == [None] * 4
    assert watched.calls.made == [("encode", 2)]
    for run in runs:
        expected = family.encode_text(run.texts[0], member="small").row("positive")["context"]
        assert torch.equal(run.encoded.row("positive")["context"], expected)
        assert not runner.needs_encoding(run)
    again = [runner.begin(work("again", of(prompt))) for prompt in "bc"]
    assert runner.encode(again) == [None] * 2
    assert watched.calls.made == [("encode", 2), ("encode", 1)]


def test_the_negative_prompt_tells_two_apart_wherever_they_are_cut(family: LoadedFamily) -> None:
    watched = FaultyFamily(family)
    works = [work("a", of("red cat", "")), work("b", of("red", " cat")), work("c", of("red cat"))]
    run_together(watched, works)
    assert encoded(watched) == 2


def test_what_failed_is_tried_again_and_fails_all_who_asked_for_it(family: LoadedFamily) -> None:
    failing = True

    def fail(texts: object) -> None:
        if failing:
            raise ValueError("broken")

    watched = FaultyFamily(family, encoding=fail)
    runner = Runner(watched, NODE)
    runs = [runner.begin(work(str(i), of(prompt))) for i, prompt in enumerate("aba")]
    assert [type(error) for error in runner.encode(runs)] == [ValueError] * 3
    failing = False
    assert runner.encode(runs) == [None] * 3


def test_the_least_recently_used_leaves_first_when_there_are_too_many_or_too_large() -> None:
    held = Encodings(count=2, size=100)
    held.keep(("e", b"1"), made(10))
    held.keep(("e", b"2"), made(10))
    assert held.get(("e", b"1")) is not None
    held.keep(("e", b"3"), made(10))
    assert [held.get(("e", key)) is not None for key in (b"1", b"2", b"3")] == [True, False, True]
    held.keep(("e", b"4"), made(90))
    assert (len(held), held.bytes) == (2, 100)
    held.keep(("e", b"5"), made(101))
    assert (len(held), held.bytes) == (0, 0)


def test_encoders_are_told_apart(family: LoadedFamily) -> None:
    held, runner = Encodings(), Runner(family, NODE)
    one, other = (runner.begin(work(name, of("a"))) for name in ("x", "y"))
    assert held.key("clip", one) == held.key("clip", other)
    assert held.key("clip", one) != held.key("t5", one)
