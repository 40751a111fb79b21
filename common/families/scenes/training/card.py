"""Measures the trained family and writes its card: scores per task, costs, a grid of pictures."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from baton.common.build import processor_name
from baton.common.diffusion.blocks import ModelInputs
from baton.common.diffusion.conditioning import stacked
from baton.common.families.architectures.sd1 import models_of
from baton.common.families.loaded import LoadedFamily, load_family
from baton.common.families.scenes.evaluate import (
    Drawn,
    draw,
    member_plan,
    score_by_task,
    seeded_cases,
    whole_members,
    world_drawn_by,
)
from baton.common.families.scenes.grammar import GENEVAL_TASKS, SURFACE_TASK, sample_spec, tasks_of
from baton.common.families.scenes.render import compose, render
from baton.common.families.scenes.training.export import TRAINING_NAME
from baton.common.families.scenes.training.vae import acceptance, psnr, to_model_range
from baton.common.files import saving
from baton.common.quality.scores import Score

_REPEATS = 9
_GRID_COLUMNS = 8
_SCALED = 96  # side of a picture in a grid, pixels
_RECONSTRUCTED = 100  # pictures at most, of each surface and size


def write_card(folder: Path, bench: Path, drawn: tuple[int, int], steps: int = 50) -> None:
    """Score every member on ``drawn`` = (count, seed) prompts with DDIM, time it, write the card.

    Writes ``README.md`` and one grid per member below ``folder``, and ``bench``/scenes.json.
    """
    family = load_family(str(folder))
    cases = seeded_cases(world_drawn_by(family), *drawn)
    measured = Measured(family, steps, drawn, step_milliseconds(family), _training(folder))
    for member in whole_members(family):
        pictures = draw(family, member_plan(family, member, steps), cases)
        measured.scores[member] = score_by_task(pictures)
        with saving(folder / f"{member}.png") as file:
            picture_grid(pictures).save(file, format="PNG")
        print(f"{member}: {measured.scores[member]['overall']}", flush=True)
    measured.autoencoder = _autoencoder(family, min(drawn[0], _RECONSTRUCTED))
    with saving(folder / "README.md") as file:
        file.write(_card(measured).encode())
    with saving(bench / "scenes.json") as file:
        file.write(json.dumps(_rows(measured), indent=2).encode() + b"\n")


@dataclass
class Measured:
    """What a card tells. milliseconds: a step of each member, guided where it takes guidance."""

    family: LoadedFamily
    steps: int
    drawn: tuple[int, int]
    milliseconds: dict[str, float]
    training: dict[str, Any]
    scores: dict[str, dict[str, Score]] = field(default_factory=dict)
    autoencoder: dict[str, Any] = field(default_factory=dict)

    @property
    def tasks(self) -> tuple[str, ...]:
        return tasks_of(world_drawn_by(self.family))


def _training(folder: Path) -> dict[str, Any]:
    path = folder / TRAINING_NAME
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _autoencoder(family: LoadedFamily, count: int) -> dict[str, Any]:
    """PSNR in dB over ordinary scenes, and the share of reconstructions that is recognised."""
    world, rng = world_drawn_by(family), np.random.default_rng(7)
    scenes = [compose(sample_spec(rng, world), world, rng) for _ in range(count)]
    pictures = to_model_range(np.stack([render(scene, world) for scene in scenes]))
    shares = acceptance(models_of(family).vae, world, count)
    return {
        "psnr_db": psnr(models_of(family).vae, pictures),
        "accepted": {f"{size} {surface}": share for (surface, size), share in shares.items()},
    }


@torch.inference_mode()
def step_milliseconds(family: LoadedFamily) -> dict[str, float]:
    """One step of each member at batch 1, interleaved; medians. Guided ones take two rows."""
    shape = family.latent_shape(family.spec.sizes.default)
    x, t = torch.randn(2, *shape), torch.full((2,), 500.0)
    row = family.encode_text("a red cat").row("positive")
    both = ModelInputs(x, t, stacked([row, row]))
    one = both.rows(torch.tensor([0]))
    calls: dict[str, Callable[[], object]] = {
        member: partial(family.denoiser(member), both if _is_guided(family, member) else one)
        for member in family.members
    }
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(_REPEATS):
        for name, call in calls.items():
            samples[name].append(_milliseconds(call))
    return {name: statistics.median(times) for name, times in samples.items()}


def _milliseconds(call: Callable[[], object], inner: int = 5) -> float:
    call()
    begun = time.perf_counter()
    for _ in range(inner):
        call()
    return 1000 * (time.perf_counter() - begun) / inner


def picture_grid(drawn: Sequence[Drawn], per_task: int = _GRID_COLUMNS) -> Image.Image:
    """One row per task; a red bar below a picture that does not show what its prompt says."""
    tasks = list(dict.fromkeys(item.case.spec.task for item in drawn))
    tasks.sort(key=[*GENEVAL_TASKS, SURFACE_TASK].index)
    side = drawn[0].picture.shape[0]
    cell = side + 3
    grid = np.full((len(tasks) * cell, per_task * cell, 3), 255, dtype=np.uint8)
    for row, task in enumerate(tasks):
        chosen = [item for item in drawn if item.case.spec.task == task][:per_task]
        for column, item in enumerate(chosen):
            top, left = row * cell, column * cell
            grid[top : top + side, left : left + side] = item.picture
            if not item.verdict.strict:
                grid[top + side : top + side + 2, left : left + side] = (230, 30, 30)
    image, scale = Image.fromarray(grid), _SCALED // side
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def _rows(measured: Measured) -> dict[str, object]:
    scores, milliseconds = measured.scores, measured.milliseconds
    names = list(scores)
    return {
        "machine": {
            "processor": processor_name(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
        "commit": _commit(),
        "steps": measured.steps,
        "training": measured.training,
        "autoencoder": measured.autoencoder,
        "rows": [
            {"member": member, "guided_step_ms": milliseconds[member], "task": task}
            | score.as_dict()
            for member, by_task in scores.items()
            for task, score in by_task.items()
        ],
        "step_ms": milliseconds,
        "ratios": {
            f"step_cost_{names[0]}_to_{name}": milliseconds[names[0]] / milliseconds[name]
            for name in milliseconds
            if name != names[0]
        },
        "scores": {member: by_task["overall"].as_dict() for member, by_task in scores.items()},
    }


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _card(measured: Measured) -> str:
    family, (count, seed) = measured.family, measured.drawn
    manifest, scores = family.spec, measured.scores
    channels, rows, columns = family.latent_shape(manifest.sizes.default)
    lines = [
        f"# Family card: {manifest.name}",
        "",
        manifest.description,
        f"Pictures are {manifest.sizes.default} px, saved enlarged by {manifest.save_scale};"
        f" latents are {channels} x {rows} x {columns}. Trained from scratch on the project's own"
        " renderer; nothing else was seen. Prompts outside its grammar give pictures of no"
        " meaning.",
        "",
        *_member_table(measured),
        "",
        *_training_table(measured.training.get("stages", {})),
        "",
        f"Scores by the exact verifier on {count} seeded prompts (seed {seed}), DDIM,"
        f" {measured.steps} steps, guidance {manifest.default_guidance:g}. *Strict*: share of"
        " pictures that show everything the prompt says; *graded*: mean share of its facts;"
        " intervals are bootstrap 95%. *geneval*: the six tasks without surface.",
        "",
        "| task | " + " | ".join(f"{member}: strict (graded)" for member in scores) + " | n |",
        "|---" * (len(scores) + 2) + "|",
    ]
    for task in ("overall", "geneval", *measured.tasks):
        cells = [_cell(by_task[task]) if task in by_task else "" for by_task in scores.values()]
        first = next(iter(scores.values())).get(task)
        lines.append(f"| {task} | " + " | ".join(cells) + f" | {first.n if first else 0} |")
    lines += ["", *_autoencoder_lines(measured.autoencoder), ""]
    lines += [f"![{member}]({member}.png)" for member in scores]
    lines += ["", "The verifier on damaged renders:", "", "![acceptance](verifier.png)", ""]
    lines += ["Learning curves:", "", "![learning curves](learning.png)", ""]
    return "\n".join(lines)


def _member_table(measured: Measured) -> list[str]:
    family, milliseconds = measured.family, measured.milliseconds
    lines = [
        "| model | parameters | step, batch 1 | cost against the first |",
        "|---|---|---|---|",
    ]
    first = milliseconds[family.members[0]]
    for name, took in milliseconds.items():
        guided = "guided" if _is_guided(family, name) else "one branch"
        cheaper = "" if name == family.members[0] else f"{first / took:.1f}x cheaper"
        lines.append(
            f"| {name} | {_parameters(family, name) / 1e6:.2f} M | {took:.1f} ms, {guided} |"
            f" {cheaper} |"
        )
    return lines


def _training_table(stages: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Of every stage, and on what machines, if any stage's averages say so."""
    told = any(stage["machines"] for stage in stages.values())
    lines = [
        "| stage | samples seen | minutes |" + " trained on |" * told,
        "|---|---|---|" + "---|" * told,
    ]
    for name, stage in stages.items():
        line = f"| {name} | {stage['samples']:,} | {stage['seconds'] / 60:.1f} |"
        lines.append(line + f" {', then '.join(stage['machines'])} |" * told)
    return lines


def _parameters(family: LoadedFamily, name: str) -> int:
    return sum(p.numel() for p in models_of(family).unets[name].parameters())


def _is_guided(family: LoadedFamily, member: str) -> bool:
    return family.spec.members[member].guidance == "two_branches"


def _autoencoder_lines(found: dict[str, Any]) -> list[str]:
    accepted = ", ".join(f"{name} {share:.2f}" for name, share in found["accepted"].items())
    return [
        f"The autoencoder reconstructs scenes at {found['psnr_db']:.1f} dB; share of reconstructed"
        f" icons that the verifier recognises in icon, colour, size and surface: {accepted}."
    ]


def _cell(score: Score) -> str:
    low, high = score.strict_ci95
    return f"{score.strict:.2f} [{low:.2f}, {high:.2f}] ({score.graded:.2f})"
