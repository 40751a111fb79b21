"""``baton analyze``: how much each block changes from step to step, and the key steps to take."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from baton.common.cli import print_rows
from baton.common.progress import Bar
from baton.common.tooling.analysis import Terms, place_of, terms_of
from baton.device_client.cli.measuring import Measurement, loaded
from baton.device_client.settings import DeviceSettings

if TYPE_CHECKING:
    from baton.common.tooling.measuring import Analysis


def _measured(settings: DeviceSettings, terms: Terms, quiet: bool) -> Analysis:
    from baton.common.tooling.measuring import measured

    family = loaded(settings, [terms.member])
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


analyze = Measurement(terms_of, place_of, _measured, _tell)
