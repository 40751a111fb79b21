"""The arms that one device can name, and what it accepts of those that others name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from baton.common.arm import Arm
from baton.common.decision import Decision
from baton.common.errors import ExecutionFailed, Incompatible, InvalidRequest, UnknownName
from baton.common.families.manifest import Manifest
from baton.common.limits import check_fraction
from baton.common.request import GenerationRequest, Preference

DEFAULT_FRACTION = 0.4
_PREFERENCES: dict[str, Preference] = {"device": "speed", "relay": "balanced", "edge": "quality"}


@dataclass(frozen=True)
class ArmNames:
    """Expands the short names of arms (``device``, ``edge``, ``relay@0.4``) for one device.

    Where the caller leaves the steps open, ``device``, ``edge`` and ``relay`` are the family's own
    arms for speed, quality and both, if it has such.
    """

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

    def own(self, preference: Preference) -> Arm | None:
        """What the family draws for a preference, if this device holds its part of it."""
        arm = self.manifest.own_arms.get(preference)
        if arm is None or not set(arm.members_on("device")) <= set(self.device_members):
            return None
        return arm

    def resolve(self, name: str, any_steps: bool = False) -> Arm:
        """any_steps: whether the arm may bring its own.

        Raises UnknownName for a name that is no arm or has no such member.
        """
        kind, _, fraction = name.partition("@")
        if any_steps and (own := self._own_called(name)):
            return own
        if name == "device":
            return Arm.device(self._own)
        if name == "edge":
            return Arm.edge(self.largest)
        if kind == "relay" and ":" not in name:
            return Arm.relay(self.largest, self._own, self._fraction(fraction, name))
        try:
            arm = Arm.parse(name)
        except UnknownName as error:
            raise UnknownName(
                f"{error}; or use device, edge, relay@FRACTION (for instance relay@0.4)"
            ) from error
        for member in arm.members:
            self.manifest.check_member(member)
        return arm

    def requested(self, request: GenerationRequest) -> Arm | None:
        """The arm that a caller names, if it names one.

        Raises as `resolve`, and InvalidRequest if both the arm and the caller say the steps.
        """
        if request.arm is None:
            return None
        arm = self.resolve(request.arm, request.any_steps)
        if request.steps is not None and arm.steps is not None:
            raise InvalidRequest(f"arm {arm} says its steps itself; leave --steps out")
        return arm

    def check(
        self, decision: Decision, requested_arm: Arm | None, request: GenerationRequest
    ) -> Decision:
        """A coordinator's decision. Raises ExecutionFailed for one that cannot be carried out."""
        arm = decision.arm
        own = arm.members_on("device")
        if not set(arm.members) <= self.manifest.members.keys():
            raise ExecutionFailed(f"the coordinator decided for {arm}, which this family lacks")
        if not set(own) <= set(self.device_members):
            raise ExecutionFailed(f"the coordinator decided for {arm}, not held here")
        if requested_arm is not None and arm != requested_arm:
            raise ExecutionFailed(f"the coordinator decided for {arm} in place of {requested_arm}")
        if requested_arm is None and arm.steps is not None and not request.any_steps:
            raise ExecutionFailed(f"the coordinator decided for {arm}, with other steps than asked")
        return decision

    def _own_called(self, name: str) -> Arm | None:
        """The family's arm by a short name, if it runs where the name says."""
        preference = _PREFERENCES.get(name)
        arm = self.own(preference) if preference else None
        places = {stretch.location for stretch in arm.stretches} if arm else set()
        return arm if name == "relay" or places == {name} else None

    def _fraction(self, text: str, name: str) -> float:
        if not text:
            return DEFAULT_FRACTION
        try:
            return check_fraction(float(text))
        except ValueError as error:
            raise UnknownName(
                f"unknown arm {name[:64]!r}: a relay fraction lies between 0 and 1"
            ) from error
