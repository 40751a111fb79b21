"""The data set of the denoisers: latents, the tokens of their prompts, and what those mean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTokenizer

from common.families.scenes import render
from common.families.scenes.grammar import sample_prompt
from common.families.scenes.training.layout import layout
from common.families.scenes.training.meaning import meaning
from common.families.scenes.training.vae import to_model_range

_ENCODE_BATCH = 256

#: Prompts with two objects are the hardest to learn, so they are seen more often.
_TASK_SHARES = {
    "single_object": 0.08,
    "colors": 0.10,
    "counting": 0.12,
    "two_object": 0.20,
    "position": 0.25,
    "color_attr": 0.25,
}


@dataclass(frozen=True)
class LatentDataset:
    """Scenes with their prompts.

    latents: scaled, float16 [N, 4, 8, 8]. tokens: int64 [N, tokens]. meanings: int64 [N, 11].
    layouts: uint8 [N, 2, 8, 8]. empty: token ids of the empty prompt, int64 [1, tokens].
    """

    latents: Tensor
    tokens: Tensor
    meanings: Tensor
    layouts: Tensor
    empty: Tensor

    def batch(self, indices: Tensor, drop: Tensor) -> tuple[Tensor, Tensor]:
        """Latents and token ids of some scenes, the prompt left empty where ``drop`` is true."""
        tokens = torch.where(drop[:, None], self.empty, self.tokens[indices])
        return self.latents[indices].float(), tokens


def tokenize(tokenizer: CLIPTokenizer, prompts: list[str]) -> Tensor:
    """Padded and cut token ids, int64 [N, tokens]."""
    padded = tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt")
    ids: Tensor = padded.input_ids
    return ids


def load_dataset(
    path: Path, vae: AutoencoderKL, tokenizer: CLIPTokenizer, count: int, seed: int = 0
) -> LatentDataset:
    """Render, describe and encode ``count`` scenes once; later runs read the file."""
    if not path.exists():
        _write_dataset(path, vae, tokenizer, count, seed)
    saved = torch.load(path, weights_only=True)
    return LatentDataset(**saved, empty=tokenize(tokenizer, [""]))


def _write_dataset(
    path: Path, vae: AutoencoderKL, tokenizer: CLIPTokenizer, count: int, seed: int
) -> None:
    rng = np.random.default_rng([seed, 1])
    tasks = rng.choice(list(_TASK_SHARES), size=count, p=list(_TASK_SHARES.values()))
    columns: dict[str, list[Tensor]] = {
        name: [] for name in ("latents", "tokens", "meanings", "layouts")
    }
    for start in range(0, count, _ENCODE_BATCH):
        prompts, specs = zip(
            *(sample_prompt(rng, task) for task in tasks[start : start + _ENCODE_BATCH]),
            strict=True,
        )
        scenes = [render.compose(spec, rng) for spec in specs]
        pictures = np.stack([render.render(scene) for scene in scenes])
        columns["latents"].append(_encode(vae, to_model_range(pictures)).half())
        columns["tokens"].append(tokenize(tokenizer, list(prompts)))
        columns["meanings"].append(torch.tensor([meaning(spec) for spec in specs]))
        columns["layouts"].append(torch.from_numpy(np.stack([layout(scene) for scene in scenes])))
    partial = path.with_suffix(".partial")
    torch.save({name: torch.cat(parts) for name, parts in columns.items()}, partial)
    partial.replace(path)


@torch.inference_mode()
def _encode(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    latents: Tensor = vae.encode(pictures).latent_dist.mode() * vae.config.scaling_factor
    return latents
