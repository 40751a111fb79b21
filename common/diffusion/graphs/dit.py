"""The blocks of diffusers' DiT: attention and MLP of every transformer block.

The first 18 of 28 transformer blocks count as the encoder (Faster Diffusion, Sec. 4.2); for other
depths, the same share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from diffusers import DiTTransformer2DModel
from torch import Tensor
from torch.nn import functional

from baton.common.diffusion.blocks import Block, BlockGraph, ModelInputs, Part
from baton.common.errors import Incompatible

_ENCODER_SHARE = 18 / 28

_Run = Callable[[Sequence[Tensor], ModelInputs], Tensor]


def dit_graph(model: DiTTransformer2DModel) -> BlockGraph:
    """The context is the class labels [B]. Raises Incompatible for other norms than DiT's own."""
    encoder = round(_ENCODER_SHARE * len(model.transformer_blocks))
    blocks = [Block("patches", "encoder", (), lambda ins, sh: _embed(model, sh))]
    for index, layer in enumerate(model.transformer_blocks):
        if layer.norm_type != "ada_norm_zero":
            raise Incompatible(f"a DiT with {layer.norm_type} cannot run block by block")
        part: Part = "encoder" if index < encoder else "decoder"
        for name, run in (("attention", _attention(layer)), ("mlp", _mlp(layer))):
            blocks.append(Block(f"blocks.{index}.{name}", part, (len(blocks) - 1,), run))
    blocks.append(
        Block("out", "decoder", (len(blocks) - 1,), lambda ins, sh: _out(model, ins[0], sh))
    )
    return BlockGraph(tuple(blocks))


def _embed(model: Any, inputs: ModelInputs) -> Tensor:
    out: Tensor = model.pos_embed(inputs.sample)
    return out


def _attention(layer: Any) -> _Run:
    def run(ins: Sequence[Tensor], inputs: ModelInputs) -> Tensor:
        normed, gate, *_ = layer.norm1(
            ins[0], inputs.timesteps, inputs.context, hidden_dtype=ins[0].dtype
        )
        out: Tensor = gate.unsqueeze(1) * layer.attn1(normed) + ins[0]
        return out

    return run


def _mlp(layer: Any) -> _Run:
    def run(ins: Sequence[Tensor], inputs: ModelInputs) -> Tensor:
        embedding = layer.norm1.emb(inputs.timesteps, inputs.context, hidden_dtype=ins[0].dtype)
        modulation = layer.norm1.linear(layer.norm1.silu(embedding))
        _, _, _, shift, scale, gate = modulation.chunk(6, dim=1)
        normed = layer.norm3(ins[0]) * (1 + scale[:, None]) + shift[:, None]
        out: Tensor = gate.unsqueeze(1) * layer.ff(normed) + ins[0]
        return out

    return run


def _out(model: Any, hidden: Tensor, inputs: ModelInputs) -> Tensor:
    first = model.transformer_blocks[0]
    conditioning = first.norm1.emb(inputs.timesteps, inputs.context, hidden_dtype=hidden.dtype)
    shift, scale = model.proj_out_1(functional.silu(conditioning)).chunk(2, dim=1)
    hidden = model.norm_out(hidden) * (1 + scale[:, None]) + shift[:, None]
    return _unpatchify(model.proj_out_2(hidden), model.patch_size, model.out_channels)


def _unpatchify(tokens: Tensor, patch: int, channels: int) -> Tensor:
    """[B, N, p*p*C] of a square picture to [B, C, H, W]."""
    side = int(tokens.shape[1] ** 0.5)
    patches = tokens.reshape(-1, side, side, patch, patch, channels)
    return patches.permute(0, 5, 1, 3, 2, 4).reshape(-1, channels, side * patch, side * patch)
