"""Ed25519 keys of tickets in files: the coordinator's private one, and public ones."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from baton.common.errors import InvalidRequest
from baton.common.files import create
from baton.common.rpc.tls import read_bytes


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """From PEM (PKCS 8). Raises InvalidRequest."""
    data = read_bytes(path, "ticket_key")
    try:
        key = serialization.load_pem_private_key(data, None)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"ticket_key {path} is not a PEM key without passphrase") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidRequest(f"ticket_key {path} is not an Ed25519 key")
    return key


def kept_private_key(path: Path) -> Ed25519PrivateKey:
    """The key in the file, which is made, readable by its owner only, if none is there yet."""
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    try:
        if os.path.exists(path) and not os.path.getsize(path):
            path.unlink()  # left by a disk that was full
        create(path, pem, mode=0o600)
    except FileExistsError:
        return read_private_key(path)
    except OSError as error:
        raise InvalidRequest(
            f"cannot write {path}: {error.strerror}; name a key with ticket_key"
        ) from error
    return key


def read_public_key(path: Path) -> bytes:
    """The 32 bytes of a key in PEM (SubjectPublicKeyInfo). Raises InvalidRequest."""
    data = read_bytes(path, "ticket_keys")
    try:
        key = serialization.load_pem_public_key(data)
    except ValueError as error:
        raise InvalidRequest(f"ticket_keys: {path} is not a PEM public key") from error
    if not isinstance(key, Ed25519PublicKey):
        raise InvalidRequest(f"ticket_keys: {path} is not an Ed25519 key")
    return key.public_bytes_raw()
