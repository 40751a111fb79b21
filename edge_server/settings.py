"""Settings of an edge node."""

from __future__ import annotations

import contextlib
import platform
import re
import secrets
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field, field_validator

from baton.common.config import UserPath, default_state_folder
from baton.common.limits import MAX_ROWS
from baton.common.naming import check_address, check_node_id
from baton.common.rpc.access import ClientAccess, ServerAccess
from baton.edge_server.name import Wanted

DEFAULT_PORT = 7701
#: Of a call, where nobody says; also the most that ``auto`` chooses of.
AUTO_ROWS = 16


def _new_node_id() -> str:
    """After the host, so that people know it, and unique."""
    host = re.sub(r"[^A-Za-z0-9.-]", "-", platform.node())[:64]
    return f"edge-{host or 'local'}-{secrets.token_hex(4)}"


def _rows(value: object) -> int | str:
    """Also from the environment, where all is text."""
    if value == "auto":
        return "auto"
    with contextlib.suppress(TypeError, ValueError):
        rows = int(str(value))
        if 2 <= rows <= MAX_ROWS:
            return rows
    raise ValueError(f"must be 2 to {MAX_ROWS}, or auto")


class EdgeSettings(ServerAccess, ClientAccess):
    """``[edge]`` in the settings file, ``BATON_EDGE_*`` in the environment, flags of ``serve``.

    An edge shows its certificate to devices and, if asked, to its coordinator.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = "127.0.0.1"
    port: int = Field(default=DEFAULT_PORT, ge=0, le=65535)
    #: If nobody says, the id that lies in the state folder, or this one, for later runs, too.
    node_id: str = Field(default_factory=_new_node_id)
    #: Where each running edge keeps its id, and the secret that proves it to the coordinator; None:
    #: in memory, so that an edge that starts again is another one.
    state_folder: UserPath | None = Field(
        default_factory=lambda: default_state_folder("state_folder")
    )
    #: Where devices reach this node; the bound address if empty.
    advertise: str = ""
    #: The coordinator to join, ``host:port``; empty stands alone.
    coordinator: str = ""
    family: str = "scenes"
    #: Members to load, comma-separated; empty loads all.
    members: str = ""
    #: Requests denoised together; the others wait.
    max_active: int = Field(default=16, ge=1, le=256)
    #: Rows in one model call; a guided request takes two. ``auto``: those from which on more gain
    #: nothing, as measured ahead.
    max_rows: Annotated[int | Literal["auto"], BeforeValidator(_rows)] = AUTO_ROWS
    #: Whether to look for a profile of this machine (`baton-edge profile`), and to measure a quick
    #: one at the start where there is none.
    profile: Literal["auto", "off"] = "auto"
    #: MiB of block outputs that requests may keep between their steps, all together; one that
    #: wants more alone runs in full.
    cache_mib: int = Field(default=1024, ge=0, le=1 << 20)
    #: MiB that the blocks of one model call may put out at a time; of larger pictures fewer rows
    #: run together, one at least.
    activation_mib: int = Field(default=8192, ge=1, le=1 << 20)
    #: Requests that may wait for a place.
    max_queue: int = Field(default=64, ge=0, le=10_000)
    #: Threads of the model; 0 leaves torch's default. More than one wait for one another wherever
    #: anything else wants a core, and gain nothing with small models.
    threads: int = Field(default=1, ge=0, le=512)
    #: Whether pictures are decoded on a thread, and a core, of their own, beside the calls that
    #: denoise. On a CUDA device they have a stream in any case.
    decode_lane: bool = False
    #: Whether a growing queue makes the edge skip guidance, within the budget that each request
    #: brings, then cut decodings finer, then plan for throughput alone; as it shrinks, all of it
    #: is undone.
    adapt: bool = True
    #: Share of its steps before which no request skips guidance, whatever its budget; 1: none does.
    skip_floor: float = Field(default=0.5, ge=0, le=1)
    #: Seconds for which a finished result is kept under its request id.
    result_ttl: float = Field(default=120.0, ge=0)
    #: Finished results that are kept at most, and their bytes in all.
    result_count: int = Field(default=256, ge=0)
    result_bytes: int = Field(default=64 << 20, ge=0)
    #: Seconds for which a request goes on after its last listener left.
    linger: float = Field(default=10.0, ge=0)
    #: Seconds for which a listener may take nothing before its stream is ended.
    reader_patience: float = Field(default=30.0, gt=0)
    #: Seconds of silence after which a device is pinged, and for its answer.
    keepalive_time: float = Field(default=20.0, ge=0.1, le=7200)
    keepalive_timeout: float = Field(default=5.0, ge=0.1, le=7200)
    #: Seconds between a device's pings below which its connection is closed.
    keepalive_min_interval: float = Field(default=0.5, ge=0, le=7200)
    #: Where Prometheus finds this node's metrics, over HTTP, without a password; None: nowhere.
    #: They hold no prompt and no name of a caller.
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    metrics_host: str = "127.0.0.1"
    #: Seconds that running requests get to end after SIGTERM; those that do not are sent on with
    #: their newest step.
    drain_grace: float = Field(default=30.0, ge=0)
    #: Whether a request needs a ticket; one that comes along must be valid in any case.
    tickets: Literal["optional", "required"] = "optional"
    #: PEM files with public keys whose tickets count, beside those that the coordinator names;
    #: comma-separated.
    ticket_keys: str = ""

    @field_validator("node_id")
    @classmethod
    def _check_node_id(cls, name: str) -> str:
        return check_node_id(name)

    @field_validator("advertise", "coordinator")
    @classmethod
    def _check_address(cls, address: str) -> str:
        return check_address(address) if address else address

    @property
    def names_folder(self) -> Path | None:
        return None if self.state_folder is None else self.state_folder / "edges"

    @property
    def profiles_folder(self) -> Path | None:
        return None if self.state_folder is None else self.state_folder / "profiles"

    @property
    def rows_limit(self) -> int:
        """Of a call, and up to which a profile measures."""
        return AUTO_ROWS if self.max_rows == "auto" else self.max_rows

    @property
    def wanted_name(self) -> Wanted:
        return Wanted(self.node_id, "node_id" in self.model_fields_set, self.port)

    @property
    def ticket_key_paths(self) -> list[Path]:
        return [Path(name.strip()) for name in self.ticket_keys.split(",") if name.strip()]

    @property
    def member_list(self) -> list[str] | None:
        names = [name.strip() for name in self.members.split(",") if name.strip()]
        return names or None

    @property
    def capacity(self) -> int:
        """Requests that the node holds at once, running or waiting."""
        return self.max_active + self.max_queue
