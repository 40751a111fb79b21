"""What containers ask of their node, against real nodes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from baton.common.rpc.channel import bind, make_server
from baton.common.rpc.serving import Health
from deploy import certificates, healthcheck
from tests.support.nodes import closed_port, coordinator


async def check(address: str, ca: Path) -> int:
    return await asyncio.to_thread(healthcheck.main, address, ca)


async def test_a_server_is_healthy_while_it_serves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = make_server()
    health = Health(server, [])
    address = f"127.0.0.1:{bind(server, '127.0.0.1', 0)}"
    await server.start()
    try:
        for set_state, state, code in (
            (health.serving, "SERVING", 0),
            (health.draining, "NOT_SERVING", 1),
        ):
            await set_state()
            assert await check(address, tmp_path / "none") == code
            assert capsys.readouterr().out == f"{address}: {state}\n"
    finally:
        await server.stop(0)


async def test_an_encrypted_node_is_asked_by_tls_alone(tmp_path: Path) -> None:
    certificates.main([str(tmp_path)])
    own = tmp_path / "coordinator"
    files = {"tls_cert": own / "cert.pem", "tls_key": own / "key.pem"}
    async with coordinator(**files) as node:
        assert await check(node.address, tmp_path / "ca.pem") == 0
        assert await check(node.address, tmp_path / "none") == 1


async def test_nobody_and_an_unusable_authority_are_unhealthy(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nonsense")
    assert await check(closed_port(), tmp_path / "none") == 1
    async with coordinator() as node:
        assert await check(node.address, tmp_path / "ca.pem") == 1
        assert await check(node.address, tmp_path) == 1
