"""Certificates with whatever faults a test needs, which the script that users run does not make."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from baton.common.rpc.tls import KeyPair

HERE = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class Issuer:
    """A certificate and its key, which may sign others."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def pair(self) -> KeyPair:
        return KeyPair(self.pem, self.key_pem)

    def write(self, folder: Path) -> dict[str, Path]:
        """As the settings of a node."""
        files = {"tls_cert": folder / "cert.pem", "tls_key": folder / "key.pem"}
        files["tls_cert"].write_bytes(self.pem)
        files["tls_key"].write_bytes(self.key_pem)
        return files

    @classmethod
    def new(
        cls,
        name: str = "node",
        signer: Issuer | None = None,
        days: tuple[float, float] = (-1, 100),
        hosts: Sequence[str] = HERE,
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> Issuer:
        """Good from ``days[0]`` to ``days[1]`` after now; self-signed without a signer.

        Without hosts it is an authority's.
        """
        key = key or ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(signer.certificate.subject if signer else _name(name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(days=days[0]))
            .not_valid_after(now + timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(not hosts, None), critical=True)
        )
        if hosts:
            names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        return cls(builder.sign(signer.key if signer else key, hashes.SHA256()), key)


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
