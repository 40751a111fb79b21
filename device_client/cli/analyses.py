"""What ``baton analyze`` measures: blocks, a grid of levels, or how far members part."""

from __future__ import annotations

from collections.abc import Callable

from baton.common.errors import InvalidRequest
from baton.common.tooling.analysis import AnalyzeRequest
from baton.device_client.cli import analyzing, diverging, spacing
from baton.device_client.settings import DeviceSettings

Analyze = Callable[[DeviceSettings, AnalyzeRequest, bool], None]


def chosen(spaced: bool, diverged: bool) -> Analyze:
    """Raises InvalidRequest for both at once."""
    if spaced and diverged:
        raise InvalidRequest("--spacing and --divergence are two analyses; ask for one")
    if spaced:
        return spacing.find
    return diverging.diverge if diverged else analyzing.analyze
