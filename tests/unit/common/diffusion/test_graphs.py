"""A model run block by block is the model: diffusers' own, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from baton.common.diffusion.blocks import BlockGraph, ModelInputs
from baton.common.diffusion.graphs import graph_of
from baton.common.errors import Incompatible
from tests.support.graphs import conditional_unet, ddpm_unet, dit, in_full, model_inputs

ROWS = [1, 3]


def plain(model: nn.Module, inputs: ModelInputs) -> Tensor:
    out: Tensor = model(inputs.sample, inputs.timesteps, inputs.context, return_dict=False)[0]
    return out


@torch.inference_mode()
def assert_same(
    model: nn.Module, inputs: ModelInputs, expected: Tensor | None = None
) -> BlockGraph:
    graph = graph_of(model)
    if expected is None:
        expected = plain(model, inputs)
    assert expected.isfinite().all()
    assert expected.std() > 0
    assert torch.equal(in_full(graph, inputs), expected)
    return graph


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("mid", [True, False])
@pytest.mark.parametrize("levels", [3, 4])
def test_a_stable_diffusion_unet_in_blocks_is_the_model(levels: int, mid: bool, rows: int) -> None:
    assert_same(conditional_unet(levels, mid), model_inputs(rows))


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("size", [(31, 31), (30, 18), (5, 9)])
@pytest.mark.parametrize(("levels", "mid"), [(3, True), (3, False), (4, True), (4, False)])
def test_sizes_that_are_no_multiple_are_the_models_too(
    levels: int, mid: bool, size: tuple[int, int], rows: int
) -> None:
    assert_same(conditional_unet(levels, mid), model_inputs(rows, size))


VARIANTS: dict[str, dict[str, Any]] = {
    "the text in the embedding": {
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 4,
    },
    "an activation after the embedding": {"time_embedding_act_fn": "silu"},
    "both": {
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 4,
        "time_embedding_act_fn": "gelu",
    },
    "linear projections": {"use_linear_projection": True},
    "several transformer layers": {"transformer_layers_per_block": 2},
    "a centred sample": {"center_input_sample": True},
    "an embedding that also scales": {"resnet_time_scale_shift": "scale_shift"},
    "a middle without attention": {"mid_block_type": "UNetMidBlock2D"},
    "a frequency shift": {"freq_shift": 1, "flip_sin_to_cos": False},
}


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_options_of_a_conditional_unet_are_honoured(variant: str, rows: int) -> None:
    assert_same(conditional_unet(3, **VARIANTS[variant]), model_inputs(rows, (6, 10)))


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"attention_head_dim": None},
        {"add_attention": False},
        {"downsample_type": "resnet", "upsample_type": "resnet"},
        {"downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1},
        {"center_input_sample": True},
        {"resnet_time_scale_shift": "scale_shift"},
        {"layers_per_block": 1},
    ],
    ids=str,
)
def test_a_ddpm_unet_in_blocks_is_the_model(options: dict[str, Any], rows: int) -> None:
    model, inputs = ddpm_unet(**options), model_inputs(rows, (16, 8))
    with torch.inference_mode():
        expected = model(inputs.sample, inputs.timesteps, return_dict=False)[0]
    assert_same(model, inputs, expected)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("layers", [1, 4])
def test_a_dit_in_blocks_is_the_model(layers: int, rows: int) -> None:
    assert_same(dit(layers), model_inputs(rows, labels=True))


def test_the_class_of_a_dit_matters() -> None:
    graph, inputs = graph_of(dit()), model_inputs(2, labels=True)
    other = ModelInputs(inputs.sample, inputs.timesteps, {"context": inputs.context + 1})
    assert not torch.equal(in_full(graph, inputs), in_full(graph, other))


def test_the_first_18_of_28_dit_blocks_are_the_encoder() -> None:
    graph = assert_same(dit(28), model_inputs(1, labels=True))
    layers = [f"blocks.{i}.{part}" for i in range(18) for part in ("attention", "mlp")]
    assert graph.encoder == graph.bits(["patches", *layers])
    assert len(graph) == 2 * 28 + 2


def test_a_unets_encoder_is_what_comes_before_its_up_blocks_without_the_time() -> None:
    graph = graph_of(conditional_unet(addition_embed_type="text", addition_embed_type_num_heads=4))
    beginnings = ("conv_in", "down.", "mid.", "text_embedding")
    assert graph.encoder == graph.bits(name for name in graph.names if name.startswith(beginnings))
    assert graph.constant == graph.bits(["text_embedding"])


def test_names_are_stable() -> None:
    """Masks on disk are told by them."""
    small = conditional_unet(3, mid=False, time_embedding_act_fn="silu")
    assert graph_of(small).names == (
        "time_embedding",
        "embedding_act",
        "conv_in",
        "down.0.resnet.0",
        "down.0.attention.0",
        "down.0.downsample",
        "down.1.resnet.0",
        "down.1.attention.0",
        "down.1.downsample",
        "down.2.resnet.0",
        "up.0.resnet.0",
        "up.0.resnet.1",
        "up.0.upsample",
        "up.1.resnet.0",
        "up.1.attention.0",
        "up.1.resnet.1",
        "up.1.attention.1",
        "up.1.upsample",
        "up.2.resnet.0",
        "up.2.attention.0",
        "up.2.resnet.1",
        "up.2.attention.1",
        "conv_out",
    )
    middle = [name for name in graph_of(conditional_unet(3)).names if name.startswith("mid.")]
    assert middle == ["mid.resnet.0", "mid.attention.0", "mid.resnet.1"]
    text = conditional_unet(3, addition_embed_type="text", addition_embed_type_num_heads=4)
    assert graph_of(text).names[:3] == ("time_embedding", "text_embedding", "embedding")
    assert graph_of(dit(1)).names == ("patches", "blocks.0.attention", "blocks.0.mlp", "out")


def test_every_block_can_run_after_those_before_it_and_is_read() -> None:
    for model in (conditional_unet(4), conditional_unet(4, mid=False), ddpm_unet(), dit(3)):
        graph = graph_of(model)
        assert len(set(graph.names)) == len(graph)
        for index, block in enumerate(graph.blocks):
            assert all(source < index for source in block.inputs)
        assert [i for i, bits in enumerate(graph.readers) if not bits] == [len(graph) - 1]


@pytest.mark.parametrize("made", [conditional_unet, ddpm_unet, dit], ids=lambda made: made.__name__)
def test_the_same_weights_have_one_graph(made: Any) -> None:
    model, inputs = made(), model_inputs(2, labels=made is dit)
    assert graph_of(model).names == graph_of(model).names
    assert torch.equal(in_full(graph_of(model), inputs), in_full(graph_of(model), inputs))


UNSUPPORTED: dict[str, Any] = {
    "classes beside the text": lambda: conditional_unet(class_embed_type="timestep"),
    "an encoder of other hidden states": lambda: conditional_unet(
        encoder_hid_dim=8, encoder_hid_dim_type="text_proj"
    ),
    "sizes of the picture in the embedding": lambda: conditional_unet(
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=64,
    ),
    "classes": lambda: ddpm_unet(class_embed_type="timestep"),
    "a Fourier embedding": lambda: ddpm_unet(time_embedding_type="fourier"),
    "downsampling by blocks of resnets": lambda: ddpm_unet(
        down_block_types=("ResnetDownsampleBlock2D", "DownBlock2D", "DownBlock2D")
    ),
    "skips of the picture": lambda: ddpm_unet(
        down_block_types=("SkipDownBlock2D",) * 3,
        up_block_types=("SkipUpBlock2D",) * 3,
        block_out_channels=(32, 32, 32),
    ),
    "another kind of model": lambda: AutoencoderKL(norm_num_groups=32),
    "a layer": lambda: nn.Linear(2, 2),
    "attention of another kind": lambda: conditional_unet(
        down_block_types=("SimpleCrossAttnDownBlock2D", "DownBlock2D", "DownBlock2D")
    ),
}


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_what_cannot_run_block_by_block_is_refused_in_one_line(kind: str) -> None:
    with pytest.raises(Incompatible) as caught:
        graph_of(UNSUPPORTED[kind]())
    text = str(caught.value)
    assert text.isprintable()
    assert 10 < len(text) < 200
    assert caught.value.exit_code == 4


def test_a_block_that_is_not_there_has_no_bit() -> None:
    with pytest.raises(Incompatible, match=r"'up\.7'"):
        graph_of(conditional_unet()).bits(["conv_in", "up.7"])
