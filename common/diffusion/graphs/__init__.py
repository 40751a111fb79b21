"""Which graph a model has: one file per kind of architecture."""

from __future__ import annotations

from diffusers import DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel
from torch import nn

from baton.common.diffusion.blocks import BlockGraph
from baton.common.diffusion.graphs.dit import dit_graph
from baton.common.diffusion.graphs.unet import conditional_unet_graph, unet_graph
from baton.common.errors import Incompatible


def graph_of(model: nn.Module) -> BlockGraph:
    """Raises Incompatible for an architecture, or a part of one, whose blocks are not known."""
    if isinstance(model, UNet2DConditionModel):
        return conditional_unet_graph(model)
    if isinstance(model, UNet2DModel):
        return unet_graph(model)
    if isinstance(model, DiTTransformer2DModel):
        return dit_graph(model)
    raise Incompatible(f"the blocks of a {type(model).__name__} are not known")
