"""The built-in family with models that cost nothing: the same blocks, each a formula."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from baton.common.diffusion.blocks import Block, BlockGraph, ModelInputs
from baton.common.diffusion.denoiser import Denoiser
from baton.common.diffusion.rows import Row, RowBatch
from baton.common.families.loaded import LoadedFamily, load_family
from tests.support.replays import Undecoded


class LightFamily(Undecoded):
    """Masks, costs and prompts are the family's own; its pictures are latents."""

    def __init__(self, family: LoadedFamily) -> None:
        super().__init__(family)
        self._light = {member: Light(family.blocks(member)) for member in family.members}

    def denoiser(self, member: str) -> Denoiser:
        return self._light[member]


class Light(Denoiser):
    """Blocks that read what those of a graph read, and put out the form of a latent each."""

    def __init__(self, graph: BlockGraph) -> None:
        self.graph: BlockGraph = BlockGraph(
            tuple(replace(block, run=_formula(block)) for block in graph.blocks)
        )

    def __call__(self, inputs: ModelInputs) -> Tensor:
        return RowBatch(self.graph, inputs, [Row(self.graph.all) for _ in inputs.timesteps]).out


def _formula(block: Block) -> Callable[[Sequence[Tensor], ModelInputs], Tensor]:
    """Every number by itself, so that no row can touch another's last bits.

    As of a UNet, one block alone reads the latent, and one the time.
    """
    own = zlib.crc32(block.name.encode()) % 1000 / 1000

    def run(ins: Sequence[Tensor], inputs: ModelInputs) -> Tensor:
        told = inputs.context[:, 0, 0][:, None, None, None]
        if block.name == "time_embedding":
            told = told + inputs.timesteps[:, None, None, None] * 1e-3
        found = told.expand_as(inputs.sample) + own
        if block.name == "conv_in":
            found = found + inputs.sample
        for place, tensor in enumerate(ins, start=1):
            found = found + tensor * (place + own)
        return torch.sin(found)

    return run


@cache
def light_scenes() -> LightFamily:
    return LightFamily(real_scenes())


@cache
def real_scenes() -> LoadedFamily:
    return load_family("scenes")
