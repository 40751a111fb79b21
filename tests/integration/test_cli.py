"""The command lines as their users run them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from baton.common.families.loaded import LoadedFamily
from baton.common.rpc import PROTOCOL_VERSION
from baton.common.rpc.channel import channel_to
from baton.common.rpc.convert import plan_to_proto
from baton.device_client.events import EdgeLost, Event, Finished, Stepped
from baton.v1 import edge_pb2
from baton.v1.edge_pb2_grpc import EdgeStub
from tests.support.commands import Told, clean_environment, run_many
from tests.support.families import copy_family, edit_json, flip_bit
from tests.support.nodes import check_executed, closed_port, device, differ, drawn_here, edge
from tests.support.tasks import PROMPTS, plan, task

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 100
UNET = "large/unet/diffusion_pytorch_model.safetensors"
VAE = "shared/vae/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def environment(folder: Path, family_folder: Path) -> dict[str, str]:
    """As a user has it who uses the tiny family and never wrote a settings file."""
    return clean_environment(
        folder,
        BATON_DEVICE_FAMILY=str(family_folder),
        BATON_EDGE_FAMILY=str(family_folder),
        BATON_EDGE_THREADS="1",
    )


@dataclass(frozen=True)
class Process:
    """A running ``baton-edge serve``."""

    popen: subprocess.Popen[str]
    address: str

    @property
    def port(self) -> str:
        return self.address.rpartition(":")[2]


class Starting:
    """Edge processes that start while something else is done."""

    def __init__(self, environment: dict[str, str]) -> None:
        command = [sys.executable, "-m", "baton.edge_server.cli", "serve", "--port", "0"]
        self.popens = [
            subprocess.Popen(
                [*command, "--node-id", name],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for name in ("served", "killed")
        ]

    def ready(self, number: int) -> Process:
        popen = self.popens[number]
        assert popen.stdout is not None
        line = popen.stdout.readline()
        assert line.startswith("baton-edge listening on 127.0.0.1:")
        return Process(popen, line.split()[-1])


@pytest.fixture(scope="module")
def starting(environment: dict[str, str]) -> Iterator[Starting]:
    made = Starting(environment)
    yield made
    for popen in made.popens:
        popen.kill()
        popen.communicate()


@pytest.fixture(scope="module")
def served(starting: Starting) -> Process:
    return starting.ready(0)


@pytest.fixture(scope="module")
def killed(starting: Starting) -> Process:
    return starting.ready(1)


_DRAW = ["generate", "a red cat", "--steps", "1", "--arm", "device"]
_EDGE = ["generate", "a red cat", "--steps", "1", "--arm", "edge"]
COUNTED = "edge/large*2@s2.2>device/small*1>edge/large*2"

#: What ``baton`` refuses: the command line, the exit code, and a word of the reason.
WRONG: dict[str, tuple[list[str], int, str]] = {
    "no request yet": (["explain", "last"], 2, "no request is known"),
    "an empty prompt": (["generate", ""], 2, "prompt"),
    "a blank prompt": (["generate", " "], 2, "prompt"),
    "a prompt that is no text": (["generate", "a \udcff cat", *_DRAW[2:]], 2, "prompt"),
    "a prompt that is too long": (["generate", "x" * 4001], 2, "4000"),
    "no prompt": (["generate"], 2, "prompt"),
    "no steps": (["generate", "x", "--steps", "0"], 2, "steps"),
    "too many steps": (["generate", "x", "--steps", "201"], 2, "200"),
    "steps that are no number": (["generate", "x", "--steps", "many"], 2, "--steps"),
    "a size that is too small": ([*_DRAW, "--size", "7"], 2, "size"),
    "an unknown arm": (["generate", "x", "--arm", "nonsense"], 2, "nonsense"),
    "an impossible fraction": (["generate", "x", "--arm", "relay@2"], 2, "fraction"),
    "an unknown preference": (["generate", "x", "--prefer", "foo"], 2, "foo"),
    "no pictures": (["generate", "x", "--n", "0"], 2, "--n"),
    "too many pictures": (["generate", "x", "--n", "65"], 2, "64"),
    "a negative seed": (["generate", "x", "--seed", "-1"], 2, "seed"),
    "guidance that is no number": (["generate", "x", "--guidance", "nan"], 2, "guidance"),
    "an unknown sampler": (["generate", "x", "--sampler", "magic"], 2, "magic"),
    "an unknown option": (["generate", "x", "--colour", "red"], 2, "--colour"),
    "an unknown command": (["paint"], 2, "paint"),
    "an unknown family": ([*_DRAW, "--family", "nonsense"], 2, "nonsense"),
    "an unknown member": ([*_DRAW, "--members", "giant"], 2, "giant"),
    "an edge that is no address": ([*_EDGE, "--edge", "nowhere"], 2, "HOST:PORT"),
    "a coordinator that is no address": ([*_DRAW, "--coordinator", "nowhere"], 2, "HOST:PORT"),
    "no edge for the edge arm": (_EDGE, 4, "--edge"),
    "no member for the device arm": ([*_DRAW, "--members", ""], 4, "member"),
    "a member that is not held": ([*_DRAW[:-1], "device/large"], 5, "large"),
    "a file that cannot be written": ([*_DRAW, "--out", "/dev/null/a.png"], 2, "/dev/null/a.png"),
    "a family without its weights": ([*_DRAW, "--family", "broken"], 5, "damaged"),
}


@pytest.fixture(scope="module")
def baton(
    environment: dict[str, str], folder: Path, family_folder: Path, served: Process
) -> dict[str, Told]:
    nobody = closed_port()
    flip_bit(copy_family(family_folder, folder / "broken") / VAE)
    here = ["--edge", served.address, "--json", "--out", "out"]
    lines = {name: line for name, (line, _, _) in WRONG.items()} | {
        "nobody": [*_EDGE, "--members", "", "--edge", nobody],
        "nobody, but a member": [*_EDGE, "--edge", nobody, "--json", "--fallback"],
        "nobody, and an arm": [*_EDGE, "--edge", nobody, "--json"],
        "nobody, and no fallback": ["generate", "x", "--edge", nobody, "--no-fallback"],
        "device": [*_DRAW, "--steps", "2", "--n", "2", "--seed", "7", "--json", "--out", "dev"],
        "told": [*_DRAW, "--seed", "7", "--out", "told.png", "--no-metadata"],
        "relay": ["generate", PROMPTS[1], "--arm", "relay@0.5", "--steps", "4", *here],
        "edge": ["generate", PROMPTS[0], "--arm", "edge", "--steps", "3", "--seed", "3", *here],
        "explained": ["explain", "last", "--json"],
        "another request": ["explain", "zz"],
        "counted": ["generate", PROMPTS[2], "--arm", COUNTED, "--seed", "4", *here],
        "counted, explained": ["explain", "last", "--json"],
        "counted, again": ["replay", "out/baton-4.png"],
        "config": ["config", "show", "--json"],
        "doctor": ["doctor", "--json", "--edge", served.address],
        "doctor, nobody": ["doctor", "--json", "--edge", nobody],
        "help": ["generate", "--help"],
    }
    return run_many("baton.device_client.cli.main", lines, environment, folder)


@pytest.mark.parametrize("what", WRONG)
def test_baton_refuses_in_one_line_with_an_exit_code(what: str, baton: dict[str, Told]) -> None:
    _, code, word = WRONG[what]
    assert word in baton[what].refused(code)


def test_nobody_at_the_edge_is_not_reachable(baton: dict[str, Told]) -> None:
    assert "no answer from 127.0.0.1:" in baton["nobody"].refused(3)


def test_a_member_stands_in_for_an_edge_that_is_not_there(baton: dict[str, Told]) -> None:
    (told,) = baton["nobody, but a member"].json()
    assert told["steps"] == {"edge": 0, "device": 1}
    assert (told["arm"], told["arm_executed"]) == ("edge/large", "device/small")
    assert len(told["notes"]) == 2


def test_no_member_stands_in_for_an_edge_where_that_is_not_wanted(baton: dict[str, Told]) -> None:
    for asked in ("nobody, and an arm", "nobody, and no fallback"):
        assert "--fallback" in baton[asked].refused(3)


def test_pictures_for_programs_are_json_and_files(
    baton: dict[str, Told], folder: Path, family: LoadedFamily
) -> None:
    for number, told in enumerate(baton["device"].json()):
        assert told["path"] == f"dev/baton-{7 + number}.png"
        assert (told["arm"], told["seed"]) == ("device/small", 7 + number)
        assert told["steps"] == {"edge": 0, "device": 2}
        assert told["seconds"]["total"] > 0
        expected = drawn_here(family, task(plan("device/small", 2), "a red cat", seed=7 + number))
        with Image.open(folder / told["path"]) as image:
            np.testing.assert_array_equal(np.asarray(image), expected)
            assert image.text["parameters"].startswith("a red cat\nSteps: 2, ")


def test_a_picture_for_people_is_one_line(baton: dict[str, Told], folder: Path) -> None:
    told = baton["told"]
    assert told.code == 0
    assert told.out.startswith("told.png  device/small  1 device steps  ")
    assert told.out.count("\n") == 1
    with Image.open(folder / "told.png") as image:
        assert image.info == {}


def test_a_relay_and_an_edge_picture_come_from_another_process(
    baton: dict[str, Told], folder: Path, family: LoadedFamily
) -> None:
    (relayed,) = baton["relay"].json()
    assert relayed["steps"] == {"edge": 2, "device": 2}
    assert relayed["bytes"]["received"] > relayed["bytes"]["sent"] > 0
    assert relayed["notes"] == []
    (drawn,) = baton["edge"].json()
    expected = drawn_here(family, task(plan("edge/large", 3), PROMPTS[0], seed=3))
    with Image.open(folder / drawn["path"]) as image:
        assert differ(np.asarray(image), expected) <= 1


def test_a_request_is_explained_afterwards(baton: dict[str, Told], served: Process) -> None:
    told = baton["explained"].json()
    (drawn,) = baton["edge"].json()
    assert (told["request_id"], told["ending"]) == (drawn["request_id"], "picture")
    assert [attempt["address"] for attempt in told["attempts"]] == [served.address]
    assert told["coordinator"] is None
    assert drawn["request_id"] in baton["another request"].refused(2)


def test_an_arm_of_many_stretches_is_drawn_explained_and_replayed(baton: dict[str, Told]) -> None:
    (drawn,), told = baton["counted"].json(), baton["counted, explained"].json()
    assert drawn["arm"] == drawn["arm_executed"] == told["decision"]["arm"] == COUNTED
    assert (drawn["notes"], drawn["request_id"]) == ([], told["request_id"])
    parts = [(part["location"], part["stop"]) for part in told["executed"]]
    assert parts == [("edge", 2), ("device", 3), ("edge", 5)]
    assert baton["counted, again"].out.startswith("out/baton-4.png: identical (5 steps, large>")


def test_settings_are_shown_with_their_origin(baton: dict[str, Told], family_folder: Path) -> None:
    rows = {row["setting"]: row for row in baton["config"].json()}
    assert rows["family"]["value"] == str(family_folder)
    assert rows["family"]["origin"] == "environment"
    assert rows["codec"] == {"setting": "codec", "value": "fp16", "origin": "default"}


def test_the_doctor_finds_an_edge_that_fits(baton: dict[str, Told]) -> None:
    findings = {row["check"]: row for row in baton["doctor"].json()}
    assert all(row["ok"] is not False for row in findings.values())
    assert "0 running, 0 waiting" in findings["edge"]["detail"]
    assert "tiny: small" in findings["weights"]["detail"]


def test_the_doctor_finds_nobody(baton: dict[str, Told]) -> None:
    told = baton["doctor, nobody"]
    assert (told.code, told.err) == (3, "")
    findings = {row["check"]: row for row in json.loads(told.out)}
    assert findings["edge"]["ok"] is False
    assert "no answer" in findings["edge"]["detail"]


def test_help_names_every_option(baton: dict[str, Told]) -> None:
    told = baton["help"]
    assert told.code == 0
    for option in ("--arm", "--edge", "--coordinator", "--seed", "--json", "--metadata"):
        assert option in told.out


#: What ``baton-edge`` refuses. Folders are those of `edge_folders`.
EDGE_WRONG: dict[str, tuple[list[str], int, str]] = {
    "an unknown family": (["serve", "--family", "/nonexistent"], 2, "/nonexistent"),
    "damaged weights": (["serve", "--family", "flipped"], 5, "damaged"),
    "weights cut short": (["serve", "--family", "short"], 5, "large/unet"),
    "missing weights": (["serve", "--family", "missing"], 5, "large/unet"),
    "a manifest that is none": (["serve", "--family", "manifest"], 5, "family.json"),
    "a configuration that is none": (["serve", "--family", "config"], 5, "large/unet"),
    "an unknown member": (["serve", "--members", "giant"], 2, "giant"),
    "an open host": (["serve", "--host", "0.0.0.0"], 2, "--insecure"),
    "an open host by name": (["serve", "--host", "example.org"], 2, "--insecure"),
    "an unknown host": (["serve", "--host", "no-such.invalid", "--insecure"], 2, "no-such.invalid"),
    "a foreign host": (["serve", "--host", "192.0.2.1", "--insecure"], 2, "of this machine"),
    "every interface, to a coordinator": (
        ["serve", "--host", "0.0.0.0", "--insecure", "--coordinator", "127.0.0.1:7700"],
        2,
        "--advertise",
    ),
    "loopback, to a remote coordinator": (
        ["serve", "--coordinator", "10.0.0.1:7700"],
        2,
        "--advertise",
    ),
    "an advertised address that is none": (["serve", "--advertise", "edge"], 2, "HOST:PORT"),
    "an id that is none": (["serve", "--node-id", "two words"], 2, "node_id"),
    "a port that is none": (["serve", "--port", "70000"], 2, "port"),
    "no rows": (["serve", "--max-rows", "1"], 2, "max_rows"),
    "an unknown option": (["serve", "--colour", "red"], 2, "--colour"),
    "an address that is none": (["status", "--address", "nowhere"], 2, "HOST:PORT"),
}


def edge_folders(good: Path, folder: Path) -> None:
    """Families that an edge must not serve."""
    flip_bit(copy_family(good, folder / "flipped") / UNET)
    weights = copy_family(good, folder / "short", digests=False) / UNET
    weights.write_bytes(weights.read_bytes()[:-1000])
    (copy_family(good, folder / "missing", digests=False) / UNET).unlink()
    (copy_family(good, folder / "manifest") / "family.json").write_text("{}")
    config = copy_family(good, folder / "config", digests=False) / "large/unet/config.json"
    edit_json(config, lambda values: values.update(cross_attention_dim=7))


@pytest.fixture(scope="module")
def baton_edge(
    environment: dict[str, str], folder: Path, family_folder: Path, served: Process
) -> dict[str, Told]:
    edge_folders(family_folder, folder)
    nobody = closed_port()
    # First, so that a line's own port counts: whoever has an edge on the usual one may run this.
    anywhere = ["serve", "--port", "0"]
    lines = {
        name: [*anywhere, *rest] if command == "serve" else [command, *rest]
        for name, ((command, *rest), _, _) in EDGE_WRONG.items()
    } | {
        "taken port": ["serve", "--port", served.port],
        "nobody": ["status", "--address", nobody],
        "status": ["status", "--address", served.address, "--json"],
    }
    return run_many("baton.edge_server.cli", lines, environment, folder)


@pytest.mark.parametrize("what", EDGE_WRONG)
def test_baton_edge_refuses_in_one_line_with_an_exit_code(
    what: str, baton_edge: dict[str, Told]
) -> None:
    _, code, word = EDGE_WRONG[what]
    assert word in baton_edge[what].refused(code)


def test_a_taken_port_is_told(baton_edge: dict[str, Told], served: Process) -> None:
    assert served.address in baton_edge["taken port"].refused(3)


def test_the_status_of_nobody_is_not_reachable(baton_edge: dict[str, Told]) -> None:
    assert "no answer" in baton_edge["nobody"].refused(3)


def test_the_status_of_an_edge_is_told(baton_edge: dict[str, Told], family: LoadedFamily) -> None:
    told = baton_edge["status"].json()
    assert (told["node_id"], told["family"]) == ("served", "tiny")
    assert told["fingerprint"] == family.fingerprint
    assert told["draining"] is False


async def test_an_edge_that_is_killed_costs_one_interval_and_no_picture(
    killed: Process, family: LoadedFamily, family_folder: Path
) -> None:
    events: list[Event] = []
    steps, every = 150, 10
    async with edge(family, node_id="second") as second:
        edges = f"{killed.address},{second.address}"
        with device(family_folder, edges=edges, checkpoint_every=every) as client:
            async for event in client.stream(PROMPTS[0], arm="edge/large", steps=steps):
                events.append(event)
                if isinstance(event, Stepped) and event.step >= 3 * every:
                    killed.popen.send_signal(signal.SIGKILL)
    result = events[-1]
    assert isinstance(result, Finished)
    check_executed(result.result.executed, result.result.task.plan)
    (lost,) = [event for event in events if isinstance(event, EdgeLost)]
    before = [event.step for event in events[: events.index(lost)] if isinstance(event, Stepped)]
    assert 0 <= before[-1] - lost.resume_step <= every + 1
    assert lost.resume_step >= 2 * every
    assert {step.node_id for step in result.result.executed} == {"killed", "second"}
    assert differ(result.result.picture, drawn_here(family, result.result.task)) <= 1


async def test_a_signal_drains_an_edge_and_ends_it_with_0(served: Process) -> None:
    async with channel_to(served.address) as channel:
        stub = EdgeStub(channel)
        ask = edge_pb2.DenoiseRequest(
            protocol_version=PROTOCOL_VERSION,
            request_id="long",
            prompt="a red cat",
            plan=plan_to_proto(plan("edge/large", 200)),
            width=16,
            height=16,
        )
        kinds = []
        async for event in stub.Denoise(ask, timeout=SECONDS):
            kinds.append(event.WhichOneof("event"))
            if kinds.count("progress") == 1 and kinds[-1] == "progress":
                served.popen.send_signal(signal.SIGTERM)
        assert kinds[-1] == "image"
    assert served.popen.wait(SECONDS) == 0
    assert served.popen.stdout is not None
    assert served.popen.stdout.read() == ""
