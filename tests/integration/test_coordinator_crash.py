"""What was acknowledged survives SIGKILL; a device does not need its coordinator to be there."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from baton.common.families.loaded import LoadedFamily
from tests.support.crashes import endure, serving
from tests.support.nodes import device, edge
from tests.support.tasks import PROMPTS


@pytest.mark.slow
@pytest.mark.timeout(600)  # eleven processes start, on whatever machine
def test_kills_lose_and_double_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    lives = list(endure(tmp_path / "c.db", kills=10, seed=0))
    assert len(lives) == 11
    assert lives[-1].rewards > 0


async def test_a_stopped_coordinator_does_not_stop_a_device(
    tmp_path: Path, family: LoadedFamily, family_folder: Path
) -> None:
    """Its kernel takes connections as before; only answers never come."""
    with serving(tmp_path / "c.db") as brain:
        brain.process.send_signal(signal.SIGSTOP)
        fields = {"coordinator": brain.address, "coordinator_timeout": 0.3}
        async with edge(family) as node:
            with device(family_folder, edges=node.address, **fields) as client:
                result = await client.generate(PROMPTS[0], arm="relay@0.5", steps=4)
    assert result.decision_id.startswith("static-")
    assert result.steps_at("edge") == 2
    (note,) = result.notes
    assert note.startswith("decided alone: ")
