"""The device: draws pictures alone, with an edge, or lets an edge draw them.

    from baton import Client

    result = Client(edges=["127.0.0.1:7701"]).generate("a red cat left of a blue house")
    result.save("cat.png")

The names below are imported on first use, so that a command line answers without loading a model
library.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from baton.device_client.events import Decided, EdgeLost, Event, Finished, HandedOver, Stepped
    from baton.device_client.replaying import Replay, replay, replay_provenance
    from baton.device_client.result import Result
    from baton.device_client.sdk import AsyncClient, Client
    from baton.device_client.settings import DeviceSettings

_HOMES = {
    "AsyncClient": "sdk",
    "Client": "sdk",
    "Decided": "events",
    "DeviceSettings": "settings",
    "EdgeLost": "events",
    "Event": "events",
    "Finished": "events",
    "HandedOver": "events",
    "Replay": "replaying",
    "Result": "result",
    "Stepped": "events",
    "replay": "replaying",
    "replay_provenance": "replaying",
}

__all__ = [
    "AsyncClient",
    "Client",
    "Decided",
    "DeviceSettings",
    "EdgeLost",
    "Event",
    "Finished",
    "HandedOver",
    "Replay",
    "Result",
    "Stepped",
    "replay",
    "replay_provenance",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
