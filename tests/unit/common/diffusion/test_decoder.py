"""The pieces of a decoder: run in order they are the model's own decode, bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import DecoderTiny
from diffusers.models.autoencoders.vae import Decoder, DecoderOutput
from torch import Tensor, nn

from baton.common.diffusion.graphs.decoder import CutDecoder
from baton.common.diffusion.profile import profile_chain
from baton.common.families.architectures.sd1 import models_of
from baton.common.families.loaded import LoadedFamily, load_family
from baton.common.size import Size

#: Options of an autoencoder, and how many pieces its decoder has: two ends, two resnets and
#: attention in the middle, and by level its resnets, with attention or none, and an upsampler.
SHAPES: dict[str, tuple[dict[str, Any], int]] = {
    "plain": ({}, 2 + 3 + 2 * 2 + 1),
    "no post_quant_conv": ({"use_post_quant_conv": False, "use_quant_conv": False}, 10),
    "no attention": ({"mid_block_add_attention": False}, 9),
    "three layers": ({"layers_per_block": 3}, 2 + 3 + 2 * 4 + 1),
    "one level": (
        {
            "block_out_channels": (8,),
            "down_block_types": ("DownEncoderBlock2D",),
            "up_block_types": ("UpDecoderBlock2D",),
        },
        2 + 3 + 2,
    ),
    "attention at a level": (
        {"up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D")},
        10 + 2,
    ),
    "shift": ({"shift_factor": 0.1, "scaling_factor": 0.36, "force_upcast": False}, 10),
    "eight channels": ({"latent_channels": 8}, 10),
}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def made(**options: Any) -> AutoencoderKL:
    known: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "sample_size": 16,
    }
    return _still(AutoencoderKL(**(known | options)))


def _still(vae: Any) -> Any:
    return vae.eval().requires_grad_(False)


def latent_of(vae: AutoencoderKL, height: int = 6, width: int = 10) -> Tensor:
    return torch.randn(vae.config.latent_channels, height, width)


@torch.inference_mode()
def run(decoder: CutDecoder, latent: Tensor) -> Tensor:
    x = latent
    for piece in decoder.pieces:
        x = piece(x)
    return x


@torch.inference_mode()
def plain(vae: AutoencoderKL, latent: Tensor) -> Tensor:
    scaled = latent[None] / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
    found: Tensor = vae.decode(scaled.to(vae.dtype)).sample[0].float()
    return found


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_pieces_in_order_are_the_decode_bit_for_bit(shape: str, dtype: torch.dtype) -> None:
    options, count = SHAPES[shape]
    vae = made(**options).to(dtype)
    decoder, latent = CutDecoder(vae), latent_of(vae)
    assert len(decoder.pieces) == count
    found = run(decoder, latent)
    assert found.dtype == torch.float32
    assert torch.equal(found, plain(vae, latent))


@pytest.mark.parametrize("side", [(16, 16), (64, 64), (48, 20)], ids=str)
def test_the_shipped_decoder_is_cut_and_stays_itself(side: tuple[int, int]) -> None:
    vae = models_of(load_family("scenes", members=())).vae
    decoder, latent = CutDecoder(vae), latent_of(vae, *side)
    assert len(decoder.pieces) == 2 + 2 + 3 * 2 + 2
    assert torch.equal(run(decoder, latent), plain(vae, latent))


class Spatial(AutoencoderKL):
    """Its norms read the latent as well, as MoVQ's do."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        channels = self.config.block_out_channels
        self.decoder = Decoder(
            4, 3, self.config.up_block_types, channels, norm_num_groups=4, norm_type="spatial"
        )

    def _decode(self, z: Tensor, return_dict: bool = True) -> Any:
        return DecoderOutput(sample=self.decoder(z, z))


class _Own(Decoder):
    def forward(self, sample: Tensor, latent_embeds: Tensor | None = None) -> Tensor:
        return -super().forward(sample, latent_embeds)


def _another_class(vae: AutoencoderKL) -> None:
    vae.decoder.__class__ = _Own


def _another_decoder(vae: AutoencoderKL) -> None:
    vae.decoder = _still(DecoderTiny(4, 3, (1, 1), (8, 8), 2, "relu", "nearest"))


def _new_weights(vae: AutoencoderKL) -> None:
    vae.decoder = made().decoder


def _negated(module: nn.Module, inputs: Any, out: Tensor) -> Tensor:
    return -out


def _before(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (-inputs[0], *inputs[1:])


def _replaced(vae: AutoencoderKL) -> None:
    """As whoever brings weights only when they are needed does."""
    forward = vae.decoder.up_blocks[0].forward
    vae.decoder.up_blocks[0].forward = lambda *args: -forward(*args)


def _other_decode(vae: AutoencoderKL) -> None:
    decode = vae._decode
    vae._decode = lambda z, **options: decode(2 * z, **options)


CHANGES: dict[str, Callable[[AutoencoderKL], Any]] = {
    "tiles": lambda vae: vae.enable_tiling(),
    "slices": lambda vae: vae.enable_slicing(),
    "another class": _another_class,
    "another decoder": _another_decoder,
    "new weights": _new_weights,
    "hook on the middle": lambda vae: vae.decoder.mid_block.register_forward_hook(_negated),
    "hook before a level": lambda vae: vae.decoder.up_blocks[1].register_forward_pre_hook(_before),
    "replaced forward": _replaced,
    "replaced decode": _other_decode,
}


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_decode_that_is_more_than_its_parts_runs_whole(change: str, late: bool) -> None:
    """Whether it was changed before it was cut, or afterwards."""
    vae = made()
    latent = latent_of(vae, 12, 20)  # more than one tile
    untouched = plain(vae, latent)
    decoder = CutDecoder(vae) if late else None
    CHANGES[change](vae)
    decoder = decoder or CutDecoder(vae)
    expected = plain(vae, latent)
    assert torch.equal(run(decoder, latent), expected)
    assert torch.equal(expected, untouched) == (change == "slices")
    if late or change != "new weights":
        assert len(decoder.pieces) == 1


def test_a_decoder_whose_norms_read_the_latent_runs_whole() -> None:
    vae = _still(Spatial(norm_num_groups=4, block_out_channels=(32,), sample_size=8))
    decoder, latent = CutDecoder(vae), latent_of(vae)
    assert len(decoder.pieces) == 1
    assert torch.equal(run(decoder, latent), plain(vae, latent))


def test_tiles_that_are_turned_off_again_leave_the_pieces_as_they_were() -> None:
    vae = made()
    decoder = CutDecoder(vae)
    pieces = decoder.pieces
    vae.enable_tiling()
    assert len(decoder.pieces) == 1
    vae.disable_tiling()
    assert decoder.pieces is pieces


def test_a_hook_on_a_piece_is_heard() -> None:
    vae = made()
    vae.decoder.up_blocks[0].resnets[1].register_forward_hook(_negated)
    decoder, latent = CutDecoder(vae), latent_of(vae)
    assert len(decoder.pieces) == 10
    assert torch.equal(run(decoder, latent), plain(vae, latent))


@pytest.mark.parametrize("size", [Size(16, 16), Size(64, 32)], ids=str)
def test_what_a_decoder_costs_is_what_its_operations_on_real_latents_do(
    family: LoadedFamily, size: Size
) -> None:
    found = family.decoder_profile(size)
    shape = family.latent_shape(size)
    assert len(found.macs) == len(family.models.decoder())
    assert all(found.macs)
    assert found == profile_chain(family.models.decoder_outline(), shape)
    assert family.decoder_bytes(size) == found.activation_bytes


def test_the_activations_of_a_chain_are_counted_until_nothing_refers_to_them() -> None:
    """Four bytes a number; an input is held as long as its piece runs."""

    def doubled(x: Tensor) -> Tensor:
        return torch.cat([x, x])

    def ends(x: Tensor) -> Tensor:
        return x[:1] + x[-1:]

    assert profile_chain([doubled], (100,)).activation_bytes == 4 * 300
    assert profile_chain([ends], (100,)).activation_bytes == 4 * 101
    assert profile_chain([doubled, doubled, ends], (100,)).activation_bytes == 4 * 600
    assert profile_chain([lambda x: x.view(10, 10)], (100,)).activation_bytes == 4 * 100


def test_a_larger_picture_takes_more_room_and_a_decoder_holds_a_few_outputs_at_once(
    family: LoadedFamily,
) -> None:
    """The last resnet holds its input, its own hidden states and a norm of them."""
    small, large = (family.decoder_bytes(Size(side, side)) for side in (32, 64))
    assert 3.9 * small < large < 4.1 * small
    channels = models_of(family).vae.config.block_out_channels[0]
    output = 4 * channels * 64 * 64
    assert 3 * output <= large <= 6 * output


def test_an_autoencoder_in_the_place_of_another_decodes(family: LoadedFamily) -> None:
    models = copy.copy(models_of(family))
    pieces = models.decoder()
    assert models.decoder() is pieces
    models.vae = copy.deepcopy(models.vae)
    models.vae.decoder.conv_out.bias += 1
    latent = latent_of(models.vae)
    x = latent
    for piece in models.decoder():
        x = piece(x)
    assert torch.equal(x, plain(models.vae, latent))
    assert models_of(family).decoder() is pieces
