"""The stages of the relay's benchmark: what is drawn, on which prompts, and what is timed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from baton.common.families.loaded import LoadedFamily
from baton.common.families.scenes.evaluate import seeded_cases, world_drawn_by
from baton.common.limits import MAX_STEPS
from baton.common.plan import OpenPlan
from tests.bench.arms import FOREIGN, RELAYS, Entry, controls, entries, reference
from tests.bench.choosing import Option, best_of_each_count, hopeful, ladder, likely_equal
from tests.bench.curves import Drawing, Studio
from tests.bench.figures import DEFAULT, EQUAL_STEPS, LOOPBACK, Chosen, default_arm
from tests.bench.product import SHAPED, Billed, Setting, bill, check_alike
from tests.bench.rows import Measured
from tests.bench.timing import Drawn, time_plans

_WITHOUT_LARGE = "device/small*3>device/finisher*5"
#: `large` is a candidate for the baseline up to so many steps.
_FEW = 10
#: Always told on the headline's prompts, if the family has their members.
_TOLD = (
    "edge/large 10",
    "edge/large*3>edge/large^1*2",
    "edge/large*4>edge/large^1*1",
    "edge/large*4>device/small*6",
    "edge/large*4>device/small^1*6",
    "edge/large*4>device/medium^1*6",
    "device/small*4>edge/large*6",
    _WITHOUT_LARGE,
)
#: On the refined ones, as the cost of many steps allows.
_TOLD_ON_FEWER = (
    "edge/large 20",
    "edge/large 20 deepcache-3",
    "edge/large 20 propagate",
    "edge/large@0.4>device/small 50",
    "edge/large@0.4>device/small^1 50",
    "edge/large@0.4>device/medium^1 50",
    "device/small@0.4>edge/large 50",
    "edge/large@s1.5>device/finisher 20",
    "edge/large@s1.5>device/finisher 20 propagate",
    "edge/large@s1.5>device/finisher 20 masks",
    "edge/large@s1.5>device/finisher 20 full",
    "edge/large@s1.5>device/finisher 50",
    f"edge/large@0.4>device/{FOREIGN} 50",
)
#: Relays over the longer of the short grids.
_LONGER = (
    "edge/large*3>device/finisher*5",
    "edge/large*4>device/finisher*4",
    "device/small*1>edge/large*3>device/finisher*4",
    "device/small*2>edge/large*2>device/finisher*6",
)
#: Of these, drawn through the product besides what was chosen.
_BILLED = ("edge/large*4>device/small*6", "device/small*4>edge/large*6", _WITHOUT_LARGE)


@dataclass(frozen=True)
class Size:
    """How much is drawn: prompts per set, rounds of timing.

    alike: pictures of an arm that nodes draw, too; most_steps: of arms beside the reference.
    """

    count: int = 100
    refine: int = 200
    headline: int = 1000
    rounds: int = 3
    headline_rounds: int = 21
    settings: tuple[Setting, ...] = (
        Setting(LOOPBACK, 21),
        Setting("shaped", 5, SHAPED),
        Setting("3x", 5, slower=3.0),
        Setting("10x", 5, slower=10.0),
    )
    alike: int = 3
    most_steps: int = MAX_STEPS


QUICK = Size(
    count=2,
    refine=3,
    headline=4,
    rounds=1,
    headline_rounds=2,
    settings=(
        Setting(LOOPBACK, 2),
        Setting("shaped", 1, SHAPED),
        Setting("3x", 1, slower=3.0),
    ),
    alike=1,
    most_steps=10,
)


class Stages:
    """One run of the benchmark. seeds: of the selection's prompts, and of the headline's."""

    def __init__(
        self, family: LoadedFamily, studio: Studio, size: Size, seeds: tuple[int, int]
    ) -> None:
        self.family = family
        self.studio = studio
        self.size = size
        self.seeds = seeds
        self.world = world_drawn_by(family)
        spec = family.spec
        self.default = Entry("finisher", default_arm(spec))
        made = [self.default, *entries(family), *controls()]
        self.reference = reference().name
        plans = {entry: entry.plan(family) for entry in made}
        most = size.most_steps
        kept = [e for e in made if plans[e].steps <= most or e.name == self.reference]
        self.entries = {entry.name: entry for entry in kept}
        self.plans = {entry.name: plans[entry] for entry in kept}

    def select(self) -> Measured:
        """Every arm on the selection's prompts."""
        return self._draw("selection", list(self.entries), self.size.count)

    def refine(self, selection: Measured) -> Measured:
        """The best-spaced runs of `large`, and the relays that may be best, on more prompts."""
        large = best_of_each_count(self._few(selection, ("large",)))
        baseline = likely_equal(large, selection.option(self.reference, 0.0))
        names = [option.name for option in large.values()]
        for kinds in (RELAYS, ("partly unguided",)):
            names += hopeful(self._few(selection, kinds), baseline)
        always = (self.reference, *self._equal_steps(), *_TOLD_ON_FEWER, *_LONGER)
        always = (*always, self.default.name, *self._well_spaced())
        names += [name for name in always if name in self.entries]
        return self._draw("refined", names, self.size.refine)

    def headline(self, refined: Measured) -> Measured:
        large = best_of_each_count(self._few(refined, ("large",)))
        names = [*self._well_spaced(), *(option.name for option in large.values())]
        always = (self.reference, *_TOLD, *EQUAL_STEPS["relay_at_equal_steps"])
        names += [*self.candidates(refined), *(name for name in always if name in self.entries)]
        return self._draw("headline", names, self.size.headline)

    def candidates(self, refined: Measured) -> list[str]:
        """Relays from the fastest to the most careful, and the default."""
        large = best_of_each_count(self._few(refined, ("large",)))
        baseline = likely_equal(large, refined.option(self.reference, 0.0))
        chosen = ladder(self._few(refined, RELAYS), baseline)
        return list(dict.fromkeys([*chosen, self.default.name]))

    def time(self, names: Sequence[str], rounds: int) -> dict[str, list[Drawn]]:
        cases = seeded_cases(self.world, rounds, self.seeds[0])
        able = {name: self.plans[name] for name in names if self.entries[name].kind != FOREIGN}
        with _stage(f"timing {len(able)} arms in process, {rounds} rounds"):
            return time_plans(self.family, able, cases, "in process")

    def bill(self, chosen: Chosen) -> tuple[dict[str, Billed], dict[str, Entry]]:
        """What was chosen, through the product."""
        compared = (chosen.baseline, chosen.less, chosen.relay, chosen.careful)
        picked = (*compared, self.reference, *_BILLED)
        names = dict.fromkeys(name for name in (*picked, *self._equal_steps()) if name)
        drawn = {name: self.entries[name] for name in names if name in self.entries}
        drawn[DEFAULT] = Entry("default", "")
        default = DEFAULT, self.plans[self.default.name]
        billed: dict[str, Billed] = {}
        for setting in self.size.settings:
            cases = seeded_cases(self.world, setting.rounds, self.seeds[0])
            with _stage(f"{len(drawn)} arms through the product, {setting.name}"):
                billed[setting.name] = bill(self.family, drawn, cases, setting, default)
        return billed, drawn

    def check(self, headline: Measured) -> dict[str, Any]:
        """What nodes draw against what was scored."""
        always = (self.default.name, *self._equal_steps(), *_BILLED)
        names = [name for name in always if name in headline.drawings]
        checked = [headline.entries[name] for name in names]
        few = {n: headline.drawings[n].pictures[: self.size.alike] for n in names}
        with _stage("comparing with pictures that nodes draw"):
            return check_alike(self.family, checked, headline.cases, few)

    def _equal_steps(self) -> list[str]:
        return [name for pair in EQUAL_STEPS.values() for name in pair]

    def _well_spaced(self) -> list[str]:
        """`large` over the family's own grids of few levels."""
        names = (f"edge/large*{steps}" for _, steps in self.family.spec.named_grids)
        return [n for n in names if n in self.entries and self.plans[n].steps <= _FEW]

    def _few(self, measured: Measured, kinds: Sequence[str]) -> list[Option]:
        return [o for o in self._options(measured, kinds) if o.steps <= _FEW]

    def _options(self, measured: Measured, kinds: Sequence[str]) -> list[Option]:
        return [
            measured.option(name, self._macs(self.plans[name]))
            for name in measured.drawings
            if self.entries[name].kind in kinds
        ]

    def _macs(self, plan: OpenPlan) -> float:
        """Stands for the time of a plan in full, so that no clock decides what is drawn."""
        total = 0
        for step in range(plan.steps):
            member = plan.segment_at(step).member
            macs = self.family.profile(member).macs_of(self.family.blocks(member).all)
            total += len(plan.branches_at(step)) * macs
        return float(total)

    def _draw(self, prompts: str, names: Sequence[str], count: int) -> Measured:
        names = list(dict.fromkeys(names))
        cases = seeded_cases(self.world, count, self.seeds[prompts == "headline"])
        drawn = {name: self.entries[name].drawn(self.family) for name in names}
        with _stage(f"drawing {len(names)} arms for the {prompts}, {count} prompts"):
            found = self.studio.draw(list(drawn.values()), cases, prompts)
        drawings: Mapping[str, Drawing] = {name: found[plan] for name, plan in drawn.items()}
        return Measured(prompts, cases, self.entries, self.plans, drawings, {}, self.reference)


@contextmanager
def _stage(what: str) -> Iterator[None]:
    begun, used = time.perf_counter(), time.process_time()
    yield
    wall, processor = time.perf_counter() - begun, time.process_time() - used
    print(f"{what}: {wall:.0f} s, {processor:.0f} s of processor", flush=True)
