"""Who a node trusts and who it says it is: settings that nodes share, and what they amount to.

Reads and checks files; gRPC is not imported, so that a command line answers without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict, SecretStr

from baton.common.config import UserPath
from baton.common.errors import InvalidRequest
from baton.common.rpc.tls import ClientTls, ServerTls, client_tls, first_end, server_tls
from baton.common.rpc.tokens import TokenTable, check_token, read_text, read_tokens


@dataclass(frozen=True)
class Access:
    """How a node reaches others. tls: None speaks plainly; token: sent with every call, if any.

    insecure: a token may travel in the clear beyond this machine.
    """

    tls: ClientTls | None = None
    token: str = field(default="", repr=False)
    insecure: bool = False


#: Plain and anonymous, for nodes on one machine.
OPEN = Access()


@dataclass(frozen=True)
class Guard:
    """Whom a server lets in. tls: None speaks plainly; tokens: None asks for none."""

    tls: ServerTls | None = None
    tokens: TokenTable | None = None

    @property
    def encrypted(self) -> bool:
        return self.tls is not None

    @property
    def authenticates(self) -> bool:
        """Whether every caller has to prove who it is, by a token or a certificate."""
        return self.tokens is not None or (self.tls is not None and self.tls.client_ca is not None)


#: Before a certificate ends, people are told of it for so long.
NOTICE = timedelta(days=30)
#: Lets everybody in, for nodes on one machine.
UNGUARDED = Guard()


class ClientAccess(BaseModel):
    """Settings of whoever calls a node.

    tls_ca: the authority that signs the nodes' certificates; set, calls use TLS. tls_cert and
    tls_key: this side's own certificate, for nodes that ask for one. token or token_file: the
    bearer token. insecure: leave is given to send a token in the clear.
    """

    tls_ca: UserPath | None = None
    tls_cert: UserPath | None = None
    tls_key: UserPath | None = None
    token: SecretStr = SecretStr("")
    token_file: UserPath | None = None
    insecure: bool = False

    def access(self) -> Access:
        """Read what the settings name. Raises InvalidRequest for a file that cannot be used."""
        token = self.token.get_secret_value()
        if token and self.token_file is not None:
            raise InvalidRequest("token and token_file are both set; keep one of them")
        if self.token_file is not None:
            token = read_text(self.token_file, "token_file").strip()
        if token or self.token_file is not None:
            check_token(token)
        if self.tls_cert is not None and self.tls_ca is None and not isinstance(self, ServerAccess):
            raise InvalidRequest("tls_cert without tls_ca: set the authority of the nodes, too")
        return Access(client_tls(self.tls_ca, self.tls_cert, self.tls_key), token, self.insecure)


class AdminSettings(ClientAccess):
    """``[admin]`` in the settings file, ``BATON_ADMIN_*`` in the environment.

    With what the operator's commands, such as ``baton-coordinator nodes``, call a node.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerAccess(BaseModel):
    """Settings of a node that listens.

    tls_cert and tls_key: its certificate; set, it speaks TLS only. tls_client_ca: the authority
    that signs the callers' certificates; set, each caller needs one (mTLS). tokens: a TOML file
    that says who carries which token; set, each caller needs one.
    """

    tls_cert: UserPath | None = None
    tls_key: UserPath | None = None
    tls_client_ca: UserPath | None = None
    tokens: UserPath | None = None
    insecure: bool = False

    def guard(self) -> Guard:
        """Read what the settings name. Raises InvalidRequest for a file that cannot be used."""
        return Guard(
            server_tls(self.tls_cert, self.tls_key, self.tls_client_ca),
            None if self.tokens is None else read_tokens(self.tokens),
        )


def ending_soon(settings: ClientAccess | ServerAccess) -> list[str]:
    """A line for each file of certificates of which one ends within `NOTICE`.

    Raises InvalidRequest for a file that cannot be used.
    """
    lines = []
    for setting in ("tls_cert", "tls_ca", "tls_client_ca"):
        path: Path | None = getattr(settings, setting, None)
        if path is None:
            continue
        end = first_end(path, setting)
        left = end - datetime.now(UTC)
        if left < NOTICE:
            ends = f"ends in {left.days} days," if left > timedelta() else "has one that ended"
            lines.append(f"{setting} {path} {ends} on {end.date()}; make a new one")
    return lines
