"""The one error tree. Each class carries the gRPC status and the exit code that it becomes.

    BatonError                          INTERNAL             exit 5
    ├── InvalidRequest                  INVALID_ARGUMENT     exit 2
    │   ├── CorruptEnvelope             INVALID_ARGUMENT
    │   └── UnknownName                 NOT_FOUND
    ├── Incompatible                    FAILED_PRECONDITION  exit 4
    │   └── WeightsError                FAILED_PRECONDITION  exit 5
    ├── Unauthenticated                 UNAUTHENTICATED      exit 4
    ├── PermissionDenied                PERMISSION_DENIED    exit 4
    ├── Overloaded                      RESOURCE_EXHAUSTED   exit 4
    ├── Draining                        UNAVAILABLE          exit 4
    ├── Unreachable                     UNAVAILABLE          exit 3
    │   └── ConnectionBroken            UNAVAILABLE
    ├── DeadlineExceeded                DEADLINE_EXCEEDED    exit 5
    ├── Cancelled                       CANCELLED            exit 5
    └── ExecutionFailed                 INTERNAL             exit 5

Messages are one line: what went wrong, why, and what to do. They never hold a prompt.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from typing import Any, ClassVar

#: Of an error's text, or another reason that a node tells.
MAX_REASON_CHARS = 500


class BatonError(Exception):
    """Base of every error that Baton raises on purpose.

    finished: the pictures that were done before, where several were asked for.
    """

    status: ClassVar[str] = "INTERNAL"
    exit_code: ClassVar[int] = 5
    finished: tuple[Any, ...] = ()


class InvalidRequest(BatonError, ValueError):
    """The caller asked for something that can never work."""

    status = "INVALID_ARGUMENT"
    exit_code = 2


class CorruptEnvelope(InvalidRequest):
    """A latent envelope is truncated, altered, too large or not one at all."""


class UnknownName(InvalidRequest):
    """No such family, member, arm, sampler, node or request."""

    status = "NOT_FOUND"


class Incompatible(BatonError):
    """Two sides do not fit: protocol version, latent space or fingerprint."""

    status = "FAILED_PRECONDITION"
    exit_code = 4


class WeightsError(Incompatible):
    """Model files are missing or damaged."""

    exit_code = 5


class Unauthenticated(BatonError):
    """The caller did not prove who it is; ``reason`` is one word for programs."""

    status = "UNAUTHENTICATED"
    exit_code = 4

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class PermissionDenied(BatonError):
    """The caller may not do this; ``reason`` is one word for programs."""

    status = "PERMISSION_DENIED"
    exit_code = 4

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class Overloaded(BatonError):
    """No place is free; try again after ``retry_after`` seconds."""

    status = "RESOURCE_EXHAUSTED"
    exit_code = 4

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Draining(BatonError):
    """The node is shutting down and takes no new work."""

    status = "UNAVAILABLE"
    exit_code = 4


class Unreachable(BatonError):
    """Nobody answers at that address, or the connection broke."""

    status = "UNAVAILABLE"
    exit_code = 3


class ConnectionBroken(Unreachable):
    """It was there and ended without a farewell: the other side may still be at work."""


class DeadlineExceeded(BatonError):
    """The work did not end in the time that was given."""

    status = "DEADLINE_EXCEEDED"


class Cancelled(BatonError):
    """The caller withdrew the request."""

    status = "CANCELLED"


class ExecutionFailed(BatonError):
    """The model or the sampler failed while running."""


@contextlib.contextmanager
def executing(what: str) -> Iterator[None]:
    """Whatever fails within becomes ExecutionFailed, unless it is a BatonError already.

    The message is left to the cause: it may quote a prompt.
    """
    try:
        yield
    except BatonError:
        raise
    except Exception as error:
        raise ExecutionFailed(f"{what} failed: {type(error).__name__}") from error


def origin(error: BaseException) -> str:
    """An unexpected error for a log: its class and where it came from, cause by cause.

    Not its message, which may quote a prompt.
    """
    parts: list[str] = []
    link: BaseException | None = error
    while link is not None and len(parts) < 8:
        parts.append(f"{type(link).__name__}\n{''.join(traceback.format_tb(link.__traceback__))}")
        link = link.__cause__ or link.__context__
    return "caused by ".join(parts).rstrip()
