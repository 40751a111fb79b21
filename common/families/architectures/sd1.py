"""SD 1.x and BK-SDM: a conditional UNet, one CLIP text encoder, an autoencoder with 4 channels."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from baton.common.diffusion.between import make_schedule_between
from baton.common.diffusion.blocks import BlockGraph, ModelInputs, Piece
from baton.common.diffusion.conditioning import Conditioning
from baton.common.diffusion.denoiser import Denoiser
from baton.common.diffusion.graphs import graph_of
from baton.common.diffusion.graphs.decoder import CutDecoder
from baton.common.diffusion.schedules import Schedule
from baton.common.errors import Incompatible, WeightsError
from baton.common.families.architectures.adapter import Shape, Texts
from baton.common.families.hearing import Heard, Hearing
from baton.common.families.latent_space import latent_space_of
from baton.common.families.parts import open_parts
from baton.common.families.spec import FamilySpec
from baton.common.latents.space import LatentSpace
from baton.common.limits import SamplerName

if TYPE_CHECKING:
    from baton.common.families.loaded import LoadedFamily


class Member(Denoiser):
    """A UNet, whole or block by block."""

    def __init__(self, model: UNet2DConditionModel) -> None:
        self.model = model
        with contextlib.suppress(Incompatible):
            self.graph = graph_of(model)

    def __call__(self, inputs: ModelInputs) -> Tensor:
        sample = inputs.sample.to(self.model.conv_in.weight.dtype)
        out: Tensor = self.model(sample, inputs.timesteps, inputs.context, return_dict=False)[0]
        return out.float()


class Sd1:
    """An `Adapter`. unets: by member; vae, text_encoder, tokenizer: shared by all of them."""

    def __init__(self, spec: FamilySpec, members: Iterable[str]) -> None:
        with open_parts(spec.folder, spec) as parts:
            self.vae: AutoencoderKL = parts.model(AutoencoderKL, spec.vae)
            self.text_encoder: CLIPTextModel = parts.model(CLIPTextModel, spec.text_encoder)
            self.tokenizer: CLIPTokenizer = parts.tokenizer(CLIPTokenizer, spec.tokenizer)
            self.unets: dict[str, UNet2DConditionModel] = {
                member: parts.model(UNet2DConditionModel, spec.members[member])
                for member in members
            }
        for member, unet in self.unets.items():
            _check_denoiser(member, unet, self.vae)
        self._decoder = CutDecoder(self.vae)
        self._scheduler_config = spec.scheduler_config
        self._hearing = Hearing(self.tokenizer)
        self._denoisers = {member: Member(unet) for member, unet in self.unets.items()}

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.vae.parameters()).device
        return device

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(self.unets)

    @property
    def latent_space(self) -> LatentSpace:
        return latent_space_of(self.vae)

    def heard(self, text: str) -> Heard:
        return self._hearing.heard(text)

    def encoder_of(self, member: str) -> Hashable:
        return "text_encoder"

    @torch.inference_mode()
    def encode(self, member: str, texts: Sequence[Texts]) -> list[Conditioning]:
        """As far as they are `heard`; long ones are cut, as in diffusers.

        Pair by pair: in a larger batch a prompt's last bits would depend on the others.
        """
        return [self._encode(pair) for pair in texts]

    def _encode(self, pair: Texts) -> Conditioning:
        texts = [self.heard(text).text for text in pair]
        tokens = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
        context = self.text_encoder(tokens.input_ids.to(self.device))[0]
        return Conditioning(
            {"positive": {"context": context[0]}, "negative": {"context": context[1]}}
        )

    def schedule(
        self,
        sampler: SamplerName,
        steps: int,
        shape: Shape,
        begin: float | None = None,
        until: float | None = None,
    ) -> Schedule:
        return make_schedule_between(sampler, steps, self._scheduler_config, begin, until)

    def denoiser(self, member: str) -> Member:
        return self._denoisers[member]

    def outline(self, member: str) -> BlockGraph | None:
        if self._denoisers[member].graph is None:
            return None
        with torch.device("meta"):
            return graph_of(UNet2DConditionModel.from_config(self.unets[member].config).eval())

    def decoder(self) -> Sequence[Piece]:
        if self._decoder.vae is not self.vae:  # another has taken its place
            self._decoder = CutDecoder(self.vae)
        return self._decoder.pieces

    def decoder_outline(self) -> Sequence[Piece]:
        with torch.device("meta"):
            vae = AutoencoderKL.from_config(self.vae.config).eval()
        # As a plain module: diffusers' own ``to`` warns of every type but that of the class.
        return CutDecoder(nn.Module.to(vae, self.vae.dtype)).pieces

    def pipeline(self, member: str) -> StableDiffusionPipeline:
        """A plain diffusers pipeline of one member, over the same modules: the reference."""
        return StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unets[member],
            scheduler=DDIMScheduler.from_config(self._scheduler_config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def _check_denoiser(member: str, unet: UNet2DConditionModel, vae: AutoencoderKL) -> None:
    """Raises WeightsError for one that reads or writes something else than a latent."""
    channels = vae.config.latent_channels
    for option, needed in (
        ("in_channels", channels),
        ("out_channels", channels),
        ("time_cond_proj_dim", None),  # guidance as an input, of distilled models
    ):
        if (value := unet.config[option]) != needed:
            raise WeightsError(f"member {member}: {option} is {value}, only {needed} is supported")


def models_of(family: LoadedFamily) -> Sd1:
    """Those of a family of this architecture. Raises TypeError for another."""
    if not isinstance(family.models, Sd1):
        raise TypeError(f"{family.name} is of another architecture")
    return family.models
