"""Certificates, tokens and tickets for tests, made once a session by the script that users run."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from baton.common.diffusion.conditioning import Conditioning
from baton.common.families.architectures.adapter import Texts
from baton.common.families.loaded import LoadedFamily
from baton.common.rpc.access import Access, AdminSettings
from baton.common.rpc.tickets import Signer, Ticket
from deploy.certificates import main as make_certificates
from tests.support.engines import BeforeCall, WatchedFamily

NAMES = ("coordinator", "edge", "thief", "anna", "bert", "admin")


@dataclass(frozen=True)
class Credentials:
    """The folder that the script wrote, as settings."""

    folder: Path

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    def token(self, name: str) -> str:
        return (self.folder / name / "token").read_text().strip()

    def pair(self, name: str) -> dict[str, object]:
        here = self.folder / name
        return {"tls_cert": here / "cert.pem", "tls_key": here / "key.pem"}

    def server(self, name: str, mutual: bool = False, tokens: bool = False) -> dict[str, object]:
        """Of a node that speaks TLS; also of an edge that calls a coordinator of the kind."""
        fields = self.pair(name)
        if mutual:
            fields["tls_client_ca"] = self.ca
        if tokens:
            fields["tokens"] = self.folder / "edge" / "tokens.toml"
        if name != "coordinator":
            fields["tls_ca"] = self.ca
            if tokens:
                fields["token"] = self.token(name)
        return fields

    def client(self, name: str, mutual: bool = False, tokens: bool = False) -> dict[str, object]:
        fields: dict[str, object] = {"tls_ca": self.ca}
        if mutual:
            fields |= self.pair(name)
        if tokens:
            fields["token"] = self.token(name)
        return fields

    def access(self, name: str, mutual: bool = False, tokens: bool = False) -> Access:
        return AdminSettings.model_validate(self.client(name, mutual, tokens)).access()


@cache
def _made(folder: Path) -> Credentials:
    names = ["--edge", "edge", "--edge", "thief", "--device", "anna", "--device", "bert"]
    assert make_certificates([str(folder), *names]) == 0
    return Credentials(folder)


@pytest.fixture(scope="session")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    """One authority and its holders; read only."""
    return _made(tmp_path_factory.getbasetemp() / "credentials")


@pytest.fixture(scope="session")
def others(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    """The same names under an authority that nobody trusts; read only."""
    return _made(tmp_path_factory.getbasetemp() / "other-credentials")


def new_signer() -> Signer:
    return Signer(Ed25519PrivateKey.generate())


def a_ticket(**fields: object) -> Ticket:
    """A good ticket of the tiny family for an edge called edge-test, unless fields say else."""
    now = int(time.time())
    ticket = Ticket(
        id="0123456789abcdef",
        audience=("edge-0", "edge-test"),
        subject="",
        request_id="good",
        family="tiny",
        fingerprint="",
        max_steps=4,
        arm=None,
        max_width=16,
        max_height=16,
        count=1,
        not_before=now,
        expires=now + 600,
    )
    return replace(ticket, **fields)  # type: ignore[arg-type]


class EncodeCounter(WatchedFamily):
    """The same family, which also counts the texts that it encodes."""

    def __init__(self, family: LoadedFamily, before: BeforeCall) -> None:
        super().__init__(family, before)
        self.encoded = 0
        self.models, encode = copy.copy(family.models), family.models.encode

        def counting(member: str, texts: Sequence[Texts]) -> list[Conditioning]:
            self.encoded += len(texts)
            return encode(member, texts)

        self.models.encode = counting  # type: ignore[method-assign]
