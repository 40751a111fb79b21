"""``baton analyze --divergence``: how far members' predictions part, and the cuts that follow."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from baton.common.cli import print_rows
from baton.common.progress import Bar
from baton.common.tooling.divergence import DivergenceTerms, place_of, terms_of
from baton.device_client.cli.measuring import Measurement, loaded
from baton.device_client.settings import DeviceSettings

if TYPE_CHECKING:
    from baton.common.tooling.diverging import Divergence


def _measured(settings: DeviceSettings, terms: DivergenceTerms, quiet: bool) -> Divergence:
    from baton.common.tooling.diverging import diverged

    family = loaded(settings, terms.members)
    with Bar(f"beside {terms.reference}", terms.calls, quiet, remaining=True) as bar:
        return diverged(family, terms, bar.advance)


def _tell(made: Divergence, found: dict[str, Any]) -> None:
    terms, names = made.terms, [one.name for one in made.terms.contenders]
    columns = [made.told(index) for index in range(len(names))]
    rows = [
        {"level": f"{level:.3g}"} | dict(zip(names, map(_cell, distances), strict=True))
        for level, *distances in zip(made.levels, *columns, strict=True)
    ]
    print_rows(rows, ["level", *names], as_json=False)
    print(f"\nwithin {terms.tolerance:g} of {terms.reference}, levels at which a member")
    cuts = [
        {"member": name, "takes over": _level(cut.takes_over), "hands over": _level(cut.begins)}
        for name, cut in zip(names, made.cuts, strict=True)
    ]
    print_rows(cuts, list(cuts[0]), as_json=False)
    for note in found["notes"]:
        print(f"note: {note}", file=sys.stderr)
    print(", ".join(name for name in (found["path"], found["plot"]) if name))


def _cell(distance: float | None) -> str:
    return "" if distance is None else f"{distance:.3f}"


def _level(cut: float | None) -> str:
    return "nowhere" if cut is None else f"{cut:.3g}"


diverge = Measurement(terms_of, place_of, _measured, _tell)
