"""Who may call, and bearer tokens: long random texts, kept on the server as hashes only.

The file is TOML, one line per token, the SHA-256 of the token in front (``sha256sum`` makes it)::

    "sha256:9f86d081..." = { name = "anna", role = "device" }

Only the hash, so that the file, its backups and whoever reads them let nobody in. A plain hash is
enough because tokens are random, not chosen: there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from baton.common.errors import InvalidRequest
from baton.common.rpc.tls import read_bytes

Role = Literal["device", "operator", "edge", "admin", "anonymous"]

#: Roles that a token or a certificate may give.
ROLES: tuple[Role, ...] = tuple(role for role in get_args(Role) if role != "anonymous")
MIN_TOKEN_CHARS = 32

_NAME = re.compile(r"[A-Za-z0-9._@:-]{1,128}")
_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{32,512}")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls. ``name`` is empty for the anonymous caller of a node that asks nobody."""

    name: str
    role: Role

    @classmethod
    def named(cls, name: str, role: str) -> Identity:
        """Raises InvalidRequest unless the name is an id and the role a known one."""
        if not _NAME.fullmatch(name):
            raise InvalidRequest("a name is 1 to 128 letters, digits, '.', '_', '@', ':' or '-'")
        for known in ROLES:
            if role == known:
                return cls(name, known)
        raise InvalidRequest(f"unknown role {role[:32]!r}; known: {', '.join(ROLES)}")


ANONYMOUS = Identity("", "anonymous")


@dataclass(frozen=True)
class TokenTable:
    """Identities by the SHA-256 of their tokens."""

    entries: Mapping[bytes, Identity] = field(repr=False)

    def find(self, token: str) -> Identity | None:
        """Whose token it is. Looks at every entry, so that the time tells nothing of them."""
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        found: Identity | None = None
        for known, identity in self.entries.items():
            if hmac.compare_digest(known, digest):
                found = identity
        return found


def check_token(token: str) -> str:
    """Raises InvalidRequest for a token that is short or could not travel in a header."""
    if not _TOKEN.fullmatch(token):
        raise InvalidRequest(
            f"a token has {MIN_TOKEN_CHARS} to 512 letters, digits or '-._~+/='; make one with"
            " `openssl rand -hex 32`"
        )
    return token


def read_text(path: Path, setting: str, encoding: str = "ascii") -> str:
    """Raises InvalidRequest, naming the setting."""
    try:
        return read_bytes(path, setting).decode(encoding)
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{setting} {path} is not plain text") from error


def read_tokens(path: Path) -> TokenTable:
    """The file's table. Raises InvalidRequest, naming the file and the entry."""
    try:
        raw = tomllib.loads(read_text(path, "tokens", "utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"cannot read tokens {path}: {error}") from error
    entries = dict(_entry(path, key, value) for key, value in raw.items())
    roles: dict[str, Role] = {}
    for identity in entries.values():
        if roles.setdefault(identity.name, identity.role) != identity.role:
            raise InvalidRequest(f"tokens {path}: {identity.name} has two roles; use two names")
    return TokenTable(entries)


def _entry(path: Path, key: str, value: object) -> tuple[bytes, Identity]:
    digest = _HASH.fullmatch(key)
    if digest is None:  # the key is not shown: it may be a token
        raise InvalidRequest(f'tokens {path}: a key is not of the form "sha256:<64 hex digits>"')
    where = f"tokens {path}, {key[:15]}..."
    if not isinstance(value, dict) or set(value) != {"name", "role"}:
        raise InvalidRequest(f"{where}: expected {{ name = ..., role = ... }}")
    try:
        identity = Identity.named(str(value["name"]), str(value["role"]))
    except InvalidRequest as error:
        raise InvalidRequest(f"{where}: {error}") from error
    return bytes.fromhex(digest[1]), identity
