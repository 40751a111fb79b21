"""Only the thread that runs the model takes as many threads as the settings say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from device_client.sdk import AsyncClient
from edge_server.daemon import running
from edge_server.settings import EdgeSettings

HERE = 3


@pytest.fixture(autouse=True)
def some_threads() -> Iterator[None]:
    """As the process that starts a node has them for work of its own."""
    before = torch.get_num_threads()
    torch.set_num_threads(HERE)
    yield
    torch.set_num_threads(before)


async def test_an_edge_keeps_its_event_loop_to_one_thread(family_folder: Path) -> None:
    settings = EdgeSettings(family=str(family_folder), port=0, node_id="e", threads=2)
    async with running(settings) as node:
        assert torch.get_num_threads() == 1
        with_edge = {"edge": node.address, "arm": "edge:large", "steps": 2}
        client = AsyncClient(family=str(family_folder), members="small")
        result = await client.generate("a red cat", **with_edge)
        client.close()
    assert [step.threads for step in result.executed] == [2, 2]
    assert torch.get_num_threads() == HERE


async def test_an_edge_takes_as_many_as_its_process_would(family_folder: Path) -> None:
    settings = EdgeSettings(family=str(family_folder), port=0, node_id="e")
    async with running(settings) as node:
        client = AsyncClient(family=str(family_folder), members="small")
        wish = {"edge": node.address, "arm": "edge:large", "steps": 2}
        result = await client.generate("a red cat", **wish)
        client.close()
    assert [step.threads for step in result.executed] == [HERE, HERE]


async def test_a_device_leaves_its_callers_thread_as_it_is(family_folder: Path) -> None:
    client = AsyncClient(family=str(family_folder), members="small", threads=2)
    result = await client.generate("a red cat", arm="device", steps=2)
    client.close()
    assert [step.threads for step in result.executed] == [2, 2]
    assert torch.get_num_threads() == HERE
