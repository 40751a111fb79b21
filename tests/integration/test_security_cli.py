"""The command lines between guarded nodes, set up as SECURITY.md says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from deploy.certificates import main as make_certificates
from tests.support.commands import Told, clean_environment, run_many

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "a red cat"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # five processes load model libraries


def environment(folder: Path, config: Path, **more: str) -> dict[str, str]:
    return clean_environment(folder, BATON_CONFIG=str(config), **more)


@contextmanager
def serving(module: str, settings: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A node on a free port of this machine; whatever else it needs, its settings say."""
    command = [sys.executable, "-m", module, "serve", "--host", "127.0.0.1", "--port", "0"]
    popen = subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, text=True)
    try:
        yield popen
    finally:
        popen.send_signal(signal.SIGTERM)
        popen.wait(60)
        if popen.stdout is not None:
            popen.stdout.close()


def address(popen: subprocess.Popen[str]) -> str:
    assert popen.stdout is not None
    return popen.stdout.readline().split()[-1]


class Site:
    """What the script wrote, and the addresses of nodes that run with it."""

    def __init__(self, folder: Path, family: Path) -> None:
        self.folder = folder
        self.out = folder / "out"
        self.family = family
        self.coordinator = self.edge = ""

    def settings(self, name: str, **more: str) -> dict[str, str]:
        return environment(self.folder, self.out / name / "config.toml", **more)

    def run(self, module: str, settings: dict[str, str], **lines: list[str]) -> dict[str, Told]:
        return run_many(module, lines, settings, self.folder)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, family_folder: Path) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"), family_folder)
    assert make_certificates([str(made.out)]) == 0
    with ExitStack() as stack:
        settings = made.settings("coordinator")
        made.coordinator = address(stack.enter_context(serving("baton.coordinator.cli", settings)))
        settings = made.settings(
            "edge", BATON_EDGE_COORDINATOR=made.coordinator, BATON_EDGE_FAMILY=str(family_folder)
        )
        made.edge = address(stack.enter_context(serving("baton.edge_server.cli", settings)))
        yield made


@pytest.fixture(scope="module")
def told(site: Site) -> dict[str, Told]:
    """A device's command lines, in one process."""
    secret = {"BATON_DEVICE_TOKEN": "s3cret" + "x" * 40}
    settings = site.settings("device", BATON_DEVICE_FAMILY=str(site.family), **secret)
    nodes = ["--coordinator", site.coordinator]
    return site.run(
        "baton.device_client.cli.main",
        settings,
        config=["config", "show", "--json"],
        doctor=["doctor", "--edge", site.edge, *nodes, "--json"],
        relay=["generate", PROMPT, "--arm", "edge/large@0.5>device/small", "--steps", "4", *nodes,
               "--json"],
    )  # fmt: skip


def test_a_picture_is_relayed_between_guarded_nodes(told: dict[str, Told]) -> None:
    (picture,) = told["relay"].json()
    assert picture["steps"] == {"edge": 2, "device": 2}
    assert picture["notes"] == []


def test_doctor_finds_nothing_wrong(told: dict[str, Told]) -> None:
    assert {finding["ok"] for finding in told["doctor"].json()} == {True}


def test_config_show_never_shows_the_token(told: dict[str, Told]) -> None:
    rows = {row["setting"]: row for row in told["config"].json()}
    assert rows["token"]["origin"] == "environment"
    assert set(rows["token"]["value"]) == {"*"}
    assert rows["tls_ca"]["value"].endswith("ca.pem")
    assert "s3cret" not in told["config"].out + told["config"].err


def test_the_operator_looks_inside(site: Site) -> None:
    admin = site.settings("admin")
    at = ["--address", site.coordinator, "--json"]
    lines = {"nodes": ["nodes", *at], "arms": ["arms", *at], "decisions": ["decisions", *at]}
    found = site.run("baton.coordinator.cli", admin, **lines)
    (node,) = found["nodes"].json()
    assert node["address"] == site.edge
    (decision,) = found["decisions"].json() or [None]
    assert decision is None or decision["owner"] == "device"
    found["arms"].json()
    status = site.run(
        "baton.edge_server.cli", admin, status=["status", "--address", site.edge, "--json"]
    )
    assert status["status"].json()["node_id"] == "edge"


@pytest.mark.parametrize("name", ["nobody", "device", "broken"])
def test_others_are_told_in_one_line_why_not(site: Site, name: str) -> None:
    if name == "nobody":
        settings, code, word = environment(site.folder, Path(os.devnull)), 3, "TLS"
    elif name == "device":
        pair = {f"BATON_ADMIN_{key}": str(site.out / "device" / file)
                for key, file in (("TLS_CERT", "cert.pem"), ("TLS_KEY", "key.pem"))}  # fmt: skip
        settings, code, word = site.settings("admin", **pair), 4, "role"
    else:
        settings = site.settings("admin", BATON_ADMIN_TLS_CA=str(site.folder / "absent.pem"))
        code, word = 2, "absent.pem"
    found = site.run(
        "baton.coordinator.cli", settings, nodes=["nodes", "--address", site.coordinator]
    )
    assert word in found["nodes"].refused(code)


def test_a_node_with_the_wrong_key_does_not_start(site: Site) -> None:
    settings = site.settings(
        "coordinator", BATON_COORDINATOR_TLS_KEY=str(site.out / "device" / "key.pem")
    )
    found = site.run("baton.coordinator.cli", settings, serve=["serve", "--port", "0"])
    assert "is not the key of" in found["serve"].refused(2)
