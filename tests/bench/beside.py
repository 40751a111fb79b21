"""Another family beside the one that is measured: every way to relay runs there, too."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from baton.common.families.loaded import LoadedFamily, load_family
from baton.common.families.scenes.evaluate import Case, seeded_cases, world_drawn_by
from baton.common.families.scenes.worlds import FLAT
from tests.bench.arms import Entry, beside
from tests.bench.curves import Studio
from tests.bench.timing import time_plans
from tests.support.families import write_family

_SEED = 303


def beside_rows(folder: str | None, count: int, rounds: int) -> list[dict[str, Any]]:
    """Rows of the family in a folder, with scores; without one, times of a tiny random family."""
    if folder is not None:
        family = load_family(folder)
        cases = seeded_cases(world_drawn_by(family), max(count, rounds), _SEED)
        return _rows(family, cases, rounds, _scores(family, cases[:count]))
    with tempfile.TemporaryDirectory() as place:
        family = load_family(str(write_family(Path(place) / "tiny")))
        return _rows(family, seeded_cases(FLAT, rounds, _SEED), rounds, {})


def _scores(family: LoadedFamily, cases: Sequence[Case]) -> dict[str, dict[str, object]]:
    drawn = {entry.name: entry.drawn(family) for entry in beside(family.spec)}
    found = Studio(family, {}, None).draw(list(drawn.values()), cases, "beside")
    return {name: found[plan].score().as_dict() for name, plan in drawn.items()}


def _rows(
    family: LoadedFamily,
    cases: Sequence[Case],
    rounds: int,
    scores: dict[str, dict[str, object]],
) -> list[dict[str, Any]]:
    made = {entry.name: entry for entry in beside(family.spec)}
    plans = {name: entry.plan(family) for name, entry in made.items()}
    times = time_plans(family, plans, cases[:rounds], "beside")
    return [
        _row(family, entry)
        | {"seconds": median(drawn.total for drawn in times[name]), "rounds": rounds}
        | scores.get(name, {})
        for name, entry in made.items()
    ]


def _row(family: LoadedFamily, entry: Entry) -> dict[str, Any]:
    return {"family": family.name, "name": entry.name, "kind": entry.kind, "arm": entry.arm}
