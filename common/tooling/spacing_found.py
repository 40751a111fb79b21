"""A grid of noise levels found for a family's arms, and confirmed on other pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter

from baton.common.errors import Incompatible, executing
from baton.common.families.grids import LevelGrid
from baton.common.families.loaded import LoadedFamily
from baton.common.quality.scores import bootstrap_interval
from baton.common.tooling.places import Place, write
from baton.common.tooling.spacing import Objective, SpacingTerms
from baton.common.tooling.spacing_search import Levels, Search, Trial, Values, coarse_set, rounded
from baton.common.tooling.spacing_trials import DrawnTrials

#: What runs, how many steps of a picture are done, and how many there may be.
OnStep = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Gain:
    """Mean of paired differences, greater is better; low, high: its bootstrap 95% interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Confirmation:
    """One arm on pictures that the search has not seen.

    means: of the objective by grid, ``found``, ``start``, ``named`` if the family has one, and
    ``plain``; gains: of the found one over each of the others.
    """

    arm: str
    pictures: int
    means: Mapping[str, float]
    gains: Mapping[str, Gain]


@dataclass(frozen=True)
class Spacing:
    """What was found. start: the grid that the descent began from."""

    terms: SpacingTerms
    grid: LevelGrid
    levels: Levels
    start: Levels
    trail: Sequence[Trial]
    confirmed: Sequence[Confirmation]
    fingerprints: Mapping[str, str]

    @property
    def beats_plain(self) -> bool:
        """Whether it is better than the plain grid with each arm, beyond chance."""
        return all(found.gains["plain"].low > 0 for found in self.confirmed)

    @property
    def entry(self) -> dict[str, Any]:
        """As an entry of a manifest's ``grids``."""
        values: dict[str, Any] = TypeAdapter(LevelGrid).dump_python(self.grid, mode="json")
        TypeAdapter(LevelGrid).validate_python(values)
        return values

    def describe(self) -> dict[str, Any]:
        """For programs, without the prompts."""
        terms = self.terms
        return {
            "family": terms.reference.family,
            "arms": [str(arm) for arm in terms.arms],
            "fingerprints": dict(self.fingerprints),
            "sampler": terms.sampler,
            "steps": terms.steps,
            "guidance": terms.reference.segments[0].guidance.scale,
            "objective": terms.objective,
            "pictures": len(terms.search.prompts),
            "seed": terms.search.seed,
            "levels": list(self.levels),
            "start": list(self.start),
            "grid": self.entry,
            "beats_plain": self.beats_plain,
            "confirmed": [asdict(found) for found in self.confirmed],
            "trail": [_told(trial, terms.objective) for trial in self.trail],
        }

    def write(self, place: Place) -> dict[str, Any]:
        """Returns what the file holds. Raises InvalidRequest if it cannot be written."""
        return write(place, self.describe())


def _told(trial: Trial, objective: Objective) -> dict[str, Any]:
    """The columns of `Trials` by name; distances as they are measured."""
    columns = ("score", "distance") if objective == "score" else ("distance",)
    means = {
        name: mean if name == "score" else -mean
        for name, mean in zip(columns, trial.means, strict=True)
    }
    return {**asdict(trial), "means": means, "levels": list(trial.levels)}


def find_spacing(family: LoadedFamily, terms: SpacingTerms, on_step: OnStep) -> Spacing:
    """Search and confirm. Raises Incompatible if no grid suits all members, ExecutionFailed."""
    lowest, noisiest = family.level_range

    def allowed(levels: Levels) -> bool:
        inside = lowest <= levels[-1] and levels[0] < noisiest
        return inside and terms.within((noisiest, *levels))

    known = [*_named(family, terms).values(), *coarse_set(terms.steps - 1, lowest, noisiest)]
    starts = [grid for grid in dict.fromkeys(known) if allowed(grid)]
    if not starts:
        raise Incompatible("no grid keeps every member of the arm within the levels that it knows")
    with executing("searching"):
        return _found(family, terms, _Work(terms, on_step), starts, allowed)


def _named(family: LoadedFamily, terms: SpacingTerms) -> dict[str, Levels]:
    """The grid that the family has for so many steps already, if it has one."""
    for grid in family.spec.grids:
        if (grid.sampler, grid.steps) == (terms.sampler, terms.steps):
            return {"named": rounded(family.course_of(grid).ratios[1:])}
    return {}


def _found(
    family: LoadedFamily,
    terms: SpacingTerms,
    work: _Work,
    starts: Sequence[Levels],
    allowed: Callable[[Levels], bool],
) -> Spacing:
    trials = DrawnTrials(family, terms, terms.search, work.step)
    search = Search(trials, len(trials), allowed, work.searching)
    work.preparing(search.most(starts))
    trials.prepare()
    start = search.best_of(starts)
    levels = search.descend(start)
    grids = {"found": levels, "start": start, **_named(family, terms)}
    work.confirming(1 + len(set(grids.values())))
    fresh = DrawnTrials(family, terms, terms.confirm, work.step)
    confirmed = [_confirmed(fresh, index, grids) for index in range(len(terms.arms))]
    fingerprints = {member: family.member_fingerprints[member] for member in terms.members}
    grid = trials.grid(levels)
    return Spacing(terms, grid, levels, start, search.trail, confirmed, fingerprints)


def _confirmed(trials: DrawnTrials, index: int, grids: Mapping[str, Levels]) -> Confirmation:
    plan = trials.terms.plans[index]
    drawn = {
        levels: trials.objective(plan, trials.course(levels))
        for levels in dict.fromkeys(grids.values())
    }
    values = {name: drawn[levels] for name, levels in grids.items()}
    values["plain"] = trials.objective(plan, trials.plain(plan))
    found = values["found"]
    return Confirmation(
        str(trials.terms.arms[index]),
        len(found),
        {name: abs(float(of.mean())) for name, of in values.items()},
        {name: _gain(found - of) for name, of in values.items() if name != "found"},
    )


def _gain(differences: Values) -> Gain:
    return Gain(float(differences.mean()), *bootstrap_interval(differences.tolist()))


class _Work:
    """How much is done, in steps of a picture, and how much there may be."""

    def __init__(self, terms: SpacingTerms, on_step: OnStep) -> None:
        self._terms, self._on_step = terms, on_step
        self._stage, self._done, self._total = "", 0, 0

    def preparing(self, pictures: int) -> None:
        """pictures: that the search may draw after it."""
        self.searching("reference", pictures)
        self._total += self._terms.reference.steps * len(self._terms.search.prompts)

    def searching(self, stage: str, pictures: int) -> None:
        """pictures: that the search may still draw."""
        self._stage = stage
        self._total = self._done + pictures * self._per_picture + self._confirm(4)

    def confirming(self, grids: int) -> None:
        self._stage, self._total = "confirmation", self._done + self._confirm(grids)

    @property
    def _per_picture(self) -> int:
        return self._terms.steps * len(self._terms.arms)

    def _confirm(self, grids: int) -> int:
        judged = self._terms.reference.steps if self._terms.objective == "distance" else 0
        return (grids * self._per_picture + judged) * len(self._terms.confirm.prompts)

    def step(self, pictures: int) -> None:
        self._done += pictures
        self._on_step(self._stage, self._done, self._total)
