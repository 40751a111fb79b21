"""Certificates and keys as files: read, checked, and ready for gRPC's credentials.

A certificate names its holder: the common name is who, the organizational unit is the role.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from baton.common.config import user_path
from baton.common.errors import InvalidRequest

if TYPE_CHECKING:
    from cryptography import x509

_MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True)
class KeyPair:
    """A certificate, or a chain of them with the own one first, and its key; both PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True)
class ClientTls:
    """ca: PEM of the authorities whose servers are trusted; pair: what to show, if asked."""

    ca: bytes
    pair: KeyPair | None = None


@dataclass(frozen=True)
class ServerTls:
    """pair: what to show; client_ca: PEM of the authorities whose callers are let in, or None."""

    pair: KeyPair
    client_ca: bytes | None = None


def client_tls(ca: Path | None, certificate: Path | None, key: Path | None) -> ClientTls | None:
    """None without an authority. Raises InvalidRequest, naming setting and file."""
    pair = _pair(certificate, key)
    return None if ca is None else ClientTls(_authority(ca, "tls_ca"), pair)


def server_tls(
    certificate: Path | None, key: Path | None, client_ca: Path | None
) -> ServerTls | None:
    """None without a certificate. Raises InvalidRequest, naming setting and file."""
    pair = _pair(certificate, key)
    if pair is None:
        if client_ca is not None:
            raise InvalidRequest("tls_client_ca needs tls_cert and tls_key: set them, too")
        return None
    return ServerTls(pair, None if client_ca is None else _authority(client_ca, "tls_client_ca"))


def holder(certificate: bytes) -> tuple[str, str]:
    """Common name and organizational unit of a PEM certificate, empty where it has none."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    subject = x509.load_pem_x509_certificate(certificate).subject
    name, unit = (
        [str(item.value) for item in subject.get_attributes_for_oid(oid)]
        for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME)
    )
    return (name[0] if len(name) == 1 else "", unit[0] if len(unit) == 1 else "")


def read_bytes(path: Path, setting: str) -> bytes:
    """Raises InvalidRequest, naming the setting, for a file that is absent or out of bounds."""
    try:
        with user_path(path).open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidRequest(f"cannot read {setting} {path}: {error.strerror}") from error
    if len(data) > _MAX_FILE_BYTES:
        raise InvalidRequest(f"{setting} {path} is larger than {_MAX_FILE_BYTES} bytes")
    return data


def _pair(certificate: Path | None, key: Path | None) -> KeyPair | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise InvalidRequest("tls_cert and tls_key go together: set both or neither")
    pair = KeyPair(read_bytes(certificate, "tls_cert"), read_bytes(key, "tls_key"))
    _check_pair(pair, certificate, key)
    return pair


def _check_pair(pair: KeyPair, certificate: Path, key: Path) -> None:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    chain = _certificates(pair.certificate, certificate, "tls_cert")
    try:
        public = load_pem_private_key(pair.key, None).public_key()
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"tls_key {key} is not a PEM key without a passphrase") from error
    if chain[0].public_key() != public:
        raise InvalidRequest(f"tls_key {key} is not the key of tls_cert {certificate}")
    for link in chain:
        if fault := _date_fault(link):
            raise InvalidRequest(f"tls_cert {certificate} {fault}")


def _authority(path: Path, setting: str) -> bytes:
    """Of several authorities, as while one takes over from another, one must be good today."""
    data = read_bytes(path, setting)
    faults = [_date_fault(item) for item in _certificates(data, path, setting)]
    if all(faults):
        raise InvalidRequest(f"{setting} {path} {faults[0]}")
    return data


def first_end(path: Path, setting: str) -> datetime:
    """When the first of a file's certificates expires. Raises InvalidRequest."""
    found = _certificates(read_bytes(path, setting), path, setting)
    return min(item.not_valid_after_utc for item in found)


def _certificates(data: bytes, path: Path, setting: str) -> list[x509.Certificate]:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise InvalidRequest(f"{setting} {path} holds no PEM certificate") from error


def _date_fault(certificate: x509.Certificate) -> str:
    """Why the certificate is not good today; empty if it is."""
    now = datetime.now(UTC)
    if certificate.not_valid_after_utc < now:
        return f"expired on {certificate.not_valid_after_utc.date()}; make a new one"
    if now < certificate.not_valid_before_utc:
        begin = certificate.not_valid_before_utc
        return f"is not valid before {begin:%Y-%m-%d %H:%M} UTC; look at this machine's clock"
    return ""
