"""Key steps for any number of steps, and the directives that they make."""

from __future__ import annotations

from itertools import pairwise

import pytest

from baton.common.accel.propagation import (
    LONGEST_GROUP,
    PAPER_KEYS,
    PAPER_STEPS,
    PRIOR_NOISE,
    Propagation,
    bounded,
    propagated,
    uniform_keys,
)
from baton.common.diffusion.blocks import BlockGraph
from baton.common.diffusion.graphs import graph_of
from baton.common.errors import InvalidRequest
from baton.common.limits import MAX_AHEAD, MAX_STEPS
from tests.support.graphs import conditional_unet

DENSE = Propagation(keys=(0, 1, 2, 40, 49), steps=50)


@pytest.fixture(scope="module")
def graph() -> BlockGraph:
    text = {"addition_embed_type": "text", "addition_embed_type_num_heads": 4}
    return graph_of(conditional_unet(**text))


def test_at_50_steps_the_keys_are_the_papers() -> None:
    assert (PAPER_KEYS, PAPER_STEPS) == ((0, 1, 2, 3, 5, 10, 15, 25, 35), 50)
    assert Propagation().keys_for(50) == (0, 1, 2, 3, 5, 10, 15, 25, 35)
    assert Propagation().prior_noise == PRIOR_NOISE == 0.003


@pytest.mark.parametrize(
    ("steps", "keys"),
    [
        (1, (0,)),
        (2, (0, 1)),
        (10, (0, 1, 2, 3, 5, 7)),
        (20, (0, 1, 2, 4, 6, 10, 14)),
        (100, (0, 2, 4, 6, 10, 20, 30, 45, 50, 65, 70, 85)),
    ],
)
def test_other_lengths_take_the_keys_by_their_share(steps: int, keys: tuple[int, ...]) -> None:
    assert Propagation().keys_for(steps) == keys


@pytest.mark.parametrize("propagation", [Propagation(), DENSE], ids=["paper", "dense"])
def test_any_length_has_keys_from_the_first_step_on_with_bounded_groups(
    propagation: Propagation,
) -> None:
    own = [b - a for a, b in pairwise((*propagation.keys, propagation.steps))]
    longest = max(LONGEST_GROUP, *own)
    for steps in range(1, MAX_STEPS + 1):
        keys = propagation.keys_for(steps)
        assert keys[0] == 0
        assert keys[-1] < steps
        assert list(keys) == sorted(set(keys))
        assert max(b - a for a, b in pairwise((*keys, steps))) <= longest


def test_longer_groups_than_the_papers_stay_as_they_were_chosen() -> None:
    assert DENSE.keys_for(50) == DENSE.keys


def test_groups_are_bounded_by_keys_put_in_between() -> None:
    assert bounded([0, 3], 12, 4) == (0, 3, 7, 11)
    assert bounded([], 5, 10) == (0,)
    assert bounded([2], 3, 1) == (0, 1, 2)


@pytest.mark.parametrize(
    "keys", [(), (1, 2), (0, 2, 1), (0, 2, 2), (0, 10), (-1, 0), (0, 1, 200)], ids=str
)
def test_keys_out_of_order_or_outside_are_refused(keys: tuple[int, ...]) -> None:
    with pytest.raises(InvalidRequest, match="key steps"):
        Propagation(keys=keys, steps=10)


def test_uniform_keys_come_every_so_many_steps() -> None:
    assert uniform_keys(50, 6) == (0, 6, 12, 18, 24, 30, 36, 42, 48)
    assert uniform_keys(3, 7) == (0,)


@pytest.mark.parametrize("steps", [1, 2, 3, 20, 50, 199])
def test_columns_run_the_encoder_at_keys_alone(graph: BlockGraph, steps: int) -> None:
    keys = Propagation().keys_for(steps)
    directives = Propagation().directives(graph, steps)
    assert len(directives) == steps
    for step, directive in enumerate(directives):
        assert directive.branches == "both"
        assert directive.blocks is not None
        decoder, encoder = directive.blocks & ~graph.encoder, directive.blocks & graph.encoder
        assert decoder == graph.all & ~graph.encoder
        assert encoder == (graph.encoder & ~graph.constant if step in keys else 0)
        assert directive.prior_noise == (PRIOR_NOISE if step >= steps // 2 else 0.0)
    run = graph.schedule([directive.blocks or 0 for directive in directives]).run
    assert run[0] == graph.all


def test_decoding_ahead_takes_the_steps_up_to_the_next_key(graph: BlockGraph) -> None:
    directives = Propagation().directives(graph, 50)
    ahead = {step: directive.ahead for step, directive in enumerate(directives) if directive.ahead}
    assert ahead == {3: 1, 5: 4, 10: 4, 15: 9, 25: 9, 35: 14}
    serial = Propagation(parallel=False).directives(graph, 50)
    assert {directive.ahead for directive in serial} == {0}
    assert [one.blocks for one in serial] == [one.blocks for one in directives]


def test_no_group_is_longer_than_a_plan_allows(graph: BlockGraph) -> None:
    (first, *_) = propagated(graph, 100, (0,))
    assert first.ahead == MAX_AHEAD


def test_the_control_reuses_the_decoder(graph: BlockGraph) -> None:
    decoder = graph.all & ~graph.encoder
    directives = propagated(graph, 4, (0, 2), parallel=False, reused=decoder)
    between = directives[1].blocks
    assert between == graph.encoder & ~graph.constant
    assert graph.schedule([directive.blocks or 0 for directive in directives]).run[1] == 0
