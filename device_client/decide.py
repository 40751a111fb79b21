"""Where to hand over: the coordinator's word, the caller's request, or a static default."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from baton.common.errors import ExecutionFailed, Incompatible, UnknownName
from baton.common.families.manifest import Manifest
from baton.common.plan import Arm, Decision, EdgeChoice, check_fraction
from baton.common.request import Preference

_DEFAULT_FRACTION = 0.4
_STATIC = "static-"


def is_static(decision_id: str) -> bool:
    """Whether the device decided alone; no coordinator knows such a decision."""
    return decision_id.startswith(_STATIC)


@dataclass(frozen=True)
class ArmNames:
    """Expands the short names of arms (``device``, ``edge``, ``relay@0.4``) for one device."""

    manifest: Manifest
    device_members: Sequence[str]

    @property
    def largest(self) -> str:
        """The family's largest member: what an edge is for."""
        return next(iter(self.manifest.members))

    @property
    def _own(self) -> str:
        """The member that finishes relays here."""
        if not self.device_members:
            raise Incompatible("this device holds no member; use --arm edge")
        return self.device_members[0]

    def resolve(self, name: str) -> Arm:
        """Raises UnknownName for a name that is no arm or has no such member."""
        kind, _, fraction = name.partition("@")
        if name == "device":
            return Arm("device", (self._own,), 0.0)
        if name == "edge":
            return Arm("edge", (self.largest,), 1.0)
        if kind == "relay":
            return Arm("relay", (self.largest, self._own), self._fraction(fraction, name))
        try:
            arm = Arm.parse(name)
        except UnknownName as error:
            raise UnknownName(
                f"unknown arm {name[:64]!r}; use device, edge, relay@FRACTION (for instance"
                " relay@0.4) or a full name as in `baton-coordinator arms`"
            ) from error
        for member in arm.members:
            self.manifest.check_member(member)
        return arm

    def check(self, decision: Decision, requested_arm: Arm | None) -> Decision:
        """A coordinator's decision. Raises ExecutionFailed for one that cannot be carried out."""
        arm = decision.arm
        own = arm.members[-1:] if arm.kind != "edge" else ()
        if not set(arm.members) <= self.manifest.members.keys():
            raise ExecutionFailed(f"the coordinator decided for {arm.name}, which is not to be had")
        if not set(own) <= set(self.device_members):
            raise ExecutionFailed(f"the coordinator decided for {arm.name}, not held here")
        if requested_arm is not None and arm != requested_arm:
            raise ExecutionFailed(
                f"the coordinator decided for {arm.name} in place of {requested_arm.name}"
            )
        return decision

    def _fraction(self, text: str, name: str) -> float:
        if not text:
            return _DEFAULT_FRACTION
        try:
            return check_fraction(float(text))
        except ValueError as error:
            raise UnknownName(
                f"unknown arm {name[:64]!r}: a relay fraction lies between 0 and 1"
            ) from error


def static_decision(
    names: ArmNames,
    requested_arm: str | None,
    preference: Preference,
    edges: Sequence[str],
    fallback: bool = False,
) -> Decision:
    """The decision without a coordinator: the arm asked for, else a relay unless extreme ones win.

    Raises UnknownName for an unknown arm, Incompatible for one that needs an edge where none is
    known, unless the device may draw in its place (``fallback``).
    """
    if requested_arm is not None:
        arm, reason = names.resolve(requested_arm), "asked for"
    elif edges and not names.device_members:
        arm, reason = names.resolve("edge"), "this device holds no member"
    elif not edges or preference == "speed":
        arm = names.resolve("device")
        reason = "fastest" if edges else "no coordinator and no edge are known"
    elif preference == "quality":
        arm, reason = names.resolve("edge"), "best quality"
    else:
        arm, reason = names.resolve(f"relay@{_DEFAULT_FRACTION}"), "static default"
    if arm.kind != "device" and not (edges or fallback):
        raise Incompatible(f"arm {arm.name} needs an edge; name one with --edge HOST:PORT")
    choices = tuple(EdgeChoice(address, address, "configured") for address in edges)
    decision_id = f"{_STATIC}{uuid.uuid4().hex[:12]}"
    return Decision(decision_id, arm, choices if arm.kind != "device" else (), reason)
