"""How much longer a running request waits for its next step when many others come or go."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
import torch

from baton.common.families.loaded import LoadedFamily
from baton.common.request import Task
from baton.edge_server.engine.engine import Engine
from baton.edge_server.engine.job import Drawn, Event, Job, Progressed
from baton.edge_server.engine.scheduler import ENCODED, Limits, Planner
from baton.edge_server.scheduling.actions import Action
from tests.support.engines import NODE, Gate, Listener, cut, submitted
from tests.support.faults import FaultyFamily
from tests.support.tasks import plan, task, work

MANY = 16
ROOM = Limits(active=MANY + 1, rows=2 * (MANY + 1))  # for everybody in each call


def one_branch(steps: int, seed: int) -> Task:
    return task(plan("edge/small", steps, guidance=1.0), f"a cat, number {seed}", seed=seed)


def run_beside(
    family: LoadedFamily,
    neighbour: Task,
    others: list[Task],
    limits: Limits,
    plan: Planner | None = None,
) -> tuple[FaultyFamily, list[int]]:
    """The others arrive at once when the neighbour, number 0, is at its first step.

    Returns beside the family whose progress was told, in order.
    """
    gate = Gate()

    def before(kind: str) -> None:
        if kind == "denoise":
            gate(kind, torch.empty(0))

    watched = FaultyFamily(family, before=before)
    engine = Engine(watched, NODE, limits, steering=cut(3, plan))
    told = list[int]()

    def note(number: int, event: Event) -> None:
        if isinstance(event, Progressed):
            told.append(number)

    listeners = [Listener(partial(note, number)) for number in range(len(others) + 1)]
    engine.submit(Job(work("neighbour", neighbour), emit=listeners[0]))
    engine.start()
    try:
        gate.wait_for_call(1)
        submitted(engine, [work(f"r{i}", of) for i, of in enumerate(others)], listeners[1:])
        gate.lift()
        for listener in listeners:
            assert isinstance(listener.outcome(), Drawn)
    finally:
        engine.stop()
    return watched, told


def chunks_beside(most: int) -> Planner:
    """Everybody takes a step in each round, so many at most a chunk of their decoding."""
    return lambda pace, bounds, unet, vae, lean: (Action(unet, min(vae, most), 0),)


@pytest.mark.parametrize("most", [1, 3])
def test_many_that_arrive_and_end_at_once_lengthen_a_round_by_what_is_planned(
    family: LoadedFamily, most: int
) -> None:
    """Their 16 prompts are encoded eight at a time, their pictures decoded a part at a time."""
    steps = 4 + 3 * MANY
    others = [one_branch(2, seed) for seed in range(MANY)]
    watched, _ = run_beside(family, one_branch(steps, 99), others, ROOM, chunks_beside(most))
    rounds = watched.calls.between_denoising()
    assert len(rounds) == steps - 1  # the neighbour is in every call
    assert max(between.count("encode") for between in rounds) == 1
    assert max(between.count("decode") for between in rounds) == most
    assert [*rounds[0], *rounds[1]] == ["encode"] * (MANY // ENCODED)
    decoded = sum(between.count("decode") for between in rounds)
    assert decoded >= 3 * MANY - 3


def test_some_that_arrive_while_others_end_lengthen_a_round_by_one_call_of_each_kind(
    family: LoadedFamily,
) -> None:
    others = [one_branch(1 + seed % 3, seed) for seed in range(3 * MANY)]
    limits = Limits(active=6, rows=12)
    watched, _ = run_beside(family, one_branch(160, 99), others, limits, chunks_beside(1))
    for between in watched.calls.between_denoising():
        assert sorted(set(between)) == sorted(between)
    assert sum(count for kind, count in watched.calls.made if kind == "encode") == len(others) + 1


@pytest.mark.parametrize("rows", [2, 5])
def test_a_neighbour_whose_rows_find_no_room_waits_its_turn_and_no_longer(
    family: LoadedFamily, rows: int
) -> None:
    """Between two of its steps each other request takes one step at most."""
    others = [one_branch(4, seed) for seed in range(MANY)]
    limits = Limits(active=MANY + 1, rows=rows)
    _, told = run_beside(family, one_branch(12, 99), others, limits)
    own = [place for place, number in enumerate(told) if number == 0]
    assert len(own) == 11
    for one, two in pairwise(own):
        between = told[one + 1 : two]
        assert sorted(set(between)) == sorted(between)
