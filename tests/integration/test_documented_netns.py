"""The commands for several machines in README.md and SECURITY.md, followed as they stand there.

Every machine is a network namespace that knows the others by the names in the documents. Whose
machine a command is for, the settings file in it says; the folder is as after a fresh checkout.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from baton.device_client.png import read_png
from tests.support.commands import ROOT, clean_environment
from tests.support.netns import Network, Process, missing, network

SECONDS = 300
PEERS = {"coordinator": [], "edge": ["coordinator"], "person": ["coordinator", "edge"]}
NAMES = {"coordinator.example.org": "coordinator", "edge.example.org": "edge"}
READY = {"coordinator": "listening on", "edge": "registered with"}

#: For machines that are busy with other tests, too.
PATIENCE = {"BATON_DEVICE_COORDINATOR_TIMEOUT": "60", "BATON_DEVICE_CONNECT_TIMEOUT": "60"}

_MISSING = missing()
pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(2 * SECONDS),
    pytest.mark.skipif(bool(_MISSING), reason=_MISSING or "nothing is missing"),
]


def commands(document: str) -> list[str]:
    """Those of the block that begins by making the certificates."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    (block,) = [block for block in blocks if block.startswith("python deploy/certificates.py")]
    return str(block).splitlines()


@dataclass
class Site:
    """Three machines and the folder in which everybody works."""

    net: Network
    folder: Path
    told: dict[str, str] = field(default_factory=dict)

    def follow(self, commands: Sequence[str]) -> None:
        """Say each on its machine: first what serves, then, once that is ready, the others."""
        servers = [command for command in commands if command.endswith(" serve")]
        for command in servers:
            self._start(_machine(command), command)
        for command in servers:
            self._until_ready(_machine(command))
        others = {c: self._start("person", c) for c in commands if c not in servers}
        for command, process in others.items():
            out, _ = process.communicate(timeout=SECONDS)
            assert process.returncode == 0, f"{command}: {out}"
            self.told[command] = out

    def _start(self, machine: str, command: str) -> Process:
        scripts = Path(sys.executable).parent
        environment = clean_environment(
            self.folder, HOME=str(self.folder / machine), PATH=f"{scripts}:{os.environ['PATH']}"
        )
        environment["XDG_STATE_HOME"] = str(self.folder / machine / "state")
        environment["PYTHONUNBUFFERED"] = "1"
        environment |= PATIENCE
        line = f"cd {self.folder} && exec env {command} 2>&1 | tee -a {self._log(machine)}"
        shell = ["bash", "-o", "pipefail", "-c", line]
        return self.net[machine].start(shell, environment, self._log(machine))

    def _log(self, machine: str) -> Path:
        return self.folder / f"{machine}.log"

    def _until_ready(self, machine: str) -> None:
        deadline, log = time.monotonic() + SECONDS, self._log(machine)
        while READY[machine] not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)


def _machine(command: str) -> str:
    """Whose settings it names."""
    found = re.match(r"BATON_CONFIG=keys/(\w+)/", command)
    assert found
    return found[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """After every command of both documents, each said once."""
    with network(PEERS) as net:
        net.name(NAMES)
        made = Site(net, tmp_path_factory.mktemp("clean"))
        (made.folder / "deploy").symlink_to(ROOT / "deploy")
        first, *others = dict.fromkeys([*commands("README.md"), *commands("SECURITY.md")])
        made.follow([first])
        made.follow(others)
        yield made


def test_the_documents_make_the_same_certificates() -> None:
    assert commands("README.md")[0] == commands("SECURITY.md")[0]


def test_a_picture_comes_by_relay_from_another_machine(site: Site) -> None:
    provenance = read_png(site.folder / "heart.png").provenance
    where: Mapping[str, int] = {
        node: sum(step.node_id == node for step in provenance.executed)
        for node in ("edge", "device")
    }
    assert where["edge"] > 0
    assert where["device"] > 0
    assert sum(where.values()) == len(provenance.executed)
    (told,) = [out for line, out in site.told.items() if " generate " in line]
    assert "decided alone" not in told
    assert "lost" not in told


def test_the_doctor_and_the_operator_see_the_nodes_at_their_names(site: Site) -> None:
    (doctor,) = [out for line, out in site.told.items() if line.endswith("baton doctor")]
    assert "ok   coordinator: coordinator.example.org:7700" in doctor
    assert "FAIL" not in doctor
    (nodes,) = [out for line, out in site.told.items() if "baton-coordinator nodes" in line]
    assert "edge.example.org:7701" in nodes
    assert "alive" in nodes


def test_the_nodes_prove_their_names_by_tls(site: Site) -> None:
    shake = """if True:
        import socket, ssl, sys
        host, port = sys.argv[1:]
        context = ssl.create_default_context(cafile="keys/anna/ca.pem")
        with socket.create_connection((host, int(port))) as plain:
            print(context.wrap_socket(plain, server_hostname=host).version())
    """
    for host, port in (("coordinator.example.org", "7700"), ("edge.example.org", "7701")):
        command = ["ip", "netns", "exec", site.net["person"].space, sys.executable, "-IS"]
        done = subprocess.run(
            [*command, "-c", shake, host, port],
            cwd=site.folder,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.startswith("TLS")
