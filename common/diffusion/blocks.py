"""A denoiser as a graph of named blocks, and which of them a step has to run.

A block's output is what it passes on, its residual connection included, so a block whose readers
all reuse their own outputs need not run at all. Encoder propagation (Faster Diffusion), learned
block masks, DeepCache and FORA are all masks over such a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Literal

from torch import Tensor

from baton.common.diffusion.conditioning import Tensors
from baton.common.errors import Incompatible

#: Bit ``i`` stands for block ``i`` of the member's graph.
Blocks = int
Part = Literal["encoder", "decoder"]
#: A link of a chain, as of the pieces of a decoder: maps what the one before has put out.
Piece = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ModelInputs:
    """What every block may read, for the same rows: sample [B, C, H, W], timesteps [B].

    conditioning: by name, [B, ...] each; none for a model that takes nothing else.
    """

    sample: Tensor
    timesteps: Tensor
    conditioning: Tensors

    @property
    def context(self) -> Tensor:
        """Text [B, L, D], or class labels [B]."""
        return self.conditioning["context"]

    def rows(self, index: Tensor) -> ModelInputs:
        chosen = {name: tensor[index] for name, tensor in self.conditioning.items()}
        return ModelInputs(self.sample[index], self.timesteps[index], chosen)


@dataclass(frozen=True)
class Block:
    """One block: ``run`` maps the outputs of ``inputs``, each [B, ...], to its own.

    constant: the output depends on neither latent nor timestep, so reusing it changes nothing.
    learnable: a mask may choose; the rest is too cheap to ask, or the model's own output.
    """

    name: str
    part: Part
    inputs: tuple[int, ...]
    run: Callable[[Sequence[Tensor], ModelInputs], Tensor] = field(repr=False)
    constant: bool = False
    learnable: bool = True


@dataclass(frozen=True)
class BlockGraph:
    """Blocks in an order in which they can run; the last one's output is the model's."""

    blocks: tuple[Block, ...]

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(block.name for block in self.blocks)

    @cached_property
    def all(self) -> Blocks:
        return (1 << len(self)) - 1

    @cached_property
    def constant(self) -> Blocks:
        return self.bits(block.name for block in self.blocks if block.constant)

    @cached_property
    def learnable(self) -> tuple[int, ...]:
        """Blocks that a learned mask decides about."""
        chosen = (i for i, block in enumerate(self.blocks[:-1]) if block.learnable)
        return tuple(i for i in chosen if not self.constant >> i & 1)

    @cached_property
    def encoder(self) -> Blocks:
        """The blocks before the decoder, the middle ones included (Faster Diffusion, Sec. 3.2)."""
        return self.bits(block.name for block in self.blocks if block.part == "encoder")

    @cached_property
    def readers(self) -> tuple[Blocks, ...]:
        """By block, the blocks that read its output."""
        readers = [0] * len(self)
        for index, block in enumerate(self.blocks):
            for source in block.inputs:
                readers[source] |= 1 << index
        return tuple(readers)

    @cached_property
    def released(self) -> tuple[tuple[int, ...], ...]:
        """By block, those whose output is not read after it."""
        last = [
            max((r for r in range(len(self)) if bits >> r & 1), default=-1) for bits in self.readers
        ]
        return tuple(
            tuple(source for source in block.inputs if last[source] == index)
            for index, block in enumerate(self.blocks)
        )

    def bits(self, names: Iterable[str]) -> Blocks:
        """The blocks of these names. Raises Incompatible for a name that the graph lacks."""
        index = self._index
        found = 0
        for name in names:
            if name not in index:
                raise Incompatible(f"the member has no block {name!r}")
            found |= 1 << index[name]
        return found

    @cached_property
    def _index(self) -> dict[str, int]:
        return {block.name: index for index, block in enumerate(self.blocks)}

    def schedule(self, mask: Sequence[Blocks]) -> BlockSchedule:
        """What the mask means step by step; the first step runs in full."""
        return _schedule(self.readers, tuple(mask))

    def to_the_letter(self, run: Sequence[Blocks]) -> BlockSchedule:
        """The same where every block named runs, whether or not its output is read."""
        return _schedule(self.readers, tuple(run), rectified=False)


@dataclass(frozen=True)
class BlockSchedule:
    """A rectified mask (block masking, Sec. 3.5), and what its steps leave behind for later ones.

    run: by step, the blocks that run: those asked for whose output somebody reads, within the step
    or later; held: by step, the blocks whose outputs later steps reuse.
    """

    run: tuple[Blocks, ...]
    held: tuple[Blocks, ...]


@lru_cache(maxsize=256)
def _schedule(
    readers: tuple[Blocks, ...], mask: tuple[Blocks, ...], rectified: bool = True
) -> BlockSchedule:
    """Liveness, backwards over steps and blocks.

    A value is needed if the block is the last one, if a reader runs, or if the next step needs it
    and reuses it. What is needed and masked out is reused; what is not needed does not run.
    """
    last = len(readers) - 1
    run, held = [0] * len(mask), [0] * len(mask)
    reused_next = 0
    for step in reversed(range(len(mask))):
        held[step] = reused_next
        running = reused = 0
        for block in reversed(range(len(readers))):
            bit = 1 << block
            needed = block == last or readers[block] & running or reused_next & bit
            if step == 0 or mask[step] & bit:
                if needed or not rectified:
                    running |= bit
            elif needed:
                reused |= bit
        run[step], reused_next = running, reused
    return BlockSchedule(tuple(run), tuple(held))
