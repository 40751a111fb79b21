"""Hypothesis strategies for the domain's values."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as stnp

from baton.common.latents import HistoryEntry, LatentState, NoiseLevel
from baton.common.plan import (
    ACCELS,
    LOCATIONS,
    MAX_AHEAD,
    MAX_BLOCKS,
    MAX_GUIDANCE,
    MAX_NAME_CHARS,
    MAX_PRIOR_NOISE,
    MAX_SEGMENTS,
    SAMPLERS,
    Arm,
    Plan,
    Segment,
    StepDirective,
)

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=MAX_NAME_CHARS)
#: Member names that an arm's name can hold.
arm_members = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
fractions = st.floats(0.0, 1.0, exclude_min=True, exclude_max=True, allow_subnormal=False)
#: Few values beside any, so that neighbours are often alike.
blocks = st.none() | st.sampled_from([0, 1, 6, 255, 256]) | st.integers(0, (1 << MAX_BLOCKS) - 1)
ahead = st.just(0) | st.integers(0, MAX_AHEAD)
prior_noises = st.just(0.0) | st.floats(0.0, MAX_PRIOR_NOISE)
directives = st.builds(StepDirective, st.booleans(), blocks, ahead, prior_noises)


@st.composite
def plans(draw: st.DrawFn, max_steps: int = 40) -> Plan:
    steps = draw(st.integers(1, max_steps))
    inner = st.integers(1, steps - 1) if steps > 1 else st.nothing()
    cuts = sorted(draw(st.sets(inner, max_size=min(steps, MAX_SEGMENTS) - 1)))
    segments = []
    for start, stop in zip([0, *cuts], [*cuts, steps], strict=True):
        count = stop - start
        chosen = tuple(draw(st.lists(directives, min_size=count, max_size=count)))
        place = draw(st.sampled_from(LOCATIONS))
        segments.append(Segment(draw(names), place, start, stop, chosen))
    return Plan(
        family=draw(st.text(st.characters(codec="utf-8"), max_size=20)),
        sampler=draw(st.sampled_from(SAMPLERS)),
        steps=steps,
        guidance_scale=draw(st.floats(0.0, MAX_GUIDANCE)),
        segments=tuple(segments),
        accel=draw(st.sampled_from(ACCELS)),
    )


@st.composite
def arms(draw: st.DrawFn) -> Arm:
    kind = draw(st.sampled_from(["device", "edge", "relay"]))
    if kind == "relay":
        return Arm("relay", (draw(arm_members), draw(arm_members)), draw(fractions))
    return Arm(kind, (draw(arm_members),), float(kind == "edge"))


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
