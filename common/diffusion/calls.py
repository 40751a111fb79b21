"""One model call for many runs: their rows, their masks, and what each keeps for its next steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import Protocol

import torch
from torch import Tensor

from baton.common.diffusion.blocks import BlockGraph, Blocks, BlockSchedule, ModelInputs
from baton.common.diffusion.profile import profile
from baton.common.diffusion.rows import Row, RowBatch
from baton.common.errors import InvalidRequest
from baton.common.plan import Segment


class Denoiser(Protocol):
    """A member: VP latents [B, C, H, W], timesteps [B], context [B, L, D] -> [B, C, H, W].

    Its blocks can be addressed if it also has a ``graph``, a `BlockGraph`.
    """

    def __call__(self, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class BlockCache:
    """Outputs that a run keeps between steps, by block, each [branches, ...].

    Holds for the step after ``step`` on the same member, with as many branches.
    """

    member: str
    step: int
    branches: int
    outputs: dict[int, Tensor] = field(repr=False)

    @property
    def nbytes(self) -> int:
        return sum(output.nbytes for output in self.outputs.values())


@dataclass(frozen=True)
class Ask:
    """What one run asks of a model call: a step, and those that are decoded ahead with it.

    latent: VP [C, H, W]; timesteps: one per step; contexts: one [L, D] per branch.
    """

    segment: Segment
    step: int
    latent: Tensor
    timesteps: tuple[float, ...]
    contexts: tuple[Tensor, ...]
    cache: BlockCache | None

    @property
    def steps(self) -> int:
        return len(self.timesteps)

    @property
    def rows(self) -> int:
        return self.steps * len(self.contexts)

    def usable_cache(self) -> BlockCache | None:
        """The cache, if it is of the step before on the same member and branches."""
        cache, wanted = self.cache, (self.segment.member, self.step - 1, len(self.contexts))
        fits = cache is not None and (cache.member, cache.step, cache.branches) == wanted
        return cache if fits else None

    def bits(self, graph: BlockGraph | None) -> list[Blocks | None]:
        """By step, the blocks that run; None where the whole model runs as it is."""
        if graph is None or not self.segment.masked:
            return [None] * self.steps
        first = self.step - self.segment.start
        bits: list[Blocks | None] = list(
            block_schedule_of(graph, self.segment).run[first : first + self.steps]
        )
        if self.usable_cache() is None:
            bits[0] = graph.all
        return bits


@dataclass(frozen=True)
class Answer:
    """out: [steps, branches, C, H, W]; bits: by step, the blocks that ran (None: all as one)."""

    out: Tensor
    bits: list[Blocks | None]
    cache: BlockCache | None


@dataclass(frozen=True)
class RecordedBatch:
    """The batch in which a step is to run again, all other rows standing in for those that were.

    rows: of the batch; row: the first that is the step's own; neighbours: as in `ExecutedStep`.
    """

    rows: int
    row: int
    neighbours: tuple[tuple[int, int | None], ...] = ()

    @property
    def blocks(self) -> list[int | None]:
        """By row; None for all."""
        return [bits for rows, bits in self.neighbours for _ in range(rows)]


def call(
    denoiser: Denoiser, asks: Sequence[Ask], recorded: RecordedBatch | None = None
) -> list[Answer]:
    """Run what all ask in one call; with a recorded batch, what one asks among its stand-ins.

    Raises InvalidRequest for blocks that the member lacks.
    """
    latents = torch.stack([ask.latent for ask in asks for _ in range(ask.rows)])
    timesteps = torch.tensor([t for ask in asks for t in ask.timesteps for _ in ask.contexts])
    contexts = torch.stack([c for ask in asks for _ in ask.timesteps for c in ask.contexts])
    inputs, first = ModelInputs(latents, timesteps, contexts), 0
    if recorded is not None and recorded.rows == len(latents):
        recorded = None
    if recorded is not None:
        inputs = inputs.rows((torch.arange(recorded.rows) - recorded.row) % len(latents))
        first = recorded.row
    if any(ask.segment.masked for ask in asks) or (recorded is not None and recorded.neighbours):
        graph = getattr(denoiser, "graph", None)
        if not isinstance(graph, BlockGraph):
            raise InvalidRequest(f"the blocks of {asks[0].segment.member} cannot be addressed")
        return _by_blocks(graph, asks, inputs, recorded)
    out = denoiser(inputs.sample, inputs.timesteps, inputs.context)
    answers = []
    for ask in asks:
        part = out[first : first + ask.rows].unflatten(0, (ask.steps, -1))
        answers.append(Answer(part, [None] * ask.steps, None))
        first += ask.rows
    return answers


def _by_blocks(
    graph: BlockGraph, asks: Sequence[Ask], inputs: ModelInputs, recorded: RecordedBatch | None
) -> list[Answer]:
    others = [] if recorded is None else _stand_ins(graph, recorded, inputs)
    rows = others[: recorded.row] if recorded else []
    firsts = []
    for ask in asks:
        firsts.append(len(rows))
        rows += _rows(graph, ask, len(rows))
    rows += others[len(rows) :]
    held = [_held(graph, ask) for ask in asks]
    batch = RowBatch(graph, inputs, rows, reduce(or_, held))
    answers = []
    for ask, first, blocks in zip(asks, firsts, held, strict=True):
        out = batch.out[first : first + ask.rows].unflatten(0, (ask.steps, -1))
        answers.append(Answer(out, ask.bits(graph), _kept(batch, ask, first, blocks)))
    return answers


def _stand_ins(graph: BlockGraph, recorded: RecordedBatch, inputs: ModelInputs) -> list[Row]:
    """Rows that run the recorded blocks; what they read of earlier steps may be anything."""
    shapes = profile(graph, inputs).shapes
    anything = {block: (torch.zeros(1, *shape), 0) for block, shape in enumerate(shapes)}
    blocks = recorded.blocks or [None] * recorded.rows
    return [Row(graph.all if bits is None else bits & graph.all, anything) for bits in blocks]


def _rows(graph: BlockGraph, ask: Ask, first: int) -> list[Row]:
    branches, cache = len(ask.contexts), ask.usable_cache()
    outputs = {} if cache is None else cache.outputs
    rows: list[Row] = []
    for index, bits in enumerate(ask.bits(graph)):
        for branch in range(branches):
            slots = {block: (tensor, branch) for block, tensor in outputs.items()}
            run = graph.all if bits is None else bits
            rows.append(Row(run, slots, first + branch if index else None))
    return rows


def block_schedule_of(graph: BlockGraph, segment: Segment) -> BlockSchedule:
    """What the blocks of a segment's steps mean. Raises InvalidRequest for blocks that it lacks."""
    mask = [graph.all if item.blocks is None else item.blocks for item in segment.directives]
    if max(mask) > graph.all:
        raise InvalidRequest(f"member {segment.member} has only {len(graph)} blocks")
    return graph.schedule(mask)


def _held(graph: BlockGraph, ask: Ask) -> Blocks:
    """The blocks whose outputs later steps of the segment reuse."""
    if not ask.segment.masked:
        return 0
    return block_schedule_of(graph, ask.segment).held[ask.step + ask.steps - 1 - ask.segment.start]


def _kept(batch: RowBatch, ask: Ask, first: int, held: Blocks) -> BlockCache | None:
    """Copies where the call's tensors hold other rows too: nobody's cache keeps those alive."""
    if not held:
        return None
    branches = len(ask.contexts)
    last = first + ask.rows - branches
    rows = tuple(range(last, last + branches))
    outputs = {
        block: batch.take(block, rows) for block in range(held.bit_length()) if held >> block & 1
    }
    return BlockCache(ask.segment.member, ask.step + ask.steps - 1, branches, outputs)
