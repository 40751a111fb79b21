"""Decoders beside the calls that denoise: the same pictures, and nobody else's failures."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from baton.common.families.loaded import LoadedFamily
from baton.edge_server.engine.job import Drawn
from baton.edge_server.engine.lanes import Lanes, OneLane, TwoThreads, lanes_for
from baton.edge_server.engine.scheduler import Limits
from baton.edge_server.engine.steering import Steering
from tests.support.engines import drawn_together
from tests.support.tasks import plan, task


def drawn(family: LoadedFamily, decode_lane: bool) -> list[Drawn]:
    """Pictures of requests that end one after the other, while others are denoised."""
    tasks = [task(plan("edge/small", 2 + seed), seed=seed) for seed in range(6)]
    return drawn_together(family, tasks, Limits(), Steering(decode_lane=decode_lane))[0]


def test_a_second_lane_draws_the_same_pictures_and_leaves_no_thread(family: LoadedFamily) -> None:
    before = threading.active_count()
    one, two = drawn(family, decode_lane=False), drawn(family, decode_lane=True)
    for first, second in zip(one, two, strict=True):
        assert np.array_equal(first.picture, second.picture)
        assert first.executed == second.executed
    assert threading.active_count() == before


def test_chunks_run_beside_the_call_on_a_second_lane_and_after_it_on_one() -> None:
    met = threading.Barrier(2)
    two = TwoThreads()
    assert two.beside(lambda: met.wait(10), lambda: met.wait(10)) in ((0, 1), (1, 0))
    two.close()
    order = list[str]()
    OneLane().beside(lambda: order.append("call"), lambda: order.append("chunks"))
    assert order == ["call", "chunks"]


def test_a_round_is_over_when_its_chunks_are_also_if_the_call_fails() -> None:
    failed, done = threading.Event(), list[str]()

    def call() -> None:
        failed.set()
        raise ValueError("broken")

    def chunks() -> None:
        failed.wait(10)
        done.append("chunks")

    two = TwoThreads()
    with pytest.raises(ValueError, match="broken"):
        two.beside(call, chunks)
    assert done == ["chunks"]
    two.close()


@pytest.mark.parametrize(("second", "kind"), [(False, OneLane), (True, TwoThreads)])
def test_a_second_lane_is_for_those_who_ask(second: bool, kind: type[Lanes]) -> None:
    lanes = lanes_for(torch.device("cpu"), second, 1)
    assert isinstance(lanes, kind)
    lanes.close()
