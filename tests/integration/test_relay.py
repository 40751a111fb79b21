"""Pictures drawn by a device and a real edge together, against the same plan run in one place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pytest

from baton.common.families.loaded import LoadedFamily
from baton.common.families.local import begin, run_here
from baton.common.latents import Codec, decode_state, encode_state
from baton.common.limits import SAMPLERS, SamplerName
from baton.device_client.events import Decided, Event, Finished, HandedOver, Stepped
from baton.device_client.sdk import AsyncClient, Client
from tests.support.engines import Counter, Gate
from tests.support.nodes import Edge, check_executed, device, differ, drawn_here, edge, until
from tests.support.tasks import PROMPTS, plan, run_alone, task

PROMPT = PROMPTS[1]
STEPS = 6


@pytest.fixture
async def node(family: LoadedFamily) -> AsyncIterator[Edge]:
    async with edge(family) as running:
        yield running


@pytest.fixture
def client(family_folder: Path) -> Iterator[AsyncClient]:
    with device(family_folder) as made:
        yield made


@pytest.mark.parametrize("sampler", SAMPLERS)
async def test_a_relay_between_equal_members_is_the_unbroken_run_bit_for_bit(
    node: Edge, client: AsyncClient, family: LoadedFamily, sampler: SamplerName
) -> None:
    whole = drawn_here(family, task(plan("device/small", STEPS, sampler), PROMPT, seed=1))
    for fraction in (0.2, 0.5, 0.8):
        result = await client.generate(
            PROMPT,
            arm=f"edge/small@{fraction}>device/small",
            edge=node.address,
            sampler=sampler,
            steps=STEPS,
            seed=1,
        )
        np.testing.assert_array_equal(result.picture, whole)
        check_executed(result.executed, result.task.plan)
        assert result.steps_at("edge") == round(fraction * STEPS)


async def test_an_exact_envelope_changes_nothing_about_a_split(family: LoadedFamily) -> None:
    split = task(plan("edge/large@0.5>device/small", STEPS, "dpmpp_2m"), PROMPT)
    state = run_alone(family, split, 3).state()
    carried = decode_state(encode_state(state, "r", family.fingerprint, Codec.FP32)).state
    run = begin(family, split, carried)
    run_here(family, run, STEPS)
    np.testing.assert_array_equal(family.decode(run.x), drawn_here(family, split))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    "arm", ["edge/large@0.4>device/small", "edge/small@0.7>device/large", "edge/large"]
)
async def test_a_plan_draws_the_same_picture_here_and_there_bit_for_bit(
    node: Edge, client: AsyncClient, family: LoadedFamily, sampler: SamplerName, arm: str
) -> None:
    result = await client.generate(
        PROMPT,
        negative_prompt="blue",
        arm=arm,
        edge=node.address,
        sampler=sampler,
        steps=STEPS,
        seed=2,
        size=32,
    )
    expected = task(plan(arm, STEPS, sampler), PROMPT, "blue", seed=2, size=32)
    assert result.task == expected
    np.testing.assert_array_equal(result.picture, drawn_here(family, expected))
    check_executed(result.executed, expected.plan)
    ran = {(step.rows, step.branches, step.threads) for step in result.executed}
    assert ran == {(2, "both", 1)}
    nodes = {step.node_id for step in result.executed if step.location == "edge"}
    assert nodes == {"edge-test"}
    assert result.notes == ()


async def test_a_cut_that_leaves_one_side_without_steps_still_draws(
    node: Edge, client: AsyncClient, family: LoadedFamily
) -> None:
    options = {"edge": node.address, "steps": 4, "seed": 3}
    nearly_all = await client.generate(PROMPT, arm="edge/large@0.99>device/small", **options)
    assert nearly_all.steps_at("edge") == 4
    expected = task(plan("edge/large", 4), PROMPT, seed=3)
    np.testing.assert_array_equal(nearly_all.picture, drawn_here(family, expected))
    nearly_none = await client.generate(PROMPT, arm="edge/large@0.01>device/small", **options)
    assert nearly_none.steps_at("device") == 4
    expected = task(plan("device/small", 4), PROMPT, seed=3)
    np.testing.assert_array_equal(nearly_none.picture, drawn_here(family, expected))


async def test_a_smaller_codec_sends_less_and_changes_little(
    node: Edge, family_folder: Path
) -> None:
    sizes, pictures = [], []
    for codec in ("fp32", "fp16", "int8"):
        with device(family_folder, codec=codec) as client:
            events = [
                event
                async for event in client.stream(
                    PROMPT, arm="relay@0.5", edge=node.address, steps=STEPS, size=64
                )
            ]
        sizes += [event.size for event in events if isinstance(event, HandedOver)]
        pictures += [event.result.picture for event in events if isinstance(event, Finished)]
    assert sizes[0] > 1.5 * sizes[1] > 1.5 * 1.3 * sizes[2]
    assert differ(pictures[0], pictures[1]) <= 2
    assert differ(pictures[0], pictures[2]) <= 16


async def test_the_bytes_of_both_ways_are_counted(node: Edge, client: AsyncClient) -> None:
    options = {"edge": node.address, "steps": STEPS, "size": 64}
    handed = [
        event.size
        async for event in client.stream(PROMPT, arm="relay@0.5", **options)
        if isinstance(event, HandedOver)
    ]
    relayed = await client.generate(PROMPT, arm="relay@0.5", **options)
    assert len(PROMPT) < relayed.traffic.sent < len(PROMPT) + 400
    assert handed[0] < relayed.traffic.received < handed[0] + 1000
    drawn = await client.generate(PROMPT, arm="edge", **options)
    picture = drawn.picture.nbytes
    assert picture < drawn.traffic.received < picture + 3 * handed[0]


async def test_events_show_the_steps_and_the_handover_in_order(
    family: LoadedFamily, family_folder: Path
) -> None:
    gate = Gate()
    async with edge(family, gate) as node:
        events: list[Event] = []
        with device(family_folder) as client:
            async for event in client.stream(
                PROMPT, arm="relay@0.5", edge=node.address, steps=STEPS
            ):
                events.append(event)
                gate.allow(1)  # one at a time: who reads slowly is told the newest step alone
    there = [Stepped(step, STEPS, "edge", "large") for step in (1, 2, 3)]
    here = [Stepped(step, STEPS, "device", "small") for step in (4, 5, 6)]
    kinds = [type(event) for event in events]
    assert kinds == [Decided, *[Stepped] * 3, HandedOver, *[Stepped] * 3, Finished]
    assert [event for event in events if isinstance(event, Stepped)] == there + here
    assert isinstance(events[4], HandedOver)
    assert events[4].step == 3


async def test_the_last_step_of_an_edge_is_told_too(node: Edge, client: AsyncClient) -> None:
    stream = client.stream(PROMPT, arm="edge", edge=node.address, steps=STEPS)
    steps = [event.step async for event in stream if isinstance(event, Stepped)]
    assert steps == sorted(set(steps))
    assert steps[-1] == STEPS


async def test_many_pictures_at_once_are_the_single_ones(
    node: Edge, family_folder: Path, family: LoadedFamily
) -> None:
    with Client(family=str(family_folder), codec="fp32", edges=[node.address]) as client:
        options = {"arm": "relay@0.5", "steps": STEPS}
        many = await asyncio.to_thread(client.generate_many, PROMPT, 4, seed=5, **options)
    assert [result.task.seed for result in many] == [5, 6, 7, 8]
    for result in many:
        check_executed(result.executed, result.task.plan)
        assert differ(result.picture, drawn_here(family, result.task)) <= 1
    assert node.registry.counts.completed == 4


async def test_requests_of_many_kinds_share_an_edge_without_mixing(
    node: Edge, client: AsyncClient, family: LoadedFamily
) -> None:
    requests = [
        {"prompt": prompt, "arm": arm, "sampler": sampler, "seed": seed, "steps": 4 + seed}
        for seed, (prompt, arm, sampler) in enumerate(
            [
                (PROMPTS[0], "relay@0.5", "ddim"),
                (PROMPTS[1], "edge/large", "euler"),
                (PROMPTS[2], "edge/small", "dpmpp_2m"),
                (PROMPTS[3], "edge/small@0.5>device/large", "ddim"),
                (PROMPTS[0], "device/small", "ddim"),
            ]
        )
    ]
    results = await asyncio.gather(
        *(client.generate(edge=node.address, **asked) for asked in requests)
    )
    for asked, result in zip(requests, results, strict=True):
        assert result.task.prompt == asked["prompt"]
        check_executed(result.executed, result.task.plan)
        assert differ(result.picture, drawn_here(family, result.task)) <= 1


async def test_a_stream_closed_early_frees_its_place_at_the_edge(
    family: LoadedFamily, family_folder: Path
) -> None:
    gate = Gate()
    async with edge(family, gate, max_active=1, max_queue=0) as node:
        with device(family_folder) as client:
            stream = client.stream(PROMPT, arm="edge", edge=node.address, steps=50)
            async with aclosing(stream) as events:
                gate.allow(1)
                async for event in events:
                    if isinstance(event, Stepped):
                        break
            gate.lift()
            await until(lambda: not node.registry.places)
            assert node.registry.counts.cancelled == 1
            assert gate.arrived < 5
            again = await client.generate(PROMPT, arm="edge", edge=node.address, steps=2)
    assert again.steps_at("edge") == 2


async def test_a_device_that_needs_no_edge_asks_none(
    family: LoadedFamily, family_folder: Path
) -> None:
    counter = Counter()
    async with edge(family, counter) as node:
        with device(family_folder, edges=node.address) as client:
            result = await client.generate(PROMPT, preference="speed", steps=2)
    assert result.arm == "device/small"
    assert counter.calls == 0


async def test_a_device_without_a_member_lets_the_edge_decode(
    node: Edge, family_folder: Path, family: LoadedFamily
) -> None:
    with device(family_folder, members="", edges=node.address) as client:
        wished = await client.generate(PROMPT, arm="edge", steps=3)
        left_open = await client.generate(PROMPT, steps=3)
    for result in (wished, left_open):
        assert result.steps_at("edge") == 3
        np.testing.assert_array_equal(result.picture, drawn_here(family, result.task))
