"""That the engine's benchmark counts what it says."""

from __future__ import annotations

import pytest

from baton.common.families.loaded import LoadedFamily
from tests.bench.engine import SHIPPED, UNCAPPED, call_bare, draw


@pytest.mark.parametrize("rows", [SHIPPED, UNCAPPED])
def test_eight_guided_requests_share_every_call(family: LoadedFamily, rows: int) -> None:
    drawn = draw(family, "large", 5, "none", rows)
    assert drawn.calls == 4
    assert drawn.cpu_seconds > 0 < drawn.rows_per_second


def test_bare_calls_are_of_as_many_rows(family: LoadedFamily) -> None:
    drawn = call_bare(family, "small", 3)
    assert drawn.rows_per_second * drawn.cpu_seconds == pytest.approx(48)
