"""A finished picture with the story of how it was drawn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from baton.common.arm import Arm
from baton.common.limits import Location
from baton.common.outcome import EdgeAttempt
from baton.common.plan import OpenPlan
from baton.common.quality.verifier import Quality
from baton.common.record import ExecutedStep, arm_that_ran
from baton.common.request import Task
from baton.device_client.png import save_png
from baton.device_client.provenance import Provenance


@dataclass(frozen=True)
class Traffic:
    """What one picture took on the network.

    sent, received: bytes of the messages exchanged with edges. round_trips: those that it waited
    for until it was there: the calls begun, of a coordinator and of edges, and a handshake for each
    connection that did not stand yet.
    """

    sent: int = 0
    received: int = 0
    round_trips: int = 0


@dataclass(frozen=True)
class Seconds:
    """The time from the request until the picture was there, and its parts, whose sum it is.

    deciding: until there was a plan; queue: waiting for a place at an edge; edge: computed for
    there, decoding included, both by the edge's own clock; transfer: the rest of what was spent on
    edges, failed ones too; device: the stretches here without decode, decoding here. Where
    this client's other pictures keep the model from this one, no time is counted.
    """

    total: float = 0.0
    deciding: float = 0.0
    queue: float = 0.0
    edge: float = 0.0
    transfer: float = 0.0
    device: float = 0.0
    decode: float = 0.0

    @property
    def at_edges(self) -> float:
        """As seen from here."""
        return self.queue + self.edge + self.transfer


@dataclass(frozen=True, eq=False)
class Result:
    """picture: uint8 [H, W, 3]. planned: what the arm means.

    notes: what did not go as planned, a line each.

    attempts: the edges tried, in order.
    """

    request_id: str
    picture: npt.NDArray[np.uint8]
    task: Task
    arm: str
    planned: OpenPlan
    decision_id: str
    executed: tuple[ExecutedStep, ...]
    seconds: Seconds
    traffic: Traffic
    provenance: Provenance
    quality: Quality | None = None
    notes: tuple[str, ...] = ()
    save_scale: int = 1
    attempts: tuple[EdgeAttempt, ...] = ()

    @property
    def image(self) -> Image.Image:
        """The picture, enlarged without smoothing by the family's factor."""
        height, width = self.picture.shape[:2]
        size = (width * self.save_scale, height * self.save_scale)
        return Image.fromarray(self.picture).resize(size, Image.Resampling.NEAREST)

    @property
    def arm_executed(self) -> str:
        """The arm that ran: not ``arm`` if an edge was lost and others went on."""
        planned = (self.planned.segment_at(step.step) for step in self.executed)
        ran = [(step.member, step.location) for step in self.executed]
        if ran == [(segment.member, segment.location) for segment in planned]:
            return self.arm
        return str(arm_that_ran(self.executed, self.task.plan, Arm.parse(self.arm)))

    def steps_at(self, location: Location) -> int:
        return sum(step.location == location for step in self.executed)

    def save(self, path: str | Path, metadata: bool = True) -> Path:
        """Write a PNG, with ``parameters`` and ``baton`` text chunks unless ``metadata`` is False.

        Raises InvalidRequest if the file cannot be written.
        """
        return save_png(self.image, path, self.provenance if metadata else None)
