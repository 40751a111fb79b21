"""The tiny family as one that a training has finished: a finisher, a named grid, its own arms."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from baton.common.families.architectures.sd1 import models_of
from baton.common.families.loaded import load_family
from baton.common.families.manifest import MANIFEST_NAME
from baton.common.families.scenes.training.finishing import add_finisher
from tests.support.families import copy_family, edit_json

RATIOS = (4.0, 2.2, 1.2, 0.6, 0.4, 0.25)
BALANCED = "device/small*1>edge/large*2>device/finisher*4"
QUALITY = "edge/large*7"
SPEED = "device/small*3>device/finisher*4"


def finish(folder: Path, to: Path) -> Path:
    """A finished copy of the tiny family: its finisher is `small`, for levels up to 1.6."""
    copy_family(folder, to)
    family = load_family(str(folder))
    add_finisher(to, models_of(family).unets["small"])
    grid = family.level_grid("seven", "ddim", RATIOS)

    def tell(manifest: dict[str, Any]) -> None:
        manifest["grids"] = [json.loads(json.dumps(asdict(grid)))]
        manifest["arms"] = {"balanced": BALANCED, "quality": QUALITY, "speed": SPEED}
        manifest["device_members"] = ["small", "finisher"]
        manifest["default_accel"] = "propagate"

    edit_json(to / MANIFEST_NAME, tell)
    return to
