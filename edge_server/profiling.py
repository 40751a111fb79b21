"""Measures what an edge's rounds cost, with the runner that serves them: medians of seconds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from baton.common.arm import Arm
from baton.common.build import this_build
from baton.common.diffusion.run import Run
from baton.common.expansion import Terms, expand
from baton.common.families.loaded import LoadedFamily
from baton.common.latents import Codec
from baton.common.plan import Guidance
from baton.common.request import Task
from baton.common.size import Size
from baton.edge_server.engine.job import Decoding, Work
from baton.edge_server.engine.lanes import Lanes, OneLane, lanes_for
from baton.edge_server.engine.latency import LatencyModel, Pace
from baton.edge_server.engine.runner import Runner
from baton.edge_server.scheduling.profile import (
    VERSION,
    Beside,
    Call,
    Conditions,
    DecoderProfile,
    LaneCount,
    MemberProfile,
    Profile,
    Together,
)

_STEPS = 50  # of a run; no measurement makes as many calls
_GUIDANCE = 2.0
_ROWS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
_CHUNKS = (1, 2, 4, 8)
_PROMPT = "a red cat"


class Cell(NamedTuple):
    """A UNet call, and chunks of decodes beside it: what is measured at a time."""

    lanes: LaneCount
    decodes: int
    chunks: int
    rows: int


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    rows: of calls, ascending; decodes: beside a call, none: nothing is measured beside; repeats: of
    which the median counts, after one more that does not; seconds: for a member at a size, after
    which only what every profile must hold is measured, once; activation_bytes: of a call.
    """

    rows: tuple[int, ...]
    decodes: tuple[int, ...] = (1, 2, 4)
    repeats: int = 5
    seconds: float = 120.0
    activation_bytes: int = 8 << 30

    @classmethod
    def full(cls, max_rows: int, activation_bytes: int) -> Effort:
        rows = (*(rows for rows in _ROWS if rows < max_rows), max_rows)
        return cls(rows, activation_bytes=activation_bytes)

    @classmethod
    def quick(cls, max_rows: int, activation_bytes: int) -> Effort:
        """Some seconds at most, at every start of an edge that has no profile."""
        rows = tuple(sorted({1, min(2, max_rows), min(8, max_rows), max_rows}))
        return cls(rows, (), 2, seconds=1.0, activation_bytes=activation_bytes)

    def within(self, row_bytes: int) -> Effort:
        """With the rows alone whose activations have room."""
        most = max(self.activation_bytes // row_bytes, 1) if row_bytes else self.rows[-1]
        return replace(self, rows=tuple(rows for rows in self.rows if rows <= most))

    @property
    def rows_beside(self) -> tuple[int, ...]:
        """Every other of them, the first and the last among them."""
        return tuple(sorted({*self.rows[::2], self.rows[-1]}))

    def cells(self, pieces: int) -> list[Cell]:
        """Beside one another, of a decoder of so many pieces; what is asked for most, first."""
        chunks = [*(count for count in _CHUNKS if count < pieces), pieces]
        lanes: tuple[LaneCount, ...] = (1, 2)
        return [Cell(*cell) for cell in product(lanes, self.decodes, chunks, self.rows_beside)]


def conditions_of(family: LoadedFamily, threads: int) -> Conditions:
    """Those under which a profile of the family's loaded members is measured here."""
    member = family.members[0]
    encoded = next(iter(family.encode_text("", member=member).row("positive").values()))
    return Conditions(
        device=str(family.models.device),
        dtype=str(encoded.dtype).removeprefix("torch."),
        threads=threads,
        family=family.name,
        fingerprint=family.fingerprint,
        members=dict(family.member_fingerprints),
        build=this_build(),
    )


def measured(
    family: LoadedFamily,
    conditions: Conditions,
    effort: Effort,
    targets: Sequence[tuple[str, Size]] | None = None,
    on_cell: Callable[[], None] = lambda: None,
) -> Profile:
    """A profile of these members and sizes, of all members at the default size if none are named.

    On the calling thread, which has the conditions' threads. on_cell: called after each of
    `cells_of`. Raises BatonError where the model fails.
    """
    chosen = targets or [(member, family.spec.default_size) for member in family.members]
    held = {member: conditions.members[member] for member, _ in chosen}
    bench = Bench(family, effort, on_cell)
    return Profile(
        version=VERSION,
        conditions=conditions.model_copy(update={"members": held}),
        measured=time.time(),
        quick=not effort.decodes,
        decoders=tuple(bench.decoder(size) for size in dict.fromkeys(size for _, size in chosen)),
        members=tuple(bench.member(member, size) for member, size in chosen),
    )


def cells_of(family: LoadedFamily, effort: Effort, targets: Sequence[tuple[str, Size]]) -> int:
    """How many measurements `measured` makes at most."""
    beside = len(effort.cells(len(family.models.decoder())))
    sizes = len({size for _, size in targets})
    return sizes * (2 + len(effort.decodes)) + len(targets) * (len(effort.rows) + beside)


def seeds(profile: Profile) -> dict[Pace, LatencyModel]:
    """What the engine's latency models begin with, of decoders as they are cut at rest."""
    decoders = {
        Pace.decoding(of.size): LatencyModel.of([(profile.chunks(of.size), of.seconds)])
        for of in profile.decoders
    }
    return decoders | {
        Pace(of.member, of.size): LatencyModel.of([(call.rows, call.seconds) for call in of.calls])
        for of in profile.members
    }


#: Seconds that something took, once the device has come so far.
Taken = Callable[[], float]


def timed(device: torch.device, work: Callable[[], object]) -> Taken:
    """Do it; on CUDA its time is that between two events of the calling thread's stream."""
    if device.type != "cuda":
        begun = time.perf_counter()
        work()
        seconds = time.perf_counter() - begun
        return lambda: seconds
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    work()
    last.record()

    def between() -> float:
        last.synchronize()
        return float(first.elapsed_time(last)) / 1000

    return between


class Bench:
    """Measures one thing after the other, on the calling thread.

    Runs are denoised in full, guided where the member takes guidance by two branches.
    """

    def __init__(
        self, family: LoadedFamily, effort: Effort, on_cell: Callable[[], None] = lambda: None
    ) -> None:
        self._family = family
        self._effort = effort
        self._on_cell = on_cell
        self._runner = Runner(family, "profile")
        self._deadline = time.monotonic() + effort.seconds

    def decoder(self, size: Size) -> DecoderProfile:
        """Its pieces one after the other, a whole decode, and several in turn."""
        pieces = self._pieces(size)
        whole = self._decodes(size, 1)
        together = tuple(
            Together(decodes=count, seconds=self._decodes(size, count))
            for count in self._effort.decodes
        )
        return DecoderProfile(size=size, seconds=whole, pieces=pieces, together=together)

    def member(self, member: str, size: Size) -> MemberProfile:
        """Calls alone, then those with chunks of decodes beside them while there is time."""
        self._deadline = time.monotonic() + self._effort.seconds
        effort = self._effort.within(self._family.row_bytes(member, size))
        calls = self._alone(member, size, effort.rows)
        beside = []
        with closing(lanes_for(self._family.models.device, True, torch.get_num_threads())) as two:
            lanes: dict[int, Lanes] = {1: OneLane(), 2: two}
            for cell in effort.cells(len(self._family.models.decoder())):
                if self._has_time():
                    beside.append(self._beside(member, size, cell, lanes[cell.lanes]))
        return MemberProfile(member=member, size=size, calls=calls, beside=tuple(beside))

    def _alone(self, member: str, size: Size, rows: Sequence[int]) -> tuple[Call, ...]:
        """In turn, so that what keeps the machine busy for a time keeps all of them."""
        runs = [self._runs(member, size, count) for count in rows]
        for each in runs:
            self._call(each)
            self._on_cell()
        found = [[self._timed(partial(self._call, each))()] for each in runs]
        while len(found[0]) < self._effort.repeats and self._has_time():
            for each, taken in zip(runs, found, strict=True):
                taken.append(self._timed(partial(self._call, each))())
        return tuple(
            Call(rows=count, seconds=statistics.median(taken))
            for count, taken in zip(rows, found, strict=True)
        )

    def _beside(self, member: str, size: Size, cell: Cell, lanes: Lanes) -> Beside:
        runs, decodes = self._runs(member, size, cell.rows), self._begun(size, cell.decodes)
        alone = self._median(lambda: self._call(runs))
        rounds = [
            lanes.beside(
                lambda: self._timed(lambda: self._call(runs)),
                lambda: self._timed(lambda: self._advance(decodes, size, cell.chunks)),
            )
            for _ in range(self._effort.repeats + 1)
        ]
        self._on_cell()
        unet, vae = (
            statistics.median(taken() for taken in lane) for lane in zip(*rounds[1:], strict=True)
        )
        return Beside(**cell._asdict(), alone=alone, unet=unet, vae=vae)

    def _runs(self, member: str, size: Size, rows: int) -> list[Run]:
        """So many as make a call of these rows, the odd one unguided."""
        first = self._run(member, size, _GUIDANCE)
        if failed := self._runner.encode([first])[0]:
            raise failed
        pairs, odd = divmod(rows, self._runner.next_work(first).rows)
        runs = [self._run(member, size, scale) for scale in [_GUIDANCE] * pairs + [1.0] * odd]
        for run in runs:
            run.conditioning, run.encoder = first.conditioning, first.encoder
        return runs

    def _run(self, member: str, size: Size, guidance: float) -> Run:
        spec = self._family.spec
        terms = Terms(spec.name, "ddim", _STEPS, Guidance(guidance), own_guidance=spec.own_guidance)
        plan = expand(Arm.edge(member), terms)
        task = Task(_PROMPT, "", plan, seed=0, size=size)
        return self._runner.begin(Work("profile", task, plan.closed(), Codec.FP32, 0))

    def _call(self, runs: Sequence[Run]) -> None:
        parts = [(run, self._runner.next_work(run)) for run in runs]
        for ran in self._runner.denoise(parts):
            if isinstance(ran, Exception):
                raise ran

    def _begun(self, size: Size, count: int) -> list[Decoding]:
        return [Decoding(self._latent(size), size) for _ in range(count)]

    def _latent(self, size: Size) -> Tensor:
        return torch.randn(self._family.latent_shape(size), device=self._family.models.device)

    def _advance(self, decodes: list[Decoding], size: Size, chunks: int) -> None:
        """The next chunk of each; another decode takes the place of one that is done."""
        for place, decoding in enumerate(decodes):
            if self._runner.decode(decoding, chunks):
                self._runner.picture(decoding)
                decodes[place] = Decoding(self._latent(size), size)

    def _decodes(self, size: Size, count: int) -> float:
        """Seconds until so many are done, piece by piece in turn."""
        pieces = len(self._family.models.decoder())

        def whole() -> None:
            decodes = self._begun(size, count)
            for _ in range(pieces):
                self._advance(decodes, size, pieces)

        seconds = self._median(whole)
        self._on_cell()
        return seconds

    def _pieces(self, size: Size) -> tuple[float, ...]:
        """By which the decodes that are measured from now on are cut, too."""
        before, self._runner.measuring = self._runner.measuring, True
        for _ in range(self._effort.repeats + 1):
            self._runner.decode(Decoding(self._latent(size), size))
        self._runner.measuring = before
        self._on_cell()
        return self._runner.piece_seconds(size) or ()

    def _timed(self, work: Callable[[], object]) -> Taken:
        return timed(self._family.models.device, work)

    def _median(self, work: Callable[[], object]) -> float:
        """Seconds of all but the first time."""
        self._timed(work)
        found = [self._timed(work)()]
        while len(found) < self._effort.repeats and self._has_time():
            found.append(self._timed(work)())
        return statistics.median(found)

    def _has_time(self) -> bool:
        return time.monotonic() < self._deadline
