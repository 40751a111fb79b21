"""Tiny models of every architecture that runs block by block, and masks for the tiny family."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel
from hypothesis import strategies as st
from torch import Tensor

from baton.common.accel.masks import BlockMask, MaskKey, mask_path, save_mask
from baton.common.accel.propagation import Propagation, propagated
from baton.common.diffusion.blocks import BlockGraph, Blocks, BlockSchedule, ModelInputs
from baton.common.diffusion.rows import Row, RowBatch
from baton.common.families.loaded import LoadedFamily, load_family
from baton.common.families.manifest import MANIFEST_NAME
from baton.common.limits import SamplerName
from baton.common.plan import OpenPlan, StepDirective
from tests.support.families import copy_family, edit_json

CHANNELS = 4
CONTEXT = (3, 16)  # tokens and width of what stands for a prompt
CLASSES = 10
_WIDTHS = (8, 16, 16, 24)


def conditional_unet(levels: int = 3, mid: bool = True, **changes: Any) -> UNet2DConditionModel:
    """As SD 1.x is built, the innermost level without attention; without mid, as BK-SDM."""
    options: dict[str, Any] = {
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "down_block_types": ("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1),
        "mid_block_type": "UNetMidBlock2DCrossAttn" if mid else None,
        "block_out_channels": _WIDTHS[:levels],
        "layers_per_block": 2 if mid else 1,
        "cross_attention_dim": CONTEXT[1],
        "attention_head_dim": 4,
        "norm_num_groups": 4,
    }
    return _ready(UNet2DConditionModel, **(options | changes))


def ddpm_unet(**changes: Any) -> UNet2DModel:
    """Three levels, attention at the middle one, as DDPM for CIFAR-10."""
    options: dict[str, Any] = {
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (8, 16, 16),
        "layers_per_block": 2,
        "attention_head_dim": 4,
        "norm_num_groups": 4,
    }
    return _ready(UNet2DModel, **(options | changes))


def dit(layers: int = 2, **changes: Any) -> DiTTransformer2DModel:
    return _ready(
        DiTTransformer2DModel,
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=CHANNELS,
        out_channels=2 * CHANNELS,
        num_layers=layers,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=CLASSES,
        **changes,
    )


def _ready(kind: type[Any], **options: Any) -> Any:
    torch.manual_seed(0)
    return kind(**options).eval().requires_grad_(False)


def model_inputs(rows: int, size: tuple[int, int] = (8, 8), labels: bool = False) -> ModelInputs:
    """Rows with a timestep of their own each; labels: classes for a context."""
    random_ = torch.Generator().manual_seed(rows)
    context = torch.randn((rows, *CONTEXT), generator=random_)
    return ModelInputs(
        torch.randn((rows, CHANNELS, *size), generator=random_),
        torch.arange(rows) * 331 + 7,
        {"context": torch.arange(rows) % CLASSES if labels else context},
    )


def in_full(graph: BlockGraph, inputs: ModelInputs) -> Tensor:
    """Every block on every row."""
    return RowBatch(graph, inputs, [Row(graph.all) for _ in inputs.timesteps]).out


class Unrectified(BlockGraph):
    """Runs what a mask says to the letter, and keeps everything."""

    def __init__(self, graph: BlockGraph) -> None:
        super().__init__(graph.blocks)

    def schedule(self, mask: Sequence[Blocks]) -> BlockSchedule:
        return BlockSchedule((self.all, *mask[1:]), (self.all,) * len(mask))


def random_mask(
    graph: BlockGraph, steps: int, seed: int = 0, chance: float = 0.5
) -> tuple[Blocks, ...]:
    """By step, blocks drawn at random; the first step and the output are in full."""
    draw = random.Random(seed)
    last = 1 << len(graph) - 1
    drawn = (
        sum((draw.random() < chance) << block for block in range(len(graph)))
        for _ in range(steps - 1)
    )
    return graph.all, *(bits | last for bits in drawn)


def with_directives(plan: OpenPlan, given: Sequence[StepDirective]) -> OpenPlan:
    """The plan with other directives, one per step; guidance stays as it was."""
    segments = []
    for segment in plan.segments:
        pairs = zip(given[segment.start : segment.stop], segment.directives, strict=True)
        directives = tuple(replace(one, branches=was.branches) for one, was in pairs)
        segments.append(replace(segment, directives=directives))
    return replace(plan, segments=tuple(segments))


def with_mask(plan: OpenPlan, mask: Sequence[Blocks]) -> OpenPlan:
    return with_directives(plan, [StepDirective(blocks=bits) for bits in mask])


def make_mask(
    family: LoadedFamily, member: str, sampler: SamplerName, steps: int, keys: Sequence[int] = ()
) -> BlockMask:
    """A mask for a loaded member, drawn at random; with keys, one for its propagation."""
    graph = family.blocks(member)
    fingerprint = family.member_fingerprints[member]
    levels = family.schedule(sampler, steps).digest
    key = MaskKey(family.name, member, fingerprint, sampler, steps, levels, tuple(keys))
    seed = steps + sum(map(ord, sampler + member))
    run = list(random_mask(graph, steps, seed, 0.6))
    if keys:
        spread = propagated(graph, steps, keys)
        for step, column in enumerate(spread):
            assert column.blocks is not None
            first = max(key for key in keys if key <= step) + 1  # decides for its group
            run[step] = column.blocks if step in keys else column.blocks & run[first]
    return BlockMask(key, graph.names, tuple(run))


def masked_copy(
    family: LoadedFamily, to: Path, *asked: tuple[SamplerName, int], parallel: bool = True
) -> LoadedFamily:
    """The family from another folder, with masks for these samplers and step counts.

    It propagates with three key steps in every ten, at once or one by one, with prior noise.
    """
    folder = copy_family(family.spec.folder, to, digests=False)
    told = {"keys": [0, 1, 6], "steps": 10, "parallel": parallel, "prior_noise": 0.05}
    propagation = Propagation((0, 1, 6), 10)
    for member in family.members:
        for sampler, steps in asked:
            for keys in ((), propagation.keys_for(steps)):
                path = mask_path(folder / member / "masks", sampler, steps, bool(keys))
                save_mask(make_mask(family, member, sampler, steps, keys), path)
    members = dict.fromkeys(family.members, told)
    edit_json(folder / MANIFEST_NAME, lambda manifest: manifest.update(propagation=members))
    return load_family(str(folder))


def cheaper(draw: st.DrawFn, graph: BlockGraph, of: OpenPlan) -> OpenPlan:
    """The plan of a single segment as it is, masked at random, or propagated."""
    kind, steps = draw(st.sampled_from(["mask", "ahead", "plain"])), of.steps
    if kind == "plain":
        return of
    if kind == "mask":
        bits = random_mask(graph, steps, draw(st.integers(0, 99)), 0.6)
        return with_directives(of, [StepDirective(blocks=each) for each in bits])
    keys = sorted({0, *draw(st.sets(st.integers(1, steps - 1), max_size=2))})
    return with_directives(of, propagated(graph, steps, keys, prior_noise=0.05))
