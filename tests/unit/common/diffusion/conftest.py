"""Families that can be accelerated, for the tests of this folder."""

from __future__ import annotations

import pytest

from baton.common.families.loaded import LoadedFamily
from baton.common.limits import SamplerName
from tests.support.graphs import masked_copy


@pytest.fixture(scope="module", params=[True, False], ids=["parallel", "serial"])
def accelerable(
    family: LoadedFamily, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> LoadedFamily:
    """Propagates at once or one by one, and has masks for some samplers and step counts."""
    asked: list[tuple[SamplerName, int]] = [("ddim", 10), ("dpmpp_2m", 8), ("euler", 9)]
    to = tmp_path_factory.mktemp("accelerable") / "family"
    return masked_copy(family, to, *asked, parallel=request.param)
