"""What one ticket is good for at a real edge: one picture, and so many steps, however it comes."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

from baton.common.errors import PermissionDenied
from baton.common.families.loaded import LoadedFamily
from baton.common.latents import Codec, encode_state
from baton.common.rpc import PROTOCOL_VERSION
from baton.common.rpc.channel import channel_to
from baton.common.rpc.tickets import Refusal
from baton.device_client.events import EdgeLost, Event, Finished, Reattached, Stepped
from baton.device_client.result import Result
from baton.v1 import coordinator_pb2 as pb
from baton.v1.coordinator_pb2_grpc import CoordinatorStub
from baton.v1.edge_pb2_grpc import EdgeStub
from tests.integration.test_edge_service_refusals import ask, drawn, refusal
from tests.integration.test_security_tickets import (
    Guarded,
    guarded,  # noqa: F401 a fixture
    joined,
    ticket,
)
from tests.support.engines import Gate
from tests.support.nodes import (
    Edge,
    check_executed,
    coordinator,
    device,
    drawn_here,
    edge,
    until,
)
from tests.support.tasks import PROMPTS, plan, run_alone, task

STEPS = 4


def after(family: LoadedFamily, step: int) -> bytes:
    """The envelope from which the good request goes on after that step."""
    state = run_alone(family, task(plan("edge/large", STEPS)), step).state()
    return encode_state(state, "good", family.fingerprint, Codec.FP32)


async def test_a_ticket_for_one_picture_admits_no_other(
    guarded: Guarded,  # noqa: F811
    family: LoadedFamily,
) -> None:
    """Nor does any point from which the request might go on."""
    once = ticket(guarded.family)
    await guarded.draw(once)
    await until(lambda: len(guarded.node.registry.kept) == 0)
    for step in range(1, STEPS):
        for other in ({"prompt": PROMPTS[1]}, {"negative_prompt": "x"}, {"seed": 9}):
            reason = await guarded.refusal(once, resume=after(family, step), **other)
            assert reason == Refusal.OTHER_PICTURE


async def test_all_uses_of_a_ticket_together_have_so_many_steps(
    guarded: Guarded,  # noqa: F811
    family: LoadedFamily,
) -> None:
    once = ticket(guarded.family)
    await guarded.draw(once)
    for step in (3, 2):
        await guarded.draw(once, resume=after(family, step))
    assert await guarded.refusal(once, resume=after(family, 1)) == Refusal.STEPS_SPENT
    assert guarded.calls.calls == STEPS + 1 + 2


class Journey:
    """A picture whose connection breaks after step 2, and whose edge is gone after step 3."""

    def __init__(self) -> None:
        self.gates = {name: Gate() for name in ("edge-a", "edge-b")}
        self.edges: dict[str, Edge] = {}
        self.first = ""
        self.reattached = 0

    async def draw(self, folder: Path, brain: str) -> Result:
        settings = {"coordinator": brain, "checkpoint_every": 1, "reattach_timeout": 20}
        with device(folder, **settings) as client:
            for gate in self.gates.values():
                gate.allow(1)
            async for event in client.stream(PROMPTS[0], arm="edge/large", steps=STEPS, seed=1):
                self._follow(event)
                if isinstance(event, Finished):
                    return event.result
        raise AssertionError("no result")

    def _follow(self, event: Event) -> None:
        if isinstance(event, EdgeLost):
            for gate in self.gates.values():
                gate.lift()
        elif isinstance(event, Reattached):
            self.reattached += 1
            self.gates[self.first].allow(1)
        elif isinstance(event, Stepped) and event.step == 1:
            self.first = next(name for name, gate in self.gates.items() if gate.arrived)
            self.gates[self.first].allow(1)
        elif isinstance(event, Stepped) and event.step == 2:
            self.edges[self.first].cable.drop()
        elif isinstance(event, Stepped) and event.step == 3:
            self.edges[self.first].cable.cut()


async def test_a_ticket_goes_with_its_request_over_lost_connections_and_edges(
    family: LoadedFamily, family_folder: Path
) -> None:
    journey = Journey()
    async with coordinator() as brain, AsyncExitStack() as stack:
        for name, gate in journey.gates.items():
            fields = {"node_id": name, "coordinator": brain.address, "tickets": "required"}
            running = edge(family, gate, **fields)
            journey.edges[name] = await stack.enter_async_context(running)
        await until(lambda: len(brain.fleet.nodes()) == len(journey.edges))
        result = await journey.draw(family_folder, brain.address)
    assert journey.reattached == 1
    assert {step.node_id for step in result.executed} == set(journey.edges)
    check_executed(result.executed, result.task.plan)
    assert (drawn_here(family, result.task) == result.picture).all()


async def test_a_decision_that_is_asked_for_again_gives_no_second_leave(
    family: LoadedFamily,
) -> None:
    fields = {"tickets": "required", "result_ttl": 0.0}
    async with (
        coordinator() as brain,
        edge(family, coordinator=brain.address, **fields) as node,
        channel_to(brain.address) as channel,
        channel_to(node.address) as direct,
    ):
        await joined(brain)
        question = pb.DecideRequest(
            protocol_version=PROTOCOL_VERSION, request_id="good", family=family.name,
            fingerprint=family.fingerprint, members=["small"], steps=4, width=16, height=16,
            arm="edge/large",
        )  # fmt: skip
        stub, at = CoordinatorStub(channel), EdgeStub(direct)
        one, other = [await stub.Decide(question, timeout=60) for _ in range(2)]
        for text, id_ in ((one.ticket, "good"), (one.offline_ticket, "later")):
            await drawn(at, ask(id_, ticket=text))
        await until(lambda: len(node.registry.kept) == 0)
        for text, id_ in ((other.ticket, "good"), (other.offline_ticket, "latest")):
            error = await refusal(at, ask(id_, ticket=text, prompt=PROMPTS[1]))
            assert isinstance(error, PermissionDenied)
            assert error.reason in (Refusal.OTHER_PICTURE, Refusal.REPLAYED)
