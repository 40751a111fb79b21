"""What the model thread does, one thing after the other: choose, execute, tell what came of it."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence

from baton.common.diffusion.work import StepWork
from baton.common.errors import BatonError, ExecutionFailed, origin
from baton.edge_server.engine.job import (
    Checkpointed,
    Denoised,
    Drained,
    Drawn,
    Dropped,
    Event,
    HandedOff,
    Job,
    Outcome,
    Progressed,
    Started,
)
from baton.edge_server.engine.lanes import lanes_for
from baton.edge_server.engine.latency import LatencyModel, Pace
from baton.edge_server.engine.observer import Observer
from baton.edge_server.engine.runner import Ran, Runner
from baton.edge_server.engine.scheduler import (
    Limits,
    Queues,
    Round,
    Terms,
    Turn,
    admitted,
    next_round,
)
from baton.edge_server.engine.steering import Steering, Wheel
from baton.edge_server.scheduling.planner import Waiting

_log = logging.getLogger(__name__)


class Loop:
    """The requests that are here, and one `step` after the other over them.

    Every job gets one last event, and is here no more. Nothing of it is thread-safe.
    """

    def __init__(
        self,
        runner: Runner,
        limits: Limits,
        steering: Steering | None = None,
        threads: int | None = None,
        observer: Observer | None = None,
    ) -> None:
        steering = steering or Steering()
        self._runner = runner
        self._observer = observer or Observer()
        self._lanes = lanes_for(runner.device, steering.decode_lane, threads)
        self.wheel = Wheel(steering, self._lanes.waiting)
        self._terms = Terms(limits, self.wheel.plan)
        self._queues: Queues[Job] = Queues()
        self._jobs: dict[Job, None] = {}
        self._turn = Turn()
        self._begun = 0.0  # of the round: the end of the last one, or of idleness
        self._beside = 0.0  # seconds since then that went to prompts and pictures
        self.latency = dict(steering.latency)
        for size, seconds in steering.pieces.items():
            runner.seed_pieces(size, seconds)
        self._observer.knobs(*self.wheel.knobs)

    @property
    def idle(self) -> bool:
        return not self._jobs

    def step(self) -> None:
        """Give free places to those that wait, then run what the scheduler chooses."""
        if self.wheel.observe(len(self._queues.waiting), time.monotonic()):
            self._observer.knobs(*self.wheel.knobs)
        self._admit(admitted(self._queues, self._terms.limits))
        chosen, self._turn = next_round(self._queues, self._terms, self._turn)
        if chosen.encode:
            self._encode(chosen.encode)
        self._run(chosen)

    def take(self, job: Job) -> None:
        """Put it in line; what cannot run ends at once."""
        if self.idle:
            self._begun, self._beside = time.monotonic(), 0.0
        self._jobs[job] = None
        try:
            self._prepare(job)
        except Exception as error:
            self._fail(job, error)
        else:
            self._queues.wait(job)

    def drop(self, job: Job) -> None:
        """Let a job go, unless it has ended."""
        if job in self._jobs:
            self._queues.remove(job)
            self._end(job, Dropped())

    def release(self, job: Job) -> None:
        """End a job with its state, unless it has ended or nothing is left but to decode it."""
        if job not in self._jobs or job in self._queues.decoding:
            return
        self._queues.remove(job)
        try:
            checkpoint = self._checkpoint(job) if job.executed else None
        except Exception as error:
            self._fail(job, error)
        else:
            self._end(job, Drained(checkpoint, job.times()))

    def close(self, error: BatonError) -> None:
        """End all that are here."""
        for job in list(self._jobs):
            self._end(job, error)
        self._queues = Queues()
        self._lanes.close()

    def _prepare(self, job: Job) -> None:
        """What would keep more than all together may runs in full."""
        run, size = self._runner.begin(job.work), job.work.task.size
        job.cache_bytes = self._runner.cache_bytes(run, size)
        if job.cache_bytes > self._terms.limits.cache_bytes:
            run.plan, job.cache_bytes = run.plan.in_full(), 0
        if job.work.stop == run.plan.steps:
            job.decode_bytes = self._runner.decoder_bytes(size)
        job.run = run
        job.encoder = self._runner.encoder(run)

    def _admit(self, count: int) -> None:
        for _ in range(count):
            job = self._queues.waiting.popleft()
            job.queued_seconds = time.monotonic() - job.submitted
            try:
                self._tell(job, Started())
            except ExecutionFailed as error:
                self._fail(job, error)
            else:
                self._queues.unencoded.append(job)

    def _encode(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._queues.unencoded.remove(job)
        begun = time.monotonic()
        failed = self._runner.encode([job.run for job in jobs])
        seconds = time.monotonic() - begun
        for job, error in zip(jobs, failed, strict=True):
            job.model_seconds += seconds
            self._line_up(job, error)
        self._note(Pace.encoding(jobs[0].run.member), len(jobs), seconds)
        self._beside += seconds

    def _run(self, chosen: Round[Job]) -> None:
        """A round's call, and the chunks beside it."""
        skipped = chosen.skipped
        for job, _ in chosen.denoise:
            self._queues.ready.remove(job)
        (ran, seconds), decoded = self._lanes.beside(
            lambda: self._denoise(chosen.denoise), lambda: self._decode(chosen.decode)
        )
        for (job, _), came in zip(chosen.denoise, ran, strict=True):
            self._advance(job, came)
        for job, over in zip(chosen.decode, decoded, strict=True):
            self._show(job, over)
        if chosen.denoise:
            self.wheel.count(chosen.planned, skipped)
            self._observer.round(chosen.planned)
            member, rows = chosen.denoise[0][1].member, sum(work.rows for _, work in chosen.denoise)
            self._observer.denoised(member, rows, skipped, seconds)
            self._measure(chosen.denoise)

    def _denoise(self, parts: Sequence[tuple[Job, StepWork]]) -> tuple[list[Ran], float]:
        """What came of each, and seconds."""
        if not parts:
            return [], 0.0
        begun = time.monotonic()
        ran = self._runner.denoise([(job.run, work) for job, work in parts])
        seconds = time.monotonic() - begun
        for job, _ in parts:
            job.model_seconds += seconds
        return ran, seconds

    def _decode(self, jobs: Sequence[Job]) -> list[bool | Exception]:
        """Of each, whether its last chunk has run, or what went wrong."""
        begun = time.monotonic()
        decoded = [self._chunk(job) for job in jobs]
        if self._lanes.waiting is Waiting.SERIAL:
            self._beside += time.monotonic() - begun
        return decoded

    def _chunk(self, job: Job) -> bool | Exception:
        begun = time.monotonic()
        try:
            return self._runner.decode(job.decoding, self.wheel.chunks(job.work.task.size))
        except Exception as error:
            return error
        finally:
            job.decoding.seconds += time.monotonic() - begun

    def _advance(self, job: Job, came: Ran) -> None:
        """Report a step; hand off or decode if the job's part is done, else line it up anew."""
        run = job.run
        error = came if isinstance(came, Exception) else run.error
        if not isinstance(came, Exception):
            job.executed += came
        if error is not None:
            self._fail(job, error)
        elif run.step < job.work.stop:
            self._line_up(job, self._told(job))
        elif run.step < run.plan.steps:
            self._hand_off(job)
        else:
            self._queues.decoding.append(job)
            self._denoised(job)

    def _denoised(self, job: Job) -> None:
        try:
            self._tell(job, Denoised())
        except ExecutionFailed as error:
            self._queues.decoding.remove(job)
            self._fail(job, error)

    def _told(self, job: Job) -> Exception | None:
        """Emit the progress, and the checkpoint where one is due."""
        run, every = job.run, job.work.checkpoint_every
        try:
            self._tell(job, Progressed(run.step, run.plan.steps, job.executed[-1].rows))
            if every and (run.step - job.work.first_step) % every == 0:
                self._tell(job, self._checkpoint(job))
        except Exception as error:
            return error
        return None

    def _checkpoint(self, job: Job) -> Checkpointed:
        return Checkpointed(self._runner.envelope(job.run, job.work), tuple(job.executed))

    def _line_up(self, job: Job, error: Exception | None) -> None:
        """For its next step, or for the encoder that the step's member reads prompts with."""
        try:
            if error is not None:
                raise error
            if self._runner.needs_encoding(job.run):
                job.encoder = self._runner.encoder(job.run)
                self._queues.unencoded.append(job)
                return
            due = self._runner.next_work(job.run)
            job.lean = self._runner.lean_work(job.run, job.work, self.wheel.knobs.skip_after)
            if due.step == job.work.first_step or due.member != job.due.member:
                job.row_bytes = self._runner.row_bytes(job.run, job.work.task.size)
                job.pace = Pace(due.member, job.work.task.size)
            job.due = due
        except Exception as failed:
            self._fail(job, failed)
        else:
            self._queues.ready.append(job)

    def _hand_off(self, job: Job) -> None:
        try:
            envelope = self._runner.envelope(job.run, job.work)
        except Exception as error:
            self._fail(job, error)
        else:
            self._end(job, HandedOff(envelope, tuple(job.executed), job.times()))

    def _show(self, job: Job, over: bool | Exception) -> None:
        """End it with its picture, if its last chunk has run."""
        if over is False:
            return
        self._queues.decoding.remove(job)
        try:
            if isinstance(over, Exception):
                raise over
            picture = self._runner.picture(job.decoding)
        except Exception as error:
            self._fail(job, error)
        else:
            decoded = job.decoding
            self._note(Pace.decoding(decoded.size), len(decoded.ends), decoded.seconds)
            self._end(job, Drawn(picture, tuple(job.executed), job.times()))

    def _measure(self, parts: Sequence[tuple[Job, StepWork]]) -> None:
        """Of rounds of one member and size; what their steps run is in the load."""
        size, member = parts[0][0].work.task.size, parts[0][1].member
        load = sum(self._runner.load(work, size) for _, work in parts)
        now = time.monotonic()
        self._note(Pace(member, size), load, now - self._begun - self._beside)
        self._begun, self._beside = now, 0.0

    def _note(self, pace: Pace, load: float, seconds: float) -> None:
        self.latency[pace] = self.latency.get(pace, LatencyModel()).after(load, seconds)

    def _fail(self, job: Job, error: Exception) -> None:
        if not isinstance(error, BatonError):
            _log.error("request %s failed: %s", job.work.request_id, origin(error))
            error = ExecutionFailed(f"the model failed: {type(error).__name__}")
        self._end(job, error)

    def _end(self, job: Job, event: Outcome | Dropped) -> None:
        """The last that is heard of a job."""
        del self._jobs[job]
        with contextlib.suppress(ExecutionFailed):
            self._tell(job, event)

    def _tell(self, job: Job, event: Event) -> None:
        """Raises ExecutionFailed where the listener fails: that ends no request but its own."""
        try:
            job.emit(event)
        except Exception as error:  # for one, it has closed its event loop
            _log.warning("request %s: its listener failed: %s", job.work.request_id, origin(error))
            raise ExecutionFailed("what listens to this request has failed") from error
