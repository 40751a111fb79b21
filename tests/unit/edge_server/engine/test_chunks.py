"""Decoders in chunks: of about equal time, in whatever order, and the same pictures."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations, groupby, pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from baton.common.diffusion.blocks import Piece
from baton.common.families.loaded import LoadedFamily
from baton.common.request import Task
from baton.common.size import Size
from baton.edge_server.engine.chunks import PieceSeconds, partition
from baton.edge_server.engine.job import Decoding, Job, Picture
from baton.edge_server.engine.loop import Loop
from baton.edge_server.engine.runner import Runner
from baton.edge_server.engine.scheduler import Limits
from baton.edge_server.engine.steering import Steering
from tests.support.engines import NODE, Listener, cut, drawn_together
from tests.support.faults import FaultyFamily
from tests.support.tasks import plan, run_alone, task, work

HANDED_OFF = "edge/large@0.5>device/small"
SIZES = [Size(32, 32), Size(64, 32), Size(16, 48)]


def greatest(seconds: Sequence[float], ends: Sequence[int]) -> float:
    return max(sum(seconds[start:end]) for start, end in pairwise((0, *ends)))


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=9),
    st.integers(1, 12),
)
def test_no_cut_into_as_many_chunks_has_a_shorter_longest_one(
    seconds: list[int], count: int
) -> None:
    ends = partition(seconds, count)
    groups = min(count, len(seconds))
    assert len(ends) == groups
    assert list(ends) == sorted(set(ends))
    assert (ends[0] > 0, ends[-1]) == (True, len(seconds))
    inner = combinations(range(1, len(seconds)), groups - 1)
    best = min(greatest(seconds, (*cut, len(seconds))) for cut in inner)
    assert greatest(seconds, ends) == best


def test_of_cuts_with_the_same_longest_chunk_the_more_even_one_is_taken() -> None:
    assert partition([9, 1, 1, 1, 1], 3) == (1, 3, 5)


def test_a_decoder_is_cut_into_no_less_than_one_chunk() -> None:
    with pytest.raises(ValueError, match="not into 0"):
        partition([1.0], 0)


def measured(*runs: Sequence[float]) -> PieceSeconds:
    known = PieceSeconds()
    for seconds in runs:
        known.add(SIZES[0], seconds)
    return known


def test_the_first_run_counts_until_there_is_a_second() -> None:
    assert measured((9.0, 5.0)).of(SIZES[0]) == (9.0, 5.0)
    assert measured((9.0, 5.0), (1.0, 2.0)).of(SIZES[0]) == (1.0, 2.0)
    assert measured((9.0, 5.0)).of(SIZES[1]) is None


def test_the_mean_follows_the_last_runs_and_a_stall_counts_as_little() -> None:
    steady = [(1.0,)] * 20
    (stalled,) = measured(*steady, (500.0,)).of(SIZES[0]) or ()
    assert 1.0 < stalled <= 1.1
    (slower,) = measured(*steady, *[(1.5,)] * 40).of(SIZES[0]) or ()
    assert slower == pytest.approx(1.5, rel=0.02)


def test_what_was_measured_elsewhere_is_moved_slowly_and_dropped_for_another_decoder() -> None:
    known = PieceSeconds()
    known.seed(SIZES[0], (1.0, 2.0))
    known.add(SIZES[0], (2.0, 2.0))
    first, second = known.of(SIZES[0]) or ()
    assert 1.0 < first <= 1.11
    assert second == 2.0
    known.add(SIZES[0], (3.0,))
    assert known.of(SIZES[0]) == (3.0,)


def test_the_seconds_of_the_last_sizes_are_kept() -> None:
    known = measured((1.0,))
    for side in range(1, 1001):
        known.add(Size(side, side), (1.0,))
        assert known.of(SIZES[0]) is not None
        known.add(SIZES[0], (1.0,))
    assert known.of(Size(1000, 1000)) is not None
    assert known.of(Size(1, 1)) is None


def latent(family: LoadedFamily, size: Size) -> Tensor:
    return torch.randn(family.latent_shape(size))


def finished(runner: Runner, decoding: Decoding, chunks: int) -> tuple[Picture, int]:
    """The picture, and how many chunks that took."""
    for count in range(1, 1000):
        if runner.decode(decoding, chunks):
            return runner.picture(decoding), count
    raise AssertionError("it never ends")


@pytest.mark.parametrize("chunks", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_chunks_draw_the_picture_of_the_whole_decoder(
    family: LoadedFamily, size: Size, chunks: int
) -> None:
    x, runner = latent(family, size), Runner(family, NODE)
    decoding = Decoding(x, size)
    picture, count = finished(runner, decoding, chunks)
    assert np.array_equal(picture, family.decode(x))
    assert count == min(chunks, len(family.models.decoder()))


def test_a_decoding_that_has_begun_goes_on_as_it_is_cut(family: LoadedFamily) -> None:
    """While others begin in other numbers of chunks, whatever their size."""
    runner = Runner(family, NODE)
    decodings = [Decoding(latent(family, size), size) for size in SIZES]
    latents = [decoding.x for decoding in decodings]
    for decoding, chunks in zip(decodings, (5, 3, 2), strict=True):
        assert not runner.decode(decoding, chunks)
    for decoding, x, left in zip(decodings, latents, (4, 2, 1), strict=True):
        picture, count = finished(runner, decoding, 7)
        assert count == left
        assert np.array_equal(picture, family.decode(x))


def test_chunks_follow_what_was_measured_and_before_that_what_is_computed(
    family: LoadedFamily,
) -> None:
    runner, size = Runner(family, NODE), SIZES[0]
    count = len(family.models.decoder())
    assert runner.piece_seconds(size) is None
    computed = Decoding(latent(family, size), size)
    finished(runner, computed, 3)
    assert computed.ends == partition(family.decoder_profile(size).macs, 3)
    found = runner.piece_seconds(size)
    assert found is not None
    assert len(found) == count
    assert min(found) > 0
    seconds = (5.0, *(1.0,) * (count - 1))
    runner.seed_pieces(size, seconds)
    assert runner.piece_seconds(size) == seconds
    seeded = Decoding(latent(family, size), size)
    finished(runner, seeded, 3)
    assert seeded.ends == partition(seconds, 3) != computed.ends


def test_seconds_of_another_decoder_are_of_no_use(family: LoadedFamily) -> None:
    """Its pieces are cut into chunks all the same, and what they take is measured anew."""
    runner, size = Runner(FaultyFamily(family), NODE), SIZES[0]
    runner.seed_pieces(size, (1.0, 2.0))
    decoding = Decoding(latent(family, size), size)
    assert finished(runner, decoding, 2)[1] == 2
    assert len(runner.piece_seconds(size) or ()) == 3


def test_what_is_not_to_be_measured_is_not(family: LoadedFamily) -> None:
    runner, size = Runner(family, NODE), SIZES[0]
    assert runner.measuring
    runner.measuring = False
    finished(runner, Decoding(latent(family, size), size), 2)
    assert runner.piece_seconds(size) is None


class Logged(LoadedFamily):
    """The same family. ran: whose piece ran, in order: the size of its picture, shape by shape."""

    def __init__(self, family: LoadedFamily) -> None:
        self.__dict__.update(family.__dict__)
        self.ran = list[float]()
        self.models: Any = copy.copy(family.models)
        pieces = family.models.decoder()
        self.models.decoder = lambda: [partial(self._run, piece) for piece in pieces]

    @property
    def turns(self) -> int:
        """How often another picture was gone on with, where neighbours differ in shape."""
        return sum(1 for _ in groupby(self.ran))

    def _run(self, piece: Piece, x: Tensor) -> Tensor:
        self.ran.append(x.shape[-1] / x.shape[-2])
        return piece(x)


@pytest.fixture(scope="module")
def asked(family: LoadedFamily) -> list[tuple[Task, Picture]]:
    """Requests of three shapes, and their pictures; two and more end at once."""
    tasks = [
        replace(task(plan("edge/small", 1 + seed // 3), seed=seed), size=SIZES[seed % 3])
        for seed in range(6)
    ]
    return [(of, family.decode(run_alone(family, of, of.plan.steps).x)) for of in tasks]


def drawn(
    family: LoadedFamily, tasks: Sequence[Task], limits: Limits, steering: Steering
) -> list[Picture]:
    return [each.picture for each in drawn_together(family, tasks, limits, steering)[0]]


def assert_drawn(asked: Sequence[tuple[Task, Picture]], pictures: Sequence[Picture]) -> None:
    for (_, expected), picture in zip(asked, pictures, strict=True):
        assert np.array_equal(picture, expected)


@pytest.mark.parametrize("decode_lane", [False, True], ids=["one lane", "two lanes"])
@pytest.mark.parametrize("chunks", [1, 2, 3, 5, 100])
def test_pictures_of_all_sizes_decoded_at_once_are_those_of_the_plain_decoder(
    family: LoadedFamily, asked: list[tuple[Task, Picture]], chunks: int, decode_lane: bool
) -> None:
    """Whoever ends is decoded in chunks beside those who are denoised, several at a time."""
    watched = Logged(family)
    limits = Limits(rows=2)  # a call a request: each has rows of its own
    steering = replace(cut(chunks), decode_lane=decode_lane)
    assert_drawn(asked, drawn(watched, [of for of, _ in asked], limits, steering))
    if chunks > 2:  # than a request has rounds between its end and that of the one after it
        assert watched.turns > len(asked)


def test_where_there_is_no_room_for_two_one_picture_is_decoded_after_the_other(
    family: LoadedFamily, asked: list[tuple[Task, Picture]]
) -> None:
    watched = Logged(family)
    limits = Limits(rows=2, activation_bytes=1)
    assert_drawn(asked, drawn(watched, [of for of, _ in asked], limits, cut(5)))
    assert watched.turns <= len(asked)


def test_a_decoder_counts_for_whoever_is_drawn_here_alone(family: LoadedFamily) -> None:
    loop = Loop(Runner(family, NODE), Limits())
    tasks = [replace(task(plan(arm, 2)), size=SIZES[1]) for arm in ("edge/small", HANDED_OFF)]
    jobs = [Job(work(str(i), of), emit=Listener()) for i, of in enumerate(tasks)]
    for job in jobs:
        loop.take(job)
    assert [job.decode_bytes for job in jobs] == [family.decoder_bytes(SIZES[1]), 0]
