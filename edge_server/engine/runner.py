"""Executes what the scheduler has chosen, on the model thread; chooses nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import torch

from baton.common.diffusion.blocks import Piece
from baton.common.diffusion.calls import Part
from baton.common.diffusion.executor import denoise
from baton.common.diffusion.run import Place, Run
from baton.common.diffusion.work import StepWork
from baton.common.errors import origin
from baton.common.families.loaded import LoadedFamily
from baton.common.families.local import begin_unencoded, encode, needs_encoding
from baton.common.latents import encode_state
from baton.common.record import ExecutedStep
from baton.common.size import Size
from baton.edge_server.engine.chunks import PieceSeconds, partition
from baton.edge_server.engine.encodings import Encodings
from baton.edge_server.engine.job import Decoding, Picture, Work

#: What came of a request's part of a call: the steps that it took, or what went wrong.
Ran = list[ExecutedStep] | Exception

_log = logging.getLogger(__name__)


class Runner:
    """One family's models, called for many requests; ``node_id`` is whose steps they are."""

    def __init__(self, family: LoadedFamily, node_id: str) -> None:
        self._family = family
        self._place: Place = ("edge", node_id)
        self._encodings = Encodings()
        self._device = family.models.device
        self._pieces = PieceSeconds()
        self.measuring = self._device.type == "cpu"

    @property
    def device(self) -> torch.device:
        return self._device

    def begin(self, work: Work) -> Run:
        """Without any model work. Raises BatonError for what cannot run."""
        run = begin_unencoded(self._family, work.task, work.resume, self._place, work.plan)
        run.pause_every = work.checkpoint_every
        return run

    def cache_bytes(self, run: Run, size: Size) -> int:
        return self._family.cache_bytes(run.plan, size)

    def row_bytes(self, run: Run, size: Size) -> int:
        return self._family.row_bytes(run.member, size)

    def load(self, work: StepWork, size: Size) -> float:
        """What a step costs, in rows that run all blocks."""
        if work.in_full:
            return work.rows
        return sum(
            self._family.share(work.member, bits, size) for taken in work.blocks for bits in taken
        )

    def needs_encoding(self, run: Run) -> bool:
        return needs_encoding(self._family, run)

    def encoder(self, run: Run) -> object:
        return self._family.models.encoder_of(run.member)

    def encode(self, runs: Sequence[Run]) -> list[Exception | None]:
        """One call with what was not encoded lately, each prompt once.

        If it fails, each alone, so that nobody fails for another's prompt.
        """
        keys = [self._encodings.key(self.encoder(run), run) for run in runs]
        first = dict(zip(reversed(keys), reversed(runs), strict=True))
        found = {key: self._encodings.get(key) for key in first}
        fresh = [key for key, known in found.items() if known is None]
        errors = dict(zip(fresh, self._encode([first[key] for key in fresh]), strict=True))
        for key in fresh:
            if errors[key] is None:
                found[key] = first[key].encoded
                self._encodings.keep(key, first[key].encoded)
        for key, run in zip(keys, runs, strict=True):
            run.conditioning, run.encoder = found[key], key[0]
        return [errors.get(key) for key in keys]

    def _encode(self, runs: Sequence[Run]) -> list[Exception | None]:
        try:
            encode(self._family, runs)
        except Exception as error:
            if len(runs) == 1:
                return [error]
            _log.error("prompts could not be encoded together: %s", origin(error))
            return [found for run in runs for found in self._encode([run])]
        return [None] * len(runs)

    def next_work(self, run: Run) -> StepWork:
        """The run's next step, with as many ahead as its plan allows."""
        return run.work(self._family.denoiser(run.member).graph)

    def lean_work(self, run: Run, work: Work, after: float) -> StepWork | None:
        """The same with guidance left out, from a share of the steps on; None where it may not be.

        What may be is in the budget that the request brings.
        """
        budget = work.task.plan.budget
        if budget is None or after >= 1.0:
            return None
        return run.lean_work(self._family.denoiser(run.member).graph, budget, after)

    def denoise(self, parts: Sequence[Part]) -> list[Ran]:
        """One call; if it fails, once more in halves if memory was short, then each alone.

        A call moves all of its runs or none, so what is done again is done from where it was.
        """
        try:
            return list(self._call(parts))
        except Exception as error:
            short = _is_memory(error)
            if len(parts) == 1 and not (short and parts[0][1].steps > 1):
                return [error]
            smaller = _halves(parts) if short else [[part] for part in parts]
            how = (
                "no room for a batch, its halves run"
                if short
                else "a batch failed, its requests run"
            )
            _log.error("%s one by one: %s", how, origin(error))
        return [ran for some in smaller for ran in self._some(some)]

    def _some(self, parts: Sequence[Part]) -> list[Ran]:
        try:
            return list(self._call(parts))
        except Exception as error:
            if len(parts) == 1:
                return [error]
        return [ran for part in parts for ran in self._some([part])]

    def _call(self, parts: Sequence[Part]) -> list[list[ExecutedStep]]:
        return denoise(parts, self._family.denoiser(parts[0][1].member))

    def decoder_bytes(self, size: Size) -> int:
        return self._family.decoder_bytes(size)

    def decode(self, decoding: Decoding, chunks: int = 1) -> bool:
        """Its next chunk; whether that was the last one, with which there is a `picture`.

        On CUDA it is only queued: nothing is read from the device.

        chunks: into how many a decoding is cut that begins, by what its pieces are known to take;
        one that has begun goes on as it is cut.
        """
        if not decoding.begun:
            decoding.pieces = self._family.models.decoder()
            decoding.ends = self._partition(decoding, chunks)
        with torch.inference_mode():
            for piece in decoding.chunk:
                self._piece(decoding, piece)
        if decoding.over and self.measuring:
            self._pieces.add(decoding.size, decoding.spent)
        return decoding.over

    def picture(self, decoding: Decoding) -> Picture:
        """What came of all its chunks. Raises as `LoadedFamily.picture`."""
        return self._family.picture(decoding.x)

    def _piece(self, decoding: Decoding, piece: Piece) -> None:
        begun = self._clock()
        decoding.x = piece(decoding.x)
        decoding.done += 1
        decoding.spent.append(self._clock() - begun)

    def _clock(self) -> float:
        """Seconds; on CUDA, where they are measured, when all is done that was asked for."""
        if self.measuring and self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
        return time.perf_counter()

    def _partition(self, decoding: Decoding, chunks: int) -> tuple[int, ...]:
        """By measured seconds; before there are any, by operations."""
        measured, count = self.piece_seconds(decoding.size), len(decoding.pieces)
        weights = measured or self._family.decoder_profile(decoding.size).macs
        return partition(weights if len(weights) == count else (1.0,) * count, chunks)

    def piece_seconds(self, size: Size) -> tuple[float, ...] | None:
        """What each piece of the decoder takes for a picture of a size; None if not known yet.

        As measured: on CPUs always, on CUDA while `measuring` is set, since a piece's time there
        is known only by waiting for it. Thread-safe.
        """
        return self._pieces.of(size)

    def seed_pieces(self, size: Size, seconds: Sequence[float]) -> None:
        """What the pieces took when they were measured before."""
        self._pieces.seed(size, seconds)

    def envelope(self, run: Run, work: Work) -> bytes:
        """The paused request, as it travels."""
        fingerprint = work.fingerprint or self._family.fingerprint
        return encode_state(run.state(), work.request_id, fingerprint, work.codec)


def _is_memory(error: Exception) -> bool:
    """Whether there was no room: CPU allocators tell so in words alone."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)


def _halves(parts: Sequence[Part]) -> list[list[Part]]:
    """Two calls for one: of half as many requests, or of half as many steps ahead of a single."""
    if len(parts) > 1:
        half = (len(parts) + 1) // 2
        return [list(parts[:half]), list(parts[half:])]
    ((run, work),) = parts
    return [[(run, work.first((work.steps + 1) // 2))]]
