"""How far one picture has come."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from baton.common.build import NodeBuild
from baton.common.latents import LatentState
from baton.common.outcome import EdgeAttempt
from baton.common.record import ExecutedStep
from baton.device_client.result import Seconds, Traffic
from baton.device_client.wire import EdgeTimes


@dataclass
class SoFar:
    """How far one picture has come, over all nodes that worked on it, and what is to be told of it.

    state: the newest latent, from a checkpoint or a handoff, after ``executed``; newest: its
    envelope, from which any node can go on; picture: set once the last step ran, uint8 [H, W, 3];
    nodes: what each edge that accepted the request draws with, by node id; begun: an edge has
    accepted it, and not said that it waits there. taken_over: the steps at which the device went on
    from another's latent. times: of the edges that did their part, or left, together, by their own
    clocks. deciding_seconds: until there was a plan; edge_seconds, device_seconds: of its stretches
    at edges, as seen from here, and here, of which decode_seconds: of decoding. arrived: monotonic
    time of the handoff; handoff_seconds: from then until the device's first step. round_trips:
    handshakes and calls begun. notes: what did not go as planned, a line each; attempts: the edges
    tried, in order.
    """

    state: LatentState | None = None
    newest: bytes = field(default=b"", repr=False)
    executed: list[ExecutedStep] = field(default_factory=list)
    picture: npt.NDArray[np.uint8] | None = None
    nodes: dict[str, NodeBuild] = field(default_factory=dict)
    begun: bool = False
    handed_over: bool = False
    handoff_bytes: int = 0
    sent: int = 0
    received: int = 0
    taken_over: set[int] = field(default_factory=set)
    times: EdgeTimes = field(default_factory=EdgeTimes)
    deciding_seconds: float = 0.0
    edge_seconds: float = 0.0
    device_seconds: float = 0.0
    decode_seconds: float = 0.0
    arrived: float | None = None
    handoff_seconds: float = 0.0
    round_trips: int = 0
    notes: list[str] = field(default_factory=list)
    attempts: list[EdgeAttempt] = field(default_factory=list)

    def begin_anew(self) -> None:
        """Forget what was drawn so far: the edges brought it in vain."""
        self.attempts = [attempt.in_vain() for attempt in self.attempts]
        self.state, self.newest, self.executed = None, b"", []
        self.taken_over.clear()

    def count_trip(self) -> None:
        self.round_trips += 1

    @property
    def traffic(self) -> Traffic:
        return Traffic(self.sent, self.received, self.round_trips)

    @property
    def seconds(self) -> Seconds:
        """What edges say of their own time is no more than was spent on them."""
        there, here = self.edge_seconds, self.device_seconds
        queue = min(self.times.queued, there)
        edge = min(self.times.computed, there - queue)
        return Seconds(
            total=self.deciding_seconds + there + here,
            deciding=self.deciding_seconds,
            queue=queue,
            edge=edge,
            transfer=there - queue - edge,
            device=here - self.decode_seconds,
            decode=self.decode_seconds,
        )

    @property
    def done(self) -> bool:
        """Whether the edges have done their part of the stretch."""
        return self.handed_over or self.picture is not None

    @property
    def resume_step(self) -> int:
        return self.state.step if self.state else 0
