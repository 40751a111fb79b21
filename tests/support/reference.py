"""diffusers itself, as the reference for what a whole run should give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
)
from torch import Tensor

from baton.common.families.loaded import LoadedFamily
from baton.common.request import Task

SCHEDULERS = {
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
    "dpmpp_2m": DPMSolverMultistepScheduler,
}


def plain_pipeline(family: LoadedFamily, member: str) -> StableDiffusionPipeline:
    pipeline = family.pipeline(member)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def drawn_by_diffusers(
    family: LoadedFamily, member: str, task: Task, config: Mapping[str, Any] | None = None
) -> Tensor:
    """The final latent [C, H, W] of the plain pipeline, with the sampler of the task's plan."""
    pipeline = plain_pipeline(family, member)
    scheduler = SCHEDULERS[task.plan.samplers[0]]
    pipeline.scheduler = scheduler.from_config(dict(config or family.spec.scheduler_config))
    latents: Tensor = pipeline(
        prompt=task.prompt,
        negative_prompt=task.negative_prompt or None,
        height=task.size.height,
        width=task.size.width,
        num_inference_steps=task.plan.steps,
        guidance_scale=task.plan.segments[0].guidance.scale,
        generator=torch.Generator().manual_seed(task.seed),
        output_type="latent",
    ).images
    return latents[0]
