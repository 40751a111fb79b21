"""Weights that could run code are not even opened."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from baton.common.errors import WeightsError
from baton.common.families.loaded import load_family
from tests.support.families import copy_family

WEIGHTS = {
    "large/unet/diffusion_pytorch_model.safetensors": "diffusion_pytorch_model.bin",
    "shared/vae/diffusion_pytorch_model.safetensors": "diffusion_pytorch_model.bin",
    "shared/text_encoder/model.safetensors": "pytorch_model.bin",
}


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.sprung),)


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_pickle_in_the_place_of_weights_is_refused_unread(
    family_folder: Path, tmp_path: Path, name: str
) -> None:
    folder = copy_family(family_folder, tmp_path / "family", digests=False)
    (folder / name).unlink()
    torch.save({"weight": Trap(tmp_path / "sprung")}, (folder / name).parent / WEIGHTS[name])
    with pytest.raises(WeightsError):
        load_family(str(folder))
    assert not (tmp_path / "sprung").exists()
