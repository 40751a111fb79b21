"""``baton-edge`` as its users run it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from baton.common.families.loaded import LoadedFamily
from baton.common.rpc import PROTOCOL_VERSION
from baton.common.rpc.channel import channel_to
from baton.common.rpc.convert import plan_to_proto
from baton.device_client.events import EdgeLost, Event, Finished, Stepped
from baton.v1 import edge_pb2
from baton.v1.edge_pb2_grpc import EdgeStub
from tests.support.commands import Told, run_many
from tests.support.families import copy_family, edit_json, flip_bit
from tests.support.nodes import check_executed, closed_port, device, differ, drawn_here, edge
from tests.support.served import Process, Starting, started
from tests.support.tasks import PROMPTS, plan

SECONDS = 100
UNET = "large/unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module", autouse=True)
def starting(environment: dict[str, str]) -> Iterator[Starting]:
    """An edge that gets ready while the other tests run."""
    with started(environment, "killed") as made:
        yield made


@pytest.fixture(scope="module")
def killed(starting: Starting) -> Process:
    return starting.ready()


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
        "taken metrics port": [*anywhere, "--metrics-port", served.port],
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


def test_a_taken_port_of_metrics_is_told(baton_edge: dict[str, Told], served: Process) -> None:
    told = baton_edge["taken metrics port"].refused(3)
    assert served.address in told
    assert "--metrics-port" in told


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
