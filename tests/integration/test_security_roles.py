"""Who may call what, and whose is whose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from baton.common.errors import (
    BatonError,
    InvalidRequest,
    PermissionDenied,
    Unauthenticated,
    UnknownName,
)
from baton.common.families.loaded import LoadedFamily
from baton.common.rpc import PROTOCOL_VERSION
from baton.common.rpc.access import Access
from baton.common.rpc.auth import PERMITTED
from baton.common.rpc.channel import open_channel
from baton.common.rpc.status import from_rpc_error
from baton.coordinator.daemon import Node
from baton.v1 import coordinator_pb2 as pb
from baton.v1 import edge_pb2
from baton.v1.coordinator_pb2_grpc import AdminStub, CoordinatorStub
from baton.v1.edge_pb2_grpc import EdgeStub
from tests.integration.test_edge_service_refusals import ask, drawn, refusal
from tests.support.engines import Counter, Gate
from tests.support.nodes import Edge, coordinator, drawn_here, edge, one_line, until
from tests.support.security import Credentials, EncodeCounter
from tests.support.tasks import plan, task

ROLES = {"anna": "device", "edge": "edge", "admin": "admin"}
STUBS: dict[str, Callable[[Any], Any]] = {
    "Edge": EdgeStub, "Coordinator": CoordinatorStub, "Admin": AdminStub
}  # fmt: skip


class World:
    """A coordinator and an edge that ask for tokens; channels by name."""

    def __init__(self, brain: Node, node: Edge, credentials: Credentials) -> None:
        self.brain = brain
        self.node = node
        self._credentials = credentials
        self._stack = AsyncExitStack()

    async def close(self) -> None:
        await self._stack.aclose()

    async def channel(self, service: str, name: str | None) -> grpc.aio.Channel:
        address = self.node.address if service == "Edge" else self.brain.address
        token = "" if name is None else self._credentials.token(name)
        opened = open_channel(address, Access(token=token))
        return await self._stack.enter_async_context(opened)

    async def stub(self, service: str, name: str | None) -> Any:
        return STUBS[service](await self.channel(service, name))


@pytest.fixture
async def world(family: LoadedFamily, credentials: Credentials) -> AsyncIterator[World]:
    tokens = credentials.folder / "edge" / "tokens.toml"
    async with coordinator(tokens=tokens) as brain:
        fields = {"tokens": tokens, "token": credentials.token("edge")}
        async with edge(family, coordinator=brain.address, **fields) as node:
            await until(brain.fleet.nodes)
            made = World(brain, node, credentials)
            yield made
            await made.close()


async def outcome(call: Awaitable[object]) -> BatonError | None:
    """The error of a call; None if it was answered."""
    try:
        await asyncio.wait_for(call, 60)
    except grpc.aio.AioRpcError as error:
        failure = from_rpc_error(error, "node")
        one_line(failure)
        return failure
    return None


async def first(stream: Any) -> object:
    return await stream.read()


def request_of(method: str) -> object:
    names = {"ListNodes": pb.ListNodesRequest, "ListArms": pb.ListArmsRequest}
    service, _, short = method.rpartition("/")
    module: Any = edge_pb2 if service.endswith("Edge") else pb
    return names.get(short, getattr(module, f"{short}Request"))()


async def call(world: World, method: str, name: str | None) -> BatonError | None:
    service, short = method.removeprefix("/baton.v1.").split("/")
    send = getattr(await world.stub(service, name), short)
    answer = send(request_of(method), timeout=60)
    return await outcome(first(answer) if short == "Denoise" else answer)


async def test_every_method_answers_its_roles_and_refuses_the_others(world: World) -> None:
    for method, roles in PERMITTED.items():
        for name, role in ROLES.items():
            error = await call(world, method, name)
            if role in roles:
                assert not isinstance(error, PermissionDenied | Unauthenticated), (method, name)
            else:
                assert isinstance(error, PermissionDenied), (method, name)
                assert error.reason == "wrong_role"


async def test_nobody_without_a_known_token_gets_an_answer(
    world: World, others: Credentials
) -> None:
    for method in PERMITTED:
        error = await call(world, method, None)
        assert isinstance(error, Unauthenticated), method
        assert error.reason == "token_missing"
    stranger = Access(token=others.token("anna"))
    async with open_channel(world.node.address, stranger) as channel:
        error = await outcome(first(EdgeStub(channel).Denoise(ask(), timeout=60)))
    assert isinstance(error, Unauthenticated)
    assert error.reason == "token_unknown"
    assert others.token("anna") not in str(error)


@pytest.mark.parametrize("header", ["", "Bearer", "Basic {}", "bearer {}", "{}", "Bearer {} {}"])
async def test_a_header_of_another_form_is_no_token(
    world: World, credentials: Credentials, header: str
) -> None:
    token = credentials.token("anna")
    metadata = [("authorization", header.format(token, token))]
    stub = await world.stub("Coordinator", None)
    error = await outcome(stub.Explain(pb.ExplainRequest(id="x"), metadata=metadata, timeout=60))
    assert isinstance(error, Unauthenticated)


async def test_two_headers_are_no_token(world: World, credentials: Credentials) -> None:
    metadata = [("authorization", f"Bearer {credentials.token('anna')}")]
    stub = await world.stub("Coordinator", "anna")
    error = await outcome(stub.Explain(pb.ExplainRequest(id="x"), metadata=metadata, timeout=60))
    assert isinstance(error, Unauthenticated)


async def test_health_is_open_to_everybody(world: World) -> None:
    for service in ("Edge", "Coordinator"):
        stub = health_pb2_grpc.HealthStub(await world.channel(service, None))
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=60)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_wrong_role_reaches_no_model(
    family: LoadedFamily, credentials: Credentials
) -> None:
    counter = Counter()
    texts = EncodeCounter(family, counter)
    tokens = credentials.folder / "edge" / "tokens.toml"
    async with edge(texts, tokens=tokens) as node:
        for name in ("edge", "admin"):
            access = Access(token=credentials.token(name))
            async with open_channel(node.address, access) as channel:
                error = await refusal(EdgeStub(channel), ask())
            assert isinstance(error, PermissionDenied)
        assert node.registry.unfinished == 0
    assert (counter.calls, texts.encoded) == (0, 0)


def registration(**fields: Any) -> pb.RegisterRequest:
    values = {
        "protocol_version": PROTOCOL_VERSION, "node_id": "edge-test", "address": "h:1",
        "family": "tiny", "members": ["large"], "fingerprint": "f",
    }  # fmt: skip
    return pb.RegisterRequest(**(values | fields))


async def test_a_node_id_belongs_to_the_edge_that_joined_under_it(world: World) -> None:
    thief = await world.stub("Coordinator", "thief")
    load = pb.NodeLoad()
    for attempt in (
        thief.Register(registration()),
        thief.Heartbeat(pb.HeartbeatRequest(node_id="edge-test", load=load)),
        thief.Deregister(pb.DeregisterRequest(node_id="edge-test")),
    ):
        error = await outcome(attempt)
        assert isinstance(error, PermissionDenied)
        assert error.reason == "foreign_node"
    (node,) = world.brain.fleet.nodes()
    assert node.registration.address == world.node.address
    assert await outcome(thief.Register(registration(node_id="thief"))) is None
    owner = await world.stub("Coordinator", "edge")
    assert await outcome(owner.Register(registration())) is None


async def test_only_the_asker_reports_and_explains_a_decision(
    world: World, family: LoadedFamily
) -> None:
    anna, bert = [await world.stub("Coordinator", name) for name in ("anna", "bert")]
    request = pb.DecideRequest(
        protocol_version=PROTOCOL_VERSION, request_id="r", family="tiny", members=["small"],
        fingerprint=family.fingerprint, steps=4,
    )  # fmt: skip
    answer = await anna.Decide(request, timeout=60)
    assert (await bert.Decide(request, timeout=60)).decision_id != answer.decision_id
    report = pb.ReportRequest(decision_id=answer.decision_id, ok=True, total_seconds=1.0)
    assert isinstance(await outcome(bert.Report(report)), UnknownName)
    assert isinstance(
        await outcome(bert.Explain(pb.ExplainRequest(id=answer.decision_id))), UnknownName
    )
    explained = await anna.Explain(pb.ExplainRequest(id=answer.decision_id))
    assert explained.decision.owner == "anna"
    assert (await anna.Report(report, timeout=60)).applied


async def test_a_request_is_read_and_cancelled_by_its_owner_and_the_operator(
    family: LoadedFamily, credentials: Credentials
) -> None:
    gate = Gate()
    texts = EncodeCounter(family, gate)
    tokens = credentials.folder / "edge" / "tokens.toml"
    async with edge(texts, tokens=tokens) as node, AsyncExitStack() as stack:
        stack.callback(gate.lift)

        async def stub(name: str) -> Any:
            opened = open_channel(node.address, Access(token=credentials.token(name)))
            return EdgeStub(await stack.enter_async_context(opened))

        anna, bert, admin = [await stub(name) for name in ("anna", "bert", "admin")]
        running = asyncio.ensure_future(drawn(anna, ask("mine")))
        await asyncio.to_thread(gate.wait_for_call, 1)
        for request in (ask("mine"), ask("mine", prompt="another")):
            error = await refusal(bert, request)
            assert isinstance(error, PermissionDenied)
            assert error.reason == "foreign_request"
        assert not (await bert.Cancel(edge_pb2.CancelRequest(request_id="mine"))).cancelled
        assert not (await bert.Cancel(edge_pb2.CancelRequest(request_id="none"))).cancelled
        gate.lift()
        picture = drawn_here(family, task(plan("edge/large", 4)))
        assert (await running).rgb == picture.tobytes()
        assert isinstance(await refusal(bert, ask("mine")), PermissionDenied)
        assert isinstance(await refusal(anna, ask("mine", prompt="another")), InvalidRequest)
        assert texts.encoded == 1
        assert (await drawn(anna, ask("mine"))).rgb == picture.tobytes()
        assert not (await admin.Cancel(edge_pb2.CancelRequest(request_id="mine"))).cancelled


async def test_the_operator_cancels_what_runs(
    family: LoadedFamily, credentials: Credentials
) -> None:
    gate = Gate()
    tokens = credentials.folder / "edge" / "tokens.toml"
    async with (
        edge(family, gate, tokens=tokens) as node,
        open_channel(node.address, Access(token=credentials.token("anna"))) as channel,
        open_channel(node.address, Access(token=credentials.token("admin"))) as other,
    ):
        running = asyncio.ensure_future(refusal(EdgeStub(channel), ask("mine")))
        await asyncio.to_thread(gate.wait_for_call, 1)
        answer = await EdgeStub(other).Cancel(edge_pb2.CancelRequest(request_id="mine"))
        assert answer.cancelled
        gate.lift()
        assert (await running).status == "CANCELLED"


async def test_a_certificate_gives_the_role(family: LoadedFamily, credentials: Credentials) -> None:
    async with edge(family, **credentials.server("edge", mutual=True)) as node:
        for name, expected in (
            ("anna", None), ("edge", PermissionDenied), ("coordinator", Unauthenticated)
        ):  # fmt: skip
            access = credentials.access(name, mutual=True)
            async with open_channel(node.address, access) as channel:
                if expected is None:
                    assert (await drawn(EdgeStub(channel), ask(name))).width == 16
                    continue
                error = await refusal(EdgeStub(channel), ask(name))
                assert type(error) is expected
                assert one_line(error)
