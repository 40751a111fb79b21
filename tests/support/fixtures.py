"""Fixtures for the folders that want them: import them into a conftest."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from baton.common.families.loaded import LoadedFamily, load_family
from tests.support.families import write_family


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny family's folder; read only."""
    return _written(tmp_path_factory.getbasetemp() / "tiny-family")


@pytest.fixture(scope="session")
def family(family_folder: Path) -> LoadedFamily:
    """The tiny family with both members loaded; read only."""
    return _loaded(family_folder)


@cache
def _written(folder: Path) -> Path:
    return write_family(folder)


@cache
def _loaded(folder: Path) -> LoadedFamily:
    return load_family(str(folder))
