"""Rectified masks against an interpreter of masks that knows nothing of liveness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from baton.common.diffusion.blocks import Block, BlockGraph, Blocks, ModelInputs

Wiring = tuple[tuple[int, ...], ...]


def _never(ins: Sequence[object], inputs: ModelInputs) -> object:
    raise AssertionError("only the interpreter runs blocks here")


@st.composite
def wirings(draw: st.DrawFn) -> Wiring:
    """By block, the blocks that it reads; every block but the last is read by some other."""
    count = draw(st.integers(1, 7))
    sources: list[set[int]] = [set() for _ in range(count)]
    for block in range(1, count):
        sources[block] = draw(st.sets(st.integers(0, block - 1), max_size=3))
    for block in range(count - 1):
        if not any(block in read for read in sources):
            sources[draw(st.integers(block + 1, count - 1))].add(block)
    return tuple(tuple(sorted(read)) for read in sources)


@st.composite
def masked(draw: st.DrawFn) -> tuple[Wiring, tuple[Blocks, ...]]:
    wiring = draw(wirings())
    bits = st.integers(0, (1 << len(wiring)) - 1)
    return wiring, tuple(draw(st.lists(bits, min_size=1, max_size=7)))


def graph_of(wiring: Wiring) -> BlockGraph:
    return BlockGraph(
        tuple(
            Block(str(index), "encoder", read, _never)  # type: ignore[arg-type]
            for index, read in enumerate(wiring)
        )
    )


class Values:
    """Gives equal things equal numbers, as a hash without collisions."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], int] = {}

    def of(self, *what: object) -> int:
        return self._known.setdefault(what, len(self._known))


@dataclass(frozen=True)
class Seen:
    """outputs: by step; read: by step, the blocks whose earlier outputs were read there."""

    outputs: list[int]
    read: list[set[int]]


def interpret(
    wiring: Wiring, run: Sequence[Blocks], values: Values, held: Sequence[Blocks] | None = None
) -> Seen:
    """Blocks that do not run reuse what they gave last; a step's latent follows from the last.

    held: what is left of a step for the next; everything by default. Raises KeyError for what is
    read and was not kept.
    """
    latent, now = values.of("noise"), dict[int, int]()
    seen = Seen([], [])
    for step, bits in enumerate(run):
        ran: set[int] = set()
        wanted = {len(wiring) - 1}
        for block in blocks_of(bits):
            now[block] = values.of(block, step, latent, *(now[item] for item in wiring[block]))
            ran.add(block)
            wanted.update(set(wiring[block]) - ran)
        latent = now[len(wiring) - 1]
        seen.outputs.append(latent)
        seen.read.append(wanted - ran)
        if held is not None:
            now = {block: now[block] for block in blocks_of(held[step])}
    return seen


def blocks_of(bits: Blocks) -> list[int]:
    return [block for block in range(bits.bit_length()) if bits >> block & 1]


@given(masked())
def test_a_rectified_mask_gives_the_same_at_every_step_from_what_is_held(
    case: tuple[Wiring, tuple[Blocks, ...]],
) -> None:
    wiring, mask = case
    graph, values = graph_of(wiring), Values()
    flow = graph.schedule(mask)
    to_the_letter = interpret(wiring, (graph.all, *mask[1:]), values)
    rectified = interpret(wiring, flow.run, values, flow.held)
    assert rectified.outputs == to_the_letter.outputs


@given(masked())
def test_rectifying_only_takes_away(case: tuple[Wiring, tuple[Blocks, ...]]) -> None:
    wiring, mask = case
    run = graph_of(wiring).schedule(mask).run
    assert len(run) == len(mask)
    assert all(now & ~asked == 0 for now, asked in zip(run[1:], mask[1:], strict=True))


@given(masked())
def test_what_is_left_is_needed(case: tuple[Wiring, tuple[Blocks, ...]]) -> None:
    """Without any one of its entries a later step, or this one, would read something older."""
    wiring, mask = case
    graph, values = graph_of(wiring), Values()
    run = graph.schedule(mask).run
    outputs = interpret(wiring, run, values).outputs
    for step, bits in enumerate(run[1:], start=1):
        for block in blocks_of(bits):
            fewer = (*run[:step], bits & ~(1 << block), *run[step + 1 :])
            assert interpret(wiring, fewer, values).outputs != outputs


@given(masked())
def test_rectifying_again_changes_nothing(case: tuple[Wiring, tuple[Blocks, ...]]) -> None:
    wiring, mask = case
    graph = graph_of(wiring)
    flow = graph.schedule(mask)
    assert graph.schedule(flow.run) == flow


@given(masked())
def test_held_is_exactly_what_later_steps_read(case: tuple[Wiring, tuple[Blocks, ...]]) -> None:
    wiring, mask = case
    flow = graph_of(wiring).schedule(mask)
    seen = interpret(wiring, flow.run, Values())
    expected: list[set[int]] = [set() for _ in mask]
    for step, read in enumerate(seen.read):
        for block in read:
            for before in reversed(range(step)):
                expected[before].add(block)
                if flow.run[before] >> block & 1:
                    break
    assert [set(blocks_of(bits)) for bits in flow.held] == expected


@given(masked())
def test_the_first_step_runs_in_full(case: tuple[Wiring, tuple[Blocks, ...]]) -> None:
    wiring, mask = case
    graph = graph_of(wiring)
    assert graph.schedule(mask).run[0] == graph.all


@given(wirings(), st.integers(1, 9))
def test_full_steps_hold_nothing(wiring: Wiring, steps: int) -> None:
    graph = graph_of(wiring)
    flow = graph.schedule([graph.all] * steps)
    assert (flow.run, flow.held) == ((graph.all,) * steps, (0,) * steps)


@given(wirings())
def test_a_block_is_released_by_the_last_that_reads_it(wiring: Wiring) -> None:
    released = graph_of(wiring).released
    freed = [source for sources in released for source in sources]
    assert sorted(freed) == list(range(len(wiring) - 1))
    for index, sources in enumerate(released):
        for source in sources:
            assert source in wiring[index]
            assert not any(source in read for read in wiring[index + 1 :])
