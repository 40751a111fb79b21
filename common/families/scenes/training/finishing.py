"""A finisher for a family of scenes that is trained already: from its own files, into them."""

from __future__ import annotations

import json
from pathlib import Path

from diffusers import UNet2DConditionModel

from baton.common.families.architectures.sd1 import models_of
from baton.common.families.loaded import load_family
from baton.common.families.manifest import MANIFEST_NAME, file_digest
from baton.common.families.scenes.training.dataset import load_dataset
from baton.common.families.scenes.training.device import Machine
from baton.common.families.scenes.training.export import member_part, save_half
from baton.common.families.scenes.training.finisher import Teachers, train_finisher
from baton.common.families.scenes.training.loop import Allowance
from baton.common.families.scenes.training.members import FINISHER
from baton.common.families.scenes.worlds import world_of
from baton.common.families.spec import read_spec
from baton.common.files import saving

_TEACHERS = ("large", "small")
_DEVICE_MEMBERS = ("small", FINISHER)


def finish_family(
    folder: Path, run_dir: Path, machine: Machine, allowance: Allowance, scenes: int
) -> UNet2DConditionModel:
    """Train (or go on training) the finisher of the family in a folder, from the one it has.

    scenes: how many are rendered to learn from. Raises as `load_family`.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    names = [*_TEACHERS, *(m for m in (FINISHER,) if m in read_spec(str(folder)).members)]
    family = load_family(str(folder), names)
    models, world = models_of(family), world_of(family.spec.sizes.default)
    parts = models.vae.to(machine.device), models.tokenizer
    data = load_dataset(run_dir / "data.pt", world, parts, machine, scenes)
    unets = [models.unets[name].to(machine.device).eval().requires_grad_(False) for name in names]
    large, small, *earlier = unets
    text_encoder = models.text_encoder.to(machine.device)
    guidance = family.spec.default_guidance
    teachers = Teachers(large, small, text_encoder, guidance, *earlier)
    return train_finisher(run_dir, teachers, data, machine, allowance)


def add_finisher(folder: Path, unet: UNet2DConditionModel) -> None:
    """Write it into the family as a member without guidance, for the levels that it has learned."""
    save_half(unet, folder / FINISHER / "unet")
    path = folder / MANIFEST_NAME
    manifest = json.loads(path.read_bytes())
    part = member_part(FINISHER).model_dump(mode="json", exclude_defaults=True)
    manifest["members"][FINISHER] = part
    manifest["device_members"] = [*_DEVICE_MEMBERS]
    for weights in (folder / FINISHER).rglob("*.safetensors"):
        manifest["digests"][weights.relative_to(folder).as_posix()] = file_digest(weights)
    with saving(path) as file:
        file.write(json.dumps(manifest, indent=2).encode() + b"\n")
