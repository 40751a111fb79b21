"""What skipping costs in score: the patterns that a load ran, on many prompts, paired.

A pattern is drawn again by its directives, in large batches of mixed requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Any

import numpy as np
from rich.progress import track

from baton.common.arm import Arm
from baton.common.diffusion.executor import denoise_step
from baton.common.diffusion.run import Run, start_run
from baton.common.expansion import plan_of
from baton.common.families.loaded import LoadedFamily
from baton.common.limits import Branches
from baton.common.plan import OpenPlan, StepDirective
from baton.common.quality.scores import summarise
from baton.common.quality.verifier import Quality, Scorer
from tests.bench.ratios import paired_difference
from tests.bench.serving.metrics import Slice
from tests.bench.serving.systems import Picture

_BATCH = 25
_BRANCHES: Mapping[str, Branches] = {"b": "both", "p": "positive", "r": "reuse"}


@dataclass(frozen=True)
class Case:
    """What is drawn: a prompt with its noise, and one pattern for each load."""

    prompt: str
    seed: int
    patterns: tuple[str, ...]


def cases(
    prompts: Sequence[str], seed: int, loads: Sequence[Sequence[Slice]], side: int
) -> list[Case]:
    """Each prompt with what one request of the trace ran under each of the loads.

    Raises ValueError if no request of this side was done under all of them.
    """
    found = [_patterns(slices, side) for slices in loads]
    common = sorted(set.intersection(*(set(patterns) for patterns in found)))
    if not common:
        raise ValueError("no request was done under all of the loads")
    keys = islice(cycle(common), len(prompts))
    return [
        Case(prompt, seed * 1_000_000 + number, tuple(patterns[key] for patterns in found))
        for number, (prompt, key) in enumerate(zip(prompts, keys, strict=True))
    ]


def _patterns(slices: Sequence[Slice], side: int) -> dict[tuple[int, int], str]:
    """By the slice's number and the request's, of those that were done."""
    return {
        (number, request.index): request.pattern
        for number, part in enumerate(slices)
        for request in part.requests
        if request.pattern and request.side == side
    }


def pattern_plan(family: LoadedFamily, member: str, pattern: str) -> OpenPlan:
    """A whole picture whose steps run so."""
    arm, scale = Arm.parse(f"edge/{member}"), family.spec.default_guidance
    full = plan_of(arm, family.name, "ddim", len(pattern), scale)
    (segment,) = full.segments
    directives = tuple(StepDirective(_BRANCHES[letter]) for letter in pattern)
    return replace(full, segments=(replace(segment, directives=directives),))


#: Prompt, seed of the noise, plan.
Asked = tuple[str, int, OpenPlan]


def pictures(family: LoadedFamily, asked: Sequence[Asked], title: str) -> list[Picture]:
    """Of the family's default size, all of them here, in batches."""
    starts = range(0, len(asked), _BATCH)
    found: list[Picture] = []
    for start in track(starts, description=f"{title:<12}", transient=True):
        found += [family.decode(run.x) for run in _runs(family, asked[start : start + _BATCH])]
    return found


def _runs(family: LoadedFamily, asked: Sequence[Asked]) -> list[Run]:
    """Denoised to their ends, each with the members of its own plan."""
    shape = family.latent_shape(family.spec.default_size)
    runs = [
        start_run(plan.closed(), family.course(plan), family.encode_text(prompt), seed, shape)
        for prompt, seed, plan in asked
    ]
    while going := [run for run in runs if run.step < run.plan.steps]:
        for member in sorted({run.member for run in going}):
            alike = [run for run in going if run.member == member]
            denoise_step(alike, family.denoiser(member))
            _check(alike)
    return runs


def _check(runs: Sequence[Run]) -> None:
    for run in runs:
        if run.error is not None:
            raise run.error


def scored(
    family: LoadedFamily, member: str, given: Sequence[Case], names: Sequence[str], scorer: Scorer
) -> dict[str, dict[str, Any]]:
    """By load, and ``unbatched`` for every step in full: scores, and the paired differences."""
    patterns = {"unbatched": ["b" * len(case.patterns[0]) for case in given]}
    patterns |= {name: [case.patterns[place] for case in given] for place, name in enumerate(names)}
    found = {}
    for name, of in patterns.items():
        plans = [pattern_plan(family, member, pattern) for pattern in of]
        asked = [(case.prompt, case.seed, plan) for case, plan in zip(given, plans, strict=True)]
        found[name] = qualities(pictures(family, asked, name), asked, scorer)
    return {
        name: _told(of, found["unbatched"]) | {"skipped_share": _skipped(patterns[name])}
        for name, of in found.items()
    }


def qualities(drawn: Sequence[Picture], asked: Sequence[Asked], scorer: Scorer) -> list[Quality]:
    """Raises ValueError for a prompt that the scorer cannot read."""
    return [_quality(scorer, picture, of[0]) for picture, of in zip(drawn, asked, strict=True)]


def _quality(scorer: Scorer, picture: Picture, prompt: str) -> Quality:
    found = scorer(picture, prompt)
    if found is None:
        raise ValueError(f"{prompt!r} cannot be scored")
    return found


def _skipped(patterns: Sequence[str]) -> float:
    steps = "".join(patterns)
    return 1 - steps.count("b") / len(steps)


def _told(of: Sequence[Quality], full: Sequence[Quality]) -> dict[str, Any]:
    score = summarise([one.graded for one in of], [one.strict for one in of])
    graded = [np.array([one.graded for one in some]) for some in (of, full)]
    apart = paired_difference(*graded)
    return score.as_dict() | {
        "graded_minus_unbatched": apart.mean,
        "graded_minus_unbatched_low": apart.low,
        "graded_minus_unbatched_high": apart.high,
    }
