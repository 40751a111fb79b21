"""What can be refused of an edge's settings before a model library is imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec

from baton.common.errors import Incompatible
from baton.common.families.manifest import find_family, read_manifest
from baton.common.naming import check_advertised, is_loopback, joined
from baton.common.rpc.access import Access, Guard
from baton.common.rpc.ports import claim
from baton.common.rpc.serving import check_exposure
from baton.common.rpc.ticket_keys import read_public_key
from baton.edge_server.settings import DEFAULT_PORT, EdgeSettings


@dataclass(frozen=True)
class Secrets:
    """What the settings' files hold.

    guard: who is let in; access: to the coordinator; ticket_keys: whose tickets count for good.
    own: what proves to the coordinator that the node's id is its own.
    """

    guard: Guard
    access: Access
    ticket_keys: tuple[bytes, ...]
    own: str = field(default="", repr=False)

    @classmethod
    def read(cls, settings: EdgeSettings) -> Secrets:
        """Raises InvalidRequest for a file that cannot be used."""
        keys = tuple(read_public_key(path) for path in settings.ticket_key_paths)
        return cls(settings.guard(), settings.access(), keys)


def check_node(settings: EdgeSettings) -> Secrets:
    """Read the files that the settings name, and check host and addresses.

    Raises InvalidRequest for a setting of no use.
    """
    secrets = Secrets.read(settings)
    check_exposure(settings.host, settings.insecure, secrets.guard)
    if settings.coordinator:
        check_reachable(settings)
    return secrets


def check_reachable(settings: EdgeSettings) -> None:
    """Raises InvalidRequest for an address that the coordinator would refuse."""
    address = settings.advertise or joined(settings.host, settings.port or DEFAULT_PORT)
    check_advertised(address, local=is_loopback(settings.coordinator.rpartition(":")[0]))


def check_serving(settings: EdgeSettings) -> None:
    """`check_node`, and the family, its members, and the ports.

    Raises UnknownName or WeightsError for the family, and as `claim` does for host and port.
    """
    check_node(settings)
    manifest = read_manifest(find_family(settings.family))
    for member in settings.member_list or ():
        manifest.check_member(member)
    claim(settings.host, settings.port)
    if settings.metrics_port is not None:
        check_metrics(settings.metrics_host, settings.metrics_port)


def check_metrics(host: str, port: int) -> None:
    """Raises Incompatible without the library, and as `claim` does for host and port."""
    if find_spec("prometheus_client") is None:
        raise Incompatible(
            "metrics need the library prometheus-client; install baton-diffusion[edge], or leave"
            " metrics_port out"
        )
    claim(host, port, "metrics-")
