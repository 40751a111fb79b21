"""The data sets of a training: pictures, and latents with their prompts and what those mean."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTokenizer

from baton.common.families.scenes.grammar import SURFACE_TASK, sample_prompt, tasks_of
from baton.common.families.scenes.render import Pixels, compose, render
from baton.common.families.scenes.training.device import Machine
from baton.common.families.scenes.training.layout import layout
from baton.common.families.scenes.training.meaning import meaning
from baton.common.families.scenes.training.vae import any_scene, encode
from baton.common.families.scenes.worlds import World, world_of
from baton.common.files import saving

_T = TypeVar("_T")
_CHUNK = 1000  # scenes that one process renders at a time

#: Prompts with two objects are the hardest to learn, so they are seen more often.
_TASK_WEIGHTS = {
    "single_object": 0.08,
    "colors": 0.10,
    "counting": 0.14,
    "two_object": 0.18,
    "position": 0.25,
    "color_attr": 0.25,
    SURFACE_TASK: 0.20,
}


@dataclass(frozen=True)
class Described:
    """Rendered scenes: pictures uint8 [N, H, W, 3], prompts, meanings [N, 13], layouts."""

    pictures: Pixels
    prompts: list[str]
    meanings: Tensor
    layouts: Tensor


@dataclass(frozen=True)
class LatentDataset:
    """Scenes with their prompts, on the machine's device.

    latents: scaled, float16 [N, 4, side, side]. tokens: int16 [N, tokens]. meanings: int16 [N, 13].
    layouts: uint8 [N, 3, side, side]. empty: token ids of the empty prompt, int16 [1, tokens].
    """

    latents: Tensor
    tokens: Tensor
    meanings: Tensor
    layouts: Tensor
    empty: Tensor

    def to(self, device: torch.device) -> LatentDataset:
        return LatentDataset(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def batch(self, rows: Tensor, drop: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (float32) and token ids of some scenes, the prompt empty where ``drop``."""
        tokens = torch.where(drop[:, None], self.empty, self.tokens[rows])
        return self.latents[rows].float(), tokens.long()


def tokenize(tokenizer: CLIPTokenizer, prompts: list[str]) -> Tensor:
    """Padded and cut token ids, int64 [N, tokens]."""
    padded = tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt")
    ids: Tensor = padded.input_ids
    return ids


def load_pictures(path: Path, world: World, count: int, seed: int = 0) -> Tensor:
    """Pictures for the autoencoder, uint8 [N, 3, H, W], rendered once; later runs read the file."""
    if not path.exists():
        chunks = _in_processes(partial(_pictures, world.image_size, seed), count)
        pictures = torch.from_numpy(np.concatenate(chunks)).permute(0, 3, 1, 2).contiguous()
        _save({"pictures": pictures}, path)
    loaded: Tensor = torch.load(path, weights_only=True)["pictures"]
    return loaded


def load_dataset(
    path: Path,
    world: World,
    parts: tuple[AutoencoderKL, CLIPTokenizer],
    machine: Machine,
    count: int,
) -> LatentDataset:
    """Render, describe and encode ``count`` scenes once; later runs read the file."""
    vae, tokenizer = parts
    if not path.exists():
        columns: dict[str, list[Tensor]] = {
            name: [] for name in ("latents", "tokens", "meanings", "layouts")
        }
        for described in _in_processes(partial(_described, world.image_size, machine.seed), count):
            columns["latents"].append(encode(vae, described.pictures).half())
            columns["tokens"].append(tokenize(tokenizer, described.prompts).short())
            columns["meanings"].append(described.meanings)
            columns["layouts"].append(described.layouts)
        _save({name: torch.cat(parts) for name, parts in columns.items()}, path)
    saved = torch.load(path, weights_only=True)
    dataset = LatentDataset(**saved, empty=tokenize(tokenizer, [""]).short())
    return dataset.to(machine.device)


def _in_processes(make: Callable[[int, int], _T], count: int) -> list[_T]:
    """``make(chunk, size)`` of every chunk, the same however many processors there are."""
    sizes = [min(_CHUNK, count - start) for start in range(0, count, _CHUNK)]
    workers = min(os.cpu_count() or 1, len(sizes))
    if workers == 1:
        return [make(chunk, size) for chunk, size in enumerate(sizes)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        return list(pool.map(make, range(len(sizes)), sizes))


def _pictures(image_size: int, seed: int, chunk: int, size: int) -> Pixels:
    world, rng = world_of(image_size), np.random.default_rng([seed, 2, chunk])
    return np.stack([render(any_scene(world, rng), world) for _ in range(size)])


def _described(image_size: int, seed: int, chunk: int, size: int) -> Described:
    world, rng = world_of(image_size), np.random.default_rng([seed, 1, chunk])
    names = tasks_of(world)
    weights = np.array([_TASK_WEIGHTS[name] for name in names])
    tasks = rng.choice(names, size=size, p=weights / weights.sum())
    prompts, specs = zip(*(sample_prompt(rng, world, task) for task in tasks), strict=True)
    scenes = [compose(spec, world, rng) for spec in specs]
    return Described(
        pictures=np.stack([render(scene, world) for scene in scenes]),
        prompts=list(prompts),
        meanings=torch.tensor([meaning(spec, world) for spec in specs], dtype=torch.int16),
        layouts=torch.from_numpy(np.stack([layout(scene, world) for scene in scenes])),
    )


def _save(payload: dict[str, Tensor], path: Path) -> None:
    with saving(path) as file:
        torch.save(payload, file)
