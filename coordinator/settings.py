"""Settings of a coordinator: strict and frozen."""

from __future__ import annotations

from pathlib import Path

from pydantic import ConfigDict, Field

from baton.common.config import UserPath, default_state_folder
from baton.common.rpc.access import ServerAccess

DEFAULT_PORT = 7700


#: A database that ends with its process, as SQLite names it.
IN_MEMORY = Path(":memory:")


def _default_database() -> Path:
    folder = default_state_folder("--db")
    return IN_MEMORY if folder is None else folder / "coordinator.db"


class Settings(ServerAccess):
    """Where to listen, where to keep what was learned, and how to learn.

    exploration: share of decisions drawn uniformly, which bounds every propensity from below.
    alpha: width of the confidence bound, near the standard deviation of a reward at one context.
    ridge_lambda: weight of the prior, in observations.
    weight_*: weight of quality against speed under each preference.
    latency_half_seconds: the time at which a request's speed counts as 0.5.
    ticket_key: PEM file of the Ed25519 key that signs tickets; None keeps one beside the database.
    ticket_seconds: for which a ticket is good.
    seed: of the random choices; None draws one from the operating system.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = "127.0.0.1"
    port: int = Field(default=DEFAULT_PORT, ge=0, le=65535)
    db: UserPath = Field(default_factory=_default_database)
    lease_seconds: float = Field(default=15.0, gt=0.0, le=3600.0, allow_inf_nan=False)
    decision_expiry_seconds: float = Field(default=900.0, gt=0.0, le=86_400.0, allow_inf_nan=False)
    sweep_seconds: float = Field(default=1.0, gt=0.0, le=60.0, allow_inf_nan=False)
    grace_seconds: float = Field(default=5.0, ge=0.0, le=60.0, allow_inf_nan=False)
    exploration: float = Field(default=0.03, ge=0.0, le=1.0, allow_inf_nan=False)
    alpha: float = Field(default=0.1, ge=0.0, le=100.0, allow_inf_nan=False)
    ridge_lambda: float = Field(default=1.0, gt=0.0, le=1e6, allow_inf_nan=False)
    latency_half_seconds: float = Field(default=5.0, gt=0.0, le=3600.0, allow_inf_nan=False)
    weight_quality: float = Field(default=0.8, ge=0.0, le=1.0, allow_inf_nan=False)
    weight_balanced: float = Field(default=0.5, ge=0.0, le=1.0, allow_inf_nan=False)
    weight_speed: float = Field(default=0.2, ge=0.0, le=1.0, allow_inf_nan=False)
    ticket_key: UserPath | None = None
    ticket_seconds: float = Field(default=600.0, ge=1.0, le=86_400.0, allow_inf_nan=False)
    seed: int | None = Field(default=None, ge=0)
