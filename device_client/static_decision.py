"""Where to hand over without a coordinator: the caller's request, or a static default."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from baton.common.arm import Arm
from baton.common.decision import Decision, EdgeChoice
from baton.common.errors import Incompatible
from baton.common.request import GenerationRequest
from baton.device_client.arm_names import DEFAULT_FRACTION, ArmNames

_STATIC = "static-"


def is_static(decision_id: str) -> bool:
    """Whether the device decided alone; no coordinator knows such a decision."""
    return decision_id.startswith(_STATIC)


def static_decision(
    names: ArmNames, request: GenerationRequest, edges: Sequence[str], fallback: bool = False
) -> Decision:
    """The decision without a coordinator: the arm asked for, else the family's own, or a relay.

    Raises UnknownName for an unknown arm, Incompatible for one that needs an edge where none is
    known, unless the device may draw in its place (``fallback``).
    """
    preference, asked = request.preference, names.requested(request)

    def called(name: str) -> Arm:
        return names.resolve(name, request.any_steps)

    if asked is not None:
        arm, reason = asked, "asked for"
    elif edges and not names.device_members:
        arm, reason = called("edge"), "this device holds no member"
    elif not edges:
        arm, reason = called("device"), "no coordinator and no edge are known"
    elif request.any_steps and (own := names.own(preference)):
        arm, reason = own, f"the family's own for {preference}"
    elif preference == "speed":
        arm, reason = called("device"), "fastest"
    elif preference == "quality":
        arm, reason = called("edge"), "best quality"
    else:
        arm, reason = names.resolve(f"relay@{DEFAULT_FRACTION}"), "static default"
    if arm.members_on("edge") and not (edges or fallback):
        raise Incompatible(f"arm {arm} needs an edge; name one with --edge HOST:PORT")
    choices = tuple(EdgeChoice(address, address, "configured") for address in edges)
    decision_id = f"{_STATIC}{uuid.uuid4().hex[:12]}"
    return Decision(decision_id, arm, choices if arm.members_on("edge") else (), reason)
