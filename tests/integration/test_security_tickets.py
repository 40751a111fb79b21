"""Tickets at a real edge: each bad one is refused with its own reason, before any model work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from baton.common.arm import Arm
from baton.common.errors import Incompatible, PermissionDenied
from baton.common.families.loaded import LoadedFamily
from baton.common.latents import Codec, encode_state
from baton.common.rpc import PROTOCOL_VERSION
from baton.common.rpc.access import Access
from baton.common.rpc.channel import channel_to, open_channel
from baton.common.rpc.convert import plan_to_proto
from baton.common.rpc.ticket_keys import read_private_key
from baton.common.rpc.tickets import Refusal, Signer, Ticket, peek
from baton.coordinator.daemon import Node
from baton.coordinator.daemon import running as coordinator_running
from baton.coordinator.settings import Settings
from baton.v1 import coordinator_pb2 as pb
from baton.v1 import edge_pb2
from baton.v1.coordinator_pb2_grpc import CoordinatorStub
from baton.v1.edge_pb2_grpc import EdgeStub
from tests.integration.test_edge_service_refusals import ask, drawn, refusal
from tests.support.engines import Counter, Gate
from tests.support.nodes import (
    Edge,
    check_executed,
    coordinator,
    device,
    edge,
    one_line,
    until,
)
from tests.support.security import Credentials, EncodeCounter, a_ticket, new_signer
from tests.support.tasks import PROMPTS, plan, run_alone, task

SIGNER, STRANGER = new_signer(), new_signer()
RELAY = "edge/large@0.5>device/small"


class Guarded:
    """An edge that asks for tickets, and what its model did."""

    def __init__(self, family: LoadedFamily) -> None:
        self.calls = Counter()
        self.family = EncodeCounter(family, self.calls)
        self.node: Edge
        self.stub: Any

    @property
    def work(self) -> tuple[int, int]:
        """Texts encoded, model calls."""
        return self.family.encoded, self.calls.calls

    async def refusal(self, ticket: str, **fields: Any) -> str:
        """The reason of a refusal, which must cost nothing."""
        before = self.work
        error = await refusal(self.stub, ask(ticket=ticket, **fields))
        assert isinstance(error, PermissionDenied), error
        assert "ticket refused" in one_line(error)
        assert self.work == before
        assert self.node.registry.unfinished == 0
        return error.reason

    async def draw(self, ticket: str, **fields: Any) -> edge_pb2.Image:
        return await drawn(self.stub, ask(ticket=ticket, **fields))


@pytest.fixture
async def guarded(family: LoadedFamily, tmp_path: Path) -> AsyncIterator[Guarded]:
    made = Guarded(family)
    keys = tmp_path / "ticket.pub"
    keys.write_bytes(public_pem())
    fields = {"tickets": "required", "ticket_keys": str(keys), "result_ttl": 0.0}
    async with edge(made.family, **fields) as node, channel_to(node.address) as channel:
        made.node, made.stub = node, EdgeStub(channel)
        yield made


def public_pem() -> bytes:

    return Ed25519PublicKey.from_public_bytes(SIGNER.public).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def ticket(family: LoadedFamily, /, **fields: Any) -> str:
    return SIGNER.sign(a_ticket(**({"fingerprint": family.fingerprint} | fields)))


NOW = int(time.time())
BAD: dict[str, tuple[Refusal, dict[str, Any]]] = {
    "expired": (Refusal.EXPIRED, {"not_before": NOW - 900, "expires": NOW - 300}),
    "not yet valid": (Refusal.NOT_YET_VALID, {"not_before": NOW + 86_400, "expires": NOW + 87_000}),
    "for other edges": (Refusal.FOREIGN_AUDIENCE, {"audience": ("edge-0",)}),
    "for no edge": (Refusal.FOREIGN_AUDIENCE, {"audience": ()}),
    "for another request": (Refusal.FOREIGN_REQUEST, {"request_id": "other"}),
    "for another family": (Refusal.WRONG_FAMILY, {"family": "scenes"}),
    "for another latent space": (Refusal.WRONG_FINGERPRINT, {"fingerprint": "f" * 32}),
    "for fewer steps": (Refusal.TOO_MANY_STEPS, {"max_steps": 3}),
    "for narrower pictures": (Refusal.TOO_LARGE, {"max_width": 15}),
    "for lower pictures": (Refusal.TOO_LARGE, {"max_height": 15}),
    "for another arm": (Refusal.OTHER_ARM, {"arm": Arm.edge("small")}),
    "for a relay": (Refusal.OTHER_ARM, {"arm": Arm.relay("large", "small", 0.5)}),
    "for an arm of other steps": (Refusal.OTHER_ARM, {"arm": Arm.parse("edge/large*3")}),
}


@pytest.mark.parametrize("what", BAD)
async def test_a_ticket_that_does_not_fit_is_refused_with_its_reason(
    what: str, guarded: Guarded
) -> None:
    why, fields = BAD[what]
    assert await guarded.refusal(ticket(guarded.family, **fields)) == why
    assert guarded.work == (0, 0)
    assert (await guarded.draw(ticket(guarded.family))).width == 16


async def test_the_decided_arm_is_drawn(guarded: Guarded) -> None:
    assert (await guarded.draw(ticket(guarded.family, arm=Arm.edge("large")))).width == 16


async def test_a_forged_ticket_is_refused(guarded: Guarded) -> None:
    good = ticket(guarded.family, max_steps=1)
    better = ticket(guarded.family)
    forged = f"{better.split('.')[0]}.{good.split('.')[1]}"
    assert await guarded.refusal(forged) == Refusal.FORGED
    stranger = STRANGER.sign(a_ticket())
    assert await guarded.refusal(stranger) == Refusal.UNKNOWN_KEY
    assert await guarded.refusal(better[:-1]) == Refusal.MALFORMED
    assert await guarded.refusal("") == Refusal.MISSING
    assert guarded.work == (0, 0)


async def test_a_bad_ticket_is_refused_before_the_latent_is_looked_at(guarded: Guarded) -> None:
    assert await guarded.refusal("", resume=b"not an envelope") == Refusal.MISSING


async def test_a_wrong_fingerprint_of_the_client_costs_no_work_either(guarded: Guarded) -> None:
    request = ask(ticket=ticket(guarded.family), fingerprint="f" * 32)
    assert isinstance(await refusal(guarded.stub, request), Incompatible)
    assert guarded.work == (0, 0)
    await guarded.draw(ticket(guarded.family))


async def test_a_replayed_ticket_is_refused(guarded: Guarded) -> None:
    once = ticket(guarded.family)
    await guarded.draw(once)
    await until(lambda: len(guarded.node.registry.kept) == 0)
    done = guarded.work
    assert await guarded.refusal(once) == Refusal.REPLAYED
    assert guarded.work == done


async def test_a_offline_ticket_admits_one_request(guarded: Guarded) -> None:
    offline = ticket(guarded.family, request_id="")
    await guarded.draw(offline, request_id="one")
    assert await guarded.refusal(offline, request_id="two") == Refusal.REPLAYED


async def test_another_resume_point_of_the_request_is_let_in_once(
    guarded: Guarded, family: LoadedFamily
) -> None:
    once = ticket(guarded.family)
    await guarded.draw(once)
    state = run_alone(family, task(plan("edge/large", 4)), 2).state()
    resume = encode_state(state, "good", family.fingerprint, Codec.FP32)
    await guarded.draw(once, resume=resume)
    await until(lambda: len(guarded.node.registry.kept) == 0)
    assert await guarded.refusal(once, resume=resume) == Refusal.REPLAYED


async def test_the_same_request_comes_back_with_its_ticket(
    family: LoadedFamily, tmp_path: Path
) -> None:
    gate = Gate()
    texts = EncodeCounter(family, gate)
    keys = tmp_path / "ticket.pub"
    keys.write_bytes(public_pem())
    once = ticket(family)
    async with (
        edge(texts, tickets="required", ticket_keys=str(keys)) as node,
        channel_to(node.address) as channel,
    ):
        try:
            stub = EdgeStub(channel)
            both = [asyncio.ensure_future(drawn(stub, ask(ticket=once))) for _ in range(2)]
            await asyncio.to_thread(gate.wait_for_call, 1)
        finally:
            gate.lift()
        one, other = await asyncio.gather(*both)
        kept = await drawn(stub, ask(ticket=once))
    assert one.rgb == other.rgb == kept.rgb
    assert texts.encoded == 1


async def test_where_tickets_are_optional_a_wrong_one_is_still_refused(
    family: LoadedFamily,
) -> None:
    async with edge(family) as node, channel_to(node.address) as channel:
        stub = EdgeStub(channel)
        error = await refusal(stub, ask(ticket="nonsense"))
        assert isinstance(error, PermissionDenied)
        assert error.reason == Refusal.MALFORMED
        assert (await drawn(stub, ask())).width == 16


async def test_a_ticket_of_another_device_is_refused(
    family: LoadedFamily, credentials: Credentials
) -> None:
    calls = Counter()
    texts = EncodeCounter(family, calls)
    fields = {
        "tokens": credentials.folder / "edge" / "tokens.toml",
        "ticket_keys": str(credentials.folder / "coordinator" / "ticket.pub"),
    }

    signer = Signer(read_private_key(credentials.folder / "coordinator" / "ticket.key"))
    text = signer.sign(a_ticket(subject="anna"))
    async with edge(texts, **fields) as node:
        for name, expected in (("bert", Refusal.FOREIGN_SUBJECT), ("anna", None)):
            access = Access(token=credentials.token(name))
            async with open_channel(node.address, access) as channel:
                if expected is None:
                    assert (await drawn(EdgeStub(channel), ask(ticket=text))).width == 16
                else:
                    error = await refusal(EdgeStub(channel), ask(ticket=text))
                    assert isinstance(error, PermissionDenied)
                    assert error.reason == expected
                    assert (texts.encoded, calls.calls) == (0, 0)


async def joined(brain: Node) -> None:
    await until(brain.fleet.nodes)


async def test_a_decisions_ticket_opens_the_edge_that_asks_for_one(
    family: LoadedFamily, family_folder: Path
) -> None:
    async with (
        coordinator() as brain,
        edge(family, coordinator=brain.address, tickets="required"),
    ):
        await joined(brain)
        with device(family_folder, coordinator=brain.address) as client:
            result = await client.generate(PROMPTS[0], arm=RELAY, steps=4)
    assert result.notes == ()
    check_executed(result.executed, result.task.plan)


async def test_without_a_ticket_the_device_draws_alone_and_says_so(
    family: LoadedFamily, family_folder: Path
) -> None:
    async with edge(family, tickets="required") as node:
        with device(family_folder, edges=node.address) as client:
            result = await client.generate(PROMPTS[0], arm=RELAY, steps=4, fallback=True)
        assert node.registry.unfinished == 0
    assert result.steps_at("edge") == 0
    assert "ticket refused" in result.notes[0]


async def test_a_offline_ticket_serves_once_when_no_coordinator_answers(
    family: LoadedFamily, family_folder: Path
) -> None:
    """Its edges, too: the device was told of none. A new client finds it in the state folder."""
    async with AsyncExitStack() as edges, AsyncExitStack() as brains:
        brain = await brains.enter_async_context(coordinator())
        running = edge(family, coordinator=brain.address, tickets="required")
        node = await edges.enter_async_context(running)
        await joined(brain)
        with device(family_folder, coordinator=brain.address) as client:
            await client.generate(PROMPTS[0], arm=RELAY, steps=4)
        await brains.aclose()
        with device(family_folder, coordinator=brain.address) as client:
            second = await client.generate(PROMPTS[1], arm=RELAY, steps=4)
            with pytest.raises(Incompatible):
                await client.generate(PROMPTS[1], arm=RELAY, steps=4)
    assert second.steps_at("edge") == 2
    assert "decided alone" in second.notes[0]
    assert node.registry.counts.completed == 2


async def test_what_the_coordinator_signs(family: LoadedFamily) -> None:

    async with (
        coordinator(ticket_seconds=60.0) as brain,
        edge(family, coordinator=brain.address),
        channel_to(brain.address) as channel,
    ):
        await joined(brain)
        begun = int(time.time())
        answer = await CoordinatorStub(channel).Decide(
            pb.DecideRequest(
                protocol_version=PROTOCOL_VERSION, request_id="r", family=family.name,
                fingerprint=family.fingerprint, members=["small"], steps=7, width=16, height=24,
                arm="edge/large",
            ),
            timeout=60,
        )  # fmt: skip
    found, offline = peek(answer.ticket), peek(answer.offline_ticket)
    assert found == Ticket(
        id=found.id, audience=("edge-test",), subject="", request_id="r", family=family.name,
        fingerprint=family.fingerprint, max_steps=7, arm=Arm.edge("large"), max_width=16,
        max_height=24, count=1, not_before=found.not_before, expires=found.not_before + 60,
    )  # fmt: skip
    assert begun <= found.not_before <= begun + 60
    assert (offline.request_id, offline.arm) == ("", None)
    assert offline.expires - offline.not_before == 3600
    assert found.id != offline.id


async def test_the_coordinators_key_outlives_it_beside_its_database(
    family: LoadedFamily, tmp_path: Path
) -> None:

    settings = Settings(port=0, db=tmp_path / "c.db", grace_seconds=0.0)
    async with coordinator_running(settings):
        key = tmp_path / "c.db.ticket-key"
        first = key.read_bytes()
        assert key.stat().st_mode & 0o777 == 0o600
    async with coordinator_running(settings):
        assert key.read_bytes() == first


def test_the_plan_in_these_tests_has_four_steps() -> None:
    assert plan_to_proto(plan("edge/large", 4)) == ask().plan
