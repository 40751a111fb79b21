"""Builds a family's models from its manifest, with diffusers' and transformers' own classes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from baton.common.accel.directives import AcceleratedMember, Accelerator
from baton.common.accel.propagation import propagation_of
from baton.common.diffusion.blocks import BlockGraph, ModelInputs
from baton.common.diffusion.calls import Denoiser, block_schedule_of
from baton.common.diffusion.executor import Conditioning
from baton.common.diffusion.graphs import graph_of
from baton.common.diffusion.profile import Profile, profile
from baton.common.diffusion.schedules import Schedule, make_schedule
from baton.common.errors import ExecutionFailed, Incompatible, WeightsError
from baton.common.families.hearing import Heard, Hearing
from baton.common.families.manifest import Manifest, find_family, masks_folder, read_manifest
from baton.common.families.parts import open_parts
from baton.common.plan import Plan, SamplerName

_BRANCHES = 2  # of guidance


class Member:
    """A denoiser, whole or block by block.

    graph: its blocks; None for an architecture whose blocks are not known.
    """

    def __init__(self, model: UNet2DConditionModel) -> None:
        self.model = model
        self.graph: BlockGraph | None = None
        with contextlib.suppress(Incompatible):
            self.graph = graph_of(model)

    @property
    def blocks(self) -> BlockGraph:
        """Raises Incompatible if they are not known."""
        if self.graph is None:
            raise Incompatible(f"the blocks of a {type(self.model).__name__} are not known")
        return self.graph

    def __call__(self, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        out: Tensor = self.model(x, timesteps, context, return_dict=False)[0]
        return out


class Family:
    """A family with some of its members loaded, ready to encode, denoise and decode.

    fingerprint: of the latent space (autoencoder and noise schedule); both sides of a relay need
    the same. member_fingerprints: of each loaded denoiser with the text encoder.
    """

    def __init__(self, folder: Path, manifest: Manifest, members: Iterable[str]) -> None:
        self.manifest = manifest
        with open_parts(folder, manifest) as parts:
            self.scheduler_config = parts.scheduler(manifest.scheduler)
            self.vae: AutoencoderKL = parts.model(AutoencoderKL, manifest.vae)
            self.text_encoder: CLIPTextModel = parts.model(CLIPTextModel, manifest.text_encoder)
            self.tokenizer: CLIPTokenizer = parts.tokenizer(manifest.tokenizer)
            self.unets: dict[str, UNet2DConditionModel] = {
                member: parts.model(UNet2DConditionModel, manifest.members[member])
                for member in (manifest.check_member(member) for member in members)
            }
            self.fingerprint = parts.fingerprint(self.vae, self.scheduler_config)
            text = self.text_encoder, self.tokenizer
            self.member_fingerprints = {
                member: parts.fingerprint(unet, *text) for member, unet in self.unets.items()
            }
        for member, unet in self.unets.items():
            _check_denoiser(member, unet, self.vae)
        self.folder = folder
        self._hearing = Hearing(self.tokenizer)
        self._members = {member: Member(unet) for member, unet in self.unets.items()}
        accelerated = {member: self._accelerated(member) for member in self.unets}
        self.accelerator = Accelerator(manifest.name, accelerated)
        self._profile = lru_cache(maxsize=64)(self._make_profile)
        self._schedule = lru_cache(maxsize=64)(self._make_schedule)

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def members(self) -> tuple[str, ...]:
        """Loaded members, from the largest to the smallest."""
        return tuple(member for member in self.manifest.members if member in self.unets)

    def masks_folder(self, member: str) -> Path:
        """Where the learned block masks of a member lie."""
        return masks_folder(self.folder, member)

    def _accelerated(self, member: str) -> AcceleratedMember:
        return AcceleratedMember(
            graph=self._members[member].graph,
            propagation=propagation_of(self.manifest, member),
            masks=self.masks_folder(member),
            fingerprint=self.member_fingerprints[member],
        )

    def schedule(self, sampler: SamplerName, steps: int) -> Schedule:
        return self._schedule(sampler, steps)

    def _make_schedule(self, sampler: SamplerName, steps: int) -> Schedule:
        return make_schedule(sampler, steps, self.scheduler_config)

    def denoiser(self, member: str) -> Denoiser:
        """The member as the executor calls it. Raises UnknownName if it is not loaded."""
        return self.member(member)

    def member(self, name: str) -> Member:
        """A loaded member. Raises UnknownName, and WeightsError if it is not loaded."""
        if name not in self._members:
            self.manifest.check_member(name)
            raise WeightsError(f"member {name} of {self.name} is not loaded on this node")
        return self._members[name]

    def cache_bytes(self, plan: Plan, size: int) -> int:
        """The most that a request with this expanded plan keeps of its blocks between steps."""
        sizes = [0]
        for segment in plan.segments:
            if segment.masked and segment.member in self.unets:
                flow = block_schedule_of(self.member(segment.member).blocks, segment)
                sizes.append(_BRANCHES * self.profile(segment.member, size).cache_bytes(flow))
        return max(sizes)

    def profile(self, member: str, size: int | None = None) -> Profile:
        """What the member's blocks cost for a picture of this side, pixels (None: the default).

        Raises Incompatible if its blocks are not known.
        """
        return self._profile(member, self.manifest.sizes.default if size is None else size)

    def _make_profile(self, member: str, size: int) -> Profile:
        prompt = self.encode_text("")
        shared = ModelInputs(
            torch.zeros(1, *self.latent_shape(size)), torch.zeros(1), prompt.positive[None]
        )
        return profile(self.member(member).blocks, shared)

    def latent_shape(self, size: int) -> tuple[int, int, int]:
        """[C, H, W] of the latent of a square picture. Raises InvalidRequest for a bad size."""
        size = self.manifest.check_size(size)
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return self.vae.config.latent_channels, size // factor, size // factor

    def heard(self, prompt: str) -> Heard:
        """What of a prompt, positive or negative, is encoded, and what is lost."""
        return self._hearing.heard(prompt)

    @torch.inference_mode()
    def encode_text(self, prompt: str, negative: str = "") -> Conditioning:
        """Encode a prompt, as far as it is `heard`; a long one is cut, as in diffusers."""
        texts = [self.heard(text).text for text in (prompt, negative)]
        tokens = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
        context = self.text_encoder(tokens.input_ids)[0]
        return Conditioning(context[0], context[1])

    @torch.inference_mode()
    def decode(self, x: Tensor) -> npt.NDArray[np.uint8]:
        """Latent [C, H, W] to a picture, uint8 [H, W, 3].

        Raises ExecutionFailed if what the decoder makes of it is not finite: as whole numbers it
        would pass for a picture.
        """
        config = self.vae.config
        latent = x[None] / config.scaling_factor + (config.shift_factor or 0.0)
        pixels = self.vae.decode(latent, return_dict=False)[0][0]
        if not torch.isfinite(pixels).all():
            raise ExecutionFailed(
                f"the decoder of {self.name} yields NaN or infinite values; its weights may be"
                " damaged"
            )
        pixels = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        return np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy())

    def pipeline(self, member: str) -> StableDiffusionPipeline:
        """A plain diffusers pipeline of one member, over the same modules: the reference."""
        self.denoiser(member)
        return StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unets[member],
            scheduler=DDIMScheduler.from_config(self.scheduler_config),
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


def load_family(name: str = "scenes", members: Iterable[str] | None = None) -> Family:
    """Load a built-in family, or one from a folder with a manifest.

    members: those to load; all by default. Raises UnknownName, and WeightsError for files that are
    missing, damaged or do not fit.
    """
    folder = find_family(name)
    manifest = read_manifest(folder)
    return Family(folder, manifest, manifest.members if members is None else members)
