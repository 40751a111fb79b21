"""The plan executor: runs any slice of a plan, many requests in one model call.

The same code runs on an edge (rows of many requests) and on a device (rows of one).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from baton.common.diffusion.calls import ModelCall, Part, RecordedBatch
from baton.common.diffusion.denoiser import Denoiser
from baton.common.diffusion.guidance import Guided, gathered, guided
from baton.common.diffusion.run import BranchCache, Run
from baton.common.diffusion.samplers import (
    Move,
    SamplerHistory,
    advance_rows,
    columns,
    rescaling,
    vp_form,
)
from baton.common.diffusion.work import StepWork
from baton.common.errors import ExecutionFailed
from baton.common.limits import Branch
from baton.common.record import ExecutedStep


@torch.inference_mode()
def denoise_step(
    runs: Sequence[Run], denoiser: Denoiser, recorded: RecordedBatch | None = None
) -> list[list[ExecutedStep]]:
    """Advance every run by one step, or by one group of them, in one model call.

    As `denoise`, with as many steps ahead as each may take. recorded: for a single run, the batch
    that it was part of when it ran before.
    """
    steps = None if recorded is None else recorded.ahead + 1
    parts = [(run, run.work(denoiser.graph, steps)) for run in runs]
    return denoise(parts, denoiser, recorded)


@torch.inference_mode()
def denoise(
    parts: Sequence[Part], denoiser: Denoiser, recorded: RecordedBatch | None = None
) -> list[list[ExecutedStep]]:
    """Advance every run by its work in one model call; on an exception none has moved.

    Returns by run the steps that it took. The works must be of one group. A run whose latent stops
    being finite gets its ``error`` set and keeps its last good latent; its neighbours go on.
    """
    return evaluate(parts, denoiser, recorded).commit()


@dataclass
class _Track:
    """A run's way through the steps of its work: what each comes to, until it fails at one.

    flags: by step, where in the round's flags it says whether the latent is finite: 0, else NaN.
    """

    run: Run
    work: StepWork
    first: int  # of its steps among those of the round
    latents: list[Tensor] = field(default_factory=list)
    histories: list[SamplerHistory | None] = field(default_factory=list)
    flags: list[int] = field(default_factory=list)
    error: ExecutionFailed | None = None

    @property
    def x(self) -> Tensor:
        return self.latents[-1] if self.latents else self.run.x

    @property
    def history(self) -> SamplerHistory | None:
        return self.histories[-1] if self.histories else self.run.history

    @property
    def step(self) -> int:
        return self.work.step + len(self.latents)

    def goes_on(self, index: int) -> bool:
        return index < self.work.steps and self.error is None

    def move(self) -> Move | None:
        """The sampler's next step; None, and an error, if it cannot make it."""
        try:
            return self.run.course.move(self.step, self.history)
        except (ValueError, ArithmeticError) as error:  # its neighbours have levels of their own
            self.error = ExecutionFailed(f"the sampler failed at step {self.step}: {error}")
            return None

    def commit(
        self,
        finite: Sequence[bool],
        differences: Sequence[Tensor | None],
        caches: dict[Branch, BranchCache],
    ) -> int:
        """Move the run to its last good latent; how many steps that took."""
        run, good = self.run, [finite[flag] for flag in self.flags]
        count = good.index(False) if False in good else len(good)
        if count < len(good):
            step = self.work.step + count
            self.error = ExecutionFailed(f"the latent stopped being finite at step {step}")
        if count:
            run.x, run.history = self.latents[count - 1], self.histories[count - 1]
            run.difference = differences[self.first + count - 1]
            for of in self.work.guidance[:count]:
                run.lean_in_a_row = 0 if of == "both" else run.lean_in_a_row + 1
        ended = run.segment.stop == run.step + count
        run.step, run.caches, run.error = run.step + count, caches, self.error
        if ended:  # what its steps left is of no use to another member
            run.caches, run.difference = {}, None
        return count


@dataclass(frozen=True)
class Evaluated:
    """A round's outcome before any of it counts."""

    call: ModelCall
    guided: Guided
    tracks: Sequence[_Track]
    flags: Sequence[Tensor]

    def commit(self) -> list[list[ExecutedStep]]:
        """Move the runs on, all of them; by run, the steps that it took.

        What may fail comes first, and one flag is read from the device, whether all is finite.
        """
        records = _records([(track.run, track.work) for track in self.tracks])
        caches = [self.call.caches(index) for index in range(len(self.tracks))]
        read = _joined(self.flags).tolist() if self.flags else []
        finite = [flag == 0.0 for flag in read]
        for track, taken, kept in zip(self.tracks, records, caches, strict=True):
            del taken[track.commit(finite, self.guided.differences, kept) :]
        return records


@torch.inference_mode()
def evaluate(
    parts: Sequence[Part], denoiser: Denoiser, recorded: RecordedBatch | None = None
) -> Evaluated:
    """Model, guidance and sampler over all rows, as tensors on the model's device."""
    tracks, steps = [], 0
    for run, work in parts:
        tracks.append(_Track(run, work, steps))
        steps += work.steps
    x = _noised(torch.stack([run.x for run, _ in parts]), tracks)
    vp = _scaled(x, [run.course.to_vp[run.step] for run, _ in parts])
    call = ModelCall(denoiser, parts, vp, recorded)
    told = guided(call.out, parts, denoiser)
    flags: list[Tensor] = []
    for index in range(max(work.steps for _, work in parts)):
        if going := [track for track in tracks if track.goes_on(index)]:
            if len(going) < len(tracks) or index:
                x = _noised(torch.stack([track.x for track in going]), going)
            _advance(going, x, told.predicted, flags)
    return Evaluated(call, told, tracks, flags)


def _noised(x: Tensor, tracks: Sequence[_Track]) -> Tensor:
    """Latents [n, ...] with their steps' shares of prior noise (Faster Diffusion, Sec. 3.3).

    Native form; the paper adds ``share * z_T`` to a latent in VP form.
    """
    rows, told = [], []
    for row, track in enumerate(tracks):
        if noise := track.run.plan.directive_at(track.step).prior_noise:
            level = track.run.course.levels[track.step]
            rows.append(row)
            told.append((noise, rescaling(vp_form(level), level)))
    if not rows:
        return x
    share, factor = columns(told, x)
    added = torch.stack([tracks[row].run.prior for row in rows]) * share * factor
    index = torch.tensor(rows, device=x.device)
    return x.index_copy(0, index, x[index] + added)


def _scaled(x: Tensor, factors: Sequence[float]) -> Tensor:
    """Rows by a factor each; left alone where all are one, as far as float32 can tell."""
    if all(abs(factor - 1.0) < 2.0**-26 for factor in factors):
        return x
    return x * columns([(factor,) for factor in factors], x)[0]


def _joined(flags: Sequence[Tensor]) -> Tensor:
    return flags[0] if len(flags) == 1 else torch.cat(list(flags))


def _advance(going: list[_Track], x: Tensor, predicted: Tensor, flags: list[Tensor]) -> None:
    """One sampler step of each from its latent; ``flags`` gets zeros where what comes is finite."""
    moves = [track.move() for track in going]
    able = [place for place, move in enumerate(moves) if move is not None]
    if not able:
        return
    if len(able) < len(going):
        x, going = gathered(x, able), [going[place] for place in able]
    predicted = gathered(predicted, [track.first + len(track.latents) for track in going])
    x, histories = advance_rows(x, predicted, [move for move in moves if move is not None])
    x = _scaled(x, [track.run.course.into_next(track.step) for track in going])
    first = sum(map(len, flags))
    flags.append((x - x).sum(dim=tuple(range(1, x.dim()))))
    rows = x.unbind(0)
    for place, (track, history) in enumerate(zip(going, histories, strict=True)):
        track.latents.append(rows[place])
        track.histories.append(history)
        track.flags.append(first + place)


def _records(parts: Sequence[Part]) -> list[list[ExecutedStep]]:
    works = [work for _, work in parts]
    patterns, total = _patterns(works), sum(work.rows for work in works)
    threads, row, records = torch.get_num_threads(), 0, []
    for run, work in parts:
        taken = []
        for index, (of, bits) in enumerate(zip(work.guidance, work.blocks, strict=True)):
            step = work.step + index
            taken.append(
                ExecutedStep(
                    step=step,
                    member=work.member,
                    location=run.place[0],
                    node_id=run.place[1],
                    branches=of,
                    rows=total,
                    threads=threads,
                    row=row,
                    blocks=bits[0],
                    ahead=0 if index else work.steps - 1,
                    prior_noise=run.plan.directive_at(step).prior_noise,
                    neighbours=patterns,
                    negative_blocks=None if bits[-1] == bits[0] else bits[-1],
                )
            )
            row += len(bits)
        records.append(taken)
    return records


def _patterns(works: Sequence[StepWork]) -> tuple[tuple[int, int | None], ...]:
    """(rows, blocks) in the order of the batch, where several runs do not all run the same.

    Rows that run the same one after the other are told as one: each run's record holds all this,
    at each of its steps.
    """
    if len(works) == 1 or all(work.in_full for work in works):
        return ()
    rows = (bits for work in works for taken in work.blocks for bits in taken)
    return tuple((len(list(alike)), bits) for bits, alike in groupby(rows))


def step_alone(
    run: Run, denoiser: Denoiser, recorded: RecordedBatch | None = None
) -> list[ExecutedStep]:
    """Advance one run by one step or group; returns the steps that it took.

    recorded: as for `denoise_step`. Raises ExecutionFailed if the latent stops being finite.
    """
    taken = denoise_step([run], denoiser, recorded)[0]
    if run.error is not None:
        raise run.error
    return taken
