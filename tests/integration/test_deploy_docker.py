"""deploy/compose.yaml brought up in Docker: relays, separate networks, and edges that are lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.telling_device import Device

ROOT = Path(__file__).resolve().parents[2]
BASE = "python:3.11-slim"
SECONDS = 600
SERVERS = ("coordinator", "edge-1", "edge-2")
PROMPT = "a red cat"
#: Of the user in the image, who must be able to read the secrets if root made them.
USER = 10001

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(4 * SECONDS)]

_CONNECT = """
import json, socket, sys
def reached(host, port):
    try:
        socket.create_connection((host, port), 3).close()
    except OSError:
        return False
    return True
print(json.dumps([reached(*target) for target in json.loads(sys.argv[1])]))
"""


def docker(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout.strip()


@dataclass(frozen=True)
class Compose:
    """The project of one test run. ``folder`` holds its secrets and the pictures."""

    program: tuple[str, ...]
    project: str
    folder: Path

    def command(self, *arguments: str) -> list[str]:
        return [*self.program, "-f", str(ROOT / "deploy/compose.yaml"), *arguments]

    @property
    def environment(self) -> dict[str, str]:
        user = (USER, USER) if os.geteuid() == 0 else (os.getuid(), os.getgid())
        return os.environ | {
            "COMPOSE_PROJECT_NAME": self.project,
            "BATON_SECRETS": str(self.folder / "secrets"),
            "BATON_PICTURES": str(self.folder / "pictures"),
            "BATON_USER": "{}:{}".format(*user),
        }

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run(
            self.command(*arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=4 * SECONDS,
        )
        assert done.returncode == 0, done.stderr[-2_000:]
        return done.stdout

    def container(self, service: str) -> str:
        return self("ps", "-q", service).strip()

    def address(self, container: str, network: str) -> str:
        (about,) = json.loads(docker("inspect", container))
        return str(about["NetworkSettings"]["Networks"][f"{self.project}_{network}"]["IPAddress"])

    def until_healthy(self, *services: str) -> None:
        containers = [self.container(service) for service in services]
        deadline = time.monotonic() + SECONDS
        while True:
            told = docker("inspect", "--format", "{{.State.Health.Status}}", *containers).split()
            if set(told) == {"healthy"}:
                return
            assert time.monotonic() < deadline, told
            time.sleep(1)

    @contextmanager
    def device(self, name: str) -> Iterator[Device]:
        """A device that tells how it goes, and notices a silent edge within four seconds."""
        script = ROOT / "tests/support/telling_device.py"
        command = self.command(
            *("run", "--rm", "-T", "--entrypoint", "python"),
            *("-e", "BATON_DEVICE_KEEPALIVE_TIME=2", "-e", "BATON_DEVICE_KEEPALIVE_TIMEOUT=2"),
            *("-v", f"{script}:/opt/telling_device.py:ro", name, "/opt/telling_device.py"),
        )
        process = subprocess.Popen(
            command,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            device = Device(process)
            assert device.hear() == {"ready": True}
            yield device
        finally:
            process.communicate(timeout=SECONDS)  # its stdin ends, and so does it


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """The servers, up and healthy."""
    compose = Compose(_program(), f"baton-test-{os.getpid()}", tmp_path_factory.mktemp("deploy"))
    if not docker("images", "-q", BASE) and docker("pull", BASE, check=False) == "":
        pytest.skip(f"the base image {BASE} is not to be had")
    _write_secrets(compose.folder)
    try:
        compose("build")
        compose("up", "-d")
        compose.until_healthy(*SERVERS)
        yield compose
    finally:
        compose("down", "-v", "--remove-orphans")


@pytest.fixture
def servers(compose: Compose) -> Iterator[Compose]:
    """The servers, all of them brought back after the test."""
    yield compose
    compose("up", "-d", "--force-recreate", "edge-1", "edge-2")
    compose.until_healthy(*SERVERS)


def _program() -> tuple[str, ...]:
    if subprocess.run(
        ["docker", "compose", "version"], capture_output=True, check=False
    ).returncode:
        if shutil.which("docker-compose") is None:
            pytest.skip("needs `docker compose` or docker-compose")
        return ("docker-compose",)
    return ("docker", "compose")


def _write_secrets(folder: Path) -> None:
    names = [f"--host={name}" for name in (*SERVERS, "coordinator.core")]
    names += ["--edge=edge-1", "--edge=edge-2", "--device=device-a", "--device=device-b"]
    script = [sys.executable, str(ROOT / "deploy/certificates.py"), str(folder / "secrets")]
    subprocess.run([*script, *names], check=True, capture_output=True)
    (folder / "pictures").mkdir()
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", f"{USER}:{USER}", str(folder)], check=True)


@pytest.mark.parametrize("name", ["device-a", "device-b"])
def test_a_device_draws_by_a_relay(compose: Compose, name: str) -> None:
    out = f"/pictures/{name}.png"
    flags = ["--arm", "relay@0.4", "--steps", "20", "--seed", "7", "--json", "--out", out]
    (told,) = json.loads(compose("run", "--rm", "-T", name, "generate", PROMPT, *flags))
    assert told["steps"] == {"edge": 8, "device": 12}
    assert told["notes"] == []
    with Image.open(compose.folder / f"pictures/{name}.png") as image:
        assert image.size == (256, 256)


def test_the_operator_sees_both_edges(compose: Compose) -> None:
    nodes = json.loads(compose("run", "--rm", "-T", "admin", "nodes", "--json"))
    assert {node["node_id"]: node["state"] for node in nodes} == {
        "edge-1": "alive",
        "edge-2": "alive",
    }


def test_devices_reach_the_servers_and_neither_one_another_nor_the_core(compose: Compose) -> None:
    listen = ["run", "-d", "--entrypoint", "python", "device-b", "-m", "http.server", "8000"]
    other = compose(*listen).strip().splitlines()[-1]
    try:
        coordinator = compose.container("coordinator")
        targets = [
            ("coordinator", 7700),
            ("edge-1", 7701),
            ("edge-2", 7701),
            (compose.address(coordinator, "core"), 7700),
            (compose.address(coordinator, "access-b"), 7700),
            (compose.address(other, "access-b"), 8000),
        ]
        assert _reached(compose, "device-a", targets) == [True] * 3 + [False] * 3
        assert _reached(compose, "device-b", targets[-1:]) == [True]
    finally:
        docker("rm", "-f", other)


def _reached(compose: Compose, name: str, targets: list[tuple[str, int]]) -> list[bool]:
    run = ["run", "--rm", "-T", "--entrypoint", "python", name, "-c", _CONNECT]
    return list(json.loads(compose(*run, json.dumps(targets))))


@pytest.mark.parametrize("how", ["killed", "disconnected"])
def test_an_edge_lost_in_the_middle_is_replaced_by_the_other(servers: Compose, how: str) -> None:
    with servers.device("device-a") as device:
        device.ask(PROMPT, arm="edge", steps=200, seed=7)
        first, second = device.hear()["edges"]
        while device.hear()["step"] < 10:
            pass
        if how == "killed":
            docker("kill", servers.container(first))
        else:
            network = f"{servers.project}_access-a"
            docker("network", "disconnect", network, servers.container(first))
        result: dict[str, Any] = device.result()
    assert result["nodes"].keys() == {first, second}
    assert sum(result["nodes"].values()) == 200
    assert result["notes"][0].startswith(f"edge {first}:7701 lost at step ")
