"""Text-to-image diffusion split between edge servers and user devices.

    from baton import Client

    result = Client(edges=["127.0.0.1:7701"]).generate("a red cat left of a blue house")
    result.save("cat.png")

The names of `baton.device_client` are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from baton.device_client import *  # noqa: F403


def __getattr__(name: str) -> object:
    home = import_module("baton.device_client")
    if name not in home.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(home, name)
