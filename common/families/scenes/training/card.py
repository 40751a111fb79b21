"""Measures the trained family and writes its card: scores per task, costs, a grid of pictures."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from common.build import processor_name
from common.families.loader import Family, load_family
from common.families.scenes.evaluate import (
    Drawn,
    draw,
    member_plan,
    score_by_task,
    seeded_cases,
)
from common.families.scenes.grammar import TASKS
from common.quality.scores import Score

_REPEATS = 9
_GRID_COLUMNS = 10
_SCALE = 3


def write_card(folder: Path, bench: Path, count: int, seed: int) -> None:
    """Score every member on ``count`` seeded prompts (DDIM 50), time a step, write the card.

    Writes ``README.md`` and one grid per member below ``folder``, and ``bench``/scenes.json.
    """
    family = load_family(str(folder))
    cases = seeded_cases(count, seed)
    milliseconds = step_milliseconds(family)
    scores: dict[str, dict[str, Score]] = {}
    for member in family.members:
        drawn = draw(family, member_plan(family, member), cases)
        scores[member] = score_by_task(drawn)
        picture_grid(drawn).save(folder / f"{member}.png")
        print(f"{member}: {scores[member]['overall']}", flush=True)
    (folder / "README.md").write_text(_card(family, scores, milliseconds, (count, seed)))
    bench.mkdir(exist_ok=True)
    (bench / "scenes.json").write_text(json.dumps(_rows(scores, milliseconds), indent=2) + "\n")


@torch.inference_mode()
def step_milliseconds(family: Family) -> dict[str, float]:
    """One guided step (two rows) of each member at batch 1, interleaved; medians."""
    shape = family.latent_shape(family.manifest.sizes.default)
    x, t = torch.randn(2, *shape), torch.full((2,), 500.0)
    context = torch.stack([family.encode_text("a red cat").positive] * 2)
    samples: dict[str, list[float]] = {member: [] for member in family.members}
    for _ in range(_REPEATS):
        for member, times in samples.items():
            denoiser = family.denoiser(member)
            times.append(_milliseconds(partial(denoiser, x, t, context)))
    return {member: statistics.median(times) for member, times in samples.items()}


def _milliseconds(call: Callable[[], object], inner: int = 5) -> float:
    call()
    begun = time.perf_counter()
    for _ in range(inner):
        call()
    return 1000 * (time.perf_counter() - begun) / inner


def picture_grid(drawn: Sequence[Drawn], per_task: int = _GRID_COLUMNS) -> Image.Image:
    """One row per task; a red bar below a picture that does not show what its prompt says."""
    side = drawn[0].picture.shape[0]
    cell = side + 3
    grid = np.full((len(TASKS) * cell, per_task * cell, 3), 255, dtype=np.uint8)
    for row, task in enumerate(TASKS):
        chosen = [item for item in drawn if item.case.spec.task == task][:per_task]
        for column, item in enumerate(chosen):
            top, left = row * cell, column * cell
            grid[top : top + side, left : left + side] = item.picture
            if not item.verdict.strict:
                grid[top + side : top + side + 2, left : left + side] = (230, 30, 30)
    image = Image.fromarray(grid)
    return image.resize((image.width * _SCALE, image.height * _SCALE), Image.Resampling.NEAREST)


def _rows(scores: dict[str, dict[str, Score]], milliseconds: dict[str, float]) -> dict[str, object]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    names = list(scores)
    return {
        "machine": {
            "processor": processor_name(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
        "commit": commit,
        "rows": [
            {"member": member, "guided_step_ms": milliseconds[member], "task": task}
            | score.as_dict()
            for member, by_task in scores.items()
            for task, score in by_task.items()
        ],
        "ratios": {
            f"step_cost_{names[0]}_to_{member}": milliseconds[names[0]] / milliseconds[member]
            for member in names[1:]
        },
        "scores": {member: by_task["overall"].as_dict() for member, by_task in scores.items()},
    }


def _card(
    family: Family,
    scores: dict[str, dict[str, Score]],
    milliseconds: dict[str, float],
    drawn: tuple[int, int],
) -> str:
    count, seed = drawn
    manifest = family.manifest
    lines = [
        f"# Family card: {manifest.name}",
        "",
        manifest.description,
        f"Pictures are {manifest.sizes.default} px, saved enlarged by {manifest.save_scale};"
        " latents are 4 x 8 x 8. Trained from scratch on the project's own renderer; nothing"
        " else was seen. Prompts outside its grammar give pictures of no meaning.",
        "",
        "| member | parameters | guided step, batch 1 | cost against the first |",
        "|---|---|---|---|",
    ]
    first = milliseconds[family.members[0]]
    for member in family.members:
        parameters = sum(p.numel() for p in family.unets[member].parameters()) / 1e6
        cost = f"{first / milliseconds[member]:.1f}x cheaper" if member != family.members[0] else ""
        lines.append(f"| {member} | {parameters:.2f} M | {milliseconds[member]:.1f} ms | {cost} |")
    lines += [
        "",
        f"Scores by the exact verifier on {count} seeded prompts (seed {seed}), DDIM, 50 steps,"
        f" guidance {manifest.default_guidance:g}. *Strict*: share of pictures that show everything"
        " the prompt says; *graded*: mean share of its facts; intervals are bootstrap 95%.",
        "",
        "| task | " + " | ".join(f"{member}: strict (graded)" for member in scores) + " | n |",
        "|---" * (len(scores) + 2) + "|",
    ]
    for task in ("overall", *TASKS):
        cells = [_cell(by_task[task]) for by_task in scores.values()]
        n = next(iter(scores.values()))[task].n
        lines.append(f"| {task} | " + " | ".join(cells) + f" | {n} |")
    lines += ["", *(f"![{member}]({member}.png)" for member in scores), ""]
    lines += ["Curves of the newest training run, in batches of 64:", ""]
    lines += ["![learning curves](learning.png)", ""]
    return "\n".join(lines)


def _cell(score: Score) -> str:
    low, high = score.strict_ci95
    return f"{score.strict:.2f} [{low:.2f}, {high:.2f}] ({score.graded:.2f})"
