"""Settings of an edge node."""

from __future__ import annotations

import platform

from pydantic import BaseModel, ConfigDict, Field

DEFAULT_PORT = 7701


class EdgeSettings(BaseModel):
    """``[edge]`` in the settings file, ``BATON_EDGE_*`` in the environment, flags of ``serve``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = "127.0.0.1"
    port: int = Field(default=DEFAULT_PORT, ge=0, le=65535)
    node_id: str = Field(default_factory=lambda: f"edge-{platform.node() or 'local'}")
    #: Where devices reach this node; the bound address if empty.
    advertise: str = ""
    #: The coordinator to join, ``host:port``; empty stands alone.
    coordinator: str = ""
    family: str = "scenes"
    #: Members to load, comma-separated; empty loads all.
    members: str = ""
    #: Requests denoised together; the others wait.
    max_active: int = Field(default=16, ge=1, le=256)
    #: Rows in one model call; a guided request takes two.
    max_rows: int = Field(default=16, ge=2, le=512)
    #: Requests that may wait for a place.
    max_queue: int = Field(default=64, ge=0, le=10_000)
    #: Threads of the model; 0 leaves torch's default.
    threads: int = Field(default=0, ge=0, le=512)
    #: Seconds for which a finished result is kept under its request id.
    result_ttl: float = Field(default=120.0, ge=0)
    #: Seconds for which a request goes on after its last listener left.
    linger: float = Field(default=10.0, ge=0)
    #: Seconds that running requests get to end after SIGTERM.
    drain_grace: float = Field(default=30.0, ge=0)
    insecure: bool = False

    @property
    def member_list(self) -> list[str] | None:
        names = [name.strip() for name in self.members.split(",") if name.strip()]
        return names or None

    @property
    def capacity(self) -> int:
        """Requests that the node holds at once, running or waiting."""
        return self.max_active + self.max_queue
