"""A process without torch, in which command lines can only do what needs no model."""

from __future__ import annotations

import importlib
import sys

_MODULES = {
    "baton": "baton.device_client.cli.main",
    "baton-coordinator": "baton.coordinator.cli",
    "baton-edge": "baton.edge_server.cli",
}


def main() -> None:
    """Run the command line that the arguments begin with; importing torch is an ImportError."""
    sys.modules["torch"] = None  # type: ignore[assignment]
    sys.argv = sys.argv[1:]
    importlib.import_module(_MODULES[sys.argv[0]]).main()
