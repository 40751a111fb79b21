"""A family that is not of the family: as good alone, but its latents mean something else.

A foreign latent is the family's with its channels permuted and its scale changed,
``x0' = s * P x0``, as another autoencoder with its own scaling would make it. Its members are the
family's behind that change of coordinates, so alone they draw as well; a latent that one side hands
to the other without conversion is nonsense there: the negative control of a relay.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from torch import Tensor

from baton.common.diffusion.blocks import ModelInputs
from baton.common.diffusion.denoiser import Denoiser
from baton.common.families.loaded import LoadedFamily, load_family
from baton.common.families.manifest import MANIFEST_NAME, read_manifest
from tests.support.families import copy_family, edit_json

#: ``s``: below 1, so that the first step still looks like the noise that the members know.
SCALE = 0.5
#: ``P``: foreign channel ``c`` is the family's channel ``PERMUTATION[c]``; none stays in place.
PERMUTATION = (1, 2, 3, 0)


def write_foreign(folder: Path, to: Path) -> Path:
    """A copy of a family whose autoencoder has the foreign latent space; returns its folder."""
    copy_family(folder, to, digests=False)
    place = to / str(read_manifest(to).vae.path)
    vae = AutoencoderKL.from_pretrained(place, low_cpu_mem_usage=False)
    order = torch.tensor(PERMUTATION)
    with torch.no_grad():
        _permute(vae.post_quant_conv.weight, order, dim=1)
        both = torch.cat([order, order + len(order)])  # mean and log variance
        _permute(vae.quant_conv.weight, both, dim=0)
        _permute(vae.quant_conv.bias, both, dim=0)
    vae.register_to_config(scaling_factor=SCALE * vae.config.scaling_factor)
    vae.save_pretrained(place)
    edit_json(to / MANIFEST_NAME, lambda manifest: manifest.pop("latent_space", None))
    return to


def _permute(weights: Tensor, order: Tensor, dim: int) -> None:
    weights.copy_(weights.index_select(dim, order))


class ForeignFamily(LoadedFamily):
    """The family in a folder that `write_foreign` wrote: its denoisers see their own space."""

    def __init__(self, folder: Path) -> None:
        self.__dict__.update(load_family(str(folder)).__dict__)
        self._space = _Coordinates(self.spec.scheduler_config)

    def denoiser(self, member: str) -> Denoiser:
        return self._space.around(super().denoiser(member))


class _Coordinates:
    """Between foreign latents and the family's.

    At noise level (a, b) a foreign latent is ``a*s*P x0 + b*eps``. Unpermuted and divided by
    ``hypot(a*s, b)`` it is a latent of the family at ``b / (a*s)``, hence at another timestep.
    """

    def __init__(self, scheduler_config: dict[str, Any]) -> None:
        scheduler = DDIMScheduler.from_config(scheduler_config)
        if scheduler.config.prediction_type != "v_prediction":
            raise ValueError("the foreign space is worked out for v-prediction alone")
        self._alpha_bars = scheduler.alphas_cumprod.double().numpy()
        self._order = torch.tensor(PERMUTATION)
        self._inverse = torch.argsort(self._order)

    def around(self, inner: Denoiser) -> Denoiser:
        return _Foreign(self, inner)

    def seen(self, inner: Denoiser, inputs: ModelInputs) -> Tensor:
        """What the member predicts of foreign latents."""
        a, b = self._levels(inputs.timesteps)
        norm = torch.hypot(SCALE * a, b)
        own_a, own_b = SCALE * a / norm, b / norm
        own_x = inputs.sample[:, self._inverse] / norm
        out = inner(ModelInputs(own_x, self._timesteps(own_a, own_b), inputs.conditioning))
        x0, eps = own_a * own_x - own_b * out, own_a * out + own_b * own_x
        return (a * eps - b * SCALE * x0)[:, self._order]

    def _levels(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """(a, b), each [B, 1, 1, 1]."""
        known = np.arange(len(self._alpha_bars))
        alpha_bars = np.interp(timesteps.numpy(), known, self._alpha_bars)
        levels = np.sqrt(alpha_bars), np.sqrt(1 - alpha_bars)
        a, b = (torch.from_numpy(x).float()[:, None, None, None] for x in levels)
        return a, b

    def _timesteps(self, a: Tensor, b: Tensor) -> Tensor:
        """The family's (fractional) timesteps at noise levels [B, 1, 1, 1], [B]."""
        log_snr = np.log(self._alpha_bars / (1 - self._alpha_bars))
        asked = 2 * torch.log(a / b).flatten().double().numpy()
        known = np.arange(len(log_snr))
        return torch.from_numpy(np.interp(asked, log_snr[::-1], known[::-1])).float()


class _Foreign(Denoiser):
    def __init__(self, space: _Coordinates, inner: Denoiser) -> None:
        self._space, self._inner = space, inner

    def __call__(self, inputs: ModelInputs) -> Tensor:
        return self._space.seen(self._inner, inputs)
