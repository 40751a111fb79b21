"""Hypothesis strategies for the domain's values."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as stnp

from baton.common.arm import Arm, Stretch
from baton.common.guidance import GuidanceBudget
from baton.common.latents import HistoryEntry, LatentState, NoiseLevel
from baton.common.limits import (
    ACCELS,
    BRANCHES,
    GUIDANCE_KINDS,
    LOCATIONS,
    MAX_AHEAD,
    MAX_BLOCKS,
    MAX_GUIDANCE,
    MAX_NAME_CHARS,
    MAX_PRIOR_NOISE,
    MAX_SEGMENTS,
    MAX_STEPS,
    SAMPLERS,
)
from baton.common.plan import Grid, Guidance, OpenPlan, OpenSegment, StepDirective

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=MAX_NAME_CHARS)
#: Member names that an arm's name can hold.
arm_members = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
fractions = st.floats(0.0, 1.0, exclude_min=True, exclude_max=True, allow_subnormal=False)
#: Few values beside any, so that neighbours are often alike.
blocks = st.none() | st.sampled_from([0, 1, 6, 255, 256]) | st.integers(0, (1 << MAX_BLOCKS) - 1)
ahead = st.just(0) | st.integers(0, MAX_AHEAD)
prior_noises = st.just(0.0) | st.floats(0.0, MAX_PRIOR_NOISE)
directives = st.builds(StepDirective, st.sampled_from(BRANCHES), blocks, ahead, prior_noises)
guidances = st.builds(Guidance, st.floats(0.0, MAX_GUIDANCE), st.sampled_from(GUIDANCE_KINDS))
budgets = st.builds(
    GuidanceBudget, st.floats(0.0, 1.0), st.integers(0, 9), st.sampled_from(BRANCHES[1:])
)


@st.composite
def plans(draw: st.DrawFn, max_steps: int = 40) -> OpenPlan:
    """Any segments, on one grid or on several."""
    steps = draw(st.integers(1, max_steps))
    inner = st.integers(1, steps - 1) if steps > 1 else st.nothing()
    cuts = sorted(draw(st.sets(inner, max_size=min(steps, MAX_SEGMENTS) - 1)))
    grids = _grids(draw, steps, cuts)
    segments = []
    for start, stop in zip([0, *cuts], [*cuts, steps], strict=True):
        count = stop - start
        chosen = tuple(draw(st.lists(directives, min_size=count, max_size=count)))
        place = draw(names), draw(st.sampled_from(LOCATIONS)), start, stop
        (grid,) = (grid for grid in grids if grid.start <= start < grid.stop)
        accel = draw(st.sampled_from(ACCELS))
        segments.append(OpenSegment(*place, grid, draw(guidances), chosen, accel))
    family = draw(st.text(st.characters(codec="utf-8"), max_size=20))
    return OpenPlan(family, tuple(segments), draw(st.none() | budgets))


def _grids(draw: st.DrawFn, steps: int, cuts: list[int]) -> list[Grid]:
    ends = [cut for cut in cuts if draw(st.booleans())]
    grids = []
    for index, (start, stop) in enumerate(zip([0, *ends], [*ends, steps], strict=True)):
        until = None if stop == steps else 10.0 / (index + 1)
        named = not ends and draw(st.booleans())
        names = ("tuned", "d" * 32) if named else ("", "")
        grids.append(Grid(draw(st.sampled_from(SAMPLERS)), start, stop, until, *names))
    return grids


sigmas = st.floats(1e-3, 1e3)


@st.composite
def arms(draw: st.DrawFn, most: int = 4) -> Arm:
    """Of any number of stretches: with shares, with levels, or with steps of their own."""
    count = draw(st.integers(1, most))
    places = [(draw(st.sampled_from(LOCATIONS)), draw(arm_members)) for _ in range(count)]
    if draw(st.booleans()):
        levels = sorted(draw(_distinct(sigmas, count - 1)), reverse=True)
        cuts = [level if draw(st.booleans()) else None for level in levels] + [None]
        steps = [draw(st.integers(1, MAX_STEPS // most)) for _ in range(count)]
        return Arm(
            tuple(
                Stretch(*place, number, sigma=cut)
                for place, number, cut in zip(places, steps, cuts, strict=True)
            )
        )
    kind = draw(st.sampled_from(["share", "sigma"]))
    found = draw(_distinct(fractions if kind == "share" else sigmas, count - 1))
    cuts = [*sorted(found, reverse=kind == "sigma"), None]
    return Arm(
        tuple(Stretch(*place, **{kind: cut}) for place, cut in zip(places, cuts, strict=True))
    )


def _distinct(values: st.SearchStrategy[float], count: int) -> st.SearchStrategy[list[float]]:
    return st.lists(values, min_size=count, max_size=count, unique=True)


@st.composite
def choices(draw: st.DrawFn) -> Arm:
    """Arms that the bandit makes."""
    kind = draw(st.sampled_from(["device", "edge", "relay"]))
    if kind == "relay":
        return Arm.relay(draw(arm_members), draw(arm_members), draw(fractions))
    return (Arm.device if kind == "device" else Arm.edge)(draw(arm_members))


levels = (
    st.tuples(st.floats(0, 1e4), st.floats(0, 1e4))
    .filter(lambda pair: max(pair) > 0)
    .map(lambda pair: NoiseLevel(*pair))
)
#: Levels such as schedules have, far from under- and overflow.
ordinary_levels = st.builds(NoiseLevel, st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))


@st.composite
def states(draw: st.DrawFn, largest: float = 1e3) -> LatentState:
    """Paused requests with small latents and up to four history entries."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)))
    values = st.floats(-largest, largest, width=32, allow_subnormal=False)
    arrays = stnp.arrays(np.float32, shape, elements=values)
    steps = draw(st.integers(1, 200))
    return LatentState(
        x=draw(arrays),
        level=draw(levels),
        step=draw(st.integers(0, steps)),
        steps=steps,
        sampler=draw(st.sampled_from(SAMPLERS)),
        history=tuple(draw(st.lists(st.builds(HistoryEntry, levels, arrays), max_size=4))),
        rng=draw(st.binary(max_size=64)),
    )
