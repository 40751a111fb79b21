"""How a request went, as its device reports it to the coordinator.

Raises InvalidRequest for anything outside the limits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from baton.common.arm import Arm
from baton.common.checks import (
    MAX_ATTEMPTS,
    MAX_BYTES,
    check_range,
    check_reason,
    check_seconds,
    check_status_name,
)
from baton.common.errors import Cancelled, ExecutionFailed, InvalidRequest
from baton.common.limits import MAX_STEPS
from baton.common.naming import MAX_ADDRESS_CHARS, check_id

_SECONDS = (
    "total_seconds",
    "edge_seconds",
    "device_seconds",
    "edge_compute_seconds",
    "edge_queue_seconds",
    "transfer_seconds",
    "handoff_seconds",
)


@dataclass(frozen=True, slots=True)
class EdgeAttempt:
    """What one edge made of a request: steps ``start <= i < stop`` reached the device.

    node_id: empty if the edge never answered. error: status name of the failure, empty if the edge
    did its part or what it could of it; drained: it left for a shutdown; reason: why it did not do
    its part, one line.
    """

    node_id: str
    address: str
    start: int
    stop: int
    error: str = ""
    reason: str = ""
    drained: bool = False

    def __post_init__(self) -> None:
        if self.node_id:  # its address, where a caller named nothing else
            check_id(self.node_id, "attempts.node_id", MAX_ADDRESS_CHARS)
        check_id(self.address, "attempts.address", MAX_ADDRESS_CHARS)
        if not 0 <= self.start <= self.stop <= MAX_STEPS:
            raise InvalidRequest(f"attempts: {self.start}..{self.stop} is not a stretch of steps")
        check_status_name(self.error)
        check_reason(self.reason)

    @property
    def did_its_part(self) -> bool:
        return not (self.error or self.drained)

    def in_vain(self) -> EdgeAttempt:
        """As it is told once nobody could go on from what it brought."""
        if self.error or self.stop == self.start:
            return replace(self, stop=self.start)
        status, reason = ExecutionFailed.status, "nobody could go on from its latent"
        return replace(self, stop=self.start, error=status, reason=reason, drained=False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request went. Times in seconds; quality 0 to 1 or None without a score.

    arm: what ran, if the device had to deviate. attempts: the edges tried, in order. Of
    ``edge_seconds``, edge_compute_seconds: in model calls and decoding; edge_queue_seconds: waiting
    for a place; transfer_seconds: on the way. handoff_seconds: from the arrival of a latent until
    the device's first step.
    """

    ok: bool
    arm: Arm | None = None
    total_seconds: float = 0.0
    edge_seconds: float = 0.0
    device_seconds: float = 0.0
    bytes_sent: int = 0
    bytes_received: int = 0
    quality: float | None = None
    error: str = ""
    attempts: tuple[EdgeAttempt, ...] = ()
    edge_compute_seconds: float = 0.0
    edge_queue_seconds: float = 0.0
    transfer_seconds: float = 0.0
    handoff_seconds: float = 0.0

    def __post_init__(self) -> None:
        for name in _SECONDS:
            check_seconds(getattr(self, name), name)
        for name in ("bytes_sent", "bytes_received"):
            check_range(getattr(self, name), 0, MAX_BYTES, name)
        if self.quality is not None:
            check_range(self.quality, 0.0, 1.0, "quality")
        check_status_name(self.error)
        if self.ok and self.total_seconds <= 0.0:
            raise InvalidRequest("total_seconds must be positive for a request that succeeded")
        if len(self.attempts) > MAX_ATTEMPTS:
            raise InvalidRequest(f"more than {MAX_ATTEMPTS} attempts")

    @property
    def withdrawn(self) -> bool:
        """The caller gave the request up, which says nothing about its arm."""
        return not self.ok and self.error == Cancelled.status
