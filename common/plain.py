"""Values as what JSON can hold: objects of their fields, an arm as its text."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from baton.common.arm import Arm


def plain(value: object) -> dict[str, Any]:
    """The fields of a dataclass, and of those within."""
    return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}  # type: ignore[arg-type]


def _plain(value: object) -> object:
    if isinstance(value, Arm):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return plain(value) if hasattr(value, "__dataclass_fields__") else value
