"""The built-in family, and the tiny one, for the tests of the benchmarks."""

from __future__ import annotations

from functools import cache

import pytest

from baton.common.families.loaded import LoadedFamily, load_family
from tests.support.fixtures import family, family_folder

__all__ = ["family", "family_folder"]


@pytest.fixture(scope="session")
def scenes() -> LoadedFamily:
    """With all of its members; read only."""
    return _loaded()


@cache
def _loaded() -> LoadedFamily:
    return load_family()
