"""What the coordinator speaks about: values only, checked when they are made.

Raises InvalidRequest for anything outside the limits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from baton.common.errors import Cancelled, InvalidRequest
from baton.common.plan import MAX_STEPS, Arm, EdgeChoice, check_steps
from baton.common.request import Preference
from baton.common.rpc.convert import MAX_ATTEMPTS, MAX_FAMILY_MEMBERS
from baton.common.rpc.naming import MAX_ADDRESS_CHARS, check_advertised, check_id, check_node_id
from baton.common.rpc.tickets import MAX_SIZE
from baton.coordinator import checks

DecisionState = Literal["pending", "rewarded", "expired", "withdrawn"]
NodeState = Literal["alive", "draining", "lost"]


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
        checks.check_range(self.cpu, 0.0, 1.0, "load.cpu")
        checks.check_range(self.memory, 0.0, 1.0, "load.memory")
        for name in ("active", "queued", "capacity"):
            checks.check_range(getattr(self, name), 0, 1_000_000, f"load.{name}")


@dataclass(frozen=True, slots=True)
class Registration:
    """What an edge says about itself when it joins.

    members: those that it has loaded; family_members: all that its family has, or nothing.
    incarnation: of its process; secret: kept under its id. Older edges have neither.
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

    def __post_init__(self) -> None:
        check_node_id(self.node_id)
        check_id(self.address, "address", MAX_ADDRESS_CHARS)
        check_advertised(self.address, local=True)
        check_id(self.family, "family")
        check_id(self.fingerprint, "fingerprint")
        if not checks.check_members(self.members, "members"):
            raise InvalidRequest("an edge must hold at least one member")
        checks.check_members(self.family_members, "family_members", MAX_FAMILY_MEMBERS)
        checks.check_optional_id(self.incarnation, "incarnation")
        checks.check_optional_id(self.secret, "secret")


@dataclass(frozen=True, slots=True)
class PromptFeatures:
    """Counts that the device takes on the prompt; the prompt itself never comes here."""

    words: int = 0
    objects: int = 0
    attributes: int = 0
    relations: int = 0
    count: int = 0

    def __post_init__(self) -> None:
        for name in ("words", "objects", "attributes", "relations", "count"):
            checks.check_range(getattr(self, name), 0, 10_000, f"prompt.{name}")


@dataclass(frozen=True, slots=True)
class DecideQuery:
    """What a device asks with.

    members: those that the device holds. steps: number of denoising steps. device_cpu: share of the
    device's machine, 0 to 1. rtt_seconds: round trip to the coordinator. probes: (node id, round
    trip in seconds) of the edges that the device has measured. An empty fingerprint says that the
    device holds no model, so that any edge may finish the picture. requested_arm: which the user
    insists on; None leaves the choice to the bandit. owner: the name under which the device has
    proved who it is; empty where nobody asked. size: of the picture's side, pixels; 0: not said.
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
    size: int = 0

    def __post_init__(self) -> None:
        check_id(self.request_id, "request_id")
        check_id(self.family, "family")
        check_steps(self.steps)
        checks.check_optional_id(self.fingerprint, "fingerprint")
        checks.check_optional_id(self.owner, "owner")
        checks.check_range(self.size, 0, MAX_SIZE, "size")
        checks.check_members(self.members, "members")
        checks.check_range(self.device_cpu, 0.0, 1.0, "device_cpu")
        checks.check_seconds(self.rtt_seconds, "rtt_seconds")
        if len(self.probes) > checks.MAX_PROBES:
            raise InvalidRequest(f"{len(self.probes)} probes; at most {checks.MAX_PROBES}")
        for node_id, seconds in self.probes:
            check_id(node_id, "probes.node_id")
            checks.check_seconds(seconds, "probes.rtt_seconds")


@dataclass(frozen=True, slots=True)
class EdgeAttempt:
    """What one edge made of a request: steps ``start <= i < stop`` reached the device.

    node_id: empty if the edge never answered. error: status name of the failure, empty if the edge
    did its part; reason: of the failure, one line.
    """

    node_id: str
    address: str
    start: int
    stop: int
    error: str = ""
    reason: str = ""

    def __post_init__(self) -> None:
        checks.check_optional_id(self.node_id, "attempts.node_id")
        check_id(self.address, "attempts.address", MAX_ADDRESS_CHARS)
        if not 0 <= self.start <= self.stop <= MAX_STEPS:
            raise InvalidRequest(f"attempts: {self.start}..{self.stop} is not a stretch of steps")
        checks.check_status_name(self.error)
        checks.check_reason(self.reason)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request went. Times in seconds; quality 0 to 1 or None if nobody scored the picture.

    attempts: the edges tried, in order.
    """

    ok: bool
    arm: str = ""
    total_seconds: float = 0.0
    edge_seconds: float = 0.0
    device_seconds: float = 0.0
    bytes_sent: int = 0
    bytes_received: int = 0
    quality: float | None = None
    error: str = ""
    attempts: tuple[EdgeAttempt, ...] = ()

    def __post_init__(self) -> None:
        if self.arm:
            Arm.parse(check_id(self.arm, "arm", 255))
        for name in ("total_seconds", "edge_seconds", "device_seconds"):
            checks.check_seconds(getattr(self, name), name)
        for name in ("bytes_sent", "bytes_received"):
            checks.check_range(getattr(self, name), 0, checks.MAX_BYTES, name)
        if self.quality is not None:
            checks.check_range(self.quality, 0.0, 1.0, "quality")
        checks.check_status_name(self.error)
        if self.ok and self.total_seconds <= 0.0:
            raise InvalidRequest("total_seconds must be positive for a request that succeeded")
        if len(self.attempts) > MAX_ATTEMPTS:
            raise InvalidRequest(f"{len(self.attempts)} attempts; at most {MAX_ATTEMPTS}")

    @property
    def withdrawn(self) -> bool:
        """The caller gave the request up, which says nothing about its arm."""
        return not self.ok and self.error == Cancelled.status


@dataclass(frozen=True, slots=True)
class ArmScore:
    """One arm at one decision: estimated reward, confidence width, or why it was not feasible."""

    arm: str
    feasible: bool
    estimate: float = 0.0
    bonus: float = 0.0
    reason: str = ""

    @property
    def bound(self) -> float:
        """Upper confidence bound of the reward."""
        return self.estimate + self.bonus


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """A decision with everything that it was taken on, and what became of it.

    propensity: probability with which the arm was drawn. explored: it came from the exploration
    floor. context: the vector named by ``context.FEATURES``. edges: best first; rejected: the
    others, each with the reason. owner: the authenticated device that asked.
    """

    decision_id: str
    request_id: str
    created_unix: float
    family: str
    preference: Preference
    arm: str
    propensity: float
    explored: bool
    context: tuple[float, ...]
    scores: tuple[ArmScore, ...] = ()
    edges: tuple[EdgeChoice, ...] = ()
    rejected: tuple[EdgeChoice, ...] = ()
    reason: str = ""
    state: DecisionState = "pending"
    reward: float | None = None
    outcome: Outcome | None = None
    owner: str = ""


@dataclass(frozen=True, slots=True)
class NodeView:
    """A registered edge as the operator sees it."""

    registration: Registration
    load: NodeLoad
    state: NodeState
    seconds_since_heartbeat: float


@dataclass(frozen=True, slots=True)
class ArmStats:
    """What is known about one arm of one family."""

    family: str
    arm: str
    pulls: int
    rewards: int
    mean_reward: float
    pending: int
