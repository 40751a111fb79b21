"""A device that holds no member: it draws through an edge in a process that cannot import torch."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from baton.common.families.loaded import LoadedFamily
from baton.device_client.png import read_png
from tests.support.commands import Told, clean_environment, run_many
from tests.support.nodes import Edge, drawn_here, edge
from tests.support.tasks import plan, task

PROMPT = "a red cat left of a blue house"

_CLIENT = """
import json, sys

sys.modules["torch"] = None
from baton import Client

family, address, prompt = sys.argv[1:]
with Client(family=family, edges=[address], members="", state_folder=None) as client:
    result = client.generate(prompt, arm="edge", steps=3)
print(json.dumps([result.picture.tolist(), [step.location for step in result.executed]]))
"""


@pytest.fixture
async def node(family: LoadedFamily) -> AsyncIterator[Edge]:
    async with edge(family) as running:
        yield running


async def test_a_client_without_members_draws_through_an_edge(
    node: Edge, family: LoadedFamily, family_folder: Path, tmp_path: Path
) -> None:
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-c", _CLIENT, str(family_folder), node.address, PROMPT],
        env=clean_environment(tmp_path),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    picture, places = json.loads(out)
    assert picture == drawn_here(family, task(plan("edge:large", 3), PROMPT)).tolist()
    assert places == ["edge"] * 3


async def test_the_command_line_draws_checks_and_says_what_is_missing(
    node: Edge, family_folder: Path, tmp_path: Path
) -> None:
    own = ["--family", str(family_folder)]
    draw = ["baton", "generate", PROMPT, "--steps", "3", *own]
    lines = {
        "edge": [*draw, "--arm", "edge", "--members", "", "--edge", node.address, "--out", "a.png"],
        "relay": [*draw, "--arm", "relay@0.5", "--members", "", "--edge", node.address],
        "device": [*draw, "--arm", "device"],
    }
    told: dict[str, Told] = await asyncio.to_thread(
        run_many, "tests.support.without_torch", lines, clean_environment(tmp_path), tmp_path
    )
    assert told["edge"].code == 0, told["edge"].err
    assert read_png(tmp_path / "a.png").provenance.nodes.keys() == {"edge-test"}
    assert "no member" in told["relay"].refused(4)
    assert "baton-diffusion[device]" in told["device"].refused(4)
