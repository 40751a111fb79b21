"""What a generation tells while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from baton.common.decision import Decision
from baton.common.limits import Location
from baton.common.plan import OpenPlan
from baton.device_client.result import Result


@dataclass(frozen=True)
class OfPicture:
    """request_id: the picture's, for whoever draws several; it is no part of what happened."""

    request_id: str = field(default="", compare=False, kw_only=True)


@dataclass(frozen=True)
class Decided(OfPicture):
    """Where the steps will run, and who said so."""

    decision: Decision
    plan: OpenPlan


@dataclass(frozen=True)
class Stepped(OfPicture):
    """``step`` of ``steps`` are done; the last one ran there."""

    step: int
    steps: int
    location: Location
    member: str


@dataclass(frozen=True)
class Queued(OfPicture):
    """The request waits at an edge, with so many before it; told every second until it begins."""

    address: str
    position: int


@dataclass(frozen=True)
class HandedOver(OfPicture):
    """The latent came over at this step, in so many bytes."""

    step: int
    size: int


@dataclass(frozen=True)
class EdgeLost(OfPicture):
    """An edge failed or left before its part was done; the request goes on from ``resume_step``."""

    address: str
    reason: str
    resume_step: int


@dataclass(frozen=True)
class Reattached(OfPicture):
    """The connection to an edge broke and the request was found again there, still in progress.

    step: the newest whose latent is here.
    """

    address: str
    reason: str
    step: int


@dataclass(frozen=True)
class Finished(OfPicture):
    result: Result


Event = Decided | Queued | Stepped | HandedOver | EdgeLost | Reattached | Finished
