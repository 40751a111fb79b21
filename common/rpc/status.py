"""The one translator between Baton's errors and gRPC statuses, both ways."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeVar

import grpc
import grpc.aio
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from baton.common import errors
from baton.common.errors import (
    MAX_REASON_CHARS,
    BatonError,
    ExecutionFailed,
    Overloaded,
    PermissionDenied,
    Unauthenticated,
    Unreachable,
    origin,
)
from baton.common.foreign import one_line
from baton.common.rpc.unanswered import unanswered

M = TypeVar("M")
_log = logging.getLogger(__name__)
_DOMAIN = "baton"
_REASON = "reason"
_ANSWER_TOO_LARGE = ("CLIENT: Received message", "SERVER: Sent message")
_CLASSES: dict[str, type[BatonError]] = {
    name: item
    for name, item in vars(errors).items()
    if isinstance(item, type) and issubclass(item, BatonError)
}
_BY_STATUS: dict[str, type[BatonError]] = {
    "INVALID_ARGUMENT": errors.InvalidRequest,
    "NOT_FOUND": errors.UnknownName,
    "FAILED_PRECONDITION": errors.Incompatible,
    "RESOURCE_EXHAUSTED": errors.Overloaded,
    "UNAVAILABLE": errors.Unreachable,
    "DEADLINE_EXCEEDED": errors.DeadlineExceeded,
    "CANCELLED": errors.Cancelled,
    "UNAUTHENTICATED": errors.Unauthenticated,
    "PERMISSION_DENIED": errors.PermissionDenied,
}


def to_status(error: BatonError) -> Any:
    """A gRPC status with ErrorInfo and, on overload, RetryInfo."""
    info = error_details_pb2.ErrorInfo(reason=type(error).__name__, domain=_DOMAIN)
    if isinstance(error, Unauthenticated | PermissionDenied):
        info.metadata[_REASON] = error.reason
    details = [_packed(info)]
    if isinstance(error, Overloaded):
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(int(error.retry_after * 1000))
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    code: grpc.StatusCode = getattr(grpc.StatusCode, error.status)
    # twice in the metadata, of which a peer takes 8 kB; more breaks the whole connection
    text = str(error)[:MAX_REASON_CHARS]
    message = status_pb2.Status(code=code.value[0], message=text, details=details)
    return rpc_status.to_status(message)


def from_rpc_error(error: grpc.aio.AioRpcError, peer: str) -> BatonError:
    """The error that the peer raised, as one line, or what the broken call amounts to."""
    retry_after, reason, refusal = 1.0, "", ""
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in _details(error):
        if _unpacked(detail, info):
            reason = info.reason if info.domain == _DOMAIN else ""
            refusal = one_line(info.metadata.get(_REASON, ""))
        elif _unpacked(detail, retry):
            retry_after = max(0.0, retry.retry_delay.ToMilliseconds() / 1000)
    status = error.code().name
    cls = _CLASSES.get(reason) or _BY_STATUS.get(status, ExecutionFailed)
    details = error.details() or status
    message = one_line(details)
    if cls is Overloaded and not reason and "larger than max" in message:
        return _too_large(message, peer)
    if cls is Unreachable and not reason:
        return unanswered(details, peer)
    if issubclass(cls, Overloaded):
        return cls(message, retry_after)
    if issubclass(cls, Unauthenticated | PermissionDenied):
        return cls(message, refusal)
    return cls(message)


def _too_large(details: str, peer: str) -> BatonError:
    """A request is the caller's own fault, an answer the other side's."""
    if any(side in details for side in _ANSWER_TOO_LARGE):
        return ExecutionFailed(f"{peer} answered more than can be right ({details})")
    return errors.InvalidRequest(f"the request is too large for {peer} ({details})")


def is_own(error: grpc.aio.AioRpcError) -> bool:
    """Whether a node of Baton raised it, and nobody else on the way."""
    info = error_details_pb2.ErrorInfo()
    return any(_unpacked(detail, info) and info.domain == _DOMAIN for detail in _details(error))


def parsed(answer: M | None, peer: str) -> M:
    """The answer, for which gRPC has None if its bytes are no such message.

    Raises ExecutionFailed.
    """
    if answer is None:
        raise ExecutionFailed(f"{peer} answered what cannot be read; is it another Baton's?")
    return answer


def _details(error: grpc.aio.AioRpcError) -> list[any_pb2.Any]:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            with contextlib.suppress(DecodeError):  # written by someone else
                return list(status_pb2.Status.FromString(value).details)
    return []


def _unpacked(detail: any_pb2.Any, into: Any) -> bool:
    """Whether it is such a message; what cannot be read was written by someone else."""
    with contextlib.suppress(DecodeError):
        return bool(detail.Unpack(into))
    return False


def _packed(message: Any) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: Exception) -> NoReturn:
    """End a call with the error's status; what is not Baton's becomes INTERNAL and is logged."""
    if not isinstance(error, BatonError):
        _log.error("unexpected error in a call: %s", origin(error))
        error = ExecutionFailed("internal error; the node's log has the details")
    status = to_status(error)
    await context.abort(status.code, status.details, status.trailing_metadata)
    raise AssertionError("abort returned")


Handler = Callable[[Any, Any], Any]


class StatusInterceptor(grpc.aio.ServerInterceptor):
    """Translates what handlers raise; handlers themselves never touch statuses.

    patience: seconds for which the other side of a stream may take nothing before it is ended.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return handler
        if handler.response_streaming:
            guarded = _guard_stream(handler.unary_stream, self._patience)
            return handler._replace(unary_stream=guarded)
        return handler._replace(unary_unary=_guard_unary(handler.unary_unary))


def _passes(error: Exception) -> bool:
    return isinstance(error, grpc.aio.AbortError | asyncio.CancelledError)


def _guard_unary(method: Handler) -> Handler:
    async def guarded(request: Any, context: Any) -> Any:
        try:
            return await method(request, context)
        except Exception as error:
            if _passes(error):
                raise
            await abort(context, error)

    return guarded


def _guard_stream(method: Handler, patience: float) -> Handler:
    """No answer is asked of the method before the connection had room for the one before it."""
    if not inspect.isasyncgenfunction(method):
        raise TypeError(f"{method.__qualname__} must be an asynchronous generator")

    async def guarded(request: Any, context: Any) -> None:
        try:
            async with contextlib.aclosing(method(request, context)) as responses:
                async for response in responses:
                    await _send(response, context, patience)
        except Exception as error:
            if _passes(error):
                raise
            await abort(context, error)

    return guarded


async def _send(response: Any, context: Any, patience: float) -> None:
    try:
        async with asyncio.timeout(patience):
            await context.write(response)
    except TimeoutError as error:
        raise Unreachable(f"the listener took nothing for {patience:g} s") from error
