"""Settings of a device."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field

from baton.common.config import UserPath, default_state_folder
from baton.common.families.manifest import Manifest
from baton.common.guidance import check_budget
from baton.common.latents import Codec
from baton.common.limits import Accel
from baton.common.rpc.access import ClientAccess


class DeviceSettings(ClientAccess):
    """``[device]`` in the settings file, ``BATON_DEVICE_*`` in the environment, flags."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    family: str = "scenes"
    #: Members that the device holds, comma-separated; the first one finishes relays. Left out, as
    #: the family has it for devices; empty: none.
    members: str | None = None
    #: The coordinator to ask, ``host:port``; empty decides alone.
    coordinator: str = ""
    #: Edges to use without a coordinator, comma-separated, best first.
    edges: str = ""
    codec: Codec = Codec.FP16
    #: How steps may be made cheaper: none, propagate (the encoder's output is reused), masks
    #: (learned block masks) or full (both); left out, as the family has it.
    accel: Accel | None = None
    #: What guidance a busy edge may leave out: none, or from which share of the steps on, and at
    #: how many in a row (0.6:1); left out, as the family has it.
    guidance_budget: Annotated[str, AfterValidator(check_budget)] | None = None
    #: Steps between two checkpoints from the edge.
    checkpoint_every: int = Field(default=5, ge=0, le=200)
    #: Threads of the model; 0 leaves torch's default. More than one wait for one another wherever
    #: anything else wants a core, and gain nothing with small models.
    threads: int = Field(default=1, ge=0, le=512)
    #: Seconds that an edge may take for its part.
    edge_timeout: float = Field(default=300.0, gt=0, allow_inf_nan=False)
    #: Seconds that an edge at work may take for each step; one that takes longer is given up.
    stall_timeout: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    #: Seconds for an edge's first answer, and for that to a device whose connection broke; an edge
    #: that takes longer is passed over, and 0 seeks no request again.
    connect_timeout: float = Field(default=5.0, gt=0, allow_inf_nan=False)
    reattach_timeout: float = Field(default=0.8, ge=0, allow_inf_nan=False)
    #: Seconds of silence after which an edge is pinged, and for its answer.
    keepalive_time: float = Field(default=20.0, ge=0.1, le=7200)
    keepalive_timeout: float = Field(default=5.0, ge=0.1, le=7200)
    #: Seconds for the coordinator's answer; after that the device decides alone.
    coordinator_timeout: float = Field(default=1.5, gt=0, allow_inf_nan=False)

    #: Newest requests that the journal keeps, without their prompts, for `baton explain`; 0: none.
    journal_requests: int = Field(default=500, ge=0, le=100_000)

    #: Where the journal, and tickets for a time without a coordinator, are kept; None: in memory.
    state_folder: UserPath | None = Field(
        default_factory=lambda: default_state_folder("state_folder")
    )

    def held(self, manifest: Manifest) -> list[str]:
        """Members of the family that the device holds."""
        if self.members is None:
            return list(manifest.for_devices)
        return split_list(self.members)

    @property
    def edge_list(self) -> list[str]:
        return split_list(self.edges)


def split_list(text: str) -> list[str]:
    """``a, b`` to ``["a", "b"]``."""
    return [item.strip() for item in text.split(",") if item.strip()]
