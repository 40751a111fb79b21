"""Builds a family's models from its manifest, with diffusers' and transformers' own classes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

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
from baton.common.diffusion.blocks import BlockGraph, ModelInputs
from baton.common.diffusion.calls import Denoiser, block_schedule_of
from baton.common.diffusion.course import Course, make_course
from baton.common.diffusion.executor import Conditioning
from baton.common.diffusion.graphs import graph_of
from baton.common.diffusion.profile import Profile, profile
from baton.common.diffusion.schedules import Schedule, make_schedule
from baton.common.errors import ExecutionFailed, Incompatible, WeightsError
from baton.common.families.grids import LevelGrid
from baton.common.families.hearing import Heard, Hearing
from baton.common.families.latent_space import latent_space_of
from baton.common.families.manifest import masks_folder
from baton.common.families.parts import open_parts
from baton.common.families.spec import FamilySpec, read_spec
from baton.common.limits import SamplerName
from baton.common.plan import OpenPlan, Plan
from baton.common.size import Size

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

    spec: with the latent space as measured, if the manifest does not have it. fingerprint: of
    autoencoder and noise schedule, member_fingerprints: of each loaded denoiser with the text
    encoder; a replay needs the same.
    """

    def __init__(self, spec: FamilySpec, members: Iterable[str]) -> None:
        with open_parts(spec.folder, spec) as parts:
            self.vae: AutoencoderKL = parts.model(AutoencoderKL, spec.vae)
            self.text_encoder: CLIPTextModel = parts.model(CLIPTextModel, spec.text_encoder)
            self.tokenizer: CLIPTokenizer = parts.tokenizer(spec.tokenizer)
            self.unets: dict[str, UNet2DConditionModel] = {
                member: parts.model(UNet2DConditionModel, spec.members[member])
                for member in (spec.check_member(member) for member in members)
            }
        for member, unet in self.unets.items():
            _check_denoiser(member, unet, self.vae)
        self.spec = _with_latent_space(spec, self.vae)
        self.fingerprint = spec.fingerprint
        self.member_fingerprints = {
            member: spec.member_fingerprint(member) for member in self.unets
        }
        self._hearing = Hearing(self.tokenizer)
        self._members = {member: Member(unet) for member, unet in self.unets.items()}
        accelerated = {member: self._accelerated(member) for member in self.unets}
        self.accelerator = Accelerator(
            spec.name, accelerated, lambda sampler, steps: self.schedule(sampler, steps).digest
        )
        self._profile = lru_cache(maxsize=64)(self._make_profile)
        self._schedule = lru_cache(maxsize=64)(self._make_schedule)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def scheduler_config(self) -> dict[str, Any]:
        return self.spec.scheduler_config

    @property
    def members(self) -> tuple[str, ...]:
        """Loaded members, from the largest to the smallest."""
        return tuple(member for member in self.spec.members if member in self.unets)

    def masks_folder(self, member: str) -> Path:
        """Where the learned block masks of a member lie."""
        return masks_folder(self.spec.folder, member)

    def _accelerated(self, member: str) -> AcceleratedMember:
        return AcceleratedMember(
            graph=self._members[member].graph,
            propagation=self.spec.propagation_of(member),
            masks=self.masks_folder(member),
            fingerprint=self.member_fingerprints[member],
        )

    def schedule(self, sampler: SamplerName, steps: int) -> Schedule:
        return self._schedule(sampler, steps)

    def course(self, plan: OpenPlan | Plan) -> Course:
        """The noise levels of a whole plan. Raises Incompatible for grids that it does not have."""
        return make_course(plan.grids, self.schedule, self.scheduler_config, self._named_schedules)

    @cached_property
    def _named_schedules(self) -> Mapping[str, Schedule]:
        return {grid.digest: self._named(grid) for grid in self.spec.grids}

    def _named(self, grid: LevelGrid) -> Schedule:
        """With the sampler's options as in the family's own schedule."""
        plain, first = self.schedule(grid.sampler, grid.steps), grid.levels[0]
        scale = math.hypot(first.a, first.b)
        return replace(plain, timesteps=grid.timesteps, levels=grid.levels, initial_scale=scale)

    def ratios(self, sampler: SamplerName, steps: int) -> list[float]:
        """The levels of noise ``b / a`` before each step, of the named grid if there is one."""
        grid = self.spec.named_grids.get((sampler, steps))
        schedule = self._named_schedules[grid.digest] if grid else self.schedule(sampler, steps)
        levels = schedule.levels[:-1]
        return [level.b / level.a if level.a else math.inf for level in levels]

    def _make_schedule(self, sampler: SamplerName, steps: int) -> Schedule:
        return make_schedule(sampler, steps, self.scheduler_config)

    def denoiser(self, member: str) -> Denoiser:
        """The member as the executor calls it. Raises UnknownName if it is not loaded."""
        return self.member(member)

    def member(self, name: str) -> Member:
        """A loaded member. Raises UnknownName, and WeightsError if it is not loaded."""
        if name not in self._members:
            self.spec.check_member(name)
            raise WeightsError(f"member {name} of {self.name} is not loaded on this node")
        return self._members[name]

    def cache_bytes(self, plan: Plan, size: Size) -> int:
        """The most that a request with this expanded plan keeps of its blocks between steps."""
        sizes = [0]
        for segment in plan.segments:
            if segment.masked and segment.member in self.unets:
                flow = block_schedule_of(self.member(segment.member).blocks, segment)
                sizes.append(_BRANCHES * self.profile(segment.member, size).cache_bytes(flow))
        return max(sizes)

    def profile(self, member: str, size: Size | None = None) -> Profile:
        """What the member's blocks cost for a picture of this size (None: the default).

        Raises Incompatible if its blocks are not known.
        """
        return self._profile(member, self.spec.default_size if size is None else size)

    def _make_profile(self, member: str, size: Size) -> Profile:
        prompt = self.encode_text("")
        shared = ModelInputs(
            torch.zeros(1, *self.latent_shape(size)), torch.zeros(1), prompt.positive[None]
        )
        return profile(self.member(member).blocks, shared)

    def latent_shape(self, size: object) -> tuple[int, int, int]:
        """[C, H, W] of the latent of a picture of a size. Raises InvalidRequest for a bad one."""
        return self.spec.latent_shape(size)

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


def _with_latent_space(spec: FamilySpec, vae: AutoencoderKL) -> FamilySpec:
    """Raises WeightsError for an autoencoder of another latent space than the manifest's."""
    try:
        found = latent_space_of(vae)
    except WeightsError as error:
        raise WeightsError(f"cannot use the autoencoder of {spec.name}: {error}") from error
    if not spec.latent_space:
        return spec.model_copy(update={"latent_space": found})
    if not spec.latent_space.matches(found):
        raise WeightsError(
            f"the autoencoder of {spec.name} has latent space {found.id}, its manifest says"
            f" {spec.latent_space.id}"
        )
    return spec


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
    spec = read_spec(name)
    return Family(spec, spec.members if members is None else members)
