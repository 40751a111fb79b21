"""What a generation tells while it runs."""

from __future__ import annotations

from dataclasses import dataclass

from common.plan import Decision, Location, Plan
from device_client.result import Result


@dataclass(frozen=True)
class Decided:
    """Where the steps will run, and who said so."""

    decision: Decision
    plan: Plan


@dataclass(frozen=True)
class Stepped:
    """``step`` of ``steps`` are done; the last one ran there."""

    step: int
    steps: int
    location: Location
    member: str


@dataclass(frozen=True)
class HandedOver:
    """The latent came over at this step, in so many bytes."""

    step: int
    size: int


@dataclass(frozen=True)
class EdgeLost:
    """An edge did not do its part; the request goes on from ``resume_step``."""

    address: str
    reason: str
    resume_step: int


@dataclass(frozen=True)
class Reattached:
    """The connection to an edge broke and the request was found again there, still in progress.

    step: the newest whose latent is here.
    """

    address: str
    reason: str
    step: int


@dataclass(frozen=True)
class Finished:
    result: Result


Event = Decided | Stepped | HandedOver | EdgeLost | Reattached | Finished
