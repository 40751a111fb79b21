"""``make bench-world``: what each step of a family of scenes decides, and who may take it.

Rows of ``bench/world.json``, all over the same prompts and noise, scored by the exact verifier:

- ``levels``: along one trajectory of the first member, the x0 prediction at every noise level,
  decoded and scored per kind of fact (shape with count, colour, size, surface, place, background).
  ``late`` is what a kind gains below sigma 1: the family is worth finishing if surface gains and
  place does not.
- ``steps``, ``alone``: the first and the last member alone, at several numbers of steps.
- ``shares``: the first member, then the last, cut at a share of the steps; and the mirror.
- ``finisher``: the first member guided down to a sigma, then the finisher in one branch.

Of a family that is only there to be compared with (``--beside``) the levels are measured alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch

mpl.use("Agg")

from matplotlib import pyplot as plt

from baton.common.diffusion.denoiser import Denoiser
from baton.common.diffusion.executor import denoise_step
from baton.common.diffusion.run import Run, start_run
from baton.common.families.loaded import LoadedFamily, load_family
from baton.common.families.scenes.cases import Case, seeded_cases
from baton.common.families.scenes.evaluate import whole_members, world_drawn_by
from baton.common.families.scenes.training.members import FINISHER
from baton.common.families.scenes.verify import Verdict, verify
from baton.common.files import saving
from baton.common.plan import FULL_STEP, OpenPlan, StepDirective
from baton.common.quality.scores import Score, summarise
from baton.common.quiet import quiet_libraries
from tests.bench import report
from tests.support.tasks import plan_in

KINDS = ("shape", "color", "size", "surface", "place", "background")
LATE = 1.0  # sigma
FEWER = (4, 6, 10, 20, 50)
SHARES = (0.2, 0.4, 0.6, 0.8)
CUTS = (1.45, 0.8, 0.36)

_BATCH = 25
_ONE_BRANCH = StepDirective("positive")


@dataclass(frozen=True)
class Mix:
    """Members in turn. stretches: (member, whether guided, step at which it ends)."""

    steps: int
    stretches: tuple[tuple[str, bool, int], ...]

    def plan(self, family: LoadedFamily) -> OpenPlan:
        stretches, start = [], 0
        for member, guided, stop in self.stretches:
            if stop > start:
                directives = (FULL_STEP if guided else _ONE_BRANCH,) * (stop - start)
                stretches.append((member, "device", start, stop, directives))
                start = stop
        return plan_in(family.name, "ddim", family.spec.default_guidance, *stretches)

    @property
    def name(self) -> str:
        told, start = [], 0
        for member, _, stop in self.stretches:
            told.append(f"{member} {stop - start}")
            start = stop
        return " > ".join(told)


Watch = Callable[[int, list[Run]], None]


class Studio:
    """Draws mixes of a family's members and its finisher, over the same cases."""

    def __init__(self, family: LoadedFamily, cases: Sequence[Case]) -> None:
        self.family, self.cases = family, cases
        self.denoisers: dict[str, Denoiser] = {m: family.denoiser(m) for m in family.members}

    @property
    def first(self) -> str:
        return self.family.members[0]

    @property
    def last(self) -> str:
        return whole_members(self.family)[-1]

    def draw(
        self, mix: Mix, watch: Callable[[int, list[Run]], None] | None = None
    ) -> list[Verdict]:
        """Verdicts by case. watch: told the cases' start and their runs after each step."""
        verdicts: list[Verdict] = []
        for start in range(0, len(self.cases), _BATCH):
            runs = self._start(mix, self.cases[start : start + _BATCH])
            while runs[0].step < mix.steps:
                member = runs[0].plan.segment_at(runs[0].step).member
                denoise_step(runs, self.denoisers[member])
                if watch is not None:
                    watch(start, runs)
            verdicts += [
                verify(self.family.decode(run.x), case.spec)
                for run, case in zip(runs, self.cases[start:], strict=False)
            ]
        return verdicts

    def _start(self, mix: Mix, cases: Sequence[Case]) -> list[Run]:
        plan = mix.plan(self.family).closed()
        course = self.family.course(plan)
        shape = self.family.latent_shape(self.family.spec.sizes.default)
        return [
            start_run(plan, course, self.family.encode_text(case.prompt), case.seed, shape)
            for case in cases
        ]

    def sigmas(self, steps: int) -> list[float]:
        """Noise level b / a before each step."""
        levels = self.family.schedule("ddim", steps).levels[:-1]
        return [level.b / level.a for level in levels]

    def levels(self, steps: int) -> list[dict[str, Any]]:
        """Share of the facts of each kind that hold in the x0 prediction at each level."""
        mix = Mix(steps, ((self.first, True, steps),))
        held: list[dict[str, list[bool]]] = [{kind: [] for kind in KINDS} for _ in range(steps)]
        before: dict[int, list[torch.Tensor]] = {}

        def watch(start: int, runs: list[Run]) -> None:
            step = runs[0].step - 1
            earlier = before.get(start) or [run.prior * run.course.initial_scale for run in runs]
            for run, x, case in zip(runs, earlier, self.cases[start:], strict=False):
                verdict = verify(self.family.decode(_clean(run, x, step)), case.spec)
                for kind in KINDS:
                    held[step][kind] += verdict.of_kind(kind)
            before[start] = [run.x for run in runs]

        self.draw(mix, watch)
        return [
            {"sigma": sigma, **{kind: _mean(found[kind]) for kind in KINDS}}
            for sigma, found in zip(self.sigmas(steps), held, strict=True)
        ]


def _clean(run: Run, x: torch.Tensor, step: int) -> torch.Tensor:
    """The x0 that DDIM's step from x to the run's latent predicted: two equations, two unknowns."""
    here, there = run.course.levels[step : step + 2]
    return (run.x * here.b - x * there.b) / (there.a * here.b - here.a * there.b)


def _mean(held: Sequence[bool]) -> float | None:
    return float(np.mean(held)) if held else None


def late_gains(levels: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What each kind of fact gains from the first level at or below sigma 1 to the last one."""
    late = [row for row in levels if row["sigma"] <= LATE]
    first = late[0] if late else levels[-1]
    return {kind: levels[-1][kind] - first[kind] for kind in KINDS if first[kind] is not None}


def mixes(studio: Studio, steps: int) -> dict[str, list[Mix]]:
    """What is drawn, by the table it belongs to."""
    first, last = studio.first, studio.last
    cuts = [round(share * steps) for share in SHARES]
    relays = [
        Mix(steps, ((one, True, cut), (other, True, steps)))
        for one, other in ((first, last), (last, first))
        for cut in cuts
    ]
    finished = []
    if FINISHER in studio.denoisers:
        for count in (10, 20):
            sigmas = studio.sigmas(count)
            for cut in CUTS:
                at = next((k for k, sigma in enumerate(sigmas) if sigma <= cut * 1.05), count)
                finished.append(Mix(count, ((first, True, at), (FINISHER, False, count))))
    alone = [Mix(count, ((last, True, count),)) for count in (10, steps)]
    return {
        "steps": [Mix(count, ((first, True, count),)) for count in FEWER],
        "alone": alone,
        "shares": relays,
        "finisher": list(dict.fromkeys(finished)),
    }


def measure_levels(studio: Studio) -> dict[str, Any]:
    """The tables of what each level decides, as rows."""
    levels = studio.levels(max(FEWER))
    return {"levels": levels, "late": late_gains(levels)}


def measure_mixes(studio: Studio, steps: int) -> dict[str, Any]:
    """The tables of who may take which steps, as rows."""
    tables: dict[str, Any] = {}
    for title, drawn in mixes(studio, steps).items():
        tables[title] = []
        for mix in drawn:
            score = _score(studio.draw(mix))
            print(f"{title}: {mix.name}: {score.graded:.3f} {score.strict:.3f}", flush=True)
            tables[title].append({"name": mix.name, "steps": mix.steps} | score.as_dict())
    return tables


def _score(verdicts: Sequence[Verdict]) -> Score:
    return summarise([v.graded for v in verdicts], [v.strict for v in verdicts])


def plot(tables: Mapping[str, Mapping[str, Any]], out: Path) -> None:
    """Facts that hold against the noise level, a panel per family."""
    figure, axes = plt.subplots(
        1, len(tables), figsize=(5.5 * len(tables), 3.8), layout="constrained", squeeze=False
    )
    for axis, (name, table) in zip(axes[0], tables.items(), strict=True):
        sigmas = [row["sigma"] for row in table["levels"]]
        for kind in KINDS:
            values = [row[kind] for row in table["levels"]]
            if values[0] is not None:
                axis.plot(sigmas, values, label=kind)
        axis.axvline(LATE, color="grey", linewidth=0.8)
        axis.set(title=name, xlabel="sigma", ylabel="facts that hold", xscale="log", ylim=(0, 1.02))
        axis.invert_xaxis()
        axis.grid(alpha=0.3)
        axis.legend()
    with saving(out) as file:
        figure.savefig(file, dpi=110)
    plt.close(figure)


def named(text: str) -> tuple[str, str]:
    """``NAME=FAMILY``, or a family whose name is how it is told."""
    name, _, source = text.rpartition("=")
    return name or source, source


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    of = "[NAME=]FAMILY, which is a name or a folder; may be repeated"
    parser.add_argument("--family", action="append", type=named, help=of)
    parser.add_argument("--beside", action="append", type=named, default=[], help=of)
    parser.add_argument("--count", type=int, default=300, help="prompts")
    parser.add_argument("--seed", type=int, default=5, help="of the prompts")
    parser.add_argument("--steps", type=int, default=20, help="of the relays")
    parser.add_argument("--out", type=Path, default=report.FOLDER)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    quiet_libraries()
    tables = {}
    for name, source in [*(options.family or [("scenes", "scenes")]), *options.beside]:
        family = load_family(source)
        studio = Studio(family, seeded_cases(world_drawn_by(family), options.count, options.seed))
        tables[name] = measure_levels(studio)
        if (name, source) not in options.beside:
            tables[name] |= measure_mixes(studio, options.steps)
    rows = [
        {"family": name, "table": title, **row}
        for name, table in tables.items()
        for title, found in table.items()
        if title != "late"
        for row in found
    ]
    late = {name: table["late"] for name, table in tables.items()}
    report.write("world", rows, {"late": late}, {}, options.out)
    plot(tables, options.out / "world.png")


if __name__ == "__main__":
    main()
