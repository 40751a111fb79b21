"""Whom a busy edge serves: callers' shares, priorities by role, and deadlines, over the wire."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from torch import Tensor

from baton.common.errors import (
    BatonError,
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    PermissionDenied,
)
from baton.common.families.loaded import LoadedFamily
from baton.common.rpc.access import Access
from baton.common.rpc.channel import channel_to
from baton.common.rpc.convert import plan_to_proto
from baton.common.rpc.status import from_rpc_error
from baton.v1.edge_pb2_grpc import EdgeStub
from tests.integration.test_edge_service import ask, follow
from tests.support.engines import BeforeCall, Gate
from tests.support.nodes import Edge, edge, until
from tests.support.tasks import plan

ROLES = {"flood": "device", "modest": "device", "boss": "operator"}
CAPACITY = 5


def short(name: str, **fields: Any) -> Any:
    """A request of one call."""
    return ask(name, plan=plan_to_proto(plan("edge/small", 1, guidance=1.0)), **fields)


class World:
    """An edge that runs one request at a time and asks for tokens; ends in their order."""

    def __init__(self, node: Edge, gate: Gate, stubs: dict[str, Any]) -> None:
        self.node, self.gate, self._stubs = node, gate, stubs
        self.ended: list[str] = []
        self.errors: dict[str, BatonError] = {}

    async def send(self, caller: str, name: str, **fields: Any) -> asyncio.Task[None]:
        """Send a request of a call, and wait until it is taken or refused."""
        known = self._taken()
        sent = asyncio.create_task(self._follow(caller, name, fields))
        await until(lambda: sent.done() or self._taken() != known)
        return sent

    async def flood(self, count: int) -> list[asyncio.Task[None]]:
        """Send so many of one caller, of which one runs and the others wait."""
        sent = [await self.send("flood", "f0")]
        await until(lambda: self.node.registry.occupancy().active == 1)
        return sent + [await self.send("flood", f"f{number}") for number in range(1, count)]

    def _taken(self) -> int:
        registry = self.node.registry
        return registry.unfinished + registry.counts.displaced

    async def refused(self, caller: str, name: str, **fields: Any) -> BatonError:
        await (await self.send(caller, name, **fields))
        return self.errors.pop(name)

    async def _follow(self, caller: str, name: str, fields: dict[str, Any]) -> None:
        try:
            await follow(self._stubs[caller], short(name, **fields))
        except grpc.aio.AioRpcError as error:
            self.errors[name] = from_rpc_error(error, "the edge")
        else:
            self.ended.append(name)


@contextlib.asynccontextmanager
async def world_of(
    family: LoadedFamily, folder: Path | None, gate: Gate, **settings: Any
) -> AsyncIterator[World]:
    """folder: for the tokens; None: the edge asks nobody for a name."""
    tokens = {name: secrets.token_hex(32) for name in ROLES}
    if folder is not None:
        lines = [
            f'"sha256:{hashlib.sha256(tokens[name].encode()).hexdigest()}"'
            f' = {{ name = "{name}", role = "{role}" }}'
            for name, role in ROLES.items()
        ]
        (folder / "tokens.toml").write_text("\n".join(lines))
        settings["tokens"] = folder / "tokens.toml"
    limits = {"max_active": 1, "max_queue": CAPACITY - 1}
    async with contextlib.AsyncExitStack() as stack:
        node = await stack.enter_async_context(edge(family, gate, **(limits | settings)))
        stack.callback(gate.lift)
        stubs = {}
        for name, token in tokens.items():
            access = Access(token=token if folder else "")
            stubs[name] = EdgeStub(
                await stack.enter_async_context(channel_to(node.address, access))
            )
        yield World(node, gate, stubs)


@pytest.fixture
async def world(family: LoadedFamily, tmp_path: Path) -> AsyncIterator[World]:
    async with world_of(family, tmp_path, Gate()) as made:
        yield made


async def test_a_modest_caller_is_served_in_turn_though_another_has_flooded_the_edge(
    world: World,
) -> None:
    sent = await world.flood(CAPACITY)
    assert isinstance(await world.refused("flood", "f5"), Overloaded)
    sent += [await world.send("modest", "m0"), await world.send("modest", "m1")]
    assert world.node.registry.unfinished == CAPACITY
    await until(lambda: len(world.errors) == 2)
    for name in ("f3", "f4"):  # its newest ones
        error = world.errors.pop(name)
        assert isinstance(error, Overloaded)
        assert "made room for another caller" in str(error)
        assert error.retry_after > 0
    world.gate.lift()
    await asyncio.gather(*sent)
    assert world.ended == ["f0", "f1", "m0", "f2", "m1"]
    assert world.node.registry.counts.displaced == 2
    assert not world.errors


async def test_what_was_displaced_may_come_again_under_its_id(world: World) -> None:
    sent = await world.flood(CAPACITY)
    sent.append(await world.send("modest", "m0"))
    await until(lambda: "f4" in world.errors)
    world.gate.lift()
    await asyncio.gather(*sent)
    await (await world.send("flood", "f4"))
    assert world.ended[-1] == "f4"


async def test_a_request_of_an_operator_goes_before_others_that_wait(world: World) -> None:
    sent = await world.flood(3)
    sent.append(await world.send("boss", "low"))
    sent.append(await world.send("boss", "high", priority=2))
    world.gate.lift()
    await asyncio.gather(*sent)
    assert world.ended == ["f0", "high", "f1", "low", "f2"]


async def test_a_priority_is_for_operators_and_has_bounds(world: World) -> None:
    error = await world.refused("flood", "x", priority=1)
    assert isinstance(error, PermissionDenied)
    assert (error.reason, str(error).count("\n")) == ("wrong_role", 0)
    assert "priority 0" in str(error)
    for priority in (-1, 4):
        error = await world.refused("boss", "x", priority=priority)
        assert isinstance(error, InvalidRequest)
    assert world.node.registry.unfinished == 0


async def test_an_edge_that_asks_nobody_for_a_name_takes_anybodys_priority(
    family: LoadedFamily,
) -> None:
    """All who come from one machine are one caller there."""
    async with world_of(family, None, Gate()) as world:
        sent = await world.flood(CAPACITY - 1)
        sent.append(await world.send("modest", "m0", priority=1))
        assert isinstance(await world.refused("modest", "m1"), Overloaded)
        world.gate.lift()
        await asyncio.gather(*sent)
        assert world.ended == ["f0", "m0", "f1", "f2", "f3"]


SECONDS = 0.02


class Slow(Gate):
    """Every call takes some time, as of a large model."""

    def __call__(self, member: str, x: Tensor) -> None:
        time.sleep(SECONDS)
        super().__call__(member, x)


async def test_what_would_break_a_promise_is_refused_at_once_and_what_cannot_end_at_all(
    family: LoadedFamily,
) -> None:
    """Each request takes a call of its own: two at once take twice as long as one."""
    gate = Slow()
    gate.lift()
    steps, calls = 20, {"max_active": 2, "max_rows": 2, "profile": "off"}
    of = plan_to_proto(plan("edge/large", steps))
    before: BeforeCall = gate
    async with edge(family, before, **calls) as node, channel_to(node.address) as channel:
        stub = EdgeStub(channel)
        await follow(stub, ask("measured", plan=of))
        patient = asyncio.create_task(follow(stub, ask("patient", plan=of)))
        await until(lambda: node.registry.occupancy().active == 1)
        for seconds, refusal in (
            (0.9 * steps * SECONDS, DeadlineExceeded),
            (1.5 * steps * SECONDS, DeadlineExceeded | Overloaded),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Denoise(ask("hasty", plan=of), timeout=seconds).read()
            assert isinstance(from_rpc_error(caught.value, "the edge"), refusal)
        assert (await patient).kinds[-1] == "image"
        assert node.registry.counts.expired == 0
