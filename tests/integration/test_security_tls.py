"""Nodes over TLS and mTLS: what connects, and what a failed handshake tells."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from baton.common.errors import BatonError, InvalidRequest, Unreachable
from baton.common.families.loaded import LoadedFamily
from baton.common.rpc.access import OPEN, Access
from baton.common.rpc.channel import channel_to
from baton.common.rpc.edge_status import edge_status
from baton.common.rpc.status import from_rpc_error
from baton.common.rpc.tls import ClientTls
from baton.edge_server.daemon import running as edge_running
from baton.edge_server.settings import EdgeSettings
from baton.v1.edge_pb2_grpc import EdgeStub
from tests.integration.test_edge_service_refusals import ask
from tests.support.engines import Gate
from tests.support.nodes import (
    Edge,
    check_executed,
    closed_port,
    coordinator,
    device,
    drawn_here,
    edge,
    one_line,
    settled,
    until,
)
from tests.support.security import Credentials
from tests.support.tasks import PROMPTS

KINDS = {"TLS and tokens": {"tokens": True}, "mTLS": {"mutual": True},
         "both": {"mutual": True, "tokens": True}}  # fmt: skip


@pytest.fixture
async def guarded(family: LoadedFamily, credentials: Credentials) -> AsyncIterator[Edge]:
    """An edge that asks for certificates."""
    async with edge(family, **credentials.server("edge", mutual=True)) as node:
        yield node


async def failure(address: str, access: Access) -> BatonError:
    with pytest.raises(BatonError) as caught:
        await edge_status(address, access)
    one_line(caught.value)
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
async def test_a_relay_runs_over_guarded_nodes(
    kind: str, credentials: Credentials, family: LoadedFamily, family_folder: Path
) -> None:
    how = KINDS[kind]
    async with coordinator(**credentials.server("coordinator", **how)) as brain:
        fields = credentials.server("edge", **how)
        async with edge(family, coordinator=brain.address, tickets="required", **fields) as node:
            await until(brain.fleet.nodes)
            with device(
                family_folder, coordinator=brain.address, **credentials.client("anna", **how)
            ) as client:
                result = await client.generate(
                    PROMPTS[0], arm="edge/large@0.5>device/small", steps=4
                )
            assert node.registry.counts.completed == 1
        await settled(brain)
        record = await brain.decider.find(result.decision_id)
    assert result.notes == ()
    check_executed(result.executed, result.task.plan)
    assert (drawn_here(family, result.task) == result.picture).all()
    assert (record.owner, record.state) == ("anna", "rewarded")


async def test_a_plain_caller_of_a_tls_node_hears_of_tls(guarded: Edge) -> None:
    error = await failure(guarded.address, OPEN)
    assert isinstance(error, Unreachable)
    assert "TLS" in str(error)
    assert "tls_ca" in str(error)


async def test_a_tls_caller_of_a_plain_node_hears_of_tls(
    family: LoadedFamily, credentials: Credentials
) -> None:
    async with edge(family) as plain:
        error = await failure(plain.address, credentials.access("anna"))
    assert isinstance(error, Unreachable)
    assert "TLS" in str(error)


async def test_an_authority_that_did_not_sign_is_told(guarded: Edge, others: Credentials) -> None:
    error = await failure(guarded.address, others.access("anna", mutual=True))
    assert isinstance(error, Unreachable)
    assert "tls_ca" in str(error)


async def test_a_caller_without_a_certificate_does_not_get_in(
    guarded: Edge, credentials: Credentials
) -> None:
    error = await failure(guarded.address, credentials.access("anna"))
    assert isinstance(error, Unreachable)
    assert "tls_cert" in str(error)


async def test_a_certificate_of_another_authority_does_not_get_in(
    guarded: Edge, credentials: Credentials, others: Credentials
) -> None:
    pair = others.access("anna", mutual=True).tls
    trusted = credentials.access("anna").tls
    assert pair is not None
    assert trusted is not None
    error = await failure(guarded.address, Access(ClientTls(trusted.ca, pair.pair)))
    assert isinstance(error, Unreachable)


async def test_nobody_at_home_is_not_blamed_on_tls(credentials: Credentials) -> None:
    for access in (OPEN, credentials.access("anna")):
        assert "TLS" not in str(await failure(closed_port(), access))


async def test_a_cut_connection_is_not_blamed_on_tls(family: LoadedFamily) -> None:
    """Once it stood, it cannot have been the handshake."""
    gate = Gate()
    async with edge(family, gate) as node, channel_to(node.address) as channel:
        call = EdgeStub(channel).Denoise(ask("cut"), timeout=60)
        await asyncio.to_thread(gate.wait_for_call, 1)
        node.cable.cut()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            [event async for event in call]
    assert "TLS" not in str(from_rpc_error(caught.value, "edge"))


@pytest.mark.parametrize("kind", ["nothing", "TLS alone", "tokens alone"])
async def test_an_unguarded_node_stays_on_this_machine(
    kind: str, family: LoadedFamily, credentials: Credentials
) -> None:
    tokens = {"tokens": credentials.folder / "edge" / "tokens.toml"}
    fields = {"nothing": {}, "TLS alone": credentials.pair("edge"), "tokens alone": tokens}[kind]
    settings = EdgeSettings.model_validate({"host": "0.0.0.0", "port": 0} | fields)
    with pytest.raises(InvalidRequest, match="--insecure"):
        async with edge_running(settings, family):
            pass
    with pytest.raises(InvalidRequest, match="--insecure"):
        async with coordinator(host="0.0.0.0", **fields):
            pass


async def test_a_guarded_node_may_leave_this_machine(
    family: LoadedFamily, credentials: Credentials
) -> None:
    fields = {"host": "0.0.0.0", "port": 0} | credentials.server("edge", mutual=True)
    async with edge_running(EdgeSettings.model_validate(fields), family) as node:
        port = node.address.rpartition(":")[2]
        found = await edge_status(f"localhost:{port}", credentials.access("admin", mutual=True))
    assert found["family"] == family.name
