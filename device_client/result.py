"""A finished picture with the story of how it was drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from baton.common.errors import ExecutionFailed
from baton.common.plan import Arm, ExecutedStep, Location, Task, arm_that_ran
from baton.common.quality.verifier import Quality
from baton.device_client.png import Provenance, save_png


@dataclass(frozen=True)
class Traffic:
    """Bytes of the messages exchanged with edges."""

    sent: int = 0
    received: int = 0


@dataclass(frozen=True)
class Seconds:
    """total: until the picture was there; edge: at edges, as seen from here; device: model work."""

    total: float = 0.0
    edge: float = 0.0
    device: float = 0.0


@dataclass(frozen=True)
class EdgeAttempt:
    """What one edge made of a request: steps ``start <= i < stop`` reached the device.

    node_id: empty if the edge never answered; error: status name of the failure, empty if the edge
    did its part; reason: of the failure, one line.
    """

    node_id: str
    address: str
    start: int
    stop: int
    error: str = ""
    reason: str = ""

    def in_vain(self) -> EdgeAttempt:
        """As it is told once nobody could go on from what it brought."""
        if self.error:
            return replace(self, stop=self.start)
        reason = "nobody could go on from its latent"
        return replace(self, stop=self.start, error=ExecutionFailed.status, reason=reason)


@dataclass(frozen=True, eq=False)
class Result:
    """picture: uint8 [H, W, 3]. notes: what did not go as planned, a line each.

    attempts: the edges tried, in order.
    """

    request_id: str
    picture: npt.NDArray[np.uint8]
    task: Task
    arm: str
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
        plan, steps = self.task.plan, len(self.executed)
        arm = Arm.parse(self.arm)
        asked = arm.expand(plan.family, plan.sampler, steps, plan.guidance_scale)
        planned = [asked.segment_at(step) for step in range(steps)]
        ran = [(step.member, step.location) for step in self.executed]
        if ran == [(segment.member, segment.location) for segment in planned]:
            return self.arm
        return arm_that_ran(self.executed)

    def steps_at(self, location: Location) -> int:
        return sum(step.location == location for step in self.executed)

    def save(self, path: str | Path, metadata: bool = True) -> Path:
        """Write a PNG, with ``parameters`` and ``baton`` text chunks unless ``metadata`` is False.

        Raises InvalidRequest if the file cannot be written.
        """
        return save_png(self.image, path, self.provenance if metadata else None)
