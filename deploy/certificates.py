"""Writes what the nodes of one Baton need to know one another: certificates, tokens, ticket keys.

    python deploy/certificates.py OUT --host edge.example.org --host 10.0.0.5

Makes an authority and, in a folder each, ``coordinator``, ``edge``, ``device`` and ``admin`` with a
certificate (name and role in its subject), a key, a random token and a ``config.toml`` to start
from. What is there already is kept: delete a folder and run again to renew it, name more edges and
devices to add them. Keep ``ca.key`` off the nodes. It needs the package ``cryptography`` alone.
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

_CONFIGS = {
    "coordinator": """\
[coordinator]
host = "0.0.0.0"
tls_cert = "{here}/cert.pem"
tls_key = "{here}/key.pem"
tls_client_ca = "{out}/ca.pem"
ticket_key = "{here}/ticket.key"
# tokens = "{here}/tokens.toml"  # callers prove themselves by token instead of certificate
""",
    "edge": """\
[edge]
node_id = "{name}"
host = "0.0.0.0"
# advertise = "HOST:7701"    # where devices reach this edge
# coordinator = "HOST:7700"
tls_cert = "{here}/cert.pem"
tls_key = "{here}/key.pem"
tls_ca = "{out}/ca.pem"
tls_client_ca = "{out}/ca.pem"
tickets = "required"
# tokens = "{here}/tokens.toml"  # callers prove themselves by token instead of certificate
# token_file = "{here}/token"    # for a coordinator with tokens
""",
    "device": """\
[device]
# coordinator = "HOST:7700"
tls_ca = "{out}/ca.pem"
tls_cert = "{here}/cert.pem"
tls_key = "{here}/key.pem"
# token_file = "{here}/token"    # for nodes with tokens
""",
    "admin": """\
[admin]
tls_ca = "{out}/ca.pem"
tls_cert = "{here}/cert.pem"
tls_key = "{here}/key.pem"
# token_file = "{here}/token"    # for nodes with tokens
""",
}


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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--host", action="append", default=[], help="name or IP of a server")
    parser.add_argument("--edge", action="append", default=[], help="name of an edge")
    parser.add_argument("--device", action="append", default=[], help="name of a device")
    options = parser.parse_args(arguments)
    out: Path = options.out.resolve()
    try:
        out.mkdir(parents=True, exist_ok=True)
        authority = _authority(out)
        hosts = list(dict.fromkeys([*options.host, *HERE]))
        holders = {"coordinator": "coordinator", "admin": "admin"}
        holders |= dict.fromkeys(options.edge or ["edge"], "edge")
        holders |= dict.fromkeys(options.device or ["device"], "device")
        for name, kind in holders.items():
            _holder(out, name, kind, authority, hosts)
        _write_tokens(out)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {out}; keep {out}/ca.key off the nodes")
    return 0


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


def _holder(out: Path, name: str, kind: str, authority: Authority, hosts: list[str]) -> None:
    """The folder of one node or person."""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}", name):
        raise ValueError(f"{name!r}: a name is letters, digits, '.', '_' and '-'")
    here = out / name
    if (here / "config.toml").exists():
        return
    here.mkdir(exist_ok=True)
    certificate, key = authority.issue(name, kind, hosts if kind in SERVERS else [])
    _write(here / "cert.pem", certificate)
    _write(here / "key.pem", key, secret=True)
    if kind == "coordinator":
        _ticket_key(here)
    else:
        _write(here / "token", secrets.token_hex(32).encode() + b"\n", secret=True)
    _write(here / "role", kind.encode())
    _write(here / "config.toml", _CONFIGS[kind].format(here=here, out=out, name=name).encode())


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
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


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
