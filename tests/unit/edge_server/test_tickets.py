"""The edge's gate: each ticket once, and a request may come back to itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from baton.common.arm import Arm
from baton.common.errors import Overloaded, PermissionDenied
from baton.common.families.loaded import LoadedFamily
from baton.common.request import Task
from baton.common.rpc.convert import plan_to_proto
from baton.common.rpc.latent_spaces import space_to_proto
from baton.common.rpc.tickets import LEEWAY, Refusal, Ticket
from baton.edge_server.engine.job import Work
from baton.edge_server.tickets import Entrance, Policy, TicketGate
from baton.v1 import edge_pb2
from tests.support.security import a_ticket, new_signer
from tests.support.tasks import plan, run_alone, task, work

SIGNER = new_signer()
NOW = 1_000_000.0
TICKET = a_ticket(not_before=int(NOW), expires=int(NOW) + 60)


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def gate(
    family: LoadedFamily, clock: Clock, policy: Policy = "required", capacity: int = 9
) -> TicketGate:
    entrance = Entrance("edge-test", policy, [SIGNER.public], capacity)
    return TicketGate(entrance, family.spec, clock, family.ratios)


def ask(ticket: str, request_id: str = "good") -> edge_pb2.DenoiseRequest:
    message = plan_to_proto(plan("edge/large", 4))
    return edge_pb2.DenoiseRequest(
        request_id=request_id, plan=message, width=16, height=16, ticket=ticket
    )


def test_a_device_that_tells_its_latent_space_names_it_as_its_ticket_does(
    family: LoadedFamily, clock: Clock
) -> None:
    request = ask(SIGNER.sign(replace(TICKET, fingerprint="f" * 32)))
    with pytest.raises(PermissionDenied):
        gate(family, clock).check(request, "")
    request.fingerprint = "f" * 32
    with pytest.raises(PermissionDenied):
        gate(family, clock).check(request, "")
    request.latent_space.CopyFrom(space_to_proto(family.spec.latent_space))
    assert gate(family, clock).check(request, "") is not None
    request.fingerprint = family.fingerprint
    with pytest.raises(PermissionDenied):
        gate(family, clock).check(request, "")


def enter(at: TicketGate, ticket: Ticket, of: Work | None = None, held: bool = False) -> None:
    of = of or work("good")
    checked = at.check(ask(SIGNER.sign(ticket), of.request_id), "")
    with at.entering(checked, of, held):
        pass


def refusal(at: TicketGate, ticket: Ticket, of: Work | None = None) -> str:
    with pytest.raises(PermissionDenied) as caught:
        enter(at, ticket, of)
    return caught.value.reason


def later(family: LoadedFamily, request_id: str = "good") -> Work:
    """The same request, resumed after two steps."""
    return work(request_id, resume=run_alone(family, task(), 2).state())


def test_a_ticket_may_be_needed_or_not_but_never_wrong(family: LoadedFamily, clock: Clock) -> None:
    assert gate(family, clock, "optional").check(ask(""), "") is None
    with pytest.raises(PermissionDenied) as caught:
        gate(family, clock).check(ask(""), "")
    assert caught.value.reason == Refusal.MISSING
    with pytest.raises(PermissionDenied) as caught:
        gate(family, clock, "optional").check(ask("x"), "")
    assert caught.value.reason == Refusal.MALFORMED


def test_a_ticket_is_used_once(family: LoadedFamily, clock: Clock) -> None:
    at = gate(family, clock)
    enter(at, TICKET)
    assert refusal(at, TICKET) == Refusal.REPLAYED


def test_the_same_request_may_come_back_to_what_the_edge_holds(
    family: LoadedFamily, clock: Clock
) -> None:
    at = gate(family, clock)
    enter(at, TICKET)
    enter(at, TICKET, held=True)


def test_each_resume_point_counts_for_itself(family: LoadedFamily, clock: Clock) -> None:
    at = gate(family, clock)
    enter(at, TICKET)
    enter(at, TICKET, later(family))
    assert refusal(at, TICKET, later(family)) == Refusal.REPLAYED


def test_an_open_ticket_belongs_to_the_first_request(family: LoadedFamily, clock: Clock) -> None:
    at, offline = gate(family, clock), replace(TICKET, request_id="")
    enter(at, offline, work("one"))
    assert refusal(at, offline, work("two")) == Refusal.REPLAYED
    enter(at, offline, later(family, "one"))


def test_a_ticket_for_two_admits_two(family: LoadedFamily, clock: Clock) -> None:
    at, pair = gate(family, clock), replace(TICKET, request_id="", count=2)
    enter(at, pair, work("one"))
    enter(at, pair, work("two"))
    assert refusal(at, pair, work("three")) == Refusal.REPLAYED


OTHERS: dict[str, Task] = {
    "prompt": task(prompt="another picture"),
    "negative prompt": task(negative="blurred"),
    "seed": task(seed=1),
    "size": task(size=8),
    "steps": task(plan("edge/large@0.5>device/small", 4)),
    "member": task(plan("edge/large")),
    "guidance": task(plan(guidance=2.0)),
    "sampler": task(plan(sampler="euler")),
}


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize("request_id", ["good", ""])
def test_a_ticket_is_for_the_picture_that_it_was_first_used_for(
    what: str, request_id: str, family: LoadedFamily, clock: Clock
) -> None:
    at, ticket = gate(family, clock), replace(TICKET, request_id=request_id)
    enter(at, ticket)
    resume = later(family).resume
    other = work("good", OTHERS[what], resume=resume)
    assert refusal(at, ticket, other) == Refusal.OTHER_PICTURE
    with pytest.raises(PermissionDenied):
        enter(at, ticket, other, held=True)
    enter(at, ticket, later(family))


def test_all_resume_points_together_have_so_many_steps(family: LoadedFamily, clock: Clock) -> None:
    whole = task(plan("edge/large", 4))
    at = gate(family, clock)
    states = [run_alone(family, whole, step).state() for step in (3, 2, 1)]
    enter(at, TICKET, work("good", whole))  # 4 of 8
    enter(at, TICKET, work("good", whole, resume=states[0]))  # 5
    enter(at, TICKET, work("good", whole, resume=states[1]))  # 7
    assert refusal(at, TICKET, work("good", whole, resume=states[2])) == Refusal.STEPS_SPENT
    enter(at, TICKET, work("good", whole, resume=states[1]), held=True)


def test_coming_back_to_what_the_edge_holds_costs_no_steps(
    family: LoadedFamily, clock: Clock
) -> None:
    at, whole = gate(family, clock), task(plan("edge/large", 4))
    for _ in range(3):
        enter(at, TICKET, work("good", whole), held=True)
    enter(at, TICKET, work("good", whole, resume=run_alone(family, whole, 1).state()))
    enter(at, TICKET, work("good", whole, resume=run_alone(family, whole, 2).state()))


def test_a_ticket_that_is_signed_anew_is_the_same_leave_as_long_as_the_last_one(
    family: LoadedFamily, clock: Clock
) -> None:
    at, again = gate(family, clock), replace(TICKET, expires=TICKET.expires + 60)
    enter(at, TICKET)
    assert refusal(at, again) == Refusal.REPLAYED
    enter(at, again, later(family))
    clock.now = again.expires + LEEWAY - 1
    assert refusal(at, again) == Refusal.REPLAYED


def test_a_request_that_was_not_let_in_used_no_ticket(family: LoadedFamily, clock: Clock) -> None:
    at = gate(family, clock)
    checked = at.check(ask(SIGNER.sign(TICKET)), "")
    with pytest.raises(Overloaded), at.entering(checked, work("good"), False):
        raise Overloaded("full")
    enter(at, TICKET)


def test_what_is_remembered_is_bounded_and_forgotten_when_it_has_expired(
    family: LoadedFamily, clock: Clock
) -> None:
    at = gate(family, clock, capacity=2)
    enter(at, TICKET)
    enter(at, replace(TICKET, id="b"))
    with pytest.raises(Overloaded):
        enter(at, replace(TICKET, id="c"))
    clock.now = TICKET.expires + LEEWAY - 1
    assert refusal(at, TICKET) == Refusal.REPLAYED
    clock.now += 1
    fresh = replace(TICKET, id="d", not_before=int(clock.now), expires=int(clock.now) + 60)
    enter(at, fresh)
    enter(at, replace(fresh, id="e"))


def test_the_coordinators_keys_replace_its_earlier_ones_only(
    family: LoadedFamily, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    at, other, third = gate(family, clock), new_signer(), new_signer()
    text = other.sign(replace(TICKET, id="o"))
    with pytest.raises(PermissionDenied):
        at.check(ask(text), "")
    at.trust([other.public])
    at.check(ask(text), "")
    at.check(ask(SIGNER.sign(TICKET)), "")
    at.trust([b"no key"])
    assert "ticket key" in caplog.text
    at.check(ask(text), "")
    at.trust([third.public])
    with pytest.raises(PermissionDenied) as caught:
        at.check(ask(text), "")
    assert caught.value.reason == Refusal.UNKNOWN_KEY
    at.check(ask(SIGNER.sign(TICKET)), "")


#: A decided arm, plans that are its own, and plans that are not.
ARMS: dict[str, tuple[list[str], list[str]]] = {
    "edge/large": (["edge/large"], ["edge/small", "edge/large@0.5>device/small"]),
    "edge/large@0.5>device/small": (
        [
            "edge/large@0.5>device/small",
            "edge/large@0.45>device/small",
            "edge/large*3>device/small*3",
        ],
        [
            "edge/large",
            "edge/small@0.5>device/small",
            "edge/large@0.5>device/large",
            "edge/large@0.5>edge/small",
            "edge/large@0.7>device/small",
            "edge/large*3@s0.9>device/small*3",
        ],
    ),
    "edge/large*3>device/small*4": (
        ["edge/large*3>device/small*4"],
        [
            "edge/large@0.5>device/small",
            "edge/large*3>device/small*3",
            "edge/large*4>device/small*3",
        ],
    ),
    "edge/large*3@s0.9>device/small*4": (
        ["edge/large*3@s0.9>device/small*4"],
        ["edge/large*3>device/small*4", "edge/large*3@s0.8>device/small*4"],
    ),
    "edge/large@0.3>device/small@0.7>edge/large": (
        ["edge/large@0.3>device/small@0.7>edge/large"],
        ["edge/large@0.3>edge/large@0.7>edge/large", "edge/large"],
    ),
}


@pytest.mark.parametrize("decided", ARMS)
def test_a_ticket_admits_the_plan_of_the_decided_arm_alone(
    decided: str, family: LoadedFamily, clock: Clock
) -> None:
    own, others = ARMS[decided]
    ticket = replace(TICKET, arm=Arm.parse(decided))
    for text in own:
        enter(gate(family, clock), ticket, work("good", task(plan(text))))
    for text in others:
        at = gate(family, clock)
        assert refusal(at, ticket, work("good", task(plan(text)))) == Refusal.OTHER_ARM
        enter(at, ticket, work("good", task(plan(own[0]))))  # it is not used up


def test_the_decided_arm_may_have_fewer_steps_and_other_guidance(
    family: LoadedFamily, clock: Clock
) -> None:
    relay = "edge/large@0.5>device/small"
    ticket = replace(TICKET, arm=Arm.parse(relay))
    for of in (plan(relay, 4), plan(relay, guidance=1.0), plan(relay, sampler="euler")):
        enter(gate(family, clock), ticket, work("good", task(of)))


def test_a_cut_at_a_level_is_where_the_family_has_it(family: LoadedFamily, clock: Clock) -> None:
    levels = family.ratios("ddim", 6)
    ticket = replace(TICKET, arm=Arm.parse(f"edge/large@s{float(levels[2])}>device/small"))
    relays = {stop: plan(f"edge/large*{stop}>device/small*{6 - stop}") for stop in (1, 2, 3)}
    enter(gate(family, clock), ticket, work("good", task(relays[2])))
    for stop in (1, 3):
        at = gate(family, clock)
        assert refusal(at, ticket, work("good", task(relays[stop]))) == Refusal.OTHER_ARM


def test_an_edge_that_holds_the_work_asks_for_the_decided_arm_all_the_same(
    family: LoadedFamily, clock: Clock
) -> None:
    at, ticket = gate(family, clock), replace(TICKET, arm=Arm.edge("small"))
    with pytest.raises(PermissionDenied):
        enter(at, ticket, held=True)
