"""The built-in family, and the tiny one, for the tests of the benchmarks."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from baton.common.families.loaded import LoadedFamily, load_family
from baton.common.families.manifest import MANIFEST_NAME, find_family
from tests.support.families import copy_family, edit_json
from tests.support.fixtures import family, family_folder

__all__ = ["family", "family_folder"]


@pytest.fixture(scope="session")
def scenes() -> LoadedFamily:
    """With all of its members; read only."""
    return _loaded()


@cache
def _loaded() -> LoadedFamily:
    return load_family()


@pytest.fixture(scope="session")
def finishing_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in family with arms, named grids and a finisher: its last member once more.

    What arms mean does not hang on weights.
    """
    folder = copy_family(find_family("scenes"), tmp_path_factory.mktemp("finishing") / "scenes")
    edit_json(folder / MANIFEST_NAME, _add_finisher)
    return folder


def _add_finisher(manifest: dict[str, Any]) -> None:
    made = _loaded().level_grid
    grids = {5: (4.0, 2.2, 1.2, 0.6), 10: (4.0, 2.2, 1.3, 0.8, 0.5, 0.35, 0.24, 0.16, 0.1)}
    long = tuple(12.0 * 0.89**step for step in range(49))
    manifest["members"]["finisher"] = {
        "path": "small/unet",
        "guidance": "none",
        "levels": [0.0, 1.6],
    }
    manifest["grids"] = [
        asdict(made(f"few-{steps}", "ddim", ratios))
        for steps, ratios in (grids | {50: long}).items()
    ]
    manifest["arms"] = {"balanced": "device/small*2>edge/large*1>device/finisher*2"}
    manifest["default_accel"] = "none"


@pytest.fixture(scope="session")
def finishing(finishing_folder: Path) -> LoadedFamily:
    """Read only."""
    return load_family(str(finishing_folder))
