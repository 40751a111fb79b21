"""``baton analyze --spacing``: a grid of noise levels for few steps, searched and confirmed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from baton.common.cli import print_rows
from baton.common.progress import Bar
from baton.common.tooling.spacing import SpacingTerms, place_of, terms_of
from baton.device_client.cli.measuring import Measurement, loaded
from baton.device_client.settings import DeviceSettings

if TYPE_CHECKING:
    from baton.common.tooling.spacing_found import Confirmation, Spacing


def _found(settings: DeviceSettings, terms: SpacingTerms, quiet: bool) -> Spacing:
    from baton.common.tooling.spacing_found import find_spacing

    family = loaded(settings, terms.members)
    with Bar("", None, quiet, remaining=True) as bar:
        return find_spacing(family, terms, bar.show)


def _tell(made: Spacing, found: dict[str, Any]) -> None:
    terms = made.terms
    print_rows(
        [row for arm in made.confirmed for row in _rows(arm)],
        ["arm", "grid", terms.objective, "gain", "low", "high"],
        as_json=False,
    )
    tried = len({trial.levels for trial in made.trail})
    print(
        f"\n{', '.join(f'{level:g}' for level in made.levels)}: the best of {tried} grids on"
        f" {len(terms.search.prompts)} pictures; above, on {made.confirmed[0].pictures} others, its"
        " gain over each with a 95% interval"
    )
    if not made.beats_plain:
        print(f"it does not beat the plain grid of {terms.steps} steps beyond chance")
    print("under grids in family.json:")
    print(f"  {json.dumps(found['grid'])}")
    print(found["path"])


def _rows(confirmed: Confirmation) -> list[dict[str, Any]]:
    """One per grid; the values of the found one stand without a gain."""
    rows = []
    for grid, mean in confirmed.means.items():
        gain = confirmed.gains.get(grid)
        of = {"mean": gain.mean, "low": gain.low, "high": gain.high} if gain else {}
        rows.append(
            {
                "arm": confirmed.arm,
                "grid": grid,
                "score": f"{mean:.4f}",
                "distance": f"{mean:.4g}",
                "gain": _signed(of.get("mean")),
                "low": _signed(of.get("low")),
                "high": _signed(of.get("high")),
            }
        )
    return rows


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.4f}"


find = Measurement(terms_of, place_of, _found, _tell)
