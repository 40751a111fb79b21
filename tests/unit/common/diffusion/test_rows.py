"""One batch whose rows run different blocks: each row as if it were alone."""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from baton.common.diffusion.blocks import Block, BlockGraph, ModelInputs
from baton.common.diffusion.graphs import graph_of
from baton.common.diffusion.rows import Row, RowBatch, Slot
from baton.common.errors import ExecutionFailed
from tests.support.graphs import conditional_unet, dit, in_full, model_inputs

ROWS = 5
GRAPHS: dict[str, BlockGraph] = {
    "unet": graph_of(conditional_unet(3)),
    "unet without a middle": graph_of(conditional_unet(3, mid=False)),
    "dit": graph_of(dit(3)),
}


@pytest.fixture(params=GRAPHS)
def graph(request: pytest.FixtureRequest) -> BlockGraph:
    return GRAPHS[request.param]


@pytest.fixture
def inputs(graph: BlockGraph) -> ModelInputs:
    """Another latent and timestep than the one of `earlier`."""
    found = model_inputs(ROWS, labels=graph is GRAPHS["dit"])
    return ModelInputs(found.sample * 0.9, found.timesteps + 20, found.conditioning)


@pytest.fixture
def earlier(graph: BlockGraph, inputs: ModelInputs) -> list[dict[int, Slot]]:
    """By row, what each block gave at the step before."""
    before = ModelInputs(inputs.sample / 0.9, inputs.timesteps - 20, inputs.conditioning)
    batch = RowBatch(graph, before, [Row(graph.all)] * ROWS, keep=graph.all)
    tensors = [batch.take(block, tuple(range(ROWS))) for block in range(len(graph))]
    return [{block: (t, row) for block, t in enumerate(tensors)} for row in range(ROWS)]


def close(one: Tensor, other: Tensor) -> bool:
    return ((one - other).norm() / other.norm()).item() < 1e-5


def alone(graph: BlockGraph, inputs: ModelInputs, row: int, of: Row) -> Tensor:
    return RowBatch(graph, inputs.rows(torch.tensor([row])), [of]).out[0]


@pytest.mark.parametrize("seed", range(4))
def test_rows_with_masks_of_their_own_give_what_each_gives_alone(
    graph: BlockGraph, inputs: ModelInputs, earlier: list[dict[int, Slot]], seed: int
) -> None:
    draw = random.Random(seed)
    last = 1 << len(graph) - 1
    rows = [Row(draw.getrandbits(len(graph)) | last, cache) for cache in earlier]
    batch = RowBatch(graph, inputs, rows)
    full = in_full(graph, inputs)
    for index, row in enumerate(rows):
        assert close(batch.out[index], alone(graph, inputs, index, row))
        assert not close(batch.out[index], full[index])
    bits = [sum(row.run >> block & 1 for row in rows) for block in range(len(graph))]
    assert batch.counts() == tuple(bits)


def test_rows_that_all_run_the_same_are_the_plain_batch_bit_for_bit(
    graph: BlockGraph, inputs: ModelInputs, earlier: list[dict[int, Slot]]
) -> None:
    full = in_full(graph, inputs)
    one_tensor = RowBatch(graph, inputs, [Row(graph.all, cache) for cache in earlier])
    assert torch.equal(one_tensor.out, full)
    decoder = [Row(graph.all & ~graph.encoder, cache) for cache in earlier]
    together = RowBatch(graph, inputs, decoder).out
    copied = [
        Row(row.run, {block: (t[at : at + 1].clone(), 0) for block, (t, at) in row.cache.items()})
        for row in decoder
    ]
    assert torch.equal(RowBatch(graph, inputs, copied).out, together)
    assert not torch.equal(together, full)


def test_a_row_that_runs_nothing_gives_its_last_output(
    graph: BlockGraph, inputs: ModelInputs, earlier: list[dict[int, Slot]]
) -> None:
    rows = [Row(graph.all, cache) for cache in earlier]
    rows[2] = Row(0, earlier[2])
    batch = RowBatch(graph, inputs, rows)
    tensor, place = earlier[2][len(graph) - 1]
    assert torch.equal(batch.out[2], tensor[place])
    assert batch.counts() == (ROWS - 1,) * len(graph)


def test_a_follower_reads_what_its_leader_runs_in_the_same_call(
    graph: BlockGraph, inputs: ModelInputs
) -> None:
    """As its leader's outputs in a cache would give it, and its own cache is not looked at."""
    decoder = graph.all & ~graph.encoder
    wrong = {block: (torch.full((1,), torch.nan), 0) for block in range(len(graph))}
    rows = [Row(graph.all), Row(graph.all)] + [
        Row(decoder, wrong, follows=leader) for leader in (0, 1, 0)
    ]
    batch = RowBatch(graph, inputs, rows, keep=graph.all)
    assert batch.out.isfinite().all()
    for index, row in enumerate(rows[2:], start=2):
        leader = row.follows
        assert leader is not None
        cache = {b: (batch.take(b, (leader,)), 0) for b in range(len(graph))}
        expected = alone(graph, inputs, index, Row(decoder, cache))
        assert close(batch.out[index], expected)
        assert not close(batch.out[index], in_full(graph, inputs)[index])


def test_a_follower_reads_its_leaders_cache_where_the_leader_does_not_run(
    graph: BlockGraph, inputs: ModelInputs, earlier: list[dict[int, Slot]]
) -> None:
    decoder = graph.all & ~graph.encoder
    rows = [Row(decoder, earlier[0]), Row(decoder, follows=0)]
    two = inputs.rows(torch.tensor([0, 1]))
    batch = RowBatch(graph, two, rows)
    assert close(batch.out[1], alone(graph, inputs, 1, Row(decoder, earlier[0])))


def test_a_row_that_needs_what_it_has_not_fails_with_the_blocks_name(
    graph: BlockGraph, inputs: ModelInputs, earlier: list[dict[int, Slot]]
) -> None:
    middle = len(graph) // 2
    rows = [Row(graph.all, cache) for cache in earlier]
    rows[3] = Row(graph.all & ~(1 << middle))
    with pytest.raises(ExecutionFailed, match=graph.names[middle]) as caught:
        RowBatch(graph, inputs, rows)
    assert str(caught.value).isprintable()


class Chain:
    """a -> b -> c -> d -> e, and b -> d; remembers what came in and what was alive then."""

    def __init__(self) -> None:
        self.outputs: dict[str, weakref.ref[Tensor]] = {}
        self.inputs: dict[str, list[int]] = {}
        self.alive: dict[str, set[str]] = {}
        wiring = {"a": (), "b": (0,), "c": (1,), "d": (2, 1), "e": (3,)}
        self.graph = BlockGraph(
            tuple(
                Block(name, "encoder", sources, self._run(name)) for name, sources in wiring.items()
            )
        )

    def _run(self, name: str) -> Callable[[Sequence[Tensor], ModelInputs], Tensor]:
        def run(ins: Sequence[Tensor], inputs: ModelInputs) -> Tensor:
            self.alive[name] = {key for key, ref in self.outputs.items() if ref() is not None}
            self.inputs[name] = [tensor.data_ptr() for tensor in ins]
            out = (ins[0] if ins else inputs.sample) + 1
            self.outputs[name] = weakref.ref(out)
            return out

        return run


@pytest.fixture
def latents() -> ModelInputs:
    """Whole numbers: sums are exact."""
    found = model_inputs(3)
    return ModelInputs(found.sample.round(), found.timesteps, found.conditioning)


def test_an_output_lives_until_its_last_reader_has_run(latents: ModelInputs) -> None:
    chain = Chain()
    batch = RowBatch(chain.graph, latents, [Row(chain.graph.all)] * 3)
    assert chain.alive == {
        "a": set(),
        "b": {"a"},
        "c": {"b"},
        "d": {"b", "c"},
        "e": {"d"},
    }
    left = {name for name, output in chain.outputs.items() if output() is not None}
    assert left == {"e"}
    assert torch.equal(batch.out, latents.sample + 5)


def test_what_is_kept_outlives_the_call(latents: ModelInputs) -> None:
    chain = Chain()
    batch = RowBatch(chain.graph, latents, [Row(chain.graph.all)] * 3, keep=0b110)
    left = {name for name, output in chain.outputs.items() if output() is not None}
    assert left == {"b", "c", "e"}
    assert torch.equal(batch.take(1, (2, 0)), (latents.sample + 2)[[2, 0]])


def test_rows_that_read_alike_are_never_copied(latents: ModelInputs) -> None:
    chain = Chain()
    held = [torch.zeros(3, 2) for _ in chain.graph.blocks]
    cache = [{block: (held[block], row) for block in range(5)} for row in range(3)]
    RowBatch(chain.graph, latents, [Row(0b11010, cache[row]) for row in range(3)])
    assert chain.inputs["b"] == [held[0].data_ptr()]
    assert chain.inputs["d"][0] == held[2].data_ptr()


def test_one_rows_output_is_taken_without_the_others(latents: ModelInputs) -> None:
    chain = Chain()
    batch = RowBatch(chain.graph, latents, [Row(chain.graph.all)] * 3, keep=0b10)
    taken = batch.take(1, (1,))
    assert taken.untyped_storage().nbytes() == taken.nbytes
    assert torch.equal(taken[0], latents.sample[1] + 2)
