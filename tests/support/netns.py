"""Hosts on one machine: network namespaces around a router, each in a subnet of its own.

    with network({"edge": [], "device": ["edge"]}) as net:
        net["edge"].start(["baton-edge", "serve"], os.environ, Path("edge.log"))

A host is wired to the router alone. Policy routing, not a firewall, decides who reaches whom, and
the machine's own network is left as it is.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

#: Where `ip` keeps the names.
SPACES = Path("/run/netns")
#: What `ip netns exec` puts in the place of files in /etc.
_HOSTS = Path("/etc/netns")
_SECONDS = 20
_counter = itertools.count()

Process = subprocess.Popen[str]


def missing() -> str:
    """Why there can be no hosts here; empty if there can."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    if shutil.which("ip") is None:
        return "needs the command `ip` (iproute2)"
    probe = f"{_prefix()}probe"
    try:
        _ip(f"netns add {probe}", f"netns delete {probe}")
    except RuntimeError as error:
        return f"network namespaces cannot be made here: {error}"
    return ""


@dataclass
class Host:
    """A namespace with loopback and one interface. ``number``: of its subnet and its port."""

    name: str
    space: str
    number: int
    _processes: list[Process] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"10.77.{self.number}.2"

    @property
    def gateway(self) -> str:
        return f"10.77.{self.number}.1"

    @property
    def subnet(self) -> str:
        return f"10.77.{self.number}.0/24"

    @property
    def port(self) -> str:
        return f"port{self.number}"

    def start(self, command: Sequence[str], env: Mapping[str, str], log: Path) -> Process:
        """Run a command inside until it ends or the network does.

        Its stdin and stdout are pipes; what it writes to stderr is appended to ``log``.
        """
        with log.open("a") as stderr:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.space, *command],
                env=dict(env),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def reaches(self, other: Host, port: int) -> bool:
        """Whether a connection comes about within two seconds."""
        attempt = f"import socket; socket.create_connection(('{other.address}', {port}), 2)"
        command = ["ip", "netns", "exec", self.space, sys.executable, "-IS", "-c", attempt]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def stop(self) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=_SECONDS)


class Network(dict[str, Host]):
    """Hosts by name, around a router. ``peers``: whom each host may open connections to."""

    def __init__(self, peers: Mapping[str, Sequence[str]]) -> None:
        prefix = _prefix()
        super().__init__(
            {name: Host(name, prefix + name, number) for number, name in enumerate(peers, 1)}
        )
        self._router = f"{prefix}router"
        self._pairs = {frozenset((a, b)) for a, others in peers.items() for b in others}

    def build(self) -> None:
        _ip(f"netns add {self._router}")
        _ip(*(f"netns add {host.space}" for host in self.values()))
        _ip(
            *(
                f"link add wire netns {host.space} type veth peer {host.port} netns {self._router}"
                for host in self.values()
            )
        )
        for host in self.values():
            _ip(
                "link set lo up",
                f"address add {host.address}/24 dev wire",
                "link set wire up",
                space=host.space,
            )
        _ip(
            *(f"address add {h.gateway}/24 dev {h.port}" for h in self.values()), space=self._router
        )
        _ip(
            *(f"rule add iif {h.port} lookup {h.number}" for h in self.values()), space=self._router
        )
        forward = ["sysctl", "-qw", "net.ipv4.ip_forward=1"]
        _run(["ip", "netns", "exec", self._router, *forward])
        self.mend()

    def mend(self) -> None:
        """Plug everybody in."""
        _ip(*(f"link set {host.port} up" for host in self.values()), space=self._router)
        for host in self.values():
            _ip(f"route replace default via {host.gateway}", space=host.space)
        routes = [f"unreachable default table {host.number}" for host in self.values()]
        for one, other in map(sorted, self._pairs):
            routes.append(f"{self[one].subnet} dev {self[one].port} table {self[other].number}")
            routes.append(f"{self[other].subnet} dev {self[other].port} table {self[one].number}")
        _ip(*(f"route replace {route}" for route in routes), space=self._router)

    def name(self, names: Mapping[str, str]) -> None:
        """Let every host know others by these names, too: name to host, as in ``/etc/hosts``."""
        lines = [f"{self[host].address} {name}\n" for name, host in names.items()]
        for host in self.values():
            folder = _HOSTS / host.space
            folder.mkdir(parents=True)
            (folder / "hosts").write_text("".join(["127.0.0.1 localhost\n", *lines]))

    def cut(self, host: Host) -> None:
        """Pull a host's plug at the router: no connection is closed, nothing arrives any more."""
        _ip(f"link set {host.port} down", space=self._router)

    def remove(self) -> None:
        for host in self.values():
            host.stop()
        for space in (self._router, *(host.space for host in self.values())):
            with contextlib.suppress(RuntimeError):
                _ip(f"netns delete {space}")
            shutil.rmtree(_HOSTS / space, ignore_errors=True)


@contextlib.contextmanager
def network(peers: Mapping[str, Sequence[str]]) -> Iterator[Network]:
    """Hosts for one block; after it no process and no namespace is left, failure or not."""
    remove_abandoned()
    made = Network(peers)
    try:
        made.build()
        yield made
    finally:
        made.remove()


def remove_abandoned() -> None:
    """Remove what runs that were killed could not."""
    for path in SPACES.glob("baton-*"):
        found = re.fullmatch(r"baton-(\d+)-.*", path.name)
        if found and not Path(f"/proc/{found[1]}").exists():
            for pid in _run(["ip", "netns", "pids", path.name]).split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            _ip(f"netns delete {path.name}")
            shutil.rmtree(_HOSTS / path.name, ignore_errors=True)


def _prefix() -> str:
    return f"baton-{os.getpid()}-{next(_counter)}-"


def _ip(*lines: str, space: str = "") -> None:
    """One process for all lines, in a namespace or none."""
    _run(["ip", *(["-n", space] if space else []), "-batch", "-"], "\n".join(lines))


def _run(command: Sequence[str], text: str = "") -> str:
    """Raises RuntimeError, with what the command had to say."""
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, timeout=_SECONDS, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)}: {done.stderr.strip()}")
    return done.stdout
