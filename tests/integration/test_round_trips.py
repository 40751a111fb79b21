"""What a picture costs on the way: calls and handshakes, counted on the wire, and its time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from baton.common.families.loaded import LoadedFamily
from baton.coordinator.daemon import Node
from baton.device_client import Client
from baton.device_client.result import Result, Seconds
from tests.support.meters import Meter
from tests.support.nodes import Edge, client_with, coordinator, edge, settled, until
from tests.support.tasks import PROMPTS

PROMPT, ARM, STEPS = PROMPTS[1], "edge/large@0.5>device/small", 4
PARTS = ("deciding", "queue", "edge", "transfer", "device", "decode")


@dataclass
class World:
    """A coordinator and an edge, with a meter on the way to each."""

    brain: Node
    node: Edge
    asked: Meter
    served: Meter

    async def until_known(self) -> None:
        await until(lambda: any(node.state == "alive" for node in self.brain.fleet.nodes()))

    @property
    def counted(self) -> tuple[int, int, int, int]:
        """Connections and round trips, to the coordinator and to the edge."""
        asked, served = self.asked, self.served
        return asked.connections, asked.trips, served.connections, served.trips


@asynccontextmanager
async def world(family: LoadedFamily) -> AsyncIterator[World]:
    async with (
        Meter() as asked,
        Meter() as served,
        coordinator() as brain,
        edge(family, coordinator=brain.address, advertise=served.address) as node,
    ):
        asked.target, served.target = brain.address, node.node.address
        made = World(brain, node, asked, served)
        await made.until_known()
        yield made


@pytest.fixture
async def there(family: LoadedFamily) -> AsyncIterator[World]:
    async with world(family) as made:
        yield made


async def test_a_warm_picture_takes_a_decision_and_the_edges_call_and_no_more(
    there: World, family_folder: Path
) -> None:
    async with client_with(family_folder, coordinator=there.asked.address) as client:
        first = await client.generate(PROMPT, arm=ARM, steps=STEPS)
        await until(lambda: there.asked.trips == 2)
        assert there.counted == (1, 2, 1, 1)  # Decide and Report; Denoise
        warm = [await client.generate(PROMPT, arm=ARM, steps=STEPS, seed=s) for s in (1, 2)]
    assert there.counted == (1, 6, 1, 3)
    assert first.traffic.round_trips == 4  # with a handshake each
    assert [result.traffic.round_trips for result in warm] == [2, 2]
    assert [result.notes for result in (first, *warm)] == [(), (), ()]


async def test_channels_are_kept_whatever_loop_a_picture_is_asked_for_on(
    there: World, family_folder: Path
) -> None:
    fields = {"family": str(family_folder), "coordinator": there.asked.address}

    def draw() -> list[Result]:
        with Client(**fields) as client:
            made = [client.generate(PROMPT, arm=ARM, steps=STEPS) for _ in range(2)]
            again = client._async.generate(PROMPT, arm=ARM, steps=STEPS)
            return [*made, asyncio.run(again)]

    results = await asyncio.to_thread(draw)
    assert [result.traffic.round_trips for result in results] == [4, 2, 2]
    assert there.counted == (1, 6, 1, 3)


async def test_pictures_at_once_share_the_channels(there: World, family_folder: Path) -> None:
    async with client_with(family_folder, coordinator=there.asked.address) as client:
        await asyncio.gather(
            *(client.generate(PROMPT, arm=ARM, steps=STEPS, seed=seed) for seed in range(4))
        )
    assert there.counted == (1, 8, 1, 4)
    assert {record.state for record in await settled(there.brain)} == {"rewarded"}


async def test_a_channel_that_breaks_is_connected_anew(there: World, family_folder: Path) -> None:
    async with client_with(family_folder, coordinator=there.asked.address) as client:
        await client.generate(PROMPT, arm=ARM, steps=STEPS)
        await settled(there.brain)
        there.asked.drop()
        there.served.drop()
        result = await client.generate(PROMPT, arm=ARM, steps=STEPS)
        assert not result.decision_id.startswith("static-")
        assert result.steps_at("edge") == 2
        await settled(there.brain)
        # What the client leaves behind may have begun to connect anew by itself.
        made = there.asked.connections, there.served.connections
        assert all(count in (2, 3) for count in made)
        warm = await client.generate(PROMPT, arm=ARM, steps=STEPS)
        assert warm.traffic.round_trips == 2
        assert (there.asked.connections, there.served.connections) == made


async def test_a_node_that_is_back_is_reached_at_once(family_folder: Path) -> None:
    """Not after the pause that gRPC makes before it tries an address again."""
    async with (
        coordinator() as first,
        client_with(family_folder, coordinator=first.address) as client,
    ):
        await client.generate(PROMPT, steps=1)
        await settled(first)
        await first.drain()
        alone = await client.generate(PROMPT, steps=1)
        async with coordinator(int(first.address.rpartition(":")[2])):
            decided = await client.generate(PROMPT, steps=1)
    assert alone.decision_id.startswith("static-")
    assert alone.notes[0].startswith("decided alone: no answer from the coordinator at")
    assert not decided.decision_id.startswith("static-")


async def test_the_parts_of_a_pictures_time_are_all_of_it(
    there: World, family_folder: Path
) -> None:
    async with client_with(family_folder, coordinator=there.asked.address) as client:
        for arm, used in (
            (ARM, {"deciding", "edge", "transfer", "device", "decode"}),
            ("edge/large", {"deciding", "edge", "transfer"}),
            ("device/small", {"deciding", "device", "decode"}),
        ):
            seconds = (await client.generate(PROMPT, arm=arm, steps=STEPS)).seconds
            assert sum(parts(seconds).values()) == pytest.approx(seconds.total)
            assert {part for part, spent in parts(seconds).items() if spent > 0} - {"queue"} == used
            (record,) = await settled(there.brain, 1)
            told = record.outcome
            assert told is not None
            assert told.edge_compute_seconds == seconds.edge
            assert told.transfer_seconds == seconds.transfer
            assert (told.handoff_seconds > 0) == (arm == ARM)
            assert told.device_seconds == seconds.device + seconds.decode


def parts(seconds: Seconds) -> dict[str, float]:
    found: dict[str, float] = asdict(seconds)
    return {part: found[part] for part in PARTS}
