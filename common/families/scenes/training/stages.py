"""The stages of a training and what each may take of its time."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from baton.common.errors import ExecutionFailed
from baton.common.families.scenes.text import build_tokenizer
from baton.common.families.scenes.training.dataset import LatentDataset, load_dataset, load_pictures
from baton.common.families.scenes.training.denoiser import Text, train_denoiser
from baton.common.families.scenes.training.device import Machine
from baton.common.families.scenes.training.finisher import Teachers, train_finisher
from baton.common.families.scenes.training.loop import (
    Allowance,
    Position,
    read_averages,
    read_position,
)
from baton.common.families.scenes.training.meaning import MeaningHeads, train_meaning
from baton.common.families.scenes.training.members import (
    FINISHER,
    TEXT_WIDTH,
    build_text_encoder,
    build_unet,
)
from baton.common.families.scenes.training.pack import write_pack
from baton.common.families.scenes.training.vae import acceptance, build_vae, set_scaling, train_vae
from baton.common.families.scenes.worlds import World
from baton.common.files import saving

#: Share of the whole time, in the order in which they train.
STAGES: Mapping[str, float] = {
    "vae": 0.10,
    "meaning": 0.01,
    "large": 0.54,
    "medium": 0.14,
    "small": 0.08,
    FINISHER: 0.13,
}

_PACK_EVERY_S = 60.0


@dataclass(frozen=True)
class Recipe:
    """What is trained, where, and for how long.

    minutes: of everything, over all runs in ``run_dir``. steps: of each stage, instead.
    scenes, pictures: how many are rendered for the denoisers and for the autoencoder.
    gate: share of reconstructions, of each surface and size, that the verifier must accept
    before a denoiser is trained; judged: how many of each are looked at. pack: folder to write
    packed averages to, every minute.
    """

    run_dir: Path
    world: World
    machine: Machine
    minutes: float
    steps: int | None = None
    scenes: int = 150_000
    pictures: int = 60_000
    gate: float = 0.95
    judged: int = 100
    guidance: float = 3.0
    pack: Path | None = None


class Training:
    """Runs stages, each from where it stands, with what the stages before it have left."""

    def __init__(self, recipe: Recipe) -> None:
        recipe.run_dir.mkdir(parents=True, exist_ok=True)
        self.recipe = recipe
        self._clock = _Clock(recipe.run_dir / "clock.json")
        self._packed_at = time.monotonic()
        self.machine = replace(recipe.machine, on_save=self._on_save)

    def run(self, stage: str) -> None:
        """Train one stage to its end. Raises KeyError for an unknown one."""
        if self._position(stage).finished:
            print(f"{stage} is trained", flush=True)
            return
        {"vae": self._vae, "meaning": self._meaning, FINISHER: self._finisher}.get(
            stage, lambda: self._member(stage)
        )()
        self._clock.write()
        if self.recipe.pack is not None:
            write_pack(self.recipe.run_dir, self.recipe.pack)

    def allowance(self, stage: str) -> Allowance:
        """What a stage may take: its share of what the stages that are not finished have left."""
        if self.recipe.steps is not None:
            return Allowance(steps=self.recipe.steps)
        waiting = {name: w for name, w in STAGES.items() if not self._position(name).finished}
        left = max(0.0, 60 * self.recipe.minutes - self._clock.seconds)
        return Allowance(
            seconds=self._position(stage).seconds + left * STAGES[stage] / sum(waiting.values())
        )

    def _position(self, stage: str) -> Position:
        return read_position(self.recipe.run_dir / f"{stage}.safetensors")

    def _on_save(self) -> None:
        self._clock.write()
        if self.recipe.pack is not None and time.monotonic() - self._packed_at > _PACK_EVERY_S:
            write_pack(self.recipe.run_dir, self.recipe.pack)
            self._packed_at = time.monotonic()

    def _vae(self) -> None:
        recipe = self.recipe
        pictures = load_pictures(
            recipe.run_dir / "pictures.pt", recipe.world, recipe.pictures, self.machine.seed
        )
        if self.machine.is_cuda:
            pictures = pictures.to(self.machine.device)
        vae = train_vae(recipe.run_dir, recipe.world, self.machine, pictures, self.allowance("vae"))
        set_scaling(vae, recipe.world)
        vae.save_pretrained(recipe.run_dir / "vae", safe_serialization=True)

    def _meaning(self) -> None:
        modules = self._text_encoder(), MeaningHeads(TEXT_WIDTH, self.recipe.world)
        for module in modules:
            module.to(self.machine.device)
        columns = self.data.tokens, self.data.meanings
        train_meaning(
            self.recipe.run_dir, modules, columns, self.machine, self.allowance("meaning")
        )

    def _member(self, member: str) -> None:
        teacher = "meaning" if member == "large" else "large"
        encoder = self._text_encoder(teacher)
        heads = None
        if member == "large":
            heads = MeaningHeads(TEXT_WIDTH, self.recipe.world)
            heads.load_state_dict(self._averages("meaning", "meaning"))
        data = self.data
        train_denoiser(
            self.recipe.run_dir,
            member,
            Text(encoder.to(self.machine.device), heads),
            data,
            self.machine,
            self.allowance(member),
            self.recipe.world,
        )

    def _finisher(self) -> None:
        teachers = Teachers(
            large=self._unet("large"),
            small=self._unet("small"),
            text_encoder=self._text_encoder("large").to(self.machine.device),
            guidance=self.recipe.guidance,
        )
        data = self.data
        train_finisher(self.recipe.run_dir, teachers, data, self.machine, self.allowance(FINISHER))

    @cached_property
    def data(self) -> LatentDataset:
        """What the denoisers learn from. Raises ExecutionFailed if the autoencoder is too poor."""
        recipe = self.recipe
        vae = trained_vae(recipe.run_dir, recipe.world).to(self.machine.device)
        path = recipe.run_dir / "data.pt"
        if not path.exists():
            self._check(vae)
        parts = vae, tokenizer_of(recipe.run_dir, recipe.world)
        return load_dataset(path, recipe.world, parts, self.machine, recipe.scenes)

    def _check(self, vae: AutoencoderKL) -> None:
        if self.recipe.gate <= 0:
            return
        shares = acceptance(vae, self.recipe.world, self.recipe.judged)
        told = ", ".join(f"{size} {surface} {s:.3f}" for (surface, size), s in shares.items())
        print(f"accepted reconstructions: {told}", flush=True)
        if min(shares.values()) < self.recipe.gate:
            raise ExecutionFailed(
                f"the autoencoder smears icons: fewer than {self.recipe.gate:.0%} of some kind"
                f" are recognised ({told}); train it for longer (--minutes)"
            )

    def _text_encoder(self, stage: str | None = None) -> CLIPTextModel:
        torch.manual_seed(self.machine.seed)
        encoder = build_text_encoder(tokenizer_of(self.recipe.run_dir, self.recipe.world))
        if stage is not None:
            encoder.load_state_dict(self._averages(stage, "text_encoder"))
        return encoder

    def _unet(self, member: str) -> UNet2DConditionModel:
        unet = build_unet(member, self.recipe.world)
        unet.load_state_dict(self._averages(member, "unet"))
        return unet.to(self.machine.device).eval().requires_grad_(False)

    def _averages(self, stage: str, module: str) -> dict[str, torch.Tensor]:
        return read_averages(self.recipe.run_dir / f"{stage}.safetensors", module)


def trained_vae(run_dir: Path, world: World) -> AutoencoderKL:
    """The autoencoder of a run; from its averages if only they are there."""
    folder = run_dir / "vae"
    if not (folder / "diffusion_pytorch_model.safetensors").exists():
        vae = build_vae(world)
        vae.load_state_dict(read_averages(run_dir / "vae.safetensors", "vae"))
        set_scaling(vae, world)
        vae.save_pretrained(folder, safe_serialization=True)
    vae = AutoencoderKL.from_pretrained(folder, low_cpu_mem_usage=False)
    return vae.eval().requires_grad_(False)


def tokenizer_of(run_dir: Path, world: World) -> CLIPTokenizer:
    """The tokenizer of a run, made when it is first asked for."""
    folder = run_dir / "tokenizer"
    if not folder.exists():
        build_tokenizer(world).save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def check_stages(names: list[str]) -> list[str]:
    """The stages in their order. Raises ValueError for an unknown one."""
    for name in names:
        if name not in STAGES:
            raise ValueError(f"unknown stage {name!r}: {', '.join(STAGES)}")
    return [stage for stage in STAGES if not names or stage in names]


class _Clock:
    """Seconds that all runs in a folder have taken together."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = json.loads(path.read_text())["seconds"] if path.exists() else 0.0
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        return float(self._before + time.monotonic() - self._begun)

    def write(self) -> None:
        with saving(self._path) as file:
            file.write(json.dumps({"seconds": round(self.seconds, 1)}).encode())
