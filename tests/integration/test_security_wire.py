"""What somebody on the network can read, alter or pretend; what the coordinator gets to see."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from baton.common.errors import BatonError, InvalidRequest, Unauthenticated, Unreachable
from baton.common.families.loaded import LoadedFamily
from baton.common.rpc.access import Access, AdminSettings, ServerAccess
from baton.common.rpc.channel import open_channel
from baton.common.rpc.edge_status import edge_status
from baton.v1.edge_pb2_grpc import EdgeStub
from tests.integration.test_edge_service_refusals import ask, drawn, refusal
from tests.support.nodes import Cable, coordinator, device, edge, one_line, settled, until
from tests.support.security import Credentials

MARKER = "xyzzyquux"
PROMPT = f"a red cat and a {MARKER}"


class Tap:
    """Keeps what goes by and, once told to, flips a bit of every piece."""

    def __init__(self) -> None:
        self.seen = bytearray()
        self.altering = False

    def __call__(self, piece: bytes) -> bytes:
        self.seen += piece
        if not self.altering:
            return piece
        return piece[:-1] + bytes([piece[-1] ^ 1])


@asynccontextmanager
async def tapped(target: str) -> AsyncIterator[tuple[Tap, str]]:
    """A tap on the way to a node, and the address at which it listens."""
    tap = Tap()
    async with Cable(tap) as cable:
        cable.target = target
        yield tap, cable.address


@pytest.mark.parametrize("encrypted", [True, False])
async def test_tls_hides_prompts_pictures_and_tokens(
    encrypted: bool, family: LoadedFamily, credentials: Credentials
) -> None:
    fields = credentials.server("edge", tokens=True)
    access = credentials.access("anna", tokens=True)
    if not encrypted:
        fields = {"tokens": fields["tokens"]}
        access = Access(token=credentials.token("anna"))
    async with (
        edge(family, **fields) as node,
        tapped(node.node.address) as (tap, address),
        open_channel(address, access) as channel,
    ):
        picture = await drawn(EdgeStub(channel), ask(prompt=PROMPT))
    secrets = (MARKER.encode(), picture.rgb[:64], credentials.token("anna").encode())
    assert [secret in tap.seen for secret in secrets] == [not encrypted] * 3


async def test_what_is_altered_on_its_way_is_not_believed(
    family: LoadedFamily, credentials: Credentials
) -> None:
    async with (
        edge(family, **credentials.server("edge", mutual=True)) as node,
        tapped(node.node.address) as (tap, address),
        open_channel(address, credentials.access("anna", mutual=True)) as channel,
    ):
        stub = EdgeStub(channel)
        assert (await drawn(stub, ask("one"))).width == 16
        tap.altering = True
        assert isinstance(await refusal(stub, ask("two")), Unreachable)
        assert node.registry.counts.completed == 1
        assert node.registry.unfinished == 0


async def failure(address: str, access: Access) -> BatonError:
    with pytest.raises(BatonError) as caught:
        await edge_status(address, access)
    one_line(caught.value)
    return caught.value


async def test_a_nodes_certificate_is_good_for_its_addresses_alone(
    family: LoadedFamily, credentials: Credentials
) -> None:
    access = credentials.access("admin", mutual=True)
    fields = credentials.server("edge", mutual=True)
    async with edge(family, host="127.0.0.2", **fields) as node:
        assert isinstance(await failure(node.node.address, access), Unreachable)
        assert (await edge_status(node.address, access))["family"] == family.name


async def test_a_persons_certificate_makes_no_node(
    family: LoadedFamily, credentials: Credentials
) -> None:
    async with edge(family, **credentials.pair("anna")) as node:
        error = await failure(node.address, credentials.access("bert"))
        assert isinstance(error, Unreachable)


async def test_where_both_are_asked_for_the_token_says_who_it_is(
    family: LoadedFamily, credentials: Credentials
) -> None:
    both = credentials.access("anna", mutual=True)
    async with edge(family, **credentials.server("edge", mutual=True, tokens=True)) as node:
        error = await failure(node.address, both)
        assert isinstance(error, Unauthenticated)
        assert error.reason == "token_missing"
        as_admin = Access(both.tls, credentials.token("admin"))
        assert (await edge_status(node.address, as_admin))["family"] == family.name
        async with open_channel(node.address, as_admin) as channel:
            assert "role admin" in str(await refusal(EdgeStub(channel), ask()))


async def test_two_authorities_may_share_a_file(
    family: LoadedFamily, credentials: Credentials, others: Credentials, tmp_path: Path
) -> None:
    together = tmp_path / "both.pem"
    together.write_bytes(credentials.ca.read_bytes() + others.ca.read_bytes())
    fields = credentials.server("edge", mutual=True) | {"tls_client_ca": together}
    async with edge(family, **fields) as node:
        for whose in (credentials, others):
            files = credentials.client("anna") | whose.pair("anna") | {"tls_ca": together}
            access = AdminSettings.model_validate(files).access()
            assert (await edge_status(node.address, access))["family"] == family.name


def test_a_node_does_not_start_with_a_certificate_that_has_expired(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "edge")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(now - datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (tmp_path / "cert.pem").write_bytes(certificate.public_bytes(pem))
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (tmp_path / "key.pem").write_bytes(key.private_bytes(pem, *private))
    settings = ServerAccess(tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem")
    with pytest.raises(InvalidRequest, match="expired"):
        settings.guard()


async def test_the_coordinator_is_sent_neither_prompt_nor_picture(
    family: LoadedFamily, family_folder: Path
) -> None:
    """All that goes there or comes back, from the device and from the edge."""
    arms = ("edge/large@0.5>device/small", "edge", "device")
    async with (
        coordinator() as brain,
        tapped(brain.address) as (tap, address),
        edge(family, coordinator=address),
    ):
        await until(brain.fleet.nodes)
        with device(family_folder, coordinator=address) as client:
            results = [
                await client.generate(PROMPT, negative_prompt=f"no {MARKER}", arm=arm, steps=4)
                for arm in arms
            ]
        await settled(brain)
        record = await brain.decider.find(results[0].decision_id)
    assert record.state == "rewarded"
    assert results[0].request_id.encode() in tap.seen
    assert MARKER.encode() not in tap.seen
    for result in results:
        assert result.picture.tobytes()[:64] not in tap.seen
