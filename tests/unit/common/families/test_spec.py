"""What a family is without its models: read from the manifest and its parts' configurations."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from baton.common.diffusion.schedules import make_schedule
from baton.common.errors import InvalidRequest, UnknownName, WeightsError
from baton.common.families.architectures.sd1 import models_of
from baton.common.families.grids import LevelGrid
from baton.common.families.loaded import LoadedFamily
from baton.common.families.manifest import MANIFEST_NAME, read_manifest
from baton.common.families.prompts import sample_prompts
from baton.common.families.scenes.scoring import scenes_prompts
from baton.common.families.spec import FamilySpec, LatentShape, read_spec
from baton.common.latents import NoiseLevel
from tests.support.families import MEMBERS, SIZE, copy_family, edit_json

SCHEDULER = "shared/scheduler/scheduler_config.json"
LEVELS = tuple(NoiseLevel(1.0, sigma) for sigma in (14.0, 3.0, 0.0))


@pytest.fixture
def copy(family_folder: Path, tmp_path: Path) -> Path:
    return copy_family(family_folder, tmp_path / "family", digests=False)


def edited(folder: Path, **fields: object) -> FamilySpec:
    edit_json(folder / MANIFEST_NAME, lambda manifest: manifest.update(fields))
    return read_spec(folder)


def test_a_spec_is_what_the_loaded_family_is(family: LoadedFamily, family_folder: Path) -> None:
    spec = read_spec(family_folder)
    assert tuple(spec.members) == family.members == MEMBERS
    assert spec.fingerprint == family.fingerprint
    for member, unet in models_of(family).unets.items():
        assert spec.architecture == type(unet).__name__
        assert spec.member_fingerprint(member) == family.member_fingerprints[member]
    assert spec.latent == LatentShape(models_of(family).vae.config.latent_channels, 4)
    assert spec.latent_shape(SIZE) == family.latent_shape(SIZE)
    assert spec.prediction == make_schedule("ddim", 4, spec.scheduler_config).prediction


def test_a_spec_cannot_be_changed(family: LoadedFamily) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        family.spec.name = "other"  # type: ignore[misc]


def test_a_member_says_how_it_is_guided_and_at_which_noise(copy: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["licence"] = "Apache-2.0"
        manifest["members"]["small"] |= {"guidance": "none", "levels": [0.0, 0.8]}
        manifest["members"]["large"] |= {"licence": "MIT"}

    edit_json(copy / MANIFEST_NAME, change)
    spec = read_spec(copy)
    small, large = spec.members["small"], spec.members["large"]
    assert (small.guidance, small.levels) == ("none", (0.0, 0.8))
    assert (large.guidance, large.levels) == ("two_branches", None)
    assert (spec.licence, large.licence, small.licence) == ("Apache-2.0", "MIT", "")


@pytest.mark.parametrize(
    ("own", "sampler", "note"),
    [
        ("DDIMScheduler", "ddim", ""),
        ("EulerDiscreteScheduler", "euler", ""),
        ("DPMSolverMultistepScheduler", "dpmpp_2m", ""),
        ("PNDMScheduler", "ddim", "PNDMScheduler"),
    ],
)
def test_the_default_sampler_is_the_familys_own_or_ddim_with_a_note(
    copy: Path, own: str, sampler: str, note: str
) -> None:
    edit_json(copy / SCHEDULER, lambda config: config.update(_class_name=own))
    spec = read_spec(copy)
    assert spec.default_sampler == sampler
    assert (note in spec.sampler_note, bool(spec.sampler_note)) == (True, bool(note))


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("large/unet/config.json", {"_class_name": "SD3Transformer2DModel"}, "SD3Transformer2D"),
        ("shared/vae/config.json", {"_class_name": "AutoencoderTiny"}, "AutoencoderTiny"),
        ("shared/vae/config.json", {"latent_channels": 0}, "latent_channels"),
        ("shared/vae/config.json", {"block_out_channels": []}, "block_out_channels"),
        (SCHEDULER, {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEuler"),
        (SCHEDULER, {"prediction_type": "flow_prediction"}, "flow_prediction"),
        (SCHEDULER, {"beta_schedule": "sigmoid"}, "beta_schedule"),
        (SCHEDULER, {"thresholding": True}, "thresholding"),
        (MANIFEST_NAME, {"scorer": "magic"}, "magic"),
        (MANIFEST_NAME, {"prompts": "magic"}, "magic"),
        (MANIFEST_NAME, {"latent_space": {"id": "x"}}, "latent_space"),
        (MANIFEST_NAME, {"latent_space": {"id": "x", "vector": [1.0], "y": 1}}, "latent_space"),
    ],
)
def test_what_baton_does_not_know_is_refused_by_name(
    copy: Path, part: str, change: dict[str, object], said: str
) -> None:
    edit_json(copy / part, lambda values: values.update(change))
    with pytest.raises(WeightsError) as caught:
        read_spec(copy)
    assert said in str(caught.value)
    assert str((copy / part).parent) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "levels", [[0.8, 0.8], [0.8, 0.0], [-1.0, 0.8], [0.0], ["low", "high"]], ids=str
)
def test_a_range_of_levels_rises(copy: Path, levels: list[object]) -> None:
    edit_json(copy / MANIFEST_NAME, lambda m: m["members"]["small"].update(levels=levels))
    with pytest.raises(WeightsError, match="small"):
        read_manifest(copy)


def test_an_unknown_member_is_said_with_the_known_ones(family: LoadedFamily) -> None:
    with pytest.raises(UnknownName, match="large, small"):
        family.spec.member_fingerprint("giant")


def test_a_fingerprint_needs_the_files_unless_the_manifest_has_their_digests(
    family: LoadedFamily, family_folder: Path, copy: Path, tmp_path: Path
) -> None:
    weights = "shared/vae/diffusion_pytorch_model.safetensors"
    (copy / weights).unlink()
    with pytest.raises(WeightsError, match=weights):
        _ = read_spec(copy).fingerprint
    known = copy_family(family_folder, tmp_path / "known")
    (known / weights).unlink()
    assert read_spec(known).fingerprint == family.fingerprint


def test_a_manifest_names_what_makes_its_prompts(copy: Path) -> None:
    general = sample_prompts(read_spec(copy), 3, seed=1)
    sizes = {"default": 32, "minimum": 16, "maximum": 64, "multiple": 16}
    own = sample_prompts(edited(copy, prompts="scenes", sizes=sizes), 3, seed=1)
    assert own == scenes_prompts(32, 3, 1) != general


def test_a_grid_has_a_digest_of_what_it_is(copy: Path) -> None:
    grid = LevelGrid("few", "euler", (999.0, 500.0), LEVELS)
    told = {
        "name": "few",
        "sampler": "euler",
        "timesteps": [999, 500],
        "levels": [{"a": level.a, "b": level.b} for level in LEVELS],
    }
    (read,) = edited(copy, grids=[told]).grids
    assert (read, read.digest, read.steps) == (grid, grid.digest, 2)
    assert replace(grid, name="other").digest == grid.digest
    assert replace(grid, timesteps=(999.0, 400.0)).digest != grid.digest


@pytest.mark.parametrize(
    ("timesteps", "levels"),
    [((), LEVELS[:1]), ((999.0,), LEVELS), ((999.0, 1.0), (LEVELS[1], LEVELS[0], LEVELS[2]))],
)
def test_a_grid_that_does_not_fall_step_by_step_is_refused(
    timesteps: tuple[float, ...], levels: tuple[NoiseLevel, ...]
) -> None:
    with pytest.raises(InvalidRequest):
        LevelGrid("wrong", "euler", timesteps, levels)


def test_the_shipped_manifest_carries_its_names() -> None:
    shipped = json.loads((read_spec("scenes").folder / MANIFEST_NAME).read_text())
    assert (shipped["scorer"], shipped["prompts"]) == ("scenes", "scenes")
    assert shipped["latent_space"]["id"]
