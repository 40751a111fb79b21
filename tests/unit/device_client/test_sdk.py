"""The SDK on a device alone: what is refused, several pictures, other loops, broken-off work."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from baton import device_client
from baton.common.errors import BatonError, InvalidRequest, WeightsError
from baton.common.families.loaded import LoadedFamily
from baton.common.families.manifest import MANIFEST_NAME
from baton.common.guidance import GuidanceBudget
from baton.common.rpc.access import OPEN
from baton.common.size import Size
from baton.device_client.events import Decided, Event, Finished, Stepped
from baton.device_client.offline_tickets import OfflineTickets
from baton.device_client.sdk import AsyncClient, Client, check_request
from baton.device_client.session import Device, GenerationRequest, PictureSession
from baton.device_client.settings import DeviceSettings
from tests.support.engines import Gate, WatchedFamily
from tests.support.families import copy_family, edit_json
from tests.support.nodes import check_executed, device, drawn_here
from tests.support.tasks import plan, task

PROMPT = "a red cat"


@pytest.fixture
def client(family_folder: Path) -> Iterator[Client]:
    with Client(family=str(family_folder), members="small,large") as made:
        yield made


@pytest.fixture
def async_client(family_folder: Path) -> Iterator[AsyncClient]:
    with device(family_folder) as made:
        yield made


def test_a_device_alone_draws_what_its_family_draws(client: Client, family: LoadedFamily) -> None:
    for arm in ("device/small", "device/large"):
        result = client.generate(PROMPT, arm=arm, steps=4, seed=3)
        expected = task(plan(arm, 4), PROMPT, seed=3)
        assert result.task == expected
        np.testing.assert_array_equal(result.picture, drawn_here(family, expected))
        check_executed(result.executed, expected.plan)
        assert {
            (step.node_id, step.rows, (step.branches == "both")) for step in result.executed
        } == {("device", 2, True)}
        assert result.traffic.sent == result.traffic.received == 0
        assert result.notes == ()


def test_without_guidance_one_row_is_enough(client: Client, family: LoadedFamily) -> None:
    result = client.generate(PROMPT, arm="device", steps=3, guidance=1.0)
    assert {(step.rows, step.branches) for step in result.executed} == {(1, "positive")}
    expected = task(plan("device/small", 3, guidance=1.0), PROMPT)
    np.testing.assert_array_equal(result.picture, drawn_here(family, expected))


def test_what_is_left_out_the_family_fills_in(client: Client, family: LoadedFamily) -> None:
    made = client.generate(PROMPT, arm="device")
    manifest = family.spec
    assert made.task.plan.steps == manifest.default_steps
    assert made.task.plan.segments[0].guidance.scale == manifest.default_guidance
    assert made.task.size == Size.of(manifest.sizes.default)
    assert made.picture.shape == (manifest.sizes.default,) * 2 + (3,)


def test_a_sampler_that_is_not_ours_is_replaced_with_a_note_unless_one_is_named(
    family_folder: Path, tmp_path: Path
) -> None:
    folder = copy_family(family_folder, tmp_path / "family")
    scheduler = folder / "shared/scheduler/scheduler_config.json"
    edit_json(scheduler, lambda config: config.update(_class_name="PNDMScheduler"))
    options = {"arm": "device", "steps": 1}
    with Client(family=str(folder)) as client:
        left_out, named = (
            client.generate(PROMPT, **options),
            client.generate(PROMPT, sampler="euler", **options),
        )
    assert left_out.task.plan.samplers == ("ddim",)
    assert "PNDMScheduler" in left_out.notes[0]
    assert (named.task.plan.samplers, named.notes) == (("euler",), ())


def test_many_pictures_have_successive_seeds_and_are_the_single_ones(client: Client) -> None:
    options = {"arm": "device", "steps": 3}
    many = client.generate_many(PROMPT, 3, seed=5, **options)
    assert [result.task.seed for result in many] == [5, 6, 7]
    assert len({result.request_id for result in many}) == 3
    for result in many:
        single = client.generate(PROMPT, seed=result.task.seed, **options)
        np.testing.assert_array_equal(result.picture, single.picture)
    assert (many[0].picture != many[1].picture).any()


def test_a_request_is_drawn_as_its_fields_are(client: Client) -> None:
    asked = GenerationRequest("a red circle", steps=2, seed=3, arm="device")
    one = client.generate(asked)
    other = client.generate("a red circle", steps=2, seed=3, arm="device")
    np.testing.assert_array_equal(one.picture, other.picture)
    assert one.task == other.task
    changed = client.generate_many(asked, 2, seed=4)
    assert [(made.task.prompt, made.task.seed) for made in changed] == [
        ("a red circle", 4),
        ("a red circle", 5),
    ]


def test_no_pictures_are_no_error(client: Client) -> None:
    assert client.generate_many(PROMPT, 0, arm="device", steps=1) == []


async def test_the_blocking_client_works_where_a_loop_runs_already(client: Client) -> None:
    assert client.generate(PROMPT, arm="device", steps=1).steps_at("device") == 1


def test_events_tell_every_step_in_order(client: Client) -> None:
    events: list[Event] = []
    result = client.generate(PROMPT, events.append, arm="device", steps=3)
    assert isinstance(events[0], Decided)
    assert events[0].plan == result.task.plan
    assert events[1:-1] == [Stepped(step, 3, "device", "small") for step in (1, 2, 3)]
    assert events[-1] == Finished(result)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": ""},
        {"prompt": " \n"},
        {"prompt": "x" * 4001},
        {"prompt": "invalid \udcff bytes"},
        {"negative_prompt": "x" * 4001},
        {"negative_prompt": "\udcff"},
        {"steps": 0},
        {"steps": 10**9},
        {"guidance": -1.0},
        {"guidance": float("nan")},
        {"guidance": float("inf")},
        {"sampler": "magic"},
        {"preference": "cheap"},
        {"seed": -1},
        {"seed": 2**63},
    ],
)
def test_a_wish_that_can_never_work_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_request(GenerationRequest(**({"prompt": PROMPT} | fields)))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"size": 7}, InvalidRequest),
        ({"size": 65536}, InvalidRequest),
        ({"seed": -1}, InvalidRequest),
        ({"seed": 2**63}, InvalidRequest),
        ({"arm": "nonsense"}, InvalidRequest),
        ({"arm": ""}, InvalidRequest),
        ({"arm": "device:giant"}, InvalidRequest),
        ({"arm": "edge", "edge": "nowhere"}, InvalidRequest),
    ],
)
def test_a_wish_that_cannot_work_here_is_refused(
    client: Client, fields: dict[str, object], error: type[BatonError]
) -> None:
    with pytest.raises(error):
        client.generate(PROMPT, **({"arm": "device", "steps": 1} | fields))


def test_a_member_that_is_not_held_is_told(family_folder: Path) -> None:
    with (
        Client(family=str(family_folder), members="small") as client,
        pytest.raises(WeightsError, match="large"),
    ):
        client.generate(PROMPT, arm="device/large", steps=1)


async def test_after_an_error_the_client_draws_on(async_client: AsyncClient) -> None:
    with pytest.raises(InvalidRequest):
        await async_client.generate(PROMPT, arm="device", size=7)
    result = await async_client.generate(PROMPT, arm="device", steps=1)
    assert result.picture.shape == (16, 16, 3)


async def test_pictures_asked_for_at_once_do_not_mix(async_client: AsyncClient) -> None:
    requests = [(prompt, seed) for prompt in ("a red cat", "two blue cars") for seed in (0, 1)]
    options = {"arm": "device", "steps": 2}
    together = await asyncio.gather(
        *(async_client.generate(prompt, seed=seed, **options) for prompt, seed in requests)
    )
    for (prompt, seed), result in zip(requests, together, strict=True):
        alone = await async_client.generate(prompt, seed=seed, **options)
        np.testing.assert_array_equal(result.picture, alone.picture)


async def test_a_stream_closed_early_stops_the_model_at_its_next_step(
    family: LoadedFamily, family_folder: Path, tmp_path: Path
) -> None:
    gate, thread = Gate(), ThreadPoolExecutor(1)
    settings = DeviceSettings(family=str(family_folder), members="small")
    offline = OfflineTickets(tmp_path)
    watched = WatchedFamily(family, gate)
    drawing = Device(family.spec, settings, None, thread, OPEN, offline, watched)
    asked = GenerationRequest(PROMPT, arm="device", steps=50)
    session = asyncio.ensure_future(PictureSession(drawing, asked, "r1", lambda _: None).run())
    await asyncio.to_thread(gate.wait_for_call, 1)
    session.cancel()
    await asyncio.wait([session])
    assert session.cancelled()
    gate.lift()
    await asyncio.to_thread(thread.shutdown)
    assert gate.arrived <= 2


async def test_a_stream_left_alone_ends_with_the_picture(async_client: AsyncClient) -> None:
    async with aclosing(async_client.stream(PROMPT, arm="device", steps=2)) as events:
        kinds = [type(event) async for event in events]
    assert kinds == [Decided, Stepped, Stepped, Finished]


def test_the_package_names_what_it_offers() -> None:
    for name in device_client.__all__:
        assert getattr(device_client, name) is not None
    with pytest.raises(AttributeError, match="Nonsense"):
        _ = device_client.Nonsense


def test_importing_the_package_loads_no_model_library() -> None:
    code = "import sys, device_client; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"


def test_who_says_nothing_of_acceleration_gets_the_familys(
    family_folder: Path, tmp_path: Path
) -> None:
    folder = copy_family(family_folder, tmp_path / "family")
    edit_json(folder / MANIFEST_NAME, lambda manifest: manifest.update(default_accel="masks"))
    with Client(family=str(folder), members="small") as client:
        unsaid = client.generate(PROMPT, arm="device", steps=3)
        asked = client.generate(PROMPT, arm="device", steps=3, accel="masks")
        other = client.generate(PROMPT, arm="device", steps=3, accel="none")
    assert [made.task.plan.segments[0].accel for made in (unsaid, asked, other)] == [
        "masks",
        "masks",
        "none",
    ]
    assert unsaid.notes == ()
    assert any("no block mask" in note for note in asked.notes)
    with Client(family=str(folder), members="small", accel="propagate") as client:
        made = client.generate(PROMPT, arm="device", steps=3)
        assert made.task.plan.segments[0].accel == "propagate"


def test_who_says_nothing_of_a_guidance_budget_gets_the_familys(
    family_folder: Path, tmp_path: Path
) -> None:
    folder = copy_family(family_folder, tmp_path / "family")

    def planned(client: Client, **asked: Any) -> GuidanceBudget | None:
        plans = []

        def on_event(event: Event) -> None:
            if isinstance(event, Decided):
                plans.append(event.plan)

        client.generate(PROMPT, on_event, arm="device", steps=1, **asked)
        return plans[0].budget

    with Client(family=str(folder), members="small") as client:
        assert planned(client) is None
    edit_json(
        folder / MANIFEST_NAME, lambda manifest: manifest.update(guidance_budget="0.6:2:positive")
    )
    with Client(family=str(folder), members="small") as client:
        assert planned(client) == GuidanceBudget(0.6, 2, "positive")
        assert planned(client, guidance_budget="none") is None
        assert planned(client, guidance_budget="0.8:1") == GuidanceBudget(0.8, 1, "positive")
    with Client(family=str(folder), members="small", guidance_budget="none") as client:
        assert planned(client) is None
        assert planned(client, guidance_budget="0.5") == GuidanceBudget(0.5, 2, "positive")
