"""The model takes one thread, or as many as the settings say; nothing else takes more than one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from baton.common.families.loaded import LoadedFamily
from baton.device_client.sdk import AsyncClient
from baton.edge_server.daemon import running
from baton.edge_server.settings import EdgeSettings

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
        with_edge = {"edge": node.address, "arm": "edge/large", "steps": 2}
        client = AsyncClient(family=str(family_folder), members="small")
        result = await client.generate("a red cat", **with_edge)
        client.close()
    assert [step.threads for step in result.executed] == [2, 2]
    assert torch.get_num_threads() == HERE


@pytest.mark.parametrize(("setting", "taken"), [({}, 1), ({"threads": 0}, HERE)])
async def test_nodes_take_one_unless_they_are_told_to_take_as_many_as_their_process_would(
    family_folder: Path, setting: dict[str, int], taken: int
) -> None:
    settings = EdgeSettings(family=str(family_folder), port=0, node_id="e", **setting)
    async with running(settings) as node:
        client = AsyncClient(family=str(family_folder), members="small", **setting)
        asked = {"edge": node.address, "arm": "edge/large@0.5>device/small", "steps": 2}
        result = await client.generate("a red cat", **asked)
        client.close()
    assert [step.location for step in result.executed] == ["edge", "device"]
    assert [step.threads for step in result.executed] == [taken, taken]


async def test_an_edge_with_a_family_that_is_loaded_takes_one_too(
    family: LoadedFamily, family_folder: Path
) -> None:
    settings = EdgeSettings(family=str(family_folder), port=0, node_id="e")
    async with running(settings, family) as node:
        client = AsyncClient(family=str(family_folder), members="small")
        asked = {"edge": node.address, "arm": "edge/large", "steps": 2}
        result = await client.generate("a red cat", **asked)
        client.close()
    assert [step.threads for step in result.executed] == [1, 1]


async def test_a_device_leaves_its_callers_thread_as_it_is(family_folder: Path) -> None:
    client = AsyncClient(family=str(family_folder), members="small", threads=2)
    result = await client.generate("a red cat", arm="device", steps=2)
    client.close()
    assert [step.threads for step in result.executed] == [2, 2]
    assert torch.get_num_threads() == HERE
