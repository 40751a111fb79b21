"""Which changes of a family leave its latent space as it is, and which make another one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from baton.common.errors import InvalidRequest, WeightsError
from baton.common.families.loaded import LoadedFamily, load_family
from baton.common.families.manifest import MANIFEST_NAME
from baton.common.latents.space import TOLERANCE, UNKNOWN, LatentSpace, relative_rms
from tests.support.families import copy_family, edit_json
from tests.support.latent_spaces import (
    another_decoder,
    another_spacing,
    another_vae,
    stored_in_fp16,
)


@pytest.fixture
def copy(family_folder: Path, tmp_path: Path) -> Path:
    return copy_family(family_folder, tmp_path / "family", digests=False)


@pytest.mark.parametrize("change", [stored_in_fp16, another_decoder, another_spacing])
def test_a_fine_change_leaves_the_space(
    family: LoadedFamily, copy: Path, change: Callable[[Path], None]
) -> None:
    change(copy)
    changed = load_family(str(copy), [])
    assert changed.fingerprint != family.fingerprint
    assert changed.spec.latent_space.matches(family.spec.latent_space)
    assert changed.spec.latent_space.id == family.spec.latent_space.id


def test_another_autoencoder_makes_another_space(family: LoadedFamily, copy: Path) -> None:
    another_vae(copy)
    own, other = family.spec.latent_space, load_family(str(copy), []).spec.latent_space
    assert relative_rms(own.vector, other.vector) > 10 * TOLERANCE
    assert not own.matches(other)
    assert own.id != other.id


@pytest.mark.parametrize("option", ["scaling_factor", "shift_factor"])
def test_how_a_latent_is_scaled_is_part_of_the_space(
    family: LoadedFamily, copy: Path, option: str
) -> None:
    edit_json(copy / "shared/vae/config.json", lambda config: config.update({option: 0.8}))
    assert not load_family(str(copy), []).spec.latent_space.matches(family.spec.latent_space)


def carrying(folder: Path, space: LatentSpace) -> str:
    told = {"id": space.id, "vector": list(space.vector)}
    edit_json(folder / MANIFEST_NAME, lambda manifest: manifest.update(latent_space=told))
    return str(folder)


def test_the_manifests_space_counts_and_is_verified(family: LoadedFamily, copy: Path) -> None:
    vector = family.spec.latent_space.vector
    near = LatentSpace("by hand", tuple(value * (1 + TOLERANCE / 2) for value in vector))
    assert load_family(carrying(copy, near), []).spec.latent_space == near
    far = LatentSpace("by hand", tuple(value * (1 + 2 * TOLERANCE) for value in vector))
    with pytest.raises(WeightsError, match="by hand"):
        load_family(carrying(copy, far), [])


def test_an_encoder_that_yields_no_numbers_is_told_at_loading(copy: Path) -> None:
    path = copy / "shared/vae/diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["quant_conv.bias"].fill_(float("nan"))
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="encoder"):
        load_family(str(copy), [])


def test_the_shipped_family_is_in_the_space_that_it_carries() -> None:
    assert load_family("scenes", []).spec.latent_space.id == "55389e90"


def test_measuring_leaves_the_random_state_alone(family: LoadedFamily, copy: Path) -> None:
    before = torch.get_rng_state()
    load_family(str(copy), [])
    assert torch.equal(torch.get_rng_state(), before)


def test_an_unknown_space_matches_nothing() -> None:
    assert not UNKNOWN
    assert not UNKNOWN.matches(UNKNOWN)
    assert not LatentSpace("x", (1.0, 2.0)).matches(LatentSpace("x", (1.0,)))
    assert not LatentSpace("x", (0.0,)).matches(LatentSpace("x", (0.0,)))


@pytest.mark.parametrize(
    ("name", "vector"),
    [
        ("x", ()),
        ("", (1.0,)),
        ("x\n", (1.0,)),
        ("x" * 65, (1.0,)),
        ("x", (float("nan"),)),
        ("x", (float("inf"), 1.0)),
        ("x", (1.0,) * 1025),
    ],
)
def test_what_no_encoder_makes_is_refused(name: str, vector: tuple[float, ...]) -> None:
    with pytest.raises(InvalidRequest):
        LatentSpace(name, vector)
