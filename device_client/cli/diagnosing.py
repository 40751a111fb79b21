"""``baton doctor``: checks what a picture needs, one line each, and says what to do."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

from baton.common.cli import print_json
from baton.common.errors import BatonError, Incompatible
from baton.common.families.spec import FamilySpec, read_spec
from baton.common.rpc.access import NOTICE, ending_soon
from baton.device_client.checks import check_addresses
from baton.device_client.settings import DeviceSettings, split_list

_NOT_REACHABLE = 3
_FAILED = 5


@dataclass(frozen=True)
class Finding:
    """ok: True, False, or None for something that is merely absent.

    warning: all is well, but will not stay so.
    """

    check: str
    ok: bool | None
    detail: str
    warning: bool = False

    @property
    def mark(self) -> str:
        return "warn" if self.warning else {True: "ok  ", False: "FAIL", None: "-   "}[self.ok]


def doctor(settings: DeviceSettings, edge: str | None, as_json: bool) -> int:
    """Print the findings; returns the exit code: 0, 3 if a node is out of reach, else 5.

    Raises InvalidRequest for what is no address.
    """
    edges = split_list(edge or "") or settings.edge_list
    check_addresses(edges, settings.coordinator)
    own = [_software(), _weights(settings), *_certificates(settings)]
    nodes = [_edge(address, settings) for address in edges]
    if settings.coordinator:
        nodes.append(_coordinator(settings))
    else:
        nodes.append(
            Finding("coordinator", None, "none configured; decisions are made on this device")
        )
    if not edges and not settings.coordinator:
        nodes.append(Finding("edges", None, "none configured; name one with --edge HOST:PORT"))
    findings = own + nodes
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            print(f"{finding.mark} {finding.check}: {finding.detail}")
    if any(finding.ok is False for finding in own):
        return _FAILED
    return _NOT_REACHABLE if any(finding.ok is False for finding in nodes) else 0


def _finding(check: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(check, True, look())
    except BatonError as error:
        return Finding(check, False, " ".join(str(error).split()))


def _software() -> Finding:
    def look() -> str:
        packages = ("baton-diffusion", "torch", "diffusers", "transformers", "grpcio")
        found = ", ".join(f"{name} {_version(name)}" for name in packages)
        return f"Python {platform.python_version()}, {found}"

    return _finding("software", look)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _weights(settings: DeviceSettings) -> Finding:
    def look() -> str:
        spec = _own_spec(settings)
        members = ", ".join(settings.held(spec)) or "no member"
        return f"{spec.name}: {members}; latent space {spec.latent_space.id or 'unknown'}"

    return _finding("weights", look)


def _own_spec(settings: DeviceSettings) -> FamilySpec:
    """Of the family, loaded if the device holds any of it."""
    spec = read_spec(settings.family)
    if not settings.held(spec):
        return spec
    from baton.common.quiet import quiet_libraries

    quiet_libraries()
    from baton.common.families.loaded import load_family

    return load_family(settings.family, settings.held(spec)).spec


def _certificates(settings: DeviceSettings) -> list[Finding]:
    """Of this device; nothing if it has none."""
    if settings.tls_ca is None and settings.tls_cert is None:
        return []

    def look() -> str:
        settings.access()
        return f"good for more than {NOTICE.days} days"

    found = _finding("certificates", look)
    if not found.ok:
        return [found]
    return [Finding("certificates", True, line, True) for line in ending_soon(settings)] or [found]


def _edge(address: str, settings: DeviceSettings) -> Finding:
    def look() -> str:
        from baton.common.rpc.edge_status import edge_status

        found = asyncio.run(edge_status(address, settings.access()))
        family = read_spec(settings.family).name
        if found["family"] != family:
            raise Incompatible(f"{address} serves family {found['family']}, this device {family}")
        milliseconds = 1000 * float(str(found["rtt_seconds"]))
        return (
            f"{found['node_id']} at {address}: {milliseconds:.1f} ms,"
            f" {found['active']} running, {found['queued']} waiting of {found['capacity']}"
        )

    return _finding("edge", look)


def _coordinator(settings: DeviceSettings) -> Finding:
    def look() -> str:
        from baton.device_client.coordination import Link, check_health

        link = Link(settings.coordinator, settings.access(), timeout=2.0)
        milliseconds = 1000 * asyncio.run(check_health(link))
        return f"{link.address}: {milliseconds:.1f} ms; `baton-coordinator nodes` lists its edges"

    return _finding("coordinator", look)
