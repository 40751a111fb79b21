"""What the engine is asked to do, and what it answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from baton.common.diffusion.executor import Run
from baton.common.errors import BatonError
from baton.common.latents import Codec, LatentState
from baton.common.plan import Plan
from baton.common.record import ExecutedStep
from baton.common.request import Task


@dataclass(frozen=True)
class Work:
    """One checked request: the edge's part of a plan, from noise or from a state.

    plan: what the task's plan means here.
    """

    request_id: str
    task: Task
    plan: Plan
    codec: Codec
    checkpoint_every: int
    resume: LatentState | None = field(default=None, repr=False)
    #: Who asked; empty where nobody is asked for a name.
    owner: str = ""
    #: What whoever asks calls the latent space in envelopes; empty: as this edge does.
    fingerprint: str = ""

    @property
    def first_step(self) -> int:
        return self.resume.step if self.resume else 0

    @property
    def stop(self) -> int:
        """The step at which the edge's part ends."""
        return self.plan.stretch_end(self.first_step)


@dataclass(frozen=True)
class Times:
    """Seconds spent waiting, in model calls that the request took part in, and in decoding."""

    queued: float = 0.0
    model: float = 0.0
    decode: float = 0.0


@dataclass(frozen=True)
class Queued:
    """The job waits behind so many others."""

    position: int


@dataclass(frozen=True)
class Started:
    """The job has taken a place."""


@dataclass(frozen=True)
class Progressed:
    step: int
    steps: int
    rows: int


@dataclass(frozen=True)
class Checkpointed:
    envelope: bytes
    executed: tuple[ExecutedStep, ...]


@dataclass(frozen=True)
class HandedOff:
    envelope: bytes
    executed: tuple[ExecutedStep, ...]
    times: Times


@dataclass(frozen=True)
class Drawn:
    """A finished picture, uint8 [H, W, 3]."""

    picture: npt.NDArray[np.uint8]
    executed: tuple[ExecutedStep, ...]
    times: Times


@dataclass(frozen=True)
class Dropped:
    """The job has left the engine because its owner let it go."""


Outcome = HandedOff | Drawn | BatonError
Event = Started | Progressed | Checkpointed | Outcome | Dropped


@dataclass(eq=False)
class Job:
    """Work on its way through the engine. Owned by the model thread once submitted.

    cache_bytes: the most that it keeps of its blocks' outputs. emit: called with every event,
    mostly from the model thread; the last event, and it alone, is an outcome or `Dropped`.
    """

    work: Work
    emit: Callable[[Event], None] = field(repr=False)
    submitted: float = field(default_factory=time.monotonic)
    queued_seconds: float = 0.0
    model_seconds: float = 0.0
    cache_bytes: int = 0
    run: Run | None = field(default=None, repr=False)
    executed: list[ExecutedStep] = field(default_factory=list, repr=False)

    @property
    def started(self) -> Run:
        """The run; only for a job that was admitted."""
        if self.run is None:
            raise RuntimeError(f"job {self.work.request_id} has not been admitted")
        return self.run

    @property
    def group(self) -> tuple[str, tuple[int, ...], int]:
        """Jobs of one group can share a model call: member, latent shape, context length."""
        run = self.started
        member = run.plan.segment_at(run.step).member
        return member, tuple(run.x.shape), run.conditioning.positive.shape[0]

    def times(self, decode: float = 0.0) -> Times:
        return Times(self.queued_seconds, self.model_seconds, decode)
