"""The relay's curve: score against seconds for every way to share a picture's steps.

RISE (relay inference and online scheduling) has a large model on the edge run the first steps and
hand the latent to a smaller one of the same family on the device; T-Stitch relays the other way
round. Here both are measured at every tenth of 50 steps (DDIM, guided), with three segments too,
beside each member alone, each member at fewer steps with its best sampler (what a user has without
Baton), and a foreign member that must fail (the negative control; its refusal by the platform is
bypassed).

The cut is chosen on one set of prompts and measured on another:

1. *selection*: every configuration on ``count`` prompts, timed at batch 1 over a gRPC loopback;
2. up to 12 relays that are within the margins on average again, on ``refine`` prompts of the same
   set. The headline's candidates are the fastest whose mean paired loss against `large` is within
   0.03 graded and 0.05 strict; within half of that; and within none (`ladder`). The headline asks
   whole intervals to be within, which so few prompts could not show;
3. *headline*: the candidates, every member alone, and the alternatives next to the candidates'
   score, on ``headline`` other prompts, timed anew in one interleaved run. Since up to three
   candidates are looked at, their intervals are at 1 - 0.05 / candidates.

``ratios``:

- ``relay_speedup``: median over interleaved rounds of seconds(large alone, all steps) /
  seconds(relay), for the fastest candidate that the headline confirms within the margins; null if
  it confirms none. Edge and device are the same machine here: a slower device shifts it.
- ``relay_vs_fewer_steps``: seconds in which the best single member at fewer steps reaches that
  relay's graded score (`seconds_to_reach`) / seconds(relay). Above 1 the relay is faster. If no
  single member reaches the score, the best-scoring one's seconds stand for it, and
  ``relay_vs_fewer_steps_reached`` is false: then the ratio is a lower bound.
- ``platform_overhead``: share of time that a relayed request spends beyond the same plan run by the
  executor alone (`tests.bench.overhead`).

Run ``python -m tests.bench.relay``; drawn scores are kept in ``build/bench-cache``, so a broken run
goes on where it was.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from baton.common.arm import Arm
from baton.common.families.loaded import LoadedFamily, load_family
from baton.common.families.manifest import find_family
from baton.common.families.scenes.evaluate import Case, seeded_cases, world_drawn_by
from baton.common.limits import SAMPLERS, SamplerName
from baton.common.plan import OpenPlan
from baton.common.quiet import quiet_libraries
from tests.bench import plots, report
from tests.bench.configs import FOREIGN, MEMBERS, RELAYS, Config, Configs, Grid
from tests.bench.curves import Drawing, Studio
from tests.bench.overhead import Overhead, measure_overhead
from tests.bench.ratios import (
    GRADED_MARGIN,
    Candidate,
    bracket,
    ladder,
    paired_ratio,
    spread,
)
from tests.bench.rows import Measured, rows_of
from tests.bench.timing import one_thread, time_configs
from tests.support.foreign import ForeignFamily, write_foreign

CACHE = report.ROOT / "build" / "bench-cache"
_HEADLINE_SEED_OFFSET = 101
_REFINED = 12  # candidates drawn again on more prompts
_OUT_OF_REACH = 2 * GRADED_MARGIN


@dataclass(frozen=True)
class Size:
    """How much is drawn: prompts per set, rounds of timing, pairs for the overhead."""

    count: int = 100
    refine: int = 300
    headline: int = 1000
    rounds: int = 3
    headline_rounds: int = 15
    pairs: int = 30
    grid: Grid = field(default_factory=Grid)


QUICK = Size(2, 3, 4, 1, 2, 2, Grid(steps=5, tenths=(4, 8), fewer=(2, 4), trial=(2,)))


class Relay:
    """One run of the benchmark. seed: of the selection's prompts; the headline's are others."""

    def __init__(self, family: LoadedFamily, studio: Studio, size: Size, seed: int) -> None:
        self.family = family
        self.size = size
        self.seed = seed
        self.configs = Configs(family.spec, size.grid)
        self.studio = studio
        self.reference = self.configs.alone()[0]
        self.world = world_drawn_by(family)

    def select(self) -> Measured:
        """Every configuration on the selection's prompts; alternatives with their best sampler."""
        cases = seeded_cases(self.world, self.size.count, self.seed)
        relays = [*self.configs.alone(), *self.configs.relays(), *self.configs.foreign()]
        with _stage(f"drawing {len(relays)} configurations"):
            drawings = self.studio.draw([c.plan for c in relays], cases, "relays")
        trials = self.configs.trials()
        with _stage("drawing the alternatives"):
            drawings |= self.studio.draw([c.plan for c in trials], cases, "samplers")
            fewer = self.configs.fewer(_best_samplers(trials, drawings))
            drawings |= self.studio.draw([c.plan for c in fewer], cases, "fewer steps")
        timed = [c for c in [*relays, *fewer] if c.kind != "foreign"]
        timings = self._time(timed, cases, self.size.rounds)
        configs = list(dict.fromkeys([*relays, *fewer, *trials]))
        return Measured("selection", cases, configs, drawings, timings, self.reference)

    def refine(self, selection: Measured) -> list[Config]:
        """The headline's candidates, chosen on more prompts of the selection's set."""
        cases = seeded_cases(self.world, self.size.refine, self.seed)
        relays = [config for config in selection.configs if config.kind in RELAYS]
        hopeful = _hopeful(selection, relays)
        with _stage(f"drawing {len(hopeful)} candidates again"):
            plans = [self.reference.plan, *(config.plan for config in hopeful)]
            drawings = self.studio.draw(plans, cases, "candidates")
        refined = replace(selection, cases=cases, configs=hopeful, drawings=drawings)
        named = {config.name: config for config in hopeful}
        candidates = [
            Candidate(config.name, selection.seconds(config), refined.loss(config))
            for config in hopeful
        ]
        return [named[name] for name in ladder(candidates)]

    def headline(self, selection: Measured, candidates: Sequence[Config]) -> Measured:
        cases = seeded_cases(self.world, self.size.headline, self.seed + _HEADLINE_SEED_OFFSET)
        alone = self.configs.alone()
        alternatives = _alternatives_near(selection, candidates)
        configs = [*alone, *candidates, *alternatives]
        with _stage(f"drawing {len(configs)} configurations for the headline"):
            drawings = self.studio.draw([c.plan for c in configs], cases, "headline")
        timings = self._time(configs, cases, self.size.headline_rounds)
        return Measured("headline", cases, configs, drawings, timings, self.reference)

    def overhead(self, arm: Arm) -> Overhead:
        cases = seeded_cases(self.world, self.size.pairs, self.seed)
        with _stage(f"{self.size.pairs} pairs for the platform's overhead"):
            return asyncio.run(measure_overhead(self.family, arm, self.size.grid.steps, cases))

    def _time(self, configs: Sequence[Config], cases: Sequence[Case], rounds: int) -> Any:
        with _stage(f"timing {len(configs)} configurations, {rounds} rounds"):
            return asyncio.run(time_configs(self.family, configs, cases[:rounds], "timing"))


def _best_samplers(
    trials: Sequence[Config], drawings: Mapping[OpenPlan, Drawing]
) -> dict[str, SamplerName]:
    """Per member, the sampler with the highest graded score, mean over the trial's step counts."""

    def mean(member: str, sampler: SamplerName) -> float:
        tried = [c for c in trials if (c.members[0], c.sampler) == (member, sampler)]
        return fmean(drawings[config.plan].graded.mean() for config in tried)

    return {member: max(SAMPLERS, key=lambda s: mean(member, s)) for member in MEMBERS}


def _hopeful(selection: Measured, relays: Sequence[Config]) -> list[Config]:
    """Relays that more prompts could show to be within the margins, from fast to slow.

    If there are none: the three that lose least.
    """
    able = [config for config in relays if selection.loss(config).may_be_within()]
    if able:
        return spread(sorted(able, key=selection.seconds), _REFINED)
    return sorted(relays, key=lambda c: -selection.loss(c).graded.mean)[:3]


def _alternatives_near(selection: Measured, candidates: Sequence[Config]) -> list[Config]:
    """Of each member, the step counts next to the candidates' mean score, below and above.

    A member that stays far below a score on the selection's prompts will not reach it on others.
    """
    fewer = [config for config in selection.configs if config.kind == "fewer steps"]
    score = fmean(selection.drawing(config).graded.mean() for config in candidates)
    near = {
        point.name
        for points in selection.alternatives().values()
        if any(point.graded >= score - _OUT_OF_REACH for point in points)
        for point in bracket(points, score)
    }
    return [config for config in fewer if config.name in near]


def ratios_of(
    headline: Measured, candidates: Sequence[Config], overhead: Overhead
) -> dict[str, Any]:
    """The report's ``ratios``, as this module's docstring defines them."""
    confidence = 1 - 0.05 / len(candidates)
    by_speed = sorted(candidates, key=headline.seconds)
    confirmed = [c for c in by_speed if headline.loss(c, confidence).within()]
    ratios: dict[str, Any] = {
        "relay": None,
        "relay_confirmed_within_margins": bool(confirmed),
        "relay_speedup": None,
        "relay_vs_fewer_steps": None,
    }
    if confirmed:
        ratios |= _relay_ratios(headline, confirmed[0])
    return ratios | {
        "platform_overhead": overhead.overhead_share,
        "platform_overhead_seconds": overhead.overhead_seconds,
        "platform_overhead_within": overhead.within,
    }


def _relay_ratios(headline: Measured, relay: Config) -> dict[str, Any]:
    speedup = paired_ratio(headline.totals(headline.reference), headline.totals(relay))
    graded = float(headline.drawing(relay).graded.mean())
    alternative = headline.seconds_of_alternative(graded)
    reached = alternative is not None
    if alternative is None:
        points = [point for of in headline.alternatives().values() for point in of]
        alternative = max(points, key=lambda point: point.graded).seconds
    return {
        "relay": relay.name,
        "relay_speedup": speedup.median,
        "relay_speedup_ci95": (speedup.low, speedup.high),
        "relay_vs_fewer_steps": alternative / headline.seconds(relay),
        "relay_vs_fewer_steps_reached": reached,
    }


def run(size: Size, seed: int, folder: Path, cache: Path = CACHE) -> Path:
    """Measure everything and write ``relay.json`` and both plots to a folder."""
    family = load_family()
    with tempfile.TemporaryDirectory() as place:
        foreign = ForeignFamily(write_foreign(find_family(family.name), Path(place) / FOREIGN))
    studio = Studio(family, {FOREIGN: (foreign, "small")}, cache)
    bench = Relay(family, studio, size, seed)
    selection = bench.select()
    candidates = bench.refine(selection)
    headline = bench.headline(selection, candidates)
    arm = Arm.relay("large", "small", 0.4)
    overhead = bench.overhead(arm)
    ratios = ratios_of(headline, candidates, overhead)
    path = report.write(
        "relay",
        rows=[*rows_of(headline), *rows_of(selection), overhead.row(str(arm))],
        ratios=ratios,
        scores={c.name: headline.drawing(c).score().as_dict() for c in headline.configs},
        folder=folder,
    )
    plots.score_against_seconds(selection, folder / "relay.png")
    plots.intensity_against_step(selection, folder / "relay-intensity.png")
    for name, value in ratios.items():
        print(f"{name}: {value}")
    return path


@contextmanager
def _stage(what: str) -> Iterator[None]:
    begun, used = time.perf_counter(), time.process_time()
    yield
    wall, processor = time.perf_counter() - begun, time.process_time() - used
    print(f"{what}: {wall:.0f} s, {processor:.0f} s of processor", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="The relay's curve.")
    parser.add_argument("--count", type=int, default=Size.count, help="prompts of the selection")
    parser.add_argument("--refine-count", type=int, default=Size.refine, help="for its candidates")
    parser.add_argument("--headline-count", type=int, default=Size.headline, help="other prompts")
    parser.add_argument("--seed", type=int, default=101, help="of the selection's prompts")
    parser.add_argument("--quick", action="store_true", help="a toy run: it proves nothing")
    parser.add_argument("--out", type=Path, default=None, help="folder of the results")
    asked = parser.parse_args()
    quiet_libraries()
    one_thread()
    size = replace(
        Size(), count=asked.count, refine=asked.refine_count, headline=asked.headline_count
    )
    folder = asked.out or (report.ROOT / "build/bench-quick" if asked.quick else report.FOLDER)
    print(run(QUICK if asked.quick else size, asked.seed, folder))


if __name__ == "__main__":
    main()
