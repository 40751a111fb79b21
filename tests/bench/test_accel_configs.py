"""What the accelerations' benchmark compares."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from baton.common.accel.masks import save_mask
from baton.common.diffusion.blocks import Blocks
from baton.common.families.loaded import LoadedFamily
from baton.common.plan import OpenPlan
from tests.bench.accel import Unrectified
from tests.bench.accel_configs import FEW_STEPS, STEPS, AccelConfigs
from tests.bench.accel_results import alternatives, at_equal_time, ceiling, ratios_of
from tests.bench.curves import Drawing
from tests.bench.ratios import Point
from tests.support.graphs import make_mask, masked_copy
from tests.support.tasks import accelerated


@pytest.fixture(scope="module")
def configs(family: LoadedFamily, tmp_path_factory: pytest.TempPathFactory) -> AccelConfigs:
    folder = tmp_path_factory.mktemp("bench")
    masked = masked_copy(family, folder / "family", ("ddim", STEPS))
    other = make_mask(masked, "large", "ddim", STEPS)
    save_mask(replace(other, run=other.run[::-1]), folder / "ablations" / "large-gumbel.json")
    return AccelConfigs(masked, "large", folder / "ablations")


def blocks(plan: OpenPlan) -> list[Blocks | None]:
    return [plan.directive_at(step).blocks for step in range(plan.steps)]


def test_every_configuration_has_a_name_of_its_own(configs: AccelConfigs) -> None:
    made = [
        configs.reference(),
        *configs.claimed(),
        *configs.variants(),
        *configs.controls(),
        *configs.fewer(),
        *configs.both(),
        *configs.ablated(),
    ]
    assert len({config.name for config in made}) == len(made)
    assert {s.accel for config in made for s in config.plan.segments} == {"none"}


def test_what_is_claimed_is_what_a_user_gets(configs: AccelConfigs) -> None:
    claimed = {config.name: config.plan for config in configs.claimed()}
    for accel in ("propagate", "masks", "full"):
        asked = accelerated(configs.plain(), accel)
        name = "propagate-parallel" if accel == "propagate" else accel
        assert claimed[name].closed() == configs.family.accelerator.expand(asked)
    assert any(d.ahead for d in claimed["propagate-parallel"].segments[0].directives)
    assert not any(d.ahead for d in claimed["propagate-serial"].segments[0].directives)


def test_acceleration_and_fewer_steps_go_together(configs: AccelConfigs) -> None:
    made = {config.name: config.plan for config in configs.both()}
    assert set(made) == {f"{accel}-{FEW_STEPS}" for accel in ("propagate", "masks", "full")}
    for plan in made.values():
        assert plan.steps == FEW_STEPS
        assert plan.segments[0].masked


def test_pictures_are_judged_as_decoded_one_by_one(configs: AccelConfigs) -> None:
    for config in configs.claimed():
        assert blocks(config.drawn) == blocks(config.plan)
        assert not any(d.ahead for d in config.drawn.segments[0].directives)


def test_deepcache_runs_the_shallow_branch_between_and_all_of_it_at_its_interval(
    configs: AccelConfigs,
) -> None:
    graph = configs.graph
    found = {config.name: blocks(config.plan) for config in configs.controls()}
    shallow, deep = found["deepcache-3-depth-1"], found["deepcache-3-depth-3"]
    everything = graph.all & ~graph.constant
    for column in (shallow, deep):
        assert all((bits == everything) == (step % 3 == 0) for step, bits in enumerate(column))
    assert shallow[1] is not None
    assert deep[1] is not None
    assert shallow[1] & ~deep[1] == 0
    names = [name for i, name in enumerate(graph.names) if shallow[1] >> i & 1]
    assert {"conv_in", "conv_out"} <= set(names)
    assert not any(name.startswith("mid.") for name in names)


def test_decoder_propagation_keeps_the_encoder_running(configs: AccelConfigs) -> None:
    graph = configs.graph
    (found,) = (c for c in configs.controls() if c.name == "decoder-propagation")
    for step, bits in enumerate(blocks(found.plan)):
        assert bits is not None
        assert bits & graph.encoder & ~graph.constant == graph.encoder & ~graph.constant
        assert bits >> (len(graph) - 1) & 1, step


def test_ablations_are_the_shipped_mask_and_those_that_are_there(configs: AccelConfigs) -> None:
    made = {config.name: config for config in configs.ablated()}
    assert set(made) == {"mask", "mask-no-rectification", "mask-gumbel"}
    assert blocks(made["mask"].plan) == blocks(made["mask-no-rectification"].plan)
    assert not made["mask-no-rectification"].rectify
    assert blocks(made["mask-gumbel"].plan) == blocks(made["mask"].plan)[::-1]


def test_unrectified_runs_what_nobody_reads(configs: AccelConfigs) -> None:
    graph = configs.graph
    mask = [graph.all, *[1 << (len(graph) - 1)] * 2]
    wasteful = [graph.all, graph.all & ~(1 << (len(graph) - 1)) | mask[1], mask[2]]
    assert Unrectified(graph.blocks).schedule(wasteful).run == tuple(wasteful)
    alone = [graph.all, 1 | mask[1], mask[2]]  # the time embedding, for blocks that do not run
    assert graph.schedule(alone).run[1] == mask[1]
    assert Unrectified(graph.blocks).schedule(alone).run[1] == alone[1]


def test_the_ceiling_is_the_papers(configs: AccelConfigs) -> None:
    told = replace(configs.propagation, keys=tuple(range(9)), steps=STEPS)
    keys = len(told.keys_for(STEPS))
    assert ceiling(told, 0.5) == STEPS / (keys + (STEPS - keys) * 0.5)


def row(name: str, kind: str, seconds: float, graded: float, **more: object) -> dict[str, object]:
    return {"name": name, "kind": kind, "member": "large", "seconds": seconds, "graded": graded} | {
        "speedup": 1 / seconds,
        **more,
    }


def test_the_alternative_is_the_best_plain_run_within_the_same_seconds() -> None:
    rows = [
        row("masks", "claimed", 0.5, 0.9),
        row("ddim-10", "fewer steps", 0.4, 0.8),
        row("ddim-20", "fewer steps", 0.5, 0.85),
        row("ddim-40", "fewer steps", 0.6, 0.95),
    ]
    assert alternatives(rows) == {"masks": Point("ddim-20", 0.5, 0.85)}
    assert alternatives([row("masks", "claimed", 0.1, 0.9), *rows[1:]]) == {"masks": None}


def test_at_equal_time_the_same_prompts_are_compared() -> None:
    rows = [
        row("masks", "claimed", 0.5, 0.75),
        row("masks-20", "both", 0.1, 0.5),
        row("ddim-10", "fewer steps", 0.4, 0.25),
    ]
    scores = {"masks": [1.0, 0.5], "masks-20": [0.5, 0.5], "ddim-10": [0.5, 0.0]}
    unused = np.zeros(0)
    drawings = {
        name: Drawing(np.array(graded), unused, unused, unused, unused.astype(np.uint8))
        for name, graded in scores.items()
    }
    told = at_equal_time(rows, drawings)
    assert told["masks"]["minus_fewer_steps"] == {"mean": 0.5, "low": 0.5, "high": 0.5}
    assert told["masks"]["fewer_steps"]["name"] == "ddim-10"
    assert told["masks-20"] == {"seconds": 0.1, "graded": 0.5, "fewer_steps": None}


def test_a_relay_outside_the_margin_is_no_result() -> None:
    names = ("propagate-serial", "propagate-parallel", "masks", "full", "plain")
    rows = [row(name, "claimed", 0.5, 0.9) for name in names]
    relays = [
        row("a", "relay", 0.1, 0.5, accel="full", graded_minus_reference_low=-0.031),
        row("b", "relay", 0.2, 0.9, accel="masks", graded_minus_reference_low=-0.029),
        row("c", "relay", 0.5, 0.9, accel="none", graded_minus_reference_low=0.0),
    ]
    told = ratios_of(rows, relays)
    assert (told["relay_full"], told["relay_full_accel"]) == (5.0, "masks")
    assert ratios_of(rows, relays[:1])["relay_full"] is None
