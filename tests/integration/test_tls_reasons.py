"""Why TLS failed, in words that say what to mend."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest

from baton.common.errors import BatonError, Unreachable
from baton.common.rpc.access import OPEN, Access, Guard
from baton.common.rpc.channel import bind, make_server
from baton.common.rpc.edge_status import edge_status
from baton.common.rpc.tls import ClientTls, KeyPair, ServerTls
from tests.support.certificates import Issuer
from tests.support.nodes import one_line
from tests.support.strangers import hanging_up, listening, saying

ROOT = Issuer.new("root", hosts=())
MIDDLE = Issuer.new("middle", ROOT, hosts=())
OTHER = Issuer.new("other root", hosts=())
NAMESAKE = Issuer.new("root", hosts=())
OLD = Issuer.new("root", days=(-9, -1), key=ROOT.key, hosts=())

GOOD = Issuer.new(signer=ROOT).pair
EXPIRED = Issuer.new(signer=ROOT, days=(-9, -1)).pair
EARLY = Issuer.new(signer=ROOT, days=(1, 9)).pair

#: What the node shows, and what must and must not be in the sentence.
NODES: dict[str, tuple[KeyPair, str, str]] = {
    "expired": (EXPIRED, "has expired", "not yet valid"),
    "not yet valid": (EARLY, "not yet valid", "expired"),
    "no intermediate": (Issuer.new(signer=MIDDLE).pair, "intermediate", "expired"),
    "wrong authority": (Issuer.new(signer=OTHER).pair, "no authority in tls_ca", "expired"),
    "authority of the same name": (
        Issuer.new(signer=NAMESAKE).pair,
        "another authority",
        "other hosts",
    ),
    "its own authority": (Issuer.new().pair, "not in tls_ca", "expired"),
    "wrong host name": (
        Issuer.new(signer=ROOT, hosts=["x.example.org"]).pair,
        "other hosts",
        "running",
    ),
}


@contextlib.asynccontextmanager
async def node(pair: KeyPair, client_ca: bytes | None = None) -> AsyncIterator[str]:
    tls = ServerTls(pair, client_ca)
    server = make_server(Guard(tls))
    port = bind(server, "127.0.0.1", 0, tls)
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(0)


async def failure(address: str, access: Access) -> str:
    with pytest.raises(BatonError) as caught:
        await edge_status(address, access)
    assert type(caught.value) is Unreachable
    told = one_line(caught.value)
    assert address in told
    assert "SSL_ERROR" not in told
    assert "OPENSSL" not in told
    return told


def trusting(ca: Issuer = ROOT, pair: KeyPair | None = None) -> Access:
    return Access(ClientTls(ca.pem, pair))


@pytest.mark.parametrize("kind", NODES)
async def test_what_is_wrong_with_a_nodes_certificate_is_told(kind: str) -> None:
    pair, words, others = NODES[kind]
    async with node(pair) as address:
        told = await failure(address, trusting())
    assert words in told
    assert others not in told


async def test_an_authority_that_has_expired_is_told() -> None:
    async with node(GOOD) as address:
        assert "has expired" in await failure(address, trusting(OLD))


async def test_a_chain_with_its_intermediate_is_taken() -> None:
    leaf = Issuer.new(signer=MIDDLE)
    chain = KeyPair(leaf.pem + MIDDLE.pem, leaf.key_pem)
    async with node(chain) as address:
        told = await failure_of_another_kind(address)
    assert "TLS" not in told


async def failure_of_another_kind(address: str) -> str:
    with pytest.raises(BatonError) as caught:
        await edge_status(address, trusting())
    return str(caught.value)


async def test_a_plain_caller_is_told_of_tls_and_no_certificate() -> None:
    async with node(GOOD) as address:
        told = await failure(address, OPEN)
    assert "may use TLS" in told
    assert "tls_ca" in told
    assert "tls_cert" not in told


async def test_a_plain_node_is_told() -> None:
    async with listening(saying(b"\0\0\0\4\0\0\0\0\0")) as address:
        assert "does not use TLS" in await failure(address, trusting())


async def test_a_node_that_asks_for_a_certificate_is_told() -> None:
    async with node(GOOD, ROOT.pem) as address:
        told = await failure(address, trusting())
    assert "may ask for a certificate: set tls_cert" in told


@pytest.mark.parametrize("pair", [EXPIRED, EARLY, Issuer.new(signer=OTHER).pair])
async def test_a_certificate_that_the_node_does_not_take_is_told(pair: KeyPair) -> None:
    async with node(GOOD, ROOT.pem) as address:
        told = await failure(address, trusting(pair=pair))
    assert "may not take the certificate in tls_cert" in told


async def test_who_hangs_up_in_the_handshake_is_told() -> None:
    async with listening(hanging_up) as address:
        assert "handshake" in await failure(address, trusting())
