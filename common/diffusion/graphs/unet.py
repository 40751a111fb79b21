"""The blocks of diffusers' UNets, addressed one by one and run by the model's own modules.

`UNet2DConditionModel` (SD 1.x, BK-SDM: any number of levels, with or without a middle block) and
`UNet2DModel` (DDPM). Running every block is the model's own ``forward``, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn

from baton.common.diffusion.blocks import Block, BlockGraph, ModelInputs, Part
from baton.common.errors import Incompatible

_CROSS = {"CrossAttnDownBlock2D", "CrossAttnUpBlock2D", "UNetMidBlock2DCrossAttn"}
_PLAIN = {
    "DownBlock2D",
    "UpBlock2D",
    "AttnDownBlock2D",
    "AttnUpBlock2D",
    "UNetMidBlock2D",
}

_Run = Callable[[Sequence[Tensor], ModelInputs], Tensor]


def conditional_unet_graph(unet: UNet2DConditionModel) -> BlockGraph:
    """Raises Incompatible for what a text-to-image family of SD 1.x's kind does not have."""
    config: Any = unet.config
    known = config.addition_embed_type in (None, "text")
    if not known or config.encoder_hid_dim_type or config.class_embed_type:
        raise Incompatible("only members that take nothing but text can run block by block")
    build = _Builder()
    embedding = build.embed("time_embedding", _embed_time(unet))
    if config.addition_embed_type == "text":
        text = build.add("text_embedding", _embed_text(unet), (), constant=True)
        embedding = build.embed("embedding", _add, (embedding, text))
    if unet.time_embed_act is not None:
        embedding = build.embed("embedding_act", _first(unet.time_embed_act), (embedding,))
    return _body(build, unet, embedding)


def unet_graph(unet: UNet2DModel) -> BlockGraph:
    """Raises Incompatible for Fourier time embeddings and classes."""
    config: Any = unet.config
    if config.time_embedding_type == "fourier" or unet.class_embedding is not None:
        raise Incompatible("UNets with Fourier embeddings or classes cannot run block by block")
    build = _Builder()
    embedding = build.embed("time_embedding", _embed_plain_time(unet))
    return _body(build, unet, embedding)


class _Builder:
    def __init__(self) -> None:
        self.blocks: list[Block] = []

    def add(
        self,
        name: str,
        run: _Run,
        inputs: tuple[int, ...],
        part: Part = "encoder",
        constant: bool = False,
    ) -> int:
        self.blocks.append(Block(name, part, inputs, run, constant))
        return len(self.blocks) - 1

    def embed(self, name: str, run: _Run, inputs: tuple[int, ...] = ()) -> int:
        """A block that makes or changes the time embedding: cheap, and new at every step."""
        self.blocks.append(Block(name, "decoder", inputs, run, learnable=False))
        return len(self.blocks) - 1


def _body(build: _Builder, unet: Any, embedding: int) -> BlockGraph:
    """From ``conv_in`` to ``conv_out``, with the skip connections as edges."""
    hidden = build.add("conv_in", _conv_in(unet), ())
    skips = [hidden]
    for level, block in enumerate(unet.down_blocks):
        name = f"down.{level}"
        for layer in range(len(block.resnets)):
            hidden = _layer(build, block, f"{name}.{{}}.{layer}", layer, (hidden,), embedding)
            skips.append(hidden)
        if block.downsamplers is not None:
            hidden = _sample(build, block.downsamplers, f"{name}.downsample", hidden, embedding)
            skips.append(hidden)
    if unet.mid_block is not None:
        hidden = _middle(build, unet.mid_block, hidden, embedding)
    # Only UNet2DConditionModel forces sizes that are no multiple of its upsampling factor.
    forces = isinstance(unet, UNet2DConditionModel)
    for level, block in enumerate(unet.up_blocks):
        name = f"up.{level}"
        for layer in range(len(block.resnets)):
            inputs = (hidden, skips.pop())
            hidden = _layer(
                build, block, f"{name}.{{}}.{layer}", layer, inputs, embedding, "decoder"
            )
        if block.upsamplers is not None:
            size = _upsampled_size(unet, level) if forces else None
            hidden = _sample(
                build, block.upsamplers, f"{name}.upsample", hidden, embedding, "decoder", size
            )
    build.add("conv_out", _conv_out(unet), (hidden,), part="decoder")
    return BlockGraph(tuple(build.blocks))


def _layer(
    build: _Builder,
    block: Any,
    name: str,
    layer: int,
    inputs: tuple[int, ...],
    embedding: int,
    part: Part = "encoder",
) -> int:
    """A resnet and, where there is one, its attention."""
    _check(block)
    resnet = _resnet(block.resnets[layer])
    hidden = build.add(name.format("resnet"), resnet, (*inputs, embedding), part)
    attentions = getattr(block, "attentions", None)
    if attentions is not None and attentions[layer] is not None:
        attention = _attention(block, attentions[layer])
        hidden = build.add(name.format("attention"), attention, (hidden,), part)
    return hidden


def _middle(build: _Builder, block: Any, hidden: int, embedding: int) -> int:
    _check(block)
    hidden = build.add("mid.resnet.0", _resnet(block.resnets[0]), (hidden, embedding))
    for layer, (attention, resnet) in enumerate(
        zip(block.attentions, block.resnets[1:], strict=True)
    ):
        if attention is not None:
            run = _attention(block, attention)
            hidden = build.add(f"mid.attention.{layer}", run, (hidden,))
        hidden = build.add(f"mid.resnet.{layer + 1}", _resnet(resnet), (hidden, embedding))
    return hidden


def _sample(
    build: _Builder,
    modules: nn.ModuleList,
    name: str,
    hidden: int,
    embedding: int,
    part: Part = "encoder",
    size: Callable[[Tensor], tuple[int, int] | None] | None = None,
) -> int:
    """Downsamplers or upsamplers; those of DDPM may be resnets that take the embedding."""
    if len(modules) != 1:
        raise Incompatible(f"{name} is made of {len(modules)} modules, not of one")
    module = modules[0]
    if hasattr(module, "conv1"):
        return build.add(name, _resnet(module), (hidden, embedding), part)
    if size is None:
        return build.add(name, _first(module), (hidden,), part)
    return build.add(name, lambda ins, sh: module(ins[0], size(sh.sample)), (hidden,), part)


def _check(block: nn.Module) -> None:
    kind = type(block).__name__
    if kind not in _CROSS | _PLAIN:
        raise Incompatible(f"the parts of a {kind} cannot run block by block")


def _first(module: Callable[[Tensor], Tensor]) -> _Run:
    return lambda ins, sh: module(ins[0])


def _add(ins: Sequence[Tensor], inputs: ModelInputs) -> Tensor:
    return ins[0] + ins[1]


def _resnet(resnet: nn.Module) -> _Run:
    """Inputs: hidden states, a skip connection or none, the embedding."""

    def run(ins: Sequence[Tensor], inputs: ModelInputs) -> Tensor:
        hidden = ins[0] if len(ins) == 2 else torch.cat([ins[0], ins[1]], dim=1)
        out: Tensor = resnet(hidden, ins[-1])
        return out

    return run


def _attention(block: nn.Module, attention: nn.Module) -> _Run:
    if type(block).__name__ not in _CROSS:
        return _first(attention)

    def run(ins: Sequence[Tensor], inputs: ModelInputs) -> Tensor:
        out: Tensor = attention(ins[0], encoder_hidden_states=inputs.context, return_dict=False)[0]
        return out

    return run


def _embed_time(unet: UNet2DConditionModel) -> _Run:
    def run(ins: Sequence[Tensor], inputs: ModelInputs) -> Tensor:
        embedded = unet.get_time_embed(sample=inputs.sample, timestep=inputs.timesteps)
        out: Tensor = unet.time_embedding(embedded, None)
        return out

    return run


def _embed_text(unet: UNet2DConditionModel) -> _Run:
    def run(ins: Sequence[Tensor], inputs: ModelInputs) -> Tensor:
        out: Tensor = unet.add_embedding(inputs.context)
        return out

    return run


def _embed_plain_time(unet: UNet2DModel) -> _Run:
    def run(ins: Sequence[Tensor], inputs: ModelInputs) -> Tensor:
        out: Tensor = unet.time_embedding(unet.time_proj(inputs.timesteps).to(unet.dtype))
        return out

    return run


def _conv_in(unet: Any) -> _Run:
    centred = bool(unet.config.center_input_sample)

    def run(ins: Sequence[Tensor], inputs: ModelInputs) -> Tensor:
        sample = 2 * inputs.sample - 1.0 if centred else inputs.sample
        out: Tensor = unet.conv_in(sample)
        return out

    return run


def _conv_out(unet: Any) -> _Run:
    def run(ins: Sequence[Tensor], inputs: ModelInputs) -> Tensor:
        hidden = ins[0]
        if unet.conv_norm_out:
            hidden = unet.conv_act(unet.conv_norm_out(hidden))
        out: Tensor = unet.conv_out(hidden)
        return out

    return run


def _upsampled_size(
    unet: UNet2DConditionModel, level: int
) -> Callable[[Tensor], tuple[int, int] | None]:
    """The size that an up block has to reach: that of the encoder's level across from it.

    None where the latent's sides are multiples of the whole factor, as in the model's ``forward``.
    """
    factor: int = 2**unet.num_upsamplers
    halvings = sum(block.downsamplers is not None for block in unet.down_blocks)
    across = (
        halvings - 1 - sum(block.upsamplers is not None for block in list(unet.up_blocks)[:level])
    )

    def size(sample: Tensor) -> tuple[int, int] | None:
        height, width = sample.shape[-2:]
        if height % factor == 0 and width % factor == 0:
            return None
        for _ in range(across):  # a convolution of stride 2 and padding 1
            height, width = (height + 1) // 2, (width + 1) // 2
        return height, width

    return size
