"""One model call for many runs: their rows, their masks, and what each keeps for its next steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from baton.common.diffusion.blocks import BlockGraph, Blocks, ModelInputs
from baton.common.diffusion.conditioning import stacked
from baton.common.diffusion.denoiser import Denoiser
from baton.common.diffusion.profile import profile
from baton.common.diffusion.rows import Row, RowBatch
from baton.common.diffusion.run import BranchCache, Run
from baton.common.diffusion.work import StepWork
from baton.common.errors import InvalidRequest
from baton.common.limits import Branch

#: A run with its part of the call.
Part = tuple[Run, StepWork]


@dataclass(frozen=True)
class RecordedBatch:
    """The batch in which a step is to run again, all other rows standing in for those that were.

    rows: of the batch; row: the first that is the step's own; ahead: steps that ran with it;
    neighbours: as in `ExecutedStep`.
    """

    rows: int
    row: int
    ahead: int = 0
    neighbours: tuple[tuple[int, int | None], ...] = ()

    @property
    def blocks(self) -> list[int | None]:
        """By row; None for all."""
        return [bits for rows, bits in self.neighbours for _ in range(rows)]


class ModelCall:
    """What came of one call. ``out``: [rows, C, H, W], the parts' rows one after the other.

    latents: VP, one per part [parts, C, H, W]. Raises InvalidRequest for blocks that the member
    lacks.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        parts: Sequence[Part],
        latents: Tensor,
        recorded: RecordedBatch | None = None,
    ) -> None:
        self._parts = parts
        self._batch: RowBatch | None = None
        inputs, total = _inputs(parts, latents), sum(work.rows for _, work in parts)
        if recorded is not None and recorded.row + total > recorded.rows:
            raise InvalidRequest(f"{total} rows were no part of a batch of {recorded.rows}")
        if recorded is not None and recorded.rows == total:
            recorded = None
        first = 0
        if recorded is not None:
            inputs = inputs.rows((torch.arange(recorded.rows) - recorded.row) % total)
            first = recorded.row
        self._firsts = _firsts(parts, first)
        plain = all(work.in_full for _, work in parts) and not (recorded and recorded.neighbours)
        if plain:
            out = denoiser(inputs)
        else:
            if denoiser.graph is None:
                raise InvalidRequest(f"the blocks of {parts[0][1].member} cannot be addressed")
            out = self._by_blocks(denoiser.graph, inputs, recorded)
        self.out = out if len(out) == total else out[first : first + total]

    def _by_blocks(
        self, graph: BlockGraph, inputs: ModelInputs, recorded: RecordedBatch | None
    ) -> Tensor:
        others = [] if recorded is None else _stand_ins(graph, recorded, inputs)
        rows = others[: recorded.row] if recorded else []
        self._held = [_held(graph, run, work) for run, work in self._parts]
        keep = 0
        for (run, work), held in zip(self._parts, self._held, strict=True):
            rows += _rows(graph, run, work, len(rows))
            for bits in held.values():
                keep |= bits
        rows += others[len(rows) :]
        self._batch = RowBatch(graph, inputs, rows, keep)
        return self._batch.out

    def caches(self, index: int) -> dict[Branch, BranchCache]:
        """What the part keeps of the call and of earlier ones, by branch, for its later steps.

        Copies where the call's tensors hold other rows too: nobody's cache keeps those alive.
        """
        run, work = self._parts[index]
        if self._batch is None and not run.caches:
            return {}
        ran = {branch for of in work.branches for branch in of}
        kept = {branch: _own(cache) for branch, cache in run.caches.items() if branch not in ran}
        if self._batch is None:
            return kept
        last = _last_rows(work, self._firsts[index])
        held = self._held[index]
        for branch in last:
            kept[branch] = {}
        for block in range(max(held.values(), default=0).bit_length()):
            rows = {branch: row for branch, row in last.items() if held[branch] >> block & 1}
            if rows:
                tensor = self._batch.take(block, tuple(rows.values()))
                for place, branch in enumerate(rows):
                    kept[branch][block] = tensor, place
        return {branch: cache for branch, cache in kept.items() if cache}


def _inputs(parts: Sequence[Part], latents: Tensor) -> ModelInputs:
    timesteps, conditioning = [], []
    for run, work in parts:
        encoded = run.encoded
        for t, of in zip(work.timesteps, work.branches, strict=True):
            for branch in of:
                timesteps.append(t)
                conditioning.append(encoded.row(branch))
    device = latents.device
    places = [place for place, (_, work) in enumerate(parts) for _ in range(work.rows)]
    return ModelInputs(
        latents.index_select(0, torch.tensor(places, device=device)),
        torch.tensor(timesteps, device=device),
        stacked(conditioning),
    )


def _firsts(parts: Sequence[Part], first: int) -> list[int]:
    """By part, its first row in the call."""
    firsts = []
    for _, work in parts:
        firsts.append(first)
        first += work.rows
    return firsts


def _rows(graph: BlockGraph, run: Run, work: StepWork, first: int) -> list[Row]:
    """A branch reads what it does not run of its last row in the call, else of its own cache."""
    rows: list[Row] = []
    newest: dict[Branch, int] = {}
    for of, taken in zip(work.branches, work.blocks, strict=True):
        for branch, bits in zip(of, taken, strict=True):
            cache = run.caches.get(branch, {})
            rows.append(Row(graph.all if bits is None else bits, cache, newest.get(branch)))
            newest[branch] = first + len(rows) - 1
    return rows


def _last_rows(work: StepWork, first: int) -> dict[Branch, int]:
    """By branch, the row of its last step, in the order of the rows."""
    last: dict[Branch, int] = {}
    for of in work.branches:
        for branch in of:
            last[branch] = first
            first += 1
    return dict(sorted(last.items(), key=lambda item: item[1]))


def _held(graph: BlockGraph, run: Run, work: StepWork) -> dict[Branch, Blocks]:
    """By branch that runs, the blocks whose outputs later steps of the segment reuse.

    As far as there are any: a step at which a branch was left out has not run what it was to leave.
    """
    steps = {branch: step for step, of in enumerate(work.branches, work.step) for branch in of}
    if work.in_full:
        return dict.fromkeys(steps, 0)
    flows, there = run.flows(graph), run.held
    for of, taken in zip(work.branches, work.blocks, strict=True):
        for branch, bits in zip(of, taken, strict=True):
            there[branch] = there.get(branch, 0) | (graph.all if bits is None else bits)
    return {branch: flows[branch].held(step) & there[branch] for branch, step in steps.items()}


def _own(cache: BranchCache) -> BranchCache:
    """The same, in tensors that hold no other branch's row."""
    return {
        block: slot if len(slot[0]) == 1 else (slot[0][slot[1] : slot[1] + 1].clone(), 0)
        for block, slot in cache.items()
    }


def _stand_ins(graph: BlockGraph, recorded: RecordedBatch, inputs: ModelInputs) -> list[Row]:
    """Rows that run the recorded blocks; what they read of earlier steps may be anything."""
    shapes = profile(graph, inputs).shapes
    device = inputs.sample.device
    anything = {
        block: (torch.zeros(1, *shape, device=device), 0) for block, shape in enumerate(shapes)
    }
    blocks = recorded.blocks or [None] * recorded.rows
    return [Row(graph.all if bits is None else bits & graph.all, anything) for bits in blocks]
