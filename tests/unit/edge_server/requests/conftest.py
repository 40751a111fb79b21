"""An edge for the tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from baton.common.families.loaded import LoadedFamily
from tests.support.registries import Edge, edge_of


@pytest.fixture
async def edge(family: LoadedFamily) -> AsyncIterator[Edge]:
    with edge_of(family) as made:
        yield made
