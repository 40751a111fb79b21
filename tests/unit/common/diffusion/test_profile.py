"""What blocks cost: the same on the meta device as on real rows, for pictures of any size."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from baton.common.diffusion.blocks import Block, BlockGraph, ModelInputs
from baton.common.diffusion.conditioning import stacked
from baton.common.diffusion.profile import Profile, profile
from baton.common.families.loaded import LoadedFamily
from baton.common.size import Size

LARGE = Size(4096, 4096)
SIZES = [Size(16, 16), Size(64, 16), Size(32, 48)]


def counted(family: LoadedFamily, member: str, size: Size) -> Profile:
    """On real rows, by the member's own weights."""
    row = family.encode_text("a red cat", member=member).row("positive")
    sample = torch.zeros(1, *family.latent_shape(size))
    inputs = ModelInputs(sample, torch.zeros(1), stacked([row]))
    return profile(family.blocks(member), inputs)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("member", ["large", "small"])
def test_a_profile_is_what_is_counted_on_real_rows(
    family: LoadedFamily, member: str, size: Size
) -> None:
    found = family.profile(member, size)
    assert found == counted(family, member, size)
    assert found.activation_bytes >= max(found.nbytes)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_products_of_attention_are_counted(device: str) -> None:
    heads, places, width = 2, 12, 8

    def run(ins: Sequence[Tensor], inputs: ModelInputs) -> Tensor:
        return scaled_dot_product_attention(inputs.sample, inputs.sample, inputs.sample)

    with torch.device(device):
        inputs = ModelInputs(torch.zeros(1, heads, places, width), torch.zeros(1), {})
        found = profile(BlockGraph((Block("attention", "encoder", (), run),)), inputs)
    assert found.macs == (2 * heads * places * places * width,)


def test_counting_changes_no_kernel_that_another_thread_takes() -> None:
    seen = []

    def run(ins: Sequence[Tensor], inputs: ModelInputs) -> Tensor:
        with ThreadPoolExecutor(1) as another:
            seen.append(another.submit(torch.backends.cuda.flash_sdp_enabled).result())
        return inputs.sample

    inputs = ModelInputs(torch.zeros(1, 2), torch.zeros(1), {})
    profile(BlockGraph((Block("out", "encoder", (), run),)), inputs)
    assert seen == [torch.backends.cuda.flash_sdp_enabled()] == [True]


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that is made, and not on the meta device."""

    nbytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.device.type != "meta":
                self.nbytes = max(self.nbytes, tensor.untyped_storage().nbytes())
        return out


def allowing(family: LoadedFamily, size: Size) -> LoadedFamily:
    """The same family, whose pictures may be as large."""
    sizes = family.spec.sizes.model_copy(update={"maximum": max(size.width, size.height)})
    return LoadedFamily(family.spec.model_copy(update={"sizes": sizes}), family.models)


@pytest.mark.parametrize("member", ["large", "small"])
def test_what_a_huge_picture_would_cost_takes_no_memory(family: LoadedFamily, member: str) -> None:
    of = allowing(family, LARGE)
    with Largest() as largest:
        found = of.profile(member, LARGE)
    assert max(found.nbytes) > 32 << 20
    assert 0 < largest.nbytes < 1 << 20
