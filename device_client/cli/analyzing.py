"""``baton analyze``: how much each block changes from step to step, and the key steps to take."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from baton.common.cli import print_json, print_rows
from baton.common.families.spec import read_spec
from baton.common.quiet import quiet_libraries
from baton.common.tooling.analysis import AnalyzeRequest, Terms, place_of, terms_of
from baton.device_client.cli.progress import Bar
from baton.device_client.settings import DeviceSettings

if TYPE_CHECKING:
    from baton.common.tooling.measuring import Analysis


def analyze(settings: DeviceSettings, request: AnalyzeRequest, as_json: bool) -> None:
    """Measure, propose key steps, write JSON and plot, and tell. Raises BatonError."""
    terms = terms_of(read_spec(settings.family), request)
    place = place_of(request.out, terms)
    quiet_libraries()
    made = _measured(settings, terms, quiet=as_json)
    found = made.write(place)
    if as_json:
        print_json(found)
    else:
        _tell(made, found)


def _measured(settings: DeviceSettings, terms: Terms, quiet: bool) -> Analysis:
    from baton.common.families.loaded import load_family
    from baton.common.families.local import use_threads
    from baton.common.tooling.measuring import measured

    use_threads(settings.threads)
    family = load_family(settings.family, [terms.member])
    with Bar(f"{terms.member}, {len(terms.tasks)} pictures", terms.calls, quiet) as bar:
        return measured(family, terms, bar.advance)


def _tell(made: Analysis, found: dict[str, Any]) -> None:
    stages = made.stages
    rows = [asdict(stage) | {"squared": f"{stage.squared:.3g}"} for stage in stages]
    print_rows(rows, list(rows[0]), as_json=False)
    encoder, decoder = made.mean_drifts
    print(
        f"\n{stages[0].stage} changes most, by {stages[0].relative:.1%} a step; the encoder's"
        f" blocks by {encoder:.1%}, the decoder's by {decoder:.1%}"
    )
    print(f"{len(made.keys)} key steps of {made.features.steps}; under propagation in family.json:")
    print(f"  {json.dumps(found['propagation'])[1:-1]}")
    for note in found["notes"]:
        print(f"note: {note}", file=sys.stderr)
    print(", ".join(name for name in (found["path"], found["plot"]) if name))
