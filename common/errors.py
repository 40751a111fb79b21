"""The one error tree. Each class carries the gRPC status and the exit code that it becomes.

    BatonError                          INTERNAL             exit 5
    ├── InvalidRequest                  INVALID_ARGUMENT     exit 2
    │   ├── CorruptEnvelope             INVALID_ARGUMENT
    │   └── UnknownName                 NOT_FOUND
    ├── Incompatible                    FAILED_PRECONDITION  exit 4
    │   └── WeightsError                FAILED_PRECONDITION  exit 5
    ├── Overloaded                      RESOURCE_EXHAUSTED   exit 4
    ├── Draining                        UNAVAILABLE          exit 4
    ├── Unreachable                     UNAVAILABLE          exit 3
    ├── DeadlineExceeded                DEADLINE_EXCEEDED    exit 5
    ├── Cancelled                       CANCELLED            exit 5
    └── ExecutionFailed                 INTERNAL             exit 5

Messages are one line: what went wrong, why, and what to do. They never hold a prompt.
"""

from __future__ import annotations

from typing import ClassVar


class BatonError(Exception):
    """Base of every error that Baton raises on purpose."""

    status: ClassVar[str] = "INTERNAL"
    exit_code: ClassVar[int] = 5


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


class DeadlineExceeded(BatonError):
    """The work did not end in the time that was given."""

    status = "DEADLINE_EXCEEDED"


class Cancelled(BatonError):
    """The caller withdrew the request."""

    status = "CANCELLED"


class ExecutionFailed(BatonError):
    """The model or the sampler failed while running."""
