"""What a coordinator holds that could not be made."""

from __future__ import annotations

from pathlib import Path

import pytest

from baton.coordinator.daemon import running
from baton.coordinator.settings import Settings
from baton.coordinator.store.sqlite import SqliteStore


async def test_a_coordinator_that_cannot_be_made_lets_its_database_go(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    settings = Settings(port=0, db=path).model_copy(update={"seed": -1})
    with pytest.raises(ValueError, match="non-negative") as caught:
        async with running(settings):
            pytest.fail("it listens")
    SqliteStore(path).close()
    assert caught.traceback  # what failed is kept until here, and with it all that it held
