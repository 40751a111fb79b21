"""The decoder of diffusers' `AutoencoderKL`, cut at the ends of its ResNet blocks.

Run in their order the pieces are the model's own ``decode``, bit for bit. They are the finest that
SynerDiff's chunks can be made of (section "VAE chunking").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import Decoder
from diffusers.models.unets.unet_2d_blocks import (
    AttnUpDecoderBlock2D,
    UNetMidBlock2D,
    UpDecoderBlock2D,
)
from torch import Tensor, nn

from baton.common.diffusion.blocks import Piece

_UP = (UpDecoderBlock2D, AttnUpDecoderBlock2D)


class CutDecoder:
    """From a latent [C, H, W] as the members see it to pixels [3, H, W], float32 from -1 to 1."""

    def __init__(self, vae: AutoencoderKL) -> None:
        self.vae: Any = vae
        self._whole: Sequence[Piece] = (self._decode,)
        self._passed = _passed(vae)
        self._pieces = tuple(self._cut()) if self._passed else self._whole

    @property
    def pieces(self) -> Sequence[Piece]:
        """One alone while ``decode`` does something else than call the known parts in order.

        As with tiles, with another class of decoder, or with a hook on a module that the pieces
        pass over, for instance one that brings its weights.
        """
        vae = self.vae
        if self._pieces is self._whole or vae.use_tiling or vae.use_slicing:
            return self._whole
        passed = _passed(vae)
        same = len(passed) == len(self._passed) and all(
            one is other for one, other in zip(passed, self._passed, strict=True)
        )
        return self._pieces if same and all(map(_bare, passed)) else self._whole

    def _cut(self) -> Iterator[Piece]:
        decoder = self.vae.decoder
        yield self._begin
        yield from _middle(decoder.mid_block)
        for block in decoder.up_blocks:
            yield from _up(block)
        yield self._end

    def _begin(self, latent: Tensor) -> Tensor:
        vae, z = self.vae, self._scaled(latent)
        if vae.post_quant_conv is not None:
            z = vae.post_quant_conv(z)
        hidden: Tensor = vae.decoder.conv_in(z)
        return hidden

    def _end(self, hidden: Tensor) -> Tensor:
        decoder = self.vae.decoder
        pixels: Tensor = decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(hidden)))
        return pixels[0].float()

    def _decode(self, latent: Tensor) -> Tensor:
        pixels: Tensor = self.vae.decode(self._scaled(latent), return_dict=False)[0]
        return pixels[0].float()

    def _scaled(self, latent: Tensor) -> Tensor:
        config = self.vae.config
        z = latent[None] / config.scaling_factor + (config.shift_factor or 0.0)
        scaled: Tensor = z.to(self.vae.dtype)
        return scaled


def _middle(block: UNetMidBlock2D) -> Iterator[Piece]:
    yield _resnet(block.resnets[0])
    for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
        if attention is not None:
            yield _attention(attention)
        yield _resnet(resnet)


def _up(block: UpDecoderBlock2D | AttnUpDecoderBlock2D) -> Iterator[Piece]:
    for resnet, attention in zip_longest(block.resnets, getattr(block, "attentions", ())):
        yield _resnet(resnet)
        if attention is not None:
            yield _attention(attention)
    yield from block.upsamplers or ()


def _resnet(resnet: nn.Module) -> Piece:
    return lambda hidden: resnet(hidden, None)


def _attention(attention: nn.Module) -> Piece:
    return lambda hidden: attention(hidden, temb=None)


def _passed(vae: Any) -> tuple[nn.Module, ...]:
    """The modules whose own ``forward`` the pieces stand for; none where one is not known."""
    decoder = vae.decoder
    if type(vae) is not AutoencoderKL or type(decoder) is not Decoder:
        return ()
    middle, ups = decoder.mid_block, tuple(decoder.up_blocks)
    known = type(middle) is UNetMidBlock2D and all(type(up) in _UP for up in ups)
    return (vae, decoder, middle, *ups) if known else ()


def _bare(module: nn.Module) -> bool:
    """Whether calling it is calling the ``forward``, or ``decode``, of its class and no more."""
    replaced = vars(module).keys() & {"forward", "decode", "_decode", "_hf_hook"}
    hooked = module._forward_hooks or module._forward_pre_hooks
    return not (replaced or hooked or module._compiled_call_impl is not None)
