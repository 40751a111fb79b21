"""``baton replay``: draws a picture again from the plan in its file, and says what came of it."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from baton.common.cli import print_json
from baton.common.config import user_path
from baton.common.progress import Bar
from baton.common.quiet import quiet_libraries
from baton.device_client.checks import family_to_replay
from baton.device_client.events import Stepped
from baton.device_client.png import check_png, read_png

if TYPE_CHECKING:
    from baton.device_client.replaying import Replay

_DIFFERENT = 5


def replay_file(path: Path, family: str | None, out: Path | None, as_json: bool) -> int:
    """Replay, save and tell; returns the exit code: 0, or 5 for another picture.

    Raises BatonError.
    """
    path = user_path(path)
    saved = read_png(path)
    family = family_to_replay(saved.provenance, family)
    out = out if out is None else check_png(out)
    quiet_libraries()
    from baton.device_client.replaying import replay_saved

    with Bar("reading", quiet=as_json) as bar:

        def on_step(event: Stepped) -> None:
            bar.show(f"{event.member} step {event.step}", event.step, event.steps)

        made = replay_saved(path, saved, family, on_step)
    if out is not None:
        made.save(out)
    if as_json:
        print_json(describe(made, out))
    else:
        if made.reasons:
            print(warning(made), file=sys.stderr)
        print(summary(made))
    return _DIFFERENT if made.verdict == "different" else 0


def describe(made: Replay, out: Path | None) -> dict[str, object]:
    """One replay for programs."""
    difference, provenance = made.difference, made.provenance
    return {
        "path": str(made.path),
        "verdict": made.verdict,
        "steps": provenance.task.plan.steps,
        "members": list(provenance.members_run),
        "seed": provenance.task.seed,
        "levels": difference.levels,
        "share": difference.share,
        "psnr": difference.psnr if math.isfinite(difference.psnr) else None,
        "reasons": list(made.reasons),
        "out": None if out is None else str(out),
    }


def warning(made: Replay) -> str:
    """Why the replay may not be the same to the last bit, and what is let pass."""
    from baton.device_client.replaying import TOLERANCE_LEVELS, TOLERANCE_SHARE

    return (
        f"warning: {'; '.join(made.reasons)}: up to {TOLERANCE_LEVELS} of 255 levels in"
        f" {TOLERANCE_SHARE:.0%} of the pixels are within tolerance"
    )


def summary(made: Replay) -> str:
    """One replay for people: the verdict, how far apart the pictures are, what was run."""
    provenance, difference = made.provenance, made.difference
    members = ">".join(provenance.members_run)
    ran = f"({provenance.task.plan.steps} steps, {members}, seed {provenance.task.seed})"
    if made.verdict == "identical":
        return f"{made.path}: identical {ran}"
    return (
        f"{made.path}: {made.verdict}: up to {difference.levels} of 255 levels in"
        f" {difference.share:.2%} of the pixels, {difference.psnr:.1f} dB {ran}"
    )
