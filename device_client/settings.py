"""Settings of a device."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from common.latents import Codec


class DeviceSettings(BaseModel):
    """``[device]`` in the settings file, ``BATON_DEVICE_*`` in the environment, flags."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    family: str = "scenes"
    #: Members that the device holds, comma-separated; the first one finishes relays.
    members: str = "small"
    #: The coordinator to ask, ``host:port``; empty decides alone.
    coordinator: str = ""
    #: Edges to use without a coordinator, comma-separated, best first.
    edges: str = ""
    codec: Codec = Codec.FP16
    #: Steps between two checkpoints from the edge.
    checkpoint_every: int = Field(default=5, ge=0, le=200)
    #: Threads of the model; 0 leaves torch's default.
    threads: int = Field(default=0, ge=0, le=512)
    #: Seconds that an edge may take for its part.
    edge_timeout: float = Field(default=300.0, gt=0, allow_inf_nan=False)
    #: Seconds for the coordinator's answer; after that the device decides alone.
    coordinator_timeout: float = Field(default=2.0, gt=0, allow_inf_nan=False)

    @property
    def member_list(self) -> list[str]:
        return split_list(self.members)

    @property
    def edge_list(self) -> list[str]:
        return split_list(self.edges)


def split_list(text: str) -> list[str]:
    """``a, b`` to ``["a", "b"]``."""
    return [item.strip() for item in text.split(",") if item.strip()]
