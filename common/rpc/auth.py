"""Who calls and what they may do: checked here, before a handler sees the call."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any

import grpc
import grpc.aio

from baton.common.errors import InvalidRequest, PermissionDenied, Unauthenticated
from baton.common.rpc.access import Guard
from baton.common.rpc.tls import holder
from baton.common.rpc.tokens import ANONYMOUS, Identity, Role, TokenTable

_DEVICE: frozenset[Role] = frozenset({"device", "operator"})
_EDGE: frozenset[Role] = frozenset({"edge"})
_ADMIN: frozenset[Role] = frozenset({"admin"})

#: Which roles may call which method. What is not here nobody may call.
PERMITTED: Mapping[str, frozenset[Role]] = {
    "/baton.v1.Edge/Denoise": _DEVICE,
    "/baton.v1.Edge/Cancel": _DEVICE | _ADMIN,
    "/baton.v1.Edge/GetStatus": _DEVICE | _EDGE | _ADMIN,
    "/baton.v1.Coordinator/Register": _EDGE,
    "/baton.v1.Coordinator/Heartbeat": _EDGE,
    "/baton.v1.Coordinator/Deregister": _EDGE,
    "/baton.v1.Coordinator/Decide": _DEVICE,
    "/baton.v1.Coordinator/Report": _DEVICE,
    "/baton.v1.Coordinator/Explain": _DEVICE,
    "/baton.v1.Admin/ListNodes": _ADMIN,
    "/baton.v1.Admin/ListArms": _ADMIN,
    "/baton.v1.Admin/ListDecisions": _ADMIN,
    "/baton.v1.Admin/Explain": _ADMIN,
}
#: Who may say that a request goes before those of others. A node that asks nobody for a name has no
#: others to protect: it trusts whoever reaches it.
MAY_GO_FIRST: frozenset[Role] = frozenset({"operator", "anonymous"})
#: Load balancers and orchestrators carry no token; health tells them nothing but "serving".
OPEN_SERVICE = "/grpc.health.v1.Health/"

_caller: ContextVar[Identity] = ContextVar("caller", default=ANONYMOUS)
_Context = grpc.aio.ServicerContext[Any, Any]


def caller() -> Identity:
    """Who made the call that is being handled; anonymous where the node asks nobody."""
    return _caller.get()


class AuthInterceptor(grpc.aio.ServerInterceptor):
    """Refuses a call, before its handler runs, unless the caller is known and may make it.

    Stands inside `StatusInterceptor`, which turns what is raised here into a status.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not self._guard.authenticates or method.startswith(OPEN_SERVICE):
            return handler
        if handler.response_streaming:
            return handler._replace(unary_stream=self._stream(method, handler.unary_stream))
        return handler._replace(unary_unary=self._unary(method, handler.unary_unary))

    def _unary(self, method: str, handle: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        async def guarded(request: Any, context: _Context) -> Any:
            _caller.set(self._admit(method, context))
            return await handle(request, context)

        return guarded

    def _stream(self, method: str, handle: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        if not inspect.isasyncgenfunction(handle):
            raise TypeError(f"{method} must be an asynchronous generator")

        async def guarded(request: Any, context: _Context) -> AsyncGenerator[Any, None]:
            _caller.set(self._admit(method, context))
            async with aclosing(handle(request, context)) as responses:
                async for response in responses:
                    yield response

        return guarded

    def _admit(self, method: str, context: _Context) -> Identity:
        """Raises Unauthenticated or PermissionDenied."""
        tokens = self._guard.tokens
        identity = _by_certificate(context) if tokens is None else _by_token(tokens, context)
        if identity.role not in PERMITTED.get(method, frozenset()):
            raise PermissionDenied(
                f"{identity.name} has the role {identity.role}, which may not call"
                f" {method.rpartition('/')[2]}; use credentials of another role",
                "wrong_role",
            )
        return identity


def _by_token(tokens: TokenTable, context: _Context) -> Identity:
    metadata = context.invocation_metadata() or ()
    found = [value for key, value in metadata if key == "authorization"]
    if not found:
        raise Unauthenticated(
            "this node asks for a token: set token or token_file", "token_missing"
        )
    scheme, _, token = str(found[0]).partition(" ")
    identity = tokens.find(token) if len(found) == 1 and scheme == "Bearer" else None
    if identity is None:
        raise Unauthenticated("the token is not known to this node", "token_unknown")
    return identity


def _by_certificate(context: _Context) -> Identity:
    """From the certificate that the handshake has verified."""
    found = list(context.auth_context().get("x509_pem_cert", ()))
    if not found:
        raise Unauthenticated("this node asks for a certificate", "certificate_missing")
    try:
        return Identity.named(*holder(found[0]))
    except (InvalidRequest, ValueError) as error:
        raise Unauthenticated(
            f"the certificate's subject must hold one CN, the name, and one OU, the role: {error}",
            "certificate_unfit",
        ) from error
