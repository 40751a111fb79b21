"""Replays of what was drawn with fewer blocks: alone, relayed, and among others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from baton.common.errors import InvalidRequest
from baton.common.families.loaded import LoadedFamily, load_family
from baton.common.families.local import begin, run_here
from baton.common.latents import Codec, decode_state
from baton.common.limits import ACCELS, Accel, SamplerName
from baton.common.plan import OpenPlan
from baton.device_client.events import Stepped
from baton.device_client.provenance import Provenance, read_chunk
from baton.device_client.replaying import (
    replay,
    replay_provenance,
)
from baton.edge_server.engine.job import Drawn, Work
from tests.support.engines import run_together
from tests.support.graphs import masked_copy, random_mask, with_mask
from tests.support.replays import Undecoded, drawn, record, saved
from tests.support.tasks import PROMPTS, accelerated, plan, task, work

FREE = (False, True, True, False, True)


@pytest.fixture(scope="module")
def accelerable(family: LoadedFamily, tmp_path_factory: pytest.TempPathFactory) -> LoadedFamily:
    """Propagates, and has masks for some samplers and step counts; its pictures are latents."""
    asked: list[tuple[SamplerName, int]] = [("ddim", 10), ("dpmpp_2m", 8), ("euler", 9)]
    return Undecoded(masked_copy(family, tmp_path_factory.mktemp("replays") / "family", *asked))


def through_its_file(made: Provenance) -> Provenance:
    return read_chunk(made.chunk())


@pytest.mark.parametrize("accel", ["propagate", "masks", "full"])
@pytest.mark.parametrize("guided", [True, False])
def test_what_a_device_drew_with_fewer_blocks_is_replayed(
    accelerable: LoadedFamily, accel: Accel, guided: bool
) -> None:
    of = accelerated(plan("device/large", 10, guided=[guided] * 10), accel)
    picture, made = drawn(accelerable, task(of, seed=5))
    assert any(step.blocks for step in made.executed)
    assert any(step.ahead for step in made.executed) is (accel != "masks")
    np.testing.assert_array_equal(replay_provenance(accelerable, through_its_file(made)), picture)


@pytest.mark.parametrize("codec", [Codec.FP32, Codec.FP16, Codec.INT8])
@pytest.mark.parametrize("accel", ["propagate", "masks", "full"])
@pytest.mark.parametrize("fraction", [0.3, 0.8])
def test_an_accelerated_relay_is_replayed(
    accelerable: LoadedFamily, accel: Accel, codec: Codec, fraction: float
) -> None:
    """The handoff falls where the members would be in the middle of a group."""
    family = accelerable
    of = task(accelerated(plan(f"edge/large@{fraction}>device/small", 10), accel), seed=2)
    beside = [task(accelerated(of.plan, other), seed=7) for other in ACCELS]
    works = [work(str(i), item, codec) for i, item in enumerate([of, *beside])]
    handed = run_together(family, works)[0].handoff()
    state = decode_state(handed.envelope, family.fingerprint).state
    run = begin(family, of, state)
    mine = run_here(family, run, 10)
    made = record(family, of, (*handed.executed, *mine), codec)
    made = through_its_file(replace(made, transfers=(state.step,)))
    np.testing.assert_array_equal(replay_provenance(family, made), family.decode(run.x))


def mixed_works(family: LoadedFamily, checkpoint_every: int) -> list[Work]:
    """Plain, masked and propagating requests, guided and not, some on the other member."""
    graph = family.blocks("large")
    plans: list[OpenPlan] = [
        plan("edge/large", 10, "ddim", 3.0),
        accelerated(plan("edge/large", 10, "ddim", 3.0), "propagate"),
        accelerated(plan("edge/large", 8, "dpmpp_2m", 2.0), "full"),
        plan("edge/large", 7, "euler", 1.0),
        accelerated(plan("edge/large", 9, "euler", 1.0), "masks"),
        accelerated(plan("edge/small", 8, "dpmpp_2m", 2.0), "masks"),
        accelerated(plan("edge/small", 10, "ddim", 1.0), "full"),
        with_mask(plan("edge/large", 5, "ddim", 5.0, FREE), random_mask(graph, 5, 3)),
    ]
    return [
        work(f"r{i}", task(of, PROMPTS[i % 5], seed=i), checkpoint_every=checkpoint_every)
        for i, of in enumerate(plans)
    ]


@pytest.mark.parametrize(("rows", "every"), [(16, 0), (7, 0), (32, 3)])
def test_what_an_edge_drew_among_others_is_replayed(
    accelerable: LoadedFamily, rows: int, every: int
) -> None:
    """Neighbours with other masks, some of them decoding ahead, are not needed for it."""
    works = mixed_works(accelerable, every)
    patterns = set()
    for item, listener in zip(works, run_together(accelerable, works, rows=rows), strict=True):
        outcome = listener.outcome()
        assert isinstance(outcome, Drawn)
        patterns |= {step.neighbours for step in outcome.executed}
        made = through_its_file(record(accelerable, item.task, outcome.executed))
        np.testing.assert_array_equal(replay_provenance(accelerable, made), outcome.picture)
    assert len(patterns) > 5


def test_an_accelerated_file_is_replayed_and_written_again_as_it_was(
    accelerable: LoadedFamily, tmp_path: Path
) -> None:
    seen = load_family(str(accelerable.spec.folder))
    of = task(accelerated(plan("device/small", 10), "full"))
    path = saved(tmp_path / "a.png", *drawn(seen, of))
    events: list[Stepped] = []
    found = replay(path, seen, events.append)
    assert (found.verdict, found.reasons) == ("identical", ())
    assert [event.step for event in events] == list(range(1, 11))
    assert found.save(tmp_path / "b.png").read_bytes() == path.read_bytes()


def test_masks_need_not_be_there_for_a_replay(
    accelerable: LoadedFamily, family: LoadedFamily
) -> None:
    """The record says which blocks ran."""
    picture, made = drawn(accelerable, task(accelerated(plan("device/large", 10), "masks")))
    bare = Undecoded(family)
    np.testing.assert_array_equal(replay_provenance(bare, through_its_file(made)), picture)


def test_blocks_that_the_member_has_not_are_refused(family: LoadedFamily) -> None:
    _, made = drawn(family)
    executed = tuple(replace(step, blocks=1 << 900) for step in made.executed)
    with pytest.raises(InvalidRequest, match="small"):
        replay_provenance(family, replace(made, executed=executed))
