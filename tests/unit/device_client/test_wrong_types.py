"""What a caller of the SDK gives by mistake, and what fails on the device: told as what it is."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from baton.common.errors import ExecutionFailed, InvalidRequest
from baton.common.families.loaded import LoadedFamily
from baton.common.node import Registration
from baton.common.rpc.access import OPEN
from baton.coordinator.daemon import Node
from baton.device_client.offline_tickets import OfflineTickets
from baton.device_client.png import read_png
from baton.device_client.replaying import Difference, Replay, replay
from baton.device_client.sdk import Client
from baton.device_client.session import Device, GenerationRequest, PictureSession
from baton.device_client.settings import DeviceSettings
from tests.support.engines import WatchedFamily
from tests.support.nodes import coordinator, settled

PROMPT = "a red cat"
WRONG: dict[str, list[Any]] = {
    "prompt": [None, 3, b"a red cat", ["a red cat"]],
    "negative_prompt": [None, 3, b"blue"],
    "steps": [2.0, "2", True, b"2", [2], np.float32(2)],
    "guidance": ["2", b"2", [2.0], True, 1j, 10**400],
    "seed": [None, 2.0, "2", True, b"2"],
    "size": [16.0, "16.0", True, [16]],
    "sampler": [3, b"ddim", ["ddim"]],
    "preference": [None, 3, b"speed", ["speed"]],
    "arm": [3, b"device", ["device"]],
    "edge": [3, b"127.0.0.1:1", ["127.0.0.1:1"]],
    "timeout": ["2", b"2", True, [2.0], 10**400],
    "accel": [3, b"none", ["none"]],
    "guidance_budget": [0.6, b"none", ["none"], "often"],
}


@pytest.fixture(scope="module")
def client(family_folder: Path) -> Iterator[Client]:
    with Client(family=str(family_folder), members="small") as made:
        yield made


@pytest.mark.parametrize("name", WRONG)
def test_a_wish_of_another_type_is_bad_input(client: Client, name: str) -> None:
    for value in WRONG[name]:
        fields = {"prompt": PROMPT, "arm": "device", "steps": 1, name: value}
        with pytest.raises(InvalidRequest) as caught:
            client.generate(**fields)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("count", [None, 2.0, "2", True, -1])
def test_a_number_of_pictures_that_is_none_is_bad_input(client: Client, count: Any) -> None:
    with pytest.raises(InvalidRequest):
        client.generate_many(PROMPT, count, arm="device", steps=1)


def test_seeds_that_run_past_the_last_one_are_refused_before_any_picture(client: Client) -> None:
    events: list[object] = []
    with pytest.raises(InvalidRequest, match="seed"):
        client.generate_many(PROMPT, 2, events.append, seed=2**63 - 1, arm="device", steps=1)
    assert events == []


def test_numbers_of_numpy_draw_and_are_saved(client: Client, tmp_path: Path) -> None:
    made = client.generate(
        np.str_(PROMPT),
        steps=np.int64(2),
        seed=np.uint32(3),
        size=np.int16(16),
        guidance=np.float32(2),
        timeout=np.float64(60),
        arm="device",
    )
    plain = client.generate(PROMPT, steps=2, seed=3, size=16, guidance=2.0, arm="device")
    np.testing.assert_array_equal(made.picture, plain.picture)
    assert made.task == plain.task
    assert read_png(made.save(tmp_path / "a.png")).provenance.task.seed == 3


@pytest.mark.parametrize(
    "path", [None, 3, b"a.png", ["a.png"], "a\0.png", "\ud800.png", "~no one/a"]
)
def test_a_file_that_is_no_name_is_bad_input(client: Client, path: Any) -> None:
    made = client.generate(PROMPT, arm="device", steps=1)
    again = Replay(Path("a.png"), made.provenance, made.picture, 1, Difference(0, 0.0, 0.0), ())
    for use in (made.save, again.save, replay):
        with pytest.raises(InvalidRequest) as caught:
            use(path)
        assert len(str(caught.value)) < 200


def test_a_home_folder_is_the_users_wherever_a_picture_is_saved_or_read(
    client: Client, family: LoadedFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    client.generate(PROMPT, arm="device", steps=1).save("~/a.png")
    again = replay("~/a.png", family)
    assert again.verdict == "identical"
    again.save("~/b.png")
    assert {path.name for path in tmp_path.iterdir()} >= {"a.png", "b.png"}


@pytest.mark.parametrize("settings", ["127.0.0.1:7701", {"members": "small"}, 3, ()])
def test_settings_of_another_type_are_bad_input(settings: Any) -> None:
    with pytest.raises(InvalidRequest, match=type(settings).__name__):
        Client(settings)


@pytest.mark.parametrize("family", [3, b"scenes", ["scenes"]])
def test_a_family_that_is_no_name_is_bad_input(client: Client, tmp_path: Path, family: Any) -> None:
    path = client.generate(PROMPT, arm="device", steps=1).save(tmp_path / "a.png")
    with pytest.raises(InvalidRequest):
        replay(path, family)


def test_an_edge_that_is_no_text_of_utf_8_is_bad_input(client: Client) -> None:
    with pytest.raises(InvalidRequest):
        client.generate(PROMPT, arm="edge", edge="\udcff:7701")


def test_edges_that_are_no_texts_are_bad_input(family_folder: Path) -> None:
    with pytest.raises(InvalidRequest):
        Client(family=str(family_folder), edges=[7701])


class Broken(WatchedFamily):
    """Its model fails at every call, quoting the prompt."""

    def __init__(self, family: LoadedFamily) -> None:
        super().__init__(family, self._fail)

    def _fail(self, member: str, x: Tensor) -> None:
        raise RuntimeError(f"out of memory while drawing {PROMPT}")


class Undecodable(LoadedFamily):
    def __init__(self, family: LoadedFamily) -> None:
        self.__dict__.update(family.__dict__)

    def picture(self, pixels: Tensor) -> Any:
        raise MemoryError(PROMPT)


async def failing(family: LoadedFamily, scorer: Any, folder: Path) -> Node:
    """Draw with it under a coordinator; the node, with what it has heard."""
    async with coordinator() as brain:
        edge = Registration("e", "127.0.0.1:1", family.name, family.members, family.fingerprint)
        brain.fleet.register(edge)  # so that the coordinator learns of the family
        settings = DeviceSettings(members="small", coordinator=brain.address)
        with ThreadPoolExecutor(1) as thread:
            drawing = Device(
                family.spec, settings, scorer, thread, OPEN, OfflineTickets(folder), family
            )
            asked = GenerationRequest(PROMPT, arm="device", steps=2)
            with pytest.raises(ExecutionFailed) as caught:
                await PictureSession(drawing, asked, "r1", lambda _: None).run()
        assert PROMPT not in str(caught.value)
        assert "\n" not in str(caught.value)
        (record,) = await settled(brain)
        assert (record.request_id, record.state, record.reward) == ("r1", "rewarded", 0.0)
        return brain


async def test_a_model_that_fails_on_the_device_is_told_and_reported(
    family: LoadedFamily, tmp_path: Path
) -> None:
    await failing(Broken(family), None, tmp_path)


async def test_a_decoder_that_fails_on_the_device_is_told_and_reported(
    family: LoadedFamily, tmp_path: Path
) -> None:
    await failing(Undecodable(family), None, tmp_path)


async def test_a_scorer_that_fails_is_told_and_reported(
    family: LoadedFamily, tmp_path: Path
) -> None:
    def scorer(picture: object, prompt: str) -> None:
        raise ValueError(prompt)

    await failing(family, scorer, tmp_path)


def test_a_model_that_fails_in_a_replay_is_told(
    client: Client, family: LoadedFamily, tmp_path: Path
) -> None:
    path = client.generate(PROMPT, arm="device", steps=1).save(tmp_path / "a.png")
    with pytest.raises(ExecutionFailed):
        replay(path, Broken(family))
