"""Coordinator, edges and devices on hosts of their own: who reaches whom, and what a cut link does.

The nodes of deploy/compose.yaml, with the secrets that deploy/certificates.py writes.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from baton.common.families.loaded import LoadedFamily
from tests.support.commands import clean_environment
from tests.support.netns import SPACES, Network, Process, missing, network, remove_abandoned
from tests.support.nodes import drawn_here
from tests.support.tasks import plan, task
from tests.support.telling_device import Device

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 600
PORTS = {"coordinator": 7700, "edge-1": 7701, "edge-2": 7701}
SERVERS = list(PORTS)
EDGES = SERVERS[1:]
PEERS = {
    "coordinator": [],
    "edge-1": ["coordinator"],
    "edge-2": ["coordinator"],
    "device-a": SERVERS,
    "device-b": SERVERS,
}
PROMPT = "a red cat"
STEPS = 6
RELAY = {"arm": "relay@0.5", "steps": STEPS, "seed": 1}

_MISSING = missing()
pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(2 * SECONDS),
    pytest.mark.skipif(bool(_MISSING), reason=_MISSING or "nothing is missing"),
]


@dataclass(frozen=True)
class Site:
    """The hosts and what their processes need. ``folder``: for logs, pictures and state."""

    net: Network
    folder: Path
    family: Path

    @property
    def secrets(self) -> Path:
        return self.folder / "secrets"

    def address(self, name: str) -> str:
        return f"{self.net[name].address}:{PORTS[name]}"

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def start(self, name: str, module: str, *arguments: str) -> Process:
        """A process of Baton on that host; its settings come as files and environment do."""
        config = str(self.secrets / name / "config.toml")
        environment = clean_environment(self.folder / name, BATON_CONFIG=config)
        if name != "coordinator":
            kind = name.partition("-")[0].upper()
            own = self._edge(name) if kind == "EDGE" else self._device()
            own |= {"family": str(self.family), "coordinator": self.address("coordinator")}
            environment |= {f"BATON_{kind}_{key.upper()}": value for key, value in own.items()}
        command = [sys.executable, "-m", module, *arguments]
        return self.net[name].start(command, environment, self.log(name))

    def _edge(self, name: str) -> dict[str, str]:
        return {"advertise": self.address(name), "threads": "1"}

    def _device(self) -> dict[str, str]:
        """Its relays are exact, and it notices within two seconds that an edge fell silent."""
        edges = ",".join(self.address(name) for name in EDGES)
        return {"edges": edges, "codec": "fp32", "keepalive_time": "1", "keepalive_timeout": "1"}


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory, family_folder: Path) -> Iterator[Site]:
    with network(PEERS) as net:
        site = Site(net, tmp_path_factory.mktemp("site"), family_folder)
        _write_secrets(site)
        site.start("coordinator", "baton.coordinator.cli", "serve")
        for name in EDGES:
            site.start(name, "baton.edge_server.cli", "serve")
        yield site


@pytest.fixture(scope="module")
def device(serving: Site) -> Device:
    """On the host device-a; the servers are ready, too."""
    device = Device(serving.start("device-a", "tests.support.telling_device"))
    assert device.hear() == {"ready": True}
    for name in EDGES:
        _until_logged(serving.log(name), "registered with the coordinator")
    return device


@pytest.fixture
def site(serving: Site) -> Iterator[Site]:
    """With every link up, before and after."""
    yield serving
    serving.net.mend()


def _write_secrets(site: Site) -> None:
    hosts = [f"--host={host.address}" for host in site.net.values()]
    names = [f"--{name.partition('-')[0]}={name}" for name in PEERS if "-" in name]
    script = [sys.executable, str(ROOT / "deploy/certificates.py"), str(site.secrets)]
    subprocess.run([*script, *hosts, *names], check=True, capture_output=True)


def _until_logged(log: Path, text: str) -> None:
    deadline = time.monotonic() + SECONDS
    while text not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def _reached(site: Site, name: str) -> list[str]:
    """Servers that answer a host at their ports."""
    return [peer for peer in SERVERS if site.net[name].reaches(site.net[peer], PORTS[peer])]


def test_both_devices_draw_by_a_relay_what_one_machine_draws(
    site: Site, device: Device, family: LoadedFamily
) -> None:
    out = site.folder / "b.png"
    flags = ["--arm", RELAY["arm"], "--steps", STEPS, "--seed", 1, "--out", out, "--json"]
    other = site.start(
        "device-b", "baton.device_client.cli.main", "generate", PROMPT, *map(str, flags)
    )
    told = device.draw(PROMPT, **RELAY)
    answer, _ = other.communicate(timeout=SECONDS)
    assert other.returncode == 0, site.log("device-b").read_text()
    expected = drawn_here(family, task(plan(steps=STEPS), PROMPT, seed=1))

    assert told["nodes"]["device"] == STEPS // 2
    assert told["notes"] == []
    np.testing.assert_array_equal(told["picture"], expected)

    (described,) = json.loads(answer)
    assert described["steps"] == {"edge": STEPS // 2, "device": STEPS // 2}
    assert described["notes"] == []
    with Image.open(out) as image:
        np.testing.assert_array_equal(np.asarray(image), expected)


def test_devices_reach_the_servers_and_not_one_another(site: Site, device: Device) -> None:
    listen = "import socket; s = socket.create_server(('', 80)); print(flush=True); s.accept()"
    for name, other in (("device-a", "device-b"), ("device-b", "device-a")):
        log = site.folder / "listener.log"
        listener = site.net[other].start([sys.executable, "-c", listen], os.environ, log)
        assert listener.stdout is not None
        assert listener.stdout.readline() == "\n"
        assert not site.net[name].reaches(site.net[other], 80)
        assert site.net[other].reaches(site.net[other], 80)
        assert _reached(site, name) == SERVERS
    assert _reached(site, "edge-1") == ["coordinator", "edge-1"]


def test_an_edge_that_is_cut_off_in_the_middle_is_replaced_by_the_other(
    site: Site, device: Device
) -> None:
    device.ask(PROMPT, arm="relay@0.9", steps=200, seed=1)
    first, second = device.hear()["edges"]
    while device.hear()["step"] < 10:
        pass
    site.net.cut(site.net[first])
    result = device.result()
    assert result["nodes"].keys() == {first, second, "device"}
    assert result["nodes"]["device"] == 20
    assert sum(result["nodes"].values()) == 200
    (note,) = result["notes"]
    assert note.startswith(f"edge {site.address(first)} lost at step ")


def test_without_the_coordinator_the_device_decides_and_shows_a_ticket_kept_for_that(
    site: Site, device: Device
) -> None:
    site.net.cut(site.net["coordinator"])
    result = device.draw(PROMPT, **RELAY)
    assert result["nodes"]["device"] == STEPS // 2
    (note,) = result["notes"]
    assert note.startswith("decided alone: ")


def test_with_every_link_cut_the_device_draws_alone(site: Site, device: Device) -> None:
    for name in SERVERS:
        site.net.cut(site.net[name])
    result = device.draw(PROMPT, **RELAY, fallback=True)
    assert result["nodes"] == {"device": STEPS}
    assert result["notes"][0].startswith("decided alone: ")
    assert result["notes"][-1] == "drawn on the device with small from step 0"


def test_nothing_is_left_of_hosts_whose_test_failed(tmp_path: Path) -> None:
    with contextlib.suppress(ZeroDivisionError), network({"one": []}) as net:
        process = net["one"].start(["sleep", "600"], os.environ, tmp_path / "log")
        space = SPACES / net["one"].space
        assert space.exists()
        raise ZeroDivisionError
    assert process.poll() is not None
    assert not space.exists()


def test_nothing_is_left_of_hosts_whose_run_was_killed() -> None:
    lines = (
        "import os, pathlib, tests.support.netns as netns",
        "net = netns.Network({'one': []})",
        "net.build()",
        "net['one'].start(['sleep', '600'], os.environ, pathlib.Path(os.devnull))",
        "print(net['one'].space, flush=True)",
        "os._exit(1)",
    )
    command = [sys.executable, "-c", "; ".join(lines)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    space = done.stdout.strip()
    assert (SPACES / space).exists(), done.stderr
    remove_abandoned()
    assert not list(SPACES.glob(space.removesuffix("one") + "*"))
