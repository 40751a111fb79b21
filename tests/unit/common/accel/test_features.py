"""Feature changes along a plain trajectory, and the key steps proposed from them."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn

from baton.common.accel.features import (
    Changes,
    Features,
    check_key_count,
    measure,
    propose_keys,
    read_by_decoder,
)
from baton.common.accel.propagation import LONGEST_GROUP, Propagation, propagated
from baton.common.diffusion.blocks import Block, BlockGraph, ModelInputs
from baton.common.diffusion.conditioning import Conditioning
from baton.common.diffusion.executor import denoise_step
from baton.common.diffusion.graphs import graph_of
from baton.common.diffusion.run import Run, start_run
from baton.common.errors import ExecutionFailed, InvalidRequest
from baton.common.families.loaded import LoadedFamily
from baton.common.families.local import begin
from baton.common.limits import BOTH, SamplerName
from baton.common.plan import Plan, StepDirective
from tests.support.tasks import PROMPTS, plan, task

STEPS = 6


def graph_in(family: LoadedFamily, member: str) -> BlockGraph:
    graph = family.denoiser(member).graph
    assert graph is not None
    return graph


def runs_of(family: LoadedFamily, of: Plan, count: int = 3) -> list[Run]:
    return [begin(family, task(of, PROMPTS[i], seed=i)) for i in range(count)]


def to_the_end(family: LoadedFamily, runs: Sequence[Run]) -> None:
    while runs[0].step < runs[0].plan.steps:
        denoise_step(runs, family.denoiser(runs[0].plan.segments[0].member))


def modules(unet: nn.Module) -> dict[str, nn.Module]:
    """The model's own modules whose outputs are blocks, under the blocks' names."""
    found = {name: getattr(unet, name) for name in ("time_embedding", "conv_in", "conv_out")}
    found["text_embedding"] = unet.add_embedding
    for side, blocks in (("down", unet.down_blocks), ("up", unet.up_blocks)):
        for level, block in enumerate(blocks):
            found |= {f"{side}.{level}.resnet.{i}": r for i, r in enumerate(block.resnets)}
    if unet.mid_block is not None:
        found |= {f"mid.resnet.{i}": r for i, r in enumerate(unet.mid_block.resnets)}
    return found


def stored_outputs(family: LoadedFamily, runs: Sequence[Run]) -> dict[str, list[Tensor]]:
    """Everything that the model's modules put out while diffusers' own forward runs, by step."""
    member = runs[0].plan.segments[0].member
    stored: dict[str, list[Tensor]] = {}
    hooks = [
        module.register_forward_hook(
            lambda _, __, out, name=name: stored.setdefault(name, []).append(out.double())
        )
        for name, module in modules(family.models.unets[member]).items()
    ]
    to_the_end(family, runs)
    for hook in hooks:
        hook.remove()
    return stored


def naive_changes(outputs: Sequence[Tensor]) -> tuple[list[float], list[float]]:
    squared, relative = [0.0], [0.0]
    for before, now in pairwise(outputs):
        rows = list(zip(now, before, strict=True))
        squared.append(float(np.mean([((a - b) ** 2).mean() for a, b in rows])))
        relative.append(float(np.mean([(a - b).norm() / b.norm() for a, b in rows])))
    return squared, relative


@pytest.mark.parametrize(
    ("member", "sampler", "guidance"),
    [("large", "ddim", 3.0), ("small", "euler", 1.0), ("small", "dpmpp_2m", 5.0)],
)
def test_changes_are_those_of_all_outputs_stored(
    family: LoadedFamily, member: str, sampler: SamplerName, guidance: float
) -> None:
    of = plan(f"device/{member}", STEPS, sampler, guidance)
    graph = graph_in(family, member)
    features = measure(graph, [runs_of(family, of)])
    stored = stored_outputs(family, runs_of(family, of))
    assert features.rows == (6 if guidance > 1.0 else 3)
    assert len(stored) > 6
    for name, outputs in stored.items():
        squared, relative = naive_changes(outputs)
        block = graph.names.index(name)
        np.testing.assert_allclose(features.squared[:, block], squared, 1e-4, 1e-9, err_msg=name)
        np.testing.assert_allclose(features.relative[:, block], relative, 1e-4, 1e-6, err_msg=name)


def test_the_trajectory_is_the_plain_one(family: LoadedFamily) -> None:
    of = plan("device/large", STEPS, "dpmpp_2m")
    watched, plain = runs_of(family, of), runs_of(family, of)
    measure(graph_in(family, "large"), [watched])
    to_the_end(family, plain)
    assert all(torch.equal(a.x, b.x) for a, b in zip(watched, plain, strict=True))


def test_constant_blocks_do_not_change_and_all_others_do(family: LoadedFamily) -> None:
    graph = graph_in(family, "large")
    features = measure(graph, [runs_of(family, plan("device/large", STEPS))])
    constant = np.array([block.constant for block in graph.blocks])
    assert constant.any()
    for changes in (features.squared, features.relative):
        assert (changes[:, constant] == 0).all()
        assert (changes[1:, ~constant] > 0).all()
        assert (changes[0] == 0).all()


def test_embeddings_are_no_maps(family: LoadedFamily) -> None:
    graph = graph_in(family, "large")
    features = measure(graph, [runs_of(family, plan("device/large", 2), 1)])
    embeddings = graph.bits(["time_embedding", "text_embedding", "embedding"])
    assert features.maps == graph.all & ~embeddings


def test_how_pictures_are_batched_changes_nothing(family: LoadedFamily) -> None:
    graph, of = graph_in(family, "small"), plan("device/small", STEPS)
    together = measure(graph, [runs_of(family, of)])
    runs = runs_of(family, of)
    apart = measure(graph, iter([runs[:1], runs[1:]]))
    assert apart.rows == together.rows
    np.testing.assert_allclose(apart.squared, together.squared, 1e-4, 1e-9)
    np.testing.assert_allclose(apart.relative, together.relative, 1e-4, 1e-6)


def test_measuring_twice_gives_the_same(family: LoadedFamily) -> None:
    graph, of = graph_in(family, "small"), plan("device/small", STEPS)
    one, two = (measure(graph, [runs_of(family, of)]) for _ in range(2))
    np.testing.assert_array_equal(one.squared, two.squared)
    np.testing.assert_array_equal(one.relative, two.relative)
    assert propose_keys(one, 3) == propose_keys(two, 3)


def test_steps_are_told_batch_by_batch(family: LoadedFamily) -> None:
    told: list[int] = []
    runs = runs_of(family, plan("device/small", STEPS))
    measure(
        graph_in(family, "small"),
        [runs[:2], runs[2:]],
        lambda: told.append(sum(run.step for run in runs)),
    )
    assert told == [*range(2, 2 * STEPS + 1, 2), *range(2 * STEPS + 1, 3 * STEPS + 1)]


class Toy:
    """One block that puts out a value per step, and one that predicts no noise."""

    def __init__(self, values: Sequence[float]) -> None:
        self.values = list(values)
        self.calls = 0
        self.outputs: list[weakref.ref[Tensor]] = []

    def graph(self) -> BlockGraph:
        blocks = (
            Block("value", "encoder", (), self._value),
            Block("out", "decoder", (0,), lambda ins, inputs: self._kept(0 * inputs.sample)),
        )
        return BlockGraph(blocks)

    def _value(self, ins: Sequence[Tensor], inputs: ModelInputs) -> Tensor:
        self.calls += 1
        return self._kept(torch.full((len(inputs.sample), 4), self.values[self.calls - 1]))

    def _kept(self, output: Tensor) -> Tensor:
        self.outputs.append(weakref.ref(output))
        return output

    @property
    def alive(self) -> int:
        return sum(output() is not None for output in self.outputs)

    def run(self, family: LoadedFamily) -> Run:
        of = plan("device:toy", len(self.values))
        nothing = Conditioning({branch: {"context": torch.zeros(1, 1)} for branch in BOTH})
        return start_run(of.closed(), family.course(of), nothing, 0, (1, 2, 2))


def test_the_measures_are_the_papers_formulas(family: LoadedFamily) -> None:
    toy = Toy([2.0, 3.0, 0.0, 5.0, 5.0])
    features = measure(toy.graph(), [[toy.run(family)]])
    assert features.squared[:, 0].tolist() == [0.0, 1.0, 9.0, 25.0, 0.0]
    assert features.relative[:, 0].tolist() == [0.0, 0.5, 1.0, 1.0, 0.0]  # new after nothing: 1


def test_only_the_last_output_of_each_block_is_kept(family: LoadedFamily) -> None:
    toy = Toy([1.0] * 20)
    alive: list[int] = []
    measure(toy.graph(), [[toy.run(family)]], lambda: alive.append(toy.alive))
    assert len(alive) == 20
    assert max(alive) <= 2
    assert toy.alive == 0


def test_a_latent_that_stops_being_finite_ends_the_measurement(family: LoadedFamily) -> None:
    toy = Toy([1.0, 1.0])
    blocks = toy.graph().blocks
    broken = replace(blocks[1], run=lambda ins, inputs: inputs.sample / 0)
    with pytest.raises(ExecutionFailed, match="finite"):
        measure(BlockGraph((blocks[0], broken)), [[toy.run(family)]])


def test_only_plain_fresh_runs_are_measured(family: LoadedFamily) -> None:
    graph, of = graph_in(family, "small"), plan("device/small", STEPS)
    mixed = plan("device/small", STEPS, guided=[True] * 3 + [False] * 3)
    accelerated = propagated(graph, STEPS, (0, 3))
    masked = replace(of, segments=(replace(of.segments[0], directives=accelerated),))
    noised = (StepDirective(prior_noise=0.1),) * STEPS
    injected = replace(of, segments=(replace(of.segments[0], directives=noised),))
    (begun,) = runs_of(family, of, 1)
    denoise_step([begun], family.denoiser("small"))
    other = runs_of(family, plan("device/small", STEPS + 1), 1)
    batches = [runs_of(family, bad, 1) for bad in (mixed, masked, injected)]
    for batch in [*batches, [begun], [*runs_of(family, of, 1), *other]]:
        with pytest.raises(InvalidRequest, match="plain"):
            measure(graph, [batch])
    with pytest.raises(InvalidRequest, match="one number of steps"):
        measure(graph, [runs_of(family, of, 1), other])
    with pytest.raises(InvalidRequest, match="one number of steps"):
        measure(graph, [])


def test_a_unets_decoder_reads_its_skips_and_its_middle(family: LoadedFamily) -> None:
    def read(graph: BlockGraph) -> list[str]:
        bits = read_by_decoder(graph)
        return [name for index, name in enumerate(graph.names) if bits >> index & 1]

    skips = ["conv_in", "down.0.attention.0", "down.0.downsample", "down.1.attention.0"]
    assert read(graph_in(family, "large")) == [*skips, "mid.resnet.1"]
    skips[1] = "down.0.resnet.0"
    assert read(graph_in(family, "small")) == skips
    dit = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        num_layers=4,
        sample_size=4,
        patch_size=2,
        norm_num_groups=2,
    )
    assert read(graph_of(dit)) == ["blocks.2.mlp"]


_PAIR = (
    Block("read", "encoder", (), lambda ins, inputs: inputs.sample),
    Block("inner", "encoder", (), lambda ins, inputs: inputs.sample),
    Block("out", "decoder", (0,), lambda ins, inputs: ins[0]),
)


def drifting(drift: Sequence[float] | Changes, elsewhere: float = 1.0) -> Features:
    """Features of which the decoder reads those that change so; other blocks do what they want."""
    relative = np.full((len(drift), 3), elsewhere)
    relative[:, 0] = drift
    return Features(BlockGraph(_PAIR), 0b111, 1, relative, relative)


def test_steady_features_are_cut_into_even_groups() -> None:
    assert propose_keys(drifting([0.0] + [0.125] * 49), 10) == tuple(range(0, 50, 5))
    assert propose_keys(drifting([0.0] * 50), 10) == tuple(range(0, 50, 5))


def test_keys_are_dense_where_features_change_fast() -> None:
    drift = [0.0] + [0.4] * 5 + [0.02] * 44
    keys = propose_keys(drifting(drift), 8)
    assert keys[:6] == (0, 1, 2, 3, 4, 5)
    late = propose_keys(drifting([0.0, *drift[:0:-1]]), 8)
    assert sum(key >= 44 for key in late) >= 5


def test_a_jump_takes_one_key_and_leaves_the_others_to_the_rest() -> None:
    drift = np.full(21, 0.125)
    drift[0], drift[5] = 0.0, 128.0
    assert propose_keys(drifting(drift), 4) == (0, 5, 10, 15)


def test_only_what_the_decoder_reads_decides() -> None:
    drift = np.linspace(1.0, 0.1, 30)
    steady = drifting(drift)
    wild = drifting(drift, elsewhere=50.0)
    wild.relative[10, 1:] = 1e6
    assert propose_keys(wild, 7) == propose_keys(steady, 7)


@pytest.mark.parametrize("seed", range(40))
def test_keys_begin_with_0_rise_and_are_bounded_and_as_many_as_asked(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps = int(rng.integers(2, 120))
    features = drifting(rng.random(steps) ** rng.integers(0, 30))
    for count in range(-(-steps // LONGEST_GROUP), steps + 1):
        keys = propose_keys(features, count)
        gaps = np.diff([*keys, steps])
        assert keys[0] == 0
        assert len(keys) == count
        assert gaps.min() >= 1
        assert gaps.max() <= LONGEST_GROUP
        assert Propagation(keys, steps).keys_for(steps) == keys


@pytest.mark.parametrize(("count", "steps"), [(0, 10), (11, 10), (3, 50), (-1, 2), (1, 16)])
def test_an_impossible_number_of_keys_is_refused(count: int, steps: int) -> None:
    with pytest.raises(InvalidRequest, match=f"{steps} steps"):
        check_key_count(count, steps)
    with pytest.raises(InvalidRequest, match="key steps"):
        propose_keys(drifting(np.ones(steps)), count)
