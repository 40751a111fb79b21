"""Builds a family's models from its manifest, with diffusers' and transformers' own classes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from functools import lru_cache
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

from common.accel.columns import AcceleratedMember, Accelerator
from common.accel.propagation import propagation_of
from common.diffusion.blocks import BlockGraph, Shared
from common.diffusion.calls import Denoiser, flow_of
from common.diffusion.executor import Conditioning
from common.diffusion.graphs import graph_of
from common.diffusion.profile import Profile, profile
from common.diffusion.scheduler_config import check_scheduler
from common.diffusion.schedules import Schedule, make_schedule
from common.errors import Incompatible, WeightsError
from common.families.hearing import Heard, Hearing
from common.families.manifest import (
    Manifest,
    Part,
    file_digest,
    find_family,
    folder_fingerprint,
    masks_folder,
    read_manifest,
)
from common.plan import Plan, SamplerName

_BRANCHES = 2  # of guidance
_TRANSFORMERS = {"dtype": torch.float32}
_DIFFUSERS = {"torch_dtype": torch.float32, "low_cpu_mem_usage": False}


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
        places = _Places(folder, manifest)
        vae_folder, scheduler_folder = places.of(manifest.vae), places.of(manifest.scheduler)
        self.scheduler_config = _read_scheduler(scheduler_folder)
        self.vae: AutoencoderKL = places.load(AutoencoderKL, manifest.vae)
        self.text_encoder: CLIPTextModel = places.load(CLIPTextModel, manifest.text_encoder)
        self.tokenizer: CLIPTokenizer = places.load(CLIPTokenizer, manifest.tokenizer)
        self.unets: dict[str, UNet2DConditionModel] = {
            member: places.load(UNet2DConditionModel, manifest.members[member])
            for member in (manifest.check_member(member) for member in members)
        }
        text_folders = places.of(manifest.text_encoder), places.of(manifest.tokenizer)
        self.fingerprint = folder_fingerprint(vae_folder, scheduler_folder)
        self.member_fingerprints = {
            member: folder_fingerprint(places.of(manifest.members[member]), *text_folders)
            for member in self.unets
        }
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
                flow = flow_of(self.member(segment.member).blocks, segment)
                sizes.append(_BRANCHES * self.profile(segment.member, size).cache_bytes(flow))
        return max(sizes)

    def profile(self, member: str, size: int | None = None) -> Profile:
        """What the member's blocks cost for a picture of this side, pixels (None: the default).

        Raises Incompatible if its blocks are not known.
        """
        return self._profile(member, self.manifest.sizes.default if size is None else size)

    def _make_profile(self, member: str, size: int) -> Profile:
        prompt = self.encode_text("")
        shared = Shared(
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
        """Latent [C, H, W] to a picture, uint8 [H, W, 3]."""
        config = self.vae.config
        latent = x[None] / config.scaling_factor + (config.shift_factor or 0.0)
        pixels = self.vae.decode(latent, return_dict=False)[0][0]
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


def load_family(name: str = "scenes", members: Iterable[str] | None = None) -> Family:
    """Load a built-in family, or one from a folder with a manifest.

    members: those to load; all by default. Raises UnknownName, and WeightsError for files that are
    missing, damaged or do not fit.
    """
    folder = find_family(name)
    manifest = read_manifest(folder)
    return Family(folder, manifest, manifest.members if members is None else members)


class _Places:
    """Resolves a manifest's parts to folders and loads from them."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder = folder
        self._digests = manifest.digests

    def of(self, part: Part) -> Path:
        if part.path is not None:
            return self._folder / part.path
        return _download(str(part.repo), part.subfolder)

    def load(self, cls: type[Any], part: Part) -> Any:
        folder = self.of(part)
        if not folder.is_dir():
            raise WeightsError(f"{folder} is missing; reinstall, or fetch the family's weights")
        self._check_digests(folder)
        try:
            if cls is CLIPTokenizer:
                return cls.from_pretrained(folder)
            options = _TRANSFORMERS if cls is CLIPTextModel else _DIFFUSERS
            module, info = cls.from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, **options
            )
        except Exception as error:  # from_pretrained raises whatever its file formats raise
            raise WeightsError(f"cannot load {folder}: {_first_line(error)}") from error
        if missing := sorted(info["missing_keys"]):
            raise WeightsError(f"{folder} lacks {len(missing)} weights, {missing[0]} among them")
        return module.eval().requires_grad_(False)

    def _check_digests(self, folder: Path) -> None:
        for name, expected in self._digests.items():
            path = self._folder / name
            if path.parent != folder:
                continue
            if not path.is_file():
                raise WeightsError(f"{path} is missing; reinstall, or fetch the family's weights")
            if file_digest(path) != expected:
                raise WeightsError(
                    f"{path} is damaged: its digest is not the manifest's; reinstall"
                )


def _read_scheduler(folder: Path) -> dict[str, Any]:
    path = folder / "scheduler_config.json"
    try:
        config = dict(json.loads(path.read_bytes()))
        check_scheduler(config)
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(f"cannot read {path}: {error}") from error
    except Incompatible as error:
        raise WeightsError(f"{path}: {error}") from error
    return config


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _download(repo: str, subfolder: str) -> Path:
    """A hub repository's folder, fetched or from the cache (HF_HOME)."""
    from huggingface_hub import snapshot_download

    try:
        root = snapshot_download(repo, allow_patterns=[f"{subfolder}/*" if subfolder else "*"])
    except Exception as error:  # the hub client raises many kinds, offline ones included
        raise WeightsError(f"cannot fetch {repo}: {_first_line(error)}") from error
    return Path(root) / subfolder
