"""A request as edges are asked for it, and who hears how it goes there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from baton.common.foreign import Clean, one_line
from baton.common.latents import LatentState, largest_envelope
from baton.common.rpc.access import OPEN, Access
from baton.common.rpc.channel import CONTROL_BYTES
from baton.common.rpc.channels import Channels
from baton.common.rpc.convert import largest_record
from baton.device_client.wire import Asked


def unheard(told: object) -> None:
    """For whoever does not want to know."""


@dataclass(frozen=True, kw_only=True)
class EdgeRequest(Asked):
    """A request for edges, and how they are reached.

    Seconds: timeout for an edge's whole part, connect_timeout for its first answer, stall_timeout
    for each step once it does not wait any more, reattach_timeout for the first answer after the
    connection broke; zero does not try. channels: those that are kept. check: raises BatonError for
    a latent with which nobody could go on; clean: what an edge's texts pass through.
    """

    shape: tuple[int, int, int]
    timeout: float
    access: Access = OPEN
    channels: Channels = field(default_factory=Channels, repr=False)
    connect_timeout: float = 5.0
    reattach_timeout: float = 0.8
    stall_timeout: float = 30.0
    check: Callable[[LatentState], object] = field(default=unheard, repr=False)
    clean: Clean = field(default=one_line, repr=False)

    @property
    def most_bytes(self) -> int:
        """Of an answer: it holds a latent or the picture, and a record, at most."""
        picture = 3 * self.task.size.pixels
        largest = max(largest_envelope(self.shape), picture)
        record = largest_record(self.task.plan.steps)
        return CONTROL_BYTES + largest + record


class Listener(Protocol):
    """Hears how an edge session goes."""

    def on_step(self, done: int) -> None: ...

    def on_notes(self, address: str, notes: Sequence[str]) -> None: ...

    def on_reattached(self, address: str, reason: str) -> None: ...
