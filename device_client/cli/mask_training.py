"""``baton train-masks``: learns which blocks a member can skip at each step, and stores it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from baton.common.accel.mask_settings import Settings
from baton.common.cli import print_json
from baton.common.progress import Bar
from baton.common.quiet import quiet_libraries
from baton.common.tooling.mask_request import MaskRequest, MaskTerms, terms_of

if TYPE_CHECKING:
    from baton.common.tooling.mask_training import TrainedMask


def train_masks(request: MaskRequest, settings: Settings, as_json: bool, threads: int) -> None:
    """Train, store, and tell. Goes on where an interrupted run of the same kind stopped.

    threads: of the model. Raises BatonError.
    """
    terms = terms_of(request, settings)
    quiet_libraries()
    from baton.common.families.local import use_threads

    use_threads(threads)
    made = _trained(request, terms, settings, quiet=as_json)
    if as_json:
        print_json(made.describe())
        return
    print(
        f"{made.path}: {made.speed:.2f}x by {request.cost}, {made.macs_speed:.2f}x in MACs;"
        f" {made.removed} entries removed by rectification"
    )
    print(made.note or f"plot: {made.plot}")


def _trained(
    request: MaskRequest, terms: MaskTerms, settings: Settings, quiet: bool
) -> TrainedMask:
    from baton.common.families.loaded import load_family
    from baton.common.tooling.mask_training import train_mask

    family = load_family(request.family, [request.member])
    with Bar("training the mask", request.steps, quiet, remaining=True) as bar:

        def on_step(settled: int, speed: float) -> None:
            bar.show(f"training the mask ({speed:.2f}x)", settled)

        return train_mask(family, request, terms, settings, on_step)
