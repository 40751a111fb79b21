"""Why a node could not be called, in words: what gRPC says of it at the very end of its text."""

from __future__ import annotations

import re
from collections.abc import Mapping

from baton.common.errors import ConnectionBroken, Unreachable
from baton.common.foreign import one_line
from baton.common.rpc.access import Access

#: How a connection ends that is dropped rather than closed.
_HUNG_UP = {"Socket closed", "Connection reset by peer", "Broken pipe"}

#: What stands in gRPC's text, and what it means for whoever has to mend it.
_TLS_REASONS: Mapping[str, str] = {
    "certificate has expired": "its certificate, or that of its authority, has expired; make a new"
    " one",
    "certificate is not yet valid": "its certificate is not yet valid; compare the clocks of both"
    " machines",
    "unable to get local issuer certificate": "no authority in tls_ca has signed its certificate,"
    " or an intermediate certificate is missing from its tls_cert",
    "unable to get issuer certificate": "the authority of its intermediate certificate is not in"
    " tls_ca",
    "self signed certificate": "its certificate is of an authority that is not in tls_ca",
    "certificate signature failure": "its certificate is of another authority than that in tls_ca,"
    " though of the same name",
    "Hostname Verification Check failed": "its certificate is for other hosts than the one that was"
    " called; call it by a name in it, or make one with this name",
    "WRONG_VERSION_NUMBER": "it does not use TLS; leave tls_ca out here, or set tls_cert and"
    " tls_key there",
    "PROTOCOL_VERSION": "it speaks another version of TLS",
    "UNSUPPORTED_PROTOCOL": "it speaks another version of TLS",
}
_SSL_ERROR = re.compile(r"OPENSSL_internal:(\w+)(?:: ([^:]+))?")

#: Web servers answer HTTP/2's greeting in their own way: ``HTTP/1.1 ...``, ``<!DOCTYPE ...``.
_WEB_FRAMES = {ord(text[3]) for text in ("HTTP", "<!DOCTYPE", "<!doctype", "<html", "<HTML")}
_FIRST_FRAME = re.compile(r"first frame, got frame type (\d+)")
_WEB = re.compile(r"http2 header with status|http1\.x server|missing selected ALPN|^No status rec")


def unanswered(details: str, peer: str, access: Access | None = None) -> Unreachable:
    """The error for gRPC's ``details``; access: how the peer was called, if that is known."""
    cause = one_line(details.rpartition(": ")[2].rstrip("]"))
    hung_up = any(end in cause for end in _HUNG_UP)
    if hung_up and not details.startswith("failed to connect"):
        return ConnectionBroken(f"the connection to {peer} broke ({cause})")
    if reason := _tls_reason(details) or (_hung_up_reason(details, access) if hung_up else ""):
        return Unreachable(f"no secure connection to {peer} by TLS: {reason}")
    return Unreachable(f"no answer from {peer} ({cause}); is it running and is the address right?")


def stranger(details: str) -> str:
    """What gRPC's ``details`` show that the peer is instead of a node; empty if nothing."""
    frame = _FIRST_FRAME.search(details)
    if _WEB.search(details) or (frame and int(frame[1]) in _WEB_FRAMES):
        return "a web server"
    return "something that does not speak gRPC" if "Failed parsing HTTP/2" in details else ""


def _tls_reason(details: str) -> str:
    for sign, words in _TLS_REASONS.items():
        if sign in details:
            return words
    if found := _SSL_ERROR.search(details):
        return one_line((found[2] or found[1]).replace("_", " ").lower())
    return "it broke off the handshake" if "handshake" in details.lower() else ""


def _hung_up_reason(details: str, access: Access | None) -> str:
    """Of a peer that closed the connection before the first call."""
    if "handshake" in details.lower():
        return "it broke off the handshake"
    plain = "it may use TLS, and this side does not: set tls_ca"
    bare = "it may ask for a certificate: set tls_cert and tls_key"
    if access is None:
        return f"it hung up; {plain}; or {bare}"
    if access.tls is None:
        return f"it hung up; {plain}"
    if access.tls.pair is None:
        return f"it hung up; {bare}"
    return (
        "it hung up; it may not take the certificate in tls_cert, which is then out of date or of"
        " an authority that is not in its tls_client_ca"
    )
