"""What a device asks a coordinator: where to draw, without the prompt.

Raises InvalidRequest for anything outside the limits.
"""

from __future__ import annotations

from dataclasses import dataclass

from baton.common.arm import Arm
from baton.common.checks import (
    MAX_PROBES,
    check_members,
    check_optional_id,
    check_range,
    check_seconds,
)
from baton.common.errors import InvalidRequest
from baton.common.limits import check_steps
from baton.common.naming import check_id
from baton.common.request import Preference
from baton.common.size import Size


@dataclass(frozen=True, slots=True)
class PromptFeatures:
    """How much a prompt asks for, counted on the device; the prompt itself stays there.

    words; objects (noun phrases, estimated); attributes; relations; count: the largest one.
    """

    words: int = 0
    objects: int = 0
    attributes: int = 0
    relations: int = 0
    count: int = 0

    def __post_init__(self) -> None:
        for name in ("words", "objects", "attributes", "relations", "count"):
            check_range(getattr(self, name), 0, 10_000, f"prompt.{name}")


@dataclass(frozen=True, slots=True)
class DecideQuery:
    """What a device asks with.

    members: those that the device holds. steps: number of denoising steps, of arms without steps of
    their own; any_steps: whether the bandit may choose others. partial_members: those of the
    members that take steps at some levels of noise only. device_cpu: share of the
    device's machine, 0 to 1. rtt_seconds: round trip to the coordinator. probes: (node id, round
    trip in seconds) of the edges that the device has measured. An empty fingerprint says that the
    device holds no model, so that any edge may finish the picture. requested_arm: which the user
    insists on; None leaves the choice to the bandit. owner: the name under which the device has
    proved who it is; empty where nobody asked. size: of the picture; None: not said. latent_space:
    id of that in which the device's latents are; empty: the fingerprint alone tells.
    """

    request_id: str
    family: str
    steps: int
    prompt: PromptFeatures = PromptFeatures()
    preference: Preference = "balanced"
    fingerprint: str = ""
    members: tuple[str, ...] = ()
    device_cpu: float = 0.0
    rtt_seconds: float = 0.0
    probes: tuple[tuple[str, float], ...] = ()
    requested_arm: Arm | None = None
    owner: str = ""
    size: Size | None = None
    latent_space: str = ""
    any_steps: bool = False
    partial_members: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_id(self.request_id, "request_id")
        check_id(self.family, "family")
        check_steps(self.steps)
        check_optional_id(self.fingerprint, "fingerprint")
        check_optional_id(self.owner, "owner")
        check_optional_id(self.latent_space, "latent_space")
        check_members(self.members, "members")
        check_members(self.partial_members, "partial_members")
        check_range(self.device_cpu, 0.0, 1.0, "device_cpu")
        check_seconds(self.rtt_seconds, "rtt_seconds")
        if len(self.probes) > MAX_PROBES:
            raise InvalidRequest(f"more than {MAX_PROBES} probes")
        for node_id, seconds in self.probes:
            check_id(node_id, "probes.node_id")
            check_seconds(seconds, "probes.rtt_seconds")
