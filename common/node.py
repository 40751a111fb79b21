"""What an edge says of itself to its coordinator: values only, checked when they are made.

Raises InvalidRequest for anything outside the limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from baton.common.arm import Arm
from baton.common.checks import MAX_FAMILY_MEMBERS, check_members, check_optional_id, check_range
from baton.common.errors import InvalidRequest
from baton.common.naming import MAX_ADDRESS_CHARS, check_advertised, check_id, check_node_id
from baton.common.request import Preference


@dataclass(frozen=True, slots=True)
class NodeLoad:
    """How busy an edge is.

    cpu, memory: share of the whole machine, 0 to 1. active, queued: requests. capacity: requests
    that fit, active and queued together; 0 if the edge does not say.
    """

    cpu: float = 0.0
    memory: float = 0.0
    active: int = 0
    queued: int = 0
    capacity: int = 0

    def __post_init__(self) -> None:
        check_range(self.cpu, 0.0, 1.0, "load.cpu")
        check_range(self.memory, 0.0, 1.0, "load.memory")
        for name in ("active", "queued", "capacity"):
            check_range(getattr(self, name), 0, 1_000_000, f"load.{name}")


@dataclass(frozen=True, slots=True)
class Registration:
    """What an edge says about itself when it joins.

    members: those that it has loaded; family_members: all that its family has, or nothing.
    incarnation: of its process; secret: kept under its id. Older edges have neither. latent_space:
    id of that in which its latents are; empty: the fingerprint alone tells. arms: the family's own,
    by preference. partial_members: of the family, those that take steps at some levels of noise
    only.
    """

    node_id: str
    address: str
    family: str
    members: tuple[str, ...]
    fingerprint: str
    load: NodeLoad = NodeLoad()
    family_members: tuple[str, ...] = ()
    incarnation: str = ""
    secret: str = field(default="", repr=False)
    latent_space: str = ""
    arms: Mapping[Preference, Arm] = field(default_factory=dict)
    partial_members: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_node_id(self.node_id)
        check_id(self.address, "address", MAX_ADDRESS_CHARS)
        check_advertised(self.address, local=True)
        check_id(self.family, "family")
        check_id(self.fingerprint, "fingerprint")
        if not check_members(self.members, "members"):
            raise InvalidRequest("an edge must hold at least one member")
        check_members(self.family_members, "family_members", MAX_FAMILY_MEMBERS)
        check_members(self.partial_members, "partial_members", MAX_FAMILY_MEMBERS)
        check_optional_id(self.incarnation, "incarnation")
        check_optional_id(self.secret, "secret")
        check_optional_id(self.latent_space, "latent_space")
