"""What the engine is asked to do, and what it answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from baton.common.diffusion.blocks import Piece
from baton.common.diffusion.run import Run
from baton.common.diffusion.work import StepWork
from baton.common.errors import BatonError
from baton.common.latents import Codec, LatentState
from baton.common.plan import Plan
from baton.common.record import ExecutedStep
from baton.common.request import Task
from baton.common.size import Size


@dataclass(frozen=True)
class Work:
    """One checked request: the edge's part of a plan, from noise or from a state.

    plan: what the task's plan means here; loads: what each of its steps costs, in rows that run
    all blocks; left out, each row costs as much.
    """

    request_id: str
    task: Task
    plan: Plan
    codec: Codec
    checkpoint_every: int
    resume: LatentState | None = field(default=None, repr=False)
    #: Who asked; empty where nobody is asked for a name.
    owner: str = ""
    #: Whose share it counts to: the owner, where there is none whence it came.
    caller: str = field(default="", compare=False)
    #: Of requests that wait, a higher one goes first.
    priority: int = field(default=0, compare=False)
    #: What whoever asks calls the latent space in envelopes; empty: as this edge does.
    fingerprint: str = ""
    loads: tuple[float, ...] = field(default=(), repr=False, compare=False)

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
class Denoised:
    """Nothing is left but to decode it: its place is free."""


@dataclass(frozen=True)
class Checkpointed:
    envelope: bytes
    executed: tuple[ExecutedStep, ...]


@dataclass(frozen=True)
class HandedOff:
    envelope: bytes
    executed: tuple[ExecutedStep, ...]
    times: Times


#: uint8 [H, W, 3].
Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Drawn:
    """A finished picture."""

    picture: Picture
    executed: tuple[ExecutedStep, ...]
    times: Times


@dataclass(frozen=True)
class Drained:
    """The job goes on elsewhere: from the checkpoint, or as it came if it has done no step here."""

    checkpoint: Checkpointed | None
    times: Times


@dataclass(frozen=True)
class Dropped:
    """The job has left the engine because its owner let it go."""


Outcome = HandedOff | Drawn | Drained | BatonError
Event = Started | Progressed | Denoised | Checkpointed | Outcome | Dropped


@dataclass
class Decoding:
    """How far a picture of a size is decoded.

    x: what the pieces of the decoder that are done have put out, the latent before the first;
    pieces: all of them; ends: where the chunks end that they run in, fixed when the first one runs;
    spent: seconds of each that is done, where they are measured.
    """

    x: Tensor = field(repr=False)
    size: Size
    pieces: Sequence[Piece] = field(default=(), repr=False)
    ends: tuple[int, ...] = ()
    done: int = 0
    seconds: float = 0.0
    spent: list[float] = field(default_factory=list, repr=False)

    @property
    def begun(self) -> bool:
        return bool(self.ends)

    @property
    def chunk(self) -> Sequence[Piece]:
        """The pieces that run next."""
        return self.pieces[self.done : next(end for end in self.ends if end > self.done)]

    @property
    def over(self) -> bool:
        """Whether x is the pixels."""
        return self.begun and self.done == len(self.pieces)


@dataclass(eq=False)
class Job:
    """Work on its way through the engine. Owned by the model thread once submitted.

    cache_bytes: the most that it keeps of its blocks' outputs; row_bytes: activations of a row of
    its next call; decode_bytes: those of its decoding, 0 where it is handed off; encoder: that its
    prompts need next; lean: its next step with guidance left out; turn: whose is lower gets a place
    first. emit: called with every event, mostly from the model thread; the last event, and it
    alone, is an outcome or `Dropped`.
    """

    work: Work
    emit: Callable[[Event], None] = field(repr=False)
    turn: float = 0.0
    submitted: float = field(default_factory=time.monotonic)
    queued_seconds: float = 0.0
    model_seconds: float = 0.0
    cache_bytes: int = 0
    row_bytes: int = 0
    decode_bytes: int = 0
    encoder: Hashable = None
    pace: Hashable = None
    executed: list[ExecutedStep] = field(default_factory=list, repr=False)
    _run: Run | None = field(default=None, repr=False)
    lean: StepWork | None = field(default=None, repr=False)
    _due: StepWork | None = field(default=None, repr=False)
    _decoding: Decoding | None = field(default=None, repr=False)

    @property
    def run(self) -> Run:
        """Of a job that has begun. Raises RuntimeError for another."""
        return _there(self._run, self)

    @run.setter
    def run(self, run: Run) -> None:
        self._run = run

    @property
    def due(self) -> StepWork:
        """The step that a ready job waits for. Raises RuntimeError for another."""
        return _there(self._due, self)

    @due.setter
    def due(self, work: StepWork) -> None:
        self._due = work

    @property
    def progress(self) -> float:
        """Share of its plan's steps that are done."""
        return self.run.step / self.run.plan.steps

    @property
    def decoding(self) -> Decoding:
        """Made when it is first asked for: from then on the job is denoised to the end."""
        if self._decoding is None:
            self._decoding = Decoding(self.run.x, self.work.task.size)
        return self._decoding

    @property
    def decode_begun(self) -> bool:
        """Whether a chunk of its decoding has run, or been tried."""
        return self._decoding is not None and self._decoding.begun

    def times(self) -> Times:
        decode = 0.0 if self._decoding is None else self._decoding.seconds
        return Times(self.queued_seconds, self.model_seconds, decode)


T = TypeVar("T")


def _there(part: T | None, job: Job) -> T:
    if part is None:
        raise RuntimeError(f"job {job.work.request_id} has not come so far")
    return part
