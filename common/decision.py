"""The answer to "where should this run": an arm and the edges that may serve it."""

from __future__ import annotations

from dataclasses import dataclass, field

from baton.common.arm import Arm


@dataclass(frozen=True, slots=True)
class EdgeChoice:
    """An edge that may run the edge's part, with the reason for its rank."""

    node_id: str
    address: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """The coordinator's answer: an arm and, best first, the edges that may serve it.

    ticket: admits the request to those edges; empty if there is none.
    """

    decision_id: str
    arm: Arm
    edges: tuple[EdgeChoice, ...]
    reason: str = ""
    ticket: str = field(default="", repr=False)
