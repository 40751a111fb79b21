r"""Writes what the nodes of one Baton need to know one another: certificates, tokens, ticket keys.

    python deploy/certificates.py OUT --coordinator coordinator.example.org \
        --edge edge=edge.example.org --device anna

Makes an authority and, in a folder each, ``coordinator``, the edges, the devices and ``admin`` with
a certificate (name and role in its subject), a key, a random token and a ``config.toml`` that a
node or a person starts with, on this machine or on another one that the folder is copied to. What
is there already is kept: delete a folder and run again to renew it, name more edges and devices to
add them. Keep ``ca.key`` off the nodes. It needs the package ``cryptography`` alone.

HOST is a name or an IP address, with a port if it is not the usual one: ``[2001:db8::5]:7801``.
A server's certificate is for its own HOST, for each ``--host``, and for this machine.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import ipaddress
import os
import re
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAYS = 825
CA_DAYS = 3650
HERE = ("localhost", "127.0.0.1", "::1")
SERVERS = ("coordinator", "edge")
COORDINATOR_PORT, EDGE_PORT = 7700, 7701

_PLACE = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+))(?::([0-9]{1,5}))?")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,252}")

_CONFIGS = {
    "coordinator": """\
[coordinator]
host = "{listen}"
{port}tls_cert = "cert.pem"
tls_key = "key.pem"
tls_client_ca = "ca.pem"
ticket_key = "ticket.key"
# tokens = "tokens.toml"  # callers prove themselves by token instead of certificate
""",
    "edge": """\
[edge]
node_id = "{name}"
host = "{listen}"
{port}{advertise}{coordinator}tls_cert = "cert.pem"
tls_key = "key.pem"
tls_ca = "ca.pem"
tls_client_ca = "ca.pem"
tickets = "required"
# tokens = "tokens.toml"  # callers prove themselves by token instead of certificate
# token_file = "token"    # for a coordinator with tokens
""",
    "device": """\
[device]
{coordinator}tls_ca = "ca.pem"
tls_cert = "cert.pem"
tls_key = "key.pem"
# token_file = "token"    # for nodes with tokens
""",
    "admin": """\
[admin]
tls_ca = "ca.pem"
tls_cert = "cert.pem"
tls_key = "key.pem"
# token_file = "token"    # for nodes with tokens
""",
}


@dataclass(frozen=True)
class Place:
    """Where a server is reached: a name or an IP address, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str, default_port: int) -> Place:
        """Of ``HOST`` or ``HOST:PORT``. Raises ValueError."""
        found = _PLACE.fullmatch(text)
        alone = _is_ip(text)
        if found is None and not alone:
            raise ValueError(f"{text!r} is not HOST or HOST:PORT")
        host, port = (text, None) if alone or found is None else (found[1] or found[2], found[3])
        place = cls(host, int(port or default_port))
        if not (_is_ip(host) or _HOST.fullmatch(host)) or not 0 < place.port < 65536:
            raise ValueError(f"{text!r} is not HOST or HOST:PORT")
        return place


@dataclass(frozen=True)
class Holder:
    """A node or a person. place: of a server, where it is known."""

    name: str
    kind: str
    place: Place | None = None


@dataclass(frozen=True)
class Site:
    """What the holders share. hosts: names of every server; coordinator: where it is, if known."""

    out: Path
    hosts: list[str]
    coordinator: Place | None


@dataclass(frozen=True)
class Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def issue(self, name: str, role: str, hosts: list[str]) -> tuple[bytes, bytes]:
        """A certificate and its key, PEM; with hosts, it also serves."""
        key = ec.generate_private_key(ec.SECP256R1())
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if hosts:
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        builder = _builder(_subject(name, role), self.certificate.subject, key, DAYS)
        builder = builder.add_extension(x509.BasicConstraints(False, None), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if hosts:
            names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        return _pem(builder.sign(self.key, hashes.SHA256())), _private_pem(key)


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    out: Path = options.out.resolve()
    try:
        out.mkdir(parents=True, exist_ok=True)
        authority = _authority(out)
        place = _coordinator_place(out, options.coordinator)
        site = Site(out, [*options.host, *HERE], place)
        holders = [Holder("coordinator", "coordinator", place), Holder("admin", "admin")]
        holders += [_edge(text) for text in options.edge or _first(out, "edge")]
        holders += [Holder(name, "device") for name in options.device or _first(out, "device")]
        for holder in holders:
            _write_holder(holder, site, authority)
        _write_tokens(out)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {out}; keep {out}/ca.key off the nodes")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("out", type=Path, help="folder to write to")
    add("--coordinator", metavar="HOST", help="where edges and devices find the coordinator")
    add("--edge", action="append", default=[], metavar="NAME[=HOST]",
        help="name of an edge, and where devices find it")  # fmt: skip
    add("--device", action="append", default=[], metavar="NAME", help="name of a device")
    add("--host", action="append", default=[], help="one more name or IP address of every server")
    return parser


def _first(out: Path, kind: str) -> list[str]:
    """The name of one that nobody has named, unless there are some already."""
    there = any(path.read_text() == kind for path in out.glob("*/role"))
    return [] if there else [kind]


def _edge(text: str) -> Holder:
    name, separator, host = text.partition("=")
    return Holder(name, "edge", Place.parse(host, EDGE_PORT) if separator else None)


def _coordinator_place(out: Path, text: str | None) -> Place | None:
    """As it is said, or was when the script ran before."""
    kept = out / "coordinator.address"
    if text is None and kept.exists():
        text = kept.read_text().strip()
    if text is None:
        return None
    place = Place.parse(text, COORDINATOR_PORT)
    _write(kept, f"{place}\n".encode())
    return place


def _authority(out: Path) -> Authority:
    key_path, path = out / "ca.key", out / "ca.pem"
    if key_path.exists() and path.exists():
        key = serialization.load_pem_private_key(key_path.read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError(f"{key_path} was not made by this script")
        return Authority(x509.load_pem_x509_certificate(path.read_bytes()), key)
    key = ec.generate_private_key(ec.SECP256R1())
    name = _subject(f"baton authority {secrets.token_hex(4)}", "authority")
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        _builder(name, name, key, CA_DAYS)
        .add_extension(x509.BasicConstraints(True, 0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    _write(key_path, _private_pem(key), secret=True)
    _write(path, _pem(certificate))
    return Authority(certificate, key)


def _write_holder(holder: Holder, site: Site, authority: Authority) -> None:
    """The folder of one node or person: all that it needs, wherever it is copied to."""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}", holder.name):
        raise ValueError(f"{holder.name!r}: a name is letters, digits, '.', '_' and '-'")
    here = site.out / holder.name
    if (here / "config.toml").exists():
        return
    if holder.kind == "edge" and site.coordinator and not holder.place:
        raise ValueError(f"say where devices find {holder.name}: --edge {holder.name}=HOST")
    here.mkdir(exist_ok=True)
    own = [holder.place.host] if holder.place else []
    hosts = list(dict.fromkeys([*own, *site.hosts])) if holder.kind in SERVERS else []
    certificate, key = authority.issue(holder.name, holder.kind, hosts)
    _write(here / "ca.pem", _pem(authority.certificate))
    _write(here / "cert.pem", certificate)
    _write(here / "key.pem", key, secret=True)
    if holder.kind == "coordinator":
        _ticket_key(here)
    else:
        _write(here / "token", secrets.token_hex(32).encode() + b"\n", secret=True)
    _write(here / "role", holder.kind.encode())
    _write(here / "config.toml", _config(holder, site).encode())


def _config(holder: Holder, site: Site) -> str:
    """Settings to start with. What nobody has said stands there as a comment."""
    place, coordinator = holder.place, site.coordinator
    ports = {"coordinator": COORDINATOR_PORT, "edge": EDGE_PORT}
    own_port = place is not None and place.port != ports[holder.kind]
    where = f'advertise = "{place}"' if place else '# advertise = "HOST:7701"'
    joins = f'coordinator = "{coordinator}"' if coordinator else '# coordinator = "HOST:7700"'
    return _CONFIGS[holder.kind].format(
        name=holder.name,
        listen="::" if place and ":" in place.host else "0.0.0.0",
        port=f"port = {place.port}\n" if place and own_port else "",
        advertise=f"{where}  # where devices reach this edge\n",
        coordinator=f"{joins}\n",
    )


def _ticket_key(here: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    _write(here / "ticket.key", _private_pem(key), secret=True)
    _write(here / "ticket.pub", public)


def _write_tokens(out: Path) -> None:
    """The table of every token's hash, for each server."""
    lines = ["# sha256 of a token = who carries it\n"]
    for path in sorted(out.glob("*/token")):
        digest = hashlib.sha256(path.read_text().strip().encode()).hexdigest()
        role = (path.parent / "role").read_text()
        lines.append(f'"sha256:{digest}" = {{ name = "{path.parent.name}", role = "{role}" }}\n')
    for role_file in out.glob("*/role"):
        if role_file.read_text() in SERVERS:
            _write(role_file.parent / "tokens.toml", "".join(lines).encode())


def _subject(name: str, role: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, name),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role),
        ]
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _general_name(host: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(host)) if _is_ip(host) else x509.DNSName(host)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private_pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(path: Path, data: bytes, secret: bool = False) -> None:
    """Aside, then renamed: a file that is there is taken for whole and kept."""
    aside = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        descriptor = os.open(
            aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if secret else 0o644
        )
        with open(descriptor, "wb") as file:
            file.write(data)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
