"""A family with some of its members loaded: what its spec says, over its architecture's models."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from baton.common.accel.directives import AcceleratedMember, Accelerator
from baton.common.diffusion.between import level_range, schedule_through
from baton.common.diffusion.blocks import BlockGraph, Blocks, ModelInputs
from baton.common.diffusion.conditioning import Conditioning
from baton.common.diffusion.course import Course, make_course
from baton.common.diffusion.denoiser import Denoiser
from baton.common.diffusion.flows import flows_of
from baton.common.diffusion.profile import ChainProfile, Profile, profile, profile_chain
from baton.common.diffusion.schedules import Schedule
from baton.common.errors import ExecutionFailed, Incompatible, InvalidRequest, WeightsError
from baton.common.families.architectures import ARCHITECTURES
from baton.common.families.architectures.adapter import Adapter, Shape
from baton.common.families.grids import LevelGrid
from baton.common.families.hearing import Heard
from baton.common.families.manifest import masks_folder
from baton.common.families.spec import FamilySpec, read_spec
from baton.common.latents.space import LatentSpace
from baton.common.limits import SamplerName
from baton.common.plan import Grid, OpenPlan, Plan
from baton.common.size import Size


class LoadedFamily:
    """Ready to encode, denoise and decode.

    spec: with the latent space as measured, if the manifest does not have it. models: behind the
    one protocol of all architectures. fingerprint: of autoencoder and noise schedule,
    member_fingerprints: of each loaded denoiser with the text encoder; a replay needs the same.
    """

    def __init__(self, spec: FamilySpec, models: Adapter) -> None:
        self.models = models
        self.spec = _with_latent_space(spec, models)
        self.fingerprint = spec.fingerprint
        self.member_fingerprints = {
            member: spec.member_fingerprint(member) for member in models.members
        }
        self.accelerator = Accelerator(
            spec.name,
            {member: self._accelerated(member) for member in models.members},
            lambda sampler, steps: self.schedule(sampler, steps).digest,
        )
        self._profile = lru_cache(maxsize=64)(self._make_profile)
        self._decoder_profile = lru_cache(maxsize=64)(self._profile_decoder)
        self._outline = cache(models.outline)
        self._decoder_outline = cache(models.decoder_outline)
        self._schedule = lru_cache(maxsize=64)(models.schedule)
        self._course = lru_cache(maxsize=64)(self._make_course)
        self._share = lru_cache(maxsize=4096)(self._make_share)

    @classmethod
    def of(cls, spec: FamilySpec, members: Iterable[str]) -> LoadedFamily:
        """With these members loaded. Raises as `load_family`."""
        chosen = [spec.check_member(member) for member in members]
        return cls(spec, ARCHITECTURES[spec.architecture].load(spec, chosen))

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def members(self) -> tuple[str, ...]:
        """Loaded members, from the largest to the smallest."""
        return tuple(member for member in self.spec.members if member in self.models.members)

    def masks_folder(self, member: str) -> Path:
        """Where the learned block masks of a member lie."""
        return masks_folder(self.spec.folder, member)

    def _accelerated(self, member: str) -> AcceleratedMember:
        return AcceleratedMember(
            graph=self.models.denoiser(member).graph,
            propagation=self.spec.propagation_of(member),
            masks=self.masks_folder(member),
            fingerprint=self.member_fingerprints[member],
        )

    def schedule(self, sampler: SamplerName, steps: int, size: Size | None = None) -> Schedule:
        """The family's own levels, of a picture of a size (None: the default)."""
        return self._schedule(sampler, steps, self.latent_shape(size or self.spec.default_size))

    def course(self, plan: OpenPlan | Plan, size: Size | None = None) -> Course:
        """The noise levels of a whole plan. Raises Incompatible for grids that it does not have."""
        return self._course(plan.grids, self.latent_shape(size or self.spec.default_size))

    def check_levels(self, plan: OpenPlan | Plan, size: Size) -> None:
        """Raises InvalidRequest for a step of a member at a level of noise outside its range."""
        ratios = self.course(plan, size).ratios
        for segment in plan.segments:
            part = self.spec.members.get(segment.member)
            for step in range(segment.start, segment.stop):
                if part and part.levels and not part.knows(ratios[step]):
                    low, high = part.levels
                    raise InvalidRequest(
                        f"member {segment.member} takes steps at noise levels from {low:g} to"
                        f" {high:g}; step {step} of this plan begins at {ratios[step]:.3g}"
                    )

    def _make_course(self, grids: Sequence[Grid], shape: Shape) -> Course:
        def make(
            sampler: SamplerName, steps: int, begin: float | None, until: float | None
        ) -> Schedule:
            if begin is None and until is None:
                return self._schedule(sampler, steps, shape)
            return self.models.schedule(sampler, steps, shape, begin, until)

        return make_course(grids, make, self._named_schedules)

    @cached_property
    def _named_schedules(self) -> Mapping[str, Schedule]:
        return {grid.digest: self._named(grid) for grid in self.spec.grids}

    def _named(self, grid: LevelGrid) -> Schedule:
        """With the sampler's options as in the family's own schedule."""
        plain, first = self.schedule(grid.sampler, grid.steps), grid.levels[0]
        scale = math.hypot(first.a, first.b)
        return replace(plain, timesteps=grid.timesteps, levels=grid.levels, initial_scale=scale)

    def level_grid(self, name: str, sampler: SamplerName, ratios: Sequence[float]) -> LevelGrid:
        """A grid through the levels ``b / a`` before every step but the first.

        Raises Incompatible for levels that the family does not have, InvalidRequest for some that
        do not fall.
        """
        through = schedule_through(sampler, ratios, self.spec.scheduler_config)
        return LevelGrid(name, sampler, through.timesteps, through.levels)

    def course_of(self, grid: LevelGrid) -> Course:
        """The noise levels of a plan whose only grid is this one, be it named by the family or not.

        Raises Incompatible if the family has no such number of steps.
        """
        return Course((self._named(grid),))

    @property
    def level_range(self) -> tuple[float, float]:
        """The least and the greatest level ``b / a`` that its members were trained at."""
        return level_range(self.spec.scheduler_config)

    def ratios(self, sampler: SamplerName, steps: int) -> list[float]:
        """The levels of noise ``b / a`` before each step of the family's own schedule."""
        levels = self.schedule(sampler, steps).levels[:-1]
        return [level.b / level.a if level.a else math.inf for level in levels]

    def denoiser(self, member: str) -> Denoiser:
        """A member as the executor calls it. Raises UnknownName, and WeightsError if not loaded."""
        if member not in self.models.members:
            self.spec.check_member(member)
            raise WeightsError(f"member {member} of {self.name} is not loaded on this node")
        return self.models.denoiser(member)

    def blocks(self, member: str) -> BlockGraph:
        """Those of a loaded member. Raises Incompatible if they are not known."""
        return _known(member, self.denoiser(member).graph)

    def cache_bytes(self, plan: Plan, size: Size) -> int:
        """The most that a request with this plan keeps of its blocks between steps."""
        sizes = [0]
        for segment in plan.segments:
            if segment.masked and segment.member in self.models.members:
                counted = self.profile(segment.member, size)
                flows = flows_of(self.blocks(segment.member), segment)
                sizes.append(sum(counted.cache_bytes(flow.schedule) for flow in flows.values()))
        return max(sizes)

    def row_bytes(self, member: str, size: Size) -> int:
        """Activations of one row of a call; 0 if the member's blocks are not known."""
        if self.denoiser(member).graph is None:
            return 0
        return self.profile(member, size).activation_bytes

    def share(self, member: str, blocks: Blocks | None, size: Size) -> float:
        """What a row that runs these blocks costs, in MACs of one that runs all."""
        if blocks is None or self.denoiser(member).graph is None:
            return 1.0
        return self._share(member, blocks, size)

    def loads(self, plan: Plan, size: Size) -> tuple[float, ...]:
        """By step, what it costs, in rows that run all blocks; of other nodes' steps, the rows."""
        loads = []
        for segment in plan.segments:
            steps = [segment.branches(directive) for directive in segment.directives]
            if not segment.masked or segment.member not in self.models.members:
                loads += [float(len(branches)) for branches in steps]
                continue
            flows = flows_of(self.blocks(segment.member), segment)
            for step, branches in enumerate(steps, segment.start):
                run = (flows[branch].planned(step) for branch in branches)
                loads.append(sum(self.share(segment.member, bits, size) for bits in run))
        return tuple(loads)

    def _make_share(self, member: str, blocks: Blocks, size: Size) -> float:
        counted = self.profile(member, size)
        return counted.macs_of(blocks) / sum(counted.macs)

    def profile(self, member: str, size: Size | None = None) -> Profile:
        """What the member's blocks cost for a picture of this size (None: the default).

        Raises Incompatible if its blocks are not known.
        """
        return self._profile(member, self.spec.default_size if size is None else size)

    def _make_profile(self, member: str, size: Size) -> Profile:
        """On the meta device: nothing is computed, whatever the size."""
        outline = _known(member, self._outline(member))
        row = self.encode_text("", member=member).row("positive")
        with torch.device("meta"):
            conditioning = {
                name: torch.empty((1, *tensor.shape), dtype=tensor.dtype)
                for name, tensor in row.items()
            }
            sample, timesteps = torch.empty(1, *self.latent_shape(size)), torch.empty(1)
            return profile(outline, ModelInputs(sample, timesteps, conditioning))

    def decoder_profile(self, size: Size) -> ChainProfile:
        """What the decoder's pieces cost for a picture of this size."""
        return self._decoder_profile(size)

    def _profile_decoder(self, size: Size) -> ChainProfile:
        return profile_chain(self._decoder_outline(), self.latent_shape(size))

    def decoder_bytes(self, size: Size) -> int:
        """The most that the activations of one decode in flight take at a time."""
        return self.decoder_profile(size).activation_bytes

    def latent_shape(self, size: object) -> tuple[int, int, int]:
        """[C, H, W] of the latent of a picture of a size. Raises InvalidRequest for a bad one."""
        return self.spec.latent_shape(size)

    def heard(self, prompt: str) -> Heard:
        """What of a prompt, positive or negative, is encoded, and what is lost."""
        return self.models.heard(prompt)

    def encode_text(
        self, prompt: str, negative: str = "", member: str | None = None
    ) -> Conditioning:
        """Encode a prompt for a member, the first loaded one if none is named."""
        member = member or next(iter((*self.members, *self.spec.members)))
        return self.models.encode(member, [(prompt, negative)])[0]

    @torch.inference_mode()
    def decode(self, x: Tensor) -> npt.NDArray[np.uint8]:
        """Latent [C, H, W] to a picture, uint8 [H, W, 3]. Raises as `picture`."""
        for piece in self.models.decoder():
            x = piece(x)
        return self.picture(x)

    def picture(self, pixels: Tensor) -> npt.NDArray[np.uint8]:
        """What the decoder's last piece puts out, as uint8 [H, W, 3].

        Raises ExecutionFailed if it is not finite: as whole numbers it would pass for a picture.
        """
        if not torch.isfinite(pixels).all():
            raise ExecutionFailed(
                f"the decoder of {self.name} yields NaN or infinite values; its weights may be"
                " damaged"
            )
        pixels = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        return np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy())

    def pipeline(self, member: str) -> Any:
        """A plain diffusers pipeline of one member, over the same modules: the reference."""
        self.denoiser(member)
        return self.models.pipeline(member)


def _known(member: str, graph: BlockGraph | None) -> BlockGraph:
    if graph is None:
        raise Incompatible(f"the blocks of member {member} are not known")
    return graph


def _with_latent_space(spec: FamilySpec, models: Adapter) -> FamilySpec:
    """Raises WeightsError for an autoencoder of another latent space than the manifest's."""
    try:
        found: LatentSpace = models.latent_space
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


def load_family(name: str = "scenes", members: Iterable[str] | None = None) -> LoadedFamily:
    """Load a built-in family, or one from a folder with a manifest.

    members: those to load; all by default. Raises UnknownName, and WeightsError for files that are
    missing, damaged or do not fit.
    """
    spec = read_spec(name)
    return LoadedFamily.of(spec, spec.members if members is None else members)
